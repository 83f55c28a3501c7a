//! Sets of entries of a version that an archive holds.
//!
//! A need is a set of positions in the version's catalogue. Typical needs consist of runs, so a
//! need is encoded as run lengths:
//!
//! 1. Walk the positions from 0 and count, in turn, those that are *not* needed and those that are:
//!    gap, run, gap, run … Only the first gap may be 0, the last run ends the list.
//! 2. Write each count as an unsigned LEB128 varint without needless bytes. The empty set is one
//!    gap of 0.
//! 3. For a URL, write the bytes in base64url without padding.
//!
//! Each set has exactly one encoding, so that equal needs have equal URLs; other encodings are
//! refused. The server stores an encoding of more than [`MAX_INLINE_NAME`] characters, and names it
//! by its SHA-256.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::sha256_digest::Sha256Digest;

/// Maximum length of a need in a URL, in characters; longer ones are registered.
pub const MAX_INLINE_NAME: usize = 2000;

/// A set of positions in a catalogue of a known number of entries.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Need {
    runs: Box<[Run]>,
    /// Number of positions in the set.
    count: u32,
    /// Number of entries of the catalogue; all positions are below.
    entries: u32,
}

/// Consecutive positions from `start` on. The next run's rank determines their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Run {
    start: u32,
    /// Number of needed positions before `start`.
    rank: u32,
}

/// Name of a need in a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NeedName {
    /// The need itself.
    Inline(Box<str>),
    /// SHA-256 of the encoding of a registered need; written as `sha256.` and 43 characters of
    /// base64url.
    Registered(Sha256Digest),
}

/// Reasons for which a text or bytes are no need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NeedError {
    #[error("the need is longer than {MAX_INLINE_NAME} characters")]
    NameTooLong,
    #[error("the need is not base64url without padding")]
    NotBase64,
    #[error("the need is not in canonical form")]
    NotCanonical,
    #[error("the need goes beyond the {entries} entries of the version")]
    OutOfRange { entries: u32 },
}

impl Need {
    /// Returns the need of every entry.
    pub fn all(entries: u32) -> Self {
        let runs = if entries == 0 {
            Box::default()
        } else {
            Box::new([Run { start: 0, rank: 0 }]) as Box<[_]>
        };
        Self {
            runs,
            count: entries,
            entries,
        }
    }

    pub fn empty(entries: u32) -> Self {
        Self {
            runs: Box::default(),
            count: 0,
            entries,
        }
    }

    /// Collects positions in any order, repeated or not; all must be below `entries`.
    pub fn from_positions(
        positions: impl IntoIterator<Item = u32>,
        entries: u32,
    ) -> Result<Self, NeedError> {
        let mut positions: Vec<u32> = positions.into_iter().collect();
        positions.sort_unstable();
        positions.dedup();
        if positions.last().is_some_and(|last| *last >= entries) {
            return Err(NeedError::OutOfRange { entries });
        }
        let mut runs = Vec::new();
        let mut previous = None;
        for (&position, rank) in positions.iter().zip(0..) {
            if previous.is_none_or(|previous: u32| previous + 1 < position) {
                runs.push(Run {
                    start: position,
                    rank,
                });
            }
            previous = Some(position);
        }
        let count = u32::try_from(positions.len()).expect("distinct numbers below a u32");
        Ok(Self {
            runs: runs.into_boxed_slice(),
            count,
            entries,
        })
    }

    /// Reads the bytes that [`encode`](Self::encode) writes, for a catalogue of `entries` entries.
    ///
    /// Takes at most four times the memory of `encoded`.
    pub fn decode(mut encoded: &[u8], entries: u32) -> Result<Self, NeedError> {
        if encoded == EMPTY {
            return Ok(Self::empty(entries));
        }
        if encoded.is_empty() {
            return Err(NeedError::NotCanonical);
        }
        let mut runs = Vec::new();
        let mut end = 0_u32;
        let mut count = 0_u32;
        while !encoded.is_empty() {
            let gap = take_varint(&mut encoded)?;
            let length = take_varint(&mut encoded)?;
            if (gap == 0 && !runs.is_empty()) || length == 0 {
                return Err(NeedError::NotCanonical);
            }
            let start = end
                .checked_add(gap)
                .ok_or(NeedError::OutOfRange { entries })?;
            end = start
                .checked_add(length)
                .filter(|end| *end <= entries)
                .ok_or(NeedError::OutOfRange { entries })?;
            runs.push(Run { start, rank: count });
            count += length;
        }
        Ok(Self {
            runs: runs.into_boxed_slice(),
            count,
            entries,
        })
    }

