//! Small requests about packs, with retries.

use std::io::{self, Read as _};

use archive::Sha256Digest;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Error, PackAddress};
use crate::transfer::{self, Connection, Options, Patience, Refusal, Report, Setback, refusal};

/// Maximum size of an answer, in bytes: the catalogue of some four million files.
const LARGEST: u64 = 512 << 20;

/// Version, as the server describes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct VersionDocument {
    pub(super) version: u64,
    pub(super) catalogue: CatalogueDocument,
}

/// Catalogue, as its version's document describes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct CatalogueDocument {
    pub(super) sha256: Sha256Digest,
    /// Size in bytes.
    pub(super) size: u64,
}

/// Draft, as the server describes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct DraftDocument {
    pub(super) url: String,
    pub(super) content_url: String,
    pub(super) publish_url: String,
    /// Version as which it was published.
    pub(super) published: Option<u64>,
    pub(super) missing: Missing,
}

/// Contents that the server lacks.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Missing {
    /// Number of contents.
    pub(super) contents: u64,
    /// The first of them, or all of them.
    pub(super) sha256: Vec<Sha256Digest>,
}

/// Outcome of an attempt to publish a draft.
#[derive(Debug)]
pub(super) enum Publishing {
    Done(VersionDocument),
    /// Some contents are missing, perhaps since a moment.
    ContentMissing,
}

/// Document of a version, with the strong tag for a conditional request.
#[derive(Debug)]
pub(super) struct Tagged {
    pub(super) document: VersionDocument,
    pub(super) etag: Option<String>,
}

/// Outcome of a conditional request.
#[derive(Debug)]
pub(super) enum Asked {
    Found(Tagged),
    NotModified,
    NotFound(Refusal),
}

/// Client of the packs of one server, with its counters.
#[derive(Debug)]
pub(super) struct Api {
    connection: Connection,
    patience: Patience,
    /// Received bytes of catalogues and documents.
    received: u64,
    /// Number of requests that other clients made for it.
    others: u64,
}

impl Api {
    pub(super) fn new(options: &Options, address: &PackAddress) -> Result<Self, Error> {
        Ok(Self {
            connection: Connection::new(options, address.pack())?,
            patience: options.patience(),
            received: 0,
            others: 0,
        })
    }

    /// Returns the number of requests so far.
    pub(super) fn requests(&self) -> u64 {
        self.connection.requests() + self.others
    }

    /// Returns the number of received bytes so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Counts requests and bytes of other clients.
    pub(super) fn count(&mut self, requests: u64, bytes: u64) {
        self.others += requests;
        self.received += bytes;
    }

    /// Fetches the document of a version; with the tag of an earlier answer, only if it has
    /// changed.
    pub(super) async fn version(
        &mut self,
        url: &Url,
        etag: Option<&str>,
        report: &mut Report,
    ) -> Result<Asked, Error> {
        let found = self
            .exchange(
                report,
                |connection| {
                    let request = connection.follow_up(Method::GET, url);
                    match etag {
                        Some(etag) => request.header(IF_NONE_MATCH, etag),
                        None => request,
                    }
                },
                |status| {
                    status == StatusCode::OK
                        || status == StatusCode::NOT_FOUND
                        || (etag.is_some() && status == StatusCode::NOT_MODIFIED)
                },
            )
            .await?;
        Ok(match found.status {
            StatusCode::NOT_MODIFIED => Asked::NotModified,
            StatusCode::NOT_FOUND => Asked::NotFound(found.refusal()),
            _ => Asked::Found(Tagged {
                document: found.json()?,
                etag: found.etag,
            }),
        })
    }

    /// Fetches a version's catalogue, and verifies it against the version's document.
    pub(super) async fn catalogue(
        &mut self,
        url: &Url,
        promised: &CatalogueDocument,
        report: &mut Report,
    ) -> Result<Vec<u8>, Error> {
        if promised.size > LARGEST {
            let size = promised.size;
            return Err(Error::BadCatalogue(format!(
                "it has {size} bytes, too many"
            )));
        }
        let found = self
            .exchange(
                report,
                |connection| {
                    connection
                        .follow_up(Method::GET, url)
                        .header(ACCEPT_ENCODING, "zstd")
                },
                |status| status == StatusCode::OK,
            )
            .await?;
        let bytes = decoded(found, promised.size)
            .map_err(|error| Error::BadCatalogue(error.to_string()))?;
        if Sha256Digest::of(&bytes) != promised.sha256 {
            return Err(Error::BadCatalogue(
                "its SHA-256 is not the promised one".to_owned(),
            ));
        }
        Ok(bytes)
    }

