//! How a failure is told: the only place that turns [`domain::Error`] into a status.
//!
//! A handler's failure is a [`Failure`]: a document with fields, or a cut. The document is written by [`tell`], the middleware that
//! knows the request's identifier, so that whatever answers (a handler, the router, an extractor) tells failures in one form.

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use domain::Error;
use domain::access::Denied;
use domain::packs::PackError;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use protocol::NO_STORE;
use protocol::fields::name::X_REQUEST_ID;
use protocol::problem::{MEDIA_TYPE, Problem, ProblemType, types};
use uuid::Uuid;

use transport::Cut;

/// Problems that belong to this server and to no upload protocol.
pub(crate) mod own {
    use protocol::problem::ProblemType;

    pub(crate) const NOT_FOUND: ProblemType =
        ProblemType::new("tag:longhaul,2026:not-found", "Not found", 404);
    pub(crate) const METHOD_NOT_ALLOWED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:method-not-allowed",
        "Method not allowed",
        405,
    );
    pub(crate) const CREDENTIAL_NEEDED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:credential-needed",
        "A credential is needed",
        401,
    );
    pub(crate) const CREDENTIAL_INVALID: ProblemType = ProblemType::new(
        "tag:longhaul,2026:credential-invalid",
        "The credential is not valid",
        401,
    );
    pub(crate) const FORBIDDEN: ProblemType =
        ProblemType::new("tag:longhaul,2026:forbidden", "Not allowed", 403);
    pub(crate) const MISDIRECTED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:misdirected",
        "The server does not go by this name",
        421,
    );
    pub(crate) const REFUSED: ProblemType =
        ProblemType::new("tag:longhaul,2026:refused", "The upload is refused", 403);
    pub(crate) const MALFORMED_REQUEST: ProblemType = ProblemType::new(
        "tag:longhaul,2026:malformed-request",
        "The request is malformed",
        400,
    );
    pub(crate) const INVALID_PATH: ProblemType = ProblemType::new(
        "tag:longhaul,2026:invalid-path",
        "The path cannot name a file",
        400,
    );
    pub(crate) const BUSY: ProblemType = ProblemType::new(
        "tag:longhaul,2026:busy",
        "The server cannot take this on now",
        503,
    );
    pub(crate) const NOT_LIVE: ProblemType = ProblemType::new(
        "tag:longhaul,2026:not-live",
        "The server does not work",
        503,
    );
    pub(crate) const NOT_READY: ProblemType = ProblemType::new(
        "tag:longhaul,2026:not-ready",
        "The server should be sent no requests now",
        503,
    );
    pub(crate) const FULL: ProblemType = ProblemType::new(
        "tag:longhaul,2026:storage-full",
        "There is no room left",
        507,
    );
    pub(crate) const DOCUMENT_TOO_LARGE: ProblemType = ProblemType::new(
        "tag:longhaul,2026:document-too-large",
        "The document is too large",
        413,
    );
    pub(crate) const INVALID_DOCUMENT: ProblemType = ProblemType::new(
        "tag:longhaul,2026:invalid-document",
        "The document cannot be read",
        422,
    );
    pub(crate) const INVALID_ARCHIVE: ProblemType = ProblemType::new(
        "tag:longhaul,2026:invalid-archive",
        "The archive is refused",
        422,
    );
    pub(crate) const NO_FILES: ProblemType = ProblemType::new(
        "tag:longhaul,2026:no-files",
        "A version has at least one file",
        422,
    );
    pub(crate) const MISSING_CONTENT: ProblemType = ProblemType::new(
        "tag:longhaul,2026:missing-content",
        "Content is missing",
        409,
    );
    pub(crate) const OUTDATED_BASE: ProblemType = ProblemType::new(
        "tag:longhaul,2026:outdated-base",
        "The base is not the newest version",
        409,
    );
    pub(crate) const DRAFT_PUBLISHED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:draft-published",
        "The draft is published",
        409,
    );
    pub(crate) const UNKNOWN_NEED: ProblemType = ProblemType::new(
        "tag:longhaul,2026:unknown-need",
        "The version has no such need",
        404,
    );
    pub(crate) const INTERNAL: ProblemType =
        ProblemType::new("tag:longhaul,2026:internal", "The server failed", 500);
}

/// A request that was not fulfilled.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Answered with a problem document.
    Told(Box<Told>),
    /// Not answered: the exchange is cut, so that the client resumes.
    Cut,
}

/// A problem document and the fields beside it.
#[derive(Debug)]
pub(crate) struct Told {
    problem: Problem,
    fields: HeaderMap,
}

impl Failure {
    /// Answered with `problem` and these fields beside it.
    pub(crate) fn told(problem: Problem, fields: HeaderMap) -> Self {
        Self::Told(Box::new(Told { problem, fields }))
    }

