//! Trees that clients want to publish, as JSON.
//!
//! A draft is a catalogue in any order and spacing. Only `files` is required, with `path`, `size`
//! and `sha256` of each file:
//!
//! ```json
//! {"files": [{"path": "a/b.txt", "size": 9, "sha256": "15e2…1225", "executable": true}], "base": 6}
//! ```
//!
//! `format`, `pack`, `version` and each `crc32` are allowed, since a client may send back a
//! catalogue that it received, but must be well-formed. Names are normalized to NFC. Other members
//! are refused.

use std::io;

use crate::entry_path::EntryPathError;
use crate::pack_name::PackName;
use crate::tree::{Limits, Tree};
use crate::tree_json::{Document, Origin, read_document, read_document_from};

/// A tree to publish.
#[derive(Debug, PartialEq, Eq)]
pub struct Draft {
    pub tree: Tree,
    /// Version that the client started from, if stated.
    pub base: Option<u64>,
}

/// Reasons for which a text is no draft.
#[derive(Debug, thiserror::Error)]
pub enum DraftError {
    #[error("the draft is not the JSON that it should be")]
    Json(#[source] serde_json::Error),
    #[error("the draft is of a pack that cannot be")]
    Pack(#[source] EntryPathError),
}

impl Draft {
    /// Reads a draft from a stream that ends.
    ///
    /// An error of the reader is in the source of [`DraftError::Json`].
    pub fn read_json(reader: impl io::Read, limits: Limits) -> Result<Self, DraftError> {
        Self::from_document(
            read_document_from(reader, Origin::Client(limits)).map_err(DraftError::Json)?,
        )
    }

    /// Reads like [`read_json`](Self::read_json), from memory.
    pub fn parse_json(bytes: &[u8], limits: Limits) -> Result<Self, DraftError> {
        let json = serde_json::Deserializer::from_slice(bytes);
        Self::from_document(read_document(json, Origin::Client(limits)).map_err(DraftError::Json)?)
    }

    fn from_document(document: Document) -> Result<Self, DraftError> {
        let Document {
            tree,
            base,
            pack,
            version: _,
            crc32s: _,
        } = document;
        if let Some(pack) = pack {
            PackName::parse(&pack).map_err(DraftError::Pack)?;
        }
        Ok(Self { tree, base })
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    const WHOLE: &str = concat!(
        r#"{"files":[{"crc32":"cbf43926","executable":true,"path":"a/\"b\".txt","#,
        r#""sha256":"15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225","size":9},"#,
        r#"{"crc32":"00000000","path":"é","#,
        r#""sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0}],"#,
        r#""format":"longhaul-catalogue/1","pack":"maps","version":7}"#,
    );

    #[test]
    fn what_is_no_tree_says_why() {
        fn check(from: &str, to: &str, why: &str) {
            let text = WHOLE.replacen(from, to, 1);
            assert_ne!(text, WHOLE);
            let error = Draft::parse_json(
                text.as_bytes(),
                Limits {
                    entries: 2,
                    total_size: 9,
                    ..Limits::default()
                },
            )
            .unwrap_err();
            let cause = error.source().expect("a cause").to_string();
            assert!(cause.contains(why), "{text}: {cause}");
            let error = Draft::read_json(
                text.as_bytes(),
                Limits {
                    entries: 2,
                    total_size: 9,
                    ..Limits::default()
                },
            )
            .unwrap_err();
            assert!(
                error.source().expect("a cause").to_string().contains(why),
                "{text} from a reader"
            );
        }
        check(
            r#""size":9"#,
            r#""size":9,"mode":1"#,
            "unknown field `mode`",
        );
        check(
            r#""size":9"#,
            r#""size":9,"size":9"#,
            "duplicate field `size`",
        );
        check(r#""size":9"#, r#""size":-1"#, "invalid value");
        check(
            r#""size":9"#,
            r#""size":9007199254740992"#,
            "larger than 9 bytes together",
        );
        check(r#""size":9"#, r#""size":1e3"#, "invalid type");
        check("15e2", "15E2", "not a SHA-256 digest");
        check("cbf4", "cbF4", "CRC-32 of 8 lowercase");
        check("a/", "a/../", "`.` or `..` segment");
        check("\"é\"", r#""A/\"B\".TXT""#, "same path as another");
        check(
            "}]",
            r#"},{"path":"x","size":0,"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}]"#,
            "more than 2 files",
        );
        check("catalogue/1", "catalogue/2", "`format` is not");
        check(
            r#","version":7"#,
            r#","version":7,"seq":7"#,
            "unknown field `seq`",
        );
        check(r#","version":7"#, r#","version":7,"version":7"#, "twice");
        check(
            r#","version":7}"#,
            r#","version":7}x"#,
            "trailing characters",
        );
        check(r#""files":"#, r#""format":"#, "invalid type");
        check("maps", ".maps", "begins with a dot");
    }

    #[test]
    fn a_client_need_not_be_canonical() {
        let client = r#" { "files" : [
            {"path": "b", "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "size": 0},
            {"size": 0, "path": "a\u00e9", "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
             "executable": false}
        ] } "#;
        let draft = Draft::parse_json(client.as_bytes(), Limits::default()).unwrap();
        assert_eq!(
            draft
                .tree
                .entries()
                .map(|entry| entry.path)
                .collect::<Vec<_>>(),
            ["a\u{e9}", "b"]
        );
        assert_eq!(
            Draft::read_json(client.as_bytes(), Limits::default()).unwrap(),
            draft
        );
    }

    #[test]
    fn a_base_may_be_told() {
        let base = |json: &str| {
            Draft::parse_json(json.as_bytes(), Limits::default())
                .unwrap()
                .base
        };
        assert_eq!(base(r#"{"files":[],"base":41}"#), Some(41));
        assert_eq!(base(r#"{"files":[]}"#), None);
    }
}
