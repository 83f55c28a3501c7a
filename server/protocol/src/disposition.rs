//! File names in `Content-Disposition`: reads a client's suggestion, writes the name of a download
//! (RFC 6266, RFC 8187).

use std::borrow::Cow;

use http::header::{CONTENT_DISPOSITION, HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use crate::fields;

/// Maximum length of a name in bytes: that of a directory entry on common file systems.
const MAX_NAME: usize = 255;

/// Requested treatment of a download by a browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Save the file.
    Attachment,
    /// Show the file if possible.
    Inline,
}

/// Returns the sanitised name that `Content-Disposition` suggests. `filename*` takes precedence
/// over `filename` (RFC 6266 §4.3).
pub fn file_name(fields: &HeaderMap) -> Option<String> {
    let value = fields::combined(fields, &CONTENT_DISPOSITION)?;
    let parameters = parameters_with(&text(&value), quoted_string)?;
    named(&parameters, "filename*")
        .and_then(extended)
        .and_then(|name| sanitised(&name))
        .or_else(|| sanitised(named(&parameters, "filename")?))
}

/// Decodes a `filename`: raw UTF-8 from browsers, ISO 8859-1 from older clients.
fn text(value: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(value.iter().copied().map(char::from).collect()),
    }
}

fn named<'a>(parameters: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    parameters
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
        .map(|(_, value)| value.as_str())
}

/// Returns the original file name that `Content-Disposition` gives a part of a form, not sanitised;
/// `None` if the part is no file. The name is empty if no file was chosen in a browser's field.
///
/// Browsers write `%22`, `%0D` and `%0A` for a quote and line breaks, and escape nothing else
/// (WHATWG HTML, multipart/form-data). Other clients write a backslash before a quote. Any other
/// backslash belongs to a Windows path.
pub fn form_file_name(fields: &HeaderMap) -> Option<String> {
    let value = fields.get(CONTENT_DISPOSITION)?.as_bytes();
    let text = text(value);
    let parameters = parameters_with(&text, form_string)?;
    named(&parameters, "filename*")
        .and_then(extended)
        .or_else(|| named(&parameters, "filename").map(unescaped))
}

fn unescaped(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..at]);
        let (own, after) = match rest.get(at..at + 3) {
            Some("%22") => ('"', 3),
            Some("%0D" | "%0d") => ('\r', 3),
            Some("%0A" | "%0a") => ('\n', 3),
            _ => ('%', 1),
        };
        plain.push(own);
        rest = &rest[at + after..];
    }
    plain.push_str(rest);
    plain
}

/// Returns the last segment of a path in any notation, without control and direction characters, at
/// most 255 bytes long; `None` if no usable name remains.
pub fn sanitised(name: &str) -> Option<String> {
    let segment = name.rsplit(['/', '\\']).next()?;
    let plain: String = segment.chars().filter(|own| !is_invisible(*own)).collect();
    let trimmed = plain.trim();
    if matches!(trimmed, "" | "." | "..") {
        return None;
    }
    Some(bounded(trimmed))
}

/// Writes the field's value for a download under `name`: an ASCII form that every client reads, and
/// the exact name if it differs (RFC 6266 §5, Appendix D).
pub fn write(disposition: Disposition, name: &str) -> HeaderValue {
    // RFC 8187 §3.2.1, attr-char.
    const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
        .remove(b'!')
        .remove(b'#')
        .remove(b'$')
        .remove(b'&')
        .remove(b'+')
        .remove(b'-')
        .remove(b'.')
        .remove(b'^')
        .remove(b'_')
        .remove(b'`')
        .remove(b'|')
        .remove(b'~');
    let kind = match disposition {
        Disposition::Attachment => "attachment",
        Disposition::Inline => "inline",
    };
    let Some(name) = sanitised(name) else {
        return HeaderValue::from_static(kind);
    };
    // Clients read percent signs and backslashes in different ways, so the ASCII form has neither.
    let ascii: String = name
        .chars()
        .map(|own| match own {
            '"' | '\\' | '%' => '_',
            ' '..='~' => own,
            _ => '_',
        })
        .collect();
    let value = if ascii == name {
        format!("{kind}; filename=\"{ascii}\"")
    } else {
        let exact = utf8_percent_encode(&name, ENCODED);
        format!("{kind}; filename=\"{ascii}\"; filename*=UTF-8''{exact}")
    };
    HeaderValue::try_from(value).expect("printable ASCII is a field value")
}

