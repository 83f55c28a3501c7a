//! Zip, as `zip1`: APPNOTE 6.3.10 with every choice fixed.
//!
//! - An entry is a local header, then its stored form: method 0, or 8 where the table of forms has
//!   a deflate stream. Flags are 0x0800 (UTF-8 names) and never bit 3: sizes and CRC-32 stand in
//!   front, so no data descriptors.
//! - Version needed is 20, or 45 in a record with a zip64 field. Time is 0, date 0x0021
//!   (1980-01-01).
//! - The central directory says made by 0x031E (Unix, 3.0) and has mode 0100644 or 0100755 in the
//!   external attributes.
//! - zip64 is a function of the numbers alone. If an entry's size or stored size is 0xFFFFFFFF or
//!   more, both of them move to the extra field of both headers. If its offset is, the offset moves
//!   too, in the central directory. The zip64 end records are there if there are 0xFFFF entries or
//!   more, or if the directory's size or offset is 0xFFFFFFFF or more. There are no other extra
//!   fields and no comments.

use super::{Contents, Item, Part, PartKind, stretch_at};
use crate::forms::Form;
use crate::plan::Plan;

/// Prefix sums of both regions.
#[derive(Debug)]
pub(super) struct Table {
    /// Offset of each local header, and at the end that of the central directory.
    local: Box<[u64]>,
    /// Offset of each record of the central directory, and at the end that of the directory's end.
    central: Box<[u64]>,
    len: u64,
}

impl Table {
    pub(super) fn new(contents: &Contents) -> Self {
        let mut local = Vec::with_capacity(contents.len() + 1);
        let mut central = Vec::with_capacity(contents.len() + 1);
        let mut at = 0;
        let mut central_len = 0;
        for item in contents.items() {
            let stored = Stored::of(&item, &contents.plan);
            local.push(at);
            central.push(central_len);
            central_len += central_header_len(&item, &stored, at);
            at += local_header_len(&item, &stored) + stored.size;
        }
        local.push(at);
        central.push(central_len);
        for begin in &mut central {
            *begin += at;
        }
        let mut table = Self {
            local: local.into(),
            central: central.into(),
            len: 0,
        };
        table.len = table.central_end() + table.end_len();
        table
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.local) + size_of_val(&*self.central)
    }

    /// Returns the part that contains the byte at `at`, which is below the length.
    pub(super) fn part_at(&self, contents: &Contents, at: u64, hint: &mut usize) -> Part {
        if at < self.central_begin() {
            let index = stretch_at(&self.local, at, *hint);
            *hint = index;
            let item = contents.item(index);
            let (begin, end) = (self.local[index], self.local[index + 1]);
            let data = begin + local_header_len(&item, &Stored::of(&item, &contents.plan));
            if at < data {
                return Part {
                    kind: PartKind::Header { index },
                    range: begin..data,
                };
            }
            let kind = match item.position {
                Some(position) => PartKind::Blob { position },
                None => PartKind::Document,
            };
            return Part {
                kind,
                range: data..end,
            };
        }
        if at < self.central_end() {
            let index = stretch_at(&self.central, at, *hint);
            *hint = index;
            let range = self.central[index]..self.central[index + 1];
            return Part {
                kind: PartKind::Trailer { index },
                range,
            };
        }
        Part {
            kind: PartKind::Trailer {
                index: contents.len(),
            },
            range: self.central_end()..self.len,
        }
    }

    pub(super) fn append_header(&self, contents: &Contents, index: usize, out: &mut Vec<u8>) {
        let item = contents.item(index);
        append_local_header(&item, &Stored::of(&item, &contents.plan), out);
    }

    /// Appends a trailer: first the entries' records in the central directory, last the end records
    /// together.
    pub(super) fn append_trailer(&self, contents: &Contents, index: usize, out: &mut Vec<u8>) {
        if index == contents.len() {
            return self.append_end(out);
        }
        let item = contents.item(index);
        append_central_header(
            &item,
            &Stored::of(&item, &contents.plan),
            self.local[index],
            out,
        );
    }

    fn append_end(&self, out: &mut Vec<u8>) {
        let entries = (self.local.len() - 1) as u64;
        let (begin, end) = (self.central_begin(), self.central_end());
        if self.has_zip64_end() {
            put_u32(out, 0x0606_4b50);
            put_u64(out, ZIP64_END_LEN - 12);
            put_u16(out, MADE_BY);
            put_u16(out, VERSION_ZIP64);
            put_u32(out, 0);
            put_u32(out, 0);
            put_u64(out, entries);
            put_u64(out, entries);
            put_u64(out, end - begin);
            put_u64(out, begin);

            put_u32(out, 0x0706_4b50);
            put_u32(out, 0);
            put_u64(out, end);
            put_u32(out, 1);
        }
        put_u32(out, 0x0605_4b50);
        put_u16(out, 0);
        put_u16(out, 0);
        put_u16(out, saturated_u16(entries));
        put_u16(out, saturated_u16(entries));
        put_u32(out, saturated_u32(end - begin));
        put_u32(out, saturated_u32(begin));
        put_u16(out, 0);
    }

    fn end_len(&self) -> u64 {
        if self.has_zip64_end() {
            ZIP64_END_LEN + ZIP64_LOCATOR_LEN + END_LEN
        } else {
            END_LEN
        }
    }

    fn has_zip64_end(&self) -> bool {
        (self.local.len() - 1) as u64 >= MAX_U16
            || self.central_begin() >= MAX_U32
            || self.central_end() - self.central_begin() >= MAX_U32
    }

    fn central_begin(&self) -> u64 {
        self.central[0]
    }

    fn central_end(&self) -> u64 {
        self.central[self.central.len() - 1]
    }
}

