//! The table from errors to answers.
//!
//! [`Voice::answer`] decides for every request: which kind of problem an error is, and whether a
//! retry helps the client. The voice determines the protocol in which the answer is written: plain
//! HTTP, or the upload protocol of the request.

use domain::Error;
use domain::access::Denied;
use domain::error::PackError;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::answer::{Known, Refusal};
use protocol::dialect::Dialect;
use protocol::problem::Problem;
use protocol::rejection::Rejection;

use super::{Failure, Missing, kinds};

/// Maximum number of digests that a problem lists; the draft lists all.
const MAX_DIGESTS: usize = 16;

/// Protocol in which an answer is written.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Voice<'a> {
    /// HTTP, without an upload protocol.
    Plain,
    /// The protocol of a request that creates or names an upload.
    Upload {
        /// The protocol and its version.
        dialect: Dialect,
        /// State of the upload, as far as it is known.
        known: Known<'a>,
        /// Set once the client knows that it can resume.
        announced: bool,
    },
}

/// Prospects of a client that sends the request again.
enum Retry {
    /// Something else has to change first.
    Useless,
    /// The fault may pass at any time.
    Resume,
    /// The fault passes within seconds.
    After(HeaderValue),
}

impl<'a> Voice<'a> {
    /// Returns the voice for a request of which only the dialect is known.
    pub(crate) fn of(dialect: Dialect) -> Self {
        Self::with(dialect, Known::Nothing)
    }

    /// Returns the voice for a request before any 104.
    pub(crate) fn with(dialect: Dialect, known: Known<'a>) -> Self {
        Self::Upload {
            dialect,
            known,
            announced: false,
        }
    }

