//! Sparse files: the runs of bytes that an archive stores.

use std::collections::VecDeque;

use super::{MALFORMED_SPARSE, decimal, number};
use crate::unpack::UnpackFault;

/// Runs of bytes in ascending order, with zeros between them.
#[derive(Debug, Default)]
pub(super) struct Runs(VecDeque<Run>);

#[derive(Debug, Clone, Copy)]
struct Run {
    start: u64,
    len: u64,
}

/// Next part of a file.
pub(super) struct Next {
    pub(super) is_hole: bool,
    /// Length in bytes; not 0.
    pub(super) len: u64,
}

impl Runs {
    /// Returns the single run of a file without holes.
    pub(super) fn whole(size: u64) -> Self {
        Self(VecDeque::from([Run {
            start: 0,
            len: size,
        }]))
    }

    pub(super) fn push(&mut self, start: u64, len: u64) -> Result<(), UnpackFault> {
        let before = self.0.back().map_or(0, |run| run.start + run.len);
        let fits = start >= before && start.checked_add(len).is_some();
        if !fits || self.0.len() >= MAX_RUNS {
            return Err(MALFORMED_SPARSE);
        }
        // An empty run marks a hole at the end.
        if len > 0 {
            self.0.push_back(Run { start, len });
        }
        Ok(())
    }

    /// Adds runs of GNU's old form: pairs of numbers of 12 characters, up to one that begins with
    /// NUL.
    pub(super) fn push_all(&mut self, pairs: &[u8]) -> Result<(), UnpackFault> {
        for pair in pairs.chunks_exact(24).take_while(|pair| pair[0] != 0) {
            self.push(number(&pair[..12])?, number(&pair[12..])?)?;
        }
        Ok(())
    }

    /// Checks that the runs lie within the file and add up to the stored size.
    pub(super) fn check(&self, size: u64, stored: u64) -> Result<(), UnpackFault> {
        let end = self.0.back().map_or(0, |run| run.start + run.len);
        let sum: u64 = self.0.iter().map(|run| run.len).sum();
        match end <= size && sum == stored {
            true => Ok(()),
            false => Err(MALFORMED_SPARSE),
        }
    }

    /// Returns the part at `offset` of a file of `size` bytes, before its end.
    pub(super) fn next(&mut self, offset: u64, size: u64) -> Next {
        while let Some(run) = self.0.front() {
            if offset < run.start {
                let len = run.start - offset;
                return Next { is_hole: true, len };
            }
            if offset < run.start + run.len {
                let len = run.start + run.len - offset;
                return Next {
                    is_hole: false,
                    len,
                };
            }
            self.0.pop_front();
        }
        let len = size - offset;
        Next { is_hole: true, len }
    }
}

/// Runs of the form 1.0: their number, then two numbers for each, in decimal, each on a line,
/// padded with NUL to a full block.
#[derive(Debug, Default)]
pub(super) struct TextMap {
    digits: Vec<u8>,
    runs_left: Option<u64>,
    start: Option<u64>,
    runs: Runs,
}

impl TextMap {
    /// Reads the next block. Returns the runs after the last block.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Option<Runs>, UnpackFault> {
        for &byte in block {
            if byte != b'\n' {
                if self.digits.len() == MAX_DIGITS {
                    return Err(MALFORMED_SPARSE);
                }
                self.digits.push(byte);
                continue;
            }
            let number = decimal(&self.digits)
                .filter(|_| !self.digits.is_empty())
                .ok_or(MALFORMED_SPARSE)?;
            self.digits.clear();
            match (self.runs_left, self.start.take()) {
                (None, _) => self.runs_left = Some(number),
                (Some(_), None) => self.start = Some(number),
                (Some(left), Some(start)) => {
                    self.runs.push(start, number)?;
                    self.runs_left = Some(left - 1);
                }
            }
            if self.runs_left == Some(0) {
                return Ok(Some(std::mem::take(&mut self.runs)));
            }
        }
        Ok(None)
    }
}

/// Maximum number of runs, which bounds their memory to 1 MiB.
const MAX_RUNS: usize = 1 << 16;
/// Maximum number of digits.
const MAX_DIGITS: usize = 20;
