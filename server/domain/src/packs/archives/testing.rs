//! Versions for tests, with contents in memory.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use archive::{
    BlobSlice, Catalogue, Deflated, EntryPath, Form, Forms, Layout, Limits, PackName, Segment,
    Tree, deflating_pays,
};
use async_trait::async_trait;
use bytes::Bytes;
use bytesize::ByteSize;
use futures::{StreamExt as _, stream};

use crate::blob_store::{BlobEntry, BlobError, BlobState, BlobStream, Growth, Link, LinkFields};
use crate::digest::Sha256Digest;
use crate::file::Content;
use crate::pack::{PackVersion, Place, StoredContent};
use crate::packs::places::Places;
use crate::packs::versions::Version;
use crate::packs::{Config, Library};
use crate::{Blob, BlobKey, BlobStore, StagedBlob, Timestamp};

/// Published blobs in memory, with a log of reads.
#[derive(Debug, Default)]
pub(in crate::packs) struct Shelf {
    pub(in crate::packs) blobs: HashMap<BlobKey, Bytes>,
    /// Bytes of a chunk.
    chunk: usize,
    pub(in crate::packs) log: Arc<Log>,
}

#[derive(Debug, Default)]
pub(in crate::packs) struct Log {
    pub(in crate::packs) opened: Mutex<Vec<BlobKey>>,
    pub(in crate::packs) read: Mutex<Vec<(BlobKey, Range<u64>)>>,
    /// True if reads end one byte early.
    pub(in crate::packs) short: AtomicBool,
}

#[derive(Debug)]
struct ShelvedBlob {
    key: BlobKey,
    bytes: Bytes,
    chunk: usize,
    log: Arc<Log>,
}

#[async_trait]
impl Blob for ShelvedBlob {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        let entry = (self.key.clone(), range.clone());
        self.log.read.lock().unwrap().push(entry);
        let mut end = usize::try_from(range.end).unwrap();
        if self.log.short.load(Ordering::Relaxed) {
            end -= 1;
        }
        let mut rest = self.bytes.slice(usize::try_from(range.start).unwrap()..end);
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            chunks.push(Ok(rest.split_to(self.chunk.min(rest.len()))));
        }
        stream::iter(chunks).boxed()
    }

    async fn link(&self, _: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        Ok(None)
    }
}

#[async_trait]
impl BlobStore for Shelf {
    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        self.log.opened.lock().unwrap().push(key.clone());
        let bytes = self
            .blobs
            .get(key)
            .filter(|bytes| bytes.len() as u64 == size);
        let bytes = bytes.ok_or_else(|| BlobError::Missing { key: key.clone() })?;
        Ok(Arc::new(ShelvedBlob {
            key: key.clone(),
            bytes: bytes.clone(),
            chunk: self.chunk,
            log: Arc::clone(&self.log),
        }))
    }

    async fn stage(&self, key: &BlobKey, _: Growth) -> Result<Box<dyn StagedBlob>, BlobError> {
        Err(BlobError::Missing { key: key.clone() })
    }

    async fn read_staged(&self, key: &BlobKey, _: Range<u64>) -> Result<BlobStream, BlobError> {
        Err(BlobError::Missing { key: key.clone() })
    }

    async fn publish(&self, key: &BlobKey, _: u64) -> Result<(), BlobError> {
        Err(BlobError::Missing { key: key.clone() })
    }

    async fn discard(&self, _: &BlobKey) -> Result<(), BlobError> {
        Ok(())
    }

    async fn delete(&self, _: &BlobKey) -> Result<(), BlobError> {
        Ok(())
    }

    async fn list(
        &self,
        _: BlobState,
        _: Option<&BlobKey>,
        _: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        Ok(Vec::new())
    }

    async fn check(&self) -> Result<(), BlobError> {
        Ok(())
    }
}

/// A version with its contents on a shelf, in both forms.
pub(in crate::packs) struct Synthetic {
    pub(in crate::packs) version: Arc<Version>,
    pub(in crate::packs) shelf: Arc<Shelf>,
    /// Raw and deflated bytes, by the digest of the content.
    pub(in crate::packs) contents: HashMap<Sha256Digest, (Vec<u8>, Option<Vec<u8>>)>,
}

