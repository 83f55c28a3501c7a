//! A recorded pack: its versions, its drafts, and their contents.

use archive::{Deflated, PackName};

use crate::digest::Sha256Digest;
use crate::file::Content;
use crate::{BlobKey, DraftId, Timestamp};

/// A version of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackVersion {
    pub pack: PackName,
    /// Its number: from 1, in the order of publishing, never reused.
    pub number: u64,
    /// Number of its files.
    pub files: u64,
    /// The sum of their sizes, in bytes.
    pub size: u64,
    /// The catalogue as canonical JSON; its digest names the version's content.
    pub catalogue: Content,
    /// The catalogue compressed by gzip.
    pub catalogue_gzip: Content,
    /// The catalogue compressed by zstd.
    pub catalogue_zstd: Content,
    /// Table of the forms of its files ([`archive::Forms`]).
    pub forms: Content,
    /// Table of the places of its files.
    pub places: Content,
    /// The time at which it was published.
    pub published_at: Timestamp,
}

/// A pack's name and newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackSummary {
    pub name: PackName,
    /// The newest version that is not retired; none if all are.
    pub latest: Option<PackVersion>,
}

/// A tree that will become a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DraftRecord {
    /// Its name, and the capability to use it.
    pub id: DraftId,
    pub pack: PackName,
    /// The tree as a JSON document, as the client sent it; none until the tree has been read from
    /// an archive, and none once the draft is published: it then holds nothing.
    pub tree: Option<Content>,
    /// The time of its creation.
    pub created_at: Timestamp,
    /// The time at which it expires unless content arrives before; once published, the time at
    /// which it is forgotten.
    pub expires_at: Timestamp,
    /// The number of the version that it became.
    pub published: Option<u64>,
}

/// The start of a form of a content within a blob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The blob.
    pub blob: BlobKey,
    /// Size of the blob, in bytes.
    pub blob_size: u64,
    /// Offset in the blob, in bytes.
    pub start: u64,
}

/// A content that the server has, with each of its forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredContent {
    /// SHA-256 of the content itself.
    pub sha256: Sha256Digest,
    /// Size of the content itself, in bytes.
    pub size: u64,
    /// CRC-32 of the content itself.
    pub crc32: u32,
    /// Place of the uncompressed bytes.
    pub raw: Place,
    /// The deflated form and its place, if deflating pays.
    pub deflated: Option<(Deflated, Place)>,
}

impl StoredContent {
    /// Iterates over the blobs that hold the content.
    pub fn blobs(&self) -> impl Iterator<Item = &BlobKey> {
        let deflated = self.deflated.iter().map(|(_, place)| place);
        deflated.chain([&self.raw]).map(|place| &place.blob)
    }
}

/// Contents that the server lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// Number of missing contents.
    pub contents: u64,
    /// The sum of their sizes, in bytes.
    pub size: u64,
    /// Their digests, each once, in the order of the first paths that have them.
    pub sha256s: Vec<Sha256Digest>,
}
