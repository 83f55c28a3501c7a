//! A model of iOS's `URLSession`, from its requests and reactions as observed on the wire: the
//! requests of each release, the handling of a lost connection, and the conditions of a new start.
//!
//! 1. The app's own request goes out with the completeness field and the version of the release.
//! 2. A 104 of that version with a `Location` makes the upload resumable; without one, the upload
//!    starts again after a lost connection.
//! 3. After a loss, `HEAD` with all of the app's fields asks for the offset. After 404 and 410 the
//!    upload starts again.
//! 4. One `PATCH` with the app's fields sends all remaining bytes. Its answer is the app's answer.
//!
//! When `HEAD` reports that the upload is complete, only its answer was lost. In the drafts of
//! these versions no client may append then, so the app gets the answer to `HEAD`; the behaviour of
//! the real `URLSession` has not been observed.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use crate::{Client, Head, Request, Response};

/// Longest wait for any step before this model gives up a connection. The real one waits a minute.
const SILENCE: Duration = Duration::from_millis(400);
/// Maximum number of requests, more than any network needs that recovers.
const MAX_REQUESTS: u32 = 1000;

/// A release, by its version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// iOS 17 and macOS 14: interop 3.
    Ios17,
    /// iOS 18.0 and macOS 15.0: interop 5.
    Ios18,
    /// iOS 18.1 to 26 and macOS 15.1 to 26: interop 6.
    Ios26,
}

/// A connection over the tested network.
#[derive(Debug)]
pub struct Line {
    /// The connection.
    pub client: Client,
    /// Set if the body is so much slower than the network's answers that a 104 arrives before any
    /// of it is sent.
    pub is_slow: bool,
}

/// Result of an upload for the app.
#[derive(Debug)]
pub struct Delivered {
    /// The final answer: to the creation or the `PATCH`, or to the `HEAD` that found the upload
    /// complete.
    pub response: Response,
    /// Number of lost connections.
    pub losses: u32,
    /// Number of times that it could not resume and started again.
    pub restarts: u32,
    /// Requests and losses in order, for people.
    pub history: Vec<String>,
}

/// URL of an upload, and the offset that the server has reported.
struct Known {
    upload: String,
    offset: u64,
}

/// End of a request.
enum Outcome {
    Answered(Response),
    /// The connection was lost, after these interim responses.
    Lost(Vec<Head>),
}

impl Release {
    /// Every release.
    pub const ALL: [Self; 3] = [Self::Ios17, Self::Ios18, Self::Ios26];