    /// Reads a need from a URL.
    pub fn parse(name: &str, entries: u32) -> Result<Self, NeedError> {
        if name.len() > MAX_INLINE_NAME {
            return Err(NeedError::NameTooLong);
        }
        let encoded = BASE64_URL_SAFE_NO_PAD
            .decode(name)
            .map_err(|_| NeedError::NotBase64)?;
        Self::decode(&encoded, entries)
    }

    pub fn encode(&self) -> Vec<u8> {
        if self.is_empty() {
            return EMPTY.to_vec();
        }
        let mut encoded = Vec::new();
        let mut end = 0;
        for run in self.runs() {
            push_varint(&mut encoded, run.start - end);
            push_varint(&mut encoded, run.end - run.start);
            end = run.end;
        }
        encoded
    }

    /// Returns the name of this need in a URL.
    pub fn name(&self) -> NeedName {
        let encoded = self.encode();
        if encoded.len().div_ceil(3) * 4 <= MAX_INLINE_NAME {
            NeedName::Inline(BASE64_URL_SAFE_NO_PAD.encode(encoded).into())
        } else {
            NeedName::Registered(Sha256Digest::of(&encoded))
        }
    }

    /// Number of positions in the set.
    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the number of entries of the catalogue.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    pub fn contains(&self, position: u32) -> bool {
        let after = self.runs.partition_point(|run| run.start <= position);
        after > 0 && position - self.runs[after - 1].start < self.run_len(after - 1)
    }

    /// Returns the position with `rank` others before it.
    pub fn nth(&self, rank: u32) -> Option<u32> {
        if rank >= self.count {
            return None;
        }
        let run = &self.runs[self.runs.partition_point(|run| run.rank <= rank) - 1];
        Some(run.start + (rank - run.rank))
    }

    /// Iterates over the positions in order.
    pub fn positions(&self) -> impl Iterator<Item = u32> + use<'_> {
        self.runs().flatten()
    }

    /// Iterates over the positions as ranges, in order and with gaps between.
    pub fn runs(&self) -> impl Iterator<Item = std::ops::Range<u32>> + use<'_> {
        self.runs
            .iter()
            .enumerate()
            .map(|(index, run)| run.start..run.start + self.run_len(index))
    }

    fn run_len(&self, index: usize) -> u32 {
        self.runs
            .get(index + 1)
            .map_or(self.count, |next| next.rank)
            - self.runs[index].rank
    }

    /// Returns the approximate memory of the need, in bytes.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.runs)
    }
}

impl fmt::Display for NeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(text) => f.write_str(text),
            Self::Registered(digest) => {
                write!(
                    f,
                    "{REGISTERED_PREFIX}{}",
                    BASE64_URL_SAFE_NO_PAD.encode(digest.as_bytes())
                )
            }
        }
    }
}

impl FromStr for NeedName {
    type Err = NeedError;

    /// Distinguishes the two kinds and checks the form of a digest. [`Need::parse`] checks an
    /// inline need.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_INLINE_NAME {
            return Err(NeedError::NameTooLong);
        }
        let Some(digest) = text.strip_prefix(REGISTERED_PREFIX) else {
            return Ok(Self::Inline(text.into()));
        };
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(digest)
            .map_err(|_| NeedError::NotBase64)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| NeedError::NotCanonical)?;
        Ok(Self::Registered(Sha256Digest::from_bytes(bytes)))
    }
}

/// Prefix of registered needs. A dot is not in base64url's alphabet, so no inline need begins like
/// this.
const REGISTERED_PREFIX: &str = "sha256.";

const EMPTY: &[u8] = &[0];

fn push_varint(out: &mut Vec<u8>, number: u32) {
    leb128::write::unsigned(out, number.into()).expect("a vector takes every byte");
}