    /// Adds a field to the answer; a cut has none.
    pub(crate) fn with(self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.with_all(HeaderMap::from_iter([(name, value.into())]))
    }

    /// Adds fields to the answer; a cut has none.
    pub(crate) fn with_all(mut self, fields: HeaderMap) -> Self {
        match &mut self {
            Self::Told(told) => told.fields.extend(fields),
            Self::Cut => {}
        }
        self
    }
}

#[cfg(test)]
impl Failure {
    /// What is wrong, in words.
    pub(crate) fn detail(&self) -> Option<&str> {
        match self {
            Self::Told(told) => told.problem.detail(),
            Self::Cut => None,
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::told(problem, HeaderMap::new())
    }
}

/// A problem of this kind, and what the client can do about it.
fn problem(kind: ProblemType, detail: &str) -> Failure {
    Problem::new(kind).detailed(detail).into()
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let (kind, detail, challenge) = match denied {
            Denied::Missing => (
                own::CREDENTIAL_NEEDED,
                "Send an API key: Authorization: Bearer KEY.",
                "Bearer",
            ),
            Denied::Invalid => (
                own::CREDENTIAL_INVALID,
                "The server knows no such key.",
                "Bearer error=\"invalid_token\"",
            ),
        };
        problem(kind, detail).with(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            // Dialects tell rejections in their own words; this is for requests that have no dialect.
            Error::Rejected(rejection) => Problem::new(own::MALFORMED_REQUEST)
                .detailed(rejection.to_string())
                .into(),
            Error::NotFound { what } => Problem::new(own::NOT_FOUND)
                .detailed(format!("There is no such {what}."))
                .into(),
            Error::Gone(_) => problem(types::UPLOAD_GONE, "Begin a new upload."),
            Error::Forbidden => problem(own::FORBIDDEN, "Your credential does not cover this."),
            Error::Refused { detail } => {
                let own = "The operator's rules do not let this upload begin.";
                problem(own::REFUSED, detail.as_deref().unwrap_or(own))
            }
            Error::PreconditionFailed => problem(
                types::PRECONDITION_FAILED,
                "What is there now is not what the request's conditions ask for: read it again, and decide anew.",
            ),
            // Nobody is there to be told, or the newer request is answered instead.
            Error::Superseded | Error::ClientGone => Self::Cut,
            Error::Draining | Error::Busy => problem(own::BUSY, "Try again later.")
                .with(RETRY_AFTER, HeaderValue::from_static("5")),
            Error::Pack(error) => of_pack(&error).into(),
            Error::Full => problem(own::FULL, "What was acknowledged before is kept."),
            Error::Corrupt { .. } | Error::Store { .. } | Error::StoreRefuses { .. } => {
                tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
                problem(
                    own::INTERNAL,
                    "Give the request_id to the server's operator.",
                )
            }
        }
    }
}

/// Most digests that a problem names; the draft tells all.
const MOST_DIGESTS: usize = 16;

fn of_pack(error: &PackError) -> Problem {
    let (kind, advice) = match error {
        PackError::Archive { .. } | PackError::Entry { .. } => (
            own::INVALID_ARCHIVE,
            "nothing of it was kept; send a zip, tar, tar.gz or tar.zst of plain files.",
        ),
        PackError::Document(_)
        | PackError::WrongSize { .. }
        | PackError::UnknownException { .. } => (
            own::INVALID_DOCUMENT,
            "correct the document and send it again.",
        ),
        PackError::DocumentTooLarge { .. } => (
            own::DOCUMENT_TOO_LARGE,
            "list digests instead of files, or name a version and its exceptions.",
        ),
        PackError::NoFiles => (
            own::NO_FILES,
            "put a file there (directories alone make no version), and send it again.",
        ),
        PackError::Missing { .. } => (
            own::MISSING_CONTENT,
            "upload an archive with it, then publish again.",
        ),
        PackError::Outdated { .. } => (
            own::OUTDATED_BASE,
            "take the newest version into account, and draft again.",
        ),
        PackError::Published { .. } => (own::DRAFT_PUBLISHED, "draft the next version."),
        PackError::Need => (
            own::UNKNOWN_NEED,
            "ask for the need again: a registered one is forgotten after a while.",
        ),
    };
    let mut text = error.to_string();
    if let Some(first) = text.get(..1) {
        text.replace_range(..1, &first.to_ascii_uppercase());
    }
    let problem = Problem::new(kind).detailed(format!("{text}: {advice}"));
    match error {
        PackError::Archive {
            entry: Some(entry), ..
        }
        | PackError::Entry { entry, .. } => problem.with("entry", entry.as_str()),
        PackError::Missing { missing } => {
            let named = missing.sha256s.iter().take(MOST_DIGESTS);
            problem
                .with("contents", missing.contents)
                .with("size", missing.size)
                .with("sha256", named.map(ToString::to_string).collect::<Vec<_>>())
        }
        PackError::Outdated { latest, .. } => problem.with("latest", *latest),
        PackError::Published { version } => problem.with("version", *version),
        PackError::Archive { entry: None, .. }
        | PackError::Document(_)
        | PackError::DocumentTooLarge { .. }
        | PackError::WrongSize { .. }
        | PackError::UnknownException { .. }
        | PackError::NoFiles
        | PackError::Need => problem,
    }
}

