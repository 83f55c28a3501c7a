//! A recorded upload.

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
    /// The blob that holds its bytes.
    pub blob: BlobKey,
    /// Its purpose, fixed at creation.
    pub plan: Plan,
    /// Number of claims so far. A request may record changes only under the epoch that its claim
    /// was given.
    pub epoch: u64,
    /// The node whose request has the claim under this epoch, if any. A node that is gone may have
    /// left its name here.
    pub holder: Option<NodeId>,
    /// The offset reported by the newest retrieval, until the client has settled on an offset.
    pub reported: Option<Reported>,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The time at which it expires unless there is progress before.
    pub expires_at: Timestamp,
    pub state: UploadState,
}

/// An offset that was reported to a client.
///
/// No number can order requests that arrive late: a request whose connection is lost may still lie
/// unread in a server's socket while the same client's `HEAD`, over a new connection, is answered
/// with an offset. If the older request is read afterwards, it appends those bytes of its body that
/// had arrived, and the reported offset is no longer the upload's: the next append would get a
/// conflict that the client did not cause. So the offset reported by the newest retrieval is
/// remembered, and an append that begins there is accepted even below the durable offset: the
/// repeated bytes are compared, not stored.
///
/// If the record is lost, the client gets the same answer as any client with a wrong offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reported {
    /// The offset, in bytes.
    pub offset: u64,
    /// The time of the report, or of its last repetition.
    pub at: Timestamp,
}

impl Reported {
    /// Minimum time for which a reported offset is accepted. A request that lies in a socket for
    /// longer does not come from a network that was just lost.
    const REMEMBERED: Duration = Duration::from_mins(10);
    /// Maximum age of a record that is reused when the same offset is reported again. An offset is
    /// accepted for that much longer.
    const STANDS: Duration = Duration::from_mins(1);

    /// Returns true if an append at `now` may begin at `offset`.
    pub(crate) fn counts(self, offset: u64, now: Timestamp) -> bool {
        let until = self.at.plus(Self::REMEMBERED).plus(Self::STANDS);
        self.offset == offset && now < until
    }

    /// Returns true if this record makes recording `offset` at `now` needless.
    pub(crate) fn stands_for(self, offset: u64, now: Timestamp) -> bool {
        self.offset == offset && now < self.at.plus(Self::STANDS)
    }
}

/// The purpose of an upload and its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The use of its bytes.
    pub target: Target,
    /// The precondition on the target file at completion.
    pub condition: WriteCondition,
    /// The uploader's description of the file.
    pub description: Description,
    /// `Repr-Digest` as sent at creation, to be compared with the complete bytes.
    pub repr_digest: Option<String>,
    /// The name of the API key that created it, if one was used.
    pub owner: Option<String>,
    /// The client's own reference, by which it finds its open uploads again.
    pub client_ref: Option<String>,
    /// `Idempotency-Key` of the creation: the same key of the same owner finds the same upload.
    pub idempotency_key: Option<String>,
    /// `Upload-Metadata` as sent (tus).
    pub tus_metadata: Option<String>,
    /// `Upload-Concat` as sent (tus).
    pub tus_concat: Option<String>,
}

impl Plan {
    /// Returns true if the upload is only a part of others (tus concatenation): it is never
    /// complete by itself, and expires like any open upload.
    pub fn is_part(&self) -> bool {
        self.tus_concat.as_deref() == Some("partial")
    }

    /// Returns true if the upload is made of others, and accepts no bytes of its own (tus
    /// concatenation).
    pub fn is_concatenation(&self) -> bool {
        self.tus_concat.is_some() && !self.is_part()
    }
}

/// Uses of an upload's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The bytes become the file under this path.
    File(FilePath),
    /// The bytes are an archive with contents of a draft.
    Draft {
        /// The draft's pack.
        pack: PackName,
        /// The draft.
        draft: DraftId,
    },
    /// The bytes are an archive of a tree that becomes the pack's next version.
    Pack(PackName),
}

/// The result of a completed upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Product {
    /// A file.
    File {
        /// The file.
        file: File,
        /// True if it replaced an older file.
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

/// States of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadState {
    /// The upload can grow.
    Open(Progress),
    /// All bytes have arrived, and its product is published.
    Complete(Completed),
    /// The upload will never be complete, or its client has deleted it.
    Gone(Gone),
}

/// Durable progress of an open upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Offset and length.
    pub open: Open,
    /// SHA-256 of the bytes below the offset, ready to be resumed.
    pub hash: HashState,
}

/// Facts of a completed upload; with the plan, all that its final response needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// Its length.
    pub complete: Complete,
    /// Digest of its bytes.
    pub sha256: Sha256Digest,
    /// The time at which it was published.
    pub at: Timestamp,
    /// True if it replaced an older file.
    pub replaced: bool,
    /// The number of the version that it became, for a [`Target::Pack`].
    pub version: Option<u64>,
}

/// Reasons for which an upload is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The client cancelled it, or deleted it once it was complete.
    Cancelled,
    /// The upload made no progress for too long.
    Expired,
    /// A request made it invalid, such as by exceeding its length.
    Invalid,
}

impl Upload {
    /// Returns the result of a completed upload.
    ///
    /// # Panics
    /// If a tree became no version, which the metadata store prevents.
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

    /// Returns the path of the target file, if the target is a file.
    pub fn path(&self) -> Option<&FilePath> {
        match &self.plan.target {
            Target::File(path) => Some(path),
            Target::Draft { .. } | Target::Pack(_) => None,
        }
    }

    /// Returns the file that a completed upload became, if the target is a file.
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
        let reported = Reported { offset: 7, at };
        let last = at
            .plus(Duration::from_mins(11))
            .minus(Duration::from_millis(1));
        assert!(reported.counts(7, at) && reported.counts(7, last));
        assert!(!reported.counts(8, at) && !reported.counts(6, at));
        assert!(!reported.counts(7, at.plus(Duration::from_mins(11))));
        // Reported once more, it is accepted for ten minutes from then on, recorded or not.
        for again in [0, 59, 60, 600].map(|seconds| at.plus(Duration::from_secs(seconds))) {
            let stands = if reported.stands_for(7, again) {
                reported
            } else {
                Reported {
                    offset: 7,
                    at: again,
                }
            };
            let later = again.plus(Duration::from_mins(10));
            assert!(stands.counts(7, later));
        }
        assert!(!reported.stands_for(8, at));
    }
}
