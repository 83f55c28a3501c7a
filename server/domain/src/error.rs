//! Errors of use cases, independent of any protocol.

mod packs;

use protocol::rejection::Rejection;
use thiserror::Error;

use crate::blob_store::BlobError;
use crate::body::BodyFault;
use crate::gatekeeper::Closed;
use crate::metadata_store::MetadataError;
use crate::upload::Gone;

pub use self::packs::{EntryFault, PackError};

/// An error of a use case.
#[derive(Debug, Error)]
pub enum Error {
    /// The request violates a rule of its protocol.
    #[error("the request broke a rule")]
    Rejected(#[source] Rejection),
    /// The thing does not exist, or this principal may not know of it.
    #[error("{what} not found")]
    NotFound {
        /// The kind of thing: "file", "upload".
        what: &'static str,
    },
    /// The upload existed and will never be complete.
    #[error("the upload is gone")]
    Gone(Gone),
    /// The principal may not do this.
    #[error("not allowed")]
    Forbidden,
    /// A gatekeeper refuses the upload.
    #[error("the upload is refused")]
    Refused {
        /// The reason to show to the client, if any: a bounded text of one line.
        detail: Option<String>,
    },
    /// A precondition on the target is false.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// A newer request for the same upload has taken over.
    #[error("a newer request has taken over")]
    Superseded,
    /// The client stopped sending in the middle of a body. The received bytes are kept.
    #[error("the client stopped sending")]
    ClientGone,
    /// The server is shutting down. The received bytes are kept.
    #[error("the server is shutting down")]
    Draining,
    /// The server already does too much of this.
    #[error("too busy")]
    Busy,
    /// The storage is full.
    #[error("no room left")]
    Full,
    /// The stored bytes differ from the recorded facts.
    #[error("{what} is corrupt")]
    Corrupt {
        /// The corrupt thing.
        what: String,
    },
    /// The request violates a rule of packs.
    #[error("the request about a pack is refused")]
    Pack(#[source] PackError),
    /// A store refuses, and will until its operator changes something: retrying does not help.
    #[error("failed to {doing}: the store refuses")]
    StoreRefuses {
        /// Completes the sentence "failed to …".
        doing: &'static str,
        /// The cause, and the advice to the operator.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A store failed.
    #[error("failed to {doing}")]
    Store {
        /// Completes the sentence "failed to …".
        doing: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Converts a failure of the blob store while `doing` something. After a transient failure, a
    /// retry of the client finds out whether the work was done.
    pub(crate) fn blob(doing: &'static str) -> impl FnOnce(BlobError) -> Self {
        move |error| match error {
            BlobError::Full => Self::Full,
            BlobError::Unreachable { .. } => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to {doing}"
                );
                Self::Busy
            }
            // The bytes may turn out to be intact. Until an operator has looked, nothing is dropped
            // and clients retry.
            BlobError::Inconsistent { .. } => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "failed to {doing}"
                );
                Self::Busy
            }
            BlobError::Refused { .. } => Self::StoreRefuses {
                doing,
                source: error.into(),
            },
            BlobError::Missing { .. } | BlobError::Failed { .. } => Self::Store {
                doing,
                source: error.into(),
            },
        }
    }

    /// Converts a failure of the metadata store while `doing` something. An unreachable store will
    /// return: a retry of the client then finds out whether the work was done.
    pub(crate) fn metadata(doing: &'static str) -> impl FnOnce(MetadataError) -> Self {
        move |error| match error {
            MetadataError::Full => Self::Full,
            MetadataError::Unreachable { .. } => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to {doing}"
                );
                Self::Busy
            }
            MetadataError::Inconsistent { .. } | MetadataError::Failed { .. } => Self::Store {
                doing,
                source: error.into(),
            },
        }
    }
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<BodyFault> for Error {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::Broken(rejection) => Self::Rejected(rejection),
            BodyFault::Cut | BodyFault::Idle => Self::ClientGone,
        }
    }
}

impl From<PackError> for Error {
    fn from(error: PackError) -> Self {
        Self::Pack(error)
    }
}

impl From<Closed> for Error {
    fn from(closed: Closed) -> Self {
        match closed {
            Closed::Refused { detail } => Self::Refused { detail },
            Closed::Unavailable => Self::Busy,
        }
    }
}

/// Joins an error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
