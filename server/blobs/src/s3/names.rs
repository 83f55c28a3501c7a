//! The names of objects, and what names say.
//!
//! ```text
//! PREFIX published/<key>             a blob
//! PREFIX sealed/<key>                who published it, where the blob does not say so itself
//! PREFIX staged/<key>!/<note>        what is known of a blob that grows
//! PREFIX probe                       overwritten now and then, to see whether writing works
//! PREFIX probe-<key>                 with what is found out at the start what the server can do, and deleted then
//! ```
//!
//! The `!` has the objects of keys come in the order of the keys, of which one may be the beginning of another: it is less than
//! every character of a key.

use std::fmt::{self, Display};
use std::str::FromStr;

use domain::BlobKey;

/// Orders the sessions of all writers of a blob: by the epoch of the upload, then by a count within the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Rank {
    pub(super) epoch: u64,
    pub(super) session: u64,
}

impl Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{:016x}", self.epoch, self.session)
    }
}

impl FromStr for Rank {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (epoch, session) = text.split_once('-').ok_or(())?;
        Ok(Self {
            epoch: hexadecimal(epoch).ok_or(())?,
            session: hexadecimal(session).ok_or(())?,
        })
    }
}

/// Says which session made an object or a multipart upload; the count tells those of one session apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) rank: Rank,
    pub(super) nth: u64,
}

impl Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.rank, self.nth)
    }
}

impl FromStr for Tag {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (rank, nth) = text.rsplit_once('-').ok_or(())?;
        Ok(Self {
            rank: rank.parse()?,
            nth: hexadecimal(nth).ok_or(())?,
        })
    }
}

/// What a note is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A session began.
    Claim,
    /// Bytes, and the state of the blob with them.
    Piece,
    /// The same, and nothing more comes of this session.
    Close,
}

/// An object that says something of a blob that grows; all of it but the state is in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Note {
    /// Of the session that left it.
    pub(super) rank: Rank,
    /// Counts the notes of the session.
    pub(super) nth: u64,
    /// Where the session began: bytes of older sessions do not count from there on.
    pub(super) begin: u64,
    /// The note has the bytes of the blob from here
    pub(super) from: u64,
    /// to here.
    pub(super) to: u64,
    pub(super) kind: Kind,
}

impl Note {
    pub(super) fn has_state(&self) -> bool {
        self.kind != Kind::Claim
    }
}

impl Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Claim => "claim",
            Kind::Piece => "piece",
            Kind::Close => "close",
        };
        write!(
            f,
            "{}-{:016x}-{:016x}-{:016x}-{:016x}-{kind}",
            self.rank, self.nth, self.begin, self.from, self.to
        )
    }
}

impl FromStr for Note {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (rest, kind) = text.rsplit_once('-').ok_or(())?;
        let kind = match kind {
            "claim" => Kind::Claim,
            "piece" => Kind::Piece,
            "close" => Kind::Close,
            _ => return Err(()),
        };
        let numbers: Option<Vec<u64>> = rest.split('-').map(hexadecimal).collect();
        let Some([epoch, session, nth, begin, from, to]) = numbers.as_deref() else {
            return Err(());
        };
        Ok(Self {
            rank: Rank {
                epoch: *epoch,
                session: *session,
            },
            nth: *nth,
            begin: *begin,
            from: *from,
            to: *to,
            kind,
        })
    }
}

/// Sixteen hexadecimal digits.
fn hexadecimal(text: &str) -> Option<u64> {
    let is_canonical = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_canonical
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

/// The names of a store's objects.
#[derive(Debug, Clone)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    pub(super) fn published(&self, key: &BlobKey) -> String {
        format!("{}published/{key}", self.prefix)
    }

    pub(super) fn all_published(&self) -> String {
        format!("{}published/", self.prefix)
    }

    pub(super) fn sealed(&self, key: &BlobKey) -> String {
        format!("{}sealed/{key}", self.prefix)
    }

    pub(super) fn all_sealed(&self) -> String {
        format!("{}sealed/", self.prefix)
    }

    pub(super) fn staged(&self, key: &BlobKey) -> String {
        format!("{}staged/{key}!/", self.prefix)
    }

    pub(super) fn all_staged(&self) -> String {
        format!("{}staged/", self.prefix)
    }

    pub(super) fn note(&self, key: &BlobKey, note: &Note) -> String {
        format!("{}{note}", self.staged(key))
    }

    /// Where a part is put together that is longer than what is gathered in memory.
    pub(super) fn large(&self, key: &BlobKey, tag: Tag) -> String {
        format!("{}large-{tag}", self.staged(key))
    }

    pub(super) fn probe(&self) -> String {
        format!("{}probe", self.prefix)
    }

    /// An object to find out by what the server can do.
    pub(super) fn scratch(&self, key: &BlobKey) -> String {
        format!("{}{key}", self.all_scratch())
    }

    pub(super) fn all_scratch(&self) -> String {
        format!("{}probe-", self.prefix)
    }

    /// The key of a published blob's object.
    pub(super) fn key_of_published(&self, name: &str) -> Option<BlobKey> {
        name.strip_prefix(&self.all_published())?.parse().ok()
    }

    /// The key of the blob that an object beside its notes belongs to.
    pub(super) fn key_of_staged(&self, name: &str) -> Option<BlobKey> {
        let (key, _) = name.strip_prefix(&self.all_staged())?.split_once("!/")?;
        key.parse().ok()
    }

    /// The key and the note that an object's name says.
    pub(super) fn note_of(&self, name: &str) -> Option<(BlobKey, Note)> {
        let (key, note) = name.strip_prefix(&self.all_staged())?.split_once("!/")?;
        Some((key.parse().ok()?, note.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_reads_back_from_its_name() {
        let names = Names::new("some/where/");
        let key: BlobKey = "a-b".parse().unwrap();
        for kind in [Kind::Claim, Kind::Piece, Kind::Close] {
            let note = Note {
                rank: Rank {
                    epoch: 3,
                    session: u64::MAX,
                },
                nth: 2,
                begin: 1,
                from: 0xabc,
                to: 1 << 40,
                kind,
            };
            let name = names.note(&key, &note);
            assert_eq!(names.note_of(&name), Some((key.clone(), note)));
        }
        for name in ["", "some/where/staged/a-b!/x", "some/where/staged/a-b/x"] {
            assert_eq!(names.note_of(name), None);
        }
    }

    #[test]
    fn a_tag_reads_back() {
        let tag = Tag {
            rank: Rank {
                epoch: 7,
                session: 9,
            },
            nth: 1,
        };
        assert_eq!(tag.to_string().parse(), Ok(tag));
        assert!("7-9-1".parse::<Tag>().is_err());
    }

    #[test]
    fn notes_are_in_the_order_of_their_keys() {
        let names = Names::new("");
        let mut keys = ["a-b", "a", "a0", "b", "a-", "az"];
        let in_order = |one: &&str, other: &&str| {
            let of = |key: &str| names.staged(&key.parse().unwrap());
            of(one).cmp(&of(other))
        };
        let mut by_name = keys;
        by_name.sort_by(in_order);
        keys.sort_unstable();
        assert_eq!(by_name, keys);
    }
}
