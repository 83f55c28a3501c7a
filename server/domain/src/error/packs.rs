//! Errors of requests about packs.

use archive::{EntryPath, UnpackFault};

use crate::pack::Missing;

/// An error of a request about a pack.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The archive is malformed, or may not be unpacked.
    #[error("the archive is refused{}: {fault}", of_entry(entry.as_deref()))]
    Archive {
        /// The entry at fault.
        entry: Option<String>,
        /// The fault.
        fault: UnpackFault,
    },
    /// The archive is valid, but does not match the draft.
    #[error("the entry {entry:?} {reason}")]
    Entry {
        /// The entry at fault.
        entry: String,
        /// Completes the sentence.
        reason: EntryFault,
    },
    /// A document that lists files or digests cannot be read; the text gives the reason and the
    /// position.
    #[error("{0}")]
    Document(String),
    /// A document that lists files or digests is longer than `limit`.
    #[error("the document has more than {limit} bytes")]
    DocumentTooLarge {
        /// Maximum length of the document, in bytes.
        limit: u64,
    },
    /// Contents of the version to publish are missing.
    #[error("{} contents are missing", missing.contents)]
    Missing {
        /// The missing contents.
        missing: Box<Missing>,
    },
    /// The draft was made from a version that is no longer the newest.
    #[error("the draft is based on version {base}, but {}", newest(*latest))]
    Outdated {
        /// The version that the draft was made from.
        base: u64,
        /// The newest version.
        latest: Option<u64>,
    },
    /// The draft is published and accepts no more content.
    #[error("the draft is published as version {version}")]
    Published {
        /// The version that the draft became.
        version: u64,
    },
    /// A stated size differs from the content's.
    #[error("the size of {path:?} is not that of its content, {size} bytes")]
    WrongSize {
        /// The file.
        path: String,
        /// The true size, in bytes.
        size: u64,
    },
    /// A path in `except` is a file of neither version.
    #[error("{path:?} in `except` is a file of neither version {base} nor version {version}")]
    UnknownException {
        /// The file.
        path: EntryPath<'static>,
        /// The version that the client has.
        base: u64,
        /// The version that the client wants.
        version: u64,
    },
    /// The draft has no files, so there is no version to publish.
    #[error("there are no files in it")]
    NoFiles,
    /// The text in a URL is not a need of this version.
    #[error("that is no need of this version")]
    Need,
}

/// Faults of an entry in a valid archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// The draft has no such file.
    #[error("is not in the draft")]
    Unexpected,
    /// The entry's size differs from the draft's.
    #[error("has not the size that the draft says")]
    Size,
    /// The entry's digest differs from the draft's.
    #[error("has not the SHA-256 that the draft says")]
    Digest,
}

fn newest(latest: Option<u64>) -> String {
    match latest {
        Some(latest) => format!("version {latest} is the newest"),
        None => "the pack has no version now".to_owned(),
    }
}

fn of_entry(entry: Option<&str>) -> String {
    entry
        .map(|entry| format!(" at entry {entry:?}"))
        .unwrap_or_default()
}