/// Stored form of an entry's bytes.
struct Stored {
    method: u16,
    size: u64,
    /// True if the sizes need the zip64 field.
    has_zip64_sizes: bool,
}

impl Stored {
    fn of(item: &Item<'_>, plan: &Plan) -> Self {
        let form = item
            .position
            .map_or(Form::Raw, |position| plan.forms().form(position));
        let (method, size) = match form {
            Form::Raw => (0, item.size),
            Form::Deflated(deflated) => (8, deflated.size),
        };
        Self {
            method,
            size,
            has_zip64_sizes: size >= MAX_U32 || item.size >= MAX_U32,
        }
    }
}

fn local_header_len(item: &Item<'_>, stored: &Stored) -> u64 {
    30 + item.name.len() as u64 + if stored.has_zip64_sizes { 4 + 16 } else { 0 }
}

fn central_header_len(item: &Item<'_>, stored: &Stored, offset: u64) -> u64 {
    let extra = central_extra_len(stored, offset);
    46 + item.name.len() as u64 + if extra > 0 { 4 + u64::from(extra) } else { 0 }
}

/// Returns the length of the zip64 field's data in the central directory, 0 without the field.
fn central_extra_len(stored: &Stored, offset: u64) -> u16 {
    let sizes = if stored.has_zip64_sizes { 16 } else { 0 };
    let offset = if offset >= MAX_U32 { 8 } else { 0 };
    sizes + offset
}

fn append_local_header(item: &Item<'_>, stored: &Stored, out: &mut Vec<u8>) {
    put_u32(out, 0x0403_4b50);
    put_u16(
        out,
        if stored.has_zip64_sizes {
            VERSION_ZIP64
        } else {
            VERSION
        },
    );
    append_common_fields(item, stored, out);
    put_u16(out, if stored.has_zip64_sizes { 4 + 16 } else { 0 });
    out.extend_from_slice(item.name.as_bytes());
    if stored.has_zip64_sizes {
        put_u16(out, ZIP64_FIELD);
        put_u16(out, 16);
        put_u64(out, item.size);
        put_u64(out, stored.size);
    }
}

fn append_central_header(item: &Item<'_>, stored: &Stored, offset: u64, out: &mut Vec<u8>) {
    let extra_len = central_extra_len(stored, offset);
    put_u32(out, 0x0201_4b50);
    put_u16(out, MADE_BY);
    put_u16(
        out,
        if extra_len > 0 {
            VERSION_ZIP64
        } else {
            VERSION
        },
    );
    append_common_fields(item, stored, out);
    put_u16(out, if extra_len > 0 { 4 + extra_len } else { 0 });
    put_u16(out, 0); // comment length
    put_u16(out, 0); // disk
    put_u16(out, 0); // internal attributes
    put_u32(
        out,
        if item.executable {
            0o100_755 << 16
        } else {
            0o100_644 << 16
        },
    );
    put_u32(out, saturated_u32(offset));
    out.extend_from_slice(item.name.as_bytes());
    if extra_len > 0 {
        put_u16(out, ZIP64_FIELD);
        put_u16(out, extra_len);
        if stored.has_zip64_sizes {
            put_u64(out, item.size);
            put_u64(out, stored.size);
        }
        if offset >= MAX_U32 {
            put_u64(out, offset);
        }
    }
}

/// Appends the fields from the flags to the length of the name, the same in both headers.
fn append_common_fields(item: &Item<'_>, stored: &Stored, out: &mut Vec<u8>) {
    put_u16(out, 0x0800);
    put_u16(out, stored.method);
    put_u16(out, 0); // time
    put_u16(out, 0x0021); // date
    put_u32(out, item.crc32);
    let shown = |size: u64| {
        if stored.has_zip64_sizes {
            u32::MAX
        } else {
            saturated_u32(size)
        }
    };
    put_u32(out, shown(stored.size));
    put_u32(out, shown(item.size));
    put_u16(
        out,
        u16::try_from(item.name.len()).expect("a path has at most 1,024 bytes"),
    );
}

const VERSION: u16 = 20;
const VERSION_ZIP64: u16 = 45;
const MADE_BY: u16 = 0x031e;
const ZIP64_FIELD: u16 = 1;

const END_LEN: u64 = 22;
const ZIP64_END_LEN: u64 = 56;
const ZIP64_LOCATOR_LEN: u64 = 20;

const MAX_U16: u64 = u16::MAX as u64;
const MAX_U32: u64 = u32::MAX as u64;

fn saturated_u16(number: u64) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn saturated_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn put_u16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}
