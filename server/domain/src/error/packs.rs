//! Broken rules of packs.

use archive::{EntryPath, UnpackFault};

use crate::pack::Missing;

/// Why a request about a pack is refused.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The archive is none, or not one that may be unpacked.
    #[error("the archive is refused{}: {fault}", of_entry(entry.as_deref()))]
    Archive {
        /// The entry that it is about.
        entry: Option<String>,
        /// What is wrong with it.
        fault: UnpackFault,
    },
    /// The archive is sound, but has not what the draft asks for.
    #[error("the entry {entry:?} {reason}")]
    Entry {
        /// The entry that it is about.
        entry: String,
        /// Completes the sentence.
        reason: EntryFault,
    },
    /// A document that lists files or digests cannot be read; the text says why and where.
    #[error("{0}")]
    Document(String),
    /// A document that lists files or digests is longer than this, in bytes.
    #[error("the document has more than {limit} bytes")]
    DocumentTooLarge {
        /// The bound.
        limit: u64,
    },
    /// Not everything that is to be published is here.
    #[error("{} contents are missing", missing.contents)]
    Missing {
        /// What is.
        missing: Box<Missing>,
    },
    /// The draft was made from a version that is not the newest any more.
    #[error("the draft is based on version {base}, but {}", newest(*latest))]
    Outdated {
        /// The version that the draft was made from.
        base: u64,
        /// The newest version.
        latest: Option<u64>,
    },
    /// The draft is published and takes no more content.
    #[error("the draft is published as version {version}")]
    Published {
        /// The version that it became.
        version: u64,
    },
    /// A stated size is not that of the content.
    #[error("the size of {path:?} is not that of its content, {size} bytes")]
    WrongSize {
        /// The file.
        path: String,
        /// The true size, in bytes.
        size: u64,
    },
    /// An exception is a file of neither version.
    #[error("{path:?} in `except` is a file of neither version {base} nor version {version}")]
    UnknownException {
        /// The file.
        path: EntryPath<'static>,
        /// The version that the client has.
        base: u64,
        /// The version that it wants.
        version: u64,
    },
    /// There are no files, so there is no version.
    #[error("there are no files in it")]
    NoFiles,
    /// The text in a URL is no need of this version.
    #[error("that is no need of this version")]
    Need,
}

/// Why an entry of a sound archive is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryFault {
    /// The draft has no such file.
    #[error("is not in the draft")]
    Unexpected,
    /// It has another size than the draft says.
    #[error("has not the size that the draft says")]
    Size,
    /// It has another digest than the draft says.
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
