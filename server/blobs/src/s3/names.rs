//! Names of objects, and the facts that are in names and metadata.
//!
//! ```text
//! PREFIX published/<key>             a blob
//! PREFIX sealed/<key>                its publisher, if another session made the object
//! PREFIX staged/<key>!/<note>        a note on a blob that grows
//! PREFIX staged/<key>!/large-<tag>   a part that is being put together
//! PREFIX probe                       overwritten now and then, to find out whether writing works
//! PREFIX probe-<key>                 written at the start to try the server, then deleted
//! ```
//!
//! The `!` puts the objects of keys in the order of the keys, of which one may be the beginning of
//! another: it is less than every character of a key.
//!
//! A *session* is the time for which one writer has a blob. The names of all its notes have its
//! rank and the offset at which it began. Bytes of sessions of lower ranks from there on do not
//! count, whenever they were written. [`Notes`] combines the notes of a blob by this rule; it sends
//! no request.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::str::FromStr;

use domain::BlobKey;

/// Rank of a session: the epoch of the upload, then a number that the process issued.
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

/// Tag of an object or a multipart upload: the rank of the session that made it, and a count within
/// the session.
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

/// Kind of a note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A session began.
    Claim,
    /// Bytes, and the state of the blob with them.
    Piece,
    /// The same, and nothing more comes of the session.
    Close,
}

/// Object with facts on a blob that grows. All but the state are in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Note {
    /// Rank of the session that put it.
    pub(super) rank: Rank,
    /// Counts the notes, objects and uploads of the session.
    pub(super) nth: u64,
    /// Offset at which the session began. Bytes of lower ranks do not count from there on.
    pub(super) begin: u64,
    /// Beginning of the bytes of the note in the blob.
    pub(super) from: u64,
    /// End of the bytes of the note in the blob.
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

/// Parses sixteen hexadecimal digits.
fn hexadecimal(text: &str) -> Option<u64> {
    let is_canonical = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_canonical
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

/// Names of the objects of a store.
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

    /// Returns the name under which a large part is put together.
    pub(super) fn large(&self, key: &BlobKey, tag: Tag) -> String {
        format!("{}large-{tag}", self.staged(key))
    }

    pub(super) fn probe(&self) -> String {
        format!("{}probe", self.prefix)
    }

    /// Returns the name of an object to try what the server can do.
    pub(super) fn scratch(&self, key: &BlobKey) -> String {
        format!("{}{key}", self.all_scratch())
    }

    pub(super) fn all_scratch(&self) -> String {
        format!("{}probe-", self.prefix)
    }

    /// Returns the key in the name of a published blob.
    pub(super) fn key_of_published(&self, name: &str) -> Option<BlobKey> {
        name.strip_prefix(&self.all_published())?.parse().ok()
    }

    /// Returns the key in the name of a note or a large part.
    pub(super) fn key_of_staged(&self, name: &str) -> Option<BlobKey> {
        let (key, _) = name.strip_prefix(&self.all_staged())?.split_once("!/")?;
        key.parse().ok()
    }

    /// Returns the key and the note in the name of a note.
    pub(super) fn note_of(&self, name: &str) -> Option<(BlobKey, Note)> {
        let (key, note) = name.strip_prefix(&self.all_staged())?.split_once("!/")?;
        Some((key.parse().ok()?, note.parse().ok()?))
    }
}

/// Multipart upload that may be under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) id: String,
    /// Tag of its beginner.
    pub(super) tag: Tag,
}

/// State of a blob, in the metadata of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// Size of all parts but the last, in bytes.
    pub(super) part_size: u64,
    /// Number of bytes of the object at the published name that the blob begins with.
    pub(super) base: u64,
    /// Multipart upload with the parts behind the base.
    pub(super) upload: Option<Upload>,
}

const PART_SIZE: &str = "longhaul-part-size";
const BASE: &str = "longhaul-base";
const UPLOAD: &str = "longhaul-upload";
const UPLOAD_TAG: &str = "longhaul-upload-tag";

impl State {
    pub(super) fn to_metadata(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::from([
            (PART_SIZE.to_owned(), self.part_size.to_string()),
            (BASE.to_owned(), self.base.to_string()),
        ]);
        if let Some(upload) = &self.upload {
            metadata.insert(UPLOAD.to_owned(), upload.id.clone());
            metadata.insert(UPLOAD_TAG.to_owned(), upload.tag.to_string());
        }
        metadata
    }

    pub(super) fn from_metadata(metadata: &HashMap<String, String>) -> Option<Self> {
        let number = |name| metadata.get(name)?.parse::<u64>().ok();
        let upload = match (metadata.get(UPLOAD), metadata.get(UPLOAD_TAG)) {
            (Some(id), Some(tag)) => Some(Upload {
                id: id.clone(),
                tag: tag.parse().ok()?,
            }),
            _ => None,
        };
        Some(Self {
            part_size: number(PART_SIZE).filter(|size| *size > 0)?,
            base: number(BASE)?,
            upload,
        })
    }
}

