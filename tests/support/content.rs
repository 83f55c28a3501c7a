//! Content that proves itself: every byte depends on a seed and on its position, so a lost, doubled
//! or moved byte is detected.

use std::ops::Range;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// Content of one file, generated on demand and the same each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    seed: u64,
    length: u64,
}

impl Content {
    /// Describes `length` bytes that no other seed shares.
    pub const fn new(seed: u64, length: u64) -> Self {
        Self { seed, length }
    }

    /// Returns the number of bytes.
    pub const fn length(self) -> u64 {
        self.length
    }

    /// Generates all bytes.
    pub fn bytes(self) -> Bytes {
        self.slice(0..self.length)
    }

    /// Generates the bytes from `offset` on.
    pub fn from(self, offset: u64) -> Bytes {
        self.slice(offset..self.length)
    }

    /// Generates the bytes of `range`, which must lie within the content.
    pub fn slice(self, range: Range<u64>) -> Bytes {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "{range:?} is outside {self:?}"
        );
        let length = usize::try_from(range.end - range.start).expect("test content fits in memory");
        let mut buffer = vec![0; length];
        self.fill(range.start, &mut buffer);
        buffer.into()
    }

    /// Writes the bytes from `offset` on into `buffer`.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        let mut position = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = word(self.seed, position / 8).to_le_bytes();
            let within = usize::try_from(position % 8).expect("a remainder of 8 fits");
            let count = rest.len().min(8 - within);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&word[within..within + count]);
            position += u64::try_from(count).expect("at most eight");
            rest = later;
        }
    }

    /// Panics, naming the first wrong byte, unless `bytes` is exactly this content.
    #[track_caller]
    pub fn assert_is(self, bytes: &[u8]) {
        self.assert_slice(0, bytes);
        let length = u64::try_from(bytes.len()).expect("a length fits");
        assert_eq!(length, self.length, "the content has the wrong length");
    }

    /// Panics, naming the first wrong byte, unless `bytes` equals the content at `offset`.
    #[track_caller]
    pub fn assert_slice(self, offset: u64, bytes: &[u8]) {
        let mut expected = vec![0; bytes.len()];
        self.fill(offset, &mut expected);
        if expected == bytes {
            return;
        }
        let wrong = expected
            .iter()
            .zip(bytes)
            .position(|(expected, found)| expected != found)
            .expect("equal lengths that differ, differ somewhere");
        panic!("{self:?}: the byte at {offset} + {wrong} is wrong");
    }

    /// Computes the SHA-256 of the content.
    pub fn sha256(self) -> [u8; 32] {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut offset = 0;
        while offset < self.length {
            let left = usize::try_from(self.length - offset).unwrap_or(usize::MAX);
            let count = left.min(buffer.len());
            self.fill(offset, &mut buffer[..count]);
            hasher.update(&buffer[..count]);
            offset += u64::try_from(count).expect("a length fits");
        }
        hasher.finalize().into()
    }

    /// Returns the value of `Repr-Digest` for the content (RFC 9530).
    pub fn repr_digest(self) -> String {
        format!("sha-256=:{}:", STANDARD.encode(self.sha256()))
    }
}

/// `SplitMix64`: a well-mixed word for each seed and index, without state.
pub(crate) fn word(seed: u64, index: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0xd134_2543_de82_ef95)
        .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Generator of repeatable pseudo-random numbers.
#[derive(Debug)]
pub struct Dice {
    seed: u64,
    thrown: u64,
}

impl Dice {
    /// Creates a generator; the same seed yields the same numbers.
    pub const fn new(seed: u64) -> Self {
        Self { seed, thrown: 0 }
    }

    /// Returns the next number in `range`, which must not be empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "{range:?} is empty");
        self.thrown += 1;
        range.start + word(self.seed, self.thrown) % (range.end - range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_a_slice_of_the_whole() {
        let content = Content::new(7, 1000);
        let whole = content.bytes();
        for (start, end) in [(0, 0), (0, 1000), (1, 2), (3, 17), (8, 16), (993, 1000)] {
            let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            assert_eq!(content.slice(start..end), whole[range]);
        }
    }

    #[test]
    #[should_panic(expected = "the byte at 0 + 500 is wrong")]
    fn a_moved_byte_shows() {
        let content = Content::new(7, 1000);
        let mut bytes = content.bytes().to_vec();
        bytes.remove(500);
        bytes.push(0);
        content.assert_is(&bytes);
    }
}
