//! Tar: POSIX ustar with pax records, GNU's long names, and the older kind without either.

use std::ops::Range;

use super::input::Input;
use super::{Admission, Intake, UnpackEvent, UnpackFault};

#[derive(Debug, Default)]
pub(super) struct Reader {
    state: State,
    /// What extension headers told of the entry to come.
    extension: Extension,
    /// The entry at hand, for errors.
    name: Option<String>,
    executable: Option<u32>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Header,
    /// An extension header's own data.
    Extension {
        kind: ExtensionKind,
        len: usize,
    },
    /// The data of an entry; `is_told` if there are events for it.
    Data {
        is_told: bool,
        size: u64,
        left: u64,
        crc32: crc32fast::Hasher,
    },
    /// Zeros up to the next block.
    Padding {
        left: usize,
    },
    /// Behind the first block of zeros.
    End,
    Done,
}

#[derive(Debug, Clone, Copy)]
enum ExtensionKind {
    Pax,
    PaxGlobal,
    GnuLongName,
}

#[derive(Debug, Default)]
struct Extension {
    path: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Reader {
    pub(super) fn entry(&self) -> Option<&str> {
        self.name.as_deref()
    }

    pub(super) fn advance(
        &mut self,
        input: &mut Input,
        intake: &mut Intake,
    ) -> Result<Option<UnpackEvent>, UnpackFault> {
        if let Some(number) = self.executable.take() {
            return Ok(Some(UnpackEvent::Executable { number }));
        }
        loop {
            match &mut self.state {
                State::Header => {
                    let Some(bytes) = input.peek(BLOCK)? else {
                        return Ok(None);
                    };
                    let block: Block = bytes.try_into().expect("as long as asked for");
                    input.skip(BLOCK);
                    if let Some(event) = self.begin_entry(&block, intake)? {
                        return Ok(Some(event));
                    }
                }
                State::Extension { kind, len } => {
                    let (kind, len) = (*kind, *len);
                    let Some(bytes) = input.peek(len.next_multiple_of(BLOCK))? else {
                        return Ok(None);
                    };
                    self.extension.read(kind, &bytes[..len])?;
                    input.skip(len.next_multiple_of(BLOCK));
                    self.state = State::Header;
                }
                State::Data {
                    is_told,
                    size,
                    left: 0,
                    crc32,
                } => {
                    let end = UnpackEvent::EndOfEntry {
                        size: *size,
                        crc32: std::mem::take(crc32).finalize(),
                    };
                    let is_told = *is_told;
                    self.state = State::Padding {
                        left: padding(*size),
                    };
                    self.name = None;
                    if is_told {
                        return Ok(Some(end));
                    }
                }
                State::Data {
                    is_told,
                    size,
                    left,
                    crc32,
                } => {
                    let Some(bytes) = input.take_up_to(*left)? else {
                        return Ok(None);
                    };
                    intake.count(bytes.len(), *size - *left)?;
                    *left -= bytes.len() as u64;
                    crc32.update(&bytes);
                    if *is_told {
                        return Ok(Some(UnpackEvent::Data(bytes)));
                    }
                }
                State::Padding { left } => {
                    if input.peek(*left)?.is_none() {
                        return Ok(None);
                    }
                    input.skip(*left);
                    self.state = State::Header;
                }
                State::End => {
                    // Tools fill their last record with zeros.
                    if input.available().iter().any(|byte| *byte != 0) {
                        return Err(UnpackFault::TrailingBytes);
                    }
                    input.skip(input.available().len());
                    if !input.is_finished() {
                        return Ok(None);
                    }
                    self.state = State::Done;
                    return Ok(Some(UnpackEvent::End));
                }
                State::Done => return Ok(None),
            }
        }
    }

    /// Reads a header; an event if it begins a file that is told.
    fn begin_entry(
        &mut self,
        block: &Block,
        intake: &mut Intake,
    ) -> Result<Option<UnpackEvent>, UnpackFault> {
        if block.iter().all(|byte| *byte == 0) {
            if self.extension.path.is_some() || self.extension.size.is_some() {
                return Err(MALFORMED_HEADER);
            }
            self.state = State::End;
            return Ok(None);
        }
        let header = Header::read(block).map_err(|fault| {
            let is_first = intake.entries == 0 && self.name.is_none();
            if is_first {
                UnpackFault::NotAnArchive
            } else {
                fault
            }
        })?;
        self.name = Some(
            String::from_utf8_lossy(self.extension.path.as_deref().unwrap_or(&header.path))
                .into_owned(),
        );

        match header.kind {
            b'x' => return self.begin_extension(ExtensionKind::Pax, header.size),
            b'g' => return self.begin_extension(ExtensionKind::PaxGlobal, header.size),
            b'L' => return self.begin_extension(ExtensionKind::GnuLongName, header.size),
            b'0' | 0 | b'7' | b'5' => {}
            b'1' | b'2' | b'K' => return Err(UnpackFault::Link),
            b'S' => return Err(SPARSE),
            _ => return Err(UnpackFault::NotAFile),
        }
        let Extension { path, size } = std::mem::take(&mut self.extension);
        let path = path.unwrap_or(header.path);
        let mut path = String::from_utf8(path).map_err(|_| UnpackFault::NameNotUtf8)?;
        if header.kind == b'5' && !path.ends_with('/') {
            path.push('/');
        }
        let size = match size {
            None => header.size,
            Some(size) if size == header.size => size,
            // What GNU tar, Python and Go write when the number does not fit.
            Some(size) if size > MAX_OCTAL_SIZE && header.size == 0 => size,
            // Readers that see different sizes would see different entries behind this one (CVE-2025-62518).
            Some(_) => return Err(UnpackFault::WrongSize),
        };
        let admission = intake.admit(&path)?;
        intake.check_size(size)?;
        let crc32 = crc32fast::Hasher::new();
        match admission {
            Admission::Directory if size > 0 => Err(UnpackFault::DirectoryWithContents),
            Admission::Directory | Admission::Ignored => {
                self.state = State::Data {
                    is_told: false,
                    size,
                    left: size,
                    crc32,
                };
                Ok(None)
            }
            Admission::File { path, number } => {
                self.state = State::Data {
                    is_told: true,
                    size,
                    left: size,
                    crc32,
                };
                self.executable = header.is_executable.then_some(number);
                Ok(Some(UnpackEvent::Entry {
                    path,
                    size: Some(size),
                }))
            }
        }
    }

    fn begin_extension(
        &mut self,
        kind: ExtensionKind,
        len: u64,
    ) -> Result<Option<UnpackEvent>, UnpackFault> {
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= MAX_EXTENSION_BYTES)
            .ok_or(MALFORMED_EXTENSION)?;
        self.state = State::Extension { kind, len };
        Ok(None)
    }
}

