//! Contents of a version of a pack, as one immutable document.
//!
//! The encoding is canonical JSON as in RFC 8785: no white space, members in the order of their
//! names, integers below 2^53. Files are in the order of their paths' bytes. So equal versions have
//! equal bytes, and the SHA-256 of the document names the content of the version permanently:
//!
//! ```json
//! {"files":[{"crc32":"cbf43926","path":"a/b.txt","sha256":"15e2…1225","size":9}],
//!  "format":"longhaul-catalogue/1","pack":"maps","version":7}
//! ```
//!
//! (without the line break). An executable file also has `"executable":true`.
//! [`Draft`](crate::Draft) and [`Holdings`](crate::Holdings) read the same form from clients.

use std::fmt;
use std::io;

use bytes::Bytes;
use sha2::Digest as _;

use crate::canonical_json::push_string;
use crate::entry_path::EntryPath;
use crate::pack_name::PackName;
use crate::sha256_digest::Sha256Digest;
use crate::tree::{MAX_SIZE, Tree};
use crate::tree_json::{CATALOGUE_FORMAT, Document, Origin, read_document, read_document_from};

/// One published version of a pack.
#[derive(Debug, PartialEq, Eq)]
pub struct Catalogue {
    pack: PackName,
    /// Number of the version, at most [`MAX_SIZE`].
    version: u64,
    tree: Tree,
    crc32s: Box<[u32]>,
    digest: Sha256Digest,
    encoded_len: u64,
}

/// Facts about stored content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Size in bytes.
    pub size: u64,
    pub crc32: u32,
}

