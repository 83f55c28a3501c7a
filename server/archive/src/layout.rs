//! Bytes of an archive, computed without holding any of them.
//!
//! A [`Layout`] is computed from a [`Plan`]. It has the exact length of the archive, and finds the
//! bytes of any range by one binary search over prefix sums. It takes 16 bytes an entry for a zip
//! and 8 for a tar; headers and the central directory are written again whenever a slice needs
//! them. A slice is a sequence of [`Segment`]s: literal bytes to send, and ranges of stored
//! contents to read.

mod tar;
mod zip;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::catalogue::Catalogue;
use crate::diff::Diff;
use crate::document::{DIFF_DOCUMENT_PATH, DiffDocument};
use crate::forms::Form;
use crate::plan::{ArchiveFormat, ArchiveTag, Plan};
use crate::sha256_digest::Sha256Digest;

/// Layout of one archive. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Layout {
    contents: Arc<Contents>,
    table: Arc<Table>,
    tag: ArchiveTag,
    len: u64,
}

/// A piece of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Literal bytes, about 64 KiB at most.
    Literal(Bytes),
    /// A range of a stored content.
    Blob(BlobSlice),
}

/// A range of the stored form of an entry's content; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSlice {
    /// Position of the entry in the target's catalogue.
    pub position: u32,
    /// SHA-256 of the content itself, whatever its form.
    pub sha256: Sha256Digest,
    pub form: Form,
    /// Range in bytes of the form.
    pub range: Range<u64>,
}

/// Segments of a range, made one by one.
#[derive(Debug)]
pub struct Segments {
    layout: Layout,
    at: u64,
    end: u64,
    /// Index of the last found part; the next one is probably there or directly behind.
    hint: usize,
}

impl Layout {
    /// Lays an archive out.
    ///
    /// Takes time in proportion to the entries, and with a base to those of both trees: some
    /// milliseconds for ten thousand.
    pub fn new(format: ArchiveFormat, plan: Plan) -> Self {
        let diff = Diff::new(
            plan.target().tree(),
            plan.base().map(|base| base.tree()),
            plan.need(),
        );
        let document = DiffDocument::new(&plan, &diff);
        let tag = plan.tag(format);
        let contents = Contents {
            plan,
            diff,
            document,
        };
        let table = match format {
            ArchiveFormat::Zip => Table::Zip(zip::Table::new(&contents)),
            ArchiveFormat::Tar => Table::Tar(tar::Table::new(&contents)),
        };
        let len = table.len();
        Self {
            contents: Arc::new(contents),
            table: Arc::new(table),
            tag,
            len,
        }
    }

    /// Returns the length of the archive, in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no archive is empty")]
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn format(&self) -> ArchiveFormat {
        match &*self.table {
            Table::Zip(_) => ArchiveFormat::Zip,
            Table::Tar(_) => ArchiveFormat::Tar,
        }
    }

    /// Returns the same tag as [`Plan::tag`].
    pub fn tag(&self) -> &ArchiveTag {
        &self.tag
    }

    pub fn plan(&self) -> &Plan {
        &self.contents.plan
    }

    pub fn diff(&self) -> &Diff {
        &self.contents.diff
    }

    /// Returns the segments of a range of the archive, up to its end.
    pub fn slice(&self, range: Range<u64>) -> Segments {
        Segments {
            layout: self.clone(),
            at: range.start,
            end: range.end.min(self.len),
            hint: 0,
        }
    }

    /// Returns the approximate memory of the layout without its catalogues and forms, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Contents>()
            + self.contents.plan.need().memory()
            + self.contents.diff.memory()
            + self.contents.document.memory()
            + match &*self.table {
                Table::Zip(table) => table.memory(),
                Table::Tar(table) => table.memory(),
            }
    }
}

