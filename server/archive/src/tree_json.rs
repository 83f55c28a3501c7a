//! Reads trees and catalogues from JSON, directly into their columns.
//!
//! Only the columns of a file are kept, so that a million files can be read from a stream.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufReader};

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Unexpected, Visitor,
};

use crate::entry_path::EntryPath;
use crate::sha256_digest::{Sha256Digest, parse_hex};
use crate::tree::{Limits, Tree, TreeBuilder};

/// The `format` member of a catalogue.
pub const CATALOGUE_FORMAT: &str = "longhaul-catalogue/1";

/// Contents of a JSON text, not yet checked for canonical form.
pub(crate) struct Document {
    pub(crate) tree: Tree,
    /// CRC-32s in the order of the tree; `None` if a file lacks one.
    pub(crate) crc32s: Option<Box<[u32]>>,
    pub(crate) pack: Option<String>,
    pub(crate) version: Option<u64>,
    pub(crate) base: Option<u64>,
}

/// Origin of a document.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Origin {
    /// A client: everything is checked, and bounded by these limits.
    Client(Limits),
    /// This server, as the digest will prove: checks of the publication are not repeated.
    Published,
}

pub(crate) fn read_document_from(
    reader: impl io::Read,
    origin: Origin,
) -> Result<Document, serde_json::Error> {
    // The deserializer reads single bytes.
    read_document(
        serde_json::Deserializer::from_reader(BufReader::with_capacity(64 * 1024, reader)),
        origin,
    )
}

pub(crate) fn read_document<'de, R: serde_json::de::Read<'de>>(
    mut json: serde_json::Deserializer<R>,
    origin: Origin,
) -> Result<Document, serde_json::Error> {
    let document = DocumentSeed { origin }.deserialize(&mut json)?;
    json.end()?;
    Ok(document)
}

struct DocumentSeed {
    origin: Origin,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Member {
    Base,
    Files,
    Format,
    Pack,
    Version,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMembers<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    size: u64,
    sha256: Sha256Digest,
    crc32: Option<Crc32>,
    #[serde(default)]
    executable: bool,
}

struct Crc32(u32);

impl<'de> Deserialize<'de> for Crc32 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Crc32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CRC-32 of 8 lowercase hexadecimal digits")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let bytes = parse_hex(text)
                    .ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))?;
                Ok(Crc32(u32::from_be_bytes(bytes)))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl<'de> DeserializeSeed<'de> for DocumentSeed {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for DocumentSeed {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with `files`")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut base = None;
        let mut files = None;
        let mut format: Option<String> = None;
        let mut pack = None;
        let mut version = None;
        while let Some(member) = map.next_key()? {
            let is_repeated = match member {
                Member::Base => base.replace(map.next_value()?).is_some(),
                Member::Files => files
                    .replace(map.next_value_seed(FilesSeed {
                        origin: self.origin,
                    })?)
                    .is_some(),
                Member::Format => format.replace(map.next_value()?).is_some(),
                Member::Pack => pack.replace(map.next_value()?).is_some(),
                Member::Version => version.replace(map.next_value()?).is_some(),
            };
            if is_repeated {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        if let Some(format) = format
            && format != CATALOGUE_FORMAT
        {
            return Err(A::Error::custom(format_args!(
                "`format` is not `{CATALOGUE_FORMAT}`"
            )));
        }
        let (tree, crc32s) = files.ok_or_else(|| A::Error::missing_field("files"))?;
        Ok(Document {
            tree,
            crc32s,
            pack,
            version,
            base,
        })
    }
}

pub(crate) struct FilesSeed {
    pub(crate) origin: Origin,
}

impl<'de> DeserializeSeed<'de> for FilesSeed {
    type Value = (Tree, Option<Box<[u32]>>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for FilesSeed {
    type Value = (Tree, Option<Box<[u32]>>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut files: A) -> Result<Self::Value, A::Error> {
        let mut builder = match self.origin {
            Origin::Client(limits) => TreeBuilder::new(limits),
            Origin::Published => TreeBuilder::of_published(),
        };
        let mut crc32s = Vec::new();
        while let Some(file) = files.next_element::<FileMembers<'de>>()? {
            let path = match self.origin {
                Origin::Client(_) => EntryPath::normalize(&*file.path).map_err(|error| {
                    let beginning: String = file.path.chars().take(80).collect();
                    A::Error::custom(format_args!("{beginning:?}: {error}"))
                })?,
                Origin::Published => EntryPath::published(file.path),
            };
            crc32s.extend(file.crc32.map(|Crc32(crc32)| crc32));
            builder
                .push(&path, file.size, file.sha256, file.executable)
                .map_err(A::Error::custom)?;
        }
        let is_complete = crc32s.len() == builder.len();
        if !is_complete {
            crc32s.clear();
        }
        let tree = builder.finish_with(&mut crc32s);
        Ok((tree, is_complete.then(|| crc32s.into_boxed_slice())))
    }
}
