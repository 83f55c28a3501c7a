//! Files: one representation each, under a path.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::digest::Sha256Digest;
use crate::{BlobKey, Timestamp};

/// Most bytes of a path.
const MAX_PATH: usize = 1024;
/// Most bytes of one segment of a path.
const MAX_SEGMENT: usize = 255;

/// The path of a file below `/files/`: 1 to 1,024 bytes of UTF-8 in segments of 1 to 255 bytes; none is `.` or `..`, and none has
/// a control character or a backslash. Compared byte by byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Arc<str>);

/// Why a text is no path of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidPath {
    /// Nothing, or a segment of nothing: `//`, or a slash at either end.
    #[error("a path has no empty segments")]
    Empty,
    /// Too long as a whole or in one segment.
    #[error("a path has at most {MAX_PATH} bytes, each segment at most {MAX_SEGMENT}")]
    TooLong,
    /// `.` or `..`.
    #[error("a path has no segments . or ..")]
    Traversal,
    /// A control character or a backslash.
    #[error("a path has no control characters and no backslash")]
    Character,
}

impl FilePath {
    /// The path as text, without a slash at either end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilePath({:?})", &*self.0)
    }
}

impl FromStr for FilePath {
    type Err = InvalidPath;

    fn from_str(text: &str) -> Result<Self, InvalidPath> {
        if text.len() > MAX_PATH {
            return Err(InvalidPath::TooLong);
        }
        for segment in text.split('/') {
            match segment {
                "" => return Err(InvalidPath::Empty),
                "." | ".." => return Err(InvalidPath::Traversal),
                _ if segment.len() > MAX_SEGMENT => return Err(InvalidPath::TooLong),
                _ if segment.contains(|c: char| c.is_control() || c == '\\') => {
                    return Err(InvalidPath::Character);
                }
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }
}

/// The bytes of a file: a published blob and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Where the bytes are.
    pub blob: BlobKey,
    /// How many there are.
    pub size: u64,
    /// Their digest, which is also the file's strong entity tag.
    pub sha256: Sha256Digest,
}

/// What the uploader said of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Its media type.
    pub media_type: Option<String>,
    /// The name to save it under, where it differs from the path's last segment.
    pub filename: Option<String>,
}

/// A file as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path.
    pub path: FilePath,
    /// Its bytes.
    pub content: Content,
    /// What the uploader said of it.
    pub description: Description,
    /// When these bytes came under this path.
    pub modified_at: Timestamp,
}

impl File {
    /// The strong entity tag, quotes included: the content's SHA-256 in hexadecimal, the same on every node and after a restore.
    pub fn etag(&self) -> String {
        etag(&self.content.sha256)
    }
}

/// The strong entity tag of a representation with this digest.
pub fn etag(sha256: &Sha256Digest) -> String {
    format!("\"{sha256}\"")
}

/// What must hold of the current file, or its absence, for a path to be written (RFC 9110 §13.1.1, §13.1.2). Fields as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteCondition {
    /// `If-Match`.
    pub if_match: Option<String>,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
}

impl WriteCondition {
    /// Whether it holds of the path's current file.
    pub fn holds(&self, current: Option<&File>) -> bool {
        let matches = |field: &str| {
            current.is_some_and(|file| {
                let etag = file.etag();
                field
                    .split(',')
                    .map(str::trim)
                    .any(|tag| tag == "*" || tag == etag)
            })
        };
        self.if_match.as_deref().is_none_or(matches)
            && !self.if_none_match.as_deref().is_some_and(matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_paths_pass() {
        for path in [
            "a",
            "photos/2026/IMG_0001.HEIC",
            "Grüße/日本.txt",
            "a b/..c/.d",
        ] {
            assert!(path.parse::<FilePath>().is_ok(), "{path}");
        }
    }

    #[test]
    fn paths_that_lead_elsewhere_do_not() {
        use InvalidPath::{Character, Empty, TooLong, Traversal};
        for (path, reason) in [
            ("", Empty),
            ("/etc/passwd", Empty),
            ("a//b", Empty),
            ("a/", Empty),
            ("..", Traversal),
            ("a/../b", Traversal),
            ("./a", Traversal),
            ("a\0b", Character),
            ("a\nb", Character),
            ("a\\..\\b", Character),
            (&"x".repeat(256), TooLong),
            (&"x/".repeat(600), TooLong),
        ] {
            assert_eq!(path.parse::<FilePath>(), Err(reason), "{path:?}");
        }
    }
}
