//! From an archive's bytes to contents: verified, each once, small ones in batches and large ones in pieces.
//!
//! Nothing here waits. [`Gathering::step`] unpacks, hashes and deflates, so it is for a thread that may block; it stops whenever it
//! wants bytes of the archive or has something to be stored, and holds no more than a batch or a piece meanwhile. What it
//! remembers grows with the number of files alone: a digest for each content, and a path for each file where the tree is learnt.

use std::collections::HashSet;
use std::mem;

use archive::{
    EntryPath, Limits, Tree, TreeBuilder, TreeError, UnpackError, UnpackEvent, UnpackFault,
    UnpackLimits, Unpacker,
};
use bytes::Bytes;

use super::deflating::{Batch, Deflation, Formed, Small};
use crate::digest::{Hasher, Sha256Digest};
use crate::error::{EntryFault, PackError};
use crate::pack::StoredContent;

/// Bytes of the largest content that is gathered with others.
const SMALL: usize = 1024 * 1024;
/// Bytes of a batch, up to one content more.
const BATCH: usize = 8 * 1024 * 1024;
/// Contents of a batch.
const BATCH_CONTENTS: usize = 4096;
/// Bytes of a large content that are handed on at a time, up to one chunk of the archive more.
const PIECE: usize = 1024 * 1024;

/// Takes the contents out of one archive.
#[derive(Debug)]
pub(super) struct Gathering {
    unpacker: Unpacker,
    files: Files,
    /// Contents that were handed on, or were known to be stored.
    seen: HashSet<Sha256Digest>,
    batch: Batch,
    entry: Option<Entry>,
}

/// What the archive's files are compared with, or become.
#[derive(Debug)]
enum Files {
    Expected {
        tree: Tree,
        /// The positions of the files that came, in their order.
        came: Vec<u32>,
    },
    Learnt(TreeBuilder),
}

/// The file at hand.
#[derive(Debug)]
struct Entry {
    path: EntryPath<'static>,
    expected: Option<Expected>,
    size: u64,
    hasher: Hasher,
    kept: Kept,
    executable: bool,
}

#[derive(Debug, Clone, Copy)]
struct Expected {
    size: u64,
    sha256: Sha256Digest,
}

/// Where the bytes of the file at hand go.
#[derive(Debug)]
enum Kept {
    /// To the end of the batch, from this offset on.
    InBatch { start: usize },
    /// To a blob of their own. `piece` is what was not handed on yet.
    Apart {
        piece: Vec<u8>,
        deflation: Deflation,
    },
    /// Nowhere: the content is there already.
    Not,
}

/// What is to be done before the next step.
#[derive(Debug)]
pub(super) enum Step {
    /// Feed more of the archive, or tell that it has ended.
    Feed,
    /// Nothing, but enough was done to see whether there should be more.
    Look,
    /// Store these. None of them came before.
    Batch(Batch),
    /// A large content comes, with this digest if that is known. [`Gathering::skip`] it if it is stored already.
    LargeBegins(Option<Sha256Digest>),
    /// Store these bytes of it.
    LargeGoesOn(Piece),
    /// It is whole with these bytes. Without a form, it came before after all.
    LargeEnds(Piece, Option<Formed>),
    /// The archive is whole. Store these, and nothing more comes. The tree is there if it was learnt.
    End(Batch, Option<Tree>),
}

/// The next bytes of a large content.
#[derive(Debug)]
pub(super) struct Piece {
    /// As it is.
    pub(super) raw: Bytes,
    /// Of its deflated form; they lag behind, and none come where deflating does not pay.
    pub(super) deflated: Bytes,
}

impl Gathering {
    /// Expects files of `tree`, or learns which there are, up to `limits`.
    pub(super) fn new(tree: Option<Tree>, limits: Limits, unpack_limits: UnpackLimits) -> Self {
        Self {
            unpacker: Unpacker::new(unpack_limits),
            files: match tree {
                Some(tree) => Files::Expected {
                    tree,
                    came: Vec::new(),
                },
                None => Files::Learnt(TreeBuilder::of_unpacked(limits)),
            },
            seen: HashSet::new(),
            batch: empty_batch(),
            entry: None,
        }
    }

    /// Adds the next bytes of the archive, after [`Step::Feed`] alone.
    pub(super) fn feed(&mut self, chunk: Bytes) {
        self.unpacker.feed(chunk);
    }

    /// Tells that the archive has ended.
    pub(super) fn finish(&mut self) {
        self.unpacker.finish();
    }

