//! Buffers between the socket and the store: small for slow uploads, large and reused for fast
//! ones.
//!
//! A large buffer is worth its memory only if bytes arrive fast enough to fill it, and a new one
//! costs its page faults (4 MiB buffers, always new, wrote at 0.5 GB/s where reused ones of 1 MiB
//! reached 1.7). So an upload begins with small buffers and requests a large one once it has filled
//! a small one. Small buffers are accounted for by the upload's place ([`Places`](crate::uploads));
//! larger ones need memory from the server's budget. Large buffers are kept for reuse while any
//! body is read, and freed afterwards.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use budget::{Budget, Held};
use bytes::Bytes;

/// Size of a large buffer, in bytes.
const LARGE: usize = 1024 * 1024;
/// Size of a small buffer, in bytes: the cost of a slow upload.
pub(crate) const SMALL: usize = 32 * 1024;
/// Maximum length in bytes of a body that gets one buffer of its own size: one write instead of
/// several.
const SHORT: usize = 256 * 1024;

/// The buffers of this process that are larger than a small one.
#[derive(Debug)]
pub(crate) struct Buffers {
    memory: Budget,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of bodies being read.
    readers: usize,
    /// Large buffers ready for reuse.
    idle: Vec<(Vec<u8>, Held)>,
}

impl Buffers {
    /// Uses at most `most` bytes of `memory`.
    pub(crate) fn new(memory: &Budget, most: u64) -> Arc<Self> {
        Arc::new(Self {
            memory: memory.part(most),
            state: Mutex::default(),
        })
    }

    /// Returns an empty buffer of this capacity, if there is memory for it.
    fn take(self: &Arc<Self>, bytes: usize) -> Option<CountedBuffer> {
        let idle = match bytes {
            LARGE => self.state().idle.pop(),
            _ => None,
        };
        let (buffer, held) = match idle {
            Some(idle) => idle,
            None => {
                let size = bytes as u64;
                // A budget grants all of itself to a request that exceeds it.
                let fits = self.memory.limit() >= size;
                let held = fits.then(|| self.memory.try_take(size)).flatten()?;
                (Vec::with_capacity(bytes), held)
            }
        };
        Some(CountedBuffer {
            buffer,
            held: Some(held),
            home: Arc::clone(self),
        })
    }

