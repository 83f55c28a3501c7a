//! File names: sanitizes those from the server, and encodes our own for a field.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use reqwest::Url;

/// Maximum length of a name in bytes. File systems take 255, and the part and its record need room
/// for their suffixes.
const LONGEST: usize = 200;

/// Name of a download without any other name.
const FALLBACK: &str = "download";

/// Returns the name for a download: that of `Content-Disposition`, else the end of the URL.
pub(super) fn for_download(content_disposition: Option<&str>, url: &Url) -> String {
    let from_url = || {
        url.path_segments()?
            .rfind(|segment| !segment.is_empty())
            .map(decode)
    };
    content_disposition
        .and_then(file_name)
        .as_deref()
        .and_then(harmless)
        .or_else(|| harmless(&from_url()?))
        .unwrap_or_else(|| FALLBACK.to_owned())
}

/// Returns the last segment of `name` as a harmless file name; `None` if nothing is left.
fn harmless(name: &str) -> Option<String> {
    let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
    let kept: String = last
        .chars()
        .filter(|c| !c.is_control() && !is_invisible(*c))
        .collect();
    let replaced: String = kept
        .chars()
        .map(|c| if "<>:\"|?*".contains(c) { '_' } else { c })
        .collect();
    // A leading dot hides a file, and a leading dash makes it an option of the next command.
    let trimmed = replaced.trim().trim_end_matches(['.', ' ']);
    let visible = match trimmed.chars().next()? {
        '.' | '-' | '~' => format!("_{}", &trimmed[1..]),
        _ => trimmed.to_owned(),
    };
    let stem = visible.split('.').next().unwrap_or(&visible);
    let named = if is_device(stem) {
        format!("_{visible}")
    } else {
        visible
    };
    Some(shortened(&named).into_owned())
}

/// Invisible characters that change the look of a name: directional marks, joiners, the byte order
/// mark.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Returns true for names that Windows gives to devices, with any suffix.
fn is_device(stem: &str) -> bool {
    let upper = stem.trim().to_ascii_uppercase();
    let numbered = upper
        .strip_prefix("COM")
        .or_else(|| upper.strip_prefix("LPT"));
    matches!(upper.as_str(), "CON" | "PRN" | "AUX" | "NUL")
        || numbered.is_some_and(|rest| rest.len() == 1 && rest.as_bytes()[0].is_ascii_digit())
}

/// Cuts a name to [`LONGEST`] in the middle, so that the suffix stays.
fn shortened(name: &str) -> Cow<'_, str> {
    if name.len() <= LONGEST {
        return Cow::Borrowed(name);
    }
    let ending = name.rfind('.').map_or("", |dot| &name[dot..]);
    let ending = if ending.len() <= 20 { ending } else { "" };
    let stem = &name[..name.len() - ending.len()];
    let cut = stem.floor_char_boundary(LONGEST - ending.len());
    Cow::Owned(format!("{}{ending}", &stem[..cut]))
}

/// Returns the file name in a `Content-Disposition` field (RFC 6266): `filename*` if it is
/// readable, else `filename`.
fn file_name(field: &str) -> Option<String> {
    let mut plain = None;
    for (name, value) in parameters(field) {
        if name.eq_ignore_ascii_case("filename*") {
            if let Some(decoded) = extended(&value) {
                return Some(decoded);
            }
        } else if name.eq_ignore_ascii_case("filename") {
            plain.get_or_insert(value);
        }
    }
    plain
}

/// Decodes `UTF-8''percent%20coded` (RFC 8187); other character sets are ignored.
fn extended(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let (charset, _language, coded) = (parts.next()?, parts.next()?, parts.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    percent_decode_str(coded)
        .decode_utf8()
        .ok()
        .map(Cow::into_owned)
}

/// Returns the parameters after the first `;`, without quotes and backslashes.
fn parameters(field: &str) -> Vec<(&str, String)> {
    let mut found = Vec::new();
    let Some((_, mut rest)) = field.split_once(';') else {
        return found;
    };
    while let Some((name, after)) = rest.split_once('=') {
        let after = after.trim_start();
        let (value, remaining) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.push((name.trim_matches([' ', '\t', ';']), value));
        rest = remaining.split_once(';').map_or("", |(_, next)| next);
    }
    found
}

/// Reads to the closing quote; returns the text and the rest.
fn unquote(quoted: &str) -> (String, &str) {
    let mut text = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (text, &quoted[at + 1..]),
            '\\' => text.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => text.push(c),
        }
    }
    (text, "")
}

fn decode(segment: &str) -> String {
    percent_decode_str(segment).decode_utf8_lossy().into_owned()
}

