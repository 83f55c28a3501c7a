//! Names in zips: UTF-8 in several forms, and code page 437 (APPNOTE, appendix D).

use super::{len_at, u16_at, u32_at};
use crate::unpack::UnpackFault;

/// Reads a name with `/` between its segments.
///
/// Tools that write UTF-8 set a flag, add Info-ZIP's field beside an older form, or (macOS) do
/// neither. A name that is not UTF-8 is in code page 437. Old versions of .NET wrote `\` for `/`;
/// in the name of a file it could not be published anyway.
pub(super) fn decode_name(
    name: &[u8],
    is_flagged: bool,
    extra: &[u8],
) -> Result<String, UnpackFault> {
    let name = match std::str::from_utf8(name) {
        _ if let Some(unicode) = unicode_path(name, extra) => unicode.to_owned(),
        Ok(name) => name.to_owned(),
        Err(_) if is_flagged => return Err(UnpackFault::NameNotUtf8),
        Err(_) => name.iter().map(|byte| of_cp437(*byte)).collect(),
    };
    Ok(match name.contains('\\') {
        true => name.replace('\\', "/"),
        false => name,
    })
}

/// Returns the name in Info-ZIP's field 0x7075, if the field belongs to this name: a version, the
/// name's CRC-32, and the name in UTF-8.
fn unicode_path<'a>(name: &[u8], mut extra: &'a [u8]) -> Option<&'a str> {
    while let Some((head, rest)) = extra.split_at_checked(4) {
        let (data, rest) = rest.split_at_checked(len_at(head, 2))?;
        extra = rest;
        if u16_at(head, 0) == UNICODE_PATH && data.len() > 5 && data[0] == 1 {
            let goes_with_name = u32_at(data, 1) == crc32fast::hash(name);
            return std::str::from_utf8(&data[5..])
                .ok()
                .filter(|_| goes_with_name);
        }
    }
    None
}

fn of_cp437(byte: u8) -> char {
    match byte.checked_sub(128) {
        None => char::from(byte),
        Some(index) => CP437_UPPER_HALF
            .chars()
            .nth(index.into())
            .expect("128 characters"),
    }
}

const UNICODE_PATH: u16 = 0x7075;

const CP437_UPPER_HALF: &str = concat!(
    "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ",
    "áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐",
    "└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀",
    "αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■ ",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_are_read() {
        fn check(name: &[u8], extra: &[u8], expected: &str) {
            assert_eq!(decode_name(name, false, extra).as_deref(), Ok(expected));
        }
        check("Größe/日本".as_bytes(), b"", "Größe/日本");
        check(b"Gr\x94\xe1e", b"", "Größe");
        check(b"a\\b\\c.txt", b"", "a/b/c.txt");
        check(b"d\\", b"", "d/");
        let field = |name: &[u8], unicode: &str| {
            let mut field = vec![0x75, 0x70, 5 + u8::try_from(unicode.len()).unwrap(), 0, 1];
            field.extend(crc32fast::hash(name).to_le_bytes());
            field.extend(unicode.as_bytes());
            field
        };
        check(b"#U65e5", &field(b"#U65e5", "日"), "日");
        check(b"other", &field(b"#U65e5", "日"), "other");
        let behind = [&[0x55, 0x54, 1, 0, 0][..], &field(b"?", "é")].concat();
        check(b"?", &behind, "é");
        assert_eq!(
            decode_name(b"\x94", true, b""),
            Err(UnpackFault::NameNotUtf8)
        );
    }
}
