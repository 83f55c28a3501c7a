//! Media types of bodies, and those that clients declare for files (RFC 9110 §8.3).

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use mime::Mime;

use crate::fields;

/// The media type of an append, from interop 6 on.
pub const PARTIAL_UPLOAD: &str = "application/partial-upload";

/// The media type of a body that brings bytes.
pub const OFFSET_OCTET_STREAM: &str = "application/offset+octet-stream";

/// Maximum length of a stored media type, parameters included, in bytes.
const MAX_LENGTH: usize = 255;

/// URLSession's type for a `POST` without one.
const FORM_URLENCODED: &str = "application/x-www-form-urlencoded";

/// Returns true if the body is of type `expected`, whatever its parameters.
pub fn is(fields: &HeaderMap, expected: &str) -> bool {
    fields::single(fields, &CONTENT_TYPE)
        .is_some_and(|value| essence(value).eq_ignore_ascii_case(expected))
}

/// Returns the type that `Content-Type` declares for the representation, in canonical form. Types
/// that describe only the request, and defaults of libraries, declare nothing.
pub fn declared(fields: &HeaderMap) -> Option<String> {
    fields::single(fields, &CONTENT_TYPE)
        .filter(|value| {
            let transport = [FORM_URLENCODED, PARTIAL_UPLOAD, OFFSET_OCTET_STREAM];
            !transport
                .iter()
                .any(|of_request| essence(value).eq_ignore_ascii_case(of_request))
        })
        .and_then(parse)
}

/// Returns the type for the extension of a file name, for files and for files of packs.
pub fn of_name(name: &str) -> Option<&'static str> {
    let (stem, extension) = name.rsplit('/').next()?.rsplit_once('.')?;
    // `.profile` has no extension.
    if stem.is_empty() {
        return None;
    }
    OF_EXTENSIONS
        .iter()
        .find(|(own, _)| own.eq_ignore_ascii_case(extension))
        .map(|(_, media_type)| *media_type)
        .or_else(|| mime_guess::from_ext(extension).first_raw())
}

/// Types that `mime_guess` lacks, or has in another form than IANA, WHATWG or Apple.
const OF_EXTENSIONS: [(&str, &str); 27] = [
    ("aab", "application/octet-stream"),
    ("amr", "audio/amr"),
    ("car", "application/octet-stream"),
    ("cbor", "application/cbor"),
    ("hif", "image/heif"),
    ("ktx2", "image/ktx2"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("mjs", "text/javascript"),
    ("mobileconfig", "application/x-apple-aspen-config"),
    ("msgpack", "application/vnd.msgpack"),
    ("mvt", "application/vnd.mapbox-vector-tile"),
    ("obj", "model/obj"),
    ("otf", "font/otf"),
    ("plist", "application/x-plist"),
    ("pmtiles", "application/vnd.pmtiles"),
    ("reality", "model/vnd.reality"),
    ("sqlite", "application/vnd.sqlite3"),
    ("stl", "model/stl"),
    ("toml", "application/toml"),
    ("ts", "video/mp2t"),
    ("usdz", "model/vnd.usdz+zip"),
    ("vcf", "text/vcard"),
    ("xmp", "application/rdf+xml"),
    ("yaml", "application/yaml"),
    ("yml", "application/yaml"),
    ("zst", "application/zstd"),
];

/// Returns a media type in canonical form; `None` if the text is no media type, a range such as
/// `image/*`, or too long.
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
            assert!(is(&of(value), PARTIAL_UPLOAD), "{value}");
        }
        assert!(!is(&of("application/partial-uploads"), PARTIAL_UPLOAD));
        assert!(!is(&HeaderMap::new(), PARTIAL_UPLOAD));
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
    fn a_name_tells_its_type() {
        for (name, expected) in [
            ("IMG_0001.HEIC", Some("image/heic")),
            ("a/b.heif", Some("image/heif")),
            ("a.mov", Some("video/quicktime")),
            ("a.m4a", Some("audio/mp4")),
            ("a.avif", Some("image/avif")),
            ("a.wasm", Some("application/wasm")),
            ("a.js", Some("text/javascript")),
            ("a.mjs", Some("text/javascript")),
            ("a.webmanifest", Some("application/manifest+json")),
            ("a.json", Some("application/json")),
            ("a.usdz", Some("model/vnd.usdz+zip")),
            ("a.mobileconfig", Some("application/x-apple-aspen-config")),
            ("Assets.car", Some("application/octet-stream")),
            ("a.ipa", Some("application/x-itunes-ipa")),
            ("a.tar.gz", Some("application/gzip")),
            ("a.json.zst", Some("application/zstd")),
            ("a.br", None),
            ("a.aar", None),
            ("a", None),
            ("a.", None),
            ("", None),
            (".json", None),
            ("a.json/b", None),
        ] {
            assert_eq!(of_name(name), expected, "{name}");
        }
        for (extension, media_type) in OF_EXTENSIONS {
            assert_eq!(
                parse(media_type).as_deref(),
                Some(media_type),
                "{extension}"
            );
        }
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
