//! Header fields that the client reads.

use std::time::Duration;

use domain::digest::Sha256Digest;
use protocol::digest::{self, Algorithm};
use reqwest::header::{DATE, ETAG, HeaderMap, HeaderValue, RETRY_AFTER};
use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

/// Parses `Upload-Offset`, in bytes.
pub(crate) fn upload_offset(headers: &HeaderMap) -> Option<u64> {
    match item(headers, "upload-offset")? {
        BareItem::Integer(offset) => u64::try_from(i64::from(offset)).ok(),
        _ => None,
    }
}

/// Parses `Upload-Complete`.
pub(crate) fn upload_complete(headers: &HeaderMap) -> Option<bool> {
    match item(headers, "upload-complete")? {
        BareItem::Boolean(complete) => Some(complete),
        _ => None,
    }
}

/// Sizes in an `Upload-Limit` field, in bytes. Unknown keys are ignored, as are values of a wrong
/// type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct UploadLimit {
    pub(crate) max_size: Option<u64>,
    pub(crate) max_append_size: Option<u64>,
}

/// Parses `Upload-Limit`, if the field is present.
pub(crate) fn upload_limit(headers: &HeaderMap) -> Option<UploadLimit> {
    let limits: Dictionary = Parser::new(text(headers, "upload-limit")?).parse().ok()?;
    let size = |key: &str| match limits.get(key)? {
        ListEntry::Item(Item {
            bare_item: BareItem::Integer(size),
            ..
        }) => u64::try_from(i64::from(*size)).ok(),
        ListEntry::Item(_) | ListEntry::InnerList(_) => None,
    };
    Some(UploadLimit {
        max_size: size("max-size"),
        max_append_size: size("max-append-size").filter(|size| *size > 0),
    })
}

/// Parses the SHA-256 of the whole representation (RFC 9530), if it is stated.
pub(crate) fn repr_digest(headers: &HeaderMap) -> Option<Sha256Digest> {
    let stated = digest::parse_representation(text(headers, "repr-digest")?);
    let sha256 = stated
        .into_iter()
        .find(|stated| stated.algorithm == Algorithm::Sha256)?;
    Some(Sha256Digest::from_bytes(sha256.value.try_into().ok()?))
}

/// Formats a SHA-256 as a value of `Repr-Digest`.
pub(crate) fn sha256(digest: Sha256Digest) -> HeaderValue {
    digest::write(Algorithm::Sha256, digest.as_bytes()).expect("RFC 9530 has a key for SHA-256")
}

/// Returns the entity tag, with its quotes.
pub(crate) fn etag(headers: &HeaderMap) -> Option<String> {
    text(headers, ETAG.as_str()).map(str::to_owned)
}

/// Returns the entity tag if it is strong: only a strong tag can join two parts (RFC 9110 section
/// 13.1.5).
pub(crate) fn strong_etag(headers: &HeaderMap) -> Option<String> {
    etag(headers).filter(|tag| tag.len() >= 2 && tag.starts_with('"') && tag.ends_with('"'))
}

/// Returns the wait that `Retry-After` requests (RFC 9110 section 10.2.3).
///
/// A date is relative to the answer's own `Date`, so that the clocks of the two sides need not
/// agree.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = text(headers, RETRY_AFTER.as_str())?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = httpdate::parse_http_date(value).ok()?;
    let now = httpdate::parse_http_date(text(headers, DATE.as_str())?).ok()?;
    Some(then.duration_since(now).unwrap_or_default())
}

/// Parses `Content-Range` of a 206: the position of its first byte, and the complete length, if
/// known.
pub(crate) fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let (range, length) = text(headers, "content-range")?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let length = if length == "*" {
        None
    } else {
        Some(length.parse().ok()?)
    };
    (first <= last && length.is_none_or(|length| last < length)).then_some((first, length))
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn item(headers: &HeaderMap, name: &str) -> Option<BareItem> {
    let item: Item = Parser::new(text(headers, name)?).parse().ok()?;
    Some(item.bare_item)
}

#[cfg(test)]
mod tests {
    use reqwest::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn offsets_are_whole_numbers_from_zero() {
        let offset = |value| upload_offset(&headers(&[("upload-offset", value)]));
        assert_eq!(offset("0"), Some(0));
        assert_eq!(offset("999999999999999"), Some(999_999_999_999_999));
        for wrong in ["-1", "1.0", "", "?1", "1, 2", "9999999999999999"] {
            assert_eq!(offset(wrong), None, "{wrong}");
        }
        assert_eq!(upload_offset(&HeaderMap::new()), None);
    }

    #[test]
    fn completeness_is_a_boolean() {
        let complete = |value| upload_complete(&headers(&[("upload-complete", value)]));
        assert_eq!(
            (complete("?1"), complete("?0"), complete("1")),
            (Some(true), Some(false), None)
        );
    }

    #[test]
    fn limits_ignore_what_they_do_not_know() {
        let limit = |value| upload_limit(&headers(&[("upload-limit", value)]));
        assert_eq!(limit("min-size=0"), Some(UploadLimit::default()));
        assert_eq!(
            limit("max-size=10, max-append-size=5, max-age=9, new=(1 2)"),
            Some(UploadLimit {
                max_size: Some(10),
                max_append_size: Some(5)
            })
        );
        assert_eq!(
            limit("max-size=?1, max-append-size=0"),
            Some(UploadLimit::default())
        );
        assert_eq!(upload_limit(&HeaderMap::new()), None);
    }

    #[test]
    fn only_strong_tags_join_parts() {
        let tag = |value| strong_etag(&headers(&[("etag", value)]));
        assert_eq!(tag("\"a\"").as_deref(), Some("\"a\""));
        assert_eq!((tag("W/\"a\""), tag("a"), tag("\"")), (None, None, None));
    }

    #[test]
    fn a_digest_is_found_among_others() {
        let digest = |value| repr_digest(&headers(&[("repr-digest", value)]));
        let empty = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:";
        assert_eq!(digest(empty), Some(Sha256Digest::of(b"")));
        assert_eq!(
            digest("md5=:AAAA:, sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"),
            Some(Sha256Digest::of(b""))
        );
        for wrong in [
            "",
            "sha-256",
            "sha-256=:AAAA:",
            "sha-256=\"x\"",
            "md5=:AAAA:",
            "==",
        ] {
            assert_eq!(digest(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let after = |fields: &[(&'static str, &'static str)]| {
            retry_after(&headers(fields)).map(|wait| wait.as_secs())
        };
        let date = ("date", "Fri, 20 Nov 2026 10:00:00 GMT");
        assert_eq!(after(&[("retry-after", "7")]), Some(7));
        assert_eq!(
            after(&[("retry-after", "Fri, 20 Nov 2026 10:01:30 GMT"), date]),
            Some(90)
        );
        assert_eq!(
            after(&[("retry-after", "Fri, 20 Nov 2026 09:00:00 GMT"), date]),
            Some(0)
        );
        assert_eq!(
            after(&[("retry-after", "Fri, 20 Nov 2026 10:01:30 GMT")]),
            None
        );
        assert_eq!(after(&[("retry-after", "soon"), date]), None);
    }

    #[test]
    fn a_content_range_is_one_within_its_length() {
        let range = |value| content_range(&headers(&[("content-range", value)]));
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((5, None)));
        for wrong in [
            "bytes 5-10/10",
            "bytes 9-5/10",
            "bytes */10",
            "items 5-9/10",
            "bytes 5-9",
            "bytes -9/10",
        ] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
    }
}
