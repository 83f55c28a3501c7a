//! Digests that a client states and wants: `Content-Digest`, `Repr-Digest`, `Want-*` (RFC 9530), and `Upload-Checksum` of tus.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue, TRAILER};
use sfv::{Key, ListEntry};

use crate::fields::{self, name};
use crate::problem::{ProblemType, types};
use crate::rejection::Rejection;
use crate::tus::checksum;

/// The field of digests of a body, as RFC 9530 writes its name.
const CONTENT_DIGEST: &str = "Content-Digest";

/// The field of digests of a representation, as RFC 9530 writes its name.
const REPR_DIGEST: &str = "Repr-Digest";

/// A hash that a digest can be made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256: RFC 9530 and tus.
    Sha256,
    /// SHA-512: RFC 9530 and tus.
    Sha512,
    /// SHA-1: tus, which requires it.
    Sha1,
    /// MD5: tus.
    Md5,
    /// CRC-32 (IEEE), most significant byte first: tus.
    Crc32,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 5] = [
        Self::Sha256,
        Self::Sha512,
        Self::Sha1,
        Self::Md5,
        Self::Crc32,
    ];

    /// The length of its values in bytes.
    pub const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Sha1 => 20,
            Self::Md5 => 16,
            Self::Crc32 => 4,
        }
    }

    /// Its key in the fields of RFC 9530, among the algorithms that are not deprecated there (§5).
    pub const fn key(self) -> Option<&'static str> {
        match self {
            Self::Sha256 => Some("sha-256"),
            Self::Sha512 => Some("sha-512"),
            Self::Sha1 | Self::Md5 | Self::Crc32 => None,
        }
    }

    fn of_key(key: &Key) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.key() == Some(key.as_str()))
    }
}

/// A digest that a request states of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// The field that states it, as its specification writes the name.
    pub field: &'static str,
    /// What it was made with.
    pub algorithm: Algorithm,
    /// What the bytes must hash to: [`Algorithm::length`] bytes.
    pub value: Vec<u8>,
}

impl Stated {
    /// `None` if the value is not as long as the algorithm's are.
    pub(crate) fn new(field: &'static str, algorithm: Algorithm, value: &[u8]) -> Option<Self> {
        (value.len() == algorithm.length()).then(|| Self {
            field,
            algorithm,
            value: value.to_vec(),
        })
    }
}

/// What a request states of its bytes. All of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatedDigests {
    /// Of this request's body.
    pub content: Vec<Stated>,
    /// Of the whole representation.
    pub representation: Vec<Stated>,
    /// Algorithms of which the trailer section will perhaps state a digest of the body (`Trailer`, RFC 9110 §6.6.2; tus
    /// `checksum-trailer`): it announces fields and not algorithms.
    pub trailing: Vec<Algorithm>,
}

impl StatedDigests {
    /// Reads the fields of a header section.
    ///
    /// Algorithms that are unknown or deprecated are passed over (RFC 9530 §2), but not in `Upload-Checksum`.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] for a known algorithm with a value that cannot be its digest, and for an `Upload-Checksum` that is not
    /// two words; [`Rejection::DigestAlgorithm`] for one with an unknown algorithm.
    pub fn read(fields: &HeaderMap) -> Result<Self, Rejection> {
        Ok(Self {
            trailing: announced(fields),
            ..Self::read_trailer(fields)?
        })
    }

    /// Reads what the trailer section of a body states. No further trailer follows it.
    ///
    /// # Errors
    /// As for [`StatedDigests::read`].
    pub fn read_trailer(fields: &HeaderMap) -> Result<Self, Rejection> {
        let mut content = read(fields, CONTENT_DIGEST, &name::CONTENT_DIGEST)?;
        content.extend(checksum::read(fields)?);
        Ok(Self {
            content,
            ..Self::read_representation(fields)?
        })
    }