/// Sketch of a file: its size in bytes, the seed of its bytes, its deflated size in bytes, and its
/// blob.
#[derive(Debug, Clone)]
pub(in crate::packs) struct Sketch {
    pub(in crate::packs) size: usize,
    pub(in crate::packs) seed: u64,
    pub(in crate::packs) deflated: Option<usize>,
    pub(in crate::packs) blob: u8,
}

/// Generates pseudorandom bytes, the same for the same seed (`SplitMix64`, by Steele, Lea and
/// Flood).
pub(in crate::packs) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::from_fn(|| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some((word ^ (word >> 31)).to_le_bytes())
    });
    words.flatten().take(length).collect()
}

impl Synthetic {
    /// Creates version 1.
    pub(in crate::packs) fn new(files: &[Sketch]) -> Self {
        Self::numbered(1, files)
    }

    /// Creates the version of this number. Its blobs are named after it: `1-0`, `1-1` and so on.
    pub(in crate::packs) fn numbered(number: u64, files: &[Sketch]) -> Self {
        let mut contents = HashMap::new();
        let mut places = HashMap::new();
        let mut blobs: Vec<Vec<u8>> = vec![vec![1; 5]; 512];
        let mut put = |blob: usize, bytes: &[u8]| {
            let start = blobs[blob].len() as u64;
            blobs[blob].extend_from_slice(bytes);
            (blob, start)
        };
        let mut entries = Vec::new();
        for (index, file) in files.iter().enumerate() {
            let raw = noise(file.seed, file.size);
            let sha256 = Sha256Digest::of(&raw);
            let path = EntryPath::parse(format!("{:03}/{index:06}.bin", index / 100)).unwrap();
            entries.push((path, raw.len() as u64, sha256, false));
            if contents.contains_key(&sha256) {
                continue;
            }
            // The bytes may be anything: no test inflates them.
            let deflated = file
                .deflated
                .filter(|size| deflating_pays(file.size as u64, *size as u64))
                .map(|size| noise(!file.seed, size));
            // As in segments: the served forms together, and the raw bytes that they replace
            // elsewhere.
            let (served, other) = (usize::from(file.blob), 256 + usize::from(file.blob));
            let place = match &deflated {
                Some(bytes) => (put(other, &raw), Some(put(served, bytes))),
                None => (put(served, &raw), None),
            };
            places.insert(sha256, place);
            contents.insert(sha256, (raw, deflated));
        }

        let key = |blob: usize| blob_key(number, &blob.to_string());
        let place = |(blob, start): (usize, u64)| Place {
            blob: key(blob),
            blob_size: blobs[blob].len() as u64,
            start,
        };
        let stored: HashMap<Sha256Digest, StoredContent> = contents
            .iter()
            .map(|(sha256, (raw, deflated))| {
                let (raw_place, deflated_place) = places[sha256];
                let form = deflated.as_ref().map(|bytes| Deflated {
                    size: bytes.len() as u64,
                    sha256: Sha256Digest::of(bytes),
                });
                let content = StoredContent {
                    sha256: *sha256,
                    size: raw.len() as u64,
                    crc32: crc32fast::hash(raw),
                    raw: place(raw_place),
                    deflated: form.zip(deflated_place.map(place)),
                };
                (*sha256, content)
            })
            .collect();

        let tree = Tree::try_from_entries(entries, Limits::default()).unwrap();
        let forms = Forms::new(&tree, |sha256| match &stored[sha256].deflated {
            Some((form, _)) => Form::Deflated(*form),
            None => Form::Raw,
        })
        .unwrap();
        let places = Places::new(tree.entries().map(|entry| &stored[&entry.sha256]));
        let content_of = |sha256: &Sha256Digest| {
            let StoredContent { size, crc32, .. } = stored[sha256];
            Some(archive::Content { size, crc32 })
        };
        let pack = PackName::parse("p").unwrap();
        let catalogue = Catalogue::publish(pack, number, tree, content_of).unwrap();
        let documents = [
            ("catalogue", catalogue.encode().collect::<Vec<_>>().concat()),
            ("forms", forms.encode()),
            ("places", places.encode()),
        ];
        let mut shelved: HashMap<BlobKey, Bytes> = (0..blobs.len())
            .map(|blob| (key(blob), blobs[blob].clone().into()))
            .collect();
        let [catalogue_content, forms_content, places_content] = documents.map(|(name, bytes)| {
            let content = Content {
                blob: blob_key(number, name),
                size: bytes.len() as u64,
                sha256: Sha256Digest::of(&bytes),
            };
            shelved.insert(content.blob.clone(), bytes.into());
            content
        });
        let record = PackVersion {
            pack: catalogue.pack().clone(),
            number,
            files: u64::from(catalogue.tree().len()),
            size: catalogue.tree().total_size(),
            catalogue_gzip: catalogue_content.clone(),
            catalogue_zstd: catalogue_content.clone(),
            catalogue: catalogue_content,
            forms: forms_content,
            places: places_content,
            published_at: Timestamp::from_millis(0),
        };
        let version = Version::new(record, catalogue, forms, places).unwrap();
        Self {
            version: Arc::new(version),
            shelf: Arc::new(Shelf {
                blobs: shelved,
                chunk: 10_000,
                log: Arc::default(),
            }),
            contents,
        }
    }