/// Reasons for which a catalogue is not made or read.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("the catalogue is not the JSON that it should be")]
    Json(#[source] serde_json::Error),
    #[error("the bytes are not those of the catalogue {expected}")]
    OtherBytes { expected: Sha256Digest },
    #[error("the version number is above 2^53 - 1")]
    VersionTooLarge,
    #[error("the content of `{path}` is not known")]
    UnknownContent { path: EntryPath<'static> },
    #[error("`{path}` should have {told} bytes, but its content has {actual}")]
    WrongSize {
        path: EntryPath<'static>,
        told: u64,
        actual: u64,
    },
}

impl Catalogue {
    /// Publishes a tree as a version. `content_of` looks up the stored content of a digest.
    pub fn publish(
        pack: PackName,
        version: u64,
        tree: Tree,
        mut content_of: impl FnMut(&Sha256Digest) -> Option<Content>,
    ) -> Result<Self, CatalogueError> {
        let mut crc32s = Vec::with_capacity(tree.len() as usize);
        for entry in tree.entries() {
            let path = || EntryPath::published(entry.path).into_owned();
            let Some(content) = content_of(&entry.sha256) else {
                return Err(CatalogueError::UnknownContent { path: path() });
            };
            if content.size != entry.size {
                return Err(CatalogueError::WrongSize {
                    path: path(),
                    told: entry.size,
                    actual: content.size,
                });
            }
            crc32s.push(content.crc32);
        }
        Self::new(pack, version, tree, crc32s.into_boxed_slice())
    }

    /// Reads the encoding of a published catalogue with a known digest.
    ///
    /// The digest proves that the server wrote the bytes, so their paths are not checked for
    /// collisions again. This halves the time, and keeps old catalogues readable when Unicode's
    /// tables grow.
    ///
    /// An error of the reader is in the source of [`CatalogueError::Json`].
    pub fn decode_from(
        reader: impl io::Read,
        expected: Sha256Digest,
    ) -> Result<Self, CatalogueError> {
        let mut reader = HashingReader {
            inner: reader,
            hasher: sha2::Sha256::new(),
            len: 0,
        };
        let document = read_document_from(&mut reader, Origin::Published);
        let document = document.map_err(CatalogueError::Json)?;
        let digest = Sha256Digest::from_bytes(reader.hasher.finalize().into());
        Self::from_document(document, digest, reader.len, expected)
    }

    /// Reads like [`decode_from`](Self::decode_from), from memory.
    pub fn decode(bytes: &[u8], expected: Sha256Digest) -> Result<Self, CatalogueError> {
        let document = read_document(
            serde_json::Deserializer::from_slice(bytes),
            Origin::Published,
        );
        let document = document.map_err(CatalogueError::Json)?;
        Self::from_document(
            document,
            Sha256Digest::of(bytes),
            bytes.len() as u64,
            expected,
        )
    }

    fn from_document(
        document: Document,
        digest: Sha256Digest,
        encoded_len: u64,
        expected: Sha256Digest,
    ) -> Result<Self, CatalogueError> {
        let other_bytes = CatalogueError::OtherBytes { expected };
        let Document {
            tree,
            crc32s,
            pack,
            version,
            base: _,
        } = document;
        let (Some(pack), Some(version), Some(crc32s)) = (pack, version, crc32s) else {
            return Err(other_bytes);
        };
        if digest != expected {
            return Err(other_bytes);
        }
        Ok(Self {
            pack: PackName::published(pack),
            version,
            tree,
            crc32s,
            digest,
            encoded_len,
        })
    }

    fn new(
        pack: PackName,
        version: u64,
        tree: Tree,
        crc32s: Box<[u32]>,
    ) -> Result<Self, CatalogueError> {
        if version > MAX_SIZE {
            return Err(CatalogueError::VersionTooLarge);
        }
        let nothing = Sha256Digest::from_bytes([0; 32]);
        let mut catalogue = Self {
            pack,
            version,
            tree,
            crc32s,
            digest: nothing,
            encoded_len: 0,
        };
        let mut hasher = sha2::Sha256::new();
        let mut encoded_len = 0;
        for chunk in catalogue.encode() {
            hasher.update(&chunk);
            encoded_len += chunk.len() as u64;
        }
        catalogue.encoded_len = encoded_len;
        catalogue.digest = Sha256Digest::from_bytes(hasher.finalize().into());
        Ok(catalogue)
    }

    pub fn pack(&self) -> &PackName {
        &self.pack
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    pub fn crc32(&self, position: u32) -> u32 {
        self.crc32s[position as usize]
    }

    /// Returns the SHA-256 of the canonical encoding.
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Returns the length of the canonical encoding, in bytes.
    pub fn encoded_len(&self) -> u64 {
        self.encoded_len
    }

    /// Returns the approximate memory of the catalogue, in bytes.
    pub fn memory(&self) -> usize {
        self.tree.memory() + size_of_val(&*self.crc32s)
    }

    /// Writes the canonical encoding, in chunks of about 64 KiB.
    pub fn encode(&self) -> impl Iterator<Item = Bytes> + use<'_> {
        let mut next = 0;
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let mut chunk = String::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
            if next == 0 {
                chunk.push_str("{\"files\":[");
            }
            while next < self.tree.len() && chunk.len() < CHUNK_BYTES {
                if next > 0 {
                    chunk.push(',');
                }
                self.push_file(&mut chunk, next);
                next += 1;
            }
            if next == self.tree.len() {
                ended = true;
                chunk.push_str("],\"format\":\"");
                chunk.push_str(CATALOGUE_FORMAT);
                chunk.push_str("\",\"pack\":");
                push_string(&mut chunk, self.pack.as_str());
                push_number(&mut chunk, ",\"version\":", self.version);
                chunk.push('}');
            }
            Some(Bytes::from(chunk))
        })
    }

    fn push_file(&self, out: &mut String, position: u32) {
        use fmt::Write as _;
        let entry = self.tree.entry(position);
        write!(out, "{{\"crc32\":\"{:08x}\"", self.crc32(position))
            .expect("writing to a string does not fail");
        if entry.executable {
            out.push_str(",\"executable\":true");
        }
        out.push_str(",\"path\":");
        push_string(out, entry.path);
        write!(out, ",\"sha256\":\"{}\"", entry.sha256).expect("writing to a string does not fail");
        push_number(out, ",\"size\":", entry.size);
        out.push('}');
    }
}

const CHUNK_BYTES: usize = 64 * 1024;

fn push_number(out: &mut String, name: &str, number: u64) {
    use fmt::Write as _;
    write!(out, "{name}{number}").expect("writing to a string does not fail");
}

/// A reader that hashes the bytes read.
struct HashingReader<R> {
    inner: R,
    hasher: sha2::Sha256,
    len: u64,
}

