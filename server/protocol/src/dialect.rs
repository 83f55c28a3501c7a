//! Dialect of an upload request. It reads the request and writes the answers.
//!
//! The fields of each request decide its dialect, so a client may continue an upload in another
//! dialect than it began.

use http::header::ACCEPT_ENCODING;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::json;

use crate::answer::{Answer, Known, Refusal, Standing, Via};
use crate::digest::StatedDigests;
use crate::fields::name;
use crate::ietf::{self, Spoken, Version};
use crate::problem::{Problem, ProblemType, types};
use crate::rejection::Rejection;
use crate::request::{AppendRequest, BodyUse, CreateRequest};
use crate::upload::{Completion, Create, Limits, Overrun};
use crate::{content, digest, disposition, media_type, tus};

/// Dialect of an upload request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// No upload protocol, or an unsupported one. A creation is an ordinary request. A request for
    /// an upload resource follows the rules of the RFC form, as nothing states otherwise, but
    /// without interim responses.
    Plain,
    /// A version of the IETF protocol.
    Ietf(Version),
    /// tus 1.0.0.
    Tus,
}

impl Dialect {
    /// Returns the dialect of a request that would create an upload.
    ///
    /// - `Tus-Resumable` decides for tus, even beside fields of the IETF protocol: URLSession adds
    ///   those to every upload task, also to those of an app that speaks tus.
    /// - The completeness field selects the IETF protocol, in the stated version, or in the RFC
    ///   form without one. An unsupported version makes the request plain.
    /// - A `POST` with fields that only a tus creation has is a tus request, refused for its
    ///   missing version.
    /// - A form (`multipart/form-data`) is not the representation itself and cannot be resumed, so
    ///   it is plain.
    pub fn of_creation(method: &Method, fields: &HeaderMap) -> Self {
        if fields.contains_key(&name::TUS_RESUMABLE) {
            return Self::Tus;
        }
        let dialect = match Spoken::read(fields) {
            Spoken::Known(version) if version.completes(fields).is_some() => Self::Ietf(version),
            Spoken::Known(_) | Spoken::Unknown => Self::Plain,
            Spoken::Unsaid if Version::Rfc.completes(fields).is_some() => Self::Ietf(Version::Rfc),
            Spoken::Unsaid if method == Method::POST && is_tus_creation(fields) => Self::Tus,
            Spoken::Unsaid => Self::Plain,
        };
        match dialect {
            Self::Ietf(_) if media_type::is(fields, "multipart/form-data") => Self::Plain,
            dialect => dialect,
        }
    }

    /// Returns the dialect of a request for an upload resource.
    pub fn of_upload_request(method: &Method, fields: &HeaderMap) -> Self {
        let asks = method == Method::OPTIONS;
        match Spoken::read(fields) {
            // tus: a server ignores `Tus-Resumable` on OPTIONS.
            _ if !asks && fields.contains_key(&name::TUS_RESUMABLE) => Self::Tus,
            Spoken::Known(version) => Self::Ietf(version),
            Spoken::Unsaid if Version::Rfc.completes(fields).is_some() => Self::Ietf(Version::Rfc),
            Spoken::Unsaid if media_type::is(fields, media_type::OFFSET_OCTET_STREAM) => Self::Tus,
            Spoken::Unsaid | Spoken::Unknown => Self::Plain,
        }
    }

    /// Reads a request that creates an upload. `body_length` is in bytes, if the framing of the
    /// body states one.
    ///
    /// # Errors
    /// The first rule that the fields break: version, then malformed fields, then statements about
    /// the content.
    pub fn read_create(
        self,
        fields: &HeaderMap,
        body_length: Option<u64>,
    ) -> Result<CreateRequest, Rejection> {
        let read = match self {
            Self::Ietf(version) => version.read_create(fields, body_length)?,
            Self::Tus => tus::read_create(fields, body_length)?,
            Self::Plain => CreateRequest {
                create: Create {
                    completion: Completion::WithThisBody,
                    length: None,
                    body_length,
                    overrun: Overrun::Discard,
                },
                body: BodyUse::Appended,
                digests: StatedDigests::read(fields)?,
                media_type: media_type::declared(fields),
                file_name: disposition::file_name(fields),
                tus: None,
            },
        };
        content::check(fields)?;
        Ok(read)
    }

    /// Reads a request that appends to an upload. `body_length` is in bytes, if the framing of the
    /// body states one.
    ///
    /// # Errors
    /// The first rule that the fields break: version, then media type, then malformed fields, then
    /// statements about the content.
    pub fn read_append(
        self,
        fields: &HeaderMap,
        body_length: Option<u64>,
    ) -> Result<AppendRequest, Rejection> {
        let read = match self {
            Self::Plain => Version::Rfc.read_append(fields, body_length),
            Self::Ietf(version) => version.read_append(fields, body_length),
            Self::Tus => tus::read_append(fields, body_length),
        }?;
        content::check(fields)?;
        Ok(read)
    }

