//! Tar, as `tar1`: POSIX ustar, with pax records for values beyond ustar.
//!
//! - A path of at most 100 bytes is the name; a longer one is split at the first slash that leaves
//!   at most 100 bytes behind it, if the prefix then has at most 155. Sizes up to 8 GiB − 1 are 11
//!   octal digits.
//! - Otherwise one pax header comes first, named `././@PaxHeader`, with `path` and `size` records
//!   as far as they are needed, in this order. The ustar header that follows has the path's first
//!   bytes (at most 100, whole characters) or a size of 0, as GNU tar and Python write it.
//! - Type 0, mode 0644 or 0755, time 0, owner and group 0 without names, device numbers 0.
//! - Contents are padded to 512 bytes with zeros. The archive ends with exactly 1,024 zero bytes.

use std::fmt::Write as _;

use super::{Contents, Item, Part, PartKind, stretch_at};

/// Prefix sums.
#[derive(Debug)]
pub(super) struct Table {
    /// Offset of each entry, and at the end that of the final zeros.
    begins: Box<[u64]>,
}

impl Table {
    pub(super) fn new(contents: &Contents) -> Self {
        let mut begins = Vec::with_capacity(contents.len() + 1);
        let mut at = 0;
        for item in contents.items() {
            begins.push(at);
            at += header_len(&item) + padded(item.size);
        }
        begins.push(at);
        Self {
            begins: begins.into(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.begins[self.begins.len() - 1] + END_LEN as u64
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.begins)
    }

    /// Returns the part that contains the byte at `at`, which is below the length.
    pub(super) fn part_at(&self, contents: &Contents, at: u64, hint: &mut usize) -> Part {
        let end = self.len() - END_LEN as u64;
        if at >= end {
            return Part {
                kind: PartKind::Trailer { index: 0 },
                range: end..self.len(),
            };
        }
        let index = stretch_at(&self.begins, at, *hint);
        *hint = index;
        let item = contents.item(index);
        let begin = self.begins[index];
        let data = begin + header_len(&item);
        if at < data {
            return Part {
                kind: PartKind::Header { index },
                range: begin..data,
            };
        }
        let padding = data + item.size;
        if at < padding {
            let kind = match item.position {
                Some(position) => PartKind::Blob { position },
                None => PartKind::Document,
            };
            return Part {
                kind,
                range: data..padding,
            };
        }
        let end = self.begins[index + 1];
        Part {
            kind: PartKind::Padding,
            range: padding..end,
        }
    }

    pub(super) fn append_header(&self, contents: &Contents, index: usize, out: &mut Vec<u8>) {
        let item = contents.item(index);
        let records = pax_records(&item);
        if !records.is_empty() {
            let (prefix, size) = ("", records.len() as u64);
            append_ustar_header(
                &Ustar {
                    prefix,
                    name: PAX_NAME,
                    size,
                    executable: false,
                    kind: b'x',
                },
                out,
            );
            out.extend_from_slice(records.as_bytes());
            out.resize(out.len() + padding(records.len()), 0);
        }
        let (prefix, name) = split_path(item.name).unwrap_or_else(|| ("", beginning(item.name)));
        let size = if item.size <= MAX_USTAR_SIZE {
            item.size
        } else {
            0
        };
        append_ustar_header(
            &Ustar {
                prefix,
                name,
                size,
                executable: item.executable,
                kind: b'0',
            },
            out,
        );
    }

    pub(super) fn append_trailer(&self, out: &mut Vec<u8>) {
        out.resize(out.len() + END_LEN, 0);
    }
}

fn header_len(item: &Item<'_>) -> u64 {
    let records = pax_records(item).len();
    let pax = if records == 0 {
        0
    } else {
        BLOCK + records + padding(records)
    };
    (pax + BLOCK) as u64
}

/// Writes the pax records for values of an entry beyond ustar; empty if there are none.
fn pax_records(item: &Item<'_>) -> String {
    let mut records = String::new();
    if split_path(item.name).is_none() {
        push_record(&mut records, "path", item.name);
    }
    if item.size > MAX_USTAR_SIZE {
        push_record(&mut records, "size", &item.size.to_string());
    }
    records
}

/// Appends `LENGTH KEY=VALUE` and a line feed. The length includes itself.
fn push_record(records: &mut String, key: &str, value: &str) {
    let others = " =\n".len() + key.len() + value.len();
    let digits = |number: usize| number.to_string().len();
    let mut len = others + digits(others);
    // One more digit if counting the digits made the number longer.
    len = others + digits(len);
    writeln!(records, "{len} {key}={value}").expect("writing to a string does not fail");
}

/// Splits a path into the prefix and the name of a ustar header.
fn split_path(path: &str) -> Option<(&str, &str)> {
    if path.len() <= NAME_LEN {
        return Some(("", path));
    }
    // The slash belongs to neither part.
    let from = path.len() - NAME_LEN - 1;
    let slash = from
        + path.as_bytes()[from..]
            .iter()
            .position(|byte| *byte == b'/')?;
    (slash <= PREFIX_LEN).then(|| (&path[..slash], &path[slash + 1..]))
}

/// Returns as many complete characters as fit into a name field.
fn beginning(path: &str) -> &str {
    &path[..path.floor_char_boundary(NAME_LEN)]
}

struct Ustar<'a> {
    prefix: &'a str,
    name: &'a str,
    size: u64,
    executable: bool,
    kind: u8,
}

