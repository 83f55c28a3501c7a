//! An upload as it is recorded.

use std::time::Duration;

pub use protocol::upload::{Complete, Open};

use archive::PackName;

use crate::digest::{HashState, Sha256Digest};
use crate::file::{Content, Description, File, WriteCondition};
use crate::{BlobKey, DraftId, FilePath, NodeId, Timestamp, UploadId};

/// An upload resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// Its name, and the capability to use it.
    pub id: UploadId,
    /// Where its bytes go.
    pub blob: BlobKey,
    /// What it is to become; fixed at creation.
    pub plan: Plan,
    /// Counts the requests that have held the upload. A holder may record only under the epoch that it was given.
    pub epoch: u64,
    /// The node that works on the upload under this epoch, where one does. One that is gone may have left its name here.
    pub holder: Option<NodeId>,
    /// What the newest retrieval was told, unless that is settled.
    pub told: Option<Told>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it is given up, unless there is progress before.
    pub expires_at: Timestamp,
    /// How it stands.
    pub state: UploadState,
}

/// An offset that a client was told.
///
/// No number can order what arrives late: a request whose connection is lost may still lie unread in a socket of a server while the
/// same client's `HEAD`, over a new connection, is told an offset; read after that, the older request appends what of its body had
/// come, and the offset that the client was told is no longer the upload's. It would answer the next append with a conflict that
/// the client did nothing for. So what the newest retrieval was told is remembered, and an append that begins there is taken even
/// below the durable offset: what it repeats is compared, not stored.
///
/// Where it is lost, the client is answered as any that is wrong about the offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The offset, in bytes.
    pub offset: u64,
    /// When it was told, or told again.
    pub at: Timestamp,
}

impl Told {
    /// How long an offset counts at least. A request that lies in a socket for longer does not come from a network that was just
    /// lost.
    const REMEMBERED: Duration = Duration::from_mins(10);
    /// How old a record may be that stands for the same offset told now. An offset counts for as much longer.
    const STANDS: Duration = Duration::from_mins(1);

    /// Whether an append at `now` may begin at `offset`.
    pub(crate) fn counts(self, offset: u64, now: Timestamp) -> bool {
        let until = self.at.plus(Self::REMEMBERED).plus(Self::STANDS);
        self.offset == offset && now < until
    }

    /// Whether this is as good as telling the offset at `now`.
    pub(crate) fn stands_for(self, offset: u64, now: Timestamp) -> bool {
        self.offset == offset && now < self.at.plus(Self::STANDS)
    }
}

/// What an upload is to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What its bytes are for.
    pub target: Target,
    /// What must hold of the target file at that moment.
    pub condition: WriteCondition,
    /// What the uploader says of the file.
    pub description: Description,
    /// `Repr-Digest` as sent at creation, to be compared with the whole.
    pub repr_digest: Option<String>,
    /// Who began it, where a credential was used.
    pub owner: Option<String>,
    /// The client's own reference, to find its open uploads again.
    pub client_ref: Option<String>,
    /// `Idempotency-Key` of the creation: the same key by the same owner finds the same upload.
    pub idempotency_key: Option<String>,
    /// `Upload-Metadata` as sent (tus).
    pub tus_metadata: Option<String>,
    /// `Upload-Concat` as sent (tus).
    pub tus_concat: Option<String>,
}

impl Plan {
    /// Whether the upload is only a part of others (tus concatenation): it is never complete by itself, and expires like any open
    /// upload.
    pub fn is_part(&self) -> bool {
        self.tus_concat.as_deref() == Some("partial")
    }

    /// Whether the upload is made of others, and takes no bytes of its own (tus concatenation).
    pub fn is_concatenation(&self) -> bool {
        self.tus_concat.is_some() && !self.is_part()
    }
}

/// What an upload's bytes are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// They are the file under this path.
    File(FilePath),
    /// They are an archive with contents of a draft.
    Draft {
        /// The draft's pack.
        pack: PackName,
        /// The draft.
        draft: DraftId,
    },
    /// They are an archive of a tree that is to be the pack's next version.
    Pack(PackName),
}

