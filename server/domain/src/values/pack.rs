//! A pack as it is recorded: its versions, drafts of more, and the contents that they have.

use archive::{Deflated, PackName};

use crate::digest::Sha256Digest;
use crate::file::Content;
use crate::{BlobKey, DraftId, Timestamp};

/// A version of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackVersion {
    /// The pack.
    pub pack: PackName,
    /// Its number: 1 and up, in the order of publishing, never given twice.
    pub number: u64,
    /// How many files it has.
    pub files: u64,
    /// The sum of their sizes, in bytes.
    pub size: u64,
    /// The catalogue as canonical JSON; its digest names the version's content.
    pub catalogue: Content,
    /// The same, compressed by gzip.
    pub catalogue_gzip: Content,
    /// The same, compressed by zstd.
    pub catalogue_zstd: Content,
    /// The table of the forms of its files ([`archive::Forms`]).
    pub forms: Content,
    /// The table of the places of its files.
    pub places: Content,
    /// When it was published.
    pub published_at: Timestamp,
}

/// A pack by its name and its newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSummary {
    /// Its name.
    pub name: PackName,
    /// The newest of its versions that are not retired; none where all are.
    pub latest: Option<PackVersion>,
}

/// A tree that is to become a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftRecord {
    /// Its name, and the capability to use it.
    pub id: DraftId,
    /// The pack.
    pub pack: PackName,
    /// The tree as a JSON document, as the client sent it; none while the tree is still to be learnt from an archive, and none
    /// once it is published: the draft holds nothing then.
    pub tree: Option<Content>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it is given up, unless content comes before; once published, when it is forgotten.
    pub expires_at: Timestamp,
    /// The version that it became.
    pub published: Option<u64>,
}

/// Where a form of a content begins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The blob.
    pub blob: BlobKey,
    /// How many bytes the blob has.
    pub blob_size: u64,
    /// The offset in it, in bytes.
    pub start: u64,
}

/// A content that the server has, in each of its forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    /// The digest of the content itself.
    pub sha256: Sha256Digest,
    /// The size of the content itself, in bytes.
    pub size: u64,
    /// The CRC-32 of the content itself.
    pub crc32: u32,
    /// Where it lies as it is.
    pub raw: Place,
    /// Its deflated form and where that lies, where deflating pays.
    pub deflated: Option<(Deflated, Place)>,
}

impl StoredContent {
    /// The blobs that it lies in.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobKey> {
        let deflated = self.deflated.iter().map(|(_, place)| place);
        deflated.chain([&self.raw]).map(|place| &place.blob)
    }
}

/// Contents that the server lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// How many there are.
    pub contents: u64,
    /// The sum of their sizes, in bytes.
    pub size: u64,
    /// Their digests, each once, in the order of the first paths that have them.
    pub sha256s: Vec<Sha256Digest>,
}