    /// The number in `Upload-Draft-Interop-Version`.
    pub fn interop(self) -> &'static str {
        match self {
            Self::Ios17 => "3",
            Self::Ios18 => "5",
            Self::Ios26 => "6",
        }
    }

    /// Uploads as an upload task does, over the connections that `connect` opens. `request` is the
    /// app's own: method, target and fields.
    ///
    /// Panics if the server breaks a promise: an answer in another version, or a lower offset than
    /// before.
    pub async fn upload(
        self,
        request: &Request,
        body: &Bytes,
        mut connect: impl AsyncFnMut() -> io::Result<Line>,
    ) -> Delivered {
        let mut known: Option<Known> = None;
        let mut losses = 0;
        let mut restarts = 0;
        let mut history = Vec::new();
        for _ in 0..MAX_REQUESTS {
            let asked = match &mut known {
                None => None,
                Some(known) => {
                    let head = self.head(request, &known.upload);
                    match self.exchange(&mut connect, &head, &Bytes::new()).await {
                        Outcome::Lost(_) => {
                            history.push("HEAD: lost".to_owned());
                            losses += 1;
                            continue;
                        }
                        Outcome::Answered(head) if is_gone(head.status()) => {
                            restarts += 1;
                            None
                        }
                        Outcome::Answered(head) => {
                            let head = head.expect(204);
                            let offset = head.offset();
                            history.push(format!("HEAD: {offset}"));
                            assert!(known.offset <= offset, "an answered offset is durable");
                            known.offset = offset;
                            if self.is_complete(&head) {
                                return Delivered {
                                    response: head,
                                    losses,
                                    restarts,
                                    history,
                                };
                            }
                            Some((known.upload.clone(), offset))
                        }
                    }
                }
            };
            let outcome = match &asked {
                None => {
                    known = None;
                    let create = self.create(request);
                    self.exchange(&mut connect, &create, body).await
                }
                Some((upload, offset)) => {
                    let rest = usize::try_from(*offset).map(|offset| body.slice(offset..));
                    let append = self.append(request, upload, *offset);
                    let rest = rest.expect("an offset within the body");
                    self.exchange(&mut connect, &append, &rest).await
                }
            };
            match outcome {
                Outcome::Answered(response) if asked.is_some() && is_gone(response.status()) => {
                    known = None;
                    restarts += 1;
                }
                Outcome::Answered(response) => {
                    return Delivered {
                        response,
                        losses,
                        restarts,
                        history,
                    };
                }
                Outcome::Lost(interim) => {
                    losses += 1;
                    history.push(format!("upload: lost, {} interim", interim.len()));
                    if known.is_none() {
                        known = self.upload_in(&interim);
                        restarts += u32::from(known.is_none());
                    }
                }
            }
        }
        panic!("{self:?} gives up after {MAX_REQUESTS} requests: {losses} losses");
    }

    /// Returns the upload that the first 104 of this version names.
    fn upload_in(self, interim: &[Head]) -> Option<Known> {
        let first = interim.iter().find(|head| {
            head.status == 104
                && head.optional("upload-draft-interop-version") == Some(self.interop())
        })?;
        let upload = first.field("location").to_owned();
        Some(Known { upload, offset: 0 })
    }

    fn is_complete(self, head: &Response) -> bool {
        match self {
            Self::Ios17 => head.field("upload-incomplete") == "?0",
            Self::Ios18 | Self::Ios26 => head.field("upload-complete") == "?1",
        }
    }

    fn create(self, request: &Request) -> Request {
        self.completing(self.versioned(request.clone()))
    }

    fn head(self, request: &Request, upload: &str) -> Request {
        let head = Request {
            fields: request.fields.clone(),
            ..Request::head(upload)
        };
        let head = self.versioned(head);
        match self {
            Self::Ios17 => head,
            Self::Ios18 | Self::Ios26 => head.announcing(0),
        }
    }

    fn append(self, request: &Request, upload: &str, offset: u64) -> Request {
        let mut append = Request {
            fields: request.fields.clone(),
            ..Request::patch(upload)
        };
        if self == Self::Ios26 {
            append
                .fields
                .retain(|(name, _)| !name.eq_ignore_ascii_case("content-type"));
            append = append.field("Content-Type", "application/partial-upload");
        }
        self.completing(self.versioned(append))
            .field("Upload-Offset", offset)
    }

    fn versioned(self, request: Request) -> Request {
        request.field("Upload-Draft-Interop-Version", self.interop())
    }

    fn completing(self, request: Request) -> Request {
        match self {
            Self::Ios17 => request.field("Upload-Incomplete", "?0"),
            Self::Ios18 | Self::Ios26 => request.field("Upload-Complete", "?1"),
        }
    }

    /// Performs one request over a new connection. Only a `HEAD` has no body.
    async fn exchange(
        self,
        connect: &mut impl AsyncFnMut() -> io::Result<Line>,
        request: &Request,
        body: &Bytes,
    ) -> Outcome {
        // The network may lose the connection during its establishment.
        let Ok(Ok(mut line)) = timeout(SILENCE, connect()).await else {
            return Outcome::Lost(Vec::new());
        };
        let mut interim = Vec::new();
        let exchange = converse(&mut line, request, body, &mut interim);
        match timeout(SILENCE, exchange).await {
            Ok(Some(response)) => {
                let echo = response.optional("upload-draft-interop-version");
                assert_eq!(echo, Some(self.interop()), "{response:?}");
                Outcome::Answered(response)
            }
            // Retries at once, unlike the real one: bytes that this connection still carries may
            // arrive late.
            Ok(None) | Err(_) => {
                drop(line);
                Outcome::Lost(interim)
            }
        }
    }
}

/// Sends `request` with `body` and reads the answer; `None` if the connection is lost first. Cancel
/// safe as far as necessary: `interim` holds the responses that have arrived.
async fn converse(
    line: &mut Line,
    request: &Request,
    body: &Bytes,
    interim: &mut Vec<Head>,
) -> Option<Response> {
    let client = &mut line.client;
    let has_body = request.method != "HEAD";
    let mut request = request.clone();
    if has_body {
        request = request.announcing(u64::try_from(body.len()).expect("a length fits"));
    }
    client.begin(&request).await.ok()?;
    // Only a creation is certain to get an interim response.
    if line.is_slow && has_body && request.method != "PATCH" {
        interim.extend(client.interim().await);
    }
    if has_body && !body.is_empty() {
        // A server that has answered may stop reading; the answer counts.
        let sent = client.send(body).await.is_ok();
        if sent {
            let _ = client.finish().await;
        }
    }
    match client.response().await {
        Ok(response) => Some(response),
        Err(cut) => {
            // Includes those that were read before.
            *interim = cut.interim;
            None
        }
    }
}

fn is_gone(status: u16) -> bool {
    matches!(status, 404 | 410)
}