/// Returns true for control characters and those that reverse the direction of text: `gpj.exe` must
/// not be shown as `exe.jpg`.
fn is_invisible(own: char) -> bool {
    own.is_control()
        || matches!(own, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Shortens the stem and keeps the extension.
fn bounded(name: &str) -> String {
    if name.len() <= MAX_NAME {
        return name.to_owned();
    }
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 && name.len() - dot <= 32 => name.split_at(dot),
        _ => (name, ""),
    };
    let end = stem.floor_char_boundary(MAX_NAME - extension.len());
    format!("{}{extension}", stem[..end].trim_end())
}

/// Reads the rest of a quoted string: returns the unescaped text, and the input behind it.
type ReadQuoted = fn(&str) -> Option<(String, &str)>;

/// Reads the parameters after the disposition type; `None` if the field is malformed.
fn parameters_with(value: &str, read_quoted: ReadQuoted) -> Option<Vec<(String, String)>> {
    let (kind, mut rest) = value.split_once(';').unwrap_or((value, ""));
    if !is_token(kind.trim()) {
        return None;
    }
    let mut parameters = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Some(parameters);
        }
        let (name, after) = rest.split_once('=')?;
        let name = name.trim();
        if !is_token(name) {
            return None;
        }
        let after = after.trim_start();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => read_quoted(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after[..end].trim_end().to_owned(), &after[end..])
            }
        };
        parameters.push((name.to_owned(), value));
        rest = after.trim_start();
        if !rest.is_empty() && !rest.starts_with(';') {
            return None;
        }
    }
}

/// Reads a quoted string of RFC 9110 §5.6.4: a backslash escapes any character.
fn quoted_string(text: &str) -> Option<(String, &str)> {
    unquoted(text, |_| true)
}

/// Reads a quoted string of a form: a backslash escapes a quote or a backslash, and is literal
/// otherwise.
fn form_string(text: &str) -> Option<(String, &str)> {
    unquoted(text, |next| matches!(next, '"' | '\\'))
}

fn unquoted(text: &str, is_escapable: fn(char) -> bool) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, own)) = characters.next() {
        match own {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => {
                let escaped = characters.next_if(|(_, next)| is_escapable(*next));
                value.push(escaped.map_or(own, |(_, next)| next));
            }
            _ => value.push(own),
        }
    }
    None
}

