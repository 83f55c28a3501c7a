//! How an upload is spoken of: every dialect in the same words.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tests::{Content, Dice, Head, Request};

use crate::dialect::Dialect;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A version of the IETF's resumable uploads.
    Ietf(Dialect),
    /// tus 1.0.0.
    Tus,
    /// A request with everything, that cannot be resumed.
    Plain,
}

impl Way {
    /// The resumable ones are more interesting.
    pub(crate) fn thrown(dice: &mut Dice) -> Self {
        match dice.within(0..12) {
            0..8 => {
                let count = u64::try_from(Dialect::ALL.len()).expect("a few");
                let place = usize::try_from(dice.within(0..count)).expect("a few");
                Self::Ietf(Dialect::ALL[place])
            }
            8..10 => Self::Tus,
            _ => Self::Plain,
        }
    }

    /// Makes `request`, which has a target and a type, the creation of an upload of `content`, whose body completes it or not.
    pub(crate) fn create(self, request: Request, content: Content, completes: bool) -> Request {
        match self {
            Self::Ietf(dialect) => dialect.create(request, completes),
            Self::Tus => request
                .field("Tus-Resumable", "1.0.0")
                .field("Upload-Length", content.length()),
            Self::Plain => request,
        }
    }

    /// The type of the content, as a creation says it.
    pub(crate) fn typed(self, request: Request, media_type: &str) -> Request {
        match self {
            Self::Ietf(_) | Self::Plain => request.field("Content-Type", media_type),
            Self::Tus => {
                let request = request.field(
                    "Upload-Metadata",
                    format!("filetype {}", STANDARD.encode(media_type)),
                );
                request.field("Content-Type", "application/offset+octet-stream")
            }
        }
    }

    pub(crate) fn append(self, upload: &str, offset: u64, completes: bool) -> Request {
        match self {
            Self::Ietf(dialect) => dialect.append(upload, offset, completes),
            Self::Tus => Request::patch(upload)
                .field("Tus-Resumable", "1.0.0")
                .field("Content-Type", "application/offset+octet-stream")
                .field("Upload-Offset", offset),
            Self::Plain => unreachable!("it has no upload resource that its client knows"),
        }
    }

    pub(crate) fn head(self, upload: &str) -> Request {
        match self {
            Self::Ietf(dialect) => dialect.head(upload),
            Self::Tus | Self::Plain => Request::head(upload).field("Tus-Resumable", "1.0.0"),
        }
    }

    /// The request that gives the upload up.
    pub(crate) fn cancel(self, upload: &str) -> Request {
        match self {
            Self::Ietf(dialect) => dialect.cancel(upload),
            Self::Tus | Self::Plain => Request::delete(upload).field("Tus-Resumable", "1.0.0"),
        }
    }

    /// Whether an answer says that everything is there.
    pub(crate) fn is_complete(self, head: &Head, content: Content) -> bool {
        match self {
            Self::Ietf(dialect) => dialect.is_complete(head) == Some(true),
            Self::Tus => {
                head.optional("upload-offset").is_some() && head.offset() == content.length()
            }
            Self::Plain => (200..300).contains(&head.status),
        }
    }
}