    /// Reads only what is stated of the whole representation.
    pub(crate) fn read_representation(fields: &HeaderMap) -> Result<Self, Rejection> {
        Ok(Self {
            representation: read(fields, REPR_DIGEST, &name::REPR_DIGEST)?,
            ..Self::default()
        })
    }
}

/// The kind of problem that a malformed field is: a digest of the wrong length has one of its own.
pub(crate) fn malformed(field: &str) -> ProblemType {
    match field {
        CONTENT_DIGEST | REPR_DIGEST => types::DIGEST_INVALID_VALUES,
        _ => types::MALFORMED_FIELD,
    }
}

/// Reads the value of a `Repr-Digest` field that was kept as text. What cannot be read states nothing.
pub fn parse_representation(value: &str) -> Vec<Stated> {
    let fields: HeaderMap = HeaderValue::from_str(value)
        .map(|value| (name::REPR_DIGEST, value))
        .into_iter()
        .collect();
    StatedDigests::read_representation(&fields)
        .map(|stated| stated.representation)
        .unwrap_or_default()
}

/// Reads a Dictionary of digests. A field that does not parse is as if absent (RFC 9651 §4.2).
fn read(
    fields: &HeaderMap,
    field: &'static str,
    name: &HeaderName,
) -> Result<Vec<Stated>, Rejection> {
    fields::dictionary(fields, name)
        .into_iter()
        .flatten()
        .filter_map(|(key, entry)| Some((Algorithm::of_key(&key)?, entry)))
        .map(|(algorithm, entry)| {
            let value = match &entry {
                ListEntry::Item(item) => item.bare_item.as_byte_sequence(),
                ListEntry::InnerList(_) => None,
            };
            value
                .and_then(|value| Stated::new(field, algorithm, value))
                .ok_or_else(|| {
                    Rejection::malformed(
                        field,
                        format!("the digest must be {} bytes in base64", algorithm.length()),
                    )
                })
        })
        .collect()
}

/// The algorithms of the fields that `Trailer` announces.
fn announced(fields: &HeaderMap) -> Vec<Algorithm> {
    let value = fields::combined(fields, &TRAILER).unwrap_or_default();
    let announces = |name: HeaderName| {
        std::str::from_utf8(&value).is_ok_and(|value| {
            fields::list_elements(value).any(|own| own.eq_ignore_ascii_case(name.as_str()))
        })
    };
    let content = announces(name::CONTENT_DIGEST);
    let checksum = announces(name::UPLOAD_CHECKSUM);
    Algorithm::ALL
        .into_iter()
        .filter(|algorithm| checksum || (content && algorithm.key().is_some()))
        .collect()
}

/// `Want-Content-Digest` and `Want-Repr-Digest` for what is verified here (RFC 9530 §4).
pub const WANTED: HeaderValue = HeaderValue::from_static("sha-256=10, sha-512=1");

/// The algorithm among `available` that the client prefers by `Want-Content-Digest` or `Want-Repr-Digest` (RFC 9530 §4);
/// `None` if it asks for none of them. Of equals, the first available.
pub fn preferred(
    fields: &HeaderMap,
    name: &HeaderName,
    available: &[Algorithm],
) -> Option<Algorithm> {
    let wants = fields::dictionary(fields, name)?;
    let weight = |algorithm: &Algorithm| match wants.get(algorithm.key()?)? {
        ListEntry::Item(item) => item.bare_item.as_integer().map(i64::from),
        ListEntry::InnerList(_) => None,
    };
    available
        .iter()
        .rev()
        .filter_map(|algorithm| Some((weight(algorithm)?, *algorithm)))
        .filter(|(weight, _)| (1..=10).contains(weight))
        .max_by_key(|(weight, _)| *weight)
        .map(|(_, algorithm)| algorithm)
}

