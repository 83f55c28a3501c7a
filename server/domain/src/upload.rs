//! An upload as it is recorded.

pub use protocol::upload::{Complete, Open};

use archive::PackName;

use crate::digest::{HashState, Sha256Digest};
use crate::files::{Content, Description, File, WriteCondition};
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
    /// When it was made.
    pub created_at: Timestamp,
    /// When it is given up, unless there is progress before.
    pub expires_at: Timestamp,
    /// How it stands.
    pub state: UploadState,
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
    /// It will never be complete.
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

/// Why an upload will never be complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// The client gave it up.
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
        }
    }
}
