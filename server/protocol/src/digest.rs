//! Digests that a client states and requests: `Content-Digest`, `Repr-Digest`, `Want-*` (RFC 9530),
//! and `Upload-Checksum` of tus.

pub mod checksum;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue, TRAILER};
use sfv::{Key, ListEntry};

use crate::fields::{self, name};
use crate::problem::{ProblemType, types};
use crate::rejection::Rejection;

/// Field of digests of a body, spelled as in RFC 9530.
const CONTENT_DIGEST: &str = "Content-Digest";

/// Field of a body's MD5, spelled as in RFC 1864.
const CONTENT_MD5: &str = "Content-MD5";

/// Field of digests of a representation, spelled as in RFC 9530.
const REPR_DIGEST: &str = "Repr-Digest";

/// Hash algorithm of a digest.
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

    /// Returns the length of a value in bytes.
    pub const fn length(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Sha1 => 20,
            Self::Md5 => 16,
            Self::Crc32 => 4,
        }
    }

    /// Returns the key in fields of RFC 9530; `None` for algorithms without one, or deprecated
    /// there (§5).
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

/// A digest that a request states for its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// Name of the field, spelled as in its specification.
    pub field: &'static str,
    /// Algorithm of the digest.
    pub algorithm: Algorithm,
    /// Expected value: [`Algorithm::length`] bytes.
    pub value: Vec<u8>,
}

impl Stated {
    /// Creates a stated digest; `None` if the value has not the length of the algorithm.
    pub(crate) fn new(field: &'static str, algorithm: Algorithm, value: &[u8]) -> Option<Self> {
        (value.len() == algorithm.length()).then(|| Self {
            field,
            algorithm,
            value: value.to_vec(),
        })
    }
}

/// Digests that a request states for its bytes. All of them must match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatedDigests {
    /// Digests of this request's body.
    pub content: Vec<Stated>,
    /// Digests of the complete representation.
    pub representation: Vec<Stated>,
    /// Algorithms for which the trailer section may state a digest of the body (`Trailer`, RFC 9110
    /// §6.6.2; tus `checksum-trailer`). The field announces field names, not algorithms.
    pub trailing: Vec<Algorithm>,
}

impl StatedDigests {
    /// Reads the fields of a header section.
    ///
    /// A client that states a digest relies on it, so a present field is verified or refused.
    /// Unknown and deprecated algorithms are ignored only beside a verified one (RFC 9530 §2).
    ///
    /// # Errors
    /// [`Rejection::Malformed`] for a field that is malformed, empty or names an algorithm twice,
    /// and for a value of another length than its algorithm's; [`Rejection::DigestAlgorithm`] if no
    /// algorithm is supported.
    pub fn read(fields: &HeaderMap) -> Result<Self, Rejection> {
        Ok(Self {
            trailing: announced(fields),
            ..Self::read_trailer(fields)?
        })
    }

    /// Reads the trailer section of a body. No further trailer follows.
    ///
    /// # Errors
    /// As for [`StatedDigests::read`].
    pub fn read_trailer(fields: &HeaderMap) -> Result<Self, Rejection> {
        let mut content = read(fields, CONTENT_DIGEST, &name::CONTENT_DIGEST)?;
        content.extend(read_md5(fields)?);
        content.extend(checksum::read(fields)?);
        Ok(Self {
            content,
            ..Self::read_representation(fields)?
        })
    }

    /// Reads only digests of the complete representation.
    pub(crate) fn read_representation(fields: &HeaderMap) -> Result<Self, Rejection> {
        Ok(Self {
            representation: read(fields, REPR_DIGEST, &name::REPR_DIGEST)?,
            ..Self::default()
        })
    }
}

/// Returns the problem type of a malformed field: fields of digests have their own.
pub(crate) fn malformed(field: &str) -> ProblemType {
    match field {
        CONTENT_DIGEST | CONTENT_MD5 | REPR_DIGEST => types::DIGEST_INVALID_VALUES,
        _ => types::MALFORMED_FIELD,
    }
}

/// Reads a stored value of `Repr-Digest`. A malformed value states nothing.
pub fn parse_representation(value: &str) -> Vec<Stated> {
    let fields: HeaderMap = HeaderValue::from_str(value)
        .map(|value| (name::REPR_DIGEST, value))
        .into_iter()
        .collect();
    StatedDigests::read_representation(&fields)
        .map(|stated| stated.representation)
        .unwrap_or_default()
}

/// Reads a Dictionary of digests.
fn read(
    fields: &HeaderMap,
    field: &'static str,
    name: &HeaderName,
) -> Result<Vec<Stated>, Rejection> {
    if !fields.contains_key(name) {
        return Ok(Vec::new());
    }
    let members = fields::dictionary(fields, name).filter(|members| !members.is_empty());
    let members = members.ok_or_else(|| malformed_value(field, "cannot be read"))?;
    // In a structured field the last of equal keys counts; here no digest may go unverified.
    let combined = fields::combined(fields, name).unwrap_or_default();
    let stated = fields::list_elements(&String::from_utf8_lossy(&combined)).count();
    if stated != members.len() {
        return Err(malformed_value(field, "names an algorithm twice"));
    }
    let known = members
        .iter()
        .filter_map(|(key, entry)| Some((Algorithm::of_key(key)?, entry)))
        .map(|(algorithm, entry)| {
            let value = match entry {
                ListEntry::Item(item) => item.bare_item.as_byte_sequence(),
                ListEntry::InnerList(_) => None,
            };
            value
                .and_then(|value| Stated::new(field, algorithm, value))
                .ok_or_else(|| {
                    let length = algorithm.length();
                    malformed_value(field, &format!("has a digest that is not {length} bytes"))
                })
        })
        .collect::<Result<Vec<_>, _>>()?;
    match (known.is_empty(), members.keys().next()) {
        (true, Some(unknown)) => Err(Rejection::DigestAlgorithm {
            field,
            algorithm: unknown.as_str().to_owned(),
        }),
        _ => Ok(known),
    }
}

