//! Kinds of problems beyond those of the specifications, each with its advice to the client.

use domain::access::Denied;
use protocol::problem::{Problem, ProblemType, types};

use super::Failure;

/// Kind of problem with advice that fits every occurrence.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Advised {
    kind: ProblemType,
    /// A sentence that tells the client what to do.
    advice: &'static str,
}

impl Advised {
    const fn new(kind: ProblemType, advice: &'static str) -> Self {
        Self { kind, advice }
    }

    /// Returns a problem whose detail is the advice.
    pub(crate) fn problem(self) -> Problem {
        self.detailed(self.advice)
    }

    /// Returns a problem whose detail replaces the advice.
    pub(crate) fn detailed(self, detail: impl Into<String>) -> Problem {
        Problem::new(self.kind).detailed(detail)
    }

    /// Returns a problem whose detail is a reason, as a sentence, and the advice.
    pub(crate) fn because(self, reason: &str) -> Problem {
        let advice = self.advice;
        self.detailed(format!("{}. {advice}", capitalised(reason)))
    }
}

/// Capitalises the first letter of a message.
pub(crate) fn capitalised(message: &str) -> String {
    let mut text = message.to_owned();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text
}

const fn own(uri: &'static str, title: &'static str, status: u16) -> ProblemType {
    ProblemType::new(uri, title, status)
}

/// 404; [`Missing`] names the resource that does not exist.
pub(super) const NOT_FOUND: ProblemType = own("tag:longhaul,2026:not-found", "Not found", 404);
pub(crate) const MISDIRECTED: ProblemType = own(
    "tag:longhaul,2026:misdirected",
    "The server does not go by this name",
    421,
);
pub(crate) const MALFORMED_REQUEST: ProblemType = own(
    "tag:longhaul,2026:malformed-request",
    "The request is malformed",
    400,
);
pub(crate) const INVALID_PATH: ProblemType = own(
    "tag:longhaul,2026:invalid-path",
    "The path cannot name a file",
    400,
);
pub(crate) const NOT_LIVE: ProblemType = own(
    "tag:longhaul,2026:not-live",
    "The server does not work",
    503,
);
pub(crate) const NOT_READY: ProblemType = own(
    "tag:longhaul,2026:not-ready",
    "The server should be sent no requests now",
    503,
);

pub(super) const METHOD_NOT_ALLOWED: Advised = Advised::new(
    own(
        "tag:longhaul,2026:method-not-allowed",
        "Method not allowed",
        405,
    ),
    "Use a method that the Allow field lists.",
);
pub(crate) const FORBIDDEN: Advised = Advised::new(
    own("tag:longhaul,2026:forbidden", "Not allowed", 403),
    "Your credential does not cover this.",
);
pub(super) const REFUSED: Advised = Advised::new(
    own("tag:longhaul,2026:refused", "The upload is refused", 403),
    "The operator's rules do not let this upload begin.",
);
pub(super) const PRECONDITION_FAILED: Advised = Advised::new(
    types::PRECONDITION_FAILED,
    "The resource is not in the state that the request's conditions name. Read it again, then \
     decide anew.",
);
pub(super) const UPLOAD_GONE: Advised = Advised::new(types::UPLOAD_GONE, "Begin a new upload.");
pub(super) const BUSY: Advised = Advised::new(
    own(
        "tag:longhaul,2026:busy",
        "The server cannot take this on now",
        503,
    ),
    "Try again later.",
);
pub(super) const FULL: Advised = Advised::new(
    own(
        "tag:longhaul,2026:storage-full",
        "There is no room left",
        507,
    ),
    "The server keeps what it acknowledged before.",
);
pub(super) const INTERNAL: Advised = Advised::new(
    own("tag:longhaul,2026:internal", "The server failed", 500),
    "Give the request_id to the server's operator.",
);

