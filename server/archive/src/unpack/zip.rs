//! Unpacks zips from front to back, as they arrive (APPNOTE 6.3.10).
//!
//! Zips are designed to be read from their central directory, at the end. Here entries are read
//! from their local headers first, and then each record of the central directory must repeat one of
//! them: name, offset, method, sizes and CRC-32. So readers of the central directory see the same
//! files.
//!
//! The size of an entry may also follow its data (bit 3). A deflate stream marks its own end, so
//! that works; a stored entry without a size in its header cannot be read this way and is refused.

mod name;

use std::fmt;

use bytes::Bytes;
use flate2::{Decompress, FlushDecompress, Status};
use sha2::{Digest as _, Sha256};

use self::name::decode_name;
use super::input::Input;
use super::{Admission, Intake, UnpackEvent, UnpackFault, skip_filling};

#[derive(Debug, Default)]
pub(super) struct Reader {
    state: State,
    /// Entries in the order of the offsets of their local headers.
    seen: Vec<Seen>,
    /// Number of entries that the central directory has yet to confirm.
    unconfirmed: usize,
    directory: Option<Directory>,
    zip64_end: Option<Zip64End>,
    inflate: Inflate,
    /// Name of the current entry, for errors.
    name: Option<String>,
}

#[derive(Debug, Default)]
enum State {
    /// At a signature.
    #[default]
    Record,
    /// In the stored form of an entry.
    Data(Box<Current>),
    /// At the data descriptor of an entry.
    Descriptor(Box<Current>),
    /// In the comment at the end.
    Comment {
        left: usize,
        filling: u64,
    },
    Done,
}

/// The current entry.
#[derive(Debug)]
struct Current {
    header: LocalHeader,
    /// Offset of the header.
    offset: u64,
    admission: Admission,
    /// Number of bytes of the stored form so far.
    stored: u64,
    /// Number of bytes of the content so far.
    size: u64,
    crc32: crc32fast::Hasher,
}

#[derive(Debug)]
struct LocalHeader {
    name: NameHash,
    is_directory: bool,
    method: Method,
    /// True if CRC-32 and sizes follow the data.
    has_descriptor: bool,
    crc32: u32,
    sizes: Sizes,
}

/// First half of the SHA-256 of a name: sufficient to identify it.
type NameHash = [u8; 16];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Stored,
    Deflated,
}

/// Facts of an entry that the central directory must repeat.
struct Facts {
    name: NameHash,
    method: Method,
    crc32: u32,
    stored: u64,
    size: u64,
}

