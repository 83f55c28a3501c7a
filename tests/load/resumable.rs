//! Uploads over resumable protocols: tus for all peers, and for Longhaul also the IETF's (interop
//! 6).

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tests::{Request, Response, http1};

use crate::client::{self, Exchange, Outcome};
use crate::peers::{Kind, Peer};

const TUS: (&str, &str) = ("Tus-Resumable", "1.0.0");
const INTEROP: (&str, &str) = ("Upload-Draft-Interop-Version", "6");

/// Uploads of one turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) uploads: u64,
    /// Bytes of each upload.
    pub(crate) length: u64,
    pub(crate) requests: Requests,
    pub(crate) connections: usize,
}

/// Division of an upload into requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Requests {
    /// The creation carries the complete body.
    Creation,
    /// The creation is not measured, and each append carries this many bytes, except for the last.
    Appends(u64),
}

/// Protocol of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Tus,
    Ietf,
}

impl Way {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::LonghaulIetf => Self::Ietf,
            Kind::Longhaul | Kind::TusServer | Kind::Rustus | Kind::Nginx | Kind::Bare => Self::Tus,
        }
    }

    /// Returns a creation that carries the first `body` of `length` bytes.
    fn creation(self, length: u64, body: u64) -> Request {
        let request = Request::post("/files").announcing(body);
        match self {
            Self::Tus => {
                let request = request.field(TUS.0, TUS.1).field("Upload-Length", length);
                match body {
                    0 => request,
                    _ => request.field("Content-Type", "application/offset+octet-stream"),
                }
            }
            Self::Ietf => request
                .field(INTEROP.0, INTEROP.1)
                .field("Upload-Length", length)
                .field("Upload-Complete", boolean(body == length)),
        }
    }

    /// Returns an append of `body` bytes, and the status of its answer.
    fn append(self, upload: &str, offset: u64, body: u64, completes: bool) -> (Request, u16) {
        let request = Request::patch(upload)
            .announcing(body)
            .field("Upload-Offset", offset);
        match self {
            Self::Tus => (
                request
                    .field(TUS.0, TUS.1)
                    .field("Content-Type", "application/offset+octet-stream"),
                204,
            ),
            Self::Ietf => (
                request
                    .field(INTEROP.0, INTEROP.1)
                    .field("Content-Type", "application/partial-upload")
                    .field("Upload-Complete", boolean(completes)),
                201,
            ),
        }
    }
}

fn boolean(value: bool) -> &'static str {
    if value { "?1" } else { "?0" }
}

/// Performs one turn. Returns the outcome of the requests of `plan`, and the CPU time of the peer.
pub(crate) fn take_turn(peer: &Peer, plan: Plan) -> anyhow::Result<(Outcome, Duration)> {
    let way = Way::of(peer.kind);
    let mut uploads = Vec::new();
    let mut exchanges = VecDeque::new();
    for _ in 0..plan.uploads {
        match plan.requests {
            Requests::Creation => {
                let request = way.creation(plan.length, plan.length);
                exchanges.push_back(exchange(&request, plan.length, 201));
            }
            Requests::Appends(most) => {
                let created = ask(peer, &way.creation(plan.length, 0))?;
                ensure!(created.status() == 201, "{created:?}");
                let upload = target(created.field("location"));
                let mut offset = 0;
                while offset < plan.length {
                    let body = most.min(plan.length - offset);
                    let completes = offset + body == plan.length;
                    let (request, status) = way.append(&upload, offset, body, completes);
                    exchanges.push_back(exchange(&request, body, status));
                    offset += body;
                }
                uploads.push(upload);
            }
        }
    }
    let cpu = peer.cpu_time();
    let outcome = client::run(peer.address, plan.connections, &mut || {
        exchanges.pop_front()
    })?;
    let cpu = peer.cpu_time().saturating_sub(cpu);
    for upload in uploads {
        remove(peer, &upload)?;
    }
    Ok((outcome, cpu))
}

/// Removes an upload, to free the disk.
fn remove(peer: &Peer, upload: &str) -> anyhow::Result<()> {
    let removed = match peer.kind {
        Kind::Longhaul | Kind::LonghaulIetf => {
            let head = ask(peer, &Request::head(upload))?;
            let file = head
                .optional("content-location")
                .context("the upload is not complete")?;
            ask(peer, &Request::delete(file))?
        }
        Kind::TusServer | Kind::Rustus | Kind::Nginx | Kind::Bare => {
            ask(peer, &Request::delete(upload).field(TUS.0, TUS.1))?
        }
    };
    ensure!(removed.status() == 204, "{removed:?}");
    Ok(())
}

/// Performs one exchange outside of any measurement and returns its answer.
fn ask(peer: &Peer, request: &Request) -> anyhow::Result<Response> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut connection = http1::Connection::try_open(peer.address).await?;
        let answer = connection.exchange(request).await;
        answer.map_err(|cut| anyhow::anyhow!("{}: {}", peer.kind.name(), cut.how))
    })
}

fn exchange(request: &Request, body: u64, status: u16) -> Exchange {
    Exchange {
        head: Rc::from(http1::head_of(request).into_bytes()),
        body,
        status,
    }
}

/// Returns the path of a `Location`, which some peers send with the host.
fn target(location: &str) -> String {
    let path = location
        .split_once("://")
        .and_then(|(_, rest)| Some(&rest[rest.find('/')?..]));
    path.unwrap_or(location).to_owned()
}