/// Bytes of a blob that a note has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) note: Note,
    /// Beginning of the bytes in the blob.
    pub(super) from: u64,
    /// End of the bytes in the blob.
    pub(super) to: u64,
}

/// Notes on one blob, in the order of their ranks.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    pub(super) fn new(mut notes: Vec<Note>) -> Self {
        notes.sort_unstable();
        Self(notes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Note> {
        self.0.iter()
    }

    /// Returns the greatest rank.
    pub(super) fn newest(&self) -> Option<Rank> {
        self.0.last().map(|note| note.rank)
    }

    /// Returns the notes of sessions of lower ranks than `rank`.
    pub(super) fn before(&self, rank: Rank) -> Self {
        let before = |note: &&Note| note.rank < rank;
        Self(self.0.iter().filter(before).copied().collect())
    }

    /// Returns the newest note that has a state.
    pub(super) fn newest_state(&self) -> Option<&Note> {
        self.0.iter().rev().find(|note| note.has_state())
    }

    /// Returns the notes with the bytes from `from` to `to`, or as far as they reach without a gap.
    pub(super) fn extents(&self, from: u64, to: u64) -> Vec<Extent> {
        let mut extents = Vec::new();
        let mut reached = from;
        while reached < to {
            let farthest = self
                .0
                .iter()
                .filter(|note| note.has_state() && note.from <= reached)
                .map(|note| (self.end(note), *note))
                .max()
                .filter(|(end, _)| *end > reached);
            let Some((end, note)) = farthest else {
                break;
            };
            let end = end.min(to);
            extents.push(Extent {
                note,
                from: reached,
                to: end,
            });
            reached = end;
        }
        extents
    }

    /// Returns the offset up to which the bytes of a note count.
    fn end(&self, note: &Note) -> u64 {
        let newer = self.0.iter().filter(|other| other.rank > note.rank);
        newer.map(|other| other.begin).fold(note.to, u64::min)
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

    fn note(epoch: u64, begin: u64, from: u64, to: u64) -> Note {
        Note {
            rank: Rank { epoch, session: 1 },
            nth: 0,
            begin,
            from,
            to,
            kind: Kind::Piece,
        }
    }

    fn claim(epoch: u64, begin: u64) -> Note {
        Note {
            kind: Kind::Claim,
            ..note(epoch, begin, begin, begin)
        }
    }

    fn bytes(notes: &[Note], from: u64, to: u64) -> Vec<(u64, u64, u64)> {
        Notes::new(notes.to_vec())
            .extents(from, to)
            .iter()
            .map(|extent| (extent.note.rank.epoch, extent.from, extent.to))
            .collect()
    }

    #[test]
    fn a_state_reads_back() {
        let rank = Rank {
            epoch: 1,
            session: 2,
        };
        for upload in [
            None,
            Some(Upload {
                id: "an id".to_owned(),
                tag: Tag { rank, nth: 3 },
            }),
        ] {
            let state = State {
                part_size: 5,
                base: 7,
                upload,
            };
            assert_eq!(State::from_metadata(&state.to_metadata()), Some(state));
        }
        assert_eq!(State::from_metadata(&HashMap::new()), None);
    }

    #[test]
    fn pieces_follow_one_another() {
        let notes = [note(1, 0, 0, 10), note(1, 0, 10, 15), note(2, 15, 15, 30)];
        assert_eq!(bytes(&notes, 4, 20), [(1, 4, 10), (1, 10, 15), (2, 15, 20)]);
        assert_eq!(bytes(&notes, 0, 99).last(), Some(&(2, 15, 30)));
        assert_eq!(bytes(&notes[1..], 4, 20), []);
    }

    #[test]
    fn a_newer_session_cuts_what_older_ones_have_beyond_its_beginning() {
        let notes = [note(1, 0, 0, 50), note(2, 20, 20, 30)];
        assert_eq!(bytes(&notes, 0, 50), [(1, 0, 20), (2, 20, 30)]);
        assert_eq!(
            bytes(&[note(1, 0, 0, 50), claim(2, 20)], 0, 50),
            [(1, 0, 20)]
        );
    }

    #[test]
    fn what_an_older_session_writes_late_does_not_count() {
        let notes = [note(2, 20, 20, 30), note(1, 0, 0, 20), note(1, 0, 20, 90)];
        assert_eq!(bytes(&notes, 0, 90), [(1, 0, 20), (2, 20, 30)]);
    }

    #[test]
    fn a_tail_may_be_written_anew_as_one() {
        let notes = [note(1, 0, 0, 10), note(2, 10, 10, 12), note(2, 10, 0, 14)];
        assert_eq!(bytes(&notes, 0, 14), [(2, 0, 14)]);
    }
}
