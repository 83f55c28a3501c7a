//! Unpacks archives of clients while they arrive.
//!
//! An [`Unpacker`] is fed the bytes of a zip or tar (raw, or compressed by gzip or zstd) and
//! returns its contents, one [`UnpackEvent`] after another. It does no input or output, holds no
//! more than a chunk and some bookkeeping per entry, and trusts nothing: every name is an
//! [`EntryPath`], sizes and checksums are verified, and links, devices, encryption, duplicates and
//! decompression bombs are refused.
//!
//! Events are only confirmed by [`UnpackEvent::End`]: a zip's central directory, at the very end,
//! may contradict them. So contents may be stored as they arrive, but nothing may be published
//! before the end.
//!
//! # Supported archives
//!
//! Tars of GNU tar, bsdtar, Go, Python, Java and others: v7, ustar, GNU and pax, with long names,
//! with hard links to earlier files, with sparse files (GNU's old form, and the pax forms 0.0, 0.1
//! and 1.0); raw, or as gzip or zstd with any number of members, frames and skippable frames. Zips
//! with stored and deflated entries, sizes in front or behind, zip64, names in UTF-8, in Info-ZIP's
//! Unicode field or in code page 437, with `/` or `\` as separator. A tar must have its end mark:
//! without one, a tar that was cut between two files would look complete.
//!
//! Some entries are checked like the others, but skipped: directories (trees consist of files), the
//! document of the server's own archives, and files that macOS adds ([`is_litter`]).
//!
//! # Costs
//!
//! Every byte from a decompressor counts for [`UnpackLimits::ratio`], be it of a content, a name, a
//! header, a skipped entry, padding or the zeros behind the end, of which 1 MiB is allowed; so does
//! every byte of a hole in a sparse file. After each MiB without an event there is an
//! [`UnpackEvent::Pause`], so that the caller regains control however small the archive is.

mod compression;
mod input;
mod tar;
mod zip;

use bytes::Bytes;

use crate::collisions::{Collision, Collisions};
use crate::document::DIFF_DOCUMENT_PATH;
use crate::entry_path::{EntryPath, EntryPathError, RESERVED_DIRECTORY, is_litter};
use crate::tree::{FEW_DIRECTORIES, MAX_SIZE};
use compression::Decompressor;
use input::Input;

/// Unpacks one archive.
#[derive(Debug)]
pub struct Unpacker {
    input: Input,
    intake: Intake,
    reader: Reader,
    has_ended: bool,
    failure: Option<UnpackError>,
}

/// Event of an unpacker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnpackEvent {
    /// A file begins. Files are numbered from 0 in the order of arrival.
    Entry {
        path: EntryPath<'static>,
        /// Size in bytes, if the archive states it before the data.
        size: Option<u64>,
    },
    /// The next bytes of the file.
    Data(Bytes),
    /// The file is complete, and agrees with its header.
    EndOfEntry {
        /// Size in bytes.
        size: u64,
        crc32: u32,
    },
    /// A complete file with the content of an earlier file, given by its number.
    Copy { path: EntryPath<'static>, of: u32 },
    /// The file with this number is executable; a zip states this only behind all files.
    Executable { number: u32 },
    /// The last MiB yielded no other event. More events may follow without more input.
    Pause,
    /// The archive is complete and consistent. Nothing follows.
    End,
}

/// Limits of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnpackLimits {
    /// Number of entries of all kinds.
    pub entries: u32,
    /// Size of one file, in bytes.
    pub entry_size: u64,
    /// Size of all files together, in bytes.
    pub total_size: u64,
    /// Length of all files' paths together, in bytes.
    pub path_bytes: u64,
    /// Maximum ratio of the unpacked bytes to the bytes of the archive so far, beyond the first 16
    /// MiB.
    pub ratio: u64,
}

/// Reason for which an archive is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{fault}", entry.as_ref().map(|name| format!("entry {name:?}: ")).unwrap_or_default())]
pub struct UnpackError {
    /// Name of the faulty entry, if there is one; at most 200 characters.
    pub entry: Option<String>,
    pub fault: UnpackFault,
}