fn take_varint(bytes: &mut &[u8]) -> Result<u32, NeedError> {
    let before = *bytes;
    let number = leb128::read::unsigned(bytes).map_err(|_| NeedError::NotCanonical)?;
    let taken = &before[..before.len() - bytes.len()];
    // `leb128` accepts needless bytes.
    if taken.len() > 1 && taken.ends_with(&[0]) {
        return Err(NeedError::NotCanonical);
    }
    u32::try_from(number).map_err(|_| NeedError::NotCanonical)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check(positions: &[u32], entries: u32, name: &str) {
        let need = Need::from_positions(positions.iter().copied(), entries).unwrap();
        assert_eq!(need.name().to_string(), name);
        assert_eq!(Need::parse(name, entries), Ok(need));
    }

    fn refuse(encoded: &[u8], why: NeedError) {
        assert_eq!(Need::decode(encoded, 300), Err(why), "{encoded:?}");
    }

    #[test]
    fn a_set_has_one_name() {
        check(&[], 0, "AA");
        check(&[], 10, "AA");
        check(&[0], 10, "AAE");
        check(&[0, 1, 2, 9], 10, "AAMGAQ");
        check(&[5, 4, 4], 10, "BAI");
        check(&(0..300).collect::<Vec<_>>(), 300, "AKwC");
        assert_eq!(Need::all(300), Need::parse("AKwC", 300).unwrap());
        assert_eq!(Need::all(0), Need::empty(0));
    }

    #[test]
    fn other_encodings_are_refused() {
        refuse(&[], NeedError::NotCanonical);
        refuse(&[1], NeedError::NotCanonical);
        refuse(&[0, 0], NeedError::NotCanonical);
        refuse(&[0, 1, 0, 1], NeedError::NotCanonical);
        refuse(&[0, 1, 2, 0], NeedError::NotCanonical);
        refuse(&[0, 1, 2], NeedError::NotCanonical);
        refuse(&[0x80, 0x00, 1], NeedError::NotCanonical);
        refuse(&[0, 0x80], NeedError::NotCanonical);
        refuse(&[0xff, 0xff, 0xff, 0xff, 0x1f, 1], NeedError::NotCanonical);
        refuse(
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            NeedError::NotCanonical,
        );
        refuse(
            &[0xff, 0xff, 0xff, 0xff, 0x0f, 1],
            NeedError::OutOfRange { entries: 300 },
        );
        refuse(&[0, 0xad, 0x02], NeedError::OutOfRange { entries: 300 });
        assert_eq!(Need::parse("AA==", 300), Err(NeedError::NotBase64));
        assert_eq!(Need::parse("AB", 300), Err(NeedError::NotBase64));
        assert_eq!(Need::parse("+/", 300), Err(NeedError::NotBase64));
        assert_eq!(Need::parse("", 300), Err(NeedError::NotCanonical));
        assert_eq!(
            Need::from_positions([10], 10),
            Err(NeedError::OutOfRange { entries: 10 })
        );
    }

    #[test]
    fn long_needs_are_named_by_their_digest() {
        let inline = Need::from_positions((0..1500).step_by(2), 3000).unwrap();
        assert_eq!(inline.name().to_string().len(), MAX_INLINE_NAME);
        let long = Need::from_positions((0..1502).step_by(2), 3000).unwrap();
        let NeedName::Registered(digest) = long.name() else {
            panic!("inline")
        };
        assert_eq!(digest, Sha256Digest::of(&long.encode()));
        let name = long.name().to_string();
        assert!(name.starts_with("sha256."));
        assert_eq!(name.parse(), Ok(long.name()));
        assert_eq!(Need::parse(&name, 3000), Err(NeedError::NotBase64));
        assert_eq!(
            Need::parse(&"A".repeat(2001), 3000),
            Err(NeedError::NameTooLong)
        );
        assert_eq!(
            "sha256.AAAA".parse::<NeedName>(),
            Err(NeedError::NotCanonical)
        );
    }

    proptest! {
        #[test]
        fn a_need_agrees_with_a_set(
            positions in proptest::collection::btree_set(prop_oneof![0..40_u32, 0..2000_u32], 0..200),
            probes in proptest::collection::vec(0..2100_u32, 20),
        ) {
            let need = Need::from_positions(positions.iter().copied(), 2000).unwrap();
            prop_assert_eq!(need.len() as usize, positions.len());
            prop_assert!(need.positions().eq(positions.iter().copied()));
            for (rank, position) in (0..).zip(&positions) {
                prop_assert_eq!(need.nth(rank), Some(*position));
            }
            prop_assert_eq!(need.nth(need.len()), None);
            for probe in probes {
                prop_assert_eq!(need.contains(probe), positions.contains(&probe));
            }
            prop_assert_eq!(Need::decode(&need.encode(), 2000), Ok(need));
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(encoded in proptest::collection::vec(prop_oneof![0..5_u8, any::<u8>()], 0..12)) {
            if let Ok(need) = Need::decode(&encoded, 1 << 20) {
                prop_assert_eq!(need.encode(), encoded);
                let positions: BTreeSet<u32> = need.positions().collect();
                prop_assert_eq!(positions.len(), need.len() as usize);
                prop_assert!(positions.last().is_none_or(|last| *last < 1 << 20));
            }
        }
    }
}