/// Writes a digest as the value of `Repr-Digest` or `Content-Digest`; `None` for an algorithm that RFC 9530 has no key for.
pub fn write(algorithm: Algorithm, value: &[u8]) -> Option<HeaderValue> {
    let text = format!("{}=:{}:", algorithm.key()?, BASE64_STANDARD.encode(value));
    Some(HeaderValue::try_from(text).expect("a key and base64 are visible ASCII"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_SHA256: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    fn content(value: &str) -> Result<Vec<Algorithm>, Rejection> {
        let stated = StatedDigests::read(&fields(&[("content-digest", value)]))?;
        Ok(stated
            .content
            .iter()
            .map(|stated| stated.algorithm)
            .collect())
    }

    #[test]
    fn a_digest_is_read_and_written() {
        let value = format!("sha-256=:{EMPTY_SHA256}:");
        let stated = StatedDigests::read(&fields(&[("repr-digest", &value)])).unwrap();
        assert_eq!(stated.content, []);
        assert_eq!(stated.representation[0].field, "Repr-Digest");
        assert_eq!(stated.representation[0].value.len(), 32);
        let written = write(Algorithm::Sha256, &stated.representation[0].value);
        assert_eq!(written.unwrap(), value);
        assert_eq!(write(Algorithm::Md5, &[0; 16]), None);
    }

    #[test]
    fn a_trailer_states_digests_of_both() {
        let value = format!("sha-256=:{EMPTY_SHA256}:");
        let trailer = fields(&[
            ("content-digest", &value),
            ("repr-digest", &value),
            ("trailer", "Content-Digest"),
        ]);
        let stated = StatedDigests::read_trailer(&trailer).unwrap();
        assert_eq!(stated.content[0].field, "Content-Digest");
        assert_eq!(stated.representation[0].field, "Repr-Digest");
        assert_eq!(stated.trailing, []);
    }

    #[test]
    fn unknown_algorithms_are_passed_over() {
        let value = format!("md5=:AAAA:, sha-256=:{EMPTY_SHA256}:, future=1");
        assert_eq!(content(&value), Ok(vec![Algorithm::Sha256]));
        assert_eq!(content("md5=:AAAA:"), Ok(vec![]));
    }

    #[test]
    fn a_field_that_does_not_parse_is_as_if_absent() {
        assert_eq!(content("sha-256=:!:"), Ok(vec![]));
        assert_eq!(content(","), Ok(vec![]));
    }

    #[test]
    fn a_known_algorithm_needs_a_possible_value() {
        for value in [
            "sha-256=:AAAA:",
            "sha-256=abc",
            "sha-256",
            "sha-512=(:AAAA:)",
        ] {
            assert!(
                matches!(
                    content(value),
                    Err(Rejection::Malformed {
                        field: "Content-Digest",
                        ..
                    })
                ),
                "{value}"
            );
        }
    }

    #[test]
    fn trailers_with_digests_are_announced() {
        let trailing = |value| {
            StatedDigests::read(&fields(&[("trailer", value)]))
                .unwrap()
                .trailing
        };
        assert_eq!(trailing("Upload-Checksum"), Algorithm::ALL);
        assert_eq!(
            trailing("Expires, content-digest"),
            [Algorithm::Sha256, Algorithm::Sha512]
        );
        assert_eq!(trailing("Expires"), []);
    }

    #[track_caller]
    fn check_preferred(value: &str, expected: Option<Algorithm>) {
        let fields = fields(&[("want-repr-digest", value)]);
        let available = [Algorithm::Sha256, Algorithm::Sha512];
        assert_eq!(
            preferred(&fields, &name::WANT_REPR_DIGEST, &available),
            expected
        );
    }

    #[test]
    fn the_client_prefers_by_weight() {
        check_preferred("sha-256=3, sha-512=10", Some(Algorithm::Sha512));
        check_preferred("sha-512=5, sha-256=5", Some(Algorithm::Sha256));
        check_preferred("sha-256=0", None);
        check_preferred("sha-256=11", None);
        check_preferred("sha-256", None);
        check_preferred("md5=10", None);
        check_preferred("", None);
    }
}