/// Fault of an archive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnpackFault {
    #[error("this is neither a zip nor a tar archive")]
    NotAnArchive,
    #[error("this is {format}, which is not supported")]
    OtherFormat { format: &'static str },
    #[error("the archive is cut short")]
    Truncated,
    #[error("there are bytes behind the end of the archive")]
    TrailingBytes,
    #[error("the archive has more than {limit} entries")]
    TooManyEntries { limit: u32 },
    #[error("the file is larger than {limit} bytes")]
    EntryTooLarge { limit: u64 },
    #[error("the files are larger than {limit} bytes together")]
    TooLarge { limit: u64 },
    #[error("the files lie in more than {limit} directories")]
    TooManyDirectories { limit: u32 },
    #[error("the paths are longer than {limit} bytes together")]
    PathsTooLong { limit: u64 },
    #[error("what is in the archive is more than {limit} times larger than the archive")]
    TooCompressed { limit: u64 },
    #[error("the name is not UTF-8")]
    NameNotUtf8,
    #[error("{0}")]
    Path(EntryPathError),
    #[error("{0}")]
    Collision(Collision),
    #[error("symbolic links are not allowed: put the file itself there (tar -h, zip without -y)")]
    Link,
    #[error(
        "it is a hard link to {target:?}, which is no earlier file of the archive: put the file itself there \
         (GNU tar: --hard-dereference)"
    )]
    HardLink { target: String },
    #[error("only files and directories are allowed")]
    NotAFile,
    #[error("a directory has contents")]
    DirectoryWithContents,
    #[error("encrypted entries are not supported")]
    Encrypted,
    #[error("compression method {method} is not supported")]
    UnsupportedMethod { method: u16 },
    #[error("{feature} are not supported")]
    Unsupported { feature: &'static str },
    #[error("the size of a stored entry follows its data, so where it ends cannot be known")]
    UnknownLength,
    #[error("the compressed data is damaged")]
    Damaged,
    #[error("the size is not what the archive says")]
    WrongSize,
    #[error("the CRC-32 is not what the archive says")]
    WrongCrc32,
    #[error("the {record} is malformed")]
    Malformed { record: &'static str },
    #[error("the central directory contradicts the entries")]
    Inconsistent,
}

impl Unpacker {
    pub fn new(limits: UnpackLimits) -> Self {
        Self {
            input: Input::default(),
            intake: Intake::new(limits),
            reader: Reader::Unknown,
            has_ended: false,
            failure: None,
        }
    }

    /// Adds the next bytes of the archive.
    ///
    /// Take all events first; otherwise unread input accumulates.
    pub fn feed(&mut self, chunk: Bytes) {
        self.input.feed(chunk);
    }

    /// Marks the end of the archive's bytes.
    pub fn finish(&mut self) {
        self.input.finish();
    }

    /// Returns the next event; `None` if more bytes are needed, or after the end.
    ///
    /// After an error, every call returns the same error.
    pub fn next_event(&mut self) -> Result<Option<UnpackEvent>, UnpackError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let event = self.advance().and_then(|event| {
            self.intake.quiet = 0;
            self.has_ended |= event == Some(UnpackEvent::End);
            // A caller that waits for the end must not wait for ever.
            if event.is_none() && self.input.is_finished() && !self.has_ended {
                Err(UnpackFault::Truncated)
            } else {
                Ok(event)
            }
        });
        event.map_err(|fault| {
            let entry = self
                .reader
                .entry()
                .map(|name| name.chars().take(200).collect());
            self.failure.insert(UnpackError { entry, fault }).clone()
        })
    }

    /// Returns the approximate memory of the records of all files, in bytes.
    pub fn memory(&self) -> usize {
        let of_reader = match &self.reader {
            Reader::Zip(zip) => zip.memory(),
            Reader::Unknown | Reader::Tar(_) | Reader::CompressedTar { .. } => 0,
        };
        of_reader + self.intake.collisions.memory()
    }

    fn advance(&mut self) -> Result<Option<UnpackEvent>, UnpackFault> {
        loop {
            match &mut self.reader {
                Reader::Unknown => match Reader::recognize(&self.input)? {
                    Some(reader) => self.reader = reader,
                    None => return Ok(None),
                },
                Reader::Zip(zip) => return zip.advance(&mut self.input, &mut self.intake),
                Reader::Tar(tar) => {
                    self.intake.archive_size = self.input.consumed();
                    return tar.advance(&mut self.input, &mut self.intake);
                }
                Reader::CompressedTar {
                    decompressor,
                    inner,
                    tar,
                } => {
                    self.intake.archive_size = self.input.consumed();
                    if let Some(event) = tar.advance(inner, &mut self.intake)? {
                        return Ok(Some(event));
                    }
                    let before = inner.fed();
                    if inner.is_finished() || !decompressor.advance(&mut self.input, inner)? {
                        return Ok(None);
                    }
                    self.intake.archive_size = self.input.consumed();
                    self.intake.expand(inner.fed() - before)?;
                    if self.intake.is_pause_due() {
                        return Ok(Some(UnpackEvent::Pause));
                    }
                }
            }
        }
    }
}