pub(super) const DOCUMENT_TOO_LARGE: Advised = Advised::new(
    own(
        "tag:longhaul,2026:document-too-large",
        "The document is too large",
        413,
    ),
    "List digests instead of files, or name a version and its exceptions.",
);
pub(super) const INVALID_DOCUMENT: Advised = Advised::new(
    own(
        "tag:longhaul,2026:invalid-document",
        "The document cannot be read",
        422,
    ),
    "Correct the document and send it again.",
);
pub(super) const INVALID_ARCHIVE: Advised = Advised::new(
    own(
        "tag:longhaul,2026:invalid-archive",
        "The archive is refused",
        422,
    ),
    "Nothing of it was kept. Send a zip, tar, tar.gz or tar.zst of plain files.",
);
pub(super) const NO_FILES: Advised = Advised::new(
    own(
        "tag:longhaul,2026:no-files",
        "A version has at least one file",
        422,
    ),
    "Add a file (directories alone make no version), and send it again.",
);
pub(super) const MISSING_CONTENT: Advised = Advised::new(
    own(
        "tag:longhaul,2026:missing-content",
        "Content is missing",
        409,
    ),
    "Upload an archive with them, then publish again.",
);
pub(super) const OUTDATED_BASE: Advised = Advised::new(
    own(
        "tag:longhaul,2026:outdated-base",
        "The base is not the newest version",
        409,
    ),
    "Take the newest version into account, and draft again.",
);
pub(super) const DRAFT_PUBLISHED: Advised = Advised::new(
    own(
        "tag:longhaul,2026:draft-published",
        "The draft is published",
        409,
    ),
    "Draft the next version.",
);
pub(super) const UNKNOWN_NEED: Advised = Advised::new(
    own(
        "tag:longhaul,2026:unknown-need",
        "The version has no such need",
        404,
    ),
    "Compare again: the server forgets a registered need after a while.",
);

const CREDENTIAL_NEEDED: Advised = Advised::new(
    own(
        "tag:longhaul,2026:credential-needed",
        "A credential is needed",
        401,
    ),
    "Send an API key: Authorization: Bearer KEY.",
);
const CREDENTIAL_INVALID: Advised = Advised::new(
    own(
        "tag:longhaul,2026:credential-invalid",
        "The credential is not valid",
        401,
    ),
    "The server knows no such key.",
);

/// Returns the kind of problem for a request that is not authorised, and the challenge of its
/// answer.
pub(super) const fn denied(denied: Denied) -> (Advised, &'static str) {
    match denied {
        Denied::Missing => (CREDENTIAL_NEEDED, "Bearer"),
        Denied::Invalid => (CREDENTIAL_INVALID, "Bearer error=\"invalid_token\""),
    }
}

/// Resource that a request names and the server does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Path that has no meaning.
    Path,
    /// Path that has no meaning on the admin listener.
    AdminPath,
    /// Resource of this kind that the domain did not find.
    Resource(&'static str),
    /// Version whose name is no number.
    Version,
    /// Draft whose name is no identifier.
    Draft,
    /// Event whose name is no identifier, or that was delivered.
    DeadEvent,
    /// Archive whose name has no known extension.
    Archive,
    /// Signature of a catalogue, or the key to verify it.
    SigningKey,
    /// File that an upload became.
    UploadedFile,
}

impl Missing {
    /// Returns a problem that names the missing resource, and gives advice if any helps.
    pub(crate) fn problem(self) -> Problem {
        let detail = match self {
            Self::Path => {
                "Files are under /files/, upload resources under /uploads/, packs under /packs/."
            }
            Self::AdminPath => "This is the admin listener: /livez, /readyz, /events/dead.",
            Self::Resource(kind) => return absent(kind),
            Self::Version => return absent("version"),
            Self::Draft => return absent("draft"),
            Self::DeadEvent => return absent("dead event"),
            Self::Archive => "Ask for an archive by a name that ends in .zip or .tar.",
            Self::SigningKey => "The server has no signing key, so there are no signatures.",
            Self::UploadedFile => {
                "The file that this upload became was deleted or replaced. Ask with Accept: \
                 application/json for the upload itself."
            }
        };
        Problem::new(NOT_FOUND).detailed(detail)
    }
}

fn absent(kind: &str) -> Problem {
    Problem::new(NOT_FOUND).detailed(format!("There is no such {kind}."))
}

impl From<Missing> for Failure {
    fn from(missing: Missing) -> Self {
        missing.problem().into()
    }
}