    /// Fetches a small resource; none if it does not exist.
    pub(super) async fn bytes(
        &mut self,
        url: &Url,
        report: &mut Report,
    ) -> Result<Option<Vec<u8>>, Error> {
        let found = self
            .exchange(
                report,
                |connection| connection.follow_up(Method::GET, url),
                |status| matches!(status, StatusCode::OK | StatusCode::NOT_FOUND),
            )
            .await?;
        Ok((found.status == StatusCode::OK).then_some(found.body))
    }

    /// Creates a draft of a tree.
    pub(super) async fn create_draft(
        &mut self,
        url: &Url,
        body: &[u8],
        report: &mut Report,
    ) -> Result<DraftDocument, Error> {
        self.post(url, body, StatusCode::CREATED, report)
            .await?
            .json()
    }

    /// Sends the held contents to the server, to register a need that is too long for a URL.
    pub(super) async fn register_need(
        &mut self,
        url: &Url,
        held: &[Sha256Digest],
        report: &mut Report,
    ) -> Result<(), Error> {
        #[derive(Serialize)]
        struct Holdings {
            digests: Vec<String>,
        }
        let holdings = Holdings {
            digests: held.iter().map(ToString::to_string).collect(),
        };
        let body = serde_json::to_vec(&holdings).expect("digests are text");
        self.post(url, &body, StatusCode::CREATED, report).await?;
        Ok(())
    }

    /// Fetches a draft, if it still exists.
    pub(super) async fn draft(
        &mut self,
        url: &Url,
        report: &mut Report,
    ) -> Result<Option<DraftDocument>, Error> {
        let found = self
            .exchange(
                report,
                |connection| connection.follow_up(Method::GET, url),
                |status| {
                    matches!(
                        status,
                        StatusCode::OK | StatusCode::NOT_FOUND | StatusCode::GONE
                    )
                },
            )
            .await?;
        if found.status == StatusCode::OK {
            Ok(Some(found.json()?))
        } else {
            Ok(None)
        }
    }

    /// Publishes a draft as a version.
    pub(super) async fn publish(
        &mut self,
        url: &Url,
        report: &mut Report,
    ) -> Result<Publishing, Error> {
        let found = self
            .exchange(
                report,
                |connection| connection.follow_up(Method::POST, url),
                |status| {
                    matches!(
                        status,
                        StatusCode::OK | StatusCode::CREATED | StatusCode::CONFLICT
                    )
                },
            )
            .await?;
        if found.status != StatusCode::CONFLICT {
            return Ok(Publishing::Done(found.json()?));
        }
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            uri: String,
        }
        match found.json::<Kind>() {
            Ok(kind) if kind.uri.ends_with(":missing-content") => Ok(Publishing::ContentMissing),
            _ => Err(Error::Transfer(transfer::Error::Refused(found.refusal()))),
        }
    }

    async fn post(
        &mut self,
        url: &Url,
        body: &[u8],
        expected: StatusCode,
        report: &mut Report,
    ) -> Result<Found, Error> {
        let body = zstd::bulk::compress(body, 3).map_err(|source| {
            Error::Transfer(transfer::Error::Setup(format!("zstd failed: {source}")))
        })?;
        self.exchange(
            report,
            |connection| {
                connection
                    .follow_up(Method::POST, url)
                    .header(CONTENT_TYPE, "application/json")
                    .header(CONTENT_ENCODING, "zstd")
                    .body(body.clone())
            },
            |status| status == expected,
        )
        .await
    }

    /// Sends a request until the answer is `hoped` for, or is one that a retry cannot change.
    ///
    /// # Cancel safety
    ///
    /// May be dropped anywhere; the server may or may not have executed the request then.
    async fn exchange(
        &mut self,
        report: &mut Report,
        request: impl Fn(&Connection) -> RequestBuilder,
        hoped: impl Fn(StatusCode) -> bool,
    ) -> Result<Found, Error> {
        loop {
            let setback = match attempt(&self.connection, request(&self.connection), &hoped).await {
                Ok(found) => {
                    self.patience.reset();
                    self.received += found.body.len() as u64;
                    return Ok(found);
                }
                Err(setback) => setback,
            };
            let (reason, after) = match setback {
                Setback::Final(error) => return Err(error.into()),
                Setback::Passing { reason, after } => (reason, after),
                Setback::StartAnew { reason } => (reason, None),
            };
            let random = getrandom::u32().unwrap_or_default();
            let Some(wait) = self.patience.next(after, random) else {
                return Err(Error::Transfer(transfer::Error::GaveUp {
                    attempts: self.patience.fruitless(),
                    reason,
                    how_to_go_on: "run the same command again to go on".to_owned(),
                }));
            };
            report.retrying(&reason, &self.patience, wait);
            tokio::time::sleep(wait).await;
            self.connection.renew()?;
        }
    }
}

