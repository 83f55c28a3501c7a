//! Statements of a client about the content that it sends.
//!
//! One rule: a statement is stored and served, or verified, or refused, but never dropped silently.
//! The media type and the file name are stored ([`media_type`](crate::media_type),
//! [`disposition`](crate::disposition)), digests are verified ([`digest`](crate::digest)). Of the
//! rest, [`check`] refuses statements that would change the meaning of the served bytes.
//! `Content-Location` is no such statement: in a request it is about the request (RFC 9110 §8.7).

use http::header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE};
use http::{HeaderMap, HeaderName};

use crate::fields;
use crate::rejection::Rejection;

/// Coding of a MIME part, unknown in HTTP (RFC 7578 §4.7).
const CONTENT_TRANSFER_ENCODING: HeaderName = HeaderName::from_static("content-transfer-encoding");

/// Predecessor of `Repr-Digest` (RFC 3230).
const DIGEST: HeaderName = HeaderName::from_static("digest");

/// Codings that change nothing.
const PLAIN: [&str; 4] = ["identity", "binary", "8bit", "7bit"];

/// Checks the statements of an upload request, or of a part of a form, about its content.
///
/// # Errors
/// [`Rejection::Coding`] for encoded bytes, [`Rejection::Malformed`] for fields without a meaning
/// in an upload.
pub fn check(fields: &HeaderMap) -> Result<(), Rejection> {
    check_coding(fields, "Content-Encoding", &CONTENT_ENCODING)?;
    check_coding(
        fields,
        "Content-Transfer-Encoding",
        &CONTENT_TRANSFER_ENCODING,
    )?;
    for (field, name, reason) in [
        (
            "Content-Range",
            CONTENT_RANGE,
            // RFC 9110 §14.5: a part must not be stored as the complete representation.
            "has no meaning in an upload; to send a part, begin a resumable upload and append with Upload-Offset: 0",
        ),
        (
            "Content-Language",
            CONTENT_LANGUAGE,
            "is not kept; leave it out",
        ),
        (
            "Digest",
            DIGEST,
            "is not verified; send Repr-Digest: sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:",
        ),
    ] {
        if fields.contains_key(name) {
            return Err(Rejection::malformed(field, reason));
        }
    }
    Ok(())
}

fn check_coding(
    fields: &HeaderMap,
    field: &'static str,
    name: &HeaderName,
) -> Result<(), Rejection> {
    if !fields.contains_key(name) {
        return Ok(());
    }
    let value = fields::combined(fields, name).unwrap_or(b"?".into());
    let value = String::from_utf8_lossy(&value);
    let is_plain = |coding: &str| PLAIN.iter().any(|plain| plain.eq_ignore_ascii_case(coding));
    match fields::list_elements(&value).find(|coding| !is_plain(coding)) {
        None => Ok(()),
        Some(coding) => Err(Rejection::Coding {
            field,
            coding: coding.chars().take(40).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn refused(name: &'static str, value: &str) -> Option<Rejection> {
        let name = HeaderName::from_static(name);
        let fields = HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())]);
        check(&fields).err()
    }

    #[test]
    fn bytes_that_are_the_files_own_pass() {
        for value in ["", "identity", "Identity", "identity, identity"] {
            assert_eq!(refused("content-encoding", value), None, "{value:?}");
        }
        for value in ["binary", "8bit", "7BIT", "identity"] {
            assert_eq!(refused("content-transfer-encoding", value), None);
        }
        assert_eq!(refused("content-location", "/a"), None);
        assert_eq!(check(&HeaderMap::new()), Ok(()));
    }

    #[test]
    fn coded_bytes_are_refused_whatever_the_coding() {
        for value in [
            "gzip",
            "x-gzip",
            "br",
            "zstd",
            "deflate",
            "aws-chunked",
            "identity, gzip",
            "?",
        ] {
            assert!(
                matches!(
                    refused("content-encoding", value),
                    Some(Rejection::Coding { .. })
                ),
                "{value}"
            );
        }
        for value in ["base64", "quoted-printable", "x-uuencode"] {
            assert!(matches!(
                refused("content-transfer-encoding", value),
                Some(Rejection::Coding { .. })
            ));
        }
        let mut twice = HeaderMap::new();
        twice.append(CONTENT_ENCODING, HeaderValue::from_static("identity"));
        twice.append(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert!(check(&twice).is_err());
    }

    #[test]
    fn what_would_be_dropped_is_refused() {
        for (name, value) in [
            ("content-range", "bytes 0-9/20"),
            ("content-range", ""),
            ("content-language", "de"),
            ("digest", "sha-256=AAAA"),
        ] {
            assert!(
                matches!(refused(name, value), Some(Rejection::Malformed { .. })),
                "{name}"
            );
        }
    }
}
