//! Bytes that have come and are not used yet.

use bytes::{Buf as _, Bytes, BytesMut};

use super::UnpackFault;

#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: BytesMut,
    /// How many bytes were taken out.
    consumed: u64,
    fed: u64,
    is_finished: bool,
}

impl Input {
    pub(super) fn feed(&mut self, chunk: Bytes) {
        self.fed += chunk.len() as u64;
        if self.bytes.is_empty() {
            self.bytes = chunk
                .try_into_mut()
                .unwrap_or_else(|shared| BytesMut::from(&*shared));
        } else {
            self.bytes.extend_from_slice(&chunk);
        }
    }

    pub(super) fn finish(&mut self) {
        self.is_finished = true;
    }

    /// Whether all bytes have come.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// How many bytes were put in.
    pub(super) fn fed(&self) -> u64 {
        self.fed
    }

    /// What is there, be it little or much.
    pub(super) fn available(&self) -> &[u8] {
        &self.bytes
    }

    /// The next bytes without taking them; none if they have yet to come, a fault if they never will.
    pub(super) fn peek(&self, len: usize) -> Result<Option<&[u8]>, UnpackFault> {
        match self.bytes.get(..len) {
            Some(bytes) => Ok(Some(bytes)),
            None if self.is_finished => Err(UnpackFault::Truncated),
            None => Ok(None),
        }
    }

    /// Takes at most so many bytes; none if none are there yet, a fault if none will come.
    pub(super) fn take_up_to(&mut self, len: u64) -> Result<Option<Bytes>, UnpackFault> {
        if self.peek(1)?.is_none() {
            return Ok(None);
        }
        let len = usize::try_from(len)
            .unwrap_or(usize::MAX)
            .min(self.bytes.len());
        self.consumed += len as u64;
        Ok(Some(self.bytes.split_to(len).freeze()))
    }

    /// Drops bytes that have been seen.
    pub(super) fn skip(&mut self, len: usize) {
        self.consumed += len as u64;
        self.bytes.advance(len);
    }
}