/// Complete answer.
struct Found {
    status: StatusCode,
    is_page: bool,
    etag: Option<String>,
    coding: Option<String>,
    body: Vec<u8>,
}

impl Found {
    fn refusal(&self) -> Refusal {
        Refusal {
            status: self.status,
            is_page: self.is_page,
            problem: serde_json::from_slice(&self.body).ok(),
        }
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body).map_err(|error| {
            let what = if self.is_page {
                "it is a web page, so no Longhaul server answers there".to_owned()
            } else {
                format!("it is not the JSON of a Longhaul server ({error})")
            };
            Error::Transfer(transfer::Error::Nonsense(what))
        })
    }
}

async fn attempt(
    connection: &Connection,
    request: RequestBuilder,
    hoped: impl Fn(StatusCode) -> bool,
) -> Result<Found, Setback> {
    let mut answer = connection.send(request).await?;
    if !hoped(answer.status()) {
        if answer.status().is_success() {
            let status = answer.status();
            return Err(Setback::nonsense(format!(
                "{status} was not to be expected"
            )));
        }
        return Err(refusal(answer).await);
    }
    let field = |answer: &Response, name| {
        let value = answer.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    Ok(Found {
        status: answer.status(),
        is_page: transfer::is_page(answer.headers()),
        etag: field(&answer, ETAG),
        coding: field(&answer, CONTENT_ENCODING),
        body: body(connection, &mut answer).await?,
    })
}

async fn body(connection: &Connection, answer: &mut Response) -> Result<Vec<u8>, Setback> {
    let mut body = Vec::new();
    loop {
        let chunk = connection
            .within(connection.patience(), answer.chunk())
            .await?
            .map_err(transfer::setback)?;
        let Some(chunk) = chunk else {
            return Ok(body);
        };
        body.extend_from_slice(&chunk);
        if body.len() as u64 > LARGEST {
            return Err(Setback::nonsense("the answer is too long"));
        }
    }
}

/// Decodes the bytes, which must be exactly `size` long.
fn decoded(found: Found, size: u64) -> io::Result<Vec<u8>> {
    let bytes = match found.coding.as_deref() {
        None | Some("identity") => found.body,
        Some("zstd") => {
            let mut bytes = Vec::new();
            let decoder = zstd::stream::read::Decoder::new(&found.body[..])?;
            // One byte more shows an answer that is too long.
            decoder.take(size + 1).read_to_end(&mut bytes)?;
            bytes
        }
        Some(coding) => {
            let what = format!("it is coded ({coding}), which was not asked for");
            return Err(io::Error::other(what));
        }
    };
    if bytes.len() as u64 == size {
        Ok(bytes)
    } else {
        Err(io::Error::other("its length is not the promised one"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(coding: Option<&str>, body: &[u8]) -> Found {
        Found {
            status: StatusCode::OK,
            is_page: false,
            etag: None,
            coding: coding.map(str::to_owned),
            body: body.to_owned(),
        }
    }

    #[test]
    fn a_coding_is_undone_within_the_promised_size() {
        let coded = zstd::bulk::compress(&[7; 1000], 3).unwrap();
        assert_eq!(
            decoded(found(Some("zstd"), &coded), 1000).unwrap(),
            [7; 1000]
        );
        assert_eq!(decoded(found(None, &[7; 10]), 10).unwrap(), [7; 10]);
        for size in [0, 999, 1001] {
            assert!(
                decoded(found(Some("zstd"), &coded), size).is_err(),
                "{size}"
            );
        }
        assert!(decoded(found(Some("br"), &coded), 1000).is_err());
        assert!(decoded(found(Some("zstd"), &coded[..10]), 1000).is_err());
    }
}
