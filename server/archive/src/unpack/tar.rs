//! Tar: POSIX ustar with pax records, GNU's long names and sparse files, and the older kind without
//! either.

mod extension;
mod sparse;

use std::ops::Range;

use bytes::Bytes;

use self::extension::{Extension, Kind as ExtensionKind};
use self::sparse::{Runs, TextMap};
use super::input::Input;
use super::{Admission, Intake, UnpackEvent, UnpackFault, skip_filling};

#[derive(Debug, Default)]
pub(super) struct Reader {
    state: State,
    /// Values of extension headers for the next entry.
    extension: Extension,
    /// Name of the current entry, for errors.
    name: Option<String>,
    executable: Option<u32>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Header,
    /// Data of an extension header.
    Extension {
        kind: ExtensionKind,
        len: usize,
    },
    /// More blocks with the runs of a sparse file, behind its header.
    MapBlocks(Box<Begun>),
    /// The runs of a sparse file as text, at the beginning of its data.
    MapText(Box<Begun>, TextMap),
    /// Data of an entry.
    Data(Box<Body>),
    /// Zeros up to the next block.
    Padding {
        left: usize,
    },
    /// Behind the first block of zeros, after `filling` further zeros.
    End {
        filling: u64,
    },
    Done,
}

/// An entry after its header, before its data.
#[derive(Debug)]
struct Begun {
    header: Header,
    path: String,
    /// Size in bytes, holes included.
    size: u64,
    /// Unread bytes in the archive, without padding.
    stored: u64,
    runs: Runs,
}

/// An entry while its data arrives.
#[derive(Debug)]
struct Body {
    is_told: bool,
    size: u64,
    /// Number of unpacked bytes.
    so_far: u64,
    runs: Runs,
    /// Number of bytes between the data and the next block.
    padding: usize,
    crc32: crc32fast::Hasher,
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
            // Each step stores the state that it leaves, unless that is the next header.
            let step = match std::mem::take(&mut self.state) {
                State::Header => self.read_header(input, intake)?,
                State::Extension { kind, len } => self.read_extension(kind, len, input)?,
                State::MapBlocks(begun) => self.read_map_block(begun, input, intake)?,
                State::MapText(begun, map) => self.read_map_text(begun, map, input, intake)?,
                State::Data(body) => self.read_data(body, input, intake)?,
                State::Padding { left } => self.read_padding(left, input)?,
                State::End { mut filling } => {
                    if skip_filling(input, &mut filling)? {
                        self.state = State::Done;
                        return Ok(Some(UnpackEvent::End));
                    }
                    self.state = State::End { filling };
                    Step::Starve
                }
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

    fn read_header(&mut self, input: &mut Input, intake: &mut Intake) -> Result<Step, UnpackFault> {
        let Some(bytes) = input.peek(BLOCK)? else {
            return Ok(Step::Starve);
        };
        let block: Block = bytes.try_into().expect("as long as asked for");
        input.skip(BLOCK);
        if block.iter().all(|byte| *byte == 0) {
            if !self.extension.is_empty() {
                return Err(MALFORMED_HEADER);
            }
            self.state = State::End { filling: 0 };
            return Ok(Step::Go);
        }
        let header = Header::read(&block).map_err(|fault| {
            let is_first = intake.entries == 0 && self.name.is_none();
            if is_first {
                UnpackFault::NotAnArchive
            } else {
                fault
            }
        })?;
        let path = self.extension.path().unwrap_or(&header.path);
        self.name = Some(String::from_utf8_lossy(path).into_owned());
        match header.kind {
            b'x' | b'X' => self.begin_extension(ExtensionKind::Pax, header.size),
            b'g' => self.begin_extension(ExtensionKind::PaxGlobal, header.size),
            b'L' => self.begin_extension(ExtensionKind::GnuLongName, header.size),
            b'K' => self.begin_extension(ExtensionKind::GnuLongLink, header.size),
            // Label of a volume of GNU tar.
            b'V' if header.size == 0 => Ok(Step::Go),
            b'0' | 0 | b'7' | b'5' | b'1' | b'S' => self.begin_entry(header, &block, intake),
            b'2' => Err(UnpackFault::Link),
            _ => Err(UnpackFault::NotAFile),
        }
    }

    fn begin_extension(&mut self, kind: ExtensionKind, len: u64) -> Result<Step, UnpackFault> {
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len <= MAX_EXTENSION_BYTES)
            .ok_or(MALFORMED_EXTENSION)?;
        self.state = State::Extension { kind, len };
        Ok(Step::Go)
    }

    fn read_extension(
        &mut self,
        kind: ExtensionKind,
        len: usize,
        input: &mut Input,
    ) -> Result<Step, UnpackFault> {
        let padded = len.next_multiple_of(BLOCK);
        let Some(bytes) = input.peek(padded)? else {
            self.state = State::Extension { kind, len };
            return Ok(Step::Starve);
        };
        self.extension.read(kind, &bytes[..len])?;
        input.skip(padded);
        Ok(Step::Go)
    }