    /// Decides the answer to a request that failed.
    ///
    /// After a 104, a fault that passes cuts the exchange: clients resume after a cut, and give up
    /// after a 5xx. A fault that stays, such as a store that refuses or is full, is answered,
    /// because a client that resumes would be cut again and again.
    pub(crate) fn answer(self, error: &Error) -> Failure {
        let (problem, retry) = match error {
            Error::Rejected(rejection) => return self.rejected(rejection),
            Error::NotFound { what } => return self.missing(Missing::Resource(what)),
            Error::Gone(_) => return self.gone(),
            // The client is away, or waits for the answer to a newer request.
            Error::Superseded | Error::ClientGone => return Failure::Cut,
            Error::Forbidden => (kinds::FORBIDDEN.problem(), Retry::Useless),
            Error::Refused { detail: None } => (kinds::REFUSED.problem(), Retry::Useless),
            Error::Refused {
                detail: Some(detail),
            } => (kinds::REFUSED.detailed(detail), Retry::Useless),
            Error::PreconditionFailed => (kinds::PRECONDITION_FAILED.problem(), Retry::Useless),
            Error::Pack(error) => (of_pack(error), Retry::Useless),
            Error::Full => (kinds::FULL.problem(), Retry::Useless),
            Error::Draining | Error::Busy => (
                kinds::BUSY.problem(),
                Retry::After(HeaderValue::from_static("5")),
            ),
            Error::Corrupt { .. } | Error::Store { .. } => {
                (kinds::INTERNAL.problem(), Retry::Resume)
            }
            Error::StoreRefuses { .. } => (kinds::INTERNAL.problem(), Retry::Useless),
        };
        if self.is_announced() && !matches!(retry, Retry::Useless) {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "an upload is cut, to be resumed"
            );
            return Failure::Cut;
        }
        if problem.status() == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = error as &dyn std::error::Error, "a request failed");
        }
        let mut fields = self.fields();
        if let Retry::After(seconds) = retry {
            fields.insert(RETRY_AFTER, seconds);
        }
        Failure::answered(problem, fields)
    }

    /// Answers a request that breaks a rule.
    pub(crate) fn rejected(self, rejection: &Rejection) -> Failure {
        match self {
            Self::Plain => Problem::new(kinds::MALFORMED_REQUEST)
                .detailed(rejection.to_string())
                .into(),
            Self::Upload { dialect, known, .. } => dialect.refused(rejection, known).into(),
        }
    }

    /// Answers a request for a resource that does not exist. In an upload protocol, that is the
    /// upload.
    pub(crate) fn missing(self, missing: Missing) -> Failure {
        match self {
            Self::Plain => missing.into(),
            Self::Upload { dialect, .. } => dialect.unknown().into(),
        }
    }

    /// Answers a request without a valid credential.
    pub(crate) fn denied(self, denied: Denied) -> Failure {
        let (kind, challenge) = kinds::denied(denied);
        let mut fields = self.fields();
        fields.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        Failure::answered(kind.problem(), fields)
    }

    fn gone(self) -> Failure {
        match self {
            Self::Plain => kinds::UPLOAD_GONE.problem().into(),
            Self::Upload { dialect, .. } => dialect.gone().into(),
        }
    }

    fn is_announced(self) -> bool {
        matches!(
            self,
            Self::Upload {
                announced: true,
                ..
            }
        )
    }

    /// Returns the fields of every refusal.
    fn fields(self) -> HeaderMap {
        match self {
            Self::Plain => HeaderMap::new(),
            Self::Upload { dialect, .. } => dialect.refusal_fields(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Voice::Plain.answer(&error)
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::answered(refusal.problem, refusal.fields)
    }
}

fn of_pack(error: &PackError) -> Problem {
    let kind = match error {
        PackError::Archive { .. } | PackError::Entry { .. } => kinds::INVALID_ARCHIVE,
        PackError::Document(_)
        | PackError::WrongSize { .. }
        | PackError::UnknownException { .. } => kinds::INVALID_DOCUMENT,
        PackError::DocumentTooLarge { .. } => kinds::DOCUMENT_TOO_LARGE,
        PackError::NoFiles => kinds::NO_FILES,
        PackError::Missing { .. } => kinds::MISSING_CONTENT,
        PackError::Outdated { .. } => kinds::OUTDATED_BASE,
        PackError::Published { .. } => kinds::DRAFT_PUBLISHED,
        PackError::Need => kinds::UNKNOWN_NEED,
    };
    let problem = kind.because(&error.to_string());
    match error {
        PackError::Archive {
            entry: Some(entry), ..
        }
        | PackError::Entry { entry, .. } => problem.with("entry", entry.as_str()),
        PackError::Missing { missing } => {
            let listed = missing.sha256s.iter().take(MAX_DIGESTS);
            problem
                .with("contents", missing.contents)
                .with("size", missing.size)
                .with(
                    "sha256",
                    listed.map(ToString::to_string).collect::<Vec<_>>(),
                )
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

#[cfg(test)]
mod tests {
    use domain::upload::Gone;
    use protocol::ietf::Version;

    use super::*;

    fn errors() -> Vec<(Error, Option<u16>, bool)> {
        let secret = || "a secret of ours".into();
        let doing = "try";
        vec![
            (
                Error::Rejected(Rejection::InconsistentLength),
                Some(400),
                false,
            ),
            (Error::NotFound { what: "file" }, Some(404), false),
            (Error::Gone(Gone::Expired), Some(410), false),
            (Error::Forbidden, Some(403), false),
            (Error::Refused { detail: None }, Some(403), false),
            (Error::PreconditionFailed, Some(412), false),
            (Error::Pack(PackError::Need), Some(404), false),
            (Error::Full, Some(507), false),
            (
                Error::StoreRefuses {
                    doing,
                    source: secret(),
                },
                Some(500),
                false,
            ),
            (Error::Draining, Some(503), true),
            (Error::Busy, Some(503), true),
            (Error::Corrupt { what: "it".into() }, Some(500), true),
            (
                Error::Store {
                    doing,
                    source: secret(),
                },
                Some(500),
                true,
            ),
            (Error::Superseded, None, true),
            (Error::ClientGone, None, true),
        ]
    }

    fn status(failure: &Failure) -> Option<u16> {
        failure.problem().map(|problem| problem.status().as_u16())
    }

    #[test]
    fn every_voice_gives_an_error_the_same_status() {
        for (error, expected, cut) in errors() {
            assert_eq!(status(&Voice::Plain.answer(&error)), expected, "{error}");
            for dialect in [Dialect::Plain, Dialect::Ietf(Version::Rfc), Dialect::Tus] {
                let voice = Voice::of(dialect);
                assert_eq!(
                    status(&voice.answer(&error)),
                    expected,
                    "{dialect:?}: {error}"
                );
                let announced = Voice::Upload {
                    dialect,
                    known: Known::Nothing,
                    announced: true,
                };
                let expected = expected.filter(|_| !cut);
                assert_eq!(
                    status(&announced.answer(&error)),
                    expected,
                    "{dialect:?}: {error}"
                );
            }
        }
    }

    #[test]
    fn a_fault_of_a_store_is_told_without_its_cause() {
        for (error, ..) in errors() {
            if let Some(problem) = Failure::from(error).problem() {
                let document = serde_json::to_string(problem).unwrap();
                assert!(!document.contains("secret"), "{document}");
            }
        }
    }
}
