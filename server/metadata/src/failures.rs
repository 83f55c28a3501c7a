//! Failures that no engine reports by itself.

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

/// A statement that met other rows than it was written for.
#[derive(Debug, Error)]
#[error(
    "{affected} rows were changed instead of {expected}; a blob may be doomed, or recorded with another content"
)]
pub(crate) struct NotAsExpected {
    pub(crate) expected: u64,
    pub(crate) affected: u64,
}
