//! Buffers that readers fill, and that consumers return by dropping the bytes.
//!
//! Fresh pages cost about as much as the read itself, so buffers are reused. Consumers determine
//! how many are in use: one for each chunk that they hold.

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

/// Size of unused buffers that are kept for the next reader, in bytes.
const SPARE_BYTES: usize = 4 * 1024 * 1024;

/// Buffers of one size.
#[derive(Debug)]
pub(super) struct Buffers {
    size: usize,
    spare: Arc<Spare>,
}

#[derive(Debug)]
struct Spare {
    memory: Mutex<Vec<Box<[u8]>>>,
    limit: usize,
}

/// Buffer in use.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Box<[u8]>,
    filled: usize,
    home: Arc<Spare>,
}

impl Buffers {
    /// Returns an empty pool of buffers of `size` bytes.
    pub(super) fn new(size: usize) -> Self {
        let spare = Spare {
            memory: Mutex::default(),
            limit: SPARE_BYTES / size,
        };
        Self {
            size,
            spare: Arc::new(spare),
        }
    }

    pub(super) fn lend(&self) -> Buffer {
        let used = self.spare.lock().pop();
        Buffer {
            memory: used.unwrap_or_else(|| vec![0; self.size].into()),
            filled: 0,
            home: Arc::clone(&self.spare),
        }
    }
}

impl Spare {
    fn lock(&self) -> MutexGuard<'_, Vec<Box<[u8]>>> {
        self.memory
            .lock()
            .expect("nothing panics while it holds it")
    }
}

impl Buffer {
    /// Returns room for `wanted` bytes, or for as many as the buffer holds.
    pub(super) fn room(&mut self, wanted: u64) -> &mut [u8] {
        let most = self.memory.len();
        let length = usize::try_from(wanted).map_or(most, |wanted| wanted.min(most));
        &mut self.memory[..length]
    }

    /// Returns the first `filled` bytes. Dropping the last reference to them returns the buffer.
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
        let memory = std::mem::take(&mut self.memory);
        let mut spare = self.home.lock();
        if spare.len() < self.home.limit {
            spare.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_once_nobody_holds_it() {
        let buffers = Buffers::new(1 << 16);
        let bytes = buffers.lend().into_bytes(100);
        let address = bytes.as_ptr();
        let part = bytes.slice(7..9);
        drop(bytes);
        assert_ne!(buffers.lend().memory.as_ptr(), address);
        drop(part);
        let lent = [buffers.lend(), buffers.lend()];
        assert!(lent.iter().any(|buffer| buffer.memory.as_ptr() == address));
    }

    #[test]
    fn only_so_many_are_kept() {
        let buffers = Buffers::new(1 << 20);
        let lent: Vec<_> = (0..9).map(|_| buffers.lend()).collect();
        drop(lent);
        assert_eq!(buffers.spare.lock().len(), 4);
    }

    #[test]
    fn there_is_room_for_no_more_than_was_wanted() {
        let mut buffer = Buffers::new(4096).lend();
        assert_eq!(buffer.room(5).len(), 5);
        assert_eq!(buffer.room(u64::MAX).len(), 4096);
        assert_eq!(buffer.into_bytes(3).len(), 3);
    }
}
