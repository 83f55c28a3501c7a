//! Places of the files of a version.
//!
//! The table is made when a version is published, and never changes. If contents are stored anew
//! elsewhere, they stay in these places as well, as long as a version holds the blobs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use archive::{Form, Forms, Tree};

use crate::BlobKey;
use crate::pack::{Place, StoredContent};

/// Places of all files of one version, by their positions in its catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Keys and sizes of the blobs, in the order in which the positions first name them.
    blobs: Box<[(BlobKey, u64)]>,
    raw: Spots,
    deflated: Spots,
}

/// One place for each position.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Spots {
    /// Indices of blobs, or [`NOWHERE`].
    blobs: Vec<u32>,
    starts: Vec<u64>,
}

/// A place with the blob's index instead of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// Index of the blob; see [`Places::blob`].
    pub(super) blob: u32,
    /// Offset in the blob, in bytes.
    pub(super) start: u64,
}

const NOWHERE: u32 = u32::MAX;

impl Places {
    /// Creates the table for these contents, one for each position in order.
    pub(super) fn new<'a>(contents: impl Iterator<Item = &'a StoredContent>) -> Self {
        let mut blobs = Blobs::default();
        let mut raw = Spots::default();
        let mut deflated = Spots::default();
        for content in contents {
            raw.push(Some(blobs.spot(&content.raw)));
            let place = content
                .deflated
                .as_ref()
                .map(|(_, place)| blobs.spot(place));
            deflated.push(place);
        }
        Self {
            blobs: blobs.list.into(),
            raw,
            deflated,
        }
    }

    /// Returns the place of the raw content at a position.
    ///
    /// # Panics
    /// If there is no such position.
    pub(super) fn raw(&self, position: u32) -> Place {
        let spot = self.raw.get(position);
        self.place(spot.expect("every content lies somewhere as it is"))
    }

    /// Returns the place of a form of the content at a position, without a copy of the blob's key.
    ///
    /// # Panics
    /// If there is no such position.
    pub(super) fn spot(&self, position: u32, form: &Form) -> Option<Spot> {
        match form {
            Form::Raw => self.raw.get(position),
            Form::Deflated(_) => self.deflated.get(position),
        }
    }

    /// Returns the key and the size in bytes of a blob.
    ///
    /// # Panics
    /// If no [`Spot`] of this table has the index.
    pub(super) fn blob(&self, index: u32) -> (&BlobKey, u64) {
        let (key, size) = &self.blobs[index as usize];
        (key, *size)
    }

    /// Returns all blobs, each once.
    pub(super) fn blobs(&self) -> impl Iterator<Item = &BlobKey> {
        self.blobs.iter().map(|(key, _)| key)
    }

    /// Returns true if every content of the tree lies within its blob, in its form and raw.
    pub(super) fn hold(&self, tree: &Tree, forms: &Forms) -> bool {
        let within = |spot: Spot, size: u64| {
            let (_, blob_size) = self.blob(spot.blob);
            blob_size
                .checked_sub(spot.start)
                .is_some_and(|room| size <= room)
        };
        let holds = |position: u32| {
            let raw = self.raw.get(position);
            raw.is_some_and(|spot| within(spot, tree.size(position)))
                && match forms.form(position) {
                    Form::Raw => true,
                    Form::Deflated(form) => self
                        .deflated
                        .get(position)
                        .is_some_and(|spot| within(spot, form.size)),
                }
        };
        let entries = tree.len();
        self.raw.blobs.len() == entries as usize
            && forms.len() == entries
            && (0..entries).all(holds)
    }

    /// Encodes the table: a line that names the format, then the number of blobs, and the length of
    /// the key, the key and the size of each; then, for each position, the raw place and the
    /// deflated place.
    ///
    /// A place is the index of its blob, and the distance of its start from that of the last place
    /// in the same blob. The index of a deflated place counts from 1, and a single 0 means that
    /// there is none. All numbers are LEB128 varints, the distances in zigzag encoding.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut encoded = MAGIC.to_vec();
        push_varint(&mut encoded, self.blobs.len() as u64);
        for (key, size) in &self.blobs {
            push_varint(&mut encoded, key.as_str().len() as u64);
            encoded.extend_from_slice(key.as_str().as_bytes());
            push_varint(&mut encoded, *size);
        }
        let mut last = vec![0_u64; self.blobs.len()];
        let mut push_start = |encoded: &mut Vec<u8>, spot: Spot| {
            let last = &mut last[spot.blob as usize];
            push_varint(encoded, zigzag(spot.start.wrapping_sub(*last)));
            *last = spot.start;
        };
        for position in 0..self.len() {
            if let Some(spot) = self.raw.get(position) {
                push_varint(&mut encoded, spot.blob.into());
                push_start(&mut encoded, spot);
            }
            match self.deflated.get(position) {
                None => encoded.push(0),
                Some(spot) => {
                    push_varint(&mut encoded, u64::from(spot.blob) + 1);
                    push_start(&mut encoded, spot);
                }
            }
        }
        encoded
    }

    /// Decodes the bytes that [`encode`](Self::encode) wrote for this number of entries; `None` if
    /// they are anything else.
    ///
    /// The memory used is proportional to the length of the bytes, whatever they contain.
    pub(super) fn decode(encoded: &[u8], entries: u32) -> Option<Self> {
        let mut rest = encoded.strip_prefix(MAGIC)?;
        let count = take_varint(&mut rest)?;
        let mut blobs = Blobs::default();
        for index in 0..count {
            let place = Place {
                blob: take_key(&mut rest)?,
                blob_size: take_varint(&mut rest)?,
                start: 0,
            };
            if u64::from(blobs.spot(&place).blob) != index {
                return None;
            }
        }
        let blobs: Box<[(BlobKey, u64)]> = blobs.list.into();
        // Each entry takes at least three bytes.
        if rest.len() / 3 < entries as usize {
            return None;
        }
        let mut raw = Spots::with_capacity(entries);
        let mut deflated = Spots::with_capacity(entries);
        let mut last = vec![0_u64; blobs.len()];
        let mut take_spot = |rest: &mut &[u8], index: u64| {
            let last = last.get_mut(usize::try_from(index).ok()?)?;
            let start = last.wrapping_add(unzigzag(take_varint(rest)?));
            let (_, size) = blobs[usize::try_from(index).ok()?];
            if start > size {
                return None;
            }
            *last = start;
            let blob = u32::try_from(index).ok()?;
            Some(Spot { blob, start })
        };
        for _ in 0..entries {
            let index = take_varint(&mut rest)?;
            raw.push(Some(take_spot(&mut rest, index)?));
            deflated.push(match take_varint(&mut rest)? {
                0 => None,
                index => Some(take_spot(&mut rest, index - 1)?),
            });
        }
        rest.is_empty().then_some(Self {
            blobs,
            raw,
            deflated,
        })
    }

    /// Returns the approximate size in memory, in bytes.
    pub(super) fn memory(&self) -> usize {
        let keys: usize = self
            .blobs()
            .map(|key| key.as_str().len() + KEY_OVERHEAD)
            .sum();
        size_of_val(&*self.blobs) + keys + self.raw.memory() + self.deflated.memory()
    }

    fn len(&self) -> u32 {
        u32::try_from(self.raw.blobs.len()).expect("no more than entries of a tree")
    }

    fn place(&self, spot: Spot) -> Place {
        let (blob, blob_size) = self.blob(spot.blob);
        Place {
            blob: blob.clone(),
            blob_size,
            start: spot.start,
        }
    }
}

