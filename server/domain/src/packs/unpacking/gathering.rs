//! Extraction of contents from an archive: verified, each once, small ones in batches and large
//! ones in pieces.
//!
//! Nothing here waits. [`Gathering::step`] unpacks, hashes and deflates, so it is for a thread that
//! may block. It stops whenever it needs bytes of the archive or has something to be stored, and
//! holds at most a batch or a piece meanwhile. Its memory grows only with the number of files: a
//! digest for each content, and a path for each file if the tree is learnt.

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

/// Maximum size of a content that is gathered with others, in bytes.
const SMALL: usize = 1024 * 1024;
/// Bytes of a full batch, which may exceed them by one content.
const BATCH: usize = 8 * 1024 * 1024;
/// Maximum number of contents in a batch.
const BATCH_CONTENTS: usize = 4096;
/// Bytes of a piece of a large content, which may exceed them by one chunk of the archive.
const PIECE: usize = 1024 * 1024;

/// Takes the contents out of one archive.
#[derive(Debug)]
pub(super) struct Gathering {
    unpacker: Unpacker,
    files: Files,
    /// Contents that were handed on, or that are stored already.
    seen: HashSet<Sha256Digest>,
    batch: Batch,
    entry: Option<Entry>,
}

/// Files that the archive must match, or that are learnt from it.
#[derive(Debug)]
enum Files {
    Expected {
        tree: Tree,
        /// Positions of the files that came, in their order.
        came: Vec<u32>,
    },
    Learnt(TreeBuilder),
}

/// The current file.
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

/// Destination of the current file's bytes.
#[derive(Debug)]
enum Kept {
    /// The end of the batch, from this offset on.
    InBatch { start: usize },
    /// A blob of their own. `piece` holds the bytes that are not handed on yet.
    Apart {
        piece: Vec<u8>,
        deflation: Deflation,
    },
    /// None: the content is stored already.
    Not,
}

/// Task for the caller before the next step.
#[derive(Debug)]
pub(super) enum Step {
    /// Feed more of the archive, or report its end.
    Feed,
    /// Nothing, but enough was done to check for a stop.
    Look,
    /// Store these contents. None of them came before.
    Batch(Batch),
    /// Begin a large content, with this digest if it is known. [`Gathering::skip`] the content if
    /// it is stored already.
    LargeBegins(Option<Sha256Digest>),
    /// Store these bytes of the large content.
    LargeGoesOn(Piece),
    /// Store these last bytes of the large content. Without a form, the content came before after
    /// all.
    LargeEnds(Piece, Option<Formed>),
    /// Store these contents; the archive is complete. Contains the tree if it was learnt.
    End(Batch, Option<Tree>),
}

/// The next bytes of a large content.
#[derive(Debug)]
pub(super) struct Piece {
    /// Raw bytes.
    pub(super) raw: Bytes,
    /// Bytes of the deflated form. They lag behind, and none come if deflating does not pay.
    pub(super) deflated: Bytes,
}

impl Gathering {
    /// Creates a gathering that expects the files of `tree`, or learns the tree, up to `limits`.
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

    /// Adds the next bytes of the archive. Only after [`Step::Feed`].
    pub(super) fn feed(&mut self, chunk: Bytes) {
        self.unpacker.feed(chunk);
    }

    /// Reports the end of the archive.
    pub(super) fn finish(&mut self) {
        self.unpacker.finish();
    }

    /// Skips the large content that has just begun, since it is stored already. It is verified, but
    /// not handed on.
    pub(super) fn skip(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.kept = Kept::Not;
        }
    }

    /// Works until there is a task for the caller. For a thread that may block.
    ///
    /// # Errors
    /// [`PackError::Archive`] or [`PackError::Entry`]; the gathering must not be used after that.
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

    /// Adds a file with the content of an earlier one.
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

    /// Marks a file as executable if the tree is learnt. A draft's tree says so itself.
    fn set_executable(&mut self, number: usize) {
        let Files::Learnt(tree) = &mut self.files else {
            return;
        };
        // A tar marks a file before its end, a zip after all files.
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

    /// Returns the approximate memory, in bytes, for the facts about files and contents that must
    /// be kept until the end of publishing.
    pub(super) fn memory(&self) -> usize {
        let of_tree = match &self.files {
            Files::Expected { tree, came } => tree.memory() + came.capacity() * size_of::<u32>(),
            // Twice while it is sorted; then a catalogue is made of it and of the places of its
            // contents.
            Files::Learnt(tree) => 3 * tree.memory(),
        };
        let of_contents = self.seen.capacity() * (size_of::<Sha256Digest>() + 1)
            + self.seen.len() * size_of::<StoredContent>();
        self.unpacker.memory() + of_tree + of_contents
    }
}

/// Units of work are bytes; a step ends after a batch of them.
const WORK_OF_EVENT: usize = 512;
const WORK_OF_PAUSE: usize = 1024 * 1024;

const INSIDE: &str = "an unpacker tells of an entry's beginning first";

/// Returns a batch with room for all that may come, so that it is never moved. Untouched pages take
/// no memory.
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
