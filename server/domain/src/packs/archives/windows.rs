//! Windows: pieces of an archive that are read together and sent together.
//!
//! An archive of many small files consists of short headers with short contents between them.
//! Reading and sending each by itself would take longer than copying them (for contents of 16 KiB a
//! sixth longer, as measured). So neighbours share one [`Window`], and its contents are read in as
//! few ranges as possible: small contents of one publication lie side by side, in the order of the
//! catalogue. Large contents are passed through as they are read.

use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use archive::{BlobSlice, Segment, Segments};
use bytes::Bytes;

use super::super::versions::Version;

/// Maximum size of a window in bytes. A stream holds the chunk that is being sent and the next one,
/// for which both the bytes read and the assembled chunk are in memory: at most 256 KiB.
pub(super) const WINDOW: usize = 80 * 1024;
/// Maximum size in bytes of a slice of a content that is copied. So a window that ends for lack of
/// room has at least 48 KiB.
const LONGEST_COPY: u64 = 32 * 1024;
/// Maximum number of needless bytes that are read to save a second read.
const LONGEST_GAP: u64 = 16 * 1024;
/// Maximum number of bytes that are read for a window.
pub(super) const MAX_READ: u64 = WINDOW as u64 + LONGEST_GAP;
/// Maximum number of ranges that are read for a window.
const MAX_SPANS: usize = 16;

/// The next step in reading an archive.
#[derive(Debug)]
pub(super) enum Step {
    /// Literals, and short contents between them.
    Window(Window),
    /// A content to be passed through.
    Pass(Source),
}

/// A range of a blob.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Index of the blob among the places of the version.
    pub(super) blob: u32,
    /// In bytes of the blob.
    pub(super) range: Range<u64>,
}

/// Bytes to send; those of the contents are still to be read.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// All literals, one after another.
    literals: Vec<u8>,
    /// Pieces in the order of sending.
    pieces: Vec<Piece>,
    /// Bytes of all pieces.
    pub(super) length: usize,
    /// Ranges to be read.
    pub(super) spans: Vec<Source>,
    /// Bytes of all ranges to be read.
    to_read: u64,
}

/// A piece of a window.
#[derive(Debug)]
enum Piece {
    /// This many more bytes of the literals.
    Literal(usize),
    /// A content, or a part of one.
    Content {
        /// Index of the span that holds the content.
        span: usize,
        /// In bytes of the blob.
        start: u64,
        /// In bytes.
        length: usize,
    },
}

/// Iterator over the steps of a range of an archive.
#[derive(Debug)]
pub(super) struct Steps {
    segments: Peekable<Segments>,
    version: Arc<Version>,
}

impl Steps {
    /// Creates the steps of `segments`, which belong to an archive of this version.
    pub(super) fn new(version: Arc<Version>, segments: Segments) -> Self {
        Self {
            segments: segments.peekable(),
            version,
        }
    }

    pub(super) fn version(&self) -> &Version {
        &self.version
    }
}

impl Iterator for Steps {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let mut window = Window::default();
        while let Some(segment) = self.segments.peek() {
            let joined = match segment {
                Segment::Literal(literal) => window.append(literal),
                Segment::Blob(slice) => {
                    let source = source_of(&self.version, slice);
                    if source.len() <= LONGEST_COPY {
                        window.include(source)
                    } else if window.is_empty() {
                        self.segments.next();
                        return Some(Step::Pass(source));
                    } else {
                        false
                    }
                }
            };
            if !joined {
                break;
            }
            self.segments.next();
        }
        (!window.is_empty()).then_some(Step::Window(window))
    }
}

fn source_of(version: &Version, slice: &BlobSlice) -> Source {
    let spot = version
        .places
        .spot(slice.position, &slice.form)
        .expect("a version has a place for each form of its contents");
    Source {
        blob: spot.blob,
        range: spot.start + slice.range.start..spot.start + slice.range.end,
    }
}

impl Window {
    fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a literal. Returns false if it does not fit.
    fn append(&mut self, literal: &[u8]) -> bool {
        if !self.is_empty() && self.length + literal.len() > WINDOW {
            return false;
        }
        self.literals.extend_from_slice(literal);
        match self.pieces.last_mut() {
            Some(Piece::Literal(length)) => *length += literal.len(),
            _ => self.pieces.push(Piece::Literal(literal.len())),
        }
        self.length += literal.len();
        true
    }

    /// Adds a content. Returns false if it does not fit.
    fn include(&mut self, source: Source) -> bool {
        let length = usize::try_from(source.len()).expect("longer ones are read by themselves");
        if self.length + length > WINDOW {
            return false;
        }
        let start = source.range.start;
        let near = self.spans.iter().rposition(|span| span.reaches(&source));
        let more = near.map_or(source.len(), |near| {
            let span = &self.spans[near];
            span.widened(&source).len() - span.len()
        });
        if self.to_read + more > MAX_READ {
            return false;
        }
        let span = match near {
            Some(near) => {
                self.spans[near] = self.spans[near].widened(&source);
                near
            }
            None if self.spans.len() < MAX_SPANS => {
                self.spans.push(source);
                self.spans.len() - 1
            }
            None => return false,
        };
        self.to_read += more;
        self.pieces.push(Piece::Content {
            span,
            start,
            length,
        });
        self.length += length;
        true
    }

    /// Assembles the bytes to send from the bytes `read` of each span.
    pub(super) fn put_together(self, read: &[Bytes]) -> Bytes {
        let mut bytes = Vec::with_capacity(self.length);
        let mut literals = self.literals.as_slice();
        for piece in self.pieces {
            match piece {
                Piece::Literal(length) => {
                    let literal;
                    (literal, literals) = literals.split_at(length);
                    bytes.extend_from_slice(literal);
                }
                Piece::Content {
                    span,
                    start,
                    length,
                } => {
                    let begin = usize::try_from(start - self.spans[span].range.start);
                    let begin = begin.expect("a span is short");
                    bytes.extend_from_slice(&read[span][begin..begin + length]);
                }
            }
        }
        bytes.into()
    }
}

impl Source {
    /// Returns the length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// Returns true if the other range is near enough to be read together with this one.
    fn reaches(&self, other: &Self) -> bool {
        let (own, its) = (&self.range, &other.range);
        self.blob == other.blob
            && its.start <= own.end.saturating_add(LONGEST_GAP)
            && own.start <= its.end.saturating_add(LONGEST_GAP)
    }

    /// Returns the range that covers both, and the gap between them.
    fn widened(&self, other: &Self) -> Self {
        let (own, its) = (&self.range, &other.range);
        Self {
            blob: self.blob,
            range: own.start.min(its.start)..own.end.max(its.end),
        }
    }
}