/// What became of an upload's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Product {
    /// A file.
    File {
        /// The file.
        file: File,
        /// Whether it took the place of an older one.
        replaced: bool,
    },
    /// Contents of a draft.
    Draft {
        /// The draft's pack.
        pack: PackName,
        /// The draft.
        draft: DraftId,
    },
    /// A version of a pack.
    Version {
        /// The pack.
        pack: PackName,
        /// The version's number.
        number: u64,
    },
}

/// How an upload stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadState {
    /// It can grow.
    Open(Progress),
    /// It has all its bytes, and its file was published.
    Complete(Completed),
    /// It will never be complete, or its client is done with it.
    Gone(Gone),
}

/// How far an open upload is. All of it is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Offset and length.
    pub open: Open,
    /// SHA-256 of the bytes below the offset, ready to go on.
    pub hash: HashState,
}

/// What came of a completed upload; with the plan, all that its final answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// Its length.
    pub complete: Complete,
    /// Digest of its bytes.
    pub sha256: Sha256Digest,
    /// When it was published.
    pub at: Timestamp,
    /// Whether it took the place of an older file.
    pub replaced: bool,
    /// The number of the version that it became, if it is a [`Target::Pack`].
    pub version: Option<u64>,
}

/// Why an upload is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The client gave it up, or had it forgotten once it was complete.
    Cancelled,
    /// It made no progress for too long.
    Expired,
    /// A request broke it beyond repair, such as by running past its length.
    Invalid,
}

impl Upload {
    /// What a completed upload became.
    ///
    /// # Panics
    /// Where a tree became no version, which the metadata store does not let be.
    pub fn product(&self, completed: &Completed) -> Product {
        match &self.plan.target {
            Target::File(path) => Product::File {
                file: self.file_at(path, completed),
                replaced: completed.replaced,
            },
            Target::Draft { pack, draft } => Product::Draft {
                pack: pack.clone(),
                draft: *draft,
            },
            Target::Pack(pack) => Product::Version {
                pack: pack.clone(),
                number: completed
                    .version
                    .expect("a tree is complete when it is a version"),
            },
        }
    }

    /// The path of the file that the upload is to be, if it is to be one.
    pub fn path(&self) -> Option<&FilePath> {
        match &self.plan.target {
            Target::File(path) => Some(path),
            Target::Draft { .. } | Target::Pack(_) => None,
        }
    }

    /// The file that a completed upload became, if it was to be one.
    pub fn file(&self, completed: &Completed) -> Option<File> {
        Some(self.file_at(self.path()?, completed))
    }

    fn file_at(&self, path: &FilePath, completed: &Completed) -> File {
        File {
            path: path.clone(),
            content: Content {
                blob: self.blob.clone(),
                size: completed.complete.length,
                sha256: completed.sha256,
            },
            description: self.plan.description.clone(),
            modified_at: completed.at,
            previous_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_counts_for_a_while() {
        let at = Timestamp::from_millis(1_800_000_000_000);
        let told = Told { offset: 7, at };
        let last = at
            .plus(Duration::from_mins(11))
            .minus(Duration::from_millis(1));
        assert!(told.counts(7, at) && told.counts(7, last));
        assert!(!told.counts(8, at) && !told.counts(6, at));
        assert!(!told.counts(7, at.plus(Duration::from_mins(11))));
        // Told once more, it counts for ten minutes from then on, whether that was recorded or not.
        for again in [0, 59, 60, 600].map(|seconds| at.plus(Duration::from_secs(seconds))) {
            let stands = if told.stands_for(7, again) {
                told
            } else {
                Told {
                    offset: 7,
                    at: again,
                }
            };
            let later = again.plus(Duration::from_mins(10));
            assert!(stands.counts(7, later));
        }
        assert!(!told.stands_for(8, at));
    }
}