impl<R: io::Read> io::Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.len += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::draft::Draft;
    use crate::testing::catalogue_of;
    use crate::tree::Limits;

    const CANONICAL: &str = concat!(
        r#"{"files":[{"crc32":"cbf43926","executable":true,"path":"a/\"b\".txt","#,
        r#""sha256":"15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225","size":9},"#,
        r#"{"crc32":"00000000","path":"é","#,
        r#""sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}],"#,
        r#""format":"longhaul-catalogue/1","pack":"maps","version":7}"#,
    );

    fn digest() -> Sha256Digest {
        Sha256Digest::of(CANONICAL.as_bytes())
    }

    #[test]
    fn the_canonical_form_is_read_and_written() {
        let catalogue = Catalogue::decode(CANONICAL.as_bytes(), digest()).unwrap();
        assert_eq!(
            (catalogue.pack().as_str(), catalogue.version()),
            ("maps", 7)
        );
        assert_eq!(catalogue.tree().path(0), "a/\"b\".txt");
        assert_eq!(catalogue.crc32(0), 0xcbf4_3926);
        assert!(catalogue.tree().executable(0) && !catalogue.tree().executable(1));
        assert_eq!(catalogue.tree().total_size(), 9);
        assert_eq!(catalogue.digest(), Sha256Digest::of(CANONICAL.as_bytes()));
        assert_eq!(catalogue.encoded_len(), CANONICAL.len() as u64);
        assert_eq!(
            catalogue.encode().collect::<Vec<_>>().concat(),
            CANONICAL.as_bytes()
        );
        assert_eq!(
            Catalogue::decode_from(CANONICAL.as_bytes(), digest()).unwrap(),
            catalogue
        );
    }

    #[test]
    fn publishing_makes_the_same_document() {
        let tree = Draft::parse_json(CANONICAL.as_bytes(), Limits::default())
            .unwrap()
            .tree;
        let contents = |sha256: &Sha256Digest| {
            let size = if *sha256 == Sha256Digest::of(b"") {
                0
            } else {
                9
            };
            Some(Content {
                size,
                crc32: if size == 0 { 0 } else { 0xcbf4_3926 },
            })
        };
        let catalogue =
            Catalogue::publish(PackName::parse("maps").unwrap(), 7, tree, contents).unwrap();
        assert_eq!(
            catalogue.encode().collect::<Vec<_>>().concat(),
            CANONICAL.as_bytes()
        );
    }

    #[test]
    fn publishing_wants_all_contents_in_the_size_told() {
        let publish = |content| {
            let tree = Draft::parse_json(CANONICAL.as_bytes(), Limits::default())
                .unwrap()
                .tree;
            Catalogue::publish(PackName::parse("maps").unwrap(), 7, tree, |_| content)
                .unwrap_err()
                .to_string()
        };
        assert_eq!(publish(None), "the content of `a/\"b\".txt` is not known");
        assert_eq!(
            publish(Some(Content { size: 8, crc32: 0 })),
            "`a/\"b\".txt` should have 9 bytes, but its content has 8"
        );
    }

    #[test]
    fn other_bytes_are_refused() {
        for (from, to) in [
            (r#","version":7"#, r#", "version":7"#),
            (r#","version":7"#, ""),
            (r#""executable":true,"#, ""),
            (r#""crc32":"00000000","#, ""),
            ("maps", "caps"),
            ("}]", "}] "),
        ] {
            let text = CANONICAL.replacen(from, to, 1);
            assert_ne!(text, CANONICAL);
            let error = Catalogue::decode(text.as_bytes(), digest()).unwrap_err();
            assert!(
                matches!(error, CatalogueError::OtherBytes { .. }),
                "{text}: {error:?}"
            );
            let error = Catalogue::decode_from(text.as_bytes(), digest()).unwrap_err();
            assert!(
                matches!(error, CatalogueError::OtherBytes { .. }),
                "{text}: {error:?}"
            );
        }
        assert!(matches!(
            Catalogue::decode(b"{", digest()),
            Err(CatalogueError::Json(_))
        ));
    }

    #[test]
    fn a_version_is_a_number_that_json_holds() {
        let publish = |version| {
            let tree = Draft::parse_json(br#"{"files":[]}"#, Limits::default())
                .unwrap()
                .tree;
            Catalogue::publish(PackName::parse("p").unwrap(), version, tree, |_| None)
        };
        assert!(publish(MAX_SIZE).is_ok());
        assert!(matches!(
            publish(MAX_SIZE + 1),
            Err(CatalogueError::VersionTooLarge)
        ));
    }

    #[test]
    fn an_empty_pack_has_a_catalogue() {
        let catalogue = catalogue_of(1, []);
        let json = catalogue.encode().collect::<Vec<_>>().concat();
        assert_eq!(
            json,
            br#"{"files":[],"format":"longhaul-catalogue/1","pack":"p","version":1}"#
        );
        assert_eq!(
            Catalogue::decode(&json, catalogue.digest()).unwrap(),
            catalogue
        );
    }

    proptest! {
        #[test]
        fn encoding_round_trips(files in proptest::collection::btree_map("[a-z\"\u{e9}]{1,8}", any::<(u16, bool)>(), 0..300)) {
            let files: Vec<_> = files
                .iter()
                .map(|(path, (content, executable))| (path.as_str(), content.to_be_bytes(), *executable))
                .collect();
            let catalogue = catalogue_of(3, files.iter().map(|(path, content, executable)| (*path, &content[..], *executable)));
            let json = catalogue.encode().collect::<Vec<_>>().concat();
            prop_assert_eq!(json.len() as u64, catalogue.encoded_len());
            prop_assert_eq!(&Catalogue::decode(&json, catalogue.digest()).unwrap(), &catalogue);
            // An independent reader agrees that the text is canonical: sorted keys, and the output
            // of serde_json.
            let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
            prop_assert_eq!(serde_json::to_vec(&value).unwrap(), json);
        }
    }
}