impl Default for UnpackLimits {
    fn default() -> Self {
        Self {
            entries: 1 << 20,
            entry_size: 1 << 40,
            total_size: 1 << 40,
            path_bytes: 1 << 30,
            ratio: 200,
        }
    }
}

#[derive(Debug)]
enum Reader {
    Unknown,
    Zip(Box<zip::Reader>),
    Tar(Box<tar::Reader>),
    CompressedTar {
        decompressor: Decompressor,
        inner: Input,
        tar: Box<tar::Reader>,
    },
}

impl Reader {
    /// Detects the format of an archive by its first bytes.
    fn recognize(input: &Input) -> Result<Option<Self>, UnpackFault> {
        let Some(magic) = input.peek(6).map_err(|_| UnpackFault::NotAnArchive)? else {
            return Ok(None);
        };
        let decompressor = match magic {
            [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => {
                return Ok(Some(Self::Zip(Box::default())));
            }
            [0x1f, 0x8b, 8, ..] => Decompressor::gzip(),
            // A frame, or a skippable one, which pzstd puts before each frame.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Decompressor::zstd()
            }
            _ => match OTHER_FORMATS
                .iter()
                .find(|(other, _)| magic.starts_with(other))
            {
                Some((_, format)) => return Err(UnpackFault::OtherFormat { format }),
                None => return Ok(Some(Self::Tar(Box::default()))),
            },
        };
        Ok(Some(Self::CompressedTar {
            decompressor,
            inner: Input::default(),
            tar: Box::default(),
        }))
    }

    /// Returns the name of the current entry.
    fn entry(&self) -> Option<&str> {
        match self {
            Self::Unknown => None,
            Self::Zip(zip) => zip.entry(),
            Self::Tar(tar) | Self::CompressedTar { tar, .. } => tar.entry(),
        }
    }
}

