//! SHA-256 values as the program writes and reads them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sfv::{BareItem, Dictionary, ListEntry, Parser};
use sha2::Digest as _;

/// A SHA-256, shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The hash of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(sha2::Sha256::digest(content).into())
    }

    /// What a running hash comes to.
    pub(crate) fn finish(hasher: sha2::Sha256) -> Self {
        Self(hasher.finalize().into())
    }

    /// The SHA-256 that a `Repr-Digest` field tells, if it tells one (RFC 9530 section 3).
    pub(crate) fn from_repr_digest(field: &str) -> Option<Self> {
        let digests: Dictionary = Parser::new(field).parse().ok()?;
        match digests.get("sha-256")? {
            ListEntry::Item(item) => match &item.bare_item {
                BareItem::ByteSequence(bytes) => Some(Self(bytes.as_slice().try_into().ok()?)),
                _ => None,
            },
            ListEntry::InnerList(_) => None,
        }
    }

    /// The value of a `Repr-Digest` field that tells this hash.
    pub fn to_repr_digest(&self) -> String {
        format!("sha-256=:{}:", STANDARD.encode(self.0))
    }

    /// The hash itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

/// The text is not a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("64 hexadecimal digits are expected")]
pub struct ParseError;

impl FromStr for Sha256 {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        // The digits are checked first: `from_str_radix` would take a sign.
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseError);
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = str::from_utf8(digits).map_err(|_| ParseError)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| ParseError)?;
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-2, appendix B.1.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn hexadecimal_goes_both_ways() {
        assert_eq!(Sha256::of(b"abc").to_string(), ABC);
        assert_eq!(ABC.to_uppercase().parse(), Ok(Sha256::of(b"abc")));
        for wrong in ["", "abc", &ABC[1..], &"+1".repeat(32), &"é".repeat(32)] {
            assert_eq!(wrong.parse::<Sha256>(), Err(ParseError), "{wrong}");
        }
    }

    #[test]
    fn a_digest_field_goes_both_ways() {
        let abc = Sha256::of(b"abc");
        assert_eq!(Sha256::from_repr_digest(&abc.to_repr_digest()), Some(abc));
        assert_eq!(Sha256::from_repr_digest(&format!("md5=:AAAA:, {}", abc.to_repr_digest())), Some(abc));
        for wrong in ["", "sha-256", "sha-256=:AAAA:", "sha-256=\"x\"", "sha-512=:AAAA:", "=="] {
            assert_eq!(Sha256::from_repr_digest(wrong), None, "{wrong}");
        }
    }
}