fn malformed_value(field: &'static str, reason: &str) -> Rejection {
    let example = "write the digest in base64 between colons, such as \
                   sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
    Rejection::malformed(field, format!("{reason}; {example}"))
}

/// Reads `Content-MD5` (RFC 1864), which clients of object stores send.
fn read_md5(fields: &HeaderMap) -> Result<Option<Stated>, Rejection> {
    if !fields.contains_key(&name::CONTENT_MD5) {
        return Ok(None);
    }
    fields::single(fields, &name::CONTENT_MD5)
        .and_then(|value| BASE64_STANDARD.decode(value).ok())
        .and_then(|value| Stated::new(CONTENT_MD5, Algorithm::Md5, &value))
        .map(Some)
        .ok_or_else(|| {
            let example = "must be 16 bytes in base64, such as 1B2M2Y8AsgTpgAmY7PhCfg==";
            Rejection::malformed(CONTENT_MD5, example)
        })
}

/// Returns the field that lists the supported algorithms of `field`.
pub(crate) fn verified_by(field: &str) -> (HeaderName, HeaderValue) {
    match field {
        CONTENT_DIGEST => (name::WANT_CONTENT_DIGEST, WANTED),
        REPR_DIGEST => (name::WANT_REPR_DIGEST, WANTED),
        _ => (
            name::TUS_CHECKSUM_ALGORITHM,
            HeaderValue::from_static(checksum::ALGORITHMS),
        ),
    }
}

/// Returns the algorithms of the fields that `Trailer` announces.
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

/// Value of `Want-Content-Digest` and `Want-Repr-Digest` for the supported algorithms (RFC 9530
/// §4).
pub const WANTED: HeaderValue = HeaderValue::from_static("sha-256=10, sha-512=1");

/// Returns the algorithm among `available` that the client prefers by `Want-Content-Digest` or
/// `Want-Repr-Digest` (RFC 9530 §4); `None` if the client requests none of them. Of equals, the
/// first in `available`.
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

/// Writes a digest as the value of `Repr-Digest` or `Content-Digest`; `None` for an algorithm
/// without a key in RFC 9530.
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
    fn unknown_algorithms_are_passed_over_beside_a_known_one() {
        let value = format!("md5=:AAAA:, sha-256=:{EMPTY_SHA256}:, future=1");
        assert_eq!(content(&value), Ok(vec![Algorithm::Sha256]));
        for alone in [
            "md5=:AAAA:",
            "sha=:AAAA:",
            "crc32c=:AAAAAA==:",
            "SHA-256=:AAAA:",
        ] {
            assert!(content(alone).is_err(), "{alone}");
        }
        assert_eq!(
            content("unixsum=:AAAA:, md5=:AAAA:"),
            Err(Rejection::DigestAlgorithm {
                field: "Content-Digest",
                algorithm: "unixsum".to_owned(),
            })
        );
    }

    #[test]
    fn a_digest_that_cannot_be_verified_is_refused() {
        let twice = format!("sha-256=:{EMPTY_SHA256}:, sha-256=:{EMPTY_SHA256}:");
        let cut = format!("sha-256=:{EMPTY_SHA256}");
        let bare = format!("sha-256={EMPTY_SHA256}");
        for value in [
            "",
            ",",
            "sha-256",
            "sha-256=",
            "sha-256=::",
            "sha-256=:!:",
            "sha-256=:AAAA:",
            "sha-256=abc",
            "sha-512=(:AAAA:)",
            "sha-512=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
            &twice,
            &cut,
            &bare,
        ] {
            for (name, field) in [
                ("content-digest", "Content-Digest"),
                ("repr-digest", "Repr-Digest"),
            ] {
                let stated = fields(&[(name, value)]);
                for read in [StatedDigests::read, StatedDigests::read_trailer] {
                    match read(&stated) {
                        Err(Rejection::Malformed { field: own, reason }) if own == field => {
                            assert!(reason.contains("such as sha-256=:"), "{reason}");
                        }
                        other => panic!("{name}: {value}: {other:?}"),
                    }
                }
            }
        }
        let lines = [("repr-digest", &twice[..54]), ("repr-digest", &twice[..54])];
        assert!(
            StatedDigests::read(&fields(&lines)).is_err(),
            "on two lines"
        );
    }

    #[test]
    fn content_md5_is_verified_or_refused() {
        let read = |value| StatedDigests::read(&fields(&[("content-md5", value)]));
        let stated = read("1B2M2Y8AsgTpgAmY7PhCfg==").unwrap();
        assert_eq!(stated.content[0].algorithm, Algorithm::Md5);
        for value in [
            "",
            "AAAA",
            "d41d8cd98f00b204e9800998ecf8427e",
            ":1B2M2Y8AsgTpgAmY7PhCfg==:",
        ] {
            assert!(
                matches!(read(value), Err(Rejection::Malformed { .. })),
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
