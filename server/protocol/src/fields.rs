//! Reading and writing header fields: structured fields (RFC 9651), plain integers, and the lists of RFC 9110.
//!
//! A field that does not have the type its definition asks for is as if absent (RFC 9651 §4.2). Field lines of one name are
//! combined with a comma before they are read, so a field that allows one value and comes twice does not parse.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Dictionary, Item, Parser};

/// Names of the fields of resumable uploads (IETF and tus) and of digests, which the `http` crate does not know.
pub mod name {
    use http::header::HeaderName;

    /// `Accept-Patch` (RFC 5789 §3.1).
    pub const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");
    /// `Content-Digest` (RFC 9530 §2).
    pub const CONTENT_DIGEST: HeaderName = HeaderName::from_static("content-digest");
    /// `Idempotency-Key`.
    pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
    /// `Repr-Digest` (RFC 9530 §3).
    pub const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
    /// `Tus-Checksum-Algorithm` (tus 1.0.0, Checksum).
    pub const TUS_CHECKSUM_ALGORITHM: HeaderName =
        HeaderName::from_static("tus-checksum-algorithm");
    /// `Tus-Extension` (tus 1.0.0, Core Protocol).
    pub const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
    /// `Tus-Max-Size` (tus 1.0.0, Core Protocol).
    pub const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
    /// `Tus-Resumable` (tus 1.0.0, Core Protocol).
    pub const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
    /// `Tus-Version` (tus 1.0.0, Core Protocol).
    pub const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
    /// `Upload-Checksum` (tus 1.0.0, Checksum).
    pub const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
    /// `Upload-Complete` (IETF resumable uploads, interop 4 and later).
    pub const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");
    /// `Upload-Concat` (tus 1.0.0, Concatenation).
    pub const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
    /// `Upload-Defer-Length` (tus 1.0.0, Creation).
    pub const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
    /// `Upload-Draft-Interop-Version` (IETF drafts, Draft Version Identification).
    pub const UPLOAD_DRAFT_INTEROP_VERSION: HeaderName =
        HeaderName::from_static("upload-draft-interop-version");
    /// `Upload-Expires` (tus 1.0.0, Expiration).
    pub const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
    /// `Upload-Incomplete` (IETF resumable uploads, interop 3).
    pub const UPLOAD_INCOMPLETE: HeaderName = HeaderName::from_static("upload-incomplete");
    /// `Upload-Length` (IETF resumable uploads from interop 6, and tus).
    pub const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
    /// `Upload-Limit` (IETF resumable uploads from interop 6).
    pub const UPLOAD_LIMIT: HeaderName = HeaderName::from_static("upload-limit");
    /// `Upload-Metadata` (tus 1.0.0, Creation).
    pub const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
    /// `Upload-Offset` (IETF resumable uploads and tus).
    pub const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
    /// `Want-Content-Digest` (RFC 9530 §4).
    pub const WANT_CONTENT_DIGEST: HeaderName = HeaderName::from_static("want-content-digest");
    /// `Want-Repr-Digest` (RFC 9530 §4).
    pub const WANT_REPR_DIGEST: HeaderName = HeaderName::from_static("want-repr-digest");
    /// `X-HTTP-Method-Override` (tus 1.0.0, Core Protocol).
    pub const X_HTTP_METHOD_OVERRIDE: HeaderName =
        HeaderName::from_static("x-http-method-override");

