//! The bytes that vectors upload: a fixed sequence in which a misplaced byte shows.
//!
//! Byte `i` is byte `i mod 8` (least significant first) of the `SplitMix64` output for the state
//! `(i div 8 + 1) * 0x9E3779B97F4A7C15`, all arithmetic modulo 2^64.

use std::ops::Range;

use bytes::Bytes;

const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// Returns the bytes at `range` of the sequence.
pub(crate) fn bytes(range: Range<u64>) -> Bytes {
    range.map(byte).collect()
}

fn byte(position: u64) -> u8 {
    let mut word = (position / 8).wrapping_add(1).wrapping_mul(GAMMA);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^= word >> 31;
    word.to_le_bytes()[usize::try_from(position % 8).expect("a remainder of 8 fits")]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SplitMix64` from seed 0 gives 0xE220A8397B1DCDAF first: published test vector of the
    /// generator.
    #[test]
    fn the_sequence_is_splitmix64_from_seed_zero() {
        assert_eq!(
            bytes(0..8),
            0xE220_A839_7B1D_CDAF_u64.to_le_bytes().as_slice()
        );
    }

    #[test]
    fn a_part_is_a_slice_of_the_whole() {
        let whole = bytes(0..1000);
        assert_eq!(bytes(13..777), whole.slice(13..777));
    }
}