fn append_ustar_header(ustar: &Ustar<'_>, out: &mut Vec<u8>) {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, ustar.name.as_bytes());
    put(
        100,
        if ustar.executable {
            b"0000755\0"
        } else {
            b"0000644\0"
        },
    );
    put(108, b"0000000\0"); // owner
    put(116, b"0000000\0"); // group
    put(124, format!("{:011o}\0", ustar.size).as_bytes());
    put(136, b"00000000000\0"); // time
    put(148, b"        "); // counted as spaces in the checksum
    put(156, &[ustar.kind]);
    put(257, b"ustar\x0000");
    put(329, b"0000000\0"); // device, major
    put(337, b"0000000\0"); // device, minor
    put(345, ustar.prefix.as_bytes());
    let checksum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    out.extend_from_slice(&header);
}

fn padded(size: u64) -> u64 {
    size.next_multiple_of(BLOCK as u64)
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(BLOCK) - len
}

const BLOCK: usize = 512;
const END_LEN: usize = 1024;
const NAME_LEN: usize = 100;
const PREFIX_LEN: usize = 155;
const MAX_USTAR_SIZE: u64 = 0o77_777_777_777;
const PAX_NAME: &str = "././@PaxHeader";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_itself() {
        fn check(value_len: usize, expected: usize) {
            let mut record = String::new();
            push_record(&mut record, "path", &"v".repeat(value_len));
            assert_eq!(record.len(), expected);
            assert_eq!(record.split(' ').next(), Some(&*expected.to_string()));
        }
        check(1, 9);
        check(2, 11);
        check(89, 98);
        check(90, 99);
        check(91, 101);
        check(92, 102);
        check(988, 998);
        check(989, 999);
        check(990, 1001);
    }

    #[test]
    fn paths_are_split_at_the_first_slash_that_will_do() {
        let long =
            |first: usize, second: usize| format!("{}/{}", "d".repeat(first), "n".repeat(second));
        assert_eq!(split_path(&"n".repeat(100)), Some(("", &*"n".repeat(100))));
        assert_eq!(split_path(&"n".repeat(101)), None);
        assert_eq!(
            split_path(&long(155, 100)),
            Some((&*"d".repeat(155), &*"n".repeat(100)))
        );
        assert_eq!(split_path(&long(156, 100)), None);
        assert_eq!(split_path(&long(155, 101)), None);
        let path = format!("a/b/{}", "n".repeat(98));
        assert_eq!(split_path(&path), Some(("a", &path[2..])));
    }
}
