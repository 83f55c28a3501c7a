//! The upload protocols, behind one interface.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tests::{Content, Dice, Head, Request};

use crate::dialect::Dialect;

/// Protocol of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// A version of the IETF's resumable uploads.
    Ietf(Dialect),
    /// tus 1.0.0.
    Tus,
    /// A single request with all of the content, which cannot be resumed.
    Plain,
}

impl Way {
    /// Chooses a protocol, favouring the resumable ones.
    pub(crate) fn thrown(dice: &mut Dice) -> Self {
        match dice.within(0..12) {
            0..8 => {
                let count = u64::try_from(Dialect::ALL.len()).expect("a count fits");
                let place = usize::try_from(dice.within(0..count)).expect("a count fits");
                Self::Ietf(Dialect::ALL[place])
            }
            8..10 => Self::Tus,
            _ => Self::Plain,
        }
    }

    /// Turns `request`, which has a target and a type, into the creation of an upload of `content`.
    /// `completes` says whether its body completes the upload.
    pub(crate) fn create(self, request: Request, content: Content, completes: bool) -> Request {
        match self {
            Self::Ietf(dialect) => dialect.create(request, completes),
            Self::Tus => request
                .field("Tus-Resumable", "1.0.0")
                .field("Upload-Length", content.length()),
            Self::Plain => request,
        }
    }

    /// Adds the media type of the content in the form that creations of the protocol use.
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

    /// Returns the request that cancels the upload.
    pub(crate) fn cancel(self, upload: &str) -> Request {
        match self {
            Self::Ietf(dialect) => dialect.cancel(upload),
            Self::Tus | Self::Plain => Request::delete(upload).field("Tus-Resumable", "1.0.0"),
        }
    }

    /// Reports whether an answer says that the upload is complete.
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
