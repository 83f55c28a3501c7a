//! Reads and writes header fields: structured fields (RFC 9651), plain integers, and the lists of
//! RFC 9110.
//!
//! A field of another type than its definition requires counts as absent (RFC 9651 §4.2), except if
//! a client relies on it ([`digest`](crate::digest), [`content`](crate::content)). Field lines of
//! one name are joined with a comma before they are read, so a repeated field with a single value
//! does not parse.

use std::borrow::Cow;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Dictionary, Item, Parser};

/// Names of fields that the `http` crate does not know: of resumable uploads (IETF and tus), of
/// digests and of this server.
///
/// This is the only list: pages of other origins may send and read exactly these fields
/// ([`sent_by_clients`](name::sent_by_clients), [`sent_by_servers`](name::sent_by_servers)), so a
/// new field is added here alone.
pub mod name {
    use http::header::HeaderName;

    /// Sender of a field.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Sender {
        Client,
        Server,
        Both,
    }

    /// Declares each field as a constant and adds it to `OWN`.
    macro_rules! fields {
        ($($(#[$doc:meta])* $constant:ident = $name:literal by $sender:ident;)*) => {
            $(
                $(#[$doc])*
                pub const $constant: HeaderName = HeaderName::from_static($name);
            )*

            const OWN: &[(&str, Sender)] = &[$(($name, Sender::$sender)),*];
        };
    }

    fields! {
        /// `Accept-Patch` (RFC 5789 §3.1).
        ACCEPT_PATCH = "accept-patch" by Server;
        /// `Content-Digest` (RFC 9530 §2).
        CONTENT_DIGEST = "content-digest" by Both;
        /// `Content-MD5` (RFC 1864).
        CONTENT_MD5 = "content-md5" by Client;
        /// `Idempotency-Key`.
        IDEMPOTENCY_KEY = "idempotency-key" by Client;
        /// `Repr-Digest` (RFC 9530 §3).
        REPR_DIGEST = "repr-digest" by Both;
        /// `Tus-Checksum-Algorithm` (tus 1.0.0, Checksum).
        TUS_CHECKSUM_ALGORITHM = "tus-checksum-algorithm" by Server;
        /// `Tus-Extension` (tus 1.0.0, Core Protocol).
        TUS_EXTENSION = "tus-extension" by Server;
        /// `Tus-Max-Size` (tus 1.0.0, Core Protocol).
        TUS_MAX_SIZE = "tus-max-size" by Server;
        /// `Tus-Resumable` (tus 1.0.0, Core Protocol).
        TUS_RESUMABLE = "tus-resumable" by Both;
        /// `Tus-Version` (tus 1.0.0, Core Protocol).
        TUS_VERSION = "tus-version" by Server;
        /// `Upload-Checksum` (tus 1.0.0, Checksum).
        UPLOAD_CHECKSUM = "upload-checksum" by Both;
        /// `Upload-Complete` (IETF resumable uploads, interop 4 and later).
        UPLOAD_COMPLETE = "upload-complete" by Both;
        /// `Upload-Concat` (tus 1.0.0, Concatenation).
        UPLOAD_CONCAT = "upload-concat" by Both;
        /// `Upload-Defer-Length` (tus 1.0.0, Creation).
        UPLOAD_DEFER_LENGTH = "upload-defer-length" by Both;
        /// `Upload-Draft-Interop-Version` (IETF drafts, Draft Version Identification).
        UPLOAD_DRAFT_INTEROP_VERSION = "upload-draft-interop-version" by Both;
        /// `Upload-Expires` (tus 1.0.0, Expiration).
        UPLOAD_EXPIRES = "upload-expires" by Server;
        /// `Upload-Incomplete` (IETF resumable uploads, interop 3).
        UPLOAD_INCOMPLETE = "upload-incomplete" by Both;
        /// `Upload-Length` (IETF resumable uploads from interop 6, and tus).
        UPLOAD_LENGTH = "upload-length" by Both;
        /// `Upload-Limit` (IETF resumable uploads from interop 6).
        UPLOAD_LIMIT = "upload-limit" by Server;
        /// `Upload-Metadata` (tus 1.0.0, Creation).
        UPLOAD_METADATA = "upload-metadata" by Both;
        /// `Upload-Offset` (IETF resumable uploads and tus).
        UPLOAD_OFFSET = "upload-offset" by Both;
        /// `Want-Content-Digest` (RFC 9530 §4).
        WANT_CONTENT_DIGEST = "want-content-digest" by Both;
        /// `Want-Repr-Digest` (RFC 9530 §4).
        WANT_REPR_DIGEST = "want-repr-digest" by Both;
        /// `X-HTTP-Method-Override` (tus 1.0.0, Core Protocol).
        X_HTTP_METHOD_OVERRIDE = "x-http-method-override" by Client;
        /// `Upload-Client-Ref`: the client's own reference of an upload, for finding its open
        /// uploads again.
        UPLOAD_CLIENT_REF = "upload-client-ref" by Client;
        /// `X-Request-Id`: identifier of a request, from a client or proxy, repeated in every
        /// answer.
        X_REQUEST_ID = "x-request-id" by Both;
    }

    /// Standard fields of requests and answers.
    const STANDARD: &[(&str, Sender)] = &[
        ("accept", Sender::Client),
        ("accept-encoding", Sender::Server),
        ("accept-ranges", Sender::Server),
        ("allow", Sender::Server),
        ("authorization", Sender::Client),
        ("cache-control", Sender::Both),
        ("content-disposition", Sender::Both),
        ("content-encoding", Sender::Both),
        ("content-length", Sender::Server),
        ("content-location", Sender::Server),
        ("content-range", Sender::Server),
        ("content-type", Sender::Both),
        ("date", Sender::Server),
        ("etag", Sender::Server),
        ("if-match", Sender::Client),
        ("if-modified-since", Sender::Client),
        ("if-none-match", Sender::Client),
        ("if-range", Sender::Client),
        ("if-unmodified-since", Sender::Client),
        ("last-modified", Sender::Server),
        ("location", Sender::Server),
        ("range", Sender::Client),
        ("retry-after", Sender::Server),
        ("vary", Sender::Server),
        ("www-authenticate", Sender::Server),
        // Libraries add this field to every request of a page.
        ("x-requested-with", Sender::Client),
    ];

    /// Returns the fields that a client may send.
    pub fn sent_by_clients() -> impl Iterator<Item = &'static str> {
        by(Sender::Client)
    }

    /// Returns the fields that an answer may have, except those of the connection and of CORS
    /// itself.
    pub fn sent_by_servers() -> impl Iterator<Item = &'static str> {
        by(Sender::Server)
    }

    fn by(sender: Sender) -> impl Iterator<Item = &'static str> {
        let all = STANDARD.iter().chain(OWN);
        all.filter(move |(_, own)| *own == sender || *own == Sender::Both)
            .map(|(name, _)| *name)
    }
}