/// An entry that was read, in little memory: there may be a million.
#[derive(Debug)]
struct Seen {
    /// Offset of the local header.
    offset: u64,
    facts: FactsHash,
    kind: SeenKind,
    is_confirmed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeenKind {
    /// A reported file, by its number.
    File(u32),
    Directory,
    Ignored,
}

/// First half of a SHA-256, as of a name.
type FactsHash = [u8; 16];

impl Facts {
    fn hash(&self) -> FactsHash {
        let Self {
            name,
            method,
            crc32,
            stored,
            size,
        } = self;
        let mut bytes = name.to_vec();
        bytes.push(match method {
            Method::Stored => 0,
            Method::Deflated => 8,
        });
        bytes.extend(crc32.to_le_bytes());
        bytes.extend(stored.to_le_bytes());
        bytes.extend(size.to_le_bytes());
        hash_of(&bytes)
    }
}

#[derive(Debug)]
struct Directory {
    /// Offset of the central directory.
    begin: u64,
    /// Number of records so far.
    records: u64,
}

#[derive(Debug)]
struct Zip64End {
    /// Offset of the record, which is also the end of the central directory.
    offset: u64,
    is_located: bool,
}

/// Result of a step.
enum Step {
    /// Continue with the next step.
    Go,
    /// More bytes are needed.
    Starve,
    Tell(UnpackEvent),
}

impl Reader {
    pub(super) fn entry(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Returns the approximate memory of the entries, in bytes.
    pub(super) fn memory(&self) -> usize {
        self.seen.capacity() * size_of::<Seen>()
    }

    pub(super) fn advance(
        &mut self,
        input: &mut Input,
        intake: &mut Intake,
    ) -> Result<Option<UnpackEvent>, UnpackFault> {
        loop {
            intake.archive_size = input.consumed();
            // Each step stores the state that it leaves, unless that is the next record.
            let step = match std::mem::take(&mut self.state) {
                State::Record => self.read_record(input, intake)?,
                State::Data(current) => self.read_data(current, input, intake)?,
                State::Descriptor(current) => self.read_descriptor(current, input)?,
                State::Comment { left, filling } => self.read_comment(left, filling, input)?,
                State::Done => {
                    self.state = State::Done;
                    Step::Starve
                }
            };
            match step {
                Step::Go if intake.is_pause_due() => return Ok(Some(UnpackEvent::Pause)),
                Step::Go => {}
                Step::Starve => return Ok(None),
                Step::Tell(event) => return Ok(Some(event)),
            }
        }
    }

    fn read_record(&mut self, input: &mut Input, intake: &mut Intake) -> Result<Step, UnpackFault> {
        let Some(signature) = input.peek(4)? else {
            return Ok(Step::Starve);
        };
        let zip64_end = self.zip64_end.as_ref();
        match signature {
            b"PK\x03\x04" if self.directory.is_none() => self.read_local_header(input, intake),
            b"PK\x01\x02" if zip64_end.is_none() => self.read_central_header(input),
            b"PK\x06\x06" if zip64_end.is_none() => self.read_zip64_end(input),
            b"PK\x06\x07" if zip64_end.is_some_and(|end| !end.is_located) => {
                self.read_zip64_locator(input)
            }
            b"PK\x05\x06" if zip64_end.is_none_or(|end| end.is_located) => self.read_end(input),
            _ => Err(UnpackFault::Malformed {
                record: "sequence of zip records",
            }),
        }
    }

    fn read_local_header(
        &mut self,
        input: &mut Input,
        intake: &mut Intake,
    ) -> Result<Step, UnpackFault> {
        let Some(fixed) = input.peek(30)? else {
            return Ok(Step::Starve);
        };
        let (name_len, extra_len) = (len_at(fixed, 26), len_at(fixed, 28));
        let len = 30 + name_len + extra_len;
        let Some(record) = input.peek(len)? else {
            return Ok(Step::Starve);
        };
        let (name, extra) = record[30..].split_at(name_len);
        self.name = Some(String::from_utf8_lossy(name).into_owned());

        let flags = u16_at(record, 6);
        let path = decode_name(name, flags & HAS_UTF8_NAME != 0, extra)?;
        self.name = Some(path.clone());
        let has_descriptor = flags & HAS_DESCRIPTOR != 0;
        let mut sizes = Sizes {
            size: u32_at(record, 22).into(),
            stored: u32_at(record, 18).into(),
            offset: 0,
        };
        let header = LocalHeader {
            name: hash_of(name),
            is_directory: path.ends_with('/'),
            method: method_of(flags, u16_at(record, 8))?,
            has_descriptor,
            crc32: u32_at(record, 14),
            sizes: {
                sizes.widen(extra)?;
                sizes
            },
        };
        let admission = intake.admit(&path)?;
        if !has_descriptor {
            intake.check_size(header.sizes.size)?;
        }
        let event = match &admission {
            Admission::File { path, .. } => {
                let size = (!has_descriptor).then_some(header.sizes.size);
                Step::Tell(UnpackEvent::Entry {
                    path: path.clone(),
                    size,
                })
            }
            Admission::Directory | Admission::Ignored => Step::Go,
        };
        let (offset, crc32) = (input.consumed(), crc32fast::Hasher::new());
        input.skip(len);
        self.inflate.reset();
        self.state = State::Data(Box::new(Current {
            header,
            offset,
            admission,
            stored: 0,
            size: 0,
            crc32,
        }));
        Ok(event)
    }

    /// Takes the next bytes of an entry's content out of its data. Returns them and whether they are
    /// the last; `None` where more input is needed.
    fn next_bytes(
        &mut self,
        current: &mut Current,
        input: &mut Input,
    ) -> Result<Option<(Bytes, bool)>, UnpackFault> {
        let header = &current.header;
        let left = header.sizes.stored.saturating_sub(current.stored);
        match header.method {
            Method::Stored if left == 0 => Ok(Some((Bytes::new(), true))),
            Method::Stored => Ok(input.take_up_to(left)?.map(|bytes| {
                current.stored += bytes.len() as u64;
                (bytes, false)
            })),
            Method::Deflated => {
                let left = if header.has_descriptor {
                    u64::MAX
                } else {
                    left
                };
                let inflated = self.inflate.advance(input, left)?;
                Ok(inflated.map(|inflated| {
                    current.stored += inflated.consumed;
                    (inflated.bytes, inflated.is_last)
                }))
            }
        }
    }

    fn read_data(
        &mut self,
        mut current: Box<Current>,
        input: &mut Input,
        intake: &mut Intake,
    ) -> Result<Step, UnpackFault> {
        let Some((bytes, is_last)) = self.next_bytes(&mut current, input)? else {
            self.state = State::Data(current);
            return Ok(Step::Starve);
        };
        intake.count(bytes.len(), current.size)?;
        intake.expand(bytes.len() as u64)?;
        current.size += bytes.len() as u64;
        current.crc32.update(&bytes);
        if matches!(current.admission, Admission::Directory) && current.size > 0 {
            return Err(UnpackFault::DirectoryWithContents);
        }
        if !current.header.has_descriptor && current.size > current.header.sizes.size {
            return Err(UnpackFault::WrongSize);
        }
        let is_told = matches!(current.admission, Admission::File { .. }) && !bytes.is_empty();
        match (is_last, is_told) {
            // The last bytes first, then the end of the stream once more.
            (true, true) => {
                self.inflate.has_ended = true;
                self.state = State::Data(current);
            }
            (true, false) if current.header.has_descriptor => {
                self.state = State::Descriptor(current)
            }
            (true, false) => {
                let Sizes { size, stored, .. } = current.header.sizes;
                let crc32 = current.header.crc32;
                return self.end_entry(
                    *current,
                    Trailer {
                        crc32,
                        stored,
                        size,
                    },
                );
            }
            (false, _) => self.state = State::Data(current),
        }
        Ok(if is_told {
            Step::Tell(UnpackEvent::Data(bytes))
        } else {
            Step::Go
        })
    }

    /// Reads what follows an entry's data: CRC-32 and sizes, in 4 or 8 bytes each, with a signature
    /// or without.
    ///
    /// The numbers, which are known by now, identify the one of four forms. The longer ones are
    /// tried first: a short one is followed by the signature of the next record, never by a
    /// number's upper half of zero.
    fn read_descriptor(
        &mut self,
        current: Box<Current>,
        input: &mut Input,
    ) -> Result<Step, UnpackFault> {
        // At least this much always follows, since the end record alone has 22 bytes.
        let Some(bytes) = input.peek(24)? else {
            self.state = State::Descriptor(current);
            return Ok(Step::Starve);
        };
        let trailer = Trailer {
            crc32: current.crc32.clone().finalize(),
            stored: current.stored,
            size: current.size,
        };
        let found = [(true, true), (true, false), (false, true), (false, false)]
            .map(|(has_signature, is_zip64)| trailer.descriptor(has_signature, is_zip64))
            .into_iter()
            .find(|descriptor| bytes.starts_with(descriptor));
        match (found, current.header.method) {
            (Some(descriptor), Method::Stored | Method::Deflated) => {
                input.skip(descriptor.len());
                self.end_entry(*current, trailer)
            }
            (None, Method::Stored) => Err(UnpackFault::UnknownLength),
            (None, Method::Deflated) => Err(UnpackFault::WrongCrc32),
        }
    }

    /// Ends an entry with the values stated before or after its data.
    fn end_entry(&mut self, current: Current, said: Trailer) -> Result<Step, UnpackFault> {
        let crc32 = current.crc32.finalize();
        if current.size != said.size || current.stored != said.stored {
            return Err(UnpackFault::WrongSize);
        }
        if crc32 != said.crc32 {
            return Err(UnpackFault::WrongCrc32);
        }
        let LocalHeader {
            name,
            is_directory,
            method,
            ..
        } = current.header;
        let (stored, size) = (said.stored, said.size);
        let kind = match current.admission {
            Admission::File { number, .. } => SeenKind::File(number),
            Admission::Directory | Admission::Ignored if is_directory => SeenKind::Directory,
            Admission::Directory | Admission::Ignored => SeenKind::Ignored,
        };
        let facts = Facts {
            name,
            method,
            crc32,
            stored,
            size,
        };
        self.seen.push(Seen {
            offset: current.offset,
            facts: facts.hash(),
            kind,
            is_confirmed: false,
        });
        self.unconfirmed += 1;
        self.name = None;
        Ok(match kind {
            SeenKind::File(_) => Step::Tell(UnpackEvent::EndOfEntry { size, crc32 }),
            SeenKind::Directory | SeenKind::Ignored => Step::Go,
        })
    }

    fn read_central_header(&mut self, input: &mut Input) -> Result<Step, UnpackFault> {
        let Some(fixed) = input.peek(46)? else {
            return Ok(Step::Starve);
        };
        let (name_len, extra_len, comment_len) =
            (len_at(fixed, 28), len_at(fixed, 30), len_at(fixed, 32));
        let len = 46 + name_len + extra_len + comment_len;
        let Some(record) = input.peek(len)? else {
            return Ok(Step::Starve);
        };
        let (name, rest) = record[46..].split_at(name_len);
        self.name = Some(String::from_utf8_lossy(name).into_owned());

        let mut sizes = Sizes {
            size: u32_at(record, 24).into(),
            stored: u32_at(record, 20).into(),
            offset: u32_at(record, 42).into(),
        };
        sizes.widen(&rest[..extra_len])?;
        let facts = Facts {
            name: hash_of(name),
            method: method_of(u16_at(record, 8), u16_at(record, 10))?,
            crc32: u32_at(record, 16),
            stored: sizes.stored,
            size: sizes.size,
        };
        let kind = self.confirm(sizes.offset, &facts)?;
        let is_unix = matches!(record[5], HOST_UNIX | HOST_DARWIN);
        let mode = if is_unix { u32_at(record, 38) >> 16 } else { 0 };
        match mode >> 12 {
            0 | 0o10 => {}
            0o04 if kind == SeenKind::Directory => {}
            0o12 => return Err(UnpackFault::Link),
            _ => return Err(UnpackFault::NotAFile),
        }
        self.directory_at(input.consumed()).records += 1;
        input.skip(len);
        self.name = None;
        Ok(match kind {
            SeenKind::File(number) if mode & 0o100 != 0 => {
                Step::Tell(UnpackEvent::Executable { number })
            }
            SeenKind::File(_) | SeenKind::Directory | SeenKind::Ignored => Step::Go,
        })
    }

    /// Confirms the entry with the header at `offset`, once.
    fn confirm(&mut self, offset: u64, facts: &Facts) -> Result<SeenKind, UnpackFault> {
        let index = self.seen.binary_search_by_key(&offset, |seen| seen.offset);
        let seen = &mut self.seen[index.map_err(|_| UnpackFault::Inconsistent)?];
        if seen.is_confirmed || seen.facts != facts.hash() {
            return Err(UnpackFault::Inconsistent);
        }
        seen.is_confirmed = true;
        self.unconfirmed -= 1;
        Ok(seen.kind)
    }

    fn read_zip64_end(&mut self, input: &mut Input) -> Result<Step, UnpackFault> {
        let Some(record) = input.peek(56)? else {
            return Ok(Step::Starve);
        };
        let rest = usize::try_from(u64_at(record, 4))
            .ok()
            .filter(|rest| (44..=MAX_ZIP64_END).contains(rest));
        let len = 12 + rest.ok_or(MALFORMED_END)?;
        let Some(record) = input.peek(len)? else {
            return Ok(Step::Starve);
        };

        let is_split = u32_at(record, 16) != 0 || u32_at(record, 20) != 0;
        let (here, all, size, begin) = (
            u64_at(record, 24),
            u64_at(record, 32),
            u64_at(record, 40),
            u64_at(record, 48),
        );
        let offset = input.consumed();
        let directory = self.directory_at(offset);
        if is_split || here != all {
            return Err(SPLIT);
        }
        if (all, begin, size) != (directory.records, directory.begin, offset - directory.begin) {
            return Err(UnpackFault::Inconsistent);
        }
        input.skip(len);
        self.zip64_end = Some(Zip64End {
            offset,
            is_located: false,
        });
        Ok(Step::Go)
    }

    fn read_zip64_locator(&mut self, input: &mut Input) -> Result<Step, UnpackFault> {
        let Some(record) = input.peek(20)? else {
            return Ok(Step::Starve);
        };
        let (disk, offset, disks) = (u32_at(record, 4), u64_at(record, 8), u32_at(record, 16));
        if disk != 0 || disks > 1 {
            return Err(SPLIT);
        }
        let end = self
            .zip64_end
            .as_mut()
            .filter(|end| end.offset == offset)
            .ok_or(UnpackFault::Inconsistent)?;
        end.is_located = true;
        input.skip(20);
        Ok(Step::Go)
    }

    fn read_end(&mut self, input: &mut Input) -> Result<Step, UnpackFault> {
        let Some(record) = input.peek(22)? else {
            return Ok(Step::Starve);
        };
        let (disk, first_disk) = (u16_at(record, 4), u16_at(record, 6));
        let (here, all) = (u64::from(u16_at(record, 8)), u64::from(u16_at(record, 10)));
        let (size, begin) = (u64::from(u32_at(record, 12)), u64::from(u32_at(record, 16)));
        let comment_len = len_at(record, 20);

        let directory_end = self
            .zip64_end
            .as_ref()
            .map_or(input.consumed(), |end| end.offset);
        let directory = self.directory_at(directory_end);
        // A number in the zip64 record may be missing here; `zip -fz -` omits it even without the
        // record.
        let fits = |said: u64, actual: u64, max: u64| said == actual || said == max;
        if disk != first_disk || !fits(disk.into(), 0, u16::MAX.into()) || here != all {
            return Err(SPLIT);
        }
        if !fits(all, directory.records, u16::MAX.into())
            || !fits(begin, directory.begin, u32::MAX.into())
            || !fits(size, directory_end - directory.begin, u32::MAX.into())
            || self.unconfirmed > 0
        {
            return Err(UnpackFault::Inconsistent);
        }
        input.skip(22);
        self.state = State::Comment {
            left: comment_len,
            filling: 0,
        };
        Ok(Step::Go)
    }

    fn read_comment(
        &mut self,
        left: usize,
        mut filling: u64,
        input: &mut Input,
    ) -> Result<Step, UnpackFault> {
        let there = left.min(input.available().len());
        input.skip(there);
        // `bsdtar` fills its last record with zeros, for zips as well.
        if !skip_filling(input, &mut filling)? {
            let left = left - there;
            self.state = State::Comment { left, filling };
            return Ok(Step::Starve);
        }
        if there < left {
            return Err(UnpackFault::Truncated);
        }
        self.state = State::Done;
        Ok(Step::Tell(UnpackEvent::End))
    }

    /// Returns the central directory; it begins at `offset` unless it has begun.
    fn directory_at(&mut self, offset: u64) -> &mut Directory {
        self.directory.get_or_insert(Directory {
            begin: offset,
            records: 0,
        })
    }
}

/// Sizes and offset of a record, wide enough for zip64.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    size: u64,
    stored: u64,
    offset: u64,
}

impl Sizes {
    /// Replaces numbers with all bits set by those of the zip64 field.
    fn widen(&mut self, mut extra: &[u8]) -> Result<(), UnpackFault> {
        let wide = [&mut self.size, &mut self.stored, &mut self.offset];
        let mut wide = wide
            .into_iter()
            .filter(|number| **number == u64::from(u32::MAX))
            .peekable();
        if wide.peek().is_none() {
            return Ok(());
        }
        // Other fields, and padding that is no field, are ignored.
        while let Some((head, rest)) = extra.split_at_checked(4) {
            let (data, rest) = rest
                .split_at_checked(len_at(head, 2))
                .ok_or(MALFORMED_ZIP64_FIELD)?;
            extra = rest;
            if u16_at(head, 0) == ZIP64_FIELD {
                let mut numbers = data.chunks_exact(8);
                for number in wide {
                    *number = u64_at(numbers.next().ok_or(MALFORMED_ZIP64_FIELD)?, 0);
                }
                return Ok(());
            }
        }
        // Without the field, the number is literal.
        Ok(())
    }
}

/// CRC-32 and sizes of an entry.
struct Trailer {
    crc32: u32,
    stored: u64,
    size: u64,
}

impl Trailer {
    /// Writes the data descriptor with these values.
    fn descriptor(&self, has_signature: bool, is_zip64: bool) -> Vec<u8> {
        let mut descriptor = Vec::with_capacity(24);
        if has_signature {
            descriptor.extend_from_slice(b"PK\x07\x08");
        }
        descriptor.extend_from_slice(&self.crc32.to_le_bytes());
        for number in [self.stored, self.size] {
            let bytes = number.to_le_bytes();
            descriptor.extend_from_slice(if is_zip64 { &bytes } else { &bytes[..4] });
        }
        descriptor
    }
}

/// Inflater of consecutive streams.
struct Inflate {
    stream: Decompress,
    has_ended: bool,
}

/// Result of a step of inflating.
struct Inflated {
    bytes: Bytes,
    /// Number of consumed bytes of the stream.
    consumed: u64,
    is_last: bool,
}

impl Inflate {
    fn reset(&mut self) {
        self.stream.reset(false);
        self.has_ended = false;
    }

