//! What the troubles of requests mean to whoever works on a blob.

use std::io;

use domain::BlobKey;
use domain::blob_store::BlobError;

use super::bucket::Trouble;

/// The error of somebody who meant to `verb` a blob.
pub(super) fn failed(key: &BlobKey, verb: &str, trouble: Trouble) -> BlobError {
    let source = match trouble {
        Trouble::NoObject => return BlobError::Missing { key: key.clone() },
        Trouble::Full => return BlobError::Full,
        Trouble::NoUpload | Trouble::Changed => {
            Box::new(io::Error::other("somebody else has changed it since"))
        }
        Trouble::Other(source) => source,
    };
    BlobError::Failed {
        doing: format!("{verb} blob {key}"),
        source,
    }
}