/// A problem on its way to [`tell`], in a response's extensions.
#[derive(Debug, Clone)]
struct Untold(Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Cut => Cut::response(),
            Self::Told(told) => {
                let Told { problem, fields } = *told;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = problem.status();
                *response.headers_mut() = fields;
                response.extensions_mut().insert(Untold(problem));
                response
            }
        }
    }
}

/// The identifier of a request, for its log lines and its answer.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) HeaderValue);

impl RequestId {
    /// The one that the client or a proxy gave, if it is fit to be logged; else a new one.
    pub(crate) fn of(request: &HeaderMap) -> Self {
        let given = request.get(&X_REQUEST_ID).filter(|value| {
            (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        Self(match given {
            Some(value) => value.clone(),
            None => {
                let id = Uuid::now_v7().to_string();
                HeaderValue::from_str(&id).expect("a UUID is a field value")
            }
        })
    }

    /// The identifier as text.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Writes the documents of problems, names the request, to those within and in the answer, and sees to it that every answer says how
/// long it may be kept: what has no `Cache-Control` of its own is not to be kept at all. Caches would guess otherwise, also about a list,
/// a 404 or a 405 (RFC 9111 §4.2.2).
pub(crate) async fn tell(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.headers_mut().insert(X_REQUEST_ID, id.0.clone());
    let head = request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    response.headers_mut().insert(X_REQUEST_ID, id.0.clone());
    if let Some(Untold(problem)) = response.extensions_mut().remove() {
        write(
            &mut response,
            &problem.with("request_id", id.as_str()),
            head,
        );
    }
    let fields = response.headers_mut();
    fields.entry(CACHE_CONTROL).or_insert(NO_STORE);
    response
}

fn write(response: &mut Response, problem: &Problem, head: bool) {
    let document = serde_json::to_vec(problem).expect("a problem is JSON");
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(document.len()));
    if !head {
        *response.body_mut() = document.into();
    }
}

/// The answer to a path that has no meaning here.
pub(crate) async fn no_such_resource() -> Failure {
    problem(
        own::NOT_FOUND,
        "Files are under /files/, upload resources under /uploads/, packs under /packs/.",
    )
}

/// The answer to a method that the resource does not have; the router adds `Allow`.
pub(crate) async fn no_such_method() -> Failure {
    problem(
        own::METHOD_NOT_ALLOWED,
        "Allow has the methods that this resource takes.",
    )
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn status(error: Error) -> Option<StatusCode> {
        match Failure::from(error) {
            Failure::Told(told) => Some(told.problem.status()),
            Failure::Cut => None,
        }
    }

    #[test]
    fn every_error_has_its_answer() {
        use domain::upload::Gone;
        use protocol::rejection::Rejection;
        let store = || Error::Store {
            doing: "try",
            source: "a secret of ours".into(),
        };
        for (error, expected) in [
            (Error::Rejected(Rejection::InconsistentLength), Some(400)),
            (Error::NotFound { what: "file" }, Some(404)),
            (Error::Gone(Gone::Expired), Some(410)),
            (Error::Forbidden, Some(403)),
            (Error::Refused { detail: None }, Some(403)),
            (Error::PreconditionFailed, Some(412)),
            (Error::Superseded, None),
            (Error::ClientGone, None),
            (Error::Draining, Some(503)),
            (Error::Busy, Some(503)),
            (Error::Full, Some(507)),
            (store(), Some(500)),
            (
                Error::StoreRefuses {
                    doing: "try",
                    source: "a secret of ours".into(),
                },
                Some(500),
            ),
        ] {
            let name = error.to_string();
            assert_eq!(
                status(error).map(|status| status.as_u16()),
                expected,
                "{name}"
            );
        }
        let Failure::Told(told) = Failure::from(store()) else {
            panic!("a failing store is told");
        };
        assert!(
            !serde_json::to_string(&told.problem)
                .unwrap()
                .contains("secret")
        );
    }

    #[test]
    fn a_foreign_identifier_is_taken_only_if_it_is_harmless() {
        let with = |value: &'static str| {
            HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_static(value))])
        };
        assert_eq!(RequestId::of(&with("abc-1")).as_str(), "abc-1");
        assert_ne!(RequestId::of(&with("a b")).as_str(), "a b");
        assert_eq!(RequestId::of(&HeaderMap::new()).as_str().len(), 36);
    }
}