    /// Inflates at most `left` bytes of the input; `None` if more input is needed.
    fn advance(&mut self, input: &mut Input, left: u64) -> Result<Option<Inflated>, UnpackFault> {
        if self.has_ended {
            return Ok(Some(Inflated {
                bytes: Bytes::new(),
                consumed: 0,
                is_last: true,
            }));
        }
        let there = input.available();
        let there = &there[..usize::try_from(left).unwrap_or(usize::MAX).min(there.len())];
        let before = self.stream.total_in();
        let mut bytes = Vec::with_capacity(INFLATE_CHUNK);
        let status = self
            .stream
            .decompress_vec(there, &mut bytes, FlushDecompress::None)
            .map_err(|_| UnpackFault::Damaged)?;
        let consumed = self.stream.total_in() - before;
        input.skip(usize::try_from(consumed).expect("no more than was there"));
        let is_last = status == Status::StreamEnd;
        if consumed == 0 && bytes.is_empty() && !is_last {
            if left == 0 {
                return Err(UnpackFault::Damaged);
            }
            // Fails if no more bytes can arrive.
            input.peek(1)?;
            return Ok(None);
        }
        Ok(Some(Inflated {
            bytes: bytes.into(),
            consumed,
            is_last,
        }))
    }
}

impl Default for Inflate {
    fn default() -> Self {
        Self {
            stream: Decompress::new(false),
            has_ended: false,
        }
    }
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate")
            .field("total_out", &self.stream.total_out())
            .finish_non_exhaustive()
    }
}