impl Extension {
    fn read(&mut self, kind: ExtensionKind, bytes: &[u8]) -> Result<(), UnpackFault> {
        match kind {
            ExtensionKind::GnuLongName => {
                self.path = Some(until_nul(bytes).to_vec());
                Ok(())
            }
            ExtensionKind::Pax | ExtensionKind::PaxGlobal => self.read_records(kind, bytes),
        }
    }

    fn read_records(&mut self, kind: ExtensionKind, mut bytes: &[u8]) -> Result<(), UnpackFault> {
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes).ok_or(MALFORMED_EXTENSION)?;
            bytes = rest;
            let is_of_one_entry = matches!(key, b"path" | b"size");
            if is_of_one_entry && matches!(kind, ExtensionKind::PaxGlobal) {
                return Err(UnpackFault::Unsupported {
                    feature: "paths and sizes for all entries",
                });
            }
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or(MALFORMED_EXTENSION)?),
                _ if key.starts_with(b"GNU.sparse") => return Err(SPARSE),
                // Times, owners, extended attributes: nothing that a tree has.
                _ => {}
            }
        }
        Ok(())
    }
}

type Block = [u8; BLOCK];

struct Header {
    path: Vec<u8>,
    size: u64,
    kind: u8,
    is_executable: bool,
}

impl Header {
    fn read(block: &Block) -> Result<Self, UnpackFault> {
        let sum: u64 = block.iter().copied().map(u64::from).sum();
        let own: u64 = block[CHECKSUM].iter().copied().map(u64::from).sum();
        // The checksum counts itself as spaces.
        if number(&block[CHECKSUM])? != sum - own + 8 * u64::from(b' ') {
            return Err(MALFORMED_HEADER);
        }
        let name = until_nul(&block[..100]);
        let prefix = until_nul(&block[345..500]);
        // GNU's own format says `ustar  ` and has other things in the place of the prefix.
        let path = if block[257..263] == *b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        };
        Ok(Self {
            path,
            size: number(&block[124..136])?,
            kind: block[156],
            is_executable: number(&block[100..108])? & 0o100 != 0,
        })
    }
}

const CHECKSUM: Range<usize> = 148..156;

/// A number in octal digits, or in GNU's binary form for large ones.
fn number(field: &[u8]) -> Result<u64, UnpackFault> {
    if let Some((0x80, rest)) = field.split_first() {
        return rest
            .iter()
            .try_fold(0_u64, |number, byte| {
                Some(number.checked_mul(256)? | u64::from(*byte))
            })
            .ok_or(MALFORMED_HEADER);
    }
    let text = field.trim_ascii_start();
    let end = text
        .iter()
        .position(|byte| matches!(byte, 0 | b' '))
        .unwrap_or(text.len());
    text[..end]
        .iter()
        .try_fold(0_u64, |number, byte| match byte {
            b'0'..=b'7' => number
                .checked_mul(8)
                .map(|number| number | u64::from(byte - b'0'))
                .ok_or(MALFORMED_HEADER),
            _ => Err(MALFORMED_HEADER),
        })
}

/// Splits `LENGTH KEY=VALUE` and a line feed off, where the length counts itself.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len())]
}

fn padding(size: u64) -> usize {
    usize::try_from(size.next_multiple_of(BLOCK as u64) - size).expect("less than a block")
}

const BLOCK: usize = 512;

const MAX_OCTAL_SIZE: u64 = 0o77_777_777_777;

/// Extended attributes can be long; nobody's names are.
const MAX_EXTENSION_BYTES: usize = 1 << 20;

const MALFORMED_HEADER: UnpackFault = UnpackFault::Malformed {
    record: "tar header",
};
const MALFORMED_EXTENSION: UnpackFault = UnpackFault::Malformed {
    record: "extended tar header",
};
const SPARSE: UnpackFault = UnpackFault::Unsupported {
    feature: "sparse files",
};