    /// Returns the bytes of a layout, one segment after another.
    pub(in crate::packs) fn resolve(&self, layout: &Layout) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in layout.slice(0..layout.len()) {
            match segment {
                Segment::Literal(literal) => bytes.extend_from_slice(&literal),
                Segment::Blob(BlobSlice {
                    sha256,
                    form,
                    range,
                    ..
                }) => {
                    let (raw, deflated) = &self.contents[&sha256];
                    let stored = match form {
                        Form::Raw => raw,
                        Form::Deflated(_) => deflated.as_ref().unwrap(),
                    };
                    let range =
                        usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
                    bytes.extend_from_slice(&stored[range]);
                }
            }
        }
        assert_eq!(bytes.len() as u64, layout.len());
        bytes
    }
}

pub(in crate::packs) fn blob_key(number: u64, name: &str) -> BlobKey {
    format!("{number}-{name}").parse().unwrap()
}

/// Creates a library whose blobs are on one shelf, with this much memory for versions. Returns it
/// and the shelf's log.
pub(in crate::packs) fn library(versions: &[&Synthetic], memory: ByteSize) -> (Library, Arc<Log>) {
    let blobs = versions.iter().flat_map(|version| &version.shelf.blobs);
    let shelf = Shelf {
        blobs: blobs
            .map(|(key, bytes)| (key.clone(), bytes.clone()))
            .collect(),
        chunk: 10_000,
        log: Arc::default(),
    };
    let log = Arc::clone(&shelf.log);
    let layout_memory = Config::default().layout_memory.as_u64();
    let library = Library::new(Arc::new(shelf), memory.as_u64(), layout_memory);
    (library, log)
}

/// Sketches files of many sizes in many blobs; some have the same content.
pub(in crate::packs) fn mixture(count: u64) -> Vec<Sketch> {
    let file = |index: u64| {
        let draw = |salt: u64, below: u64| {
            let bytes = noise(index * 16 + salt, 8);
            u64::from_le_bytes(bytes.try_into().unwrap()) % below
        };
        let most = match draw(0, 20) {
            0 => 300_000,
            1..=4 => 40_000,
            _ => 900,
        };
        // Every tenth file has one of four contents.
        let (size, seed) = match draw(2, 10) {
            0 => (700 + index % 4, 7),
            _ => (draw(1, most), index + 1000),
        };
        Sketch {
            size: usize::try_from(size).unwrap(),
            seed,
            deflated: (draw(3, 3) > 0).then(|| usize::try_from(size * 2 / 3).unwrap()),
            blob: u8::try_from(if draw(4, 4) == 0 { draw(5, 200) } else { 0 }).unwrap(),
        }
    };
    (0..count).map(file).collect()
}

/// Sketches small files as one publication stores them: side by side in segments, in the order of
/// the catalogue.
pub(in crate::packs) fn tiny(count: usize, size: usize) -> Vec<Sketch> {
    let file = |index: usize| Sketch {
        size,
        seed: index as u64,
        deflated: index.is_multiple_of(2).then_some(size / 2),
        blob: 0,
    };
    (0..count).map(file).collect()
}
