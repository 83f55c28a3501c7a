//! What is read together and sent together.
//!
//! An archive of many small files is many short headers with short contents between them. To read and to send each by itself would
//! take longer than to copy them. So neighbours go into one [`Window`], whose contents are read in as few stretches as they lie
//! in: small contents of one publishing lie side by side, in the order of the catalogue. Large contents are passed on as they
//! are read.

use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use archive::{BlobSlice, Segment, Segments};

use super::super::versions::Version;

/// Bytes of a window at most, and of a stretch that is read for it. A stream has two windows and, before it joins one, a literal
/// of 64 KiB: 256 KiB.
pub(super) const WINDOW: usize = 96 * 1024;
/// Longer slices of contents are not copied. So a window that ends for lack of room has 64 KiB or more.
const LONGEST_COPY: u64 = 32 * 1024;
/// How many bytes are read in vain rather than to read twice.
const LONGEST_GAP: u64 = 16 * 1024;
/// How many stretches a window is read in at most.
const MOST_SPANS: usize = 16;

/// What comes next.
#[derive(Debug)]
pub(super) enum Step {
    /// Literals, and contents to be copied between them.
    Copy(Window),
    /// A content to be passed on.
    Pass(Source),
}

/// A stretch of a blob.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Its index among the places of the version.
    pub(super) blob: u32,
    /// In bytes of the blob.
    pub(super) range: Range<u64>,
}

/// Bytes to send, without the contents among them.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// Literals at their places, and zeros where contents are to come.
    pub(super) bytes: Vec<u8>,
    /// What is to be read.
    pub(super) spans: Vec<Span>,
}

/// A stretch of a blob with the contents that it is read for.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) source: Source,
    cuts: Vec<Cut>,
}

/// A content, or a part of one, that is copied out of a span.
#[derive(Debug)]
struct Cut {
    /// In bytes of the blob.
    start: u64,
    /// Where it belongs in the window.
    place: Range<usize>,
}

/// The steps of a range of an archive, one by one.
#[derive(Debug)]
pub(super) struct Steps {
    segments: Peekable<Segments>,
    version: Arc<Version>,
}

impl Steps {
    /// The segments are of an archive of this version.
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
                        window.leave_room(source)
                    } else if window.bytes.is_empty() {
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
        (!window.bytes.is_empty()).then_some(Step::Copy(window))
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
    /// Takes a literal in, unless it does not fit.
    fn append(&mut self, literal: &[u8]) -> bool {
        let fits = self.bytes.is_empty() || self.bytes.len() + literal.len() <= WINDOW;
        if fits {
            self.reserve(literal.len());
            self.bytes.extend_from_slice(literal);
        }
        fits
    }

    /// Leaves room for a content, unless it does not fit.
    fn leave_room(&mut self, source: Source) -> bool {
        let length = usize::try_from(source.len()).expect("longer ones are not copied");
        let begin = self.bytes.len();
        let end = begin + length;
        if end > WINDOW {
            return false;
        }
        let cut = Cut {
            start: source.range.start,
            place: begin..end,
        };
        match self.spans.iter().rposition(|span| span.reaches(&source)) {
            Some(near) => self.spans[near].widen(&source, cut),
            None if self.spans.len() < MOST_SPANS => self.spans.push(Span {
                source,
                cuts: vec![cut],
            }),
            None => return false,
        }
        self.reserve(length);
        self.bytes.resize(end, 0);
        true
    }

    /// Makes room for more: a little for a header between large contents, else once for the whole window.
    fn reserve(&mut self, additional: usize) {
        let needed = self.bytes.len() + additional;
        if needed > self.bytes.capacity() {
            let capacity = if needed <= FEW_BYTES {
                FEW_BYTES
            } else {
                WINDOW.max(needed)
            };
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
    }
}

/// What a header between large contents needs.
const FEW_BYTES: usize = 2 * 1024;

impl Source {
    /// In bytes.
    pub(super) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

impl Span {
    /// Whether the source is near enough to be read along.
    fn reaches(&self, source: &Source) -> bool {
        let (own, other) = (&self.source.range, &source.range);
        self.source.blob == source.blob
            && other.start <= own.end.saturating_add(LONGEST_GAP)
            && own.start <= other.end.saturating_add(LONGEST_GAP)
            && own.end.max(other.end) - own.start.min(other.start) <= WINDOW as u64
    }

    fn widen(&mut self, source: &Source, cut: Cut) {
        let range = &mut self.source.range;
        *range = range.start.min(source.range.start)..range.end.max(source.range.end);
        self.cuts.push(cut);
    }

    /// Ready to be copied from, from the span's start on.
    pub(super) fn copying(mut self) -> Copying {
        // They mostly are in order already.
        self.cuts.sort_unstable_by_key(|cut| cut.start);
        Copying {
            reached: self.source.range.start,
            end: self.source.range.end,
            cuts: self.cuts,
            done: 0,
        }
    }
}

/// A span while it is read.
#[derive(Debug)]
pub(super) struct Copying {
    reached: u64,
    end: u64,
    /// In the order of their starts.
    cuts: Vec<Cut>,
    /// How many of the first cuts are whole.
    done: usize,
}

impl Copying {
    /// Copies what the next chunk of the span has into the window; false where it has more than the span.
    pub(super) fn take(&mut self, chunk: &[u8], window: &mut [u8]) -> bool {
        let begin = self.reached;
        let end = begin + chunk.len() as u64;
        if end > self.end {
            return false;
        }
        self.reached = end;
        for cut in &self.cuts[self.done..] {
            if cut.start >= end {
                break;
            }
            cut.copy(chunk, begin, window);
        }
        let whole = |cut: &&Cut| cut.start + cut.place.len() as u64 <= end;
        self.done += self.cuts[self.done..].iter().take_while(whole).count();
        true
    }

    /// Whether the whole span has come.
    pub(super) fn is_whole(&self) -> bool {
        self.reached == self.end
    }
}

impl Cut {
    /// Copies that part of it which lies in the chunk; the chunk begins at `begin` in the blob.
    fn copy(&self, chunk: &[u8], begin: u64, window: &mut [u8]) {
        // Both are within a span, which is short.
        let before =
            |from: u64, to: u64| usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
        let skipped = before(self.start, begin);
        let offset = before(begin, self.start);
        let place = &self.place;
        if skipped >= place.len() {
            return;
        }
        let length = (place.len() - skipped).min(chunk.len() - offset);
        window[place.start + skipped..][..length].copy_from_slice(&chunk[offset..][..length]);
    }
}
