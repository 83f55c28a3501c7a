//! The media type of a body, and the one that a client declares for a file (RFC 9110 §8.3).

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use mime::Mime;

use crate::{fields, ietf, tus};

/// Longest media type that is kept, parameters included, in bytes.
const MAX_LENGTH: usize = 255;

/// URLSession's type for a `POST` that was given none.
const FORM_URLENCODED: &str = "application/x-www-form-urlencoded";

/// Whether the body is of type `expected`, whatever its parameters.
pub fn is(fields: &HeaderMap, expected: &str) -> bool {
    fields::single(fields, &CONTENT_TYPE)
        .is_some_and(|value| essence(value).eq_ignore_ascii_case(expected))
}

/// The type that `Content-Type` declares for the representation, in canonical form. A type that only describes the request, or
/// that nobody chose, declares nothing.
pub fn declared(fields: &HeaderMap) -> Option<String> {
    fields::single(fields, &CONTENT_TYPE)
        .filter(|value| {
            let transport = [
                FORM_URLENCODED,
                ietf::PARTIAL_UPLOAD,
                tus::OFFSET_OCTET_STREAM,
            ];
            !transport
                .iter()
                .any(|of_request| essence(value).eq_ignore_ascii_case(of_request))
        })
        .and_then(parse)
}

/// A media type in canonical form; `None` if it is none, a range such as `image/*`, or too long.
pub fn parse(value: &str) -> Option<String> {
    let value = value.trim();
    if value.len() > MAX_LENGTH || !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return None;
    }
    let media_type: Mime = value.parse().ok()?;
    let is_range = media_type.type_() == mime::STAR || media_type.subtype() == mime::STAR;
    (!is_range).then(|| media_type.to_string())
}

fn essence(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn of(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn parameters_and_case_do_not_matter_to_the_type() {
        for value in [
            "application/partial-upload",
            "Application/Partial-Upload ; a=b",
        ] {
            assert!(is(&of(value), ietf::PARTIAL_UPLOAD), "{value}");
        }
        assert!(!is(
            &of("application/partial-uploads"),
            ietf::PARTIAL_UPLOAD
        ));
        assert!(!is(&HeaderMap::new(), ietf::PARTIAL_UPLOAD));
    }

    #[test]
    fn what_nobody_chose_declares_nothing() {
        assert_eq!(declared(&of("application/x-www-form-urlencoded")), None);
        assert_eq!(
            declared(&of("application/x-www-form-urlencoded; charset=utf-8")),
            None
        );
        assert_eq!(declared(&of("application/offset+octet-stream")), None);
        assert_eq!(declared(&of("Image/HEIC")).as_deref(), Some("image/heic"));
    }

    #[test]
    fn what_is_no_type_is_refused() {
        for value in [
            "",
            "text",
            "image/*",
            "*/*",
            "text/plain\r\nx: y",
            "text/\u{e4}",
            "a/b c",
        ] {
            assert_eq!(parse(value), None, "{value:?}");
        }
        assert_eq!(parse(&format!("a/{}", "b".repeat(254))), None);
        assert_eq!(
            parse("text/plain; charset=UTF-8").as_deref(),
            Some("text/plain; charset=utf-8")
        );
    }
}
