//! Kinds of failures.
//!
//! A failure of an engine is one of three kinds ([`Kind`]). A fault of its surroundings (a lock of
//! another process, a disk that cannot be written, an engine that restarts or is read-only) is
//! independent of the request and passes, so the request may be repeated:
//! [`MetadataError::Unreachable`]. A lack of space is [`MetadataError::Full`]. Other failures would
//! repeat with the request, or with the data: [`MetadataError::Failed`].

use std::error::Error;

use domain::metadata_store::MetadataError;
use thiserror::Error;

/// Creates an error for a failure other than a full disk. `doing` completes the sentence "failed to
/// …".
pub(crate) fn failed(
    doing: &'static str,
    source: impl Into<Box<dyn Error + Send + Sync>>,
) -> MetadataError {
    MetadataError::Failed {
        doing,
        source: source.into(),
    }
}

/// Origin of an engine's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The disk is full, or a bound of the engine is reached.
    Full,
    /// The engine's surroundings, which recover by themselves or with an operator's help.
    Surroundings,
    /// The statement, the data, or a broken engine.
    Own,
}

impl Kind {
    /// Converts the failure to the port's error.
    pub(crate) fn error(
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

/// Returns true if the connection to the engine failed, and not the engine.
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

/// A statement changed an unexpected number of rows.
#[derive(Debug, Error)]
#[error(
    "{affected} rows were changed instead of {expected}; a blob may be doomed, or recorded with another content"
)]
pub(crate) struct NotAsExpected {
    pub(crate) expected: u64,
    pub(crate) affected: u64,
}

/// A concurrent change outdated the rows that this change had read. A new transaction sees the
/// current ones.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct Overtaken(pub(crate) &'static str);
