//! Checksums of one request's body, in a header or a trailer (tus 1.0.0, Checksum).

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;

use crate::digest::{Algorithm, Stated};
use crate::fields::{self, name};
use crate::rejection::Rejection;

/// Supported algorithms, as listed in `Tus-Checksum-Algorithm`.
pub const ALGORITHMS: &str = "sha1,sha256,sha512,md5,crc32";

const FIELD: &str = "Upload-Checksum";

/// Reads `Upload-Checksum`: the algorithm's name, a space, and the checksum in base64.
///
/// # Errors
/// [`Rejection::DigestAlgorithm`] for an unsupported algorithm, [`Rejection::Malformed`] for any
/// other fault.
pub(crate) fn read(fields: &HeaderMap) -> Result<Option<Stated>, Rejection> {
    if !fields.contains_key(&name::UPLOAD_CHECKSUM) {
        return Ok(None);
    }
    let malformed = || {
        Rejection::malformed(
            FIELD,
            "must be an algorithm and a checksum in base64, such as sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
        )
    };
    let (algorithm, value) = fields::single(fields, &name::UPLOAD_CHECKSUM)
        .and_then(|checksum| checksum.split_once(' '))
        .ok_or_else(malformed)?;
    let algorithm = match algorithm {
        "sha1" => Algorithm::Sha1,
        "sha256" => Algorithm::Sha256,
        "sha512" => Algorithm::Sha512,
        "md5" => Algorithm::Md5,
        "crc32" => Algorithm::Crc32,
        other => {
            return Err(Rejection::DigestAlgorithm {
                field: FIELD,
                algorithm: other.to_owned(),
            });
        }
    };
    BASE64_STANDARD
        .decode(value)
        .ok()
        .and_then(|value| Stated::new(FIELD, algorithm, &value))
        .map(Some)
        .ok_or_else(malformed)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check(value: &str) -> Result<Option<(Algorithm, usize)>, Rejection> {
        let value = HeaderValue::from_str(value).unwrap();
        let fields = HeaderMap::from_iter([(name::UPLOAD_CHECKSUM, value)]);
        let stated = read(&fields)?;
        Ok(stated.map(|stated| (stated.algorithm, stated.value.len())))
    }

    #[test]
    fn a_checksum_is_an_algorithm_and_its_value() {
        assert_eq!(
            check("sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
            Ok(Some((Algorithm::Sha1, 20)))
        );
        assert_eq!(check("crc32 AAAAAA=="), Ok(Some((Algorithm::Crc32, 4))));
    }

    #[test]
    fn every_listed_algorithm_is_read() {
        for algorithm in ALGORITHMS.split(',') {
            assert!(matches!(
                check(&format!("{algorithm} AA==")),
                Err(Rejection::Malformed { .. })
            ));
        }
    }

    #[test]
    fn an_unknown_algorithm_is_named() {
        for algorithm in ["SHA1", "sha-1", "crc32c"] {
            assert_eq!(
                check(&format!("{algorithm} AAAA")),
                Err(Rejection::DigestAlgorithm {
                    field: FIELD,
                    algorithm: algorithm.to_owned()
                })
            );
        }
    }

    #[test]
    fn a_value_must_be_the_algorithms() {
        for value in [
            "sha1",
            "sha1 ",
            "sha1 AAAA",
            "sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
            "sha1 !",
        ] {
            assert!(
                matches!(check(value), Err(Rejection::Malformed { .. })),
                "{value}"
            );
        }
    }
}
