//! Failures to open a store.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Failure to open a store.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process, or another store of this one, works in the same directory.
    #[error("the blob directory {} is in use by another process", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A setting is invalid.
    #[error("blobs.{setting} must be {requirement}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// The rule for it; completes "must be …".
        requirement: &'static str,
    },
    /// The server of the bucket is out of reach, or refuses what the store needs.
    #[error("the bucket {bucket} cannot be used: {advice}")]
    Bucket {
        /// Name of the bucket.
        bucket: String,
        /// Change to make.
        advice: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Any other failure; `doing` completes the sentence "failed to …".
    #[error("failed to {doing}")]
    Failed {
        /// The operation that failed.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}