/// Reads an extended value: charset, language, and percent-encoded bytes (RFC 8187 §3.2).
fn extended(value: &str) -> Option<String> {
    let (charset, rest) = value.split_once('\'')?;
    let (_language, encoded) = rest.split_once('\'')?;
    let bytes: Cow<'_, [u8]> = percent_decode(encoded.as_bytes()).into();
    if charset.eq_ignore_ascii_case("UTF-8") {
        String::from_utf8(bytes.into_owned()).ok()
    } else if charset.eq_ignore_ascii_case("ISO-8859-1") {
        Some(bytes.iter().copied().map(char::from).collect())
    } else {
        None
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(value: &str, expected: Option<&str>) {
        let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let fields = HeaderMap::from_iter([(CONTENT_DISPOSITION, value)]);
        assert_eq!(file_name(&fields).as_deref(), expected);
    }

    #[test]
    fn names_are_read() {
        check("attachment", None);
        check("attachment; filename=a.txt", Some("a.txt"));
        check(r#"inline; filename="a b.txt""#, Some("a b.txt"));
        check(r#"inline;filename = "a\"b;.txt" ; x=y"#, Some("a\"b;.txt"));
        check(r#"inline; FileName="ä.txt""#, Some("ä.txt"));
        check(
            r#"inline; filename="x"; filename*=UTF-8''%e2%82%ac.txt"#,
            Some("€.txt"),
        );
        check("inline; filename*=iso-8859-1'en'%A3.txt", Some("£.txt"));
        check(r#"inline; filename="x"; filename*=koi8-r''%A3"#, Some("x"));
        check(r#"inline; filename="x"; filename*=UTF-8''%ff"#, Some("x"));
    }

    #[test]
    fn names_in_forms_are_read_as_browsers_and_tools_write_them() {
        for (value, expected) in [
            (r#"form-data; name="f"; filename="a.txt""#, Some("a.txt")),
            (
                r#"form-data; name="f"; filename="say %22hi%22%0D%0A.txt""#,
                Some("say \"hi\"\r\n.txt"),
            ),
            (
                r#"form-data; name="f"; filename="say \"hi\".txt""#,
                Some("say \"hi\".txt"),
            ),
            // Nothing else is escaped, and a percent sign is literal.
            (
                r#"form-data; filename="100%25 %41 %2.txt""#,
                Some("100%25 %41 %2.txt"),
            ),
            (r#"form-data; filename="%""#, Some("%")),
            (
                r#"form-data; filename="C:\dir\new.txt""#,
                Some(r"C:\dir\new.txt"),
            ),
            (
                r#"form-data; filename="C:\\dir\\a.txt""#,
                Some(r"C:\dir\a.txt"),
            ),
            (r#"form-data; filename="a;b.txt"; name=x"#, Some("a;b.txt")),
            (
                r#"form-data; filename="x"; filename*=UTF-8''%e2%82%ac.txt"#,
                Some("€.txt"),
            ),
            (r#"form-data; filename=plain.txt"#, Some("plain.txt")),
            (r#"form-data; filename="""#, Some("")),
            (r#"form-data; name="filename""#, None),
            ("form-data", None),
            (r#"form-data; filename="a"#, None),
        ] {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            let fields = HeaderMap::from_iter([(CONTENT_DISPOSITION, value.clone())]);
            assert_eq!(form_file_name(&fields).as_deref(), expected, "{value:?}");
        }
        let latin1 = HeaderValue::from_bytes(b"form-data; filename=\"Gr\xfc\xdfe.txt\"").unwrap();
        let fields = HeaderMap::from_iter([(CONTENT_DISPOSITION, latin1)]);
        assert_eq!(form_file_name(&fields).as_deref(), Some("Grüße.txt"));
    }

    #[test]
    fn malformed_fields_suggest_nothing() {
        for value in [
            "",
            "; filename=a",
            "inline; filename",
            r#"inline; filename="a"#,
            r#"inline; filename="a" b"#,
            r#"inline; file name="a""#,
            r#"inline; filename="a\"#,
        ] {
            check(value, None);
        }
    }

    #[test]
    fn names_lose_paths_and_invisible_characters() {
        check(r#"inline; filename="../../etc/passwd""#, Some("passwd"));
        check(r#"inline; filename="C:\\temp\\a.txt""#, Some("a.txt"));
        check("inline; filename*=UTF-8''a%0d%0ab%00.txt", Some("ab.txt"));
        check(
            "inline; filename*=UTF-8''a%E2%80%AEgpj.exe",
            Some("agpj.exe"),
        );
        for name in ["..", ".", "", " ", "a/", "a\\"] {
            assert_eq!(sanitised(name), None, "{name:?}");
        }
        assert_eq!(sanitised(".profile").as_deref(), Some(".profile"));
    }

    #[test]
    fn long_names_keep_their_extension() {
        let name = format!("{}.heic", "ä".repeat(300));
        let short = sanitised(&name).unwrap();
        assert!(
            short.len() <= MAX_NAME && short.ends_with("ä.heic"),
            "{short}"
        );
        assert_eq!(sanitised(&"a".repeat(300)).unwrap().len(), MAX_NAME);
    }

    #[test]
    fn names_are_written() {
        assert_eq!(
            write(Disposition::Attachment, "a b.txt"),
            r#"attachment; filename="a b.txt""#
        );
        assert_eq!(
            write(Disposition::Inline, "ä\"%.txt"),
            r#"inline; filename="___.txt"; filename*=UTF-8''%C3%A4%22%25.txt"#
        );
        assert_eq!(write(Disposition::Attachment, ".."), "attachment");
    }

    proptest! {
        #[test]
        fn a_written_name_is_read_again(name in "\\PC{1,400}") {
            let fields = HeaderMap::from_iter([(
                CONTENT_DISPOSITION,
                write(Disposition::Attachment, &name),
            )]);
            prop_assert_eq!(file_name(&fields), sanitised(&name));
        }

        #[test]
        fn a_name_comes_out_of_a_form_as_it_went_in(name in "\\PC{0,40}[\"\r\n]{0,3}\\PC{0,40}") {
            // The browsers' form cannot distinguish these.
            prop_assume!(!name.contains(['%', '\\']));
            let escaped = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
            let value = format!("form-data; name=\"f\"; filename=\"{escaped}\"");
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            let fields = HeaderMap::from_iter([(CONTENT_DISPOSITION, value)]);
            prop_assert_eq!(form_file_name(&fields), Some(name));
        }

        #[test]
        fn a_sanitised_name_is_one_safe_segment(name in any::<String>()) {
            if let Some(safe) = sanitised(&name) {
                prop_assert!(!safe.contains(['/', '\\']) && !safe.chars().any(char::is_control));
                prop_assert!(safe.len() <= MAX_NAME && !matches!(safe.as_str(), "" | "." | ".."));
                prop_assert_eq!(sanitised(&safe), Some(safe));
            }
        }
    }
}
