//! Memory that readers fill and consumers give back by dropping it.
//!
//! Fresh pages cost about as much as the read itself, so buffers are used again. There are large ones, of which only so many are
//! about at a time, and small ones for short reads and for when the large ones are out: a thousand connections that take no bytes
//! hold what they hold, but not more than that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

/// Bytes of a small buffer.
const SMALL: usize = 32 * 1024;
/// Bytes of unused buffers that are kept for the next reader, of each kind.
const SPARE_BYTES: usize = 4 * 1024 * 1024;

/// Buffers of two sizes.
#[derive(Debug)]
pub(super) struct Buffers {
    large: Arc<Kind>,
    small: Arc<Kind>,
}

/// Buffers of one size.
#[derive(Debug)]
struct Kind {
    size: usize,
    /// How many may be about.
    limit: usize,
    /// How many are.
    lent: AtomicUsize,
    spare: Mutex<Vec<Box<[u8]>>>,
}

/// A buffer on loan.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Box<[u8]>,
    filled: usize,
    kind: Arc<Kind>,
}

impl Buffers {
    /// Large buffers have `size` bytes and take up at most `memory` bytes.
    pub(super) fn new(size: usize, memory: usize) -> Self {
        let kind = |size, limit| {
            Arc::new(Kind {
                size,
                limit,
                lent: AtomicUsize::new(0),
                spare: Mutex::default(),
            })
        };
        Self {
            large: kind(size, memory / size),
            small: kind(SMALL.min(size), usize::MAX),
        }
    }

    /// A buffer for reading up to `wanted` bytes; often a smaller one.
    pub(super) fn lend(&self, wanted: u64) -> Buffer {
        let is_small = wanted <= self.small.size as u64;
        let kind = if !is_small && self.large.count_one() {
            &self.large
        } else {
            self.small.lent.fetch_add(1, Ordering::Relaxed);
            &self.small
        };
        kind.lend()
    }
}

impl Kind {
    /// Counts one more, unless that is one too many.
    fn count_one(&self) -> bool {
        self.lent
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |lent| {
                (lent < self.limit).then_some(lent + 1)
            })
            .is_ok()
    }

    fn lend(self: &Arc<Self>) -> Buffer {
        let spare = self
            .spare
            .lock()
            .expect("nothing panics while it holds it")
            .pop();
        Buffer {
            memory: spare.unwrap_or_else(|| vec![0; self.size].into()),
            filled: 0,
            kind: Arc::clone(self),
        }
    }
}

impl Buffer {
    /// The first `wanted` bytes of it, or all.
    pub(super) fn room(&mut self, wanted: u64) -> &mut [u8] {
        let length = usize::try_from(wanted)
            .map_or(self.memory.len(), |wanted| wanted.min(self.memory.len()));
        &mut self.memory[..length]
    }

    /// The first `filled` bytes; the buffer goes home when the last reference to them is dropped.
    pub(super) fn into_bytes(mut self, filled: usize) -> Bytes {
        self.filled = filled;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.kind.lent.fetch_sub(1, Ordering::Relaxed);
        let memory = std::mem::take(&mut self.memory);
        let mut spare = self
            .kind
            .spare
            .lock()
            .expect("nothing panics while it holds it");
        if (spare.len() + 1) * self.kind.size <= SPARE_BYTES {
            spare.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_used_again() {
        let buffers = Buffers::new(1 << 18, 1 << 20);
        let bytes = buffers.lend(1 << 18).into_bytes(1 << 18);
        let address = bytes.as_ptr();
        let slice = bytes.slice(7..9);
        drop(bytes);
        assert_ne!(
            buffers.lend(1 << 18).memory.as_ptr(),
            address,
            "a slice holds it"
        );
        drop(slice);
        assert_eq!(buffers.lend(1 << 18).memory.as_ptr(), address);
    }

    #[test]
    fn large_buffers_are_bounded() {
        let buffers = Buffers::new(1 << 18, 1 << 20);
        let mut lent: Vec<_> = (0..5).map(|_| buffers.lend(u64::MAX)).collect();
        let sizes: Vec<_> = lent.iter().map(|buffer| buffer.memory.len()).collect();
        assert_eq!(sizes, [1 << 18, 1 << 18, 1 << 18, 1 << 18, SMALL]);
        lent.remove(0);
        assert_eq!(buffers.lend(u64::MAX).memory.len(), 1 << 18);
    }

    #[test]
    fn short_reads_get_small_buffers() {
        let buffers = Buffers::new(1 << 18, 1 << 20);
        let mut buffer = buffers.lend(5);
        assert_eq!(buffer.memory.len(), SMALL);
        assert_eq!(buffer.room(5).len(), 5);
        assert_eq!(buffer.into_bytes(3).len(), 3);
    }
}
