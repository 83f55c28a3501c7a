//! Headers that precede an entry's own: pax records, and GNU's long names.

use super::sparse::Runs;
use super::{MALFORMED_EXTENSION, decimal, until_nul};
use crate::unpack::UnpackFault;

/// Values of the next entry.
#[derive(Debug, Default)]
pub(super) struct Extension {
    path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    /// Size of the stored data, in bytes.
    pub(super) size: Option<u64>,
    pub(super) sparse: Option<Sparse>,
}

/// A sparse file in pax records of GNU tar and bsdtar.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    /// Name of the file; the header's own path is one that other tools do not mistake for the
    /// complete file.
    name: Option<Vec<u8>>,
    /// Size in bytes, holes included.
    pub(super) size: Option<u64>,
    pub(super) runs: Runs,
    /// Start of a run before its length arrives.
    start: Option<u64>,
    /// In the form 1.0, the runs are at the beginning of the data.
    pub(super) is_map_in_data: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pax,
    PaxGlobal,
    GnuLongName,
    GnuLongLink,
}

impl Extension {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            path,
            link,
            size,
            sparse,
        } = self;
        path.is_none() && link.is_none() && size.is_none() && sparse.is_none()
    }

    pub(super) fn path(&self) -> Option<&Vec<u8>> {
        let of_sparse = self.sparse.as_ref().and_then(|sparse| sparse.name.as_ref());
        of_sparse.or(self.path.as_ref())
    }

    pub(super) fn read(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), UnpackFault> {
        match kind {
            Kind::GnuLongName => self.path = Some(until_nul(bytes).to_vec()),
            Kind::GnuLongLink => self.link = Some(until_nul(bytes).to_vec()),
            Kind::Pax | Kind::PaxGlobal => return self.read_records(kind, bytes),
        }
        Ok(())
    }

    fn read_records(&mut self, kind: Kind, mut bytes: &[u8]) -> Result<(), UnpackFault> {
        while !bytes.is_empty() {
            let (key, value, rest) = split_record(bytes).ok_or(MALFORMED_EXTENSION)?;
            bytes = rest;
            let is_of_one_entry =
                matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.");
            if is_of_one_entry && kind == Kind::PaxGlobal {
                return Err(UnpackFault::Unsupported {
                    feature: "paths and sizes for all entries",
                });
            }
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(decimal(value).ok_or(MALFORMED_EXTENSION)?),
                _ => {
                    if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                        let sparse = self.sparse.get_or_insert_default();
                        sparse.read(key, value)?;
                    }
                    // Times, owners, extended attributes: not part of a tree.
                }
            }
        }
        Ok(())
    }
}

impl Sparse {
    /// Reads a record of the forms 0.0 (`size`, and `offset` and `numbytes` for each run), 0.1
    /// (`size`, `name`, `map`) and 1.0 (`major`, `minor`, `name`, `realsize`).
    fn read(&mut self, key: &[u8], value: &[u8]) -> Result<(), UnpackFault> {
        let number = || decimal(value).ok_or(MALFORMED_EXTENSION);
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"offset" => self.start = Some(number()?),
            b"numbytes" => {
                let start = self.start.take().ok_or(MALFORMED_EXTENSION)?;
                self.runs.push(start, number()?)?;
            }
            b"map" => {
                let mut numbers = value.split(|byte| *byte == b',').map(decimal);
                while let Some(start) = numbers.next() {
                    let (start, len) = start
                        .zip(numbers.next().flatten())
                        .ok_or(MALFORMED_EXTENSION)?;
                    self.runs.push(start, len)?;
                }
            }
            b"major" => match value {
                b"1" => self.is_map_in_data = true,
                b"0" => {}
                _ => {
                    return Err(UnpackFault::Unsupported {
                        feature: "sparse files of this form",
                    });
                }
            },
            // `minor` and `numblocks` are redundant.
            _ => {}
        }
        Ok(())
    }
}

/// Splits off `LENGTH KEY=VALUE` and a line feed. The length includes itself.
fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let len = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let record = bytes.get(space + 1..len)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], &bytes[len..]))
}
