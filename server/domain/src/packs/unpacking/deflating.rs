//! Contents in their stored forms: raw, and deflated where that pays.
//!
//! One encoder at one level deflates all contents, so that equal contents have equal forms for as
//! long as the encoder stays the same. Nothing relies on that: the digest of each deflated form is
//! recorded.

use std::io::Write as _;
use std::mem;
use std::ops::Range;

use archive::{Deflated, deflating_pays};
use bytes::Bytes;
use flate2::write::DeflateEncoder;
use flate2::{Compress, Compression, FlushCompress, Status};

use crate::digest::{Hasher, Sha256Digest};

/// Level beyond which more time saves little.
const LEVEL: u32 = 6;
/// Number of bytes at the beginning of a large content that decide whether the rest is deflated.
const BEGINNING: usize = 1024 * 1024;

/// Facts that are recorded of a content, apart from its places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::packs) struct Formed {
    pub(in crate::packs) sha256: Sha256Digest,
    /// In bytes.
    pub(in crate::packs) size: u64,
    pub(in crate::packs) crc32: u32,
    /// The deflated form, if it pays.
    pub(in crate::packs) deflated: Option<Deflated>,
}

/// Small contents, one after another.
#[derive(Debug, Default)]
pub(in crate::packs) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) contents: Vec<Small>,
}

/// A content of a batch.
#[derive(Debug, Clone)]
pub(in crate::packs) struct Small {
    pub(in crate::packs) sha256: Sha256Digest,
    pub(super) crc32: u32,
    /// Position of the content in the batch.
    pub(super) range: Range<usize>,
}

/// Small contents in their stored forms.
#[derive(Debug)]
pub(in crate::packs) struct FormedBatch {
    /// Forms as a zip serves them, one after another: deflated where that pays.
    pub(in crate::packs) served: Vec<u8>,
    /// Raw bytes of those contents whose deflated form is in `served`.
    pub(in crate::packs) raw: Vec<u8>,
    /// In the order of `served`.
    pub(in crate::packs) contents: Vec<Formed>,
}

impl Batch {
    pub(in crate::packs) fn contents(&self) -> &[Small] {
        &self.contents
    }

    /// Deflates some of the batch's contents. For a thread that may block.
    pub(in crate::packs) fn form(&self, contents: &[Small]) -> FormedBatch {
        let size = contents.iter().map(|content| content.range.len()).sum();
        let mut formed = FormedBatch {
            served: Vec::with_capacity(size),
            raw: Vec::with_capacity(size),
            contents: Vec::with_capacity(contents.len()),
        };
        let mut encoder = Compress::new(Compression::new(LEVEL), false);
        for content in contents {
            let bytes = &self.bytes[content.range.clone()];
            let deflated = deflate(&mut encoder, bytes, &mut formed.served);
            match deflated {
                Some(_) => formed.raw.extend_from_slice(bytes),
                None => formed.served.extend_from_slice(bytes),
            }
            formed.contents.push(Formed {
                sha256: content.sha256,
                size: bytes.len() as u64,
                crc32: content.crc32,
                deflated,
            });
        }
        formed
    }
}

/// Appends the deflated form of `bytes` to `out`, if it pays.
fn deflate(encoder: &mut Compress, bytes: &[u8], out: &mut Vec<u8>) -> Option<Deflated> {
    if bytes.is_empty() {
        return None;
    }
    let start = out.len();
    // A form that needs more room than this does not pay; the encoder stops when the room is used
    // up.
    out.reserve(bytes.len());
    encoder.reset();
    let status = encoder
        .compress_vec(bytes, out, FlushCompress::Finish)
        .expect("an encoder that was just reset takes anything");
    let size = (out.len() - start) as u64;
    if status != Status::StreamEnd || !deflating_pays(bytes.len() as u64, size) {
        out.truncate(start);
        return None;
    }
    Some(Deflated {
        size,
        sha256: Sha256Digest::of(&out[start..]),
    })
}

/// A large content while it is deflated. For a thread that may block.
#[derive(Debug)]
pub(super) enum Deflation {
    /// No bytes have come yet.
    Untried,
    /// The beginning of the content gets smaller.
    Running(Box<Running>),
    /// The beginning does not get smaller; the rest is not tried.
    GivenUp,
}

#[derive(Debug)]
pub(super) struct Running {
    encoder: DeflateEncoder<Vec<u8>>,
    /// Bytes of the deflated form so far.
    size: u64,
    /// Digest of the deflated form so far.
    hasher: Hasher,
}

impl Deflation {
    /// Returns the next bytes of the deflated form, which lag behind those of the content.
    pub(super) fn go_on(&mut self, bytes: &[u8]) -> Bytes {
        if matches!(self, Self::Untried) {
            *self = Self::of_beginning(bytes);
        }
        match self {
            Self::Running(running) => {
                running.encoder.write_all(bytes).expect(IN_MEMORY);
                let out = mem::take(running.encoder.get_mut());
                running.count(&out);
                out.into()
            }
            Self::Untried | Self::GivenUp => Bytes::new(),
        }
    }

    /// Returns the last bytes of the deflated form, and the form itself if it pays for a content of
    /// this size.
    pub(super) fn finish(self, content_size: u64) -> (Bytes, Option<Deflated>) {
        let Self::Running(mut running) = self else {
            return (Bytes::new(), None);
        };
        running.encoder.try_finish().expect(IN_MEMORY);
        let out = mem::take(running.encoder.get_mut());
        running.count(&out);
        let deflated = Deflated {
            size: running.size,
            sha256: running.hasher.finish(),
        };
        let pays = deflating_pays(content_size, deflated.size);
        (out.into(), pays.then_some(deflated))
    }

    fn of_beginning(bytes: &[u8]) -> Self {
        let level = Compression::new(LEVEL);
        let beginning = &bytes[..bytes.len().min(BEGINNING)];
        match deflate(&mut Compress::new(level, false), beginning, &mut Vec::new()) {
            Some(_) => Self::Running(Box::new(Running {
                encoder: DeflateEncoder::new(Vec::new(), level),
                size: 0,
                hasher: Hasher::new(),
            })),
            None => Self::GivenUp,
        }
    }
}

impl Running {
    fn count(&mut self, out: &[u8]) {
        self.size += out.len() as u64;
        self.hasher.update(out);
    }
}

const IN_MEMORY: &str = "writing to memory does not fail";
