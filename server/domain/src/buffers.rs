//! Buffers between the socket and the store: small for slow uploads, large and reused for fast ones.
//!
//! A large buffer is worth its memory only where bytes come fast enough to fill it, and a fresh one costs its page faults (4 MiB
//! buffers, always fresh, wrote at 0.5 GB/s where reused ones of 1 MiB reached 1.7). So an upload begins with small buffers and
//! asks for a large one when it has filled a small one; large ones are bounded in number and kept for the next to come.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of a large buffer.
const LARGE: usize = 1024 * 1024;
/// Bytes of a small buffer: what a slow upload costs.
const SMALL: usize = 32 * 1024;
/// A body of up to so many bytes is given one buffer of its own size: one write instead of several.
const SHORT: usize = 256 * 1024;

/// The large buffers of this process.
#[derive(Debug)]
pub(crate) struct Buffers {
    state: Mutex<State>,
    most: usize,
}

#[derive(Debug, Default)]
struct State {
    lent: usize,
    idle: Vec<Vec<u8>>,
}

impl Buffers {
    /// At most `memory` bytes in large buffers.
    pub(crate) fn new(memory: u64) -> Arc<Self> {
        let most = usize::try_from(memory).unwrap_or(usize::MAX) / LARGE;
        Arc::new(Self {
            state: Mutex::default(),
            most,
        })
    }

    fn take_large(&self) -> Option<Vec<u8>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.lent >= self.most {
            return None;
        }
        state.lent += 1;
        Some(
            state
                .idle
                .pop()
                .unwrap_or_else(|| Vec::with_capacity(LARGE)),
        )
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.lent -= 1;
        state.idle.push(buffer);
    }
}

/// One upload's present buffer.
#[derive(Debug)]
pub(crate) struct Filling {
    buffers: Arc<Buffers>,
    buffer: Buffer,
    /// Whether bytes come fast enough for a large buffer.
    fast: bool,
    /// Bytes of a small buffer; less where the whole body is shorter.
    small: usize,
}

#[derive(Debug)]
enum Buffer {
    None,
    Small(Vec<u8>),
    Large(LentBuffer),
}

impl Filling {
    /// For a body of `expected` bytes, where that is known.
    pub(crate) fn new(buffers: Arc<Buffers>, expected: Option<u64>) -> Self {
        let small = match expected.and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) if bytes <= SHORT => bytes.max(1),
            _ => SMALL,
        };
        Self {
            buffers,
            buffer: Buffer::None,
            fast: false,
            small,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Takes in as much of `bytes` as fits, and says whether the buffer is full.
    pub(crate) fn take_in(&mut self, bytes: &mut Bytes) -> bool {
        if matches!(self.buffer, Buffer::None) {
            self.buffer = self.fresh();
        }
        let buffer = match &mut self.buffer {
            Buffer::None => return false,
            Buffer::Small(buffer) => buffer,
            Buffer::Large(lent) => &mut lent.buffer,
        };
        let room = buffer.capacity() - buffer.len();
        let taken = bytes.split_to(room.min(bytes.len()));
        buffer.extend_from_slice(&taken);
        let full = buffer.len() == buffer.capacity();
        if full {
            self.fast = true;
        }
        full
    }

    /// What was taken in, leaving nothing.
    pub(crate) fn take_out(&mut self) -> Bytes {
        match std::mem::replace(&mut self.buffer, Buffer::None) {
            Buffer::None => Bytes::new(),
            Buffer::Small(buffer) => buffer.into(),
            Buffer::Large(lent) => {
                if lent.buffer.len() < SMALL {
                    self.fast = false;
                }
                Bytes::from_owner(lent)
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Buffer::None => &[],
            Buffer::Small(buffer) => buffer,
            Buffer::Large(lent) => &lent.buffer,
        }
    }

    fn fresh(&self) -> Buffer {
        let large = if self.fast {
            self.buffers.take_large()
        } else {
            None
        };
        match large {
            Some(buffer) => Buffer::Large(LentBuffer {
                buffer,
                buffers: Arc::clone(&self.buffers),
            }),
            None => Buffer::Small(Vec::with_capacity(self.small)),
        }
    }
}

/// A large buffer that goes back when the last reader drops it.
#[derive(Debug)]
struct LentBuffer {
    buffer: Vec<u8>,
    buffers: Arc<Buffers>,
}

impl AsRef<[u8]> for LentBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for LentBuffer {
    fn drop(&mut self) {
        self.buffers.give_back(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(filling: &mut Filling, mut bytes: Bytes) -> Vec<usize> {
        let mut sizes = Vec::new();
        while !bytes.is_empty() {
            if filling.take_in(&mut bytes) {
                sizes.push(filling.take_out().len());
            }
        }
        sizes
    }

    #[test]
    fn buffers_grow_where_bytes_come_fast() {
        let mut filling = Filling::new(Buffers::new(4 * LARGE as u64), None);
        let sizes = fill(&mut filling, vec![7; SMALL + 2 * LARGE].into());
        assert_eq!(sizes, [SMALL, LARGE, LARGE]);
    }

    #[test]
    fn a_short_body_takes_one_buffer() {
        let mut filling = Filling::new(Buffers::new(0), Some(100 * 1024));
        assert_eq!(fill(&mut filling, vec![7; 100 * 1024].into()), [100 * 1024]);
    }

    #[test]
    fn large_buffers_are_bounded_and_come_back() {
        let buffers = Buffers::new(LARGE as u64);
        let mut first = Filling::new(Arc::clone(&buffers), None);
        let mut second = Filling::new(Arc::clone(&buffers), None);
        fill(&mut first, vec![1; SMALL + 1].into());
        fill(&mut second, vec![2; SMALL].into());
        assert_eq!(fill(&mut second, vec![2; SMALL].into()), [SMALL]);
        let out = first.take_out();
        assert_eq!(&*out, &[1]);
        drop(out);
        assert_eq!(fill(&mut second, vec![2; LARGE].into()), [LARGE]);
        assert_eq!(buffers.state.lock().unwrap().lent, 0);
    }
}
