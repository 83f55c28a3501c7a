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

use std::collections::HashMap;
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

/// A multipart upload that may be under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) id: String,
    /// Who began it.
    pub(super) tag: Tag,
}

/// What a note says beside its bytes, in the metadata of its object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    /// The size of all parts but the last, in bytes.
    pub(super) part_size: u64,
    /// How many bytes of the object that is where the blob will be published belong to the blob.
    pub(super) base: u64,
    /// The multipart upload that has the parts beyond the base.
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
    /// Where they begin in the blob.
    pub(super) from: u64,
    /// Where they end.
    pub(super) to: u64,
}

/// The notes on one blob, in the order of their ranks.
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

    /// The greatest rank of all.
    pub(super) fn newest(&self) -> Option<Rank> {
        self.0.last().map(|note| note.rank)
    }

    /// Those that sessions of a lower rank than `rank` left.
    pub(super) fn before(&self, rank: Rank) -> Self {
        let before = |note: &&Note| note.rank < rank;
        Self(self.0.iter().filter(before).copied().collect())
    }

    /// The newest note that has a state.
    pub(super) fn newest_state(&self) -> Option<&Note> {
        self.0.iter().rev().find(|note| note.has_state())
    }

    /// The bytes from `from` on, up to `to` or as far as they reach, by the notes that have them.
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

    /// Up to where the bytes of a note count.
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