/// Returns the `Content-Disposition` field for a file of this name (RFC 6266 appendix D: both forms
/// if needed).
pub(super) fn content_disposition(name: &str) -> String {
    /// RFC 8187 `attr-char`, beyond letters and digits.
    const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'.')
        .remove(b'_')
        .remove(b'~');
    let is_plain = |c: char| (c.is_ascii_graphic() || c == ' ') && !matches!(c, '"' | '\\' | '%');
    let plain: String = name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    if plain == name {
        format!("attachment; filename=\"{plain}\"")
    } else {
        format!(
            "attachment; filename=\"{plain}\"; filename*=UTF-8''{}",
            utf8_percent_encode(name, EXTENDED)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content_disposition: &str, expected: &str) {
        let url = Url::parse("https://example.org/files/from%20url.bin?x=/y").unwrap();
        assert_eq!(
            for_download(Some(content_disposition), &url),
            expected,
            "{content_disposition}"
        );
    }

    #[test]
    fn the_field_comes_first_and_its_extended_form_before_the_plain_one() {
        check("attachment; filename=\"a.txt\"", "a.txt");
        check("attachment; filename=a.txt", "a.txt");
        check(
            "attachment; filename=\"a.txt\"; filename*=UTF-8''%e2%82%ac.txt",
            "€.txt",
        );
        check(
            "attachment; FileName*=utf-8'en'%c3%a4.txt; filename=\"a.txt\"",
            "ä.txt",
        );
        check(
            "attachment; filename=\"say \\\"hi\\\"; now.txt\"; x=y",
            "say _hi_; now.txt",
        );
        check("inline; x=\"filename=no\"; filename = b.txt ", "b.txt");
        check(
            "attachment; filename*=latin-1''%e4.txt; filename=a.txt",
            "a.txt",
        );
        check("attachment; filename*=UTF-8''%ff; filename=a.txt", "a.txt");
    }

    #[test]
    fn the_url_is_next() {
        for nothing in [
            "",
            "attachment",
            "attachment; filename=",
            "attachment; filename=\"/\"",
            "attachment; filename=\"..\"",
            ";=;=",
        ] {
            check(nothing, "from url.bin");
        }
        let name = |url: &str| for_download(None, &Url::parse(url).unwrap());
        assert_eq!(name("https://example.org/a/b/"), "b");
        assert_eq!(
            name("https://example.org/a/..%2f..%2fetc%2fpasswd"),
            "passwd"
        );
        assert_eq!(name("https://example.org/"), "download");
    }

    #[test]
    fn no_name_leaves_the_directory_or_hides() {
        check("attachment; filename=\"../../etc/passwd\"", "passwd");
        check(
            "attachment; filename=\"C:\\\\Windows\\\\evil.exe\"",
            "evil.exe",
        );
        check("attachment; filename=\".bashrc\"", "_bashrc");
        check("attachment; filename=\"-rf\"", "_rf");
        check("attachment; filename=\"a\u{202e}gpj.exe\"", "agpj.exe");
        check("attachment; filename=\"nul.txt\"", "_nul.txt");
        check("attachment; filename=\"com1\"", "_com1");
        check("attachment; filename=\"trailing. . \"", "trailing");
        check("attachment; filename=\"a:b|c?.txt\"", "a_b_c_.txt");
    }

    #[test]
    fn long_names_keep_their_ending() {
        let name = harmless(&format!("{}.jpeg", "ä".repeat(300))).unwrap();
        assert!(name.len() <= LONGEST && name.ends_with("ä.jpeg"), "{name}");
        let name = harmless(&format!("a.{}", "b".repeat(300))).unwrap();
        assert_eq!(name.len(), LONGEST);
    }

    #[test]
    fn every_harmless_name_is_one_plain_component() {
        use std::path::{Component, Path};
        let pieces = [
            "", ".", "..", "/", "\\", "a", " ", "\0", "\u{202e}", "~", "-", "con", "é", ":",
        ];
        for first in pieces {
            for second in pieces {
                for third in pieces {
                    let name = format!("{first}{second}{third}");
                    let Some(safe) = harmless(&name) else {
                        continue;
                    };
                    let parts: Vec<_> = Path::new(&safe).components().collect();
                    assert!(
                        matches!(parts[..], [Component::Normal(part)] if part == safe.as_str()),
                        "{name:?} -> {safe:?}"
                    );
                    assert!(!safe.starts_with(['.', '-', '~']), "{name:?} -> {safe:?}");
                }
            }
        }
    }

    #[test]
    fn a_disposition_written_is_the_name_read() {
        for name in [
            "a.txt",
            "with space",
            "ünï.txt",
            "quote\".txt",
            "back\\slash",
            "100%",
            "semi;colon='x'",
        ] {
            assert_eq!(file_name(&content_disposition(name)).as_deref(), Some(name));
        }
    }
}