/// Greatest Integer of a structured field (RFC 9651 §3.3.1).
pub const MAX_INTEGER: u64 = 999_999_999_999_999;

/// Maximum number of bytes of a field's joined lines; a longer field counts as absent.
const MAX_FIELD: usize = 64 * 1024;

/// Joins the field's lines with `, ` (RFC 9110 §5.3).
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

/// Returns the value of a field with exactly one line of visible ASCII, trimmed.
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

/// Reads a Boolean Item (RFC 9651 §3.3.6).
pub(crate) fn boolean(fields: &HeaderMap, name: &HeaderName) -> Option<bool> {
    item(fields, name)?.bare_item.as_boolean()
}

/// Reads a non-negative Integer Item (RFC 9651 §3.3.1).
pub(crate) fn integer(fields: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let integer = item(fields, name)?.bare_item.as_integer()?;
    u64::try_from(i64::from(integer)).ok()
}

/// Reads a Dictionary (RFC 9651 §3.2).
pub(crate) fn dictionary(fields: &HeaderMap, name: &HeaderName) -> Option<Dictionary> {
    Parser::new(combined(fields, name)?.as_ref()).parse().ok()
}

fn item(fields: &HeaderMap, name: &HeaderName) -> Option<Item> {
    Parser::new(combined(fields, name)?.as_ref()).parse().ok()
}

/// Reads `1*DIGIT` and nothing else: a number of tus and of the ranges of RFC 9110. A number beyond
/// 64 bits becomes the greatest one.
pub(crate) fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// Writes a Boolean Item.
pub(crate) fn write_boolean(value: bool) -> HeaderValue {
    HeaderValue::from_static(if value { "?1" } else { "?0" })
}

/// Splits a list at commas outside of quoted strings, trims the elements, and omits empty ones (RFC
/// 9110 §5.6.1).
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
    fn each_field_is_listed_once() {
        for names in [
            name::sent_by_clients().collect::<Vec<_>>(),
            name::sent_by_servers().collect(),
        ] {
            let mut unique = names.clone();
            unique.sort_unstable();
            unique.dedup();
            assert_eq!(unique.len(), names.len());
        }
        assert!(name::sent_by_clients().any(|name| name == "upload-client-ref"));
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
