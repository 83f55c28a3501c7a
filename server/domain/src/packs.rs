//! Packs: trees of files that are published as numbered versions and never change.
//!
//! *Publishing.* A client drafts a tree ([`create_draft`](crate::Authorized::create_draft)), learns which contents the server lacks, uploads them as
//! archives (`unpacking`), and publishes ([`publish`](crate::Authorized::publish)). Contents are stored by their digests: small ones together in
//! segments (`segments`), large ones by themselves, each as it is and, where that pays, deflated.
//!
//! *Reading.* A version is loaded whole into memory (`versions`): its catalogue, the forms of its files and their places. Archives
//! are virtual: an [`archive::Layout`] says which bytes there are, and `archives` reads them from where they lie.

mod archives;
mod documents;
mod drafts;
mod places;
mod publishing;
mod reading;
mod segments;
mod turns;
mod unpacking;
mod versions;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use archive::{EntryPath, Limits, UnpackFault, UnpackLimits};
use budget::Budget;
use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use self::archives::Layouts;
use self::turns::Turns;
use self::versions::Versions;
use crate::digest::Sha256Digest;
use crate::ids::Randomness;
use crate::{BlobStore, Clock, Error, Outbox, PackStore};

pub use self::documents::DocumentBody;
pub use self::drafts::{DraftStatus, Missing};
pub(crate) use self::publishing::Publisher;
pub use self::reading::{Archive, PackFile, Selection, Signature};

/// What packs may be, and what memory they take. Sizes are written as in `32 MiB`, times as in `14days`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Most files of a version.
    pub max_files: u32,
    /// Most bytes of all files of a version together.
    pub max_size: ByteSize,
    /// Most bytes of a document that lists files or digests, after decompression.
    pub max_document: ByteSize,
    /// Most bytes of the paths of all files of a version together. With the number of files, it bounds the memory that an archive's
    /// unpacking takes, and the room for the documents of a version.
    pub max_path_bytes: ByteSize,
    /// How many times larger than an uploaded archive all that comes out of it may be, names and headers included, beyond the first
    /// 16 MiB.
    pub max_ratio: u64,
    /// Most archives that are unpacked at the same time. Others wait. Each takes 64 MiB of `memory.total`, and one at a time takes more
    /// where it has many files: about 400 bytes for each.
    pub max_unpacking: usize,
    /// How long an archive waits for others to be unpacked, before its client is told to try again.
    #[serde(with = "humantime_serde")]
    pub unpacking_wait: Duration,
    /// How long a draft without new content is kept, and how long a published one answers for itself.
    #[serde(with = "humantime_serde")]
    pub draft_lifetime: Duration,
    /// How long the need behind an archive's URL is remembered where it is too long for the URL.
    #[serde(with = "humantime_serde")]
    pub need_lifetime: Duration,
    /// The file with an Ed25519 private key in PEM, as `openssl genpkey -algorithm ed25519` writes it. With it, catalogues are signed.
    pub signing_key: Option<PathBuf>,
    /// Memory for the catalogues of versions in use.
    pub version_memory: ByteSize,
    /// Memory for the layouts of archives in use.
    pub layout_memory: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_files: 1_000_000,
            max_size: ByteSize::tib(1),
            max_document: ByteSize::mib(256),
            max_path_bytes: ByteSize::mib(64),
            max_ratio: 200,
            max_unpacking: 2,
            unpacking_wait: Duration::from_mins(1),
            draft_lifetime: Duration::from_hours(14 * 24),
            need_lifetime: Duration::from_hours(90 * 24),
            signing_key: None,
            version_memory: ByteSize::mib(128),
            layout_memory: ByteSize::mib(64),
        }
    }
}

impl Config {
    fn tree_limits(&self) -> Limits {
        Limits {
            entries: self.max_files,
            total_size: self.max_size.as_u64(),
            path_bytes: self.max_path_bytes.as_u64(),
        }
    }

    fn unpack_limits(&self) -> UnpackLimits {
        UnpackLimits {
            // Directories count as well.
            entries: self.max_files.saturating_mul(2),
            entry_size: self.max_size.as_u64(),
            total_size: self.max_size.as_u64(),
            path_bytes: self.max_path_bytes.as_u64(),
            ratio: self.max_ratio,
        }
    }
}

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

impl From<PackError> for Error {
    fn from(error: PackError) -> Self {
        Self::Pack(error)
    }
}

/// The packs of this server.
#[derive(Debug, Clone)]
pub struct Packs {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    blobs: Arc<dyn BlobStore>,
    facts: Arc<dyn PackStore>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    config: Config,
    signing_key: Option<ed25519_dalek::SigningKey>,
    versions: Versions,
    layouts: Layouts,
    turns: Turns,
    outbox: Outbox,
}

/// What packs work with.
#[derive(Debug)]
pub struct Means {
    /// Where their bytes are.
    pub blobs: Arc<dyn BlobStore>,
    /// Where the facts are.
    pub facts: Arc<dyn PackStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Makes names.
    pub randomness: Arc<dyn Randomness>,
    /// Makes the events that tell of new versions.
    pub outbox: Outbox,
    /// The server's memory, of which archives and documents that are taken in have half.
    pub memory: Budget,
}

impl Packs {
    /// Packs that are kept in these stores. Catalogues are signed where there is a key, which is what the file named by
    /// [`Config::signing_key`] holds.
    pub fn new(
        means: Means,
        config: Config,
        signing_key: Option<ed25519_dalek::SigningKey>,
    ) -> Self {
        let Means {
            blobs,
            facts,
            clock,
            randomness,
            outbox,
            memory,
        } = means;
        Self {
            shared: Arc::new(Shared {
                versions: Versions::new(config.version_memory.as_u64()),
                layouts: Layouts::new(config.layout_memory.as_u64()),
                turns: Turns::new(config.max_unpacking, config.unpacking_wait, &memory),
                blobs,
                facts,
                clock,
                randomness,
                config,
                signing_key,
                outbox,
            }),
        }
    }

    /// Gives up to `limit` drafts up whose time is up, and forgets registered needs; returns how many of both.
    pub(crate) async fn expire(&self, limit: usize) -> Result<usize, Error> {
        let facts = &self.shared.facts;
        let now = self.shared.clock.now();
        let drafts = facts
            .expired_drafts(now, limit)
            .await
            .map_err(Error::metadata("list expired drafts"))?;
        let mut count = 0;
        for draft in drafts {
            let forgotten = facts.expire_draft(&draft, now).await;
            count += usize::from(forgotten.map_err(Error::metadata("expire a draft"))?);
        }
        let needs = facts
            .forget_needs(now, limit)
            .await
            .map_err(Error::metadata("forget needs"))?;
        Ok(count + usize::try_from(needs).unwrap_or(usize::MAX))
    }
}

/// Digests of many contents, looked up in turns of bounded length.
async fn look_up(
    facts: &dyn PackStore,
    sha256s: &[Sha256Digest],
) -> Result<Vec<crate::pack_store::StoredContent>, Error> {
    let mut found = Vec::new();
    for turn in sha256s.chunks(crate::pack_store::MOST_LOOKED_UP) {
        let known = facts.contents(turn).await;
        found.extend(known.map_err(Error::metadata("look contents up"))?);
    }
    Ok(found)
}