/// Bytes that a shared string takes beside its text: two counters.
const KEY_OVERHEAD: usize = 16;

impl Spots {
    fn with_capacity(entries: u32) -> Self {
        Self {
            blobs: Vec::with_capacity(entries as usize),
            starts: Vec::with_capacity(entries as usize),
        }
    }

    fn push(&mut self, spot: Option<Spot>) {
        let (blob, start) = spot.map_or((NOWHERE, 0), |spot| (spot.blob, spot.start));
        self.blobs.push(blob);
        self.starts.push(start);
    }

    fn get(&self, position: u32) -> Option<Spot> {
        match self.blobs[position as usize] {
            NOWHERE => None,
            blob => Some(Spot {
                blob,
                start: self.starts[position as usize],
            }),
        }
    }

    fn memory(&self) -> usize {
        self.blobs.capacity() * size_of::<u32>() + self.starts.capacity() * size_of::<u64>()
    }
}

/// Blobs in the order in which they are first named.
#[derive(Debug, Default)]
struct Blobs {
    list: Vec<(BlobKey, u64)>,
    indices: HashMap<BlobKey, u32>,
}

impl Blobs {
    fn spot(&mut self, place: &Place) -> Spot {
        let blob = match self.indices.entry(place.blob.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(vacant) => {
                let index = u32::try_from(self.list.len()).expect("two for each entry at most");
                self.list.push((place.blob.clone(), place.blob_size));
                *vacant.insert(index)
            }
        };
        Spot {
            blob,
            start: place.start,
        }
    }
}