fn method_of(flags: u16, method: u16) -> Result<Method, UnpackFault> {
    if flags & IS_ENCRYPTED != 0 {
        return Err(UnpackFault::Encrypted);
    }
    match method {
        0 => Ok(Method::Stored),
        8 => Ok(Method::Deflated),
        method => Err(UnpackFault::UnsupportedMethod { method }),
    }
}

fn hash_of(name: &[u8]) -> NameHash {
    let mut hash = NameHash::default();
    hash.copy_from_slice(&Sha256::digest(name)[..16]);
    hash
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn len_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    *bytes[at..]
        .first_chunk()
        .expect("the record was peeked at its full length")
}

const HAS_DESCRIPTOR: u16 = 1 << 3;
const HAS_UTF8_NAME: u16 = 1 << 11;
/// Flags of encryption, strong encryption, and masked headers.
const IS_ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const ZIP64_FIELD: u16 = 1;
const HOST_UNIX: u8 = 3;
const HOST_DARWIN: u8 = 19;

/// Maximum length of the zip64 end record with its extensible data, which tools do not write.
const MAX_ZIP64_END: usize = 64 * 1024;

const INFLATE_CHUNK: usize = 64 * 1024;

const SPLIT: UnpackFault = UnpackFault::Unsupported {
    feature: "archives in several parts",
};
const MALFORMED_END: UnpackFault = UnpackFault::Malformed {
    record: "zip64 end record",
};
const MALFORMED_ZIP64_FIELD: UnpackFault = UnpackFault::Malformed {
    record: "zip64 field",
};
