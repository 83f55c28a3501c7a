//! Kinds of failures.
//!
//! An engine's failure is one of three kinds ([`Kind`]). A fault of its surroundings (a lock that
//! another process holds, a disk that cannot be written, an engine that restarts or is told to read
//! only) says nothing of the request and passes, so the request is to come again:
//! [`MetadataError::Unreachable`]. A lack of room is [`MetadataError::Full`]. The rest would come
//! again with the request, or with the data: [`MetadataError::Failed`].

use std::error::Error;

use domain::metadata_store::MetadataError;
use thiserror::Error;

/// A failure that is no full disk; `doing` completes the sentence "failed to …".
pub(crate) fn failed(
    doing: &'static str,
    source: impl Into<Box<dyn Error + Send + Sync>>,
) -> MetadataError {
    MetadataError::Failed {
        doing,
        source: source.into(),
    }
}

/// The origin of an engine's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is no room left, or a bound of the engine is reached.
    Full,
    /// The engine's surroundings, which change by themselves or by an operator's hand.
    Surroundings,
    /// The statement, the data, or an engine that is broken.
    Own,
}

impl Kind {
    /// The failure as the port tells it.
    pub(crate) fn told(
        self,
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> MetadataError {
        match self {
            Self::Full => MetadataError::Full,
            Self::Surroundings => MetadataError::Unreachable {
                doing,
                source: source.into(),
            },
            Self::Own => failed(doing, source),
        }
    }
}

/// Tells whether the way to the engine failed, and not the engine.
pub(crate) fn is_cut_off(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
    )
}

/// A statement that met other rows than it was written for.
#[derive(Debug, Error)]
#[error(
    "{affected} rows were changed instead of {expected}; a blob may be doomed, or recorded with another content"
)]
pub(crate) struct NotAsExpected {
    pub(crate) expected: u64,
    pub(crate) affected: u64,
}

/// A change that others made of what this one had gone by; a new transaction will see it.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Overtaken(pub(crate) &'static str);