const MAGIC: &[u8] = b"longhaul-places/1\n";

/// Maps distances near 0, negative ones included, to small numbers.
fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ 0_u64.wrapping_sub(difference >> 63)
}

fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ 0_u64.wrapping_sub(number & 1)
}

fn push_varint(out: &mut Vec<u8>, number: u64) {
    leb128::write::unsigned(out, number).expect("a vector takes every byte");
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    leb128::read::unsigned(bytes).ok()
}

fn take_key(bytes: &mut &[u8]) -> Option<BlobKey> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (key, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    std::str::from_utf8(key).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use archive::{Deflated, EntryPath, Limits};
    use proptest::prelude::*;

    use super::*;
    use crate::digest::Sha256Digest;

    fn place(blob: u32, blob_size: u64, start: u64) -> Place {
        Place {
            blob: format!("blob-{blob}").parse().unwrap(),
            blob_size,
            start,
        }
    }

    fn content(raw: Place, deflated: Option<Place>) -> StoredContent {
        let form = Deflated {
            size: 1,
            sha256: Sha256Digest::of(b"deflated"),
        };
        StoredContent {
            sha256: Sha256Digest::of(b"content"),
            size: 2,
            crc32: 3,
            raw,
            deflated: deflated.map(|place| (form, place)),
        }
    }

    /// Returns the place of the deflated content at a position.
    fn deflated(places: &Places, position: u32) -> Option<Place> {
        let spot = places.deflated.get(position);
        spot.map(|spot| places.place(spot))
    }

    fn three() -> (Vec<StoredContent>, Places) {
        let contents = vec![
            content(place(7, 1000, 990), None),
            content(place(8, u64::MAX, u64::MAX), Some(place(7, 1000, 0))),
            content(place(8, u64::MAX, 0), Some(place(9, 0, 0))),
        ];
        let places = Places::new(contents.iter());
        (contents, places)
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let (contents, places) = three();
        let encoded = places.encode();
        let decoded = Places::decode(&encoded, 3).unwrap();
        assert_eq!(decoded, places);
        for (content, position) in contents.iter().zip(0..) {
            assert_eq!(decoded.raw(position), content.raw);
            let place = content.deflated.as_ref().map(|(_, place)| place.clone());
            assert_eq!(deflated(&decoded, position), place);
        }
        let blobs: Vec<_> = decoded.blobs().map(BlobKey::as_str).collect();
        assert_eq!(blobs, ["blob-7", "blob-8", "blob-9"]);
    }

    #[test]
    fn the_encoding_stays_what_it_is() {
        let contents = [
            content(place(1, 300, 100), None),
            content(place(1, 300, 90), Some(place(2, 5, 4))),
        ];
        let mut encoded = b"longhaul-places/1\n\x02\x06blob-1\xac\x02\x06blob-2\x05".to_vec();
        // Raw: blob 0, 100 forward; no deflated form. Raw: blob 0, 10 back; deflated: the second
        // blob, 4 forward.
        encoded.extend_from_slice(b"\x00\xc8\x01\x00\x00\x13\x02\x08");
        assert_eq!(Places::new(contents.iter()).encode(), encoded);
    }

    #[test]
    fn damaged_tables_are_refused() {
        let (_, places) = three();
        let encoded = places.encode();
        for cut in 0..encoded.len() {
            assert_eq!(Places::decode(&encoded[..cut], 3), None, "cut at {cut}");
        }
        assert_eq!(Places::decode(&[&encoded[..], &[0]].concat(), 3), None);
        for entries in [0, 2, 4, u32::MAX] {
            assert_eq!(Places::decode(&encoded, entries), None, "{entries} entries");
        }
        let with = |rest: &[u8]| Places::decode(&[MAGIC, rest].concat(), 1);
        assert!(with(b"\x01\x01a\x05\x00\x0a\x00").is_some());
        for (what, rest) in [
            ("a start beyond the blob", &b"\x01\x01a\x05\x00\x0c\x00"[..]),
            ("a start before the blob", b"\x01\x01a\x05\x00\x01\x00"),
            ("an unknown blob", b"\x01\x01a\x05\x01\x0a\x00"),
            (
                "an unknown blob of a deflated form",
                b"\x01\x01a\x05\x00\x0a\x02\x00",
            ),
            ("the same blob twice", b"\x02\x01a\x05\x01a\x05\x00\x0a\x00"),
            ("a key that is none", b"\x01\x01A\x05\x00\x0a\x00"),
            (
                "more blobs than bytes",
                b"\xff\xff\xff\xff\x0f\x01a\x05\x00\x0a\x00",
            ),
            (
                "a number of more than 64 bits",
                b"\x01\x01a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\x00\x0a\x00",
            ),
        ] {
            assert_eq!(with(rest), None, "{what}");
        }
    }

    #[test]
    fn contents_lie_within_their_blobs() {
        let entry = |path: &str, size| {
            let sha256 = Sha256Digest::of(path.as_bytes());
            (
                EntryPath::parse(path.to_owned()).unwrap(),
                size,
                sha256,
                false,
            )
        };
        let entries = [entry("a", 100), entry("b", 100)];
        let tree = Tree::try_from_entries(entries, Limits::default()).unwrap();
        let form = Form::Deflated(Deflated {
            size: 50,
            sha256: Sha256Digest::of(b"deflated"),
        });
        let raw = Forms::raw(&tree);
        let formed = Forms::new(&tree, |_| form).unwrap();
        let hold = |contents: &[StoredContent], forms: &Forms| {
            Places::new(contents.iter()).hold(&tree, forms)
        };
        let at = |start| content(place(0, 300, start), None);
        let both = |start, deflated| content(place(0, 300, start), Some(place(0, 300, deflated)));
        assert!(hold(&[at(0), at(200)], &raw));
        assert!(!hold(&[at(0), at(201)], &raw));
        assert!(!hold(&[at(300), at(0)], &raw));
        assert!(!hold(&[at(0)], &raw));
        assert!(!hold(&[at(0), at(0), at(0)], &raw));
        assert!(hold(&[both(0, 100), both(200, 250)], &formed));
        assert!(!hold(&[both(0, 100), both(200, 251)], &formed));
        assert!(!hold(&[both(0, 100), both(201, 250)], &formed));
        assert!(!hold(&[both(0, 100), at(0)], &formed));
    }

    #[test]
    fn small_neighbours_take_few_bytes() {
        let contents: Vec<_> = (0..10_000)
            .map(|index| content(place(0, 9_000_000, index * 900), None))
            .collect();
        let encoded = Places::new(contents.iter()).encode();
        assert!(
            encoded.len() <= 50 + 4 * contents.len(),
            "{}",
            encoded.len()
        );
    }

    fn any_place() -> impl Strategy<Value = Place> {
        (0..20_u32, any::<proptest::sample::Index>()).prop_map(|(blob, start)| {
            let size = 1 << (3 * blob);
            place(
                blob,
                size,
                start.index(usize::try_from(size).unwrap()) as u64,
            )
        })
    }

    proptest! {
        #[test]
        fn any_table_round_trips(
            places in proptest::collection::vec((any_place(), proptest::option::of(any_place())), 0..200),
        ) {
            let contents: Vec<_> = places
                .into_iter()
                .map(|(raw, deflated)| content(raw, deflated))
                .collect();
            let places = Places::new(contents.iter());
            let entries = u32::try_from(contents.len()).unwrap();
            prop_assert_eq!(Places::decode(&places.encode(), entries), Some(places));
        }

        #[test]
        fn whatever_is_read_lies_within_its_blob(at in any::<proptest::sample::Index>(), byte: u8) {
            let mut encoded = three().1.encode();
            let at = at.index(encoded.len());
            encoded[at] = byte;
            if let Some(places) = Places::decode(&encoded, 3) {
                for position in 0..3 {
                    let raw = places.raw(position);
                    prop_assert!(raw.start <= raw.blob_size);
                    if let Some(place) = deflated(&places, position) {
                        prop_assert!(place.start <= place.blob_size);
                    }
                }
            }
        }
    }
}
