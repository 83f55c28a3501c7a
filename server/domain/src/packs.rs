//! Packs: trees of files that are published as numbered versions and never change.
//!
//! *Publishing.* A client drafts a tree ([`create_draft`](crate::Authorized::create_draft)), learns
//! which contents the server lacks, uploads them as archives (`unpacking`), and publishes the draft
//! ([`publish`](crate::Authorized::publish)). Contents are stored by their digests: small ones
//! together in segments (`unpacking::segments`), large ones in blobs of their own; each raw and,
//! where that pays, deflated as well.
//!
//! *Reading.* A version is loaded whole into memory (`versions`): its catalogue, the forms of its
//! files and their places. Archives are virtual: an [`archive::Layout`] determines their bytes, and
//! `archives` reads these from the blobs that hold the contents.

mod archives;
mod documents;
mod drafts;
mod places;
mod publishing;
mod reading;
mod turns;
mod unpacking;
mod versions;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use archive::{Limits, UnpackLimits};
use budget::Budget;
use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::archives::Layouts;
use self::turns::Turns;
use self::versions::Versions;
use crate::digest::Sha256Digest;
use crate::ids::Randomness;
use crate::pack::StoredContent;
use crate::pack_store::MAX_LOOKED_UP;
use crate::{BlobStore, Clock, Error, Outbox, PackStore};

pub use self::documents::DocumentBody;
pub use self::drafts::DraftStatus;
pub(crate) use self::publishing::Publisher;
pub use self::reading::{Archive, PackFile, Selection, Signature};

/// Limits and memory of packs. Write sizes as in `32 MiB`, times as in `14days`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Maximum number of files of a version.
    pub max_files: u32,
    /// Maximum size of all files of a version together.
    #[schemars(with = "settings::Size")]
    pub max_size: ByteSize,
    /// Maximum size of a document that lists files or digests, after decompression.
    #[schemars(with = "settings::Size")]
    pub max_document: ByteSize,
    /// Maximum size of the paths of all files of a version together. With the number of files, it
    /// bounds the memory for unpacking an archive, and the size of a version's documents.
    #[schemars(with = "settings::Size")]
    pub max_path_bytes: ByteSize,
    /// Maximum ratio of the unpacked size, with names and headers, to the size of an uploaded
    /// archive, beyond the first 16 MiB.
    pub max_ratio: u64,
    /// Maximum number of archives that are unpacked at the same time. Others wait. Each takes 64
    /// MiB of `memory.total`; one at a time takes more for many files, about 400 bytes each.
    pub max_unpacking: usize,
    /// Time for which an archive waits for others to be unpacked, before its client has to try
    /// again.
    #[serde(with = "settings::Time")]
    pub unpacking_wait: Duration,
    /// Time for which a draft without new content is kept, and for which a published one still
    /// answers.
    #[serde(with = "settings::Time")]
    pub draft_lifetime: Duration,
    /// Time for which a list of contents is kept that is too long for the URL of its archive.
    #[serde(with = "settings::Time")]
    pub need_lifetime: Duration,
    /// File with an Ed25519 private key in PEM, as `openssl genpkey -algorithm ed25519` writes it,
    /// to sign catalogues.
    #[schemars(with = "Option<settings::Path>")]
    pub signing_key: Option<PathBuf>,
    /// Memory for the catalogues of versions in use.
    #[schemars(with = "settings::Size")]
    pub version_memory: ByteSize,
    /// Memory for the layouts of archives in use.
    #[schemars(with = "settings::Size")]
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

/// The service that publishes packs and serves them.
#[derive(Debug, Clone)]
pub struct Packs {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    library: Library,
    blobs: Arc<dyn BlobStore>,
    facts: Arc<dyn PackStore>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    config: Config,
    signing_key: Option<ed25519_dalek::SigningKey>,
    turns: Turns,
    outbox: Outbox,
}

/// Reader of published versions and their archives.
#[derive(Debug)]
struct Library {
    blobs: Arc<dyn BlobStore>,
    versions: Versions,
    layouts: Layouts,
}

impl Library {
    /// Creates a library that reads versions from `blobs`, with caches of these sizes in bytes.
    fn new(blobs: Arc<dyn BlobStore>, version_memory: u64, layout_memory: u64) -> Self {
        Self {
            blobs,
            versions: Versions::new(version_memory),
            layouts: Layouts::new(layout_memory),
        }
    }
}

/// Dependencies of [`Packs`].
#[derive(Debug)]
pub struct Deps {
    /// Store of the contents and documents.
    pub blobs: Arc<dyn BlobStore>,
    /// Store of the drafts, versions and places of contents.
    pub facts: Arc<dyn PackStore>,
    /// Clock that dates drafts and versions.
    pub clock: Arc<dyn Clock>,
    /// Source of random blob keys and draft ids.
    pub randomness: Arc<dyn Randomness>,
    /// Outbox for the events that announce new versions.
    pub outbox: Outbox,
    /// The server's memory. Half of it is for uploaded archives and documents.
    pub memory: Budget,
}

impl Packs {
    /// Creates the service on these stores. Catalogues are signed if there is a key, which is read
    /// from the file that [`Config::signing_key`] names.
    pub fn new(deps: Deps, config: Config, signing_key: Option<ed25519_dalek::SigningKey>) -> Self {
        let Deps {
            blobs,
            facts,
            clock,
            randomness,
            outbox,
            memory,
        } = deps;
        Self {
            shared: Arc::new(Shared {
                library: Library::new(
                    Arc::clone(&blobs),
                    config.version_memory.as_u64(),
                    config.layout_memory.as_u64(),
                ),
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

    /// Deletes up to `limit` expired drafts, and up to `limit` expired needs. Returns the number of
    /// both.
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

/// Looks contents up by their digests, in queries of bounded length. Returns those that are stored.
async fn look_up(
    facts: &dyn PackStore,
    sha256s: &[Sha256Digest],
) -> Result<Vec<StoredContent>, Error> {
    let mut found = Vec::new();
    for turn in sha256s.chunks(MAX_LOOKED_UP) {
        let known = facts.contents(turn).await;
        found.extend(known.map_err(Error::metadata("look contents up"))?);
    }
    Ok(found)
}