    /// The large content that has just begun is stored already: it is verified, but not handed on.
    pub(super) fn skip(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.kept = Kept::Not;
        }
    }

    /// Goes on until something is to be done. For a thread that may block.
    ///
    /// # Errors
    /// [`PackError::Archive`] or [`PackError::Entry`]; there is no going on then.
    pub(super) fn step(&mut self) -> Result<Step, PackError> {
        let mut work = 0;
        loop {
            let Some(event) = self.unpacker.next_event().map_err(refused)? else {
                return Ok(Step::Feed);
            };
            work += WORK_OF_EVENT;
            let step = match event {
                UnpackEvent::Pause => {
                    work += WORK_OF_PAUSE;
                    None
                }
                UnpackEvent::Copy { path, of } => {
                    self.copy(&path, of)?;
                    None
                }
                UnpackEvent::Data(bytes) => {
                    work += bytes.len();
                    self.take_in(&bytes)?
                }
                UnpackEvent::Entry { path, size } => self.begin(path, size)?,
                UnpackEvent::EndOfEntry { size, crc32 } => self.end_entry(size, crc32)?,
                UnpackEvent::Executable { number } => {
                    self.set_executable(number as usize);
                    None
                }
                UnpackEvent::End => Some(self.end()),
            };
            if let Some(step) = step {
                return Ok(step);
            }
            if work >= BATCH {
                return Ok(Step::Look);
            }
        }
    }

    fn begin(
        &mut self,
        path: EntryPath<'static>,
        size: Option<u64>,
    ) -> Result<Option<Step>, PackError> {
        let expected = match &mut self.files {
            Files::Expected { tree, came } => {
                let position = tree
                    .position(path.as_str())
                    .ok_or_else(|| fault(&path, EntryFault::Unexpected))?;
                came.push(position);
                Some(Expected {
                    size: tree.size(position),
                    sha256: tree.sha256(position),
                })
            }
            Files::Learnt(_) => None,
        };
        if let (Some(expected), Some(size)) = (expected, size)
            && expected.size != size
        {
            return Err(fault(&path, EntryFault::Size));
        }
        self.entry = Some(Entry {
            path,
            expected,
            size: 0,
            hasher: Hasher::new(),
            kept: Kept::InBatch {
                start: self.batch.bytes.len(),
            },
            executable: false,
        });
        Ok(None)
    }

    /// A file with the content of an earlier one.
    fn copy(&mut self, path: &EntryPath<'_>, of: u32) -> Result<(), PackError> {
        match &mut self.files {
            Files::Learnt(tree) => {
                let (size, sha256) = tree.file(of as usize);
                tree.push(path, size, sha256, false).map_err(no_tree)
            }
            Files::Expected { tree, came } => {
                let position = tree
                    .position(path.as_str())
                    .ok_or_else(|| fault(path, EntryFault::Unexpected))?;
                let original = came[of as usize];
                came.push(position);
                match tree.sha256(original) == tree.sha256(position) {
                    true => Ok(()),
                    false => Err(fault(path, EntryFault::Digest)),
                }
            }
        }
    }

    fn take_in(&mut self, bytes: &[u8]) -> Result<Option<Step>, PackError> {
        let entry = self.entry.as_mut().expect(INSIDE);
        entry.size += bytes.len() as u64;
        entry.hasher.update(bytes);
        if let Some(expected) = entry.expected
            && entry.size > expected.size
        {
            return Err(fault(&entry.path, EntryFault::Size));
        }
        match &mut entry.kept {
            Kept::InBatch { start } => {
                if entry.size <= SMALL as u64 {
                    self.batch.bytes.extend_from_slice(bytes);
                    return Ok(None);
                }
                let mut piece = self.batch.bytes.split_off(*start);
                piece.extend_from_slice(bytes);
                let expected = entry.expected.map(|expected| expected.sha256);
                if expected.is_some_and(|sha256| self.seen.contains(&sha256)) {
                    entry.kept = Kept::Not;
                    return Ok(None);
                }
                entry.kept = Kept::Apart {
                    piece,
                    deflation: Deflation::Untried,
                };
                Ok(Some(Step::LargeBegins(expected)))
            }
            Kept::Apart { piece, deflation } => {
                piece.extend_from_slice(bytes);
                Ok((piece.len() >= PIECE).then(|| Step::LargeGoesOn(hand_on(piece, deflation))))
            }
            Kept::Not => Ok(None),
        }
    }

    fn end_entry(&mut self, size: u64, crc32: u32) -> Result<Option<Step>, PackError> {
        let entry = self.entry.take().expect(INSIDE);
        let sha256 = entry.hasher.finish();
        if let Some(expected) = entry.expected {
            if size != expected.size {
                return Err(fault(&entry.path, EntryFault::Size));
            }
            if sha256 != expected.sha256 {
                return Err(fault(&entry.path, EntryFault::Digest));
            }
        }
        if let Files::Learnt(tree) = &mut self.files {
            tree.push(&entry.path, size, sha256, entry.executable)
                .map_err(no_tree)?;
        }
        let is_new = self.seen.insert(sha256);
        Ok(match entry.kept {
            Kept::InBatch { start } if is_new => {
                self.batch.contents.push(Small {
                    sha256,
                    crc32,
                    range: start..self.batch.bytes.len(),
                });
                self.batch_is_full()
                    .then(|| Step::Batch(mem::replace(&mut self.batch, empty_batch())))
            }
            Kept::InBatch { start } => {
                self.batch.bytes.truncate(start);
                None
            }
            Kept::Apart {
                mut piece,
                mut deflation,
            } => {
                let mut piece = hand_on(&mut piece, &mut deflation);
                let (end, deflated) = deflation.finish(size);
                piece.deflated = [piece.deflated, end].concat().into();
                let formed = Formed {
                    sha256,
                    size,
                    crc32,
                    deflated,
                };
                Some(Step::LargeEnds(piece, is_new.then_some(formed)))
            }
            Kept::Not => None,
        })
    }

    fn batch_is_full(&self) -> bool {
        self.batch.bytes.len() >= BATCH || self.batch.contents.len() >= BATCH_CONTENTS
    }

    /// Of a file that is expected, the draft has said so or not.
    fn set_executable(&mut self, number: usize) {
        let Files::Learnt(tree) = &mut self.files else {
            return;
        };
        // A tar tells so before the file is whole, a zip after all files.
        match &mut self.entry {
            Some(entry) if number == tree.len() => entry.executable = true,
            Some(_) | None => tree.set_executable(number),
        }
    }

    fn end(&mut self) -> Step {
        let batch = mem::take(&mut self.batch);
        let tree = match &mut self.files {
            Files::Expected { .. } => None,
            Files::Learnt(tree) => {
                let nothing = TreeBuilder::of_unpacked(Limits::default());
                Some(mem::replace(tree, nothing).finish())
            }
        };
        Step::End(batch, tree)
    }

    /// About how much memory is taken by what must be remembered of each file and content, in bytes, up to the end of publishing.
    pub(super) fn memory(&self) -> usize {
        let of_tree = match &self.files {
            Files::Expected { tree, came } => tree.memory() + came.capacity() * size_of::<u32>(),
            // Twice while it is sorted, and a catalogue is made of it and of the places of its contents.
            Files::Learnt(tree) => 3 * tree.memory(),
        };
        let of_contents = self.seen.capacity() * (size_of::<Sha256Digest>() + 1)
            + self.seen.len() * size_of::<StoredContent>();
        self.unpacker.memory() + of_tree + of_contents
    }
}

