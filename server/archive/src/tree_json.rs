//! Reading trees and catalogues from JSON, straight into their columns.
//!
//! Nothing is kept of a file but its place in the columns, so that a million of them can be read from a stream.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufReader};

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Unexpected,
    Visitor,
};

use crate::catalogue::CATALOGUE_FORMAT;
use crate::entry_path::EntryPath;
use crate::sha256_digest::{Sha256Digest, parse_hex};
use crate::tree::{Limits, Tree, TreeBuilder, TreeError};

/// What a JSON text said, before anyone asks whether it is canonical.
pub(crate) struct Document {
    pub(crate) tree: Tree,
    /// In the order of the tree; absent when a file lacked one.
    pub(crate) crc32s: Option<Box<[u32]>>,
    pub(crate) pack: Option<String>,
    pub(crate) version: Option<u64>,
    pub(crate) base: Option<u64>,
}

fn read_document<'de, R: serde_json::de::Read<'de>>(
    mut json: serde_json::Deserializer<R>,
    limits: Limits,
) -> Result<Document, CatalogueError> {
    let document = DocumentSeed { limits }
        .deserialize(&mut json)
        .map_err(CatalogueError::Json)?;
    json.end().map_err(CatalogueError::Json)?;
    Ok(document)
}

/// Reads a document straight into a [`TreeBuilder`], a file at a time.
struct DocumentSeed {
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Member {
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
        let mut files = None;
        let mut format: Option<String> = None;
        let mut pack = None;
        let mut version = None;
        while let Some(member) = map.next_key()? {
            let is_repeated = match member {
                Member::Files => files
                    .replace(map.next_value_seed(FilesSeed {
                        limits: self.limits,
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
        })
    }
}

pub(crate) struct FilesSeed {
    pub(crate) limits: Limits,
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
        let mut builder = TreeBuilder::new(self.limits);
        let mut crc32s = Vec::new();
        while builder.len() < self.limits.entries as usize {
            let Some(file) = files.next_element::<FileMembers<'de>>()? else {
                break;
            };
            let path = EntryPath::normalize(&*file.path).map_err(|error| {
                let beginning: String = file.path.chars().take(80).collect();
                A::Error::custom(format_args!("{beginning:?}: {error}"))
            })?;
            crc32s.extend(file.crc32.map(|Crc32(crc32)| crc32));
            builder
                .push(&path, file.size, file.sha256, file.executable)
                .map_err(A::Error::custom)?;
        }
        if builder.len() == self.limits.entries as usize
            && files.next_element::<IgnoredAny>()?.is_some()
        {
            return Err(A::Error::custom(TreeError::TooManyEntries {
                limit: self.limits.entries,
            }));
        }
        let is_complete = crc32s.len() == builder.len();
        if !is_complete {
            crc32s.clear();
        }
        let tree = builder.finish_with(&mut crc32s);
        Ok((tree, is_complete.then(|| crc32s.into_boxed_slice())))
    }
}