    /// Checks a request for an upload's offset (`HEAD`, `GET`).
    ///
    /// # Errors
    /// [`Rejection::Malformed`] or [`Rejection::TusVersion`].
    pub fn check_retrieval(self, fields: &HeaderMap) -> Result<(), Rejection> {
        match self {
            Self::Plain => Ok(()),
            Self::Ietf(version) => version.check_retrieval(fields),
            Self::Tus => tus::check_retrieval(fields),
        }
    }

    /// Checks a request that cancels an upload (`DELETE`).
    ///
    /// # Errors
    /// [`Rejection::Malformed`] or [`Rejection::TusVersion`].
    pub fn check_cancellation(self, fields: &HeaderMap) -> Result<(), Rejection> {
        match self {
            Self::Plain => Ok(()),
            Self::Ietf(version) => version.check_cancellation(fields),
            Self::Tus => tus::check_version(fields),
        }
    }

    /// Returns the fields of the interim response (104) that announces a new upload; `None` if the
    /// dialect has none.
    pub fn announcement(self, standing: &Standing<'_>) -> Option<HeaderMap> {
        match self {
            Self::Ietf(version) => Some(version.announcement(standing)),
            Self::Plain | Self::Tus => None,
        }
    }

    /// Returns the fields of an interim response (104) that reports the durable offset; `None` if
    /// the dialect has none.
    pub fn progress(self, offset: u64) -> Option<HeaderMap> {
        match self {
            Self::Ietf(version) => version.progress(offset),
            Self::Plain | Self::Tus => None,
        }
    }

    /// Writes the answer to a creation that leaves the upload incomplete.
    pub fn created(self, standing: &Standing<'_>) -> Answer {
        match self {
            Self::Plain => Version::Rfc.created(standing),
            Self::Ietf(version) => version.created(standing),
            Self::Tus => tus::created(standing),
        }
    }

    /// Writes the answer to an append that leaves the upload incomplete.
    pub fn appended(self, standing: &Standing<'_>) -> Answer {
        match self {
            Self::Plain => Version::Rfc.appended(standing),
            Self::Ietf(version) => version.appended(standing),
            Self::Tus => tus::appended(standing),
        }
    }

    /// Writes the final answer in the form of the dialect: the target resource's answer to the
    /// complete representation (status, `Location` and `Content-Location` of the new resource, its
    /// validators). With a 204, the target's body is not sent.
    pub fn finished(self, via: Via, standing: &Standing<'_>, target: Answer) -> Answer {
        match (self, via) {
            (Self::Plain, Via::Creation) => target,
            (Self::Plain, Via::Append) => Version::Rfc.finished(standing, target),
            (Self::Ietf(version), _) => version.finished(standing, target),
            (Self::Tus, via) => tus::finished(via, standing, target),
        }
    }

    /// Writes the answer to a request for the offset. `GET` is answered like `HEAD`, with a body.
    ///
    /// A plain request may come from any client, so its answer has the fields of the RFC form, and
    /// of tus for an upload created by tus.
    pub fn retrieved(self, method: &Method, standing: &Standing<'_>) -> Answer {
        match self {
            Self::Ietf(version) => version.retrieved(method, standing),
            Self::Tus => tus::retrieved(standing),
            Self::Plain => {
                let Answer { status, mut fields } = Version::Rfc.retrieved(method, standing);
                if standing.tus.is_none() {
                    return Answer { status, fields };
                }
                let tus = tus::retrieved(standing);
                for (name, value) in tus.fields {
                    fields.insert(name.expect("each field comes once"), value);
                }
                Answer {
                    status: tus.status,
                    fields,
                }
            }
        }
    }

    /// Writes the answer to a cancellation.
    pub fn cancelled(self) -> Answer {
        match self {
            Self::Plain => Version::Rfc.cancelled(),
            Self::Ietf(version) => version.cancelled(),
            Self::Tus => tus::cancelled(),
        }
    }