    /// Request fields that a page of another origin may send: `Access-Control-Allow-Headers`.
    pub const CORS_ALLOWED: [HeaderName; 29] = [
        http::header::ACCEPT,
        http::header::AUTHORIZATION,
        http::header::CONTENT_DISPOSITION,
        http::header::CONTENT_ENCODING,
        http::header::CONTENT_TYPE,
        http::header::IF_MATCH,
        http::header::IF_MODIFIED_SINCE,
        http::header::IF_NONE_MATCH,
        http::header::IF_RANGE,
        http::header::IF_UNMODIFIED_SINCE,
        http::header::RANGE,
        HeaderName::from_static("x-request-id"),
        HeaderName::from_static("x-requested-with"),
        CONTENT_DIGEST,
        IDEMPOTENCY_KEY,
        REPR_DIGEST,
        TUS_RESUMABLE,
        UPLOAD_CHECKSUM,
        UPLOAD_COMPLETE,
        UPLOAD_CONCAT,
        UPLOAD_DEFER_LENGTH,
        UPLOAD_DRAFT_INTEROP_VERSION,
        UPLOAD_INCOMPLETE,
        UPLOAD_LENGTH,
        UPLOAD_METADATA,
        UPLOAD_OFFSET,
        WANT_CONTENT_DIGEST,
        WANT_REPR_DIGEST,
        X_HTTP_METHOD_OVERRIDE,
    ];

    /// Answer fields that a page of another origin may see: `Access-Control-Expose-Headers`.
    pub const CORS_EXPOSED: [HeaderName; 31] = [
        http::header::ACCEPT_RANGES,
        http::header::CONTENT_DISPOSITION,
        http::header::CONTENT_LENGTH,
        http::header::CONTENT_LOCATION,
        http::header::CONTENT_RANGE,
        http::header::ETAG,
        http::header::LAST_MODIFIED,
        http::header::LOCATION,
        http::header::RETRY_AFTER,
        HeaderName::from_static("x-request-id"),
        ACCEPT_PATCH,
        CONTENT_DIGEST,
        REPR_DIGEST,
        TUS_CHECKSUM_ALGORITHM,
        TUS_EXTENSION,
        TUS_MAX_SIZE,
        TUS_RESUMABLE,
        TUS_VERSION,
        UPLOAD_CHECKSUM,
        UPLOAD_COMPLETE,
        UPLOAD_CONCAT,
        UPLOAD_DEFER_LENGTH,
        UPLOAD_DRAFT_INTEROP_VERSION,
        UPLOAD_EXPIRES,
        UPLOAD_INCOMPLETE,
        UPLOAD_LENGTH,
        UPLOAD_LIMIT,
        UPLOAD_METADATA,
        UPLOAD_OFFSET,
        WANT_CONTENT_DIGEST,
        WANT_REPR_DIGEST,
    ];
}

/// The greatest Integer of a structured field (RFC 9651 §3.3.1).
pub const MAX_INTEGER: u64 = 999_999_999_999_999;

/// Most bytes of one field's combined lines that are looked at; a longer field is as if absent.
const MAX_FIELD: usize = 64 * 1024;

/// The field's lines as one value, joined with `, ` (RFC 9110 §5.3).
pub(crate) fn combined<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = fields.get_all(name).iter();
    let mut value = Cow::Borrowed(lines.next()?.as_bytes());
    for line in lines {
        let joined = value.to_mut();
        joined.extend_from_slice(b", ");
        joined.extend_from_slice(line.as_bytes());
        if joined.len() > MAX_FIELD {
            return None;
        }
    }
    (value.len() <= MAX_FIELD).then_some(value)
}

/// The value of a field that comes in exactly one line of visible ASCII, without the white space around it.
pub(crate) fn single<'a>(fields: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = fields.get_all(name).iter();
    let line = lines.next()?;
    match lines.next() {
        Some(_) => None,
        None => line
            .to_str()
            .ok()
            .map(str::trim)
            .filter(|value| value.len() <= MAX_FIELD),
    }
}

/// A Boolean Item (RFC 9651 §3.3.6).
pub(crate) fn boolean(fields: &HeaderMap, name: &HeaderName) -> Option<bool> {
    item(fields, name)?.bare_item.as_boolean()
}

/// A non-negative Integer Item (RFC 9651 §3.3.1).
pub(crate) fn integer(fields: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let integer = item(fields, name)?.bare_item.as_integer()?;
    u64::try_from(i64::from(integer)).ok()
}

