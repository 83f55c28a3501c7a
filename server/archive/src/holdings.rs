//! Holdings of a client, as JSON.
//!
//! One of
//!
//! - a full catalogue, `{"files": [{"path": …, "size": …, "sha256": …}, …]}`, as
//!   [`Draft`](crate::Draft) reads it;
//! - a list of digests, `{"digests": ["e3b0…", …]}`, or the list alone;
//! - a version with exceptions, `{"version": 41, "except": ["maps/lost.png", …]}`; `except` may be
//!   missing.

use std::fmt;
use std::io::{self, BufReader};
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::diff::DigestSet;
use crate::entry_path::EntryPath;
use crate::sha256_digest::Sha256Digest;
use crate::tree::{Limits, Tree};
use crate::tree_json::CATALOGUE_FORMAT;
use crate::tree_json::{FilesSeed, Origin};

/// Holdings of a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Holdings {
    Tree(Tree),
    Digests(DigestSet),
    /// A published version without some of its files.
    Version {
        version: u64,
        except: Vec<EntryPath<'static>>,
    },
}

/// The text does not describe holdings.
#[derive(Debug, thiserror::Error)]
#[error("the holdings are not the JSON that they should be")]
pub struct HoldingsError(#[source] serde_json::Error);

impl Holdings {
    /// Reads holdings with a bounded number of files, digests or exceptions.
    pub fn read_json(reader: impl io::Read, limits: Limits) -> Result<Self, HoldingsError> {
        read(
            serde_json::Deserializer::from_reader(BufReader::new(reader)),
            limits,
        )
        .map_err(HoldingsError)
    }

    /// Reads like [`read_json`](Self::read_json), from memory.
    pub fn parse_json(bytes: &[u8], limits: Limits) -> Result<Self, HoldingsError> {
        read(serde_json::Deserializer::from_slice(bytes), limits).map_err(HoldingsError)
    }
}

fn read<'de, R: serde_json::de::Read<'de>>(
    mut json: serde_json::Deserializer<R>,
    limits: Limits,
) -> Result<Holdings, serde_json::Error> {
    let holdings = HoldingsSeed { limits }.deserialize(&mut json)?;
    json.end()?;
    Ok(holdings)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Member {
    Files,
    Digests,
    Except,
    Version,
    Format,
    Pack,
}

struct HoldingsSeed {
    limits: Limits,
}

impl<'de> DeserializeSeed<'de> for HoldingsSeed {
    type Value = Holdings;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Holdings, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for HoldingsSeed {
    type Value = Holdings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a catalogue, a list of digests or a version with exceptions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, digests: A) -> Result<Holdings, A::Error> {
        let digests = ListSeed::<Sha256Digest>::new(self.limits.entries).visit_seq(digests)?;
        Ok(Holdings::Digests(digests.into_iter().collect()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Holdings, A::Error> {
        let limit = self.limits.entries;
        let mut files = None;
        let mut digests: Option<Vec<Sha256Digest>> = None;
        let mut except: Option<Vec<EntryPath<'static>>> = None;
        let (mut version, mut format, mut pack) = (None::<u64>, None::<String>, None::<String>);
        while let Some(member) = map.next_key()? {
            let is_repeated = match member {
                Member::Files => files
                    .replace(map.next_value_seed(FilesSeed {
                        origin: Origin::Client(self.limits),
                    })?)
                    .is_some(),
                Member::Digests => digests
                    .replace(map.next_value_seed(ListSeed::new(limit))?)
                    .is_some(),
                Member::Except => except
                    .replace(map.next_value_seed(ListSeed::new(limit))?)
                    .is_some(),
                Member::Version => version.replace(map.next_value()?).is_some(),
                Member::Format => format.replace(map.next_value()?).is_some(),
                Member::Pack => pack.replace(map.next_value()?).is_some(),
            };
            if is_repeated {
                return Err(A::Error::custom("a member is there twice"));
            }
        }
        match (files, digests, version, except) {
            // A full catalogue also has its version, pack and format.
            (Some((tree, _)), None, _, None)
                if format
                    .as_deref()
                    .is_none_or(|format| format == CATALOGUE_FORMAT) =>
            {
                Ok(Holdings::Tree(tree))
            }
            (None, Some(digests), None, None) if format.is_none() && pack.is_none() => {
                Ok(Holdings::Digests(digests.into_iter().collect()))
            }
            (None, None, Some(version), except) if format.is_none() && pack.is_none() => {
                Ok(Holdings::Version {
                    version,
                    except: except.unwrap_or_default(),
                })
            }
            (Some(_) | None, Some(_) | None, Some(_) | None, Some(_) | None) => {
                Err(A::Error::custom(
                    "neither a catalogue nor a list of digests nor a version with exceptions",
                ))
            }
        }
    }
}

/// Reads a list of at most `limit` values.
struct ListSeed<T> {
    limit: u32,
    values: PhantomData<T>,
}

impl<T> ListSeed<T> {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            values: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for ListSeed<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for ListSeed<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {} values", self.limit)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            if values.len() == self.limit as usize {
                return Err(A::Error::custom(format_args!(
                    "more than {} values",
                    self.limit
                )));
            }
            values.push(value);
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(json: &str) -> Result<Holdings, String> {
        let limits = Limits {
            entries: 2,
            ..Limits::default()
        };
        let parsed = Holdings::parse_json(json.as_bytes(), limits);
        let read = Holdings::read_json(json.as_bytes(), limits);
        assert_eq!(parsed.as_ref().ok(), read.as_ref().ok(), "{json}");
        parsed.map_err(|error| error.source().expect("a cause").to_string())
    }

    fn refuse(json: &str, why: &str) {
        let error = parse(json).unwrap_err();
        assert!(error.contains(why), "{json}: {error}");
    }

    #[test]
    fn all_three_kinds_are_read() {
        let files = format!(r#"{{"files":[{{"path":"a","size":0,"sha256":"{EMPTY}"}}]}}"#);
        let Ok(Holdings::Tree(tree)) = parse(&files) else {
            panic!("no tree")
        };
        assert_eq!(tree.path(0), "a");

        let whole = files.replace(
            "]}",
            r#"],"format":"longhaul-catalogue/1","pack":"p","version":1}"#,
        );
        assert_eq!(parse(&whole), Ok(Holdings::Tree(tree)));

        let digests = Holdings::Digests([Sha256Digest::of(b"")].into_iter().collect());
        assert_eq!(
            parse(&format!(r#"["{EMPTY}","{EMPTY}"]"#)).as_ref(),
            Ok(&digests)
        );
        assert_eq!(parse(&format!(r#"{{"digests":["{EMPTY}"]}}"#)), Ok(digests));

        assert_eq!(
            parse(r#"{"version":41}"#),
            Ok(Holdings::Version {
                version: 41,
                except: vec![]
            })
        );
        let except = vec![EntryPath::parse("a/\u{e9}").unwrap()];
        assert_eq!(
            parse("{\"except\":[\"a/e\u{301}\"],\"version\":41}"),
            Ok(Holdings::Version {
                version: 41,
                except
            })
        );
    }

    #[test]
    fn other_texts_are_refused() {
        refuse("{}", "neither a catalogue");
        refuse("7", "a catalogue, a list of digests or a version");
        refuse(r#"{"except":[]}"#, "neither a catalogue");
        refuse(r#"{"version":1,"digests":[]}"#, "neither a catalogue");
        refuse(r#"{"files":[],"except":[]}"#, "neither a catalogue");
        refuse(r#"{"files":[],"format":"other"}"#, "neither a catalogue");
        refuse(r#"{"version":1,"version":1}"#, "twice");
        refuse(r#"{"version":1,"but":[]}"#, "unknown field `but`");
        refuse(r#"{"version":1,"except":["a","b","c"]}"#, "more than 2");
        refuse(r#"{"version":1,"except":["../a"]}"#, "`..` segment");
        refuse(r#"["e3"]"#, "not a SHA-256");
        refuse("[] []", "trailing");
    }
}
