//! Bytes that have arrived but are not consumed.

use bytes::{Buf as _, Bytes, BytesMut};

use super::UnpackFault;

#[derive(Debug, Default)]
pub(super) struct Input {
    bytes: BytesMut,
    /// Number of consumed bytes.
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

    /// Returns true if all bytes have arrived.
    pub(super) fn is_finished(&self) -> bool {
        self.is_finished
    }

    pub(super) fn consumed(&self) -> u64 {
        self.consumed
    }

    /// Returns the number of bytes fed so far.
    pub(super) fn fed(&self) -> u64 {
        self.fed
    }

    /// Returns the available bytes, of any number.
    pub(super) fn available(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the next bytes without consuming them; `None` before their arrival, a fault if they
    /// are beyond the end.
    pub(super) fn peek(&self, len: usize) -> Result<Option<&[u8]>, UnpackFault> {
        match self.bytes.get(..len) {
            Some(bytes) => Ok(Some(bytes)),
            None if self.is_finished => Err(UnpackFault::Truncated),
            None => Ok(None),
        }
    }

    /// Consumes up to `len` bytes; `None` before their arrival, a fault at the end.
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

    /// Drops bytes that were peeked.
    pub(super) fn skip(&mut self, len: usize) {
        self.consumed += len as u64;
        self.bytes.advance(len);
    }
}