    /// Writes the answer to a request that breaks a rule.
    pub fn refused(self, rejection: &Rejection, known: Known<'_>) -> Refusal {
        let standing = match known {
            Known::Standing(standing) => Some(standing),
            Known::Limits(_) | Known::Nothing => None,
        };
        let (kind, mut fields) = match self {
            Self::Plain => (
                Version::Rfc.problem_type(rejection),
                // Without an upload, the answer belongs to no protocol.
                match standing {
                    Some(_) => Version::Rfc.rejection_fields(standing),
                    None => self.refusal_fields(),
                },
            ),
            Self::Ietf(version) => (
                version.problem_type(rejection),
                version.rejection_fields(standing),
            ),
            Self::Tus => (
                tus::problem_type(rejection),
                tus::rejection_fields(standing),
            ),
        };
        let problem = Problem::new(kind).detailed(rejection.to_string());
        let problem = match rejection {
            Rejection::OffsetMismatch { expected, provided } => {
                fields.insert(name::UPLOAD_OFFSET, HeaderValue::from(*expected));
                problem
                    .with("expected-offset", *expected)
                    .with("provided-offset", *provided)
            }
            Rejection::OverlapMismatch { offset } => problem.with("expected-offset", *offset),
            Rejection::MediaType { expected } => {
                // RFC 5789 §3.1: the field names the accepted patch documents.
                fields.insert(name::ACCEPT_PATCH, HeaderValue::from_static(expected));
                problem
            }
            Rejection::TusVersion => {
                fields.insert(name::TUS_VERSION, HeaderValue::from_static(tus::VERSION));
                problem
            }
            Rejection::TooLarge { limit }
            | Rejection::TooSmall { limit }
            | Rejection::AppendTooLarge { limit }
            | Rejection::AppendTooSmall { limit } => {
                self.tell_limits(&mut fields, known);
                problem.with("limit", *limit)
            }
            Rejection::OverLength { length } => problem.with("length", *length),
            Rejection::Coding { coding, .. } => {
                // RFC 9110 §12.5.3: in an answer the field names the accepted codings.
                fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
                problem.with("coding", coding.as_str())
            }
            Rejection::DigestAlgorithm { field, algorithm } => {
                let (name, value) = digest::verified_by(field);
                fields.insert(name, value);
                problem.with(
                    "unsupported_algorithms",
                    json!([{ "algorithm": algorithm, "header": field }]),
                )
            }
            Rejection::DigestMismatch { field } => {
                problem.with("mismatched_digests", json!([{ "header": field }]))
            }
            Rejection::Malformed { field, .. } => problem.with("header", *field),
            Rejection::InconsistentLength
            | Rejection::Completed
            | Rejection::FinalUpload
            | Rejection::KeyReused => problem,
        };
        Refusal { problem, fields }
    }

    /// Writes the answer about an upload that never existed, or is forgotten.
    pub fn unknown(self) -> Refusal {
        self.absent(types::UPLOAD_NOT_FOUND, "Begin a new upload.")
    }

    /// Writes the answer about an upload that expired, was deleted or became invalid.
    pub fn gone(self) -> Refusal {
        let kind = match self {
            Self::Ietf(version) => version.gone(),
            Self::Plain | Self::Tus => types::UPLOAD_GONE,
        };
        self.absent(
            kind,
            "It expired, was deleted or became invalid. Begin a new upload.",
        )
    }

    fn absent(self, kind: ProblemType, detail: &str) -> Refusal {
        Refusal {
            problem: Problem::new(kind).detailed(detail),
            fields: self.refusal_fields(),
        }
    }

    /// Returns the fields of every refusal, also of those outside of this crate: the protocol's
    /// version and `Cache-Control: no-store`.
    pub fn refusal_fields(self) -> HeaderMap {
        match self {
            Self::Plain => Version::Rfc.refusal_fields(),
            Self::Ietf(version) => version.refusal_fields(),
            Self::Tus => tus::own_fields(),
        }
    }

    fn tell_limits(self, fields: &mut HeaderMap, known: Known<'_>) {
        let (limits, deadline) = match known {
            Known::Nothing => return,
            Known::Limits(limits) => (limits, None),
            Known::Standing(standing) => (standing.limits, standing.deadline),
        };
        let version = match self {
            Self::Ietf(version) => version,
            Self::Plain | Self::Tus => Version::Rfc,
        };
        fields.insert(name::UPLOAD_LIMIT, version.upload_limit(limits, deadline));
        if self == Self::Tus {
            tus::tell_max_size(fields, limits);
        }
    }

    /// Writes the answer to `OPTIONS` on an upload target or an upload resource, for all dialects.
    ///
    /// Photos takes 200 as support; 204 is not documented as such.
    pub fn discovery(self, limits: &Limits) -> Answer {
        let mut fields = ietf::discovery(limits);
        fields.extend(tus::discovery(limits));
        if let Self::Ietf(version) = self {
            fields.extend(version.own_fields());
        }
        Answer {
            status: StatusCode::OK,
            fields,
        }
    }
}

/// Returns true if a request without a version has fields that only a tus creation has.
fn is_tus_creation(fields: &HeaderMap) -> bool {
    let has = |name: &HeaderName| fields.contains_key(name);
    let is_ietf = has(&name::UPLOAD_COMPLETE) || has(&name::UPLOAD_INCOMPLETE);
    let is_tus = has(&name::UPLOAD_LENGTH)
        || has(&name::UPLOAD_DEFER_LENGTH)
        || has(&name::UPLOAD_CONCAT)
        || has(&name::UPLOAD_METADATA)
        || media_type::is(fields, media_type::OFFSET_OCTET_STREAM);
    !is_ietf && is_tus
}

#[cfg(test)]
mod compatibility;