impl Iterator for Segments {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        let contents = &*self.layout.contents;
        let mut literal = Vec::new();
        while self.at < self.end && literal.len() < LITERAL_BYTES {
            let part = match &*self.layout.table {
                Table::Zip(table) => table.part_at(contents, self.at, &mut self.hint),
                Table::Tar(table) => table.part_at(contents, self.at, &mut self.hint),
            };
            let range = self.at - part.range.start..self.end.min(part.range.end) - part.range.start;
            match part.kind {
                PartKind::Blob { position } if literal.is_empty() => {
                    self.at = part.range.start + range.end;
                    let sha256 = contents.plan.target().tree().sha256(position);
                    let form = match &*self.layout.table {
                        Table::Zip(_) => contents.plan.forms().form(position),
                        Table::Tar(_) => Form::Raw,
                    };
                    return Some(Segment::Blob(BlobSlice {
                        position,
                        sha256,
                        form,
                        range,
                    }));
                }
                PartKind::Blob { .. } => break,
                PartKind::Document => {
                    let range = range.start..range.end.min(range.start + LITERAL_BYTES as u64);
                    self.at = part.range.start + range.end;
                    contents
                        .document
                        .append(&contents.plan, &contents.diff, range, &mut literal);
                }
                PartKind::Padding => {
                    self.at = part.range.start + range.end;
                    literal.resize(literal.len() + short(range.end - range.start), 0);
                }
                PartKind::Header { index } => {
                    self.at = part.range.start + range.end;
                    append_cut(range, &mut literal, |out| match &*self.layout.table {
                        Table::Zip(table) => table.append_header(contents, index, out),
                        Table::Tar(table) => table.append_header(contents, index, out),
                    });
                }
                PartKind::Trailer { index } => {
                    self.at = part.range.start + range.end;
                    append_cut(range, &mut literal, |out| match &*self.layout.table {
                        Table::Zip(table) => table.append_trailer(contents, index, out),
                        Table::Tar(table) => table.append_trailer(out),
                    });
                }
            }
        }
        (!literal.is_empty()).then(|| Segment::Literal(literal.into()))
    }
}

/// Appends the part of `write`'s output that lies in `range`.
fn append_cut(range: Range<u64>, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    write(out);
    out.truncate(begin + short(range.end));
    out.drain(begin..begin + short(range.start));
}

fn short(len: u64) -> usize {
    usize::try_from(len).expect("headers, trailers and padding are short")
}

/// Length from which a literal is not extended, in bytes.
const LITERAL_BYTES: usize = 64 * 1024;

/// Contents of an archive, in any format.
#[derive(Debug)]
struct Contents {
    plan: Plan,
    diff: Diff,
    document: DiffDocument,
}

/// An entry of an archive, the document or a file.
#[derive(Debug, Clone, Copy)]
struct Item<'a> {
    name: &'a str,
    size: u64,
    crc32: u32,
    executable: bool,
    /// Position of a file; the document has none.
    position: Option<u32>,
}

impl Contents {
    /// Returns the number of entries, including the document.
    fn len(&self) -> usize {
        self.plan.need().len() as usize + 1
    }

    /// Returns an entry: the document is entry 0, the files follow in the order of the catalogue.
    fn item(&self, index: usize) -> Item<'_> {
        let Some(rank) = index.checked_sub(1) else {
            return self.document_item();
        };
        let rank = u32::try_from(rank).expect("no more entries than a tree has");
        let position = self
            .plan
            .need()
            .nth(rank)
            .expect("an entry of this archive");
        file_item(self.plan.target(), position)
    }

    /// Iterates over all entries in order, faster than one by one.
    fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let files = self
            .plan
            .need()
            .positions()
            .map(|position| file_item(self.plan.target(), position));
        std::iter::once(self.document_item()).chain(files)
    }

    fn document_item(&self) -> Item<'_> {
        Item {
            name: DIFF_DOCUMENT_PATH,
            size: self.document.len(),
            crc32: self.document.crc32(),
            executable: false,
            position: None,
        }
    }
}

fn file_item(catalogue: &Catalogue, position: u32) -> Item<'_> {
    let entry = catalogue.tree().entry(position);
    Item {
        name: entry.path,
        size: entry.size,
        crc32: catalogue.crc32(position),
        executable: entry.executable,
        position: Some(position),
    }
}

/// Offsets of all parts.
#[derive(Debug)]
enum Table {
    Zip(zip::Table),
    Tar(tar::Table),
}

impl Table {
    fn len(&self) -> u64 {
        match self {
            Self::Zip(table) => table.len(),
            Self::Tar(table) => table.len(),
        }
    }
}

/// A part of an archive with a single source.
#[derive(Debug)]
struct Part {
    kind: PartKind,
    range: Range<u64>,
}

#[derive(Debug)]
enum PartKind {
    /// Stored form of the file at a position of the target.
    Blob {
        position: u32,
    },
    Document,
    /// Header before an entry's bytes.
    Header {
        index: usize,
    },
    /// Zero bytes.
    Padding,
    /// One of the records behind all entries.
    Trailer {
        index: usize,
    },
}

/// Returns the index of the stretch that contains `at`. `begins` ascend, start at or below `at`,
/// and end above it.
///
/// Streams request one stretch after another: the hint and its successor are tried first, then a
/// binary search.
fn stretch_at(begins: &[u64], at: u64, hint: usize) -> usize {
    let holds =
        |index: usize| index + 1 < begins.len() && begins[index] <= at && at < begins[index + 1];
    if holds(hint) {
        hint
    } else if holds(hint + 1) {
        hint + 1
    } else {
        begins.partition_point(|begin| *begin <= at) - 1
    }
}