    /// Begins the entry of a header, up to its data.
    fn begin_entry(
        &mut self,
        header: Header,
        block: &Block,
        intake: &mut Intake,
    ) -> Result<Step, UnpackFault> {
        let extension = std::mem::take(&mut self.extension);
        let stored = match extension.size {
            None => header.size,
            Some(size) if size == header.size => size,
            // GNU tar, Python and Go write 0 for a number that does not fit.
            Some(size) if size > MAX_OCTAL_SIZE && header.size == 0 => size,
            // Readers that see different sizes would see different entries behind this one
            // (CVE-2025-62518).
            Some(_) => return Err(UnpackFault::WrongSize),
        };
        let path = extension.path().unwrap_or(&header.path).to_vec();
        let mut path = String::from_utf8(path).map_err(|_| UnpackFault::NameNotUtf8)?;
        if header.kind == b'5' && !path.ends_with('/') {
            path.push('/');
        }
        if header.kind == b'1' {
            let target = extension.link.as_deref().unwrap_or(&header.link);
            return self.end_link(&path, target, &header, intake);
        }
        let mut begun = Box::new(Begun {
            header,
            path,
            size: stored,
            stored,
            runs: Runs::whole(stored),
        });
        if begun.header.kind == b'S' {
            begun.size = number(&block[483..495])?;
            begun.runs = Runs::default();
            begun.runs.push_all(&block[386..482])?;
            if block[482] != 0 {
                self.state = State::MapBlocks(begun);
                return Ok(Step::Go);
            }
        } else if let Some(sparse) = extension.sparse {
            begun.size = sparse.size.ok_or(MALFORMED_EXTENSION)?;
            if sparse.is_map_in_data {
                self.state = State::MapText(begun, TextMap::default());
                return Ok(Step::Go);
            }
            begun.runs = sparse.runs;
        }
        self.admit(*begun, intake)
    }

    fn read_map_block(
        &mut self,
        mut begun: Box<Begun>,
        input: &mut Input,
        intake: &mut Intake,
    ) -> Result<Step, UnpackFault> {
        let Some(block) = input.peek(BLOCK)? else {
            self.state = State::MapBlocks(begun);
            return Ok(Step::Starve);
        };
        begun.runs.push_all(&block[..504])?;
        let goes_on = block[504] != 0;
        input.skip(BLOCK);
        if goes_on {
            self.state = State::MapBlocks(begun);
            return Ok(Step::Go);
        }
        self.admit(*begun, intake)
    }

    fn read_map_text(
        &mut self,
        mut begun: Box<Begun>,
        mut map: TextMap,
        input: &mut Input,
        intake: &mut Intake,
    ) -> Result<Step, UnpackFault> {
        if begun.stored < BLOCK as u64 {
            return Err(MALFORMED_SPARSE);
        }
        let Some(block) = input.peek(BLOCK)? else {
            self.state = State::MapText(begun, map);
            return Ok(Step::Starve);
        };
        let runs = map.read(block)?;
        input.skip(BLOCK);
        begun.stored -= BLOCK as u64;
        match runs {
            None => {
                self.state = State::MapText(begun, map);
                Ok(Step::Go)
            }
            Some(runs) => {
                begun.runs = runs;
                self.admit(*begun, intake)
            }
        }
    }

    /// Decides about an entry before its data.
    fn admit(&mut self, begun: Begun, intake: &mut Intake) -> Result<Step, UnpackFault> {
        let Begun {
            header,
            path,
            size,
            stored,
            runs,
        } = begun;
        runs.check(size, stored)?;
        let admission = intake.admit(&path)?;
        intake.check_size(size)?;
        let (is_told, step) = match admission {
            Admission::Directory if size > 0 => return Err(UnpackFault::DirectoryWithContents),
            Admission::Directory | Admission::Ignored => (false, Step::Go),
            Admission::File { path, number } => {
                self.executable = header.is_executable.then_some(number);
                let size = Some(size);
                (true, Step::Tell(UnpackEvent::Entry { path, size }))
            }
        };
        self.state = State::Data(Box::new(Body {
            is_told,
            size,
            so_far: 0,
            runs,
            padding: padding(stored),
            crc32: crc32fast::Hasher::new(),
        }));
        Ok(step)
    }