    fn give_back(&self, mut buffer: Vec<u8>, held: Held) {
        let mut state = self.state();
        if state.readers > 0 && buffer.capacity() == LARGE {
            buffer.clear();
            state.idle.push((buffer, held));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The current buffer of one upload.
#[derive(Debug)]
pub(crate) struct Filling {
    buffers: Arc<Buffers>,
    buffer: Buffer,
    /// True if bytes arrive fast enough for a large buffer.
    fast: bool,
    /// Length of the body in bytes, if it is short.
    short: Option<usize>,
}

#[derive(Debug)]
enum Buffer {
    None,
    Small(Vec<u8>),
    Counted(CountedBuffer),
}

impl Filling {
    /// Prepares for a body of `expected` bytes, if the length is known.
    pub(crate) fn new(buffers: Arc<Buffers>, expected: Option<u64>) -> Self {
        buffers.state().readers += 1;
        Self {
            buffers,
            buffer: Buffer::None,
            fast: false,
            short: expected
                .and_then(|bytes| usize::try_from(bytes).ok())
                .filter(|bytes| *bytes <= SHORT),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// Moves as many of `bytes` as fit into the buffer; returns true if the buffer is full.
    pub(crate) fn take_in(&mut self, bytes: &mut Bytes) -> bool {
        if matches!(self.buffer, Buffer::None) {
            self.buffer = self.fresh();
        }
        let buffer = match &mut self.buffer {
            Buffer::None => return false,
            Buffer::Small(buffer) => buffer,
            Buffer::Counted(counted) => &mut counted.buffer,
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

    /// Returns the buffered bytes, and leaves the buffer empty.
    pub(crate) fn take_out(&mut self) -> Bytes {
        match std::mem::replace(&mut self.buffer, Buffer::None) {
            Buffer::None => Bytes::new(),
            Buffer::Small(buffer) => buffer.into(),
            Buffer::Counted(counted) => {
                if counted.buffer.len() < SMALL {
                    self.fast = false;
                }
                Bytes::from_owner(counted)
            }
        }
    }

    fn bytes(&self) -> &[u8] {
        match &self.buffer {
            Buffer::None => &[],
            Buffer::Small(buffer) => buffer,
            Buffer::Counted(counted) => &counted.buffer,
        }
    }

    fn fresh(&self) -> Buffer {
        let wanted = match self.short {
            Some(bytes) => bytes.max(1),
            None if self.fast => LARGE,
            None => SMALL,
        };
        if wanted > SMALL
            && let Some(counted) = self.buffers.take(wanted)
        {
            return Buffer::Counted(counted);
        }
        Buffer::Small(Vec::with_capacity(wanted.min(SMALL)))
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.buffer = Buffer::None;
        let mut state = self.buffers.state();
        state.readers -= 1;
        if state.readers == 0 {
            state.idle = Vec::new();
        }
    }
}

/// A buffer that occupies memory of the budget until its last reader drops it.
#[derive(Debug)]
struct CountedBuffer {
    buffer: Vec<u8>,
    held: Option<Held>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for CountedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for CountedBuffer {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.home.give_back(std::mem::take(&mut self.buffer), held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffers(memory: usize) -> Arc<Buffers> {
        Buffers::new(&Budget::new(1 << 30), memory as u64)
    }

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
        let mut filling = Filling::new(buffers(4 * LARGE), None);
        let sizes = fill(&mut filling, vec![7; SMALL + 2 * LARGE].into());
        assert_eq!(sizes, [SMALL, LARGE, LARGE]);
    }

    #[test]
    fn a_short_body_takes_one_buffer_where_there_is_memory() {
        let body = || Bytes::from(vec![7; 3 * SMALL]);
        let expected = Some(3 * SMALL as u64);
        let mut filling = Filling::new(buffers(LARGE), expected);
        assert_eq!(fill(&mut filling, body()), [3 * SMALL]);
        let mut filling = Filling::new(buffers(0), expected);
        assert_eq!(fill(&mut filling, body()), [SMALL, SMALL, SMALL]);
    }

    #[test]
    fn large_buffers_are_bounded_and_come_back() {
        let buffers = buffers(LARGE);
        let mut first = Filling::new(Arc::clone(&buffers), None);
        let mut second = Filling::new(Arc::clone(&buffers), None);
        fill(&mut first, vec![1; SMALL + 1].into());
        fill(&mut second, vec![2; SMALL].into());
        assert_eq!(fill(&mut second, vec![2; SMALL].into()), [SMALL]);
        let out = first.take_out();
        assert_eq!(&*out, &[1]);
        drop(out);
        assert_eq!(fill(&mut second, vec![2; LARGE].into()), [LARGE]);
        assert_eq!(buffers.memory.held(), LARGE as u64);
        drop((first, second));
        assert_eq!(buffers.memory.held(), 0);
    }

    #[test]
    fn all_memory_of_the_server_bounds_buffers_as_well() {
        let whole = Budget::new(LARGE as u64);
        let buffers = Buffers::new(&whole, 4 * LARGE as u64);
        let other = whole.try_take(1);
        let mut filling = Filling::new(Arc::clone(&buffers), None);
        let sizes = fill(&mut filling, vec![7; 2 * SMALL].into());
        assert_eq!(sizes, [SMALL, SMALL]);
        drop(other);
        let sizes = fill(&mut filling, vec![7; LARGE].into());
        assert_eq!(sizes, [LARGE]);
    }
}