/// A Dictionary (RFC 9651 §3.2).
pub(crate) fn dictionary(fields: &HeaderMap, name: &HeaderName) -> Option<Dictionary> {
    Parser::new(combined(fields, name)?.as_ref()).parse().ok()
}

fn item(fields: &HeaderMap, name: &HeaderName) -> Option<Item> {
    Parser::new(combined(fields, name)?.as_ref()).parse().ok()
}

/// `1*DIGIT` and nothing else, as tus and the ranges of RFC 9110 write a number. A number too great for 64 bits is the
/// greatest one.
pub(crate) fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// A Boolean Item, written.
pub(crate) fn write_boolean(value: bool) -> HeaderValue {
    HeaderValue::from_static(if value { "?1" } else { "?0" })
}

/// The elements of a list by commas outside of quoted strings, trimmed, without empty ones (RFC 9110 §5.6.1).
pub(crate) fn list_elements(value: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    value
        .split(move |character| {
            match character {
                _ if escaped => escaped = false,
                '\\' if quoted => escaped = true,
                '"' => quoted = !quoted,
                ',' if !quoted => return true,
                _ => {}
            }
            false
        })
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[&str]) -> HeaderMap {
        lines
            .iter()
            .map(|line| (name::UPLOAD_OFFSET, HeaderValue::from_str(line).unwrap()))
            .collect()
    }

    #[track_caller]
    fn check_integer(lines: &[&str], expected: Option<u64>) {
        assert_eq!(integer(&fields(lines), &name::UPLOAD_OFFSET), expected);
    }

    #[test]
    fn only_one_plain_non_negative_integer_counts() {
        check_integer(&["0"], Some(0));
        check_integer(&[" 17 "], Some(17));
        check_integer(&["17;unknown=1"], Some(17));
        check_integer(&["999999999999999"], Some(MAX_INTEGER));
        check_integer(&["1000000000000000"], None);
        for bad in [
            "", "-1", "+8", "1.0", "1,2", "\"1\"", "?1", "0x10", "1 2", "abc",
        ] {
            check_integer(&[bad], None);
        }
        check_integer(&["8", "8"], None);
        check_integer(&[], None);
    }

    #[test]
    fn only_a_structured_boolean_counts() {
        let read = |value: &str| boolean(&fields(&[value]), &name::UPLOAD_OFFSET);
        assert_eq!(read("?1"), Some(true));
        assert_eq!(read("?0"), Some(false));
        assert_eq!(read("?1;a=b"), Some(true));
        for bad in ["1", "true", "?2", "?1, ?1", "\"?1\"", ""] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn dictionary_lines_are_combined_first() {
        let dictionary = dictionary(&fields(&["a=1", "b=2, a=3"]), &name::UPLOAD_OFFSET).unwrap();
        assert_eq!(dictionary.len(), 2);
    }

    #[test]
    fn an_endless_field_is_as_if_absent() {
        let line = "a".repeat(1024);
        let lines = vec![line.as_str(); 65];
        assert_eq!(combined(&fields(&lines), &name::UPLOAD_OFFSET), None);
    }

    #[test]
    fn commas_in_quotes_do_not_separate() {
        let elements = |value| list_elements(value).collect::<Vec<_>>();
        assert_eq!(
            elements(r#""a,b" , c,, "d\",e""#),
            [r#""a,b""#, "c", r#""d\",e""#]
        );
        assert_eq!(elements(" , "), [""; 0]);
    }

    #[test]
    fn digits_take_no_sign_and_saturate() {
        assert_eq!(digits("007"), Some(7));
        assert_eq!(digits("99999999999999999999999"), Some(u64::MAX));
        for bad in ["", "+1", "-1", " 1", "1 ", "1_0", "١"] {
            assert_eq!(digits(bad), None, "{bad}");
        }
    }
}