/// Unsupported formats that clients send, by their first bytes.
const OTHER_FORMATS: [(&[u8], &str); 7] = [
    (b"\xfd7zXZ\0", "an xz stream"),
    (b"BZh91A", "a bzip2 stream"),
    (b"\x04\x22\x4d\x18", "an lz4 stream"),
    (b"LZIP\x01", "an lzip stream"),
    (b"\x1f\x9d", "a stream of compress (.Z)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
];

/// Checks that are common to both formats.
#[derive(Debug)]
struct Intake {
    limits: UnpackLimits,
    collisions: Collisions,
    /// Number of entries of all kinds.
    entries: u32,
    /// Length of the paths of all reported files, in bytes.
    path_bytes: u64,
    /// Bytes of files so far.
    total_size: u64,
    /// Unpacked bytes so far, of any kind.
    expanded: u64,
    /// Bytes of the archive so far.
    archive_size: u64,
    /// Unpacked bytes since the last event.
    quiet: u64,
}

/// Decision about an entry.
#[derive(Debug)]
enum Admission {
    File {
        path: EntryPath<'static>,
        number: u32,
    },
    Directory,
    /// The entry is not part of a tree.
    Ignored,
}

impl Intake {
    fn new(limits: UnpackLimits) -> Self {
        // Greater sizes could not be represented in JSON, and sums could overflow.
        let (entry_size, total_size) = (
            limits.entry_size.min(MAX_SIZE),
            limits.total_size.min(MAX_SIZE),
        );
        let limits = UnpackLimits {
            entry_size,
            total_size,
            ..limits
        };
        Self {
            limits,
            collisions: Collisions::default(),
            entries: 0,
            path_bytes: 0,
            total_size: 0,
            expanded: 0,
            archive_size: 0,
            quiet: 0,
        }
    }

    /// Decides about a name; a name that ends with a slash is that of a directory.
    fn admit(&mut self, name: &str) -> Result<Admission, UnpackFault> {
        if self.entries >= self.limits.entries {
            return Err(UnpackFault::TooManyEntries {
                limit: self.limits.entries,
            });
        }
        self.entries += 1;
        // `tar -c .` writes this before every name.
        let mut path = name;
        while let Some(rest) = path.strip_prefix("./") {
            path = rest;
        }
        if is_ours(path) || is_litter(path) {
            return Ok(Admission::Ignored);
        }
        if let Some(directory) = path.strip_suffix('/') {
            EntryPath::normalize(directory).map_err(UnpackFault::Path)?;
            return Ok(Admission::Directory);
        }
        if path.is_empty() || path == "." {
            // The rest of `./`, the directory itself.
            return if name.ends_with('/') {
                Ok(Admission::Directory)
            } else {
                Err(UnpackFault::Path(EntryPathError::Empty))
            };
        }
        let path = EntryPath::normalize(path)
            .map_err(UnpackFault::Path)?
            .into_owned();
        self.path_bytes += path.as_str().len() as u64;
        if self.path_bytes > self.limits.path_bytes {
            return Err(UnpackFault::PathsTooLong {
                limit: self.limits.path_bytes,
            });
        }
        let number = self
            .collisions
            .insert(&path)
            .map_err(UnpackFault::Collision)?;
        let limit = self.limits.entries.max(FEW_DIRECTORIES);
        if self.collisions.directories() > limit as usize {
            return Err(UnpackFault::TooManyDirectories { limit });
        }
        Ok(Admission::File { path, number })
    }

    /// Returns the number of the earlier file with this name.
    fn earlier(&self, name: &str) -> Option<u32> {
        let path = name.trim_start_matches("./");
        self.collisions.file(&EntryPath::normalize(path).ok()?)
    }

    /// Checks the size in a header before its bytes arrive.
    fn check_size(&self, size: u64) -> Result<(), UnpackFault> {
        if size > self.limits.entry_size {
            return Err(UnpackFault::EntryTooLarge {
                limit: self.limits.entry_size,
            });
        }
        if self.total_size.saturating_add(size) > self.limits.total_size {
            return Err(UnpackFault::TooLarge {
                limit: self.limits.total_size,
            });
        }
        Ok(())
    }

    /// Counts `count` unpacked bytes, after `so_far` of the same entry.
    fn count(&mut self, count: usize, so_far: u64) -> Result<(), UnpackFault> {
        let count = count as u64;
        if so_far.saturating_add(count) > self.limits.entry_size {
            return Err(UnpackFault::EntryTooLarge {
                limit: self.limits.entry_size,
            });
        }
        self.check_size(count)?;
        self.total_size += count;
        Ok(())
    }

    /// Counts bytes from a decompressor or a hole, of any kind.
    fn expand(&mut self, count: u64) -> Result<(), UnpackFault> {
        self.expanded += count;
        self.quiet += count;
        let bound = self
            .archive_size
            .saturating_mul(self.limits.ratio)
            .max(UNSUSPICIOUS_SIZE);
        match self.expanded > bound {
            true => Err(UnpackFault::TooCompressed {
                limit: self.limits.ratio,
            }),
            false => Ok(()),
        }
    }

    fn is_pause_due(&self) -> bool {
        self.quiet >= PAUSE
    }
}

/// Number of unpacked bytes that is always allowed.
const UNSUSPICIOUS_SIZE: u64 = 16 << 20;

/// Maximum number of unpacked bytes without an event.
const PAUSE: u64 = 1 << 20;

/// Maximum number of zeros behind the end: GNU tar fills its last record, of 10 KiB by default.
const MAX_FILLING: u64 = 1 << 20;

/// Skips zeros behind the end, after `so_far` earlier ones. Returns false if more may come.
fn skip_filling(input: &mut Input, so_far: &mut u64) -> Result<bool, UnpackFault> {
    let available = input.available();
    *so_far += available.len() as u64;
    if *so_far > MAX_FILLING || available.iter().any(|byte| *byte != 0) {
        return Err(UnpackFault::TrailingBytes);
    }
    input.skip(available.len());
    Ok(input.is_finished())
}

/// Returns true for the document of the server's archives, and its directory.
fn is_ours(path: &str) -> bool {
    path == DIFF_DOCUMENT_PATH || path.strip_suffix('/') == Some(RESERVED_DIRECTORY)
}