/// Work is counted in bytes, and a step is over after a batch of it.
const WORK_OF_EVENT: usize = 512;
const WORK_OF_PAUSE: usize = 1024 * 1024;

const INSIDE: &str = "an unpacker tells of an entry's beginning first";

/// With room for all that may come, so that it is never moved. Pages that are not written to take no memory.
fn empty_batch() -> Batch {
    Batch {
        bytes: Vec::with_capacity(BATCH + SMALL),
        contents: Vec::new(),
    }
}

fn hand_on(piece: &mut Vec<u8>, deflation: &mut Deflation) -> Piece {
    let raw = Bytes::from(mem::replace(piece, Vec::with_capacity(PIECE)));
    let deflated = deflation.go_on(&raw);
    Piece { raw, deflated }
}

fn refused(error: UnpackError) -> PackError {
    PackError::Archive {
        entry: error.entry,
        fault: error.fault,
    }
}

fn fault(path: &EntryPath<'_>, reason: EntryFault) -> PackError {
    PackError::Entry {
        entry: path.as_str().to_owned(),
        reason,
    }
}

fn no_tree(error: TreeError) -> PackError {
    let (entry, fault) = match error {
        TreeError::TooManyEntries { limit } => (None, UnpackFault::TooManyEntries { limit }),
        TreeError::TooLarge { limit } => (None, UnpackFault::TooLarge { limit }),
        TreeError::TooManyDirectories { limit } => {
            (None, UnpackFault::TooManyDirectories { limit })
        }
        TreeError::PathsTooLong { limit } => (None, UnpackFault::PathsTooLong { limit }),
        TreeError::Collision { path, collision } => (
            Some(path.as_str().to_owned()),
            UnpackFault::Collision(collision),
        ),
    };
    PackError::Archive { entry, fault }
}
