//! A recorded file: one representation under a path.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use protocol::conditional::{DateOf, EntityTag, Modified, Preconditions, TagList, Validators};
use protocol::date;

use crate::digest::Sha256Digest;
use crate::{BlobKey, Timestamp};

/// Maximum length of a path, in bytes.
const MAX_PATH: usize = 1024;
/// Maximum length of one segment of a path, in bytes.
const MAX_SEGMENT: usize = 255;

/// The path of a file below `/files/`: 1 to 1,024 bytes of UTF-8 in segments of 1 to 255 bytes,
/// none of them `.` or `..`, without control characters and backslashes. Compared byte by byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FilePath(Arc<str>);

/// Faults of a text that is not the path of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// An empty path or segment: `//`, or a slash at either end.
    #[error("a path has no empty segments")]
    Empty,
    /// The path or one of its segments is too long.
    #[error("a path has at most {MAX_PATH} bytes, each segment at most {MAX_SEGMENT}")]
    TooLong,
    /// A segment `.` or `..`.
    #[error("a path has no segments . or ..")]
    Traversal,
    /// A control character or a backslash.
    #[error("a path has no control characters and no backslash")]
    Character,
}

impl FilePath {
    /// Returns the path as text, without a slash at either end.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the last segment.
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

/// The bytes of a file: a published blob with its size and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The blob that holds the bytes.
    pub blob: BlobKey,
    /// Number of bytes.
    pub size: u64,
    /// Digest of the bytes, which is also the file's strong entity tag.
    pub sha256: Sha256Digest,
}

/// The uploader's description of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Description {
    /// Its media type.
    pub media_type: Option<String>,
    /// The name to save it under, if it differs from the path's last segment.
    pub filename: Option<String>,
}

/// A recorded file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub path: FilePath,
    pub content: Content,
    /// The uploader's description.
    pub description: Description,
    /// The time at which these bytes were written under this path.
    pub modified_at: Timestamp,
    /// The latest earlier time at which other bytes were written under this path, as far as
    /// remembered: the time of a deleted file is remembered for [`DELETED_REMEMBERED`]. Only a
    /// metadata store sets it.
    pub previous_at: Option<Timestamp>,
}

/// Time for which the last modification of a path is remembered after its file was deleted. Only a
/// clock that is set back by more could give the same date twice.
pub const DELETED_REMEMBERED: Duration = Duration::from_mins(1);

impl File {
    /// Returns the strong entity tag, quotes included: the content's SHA-256 in hexadecimal, the
    /// same on every node and after a restore.
    pub fn etag(&self) -> String {
        etag(&self.content.sha256)
    }

    /// Returns the modification date as a validator. Within a second in which the path had other
    /// bytes before, the date does not distinguish them.
    pub fn modified(&self) -> Modified {
        let seconds = |at: Timestamp| at.as_millis().div_euclid(1000);
        let is_of_this = self
            .previous_at
            .is_none_or(|previous| seconds(previous) < seconds(self.modified_at));
        Modified {
            at: self.modified_at.into(),
            date: match is_of_this {
                true => DateOf::This,
                false => DateOf::Several,
            },
        }
    }

    /// Returns the latest time at which bytes were written under the path, these included.
    pub fn latest_at(&self) -> Timestamp {
        self.previous_at
            .map_or(self.modified_at, |previous| previous.max(self.modified_at))
    }
}

/// Returns the strong entity tag of a representation with this digest, as text.
pub fn etag(sha256: &Sha256Digest) -> String {
    tag(sha256).to_string()
}

/// Returns the strong entity tag of a representation with this digest.
pub fn tag(sha256: &Sha256Digest) -> EntityTag {
    EntityTag::strong(sha256.to_string()).expect("hexadecimal digits are a tag")
}

/// Preconditions of writing a path (RFC 9110 §13.1), evaluated on the current file or its absence.
/// Fields as sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteCondition {
    /// `If-Match`.
    pub if_match: Option<String>,
    /// `If-None-Match`.
    pub if_none_match: Option<String>,
    /// `If-Unmodified-Since`, ignored if there is an `If-Match`.
    pub if_unmodified_since: Option<String>,
}

impl WriteCondition {
    /// Returns true if the condition is true for the current file under the path.
    pub fn holds(&self, current: Option<&File>) -> bool {
        let preconditions = Preconditions {
            if_match: self.if_match.as_deref().map(TagList::parse),
            if_none_match: self.if_none_match.as_deref().map(TagList::parse),
            if_unmodified_since: self.if_unmodified_since.as_deref().and_then(date::parse),
            if_modified_since: None,
        };
        let tag = current.map(|file| tag(&file.content.sha256));
        let validators = current.zip(tag.as_ref()).map(|(file, tag)| Validators {
            tag,
            last_modified: Some(file.modified()),
        });
        preconditions.allow_writing(validators)
    }

    /// Evaluates the condition for a thing that has the tags accepted by `is_named_by`, or for the
    /// absence of a thing.
    pub(crate) fn holds_of(&self, is_named_by: Option<impl Fn(&EntityTag) -> bool>) -> bool {
        let matches = |field: &String, counts: fn(&EntityTag) -> bool| match (
            TagList::parse(field),
            &is_named_by,
        ) {
            (_, None) => false,
            (TagList::Any, Some(_)) => true,
            (TagList::Tags(tags), Some(is_named_by)) => {
                tags.iter().any(|tag| counts(tag) && is_named_by(tag))
            }
        };
        // RFC 9110 §13.1.1: `If-Match` compares strongly, so a weak tag never matches.
        self.if_match
            .as_ref()
            .is_none_or(|field| matches(field, |tag| !tag.is_weak()))
            && !self
                .if_none_match
                .as_ref()
                .is_some_and(|field| matches(field, |_| true))
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
    fn a_date_is_a_files_own_if_no_other_bytes_came_in_its_second() {
        let file = |modified_at, previous_at: Option<i64>| File {
            path: "a".parse().unwrap(),
            content: Content {
                blob: BlobKey::random(&crate::ids::SystemRandomness),
                size: 0,
                sha256: Sha256Digest::of(b""),
            },
            description: Description::default(),
            modified_at: Timestamp::from_millis(modified_at),
            previous_at: previous_at.map(Timestamp::from_millis),
        };
        for (modified_at, previous_at, date) in [
            (5_100, None, DateOf::This),
            (5_000, Some(4_999), DateOf::This),
            (5_900, Some(5_000), DateOf::Several),
            (5_000, Some(5_000), DateOf::Several),
            // A clock that was set back, or another node's.
            (4_100, Some(5_900), DateOf::Several),
        ] {
            assert_eq!(file(modified_at, previous_at).modified().date, date);
        }
        assert_eq!(file(4_100, Some(5_900)).latest_at().as_millis(), 5_900);
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
