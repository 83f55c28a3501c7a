//! What the notes on a blob add up to. Pure: nothing here asks the server.
//!
//! A *session* is the time that one writer has a blob. It says its rank and where it begins in the name of every note it leaves. Bytes
//! that sessions of lower rank have from there on do not count, whenever they were written.

use std::collections::HashMap;

use super::names::{Note, Rank, Tag};

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
    use super::super::names::Kind;
    use super::*;

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