    /// Reports a hard link as a copy of its target.
    fn end_link(
        &mut self,
        path: &str,
        target: &[u8],
        header: &Header,
        intake: &mut Intake,
    ) -> Result<Step, UnpackFault> {
        if header.size > 0 {
            return Err(UnpackFault::Unsupported {
                feature: "hard links with contents",
            });
        }
        let target = std::str::from_utf8(target).map_err(|_| UnpackFault::NameNotUtf8)?;
        // Look up the target before adding the link's own name: otherwise the link could be its own
        // target.
        let earlier = intake.earlier(target);
        match intake.admit(path)? {
            Admission::Directory => Err(UnpackFault::NotAFile),
            Admission::Ignored => Ok(Step::Go),
            Admission::File { path, number } => {
                let of = earlier.ok_or_else(|| UnpackFault::HardLink {
                    target: target.chars().take(200).collect(),
                })?;
                self.executable = header.is_executable.then_some(number);
                self.name = None;
                Ok(Step::Tell(UnpackEvent::Copy { path, of }))
            }
        }
    }

    fn read_data(
        &mut self,
        mut body: Box<Body>,
        input: &mut Input,
        intake: &mut Intake,
    ) -> Result<Step, UnpackFault> {
        if body.so_far == body.size {
            self.state = State::Padding { left: body.padding };
            self.name = None;
            return Ok(match body.is_told {
                true => Step::Tell(UnpackEvent::EndOfEntry {
                    size: body.size,
                    crc32: body.crc32.finalize(),
                }),
                false => Step::Go,
            });
        }
        let next = body.runs.next(body.so_far, body.size);
        let bytes = if next.is_hole {
            let len = next.len.min(HOLE.len() as u64);
            intake.expand(len)?;
            Bytes::from_static(&HOLE[..usize::try_from(len).expect("no more than a piece")])
        } else {
            match input.take_up_to(next.len)? {
                Some(bytes) => bytes,
                None => {
                    self.state = State::Data(body);
                    return Ok(Step::Starve);
                }
            }
        };
        intake.count(bytes.len(), body.so_far)?;
        body.so_far += bytes.len() as u64;
        body.crc32.update(&bytes);
        let is_told = body.is_told;
        self.state = State::Data(body);
        Ok(match is_told {
            true => Step::Tell(UnpackEvent::Data(bytes)),
            false => Step::Go,
        })
    }

    fn read_padding(&mut self, left: usize, input: &mut Input) -> Result<Step, UnpackFault> {
        if input.peek(left)?.is_none() {
            self.state = State::Padding { left };
            return Ok(Step::Starve);
        }
        input.skip(left);
        Ok(Step::Go)
    }
}

type Block = [u8; BLOCK];

#[derive(Debug)]
struct Header {
    path: Vec<u8>,
    /// Target of a link.
    link: Vec<u8>,
    size: u64,
    kind: u8,
    is_executable: bool,
}

impl Header {
    fn read(block: &Block) -> Result<Self, UnpackFault> {
        // The checksum counts its own field as spaces; some old tools sum signed bytes.
        let counted = block[..CHECKSUM.start].iter().chain(&block[CHECKSUM.end..]);
        let spaces = 8 * i64::from(b' ');
        let unsigned: i64 = spaces + counted.clone().copied().map(i64::from).sum::<i64>();
        let signed: i64 = spaces
            + counted
                .map(|byte| i64::from(byte.cast_signed()))
                .sum::<i64>();
        let stated = number(&block[CHECKSUM])?;
        if ![unsigned, signed].contains(&i64::try_from(stated).unwrap_or(-1)) {
            return Err(MALFORMED_HEADER);
        }
        let name = until_nul(&block[..100]);
        let prefix = until_nul(&block[345..500]);
        // GNU's own format has the magic `ustar  ` and other values in place of the prefix.
        let path = if block[257..263] == *b"ustar\0" && !prefix.is_empty() {
            [prefix, b"/", name].concat()
        } else {
            name.to_vec()
        };
        Ok(Self {
            path,
            link: until_nul(&block[157..257]).to_vec(),
            size: number(&block[124..136])?,
            kind: block[156],
            is_executable: number(&block[100..108])? & 0o100 != 0,
        })
    }
}

const CHECKSUM: Range<usize> = 148..156;

/// A number in decimal digits.
fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// Reads a number in octal digits, or in GNU's binary form for large ones.
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

/// Maximum length of extension headers in bytes: extended attributes can be long.
const MAX_EXTENSION_BYTES: usize = 1 << 20;

const MALFORMED_HEADER: UnpackFault = UnpackFault::Malformed {
    record: "tar header",
};
const MALFORMED_EXTENSION: UnpackFault = UnpackFault::Malformed {
    record: "extended tar header",
};
const MALFORMED_SPARSE: UnpackFault = UnpackFault::Malformed {
    record: "map of a sparse file",
};

/// Zeros for pieces of a hole.
static HOLE: [u8; 64 * 1024] = [0; 64 * 1024];

/// Result of a step.
enum Step {
    /// Continue with the next step.
    Go,
    /// More bytes are needed.
    Starve,
    Tell(UnpackEvent),
}
