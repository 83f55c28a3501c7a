//! The socket that h2 reads and writes.
//!
//! h2 writes one frame at a time. The wire gathers frames and writes many at once, which halves the
//! work of sending; the connection's task calls [`poll_drain`](Wire::poll_drain) when h2 has
//! nothing more to write for now. Bytes that are read pass the [`Meter`].

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::meter::Meter;
use crate::{io::Io, stall::Stall};

/// Bytes gathered for a peer that takes them at once.
const GATHER: usize = 64 * 1024;

/// Bytes gathered for a peer whose socket is full.
const GATHER_BLOCKED: usize = 16 * 1024;

/// The wire is shared by h2, which owns one clone, and the connection's task.
pub(super) struct Wire<I: Io>(Arc<Mutex<Core<I>>>);

struct Core<I> {
    io: I,
    /// Bytes that were read before h2; they come first.
    ahead: Bytes,
    /// Gathered bytes, and the number of them that are written.
    out: Vec<u8>,
    written: usize,
    /// Set while TLS may hold bytes back until it is flushed.
    unflushed: bool,
    /// Maximum number of bytes to gather.
    limit: usize,
    /// The time for which the socket has taken too little.
    stall: Stall,
    meter: Meter,
    flooded: bool,
}

impl<I: Io> Wire<I> {
    pub(super) fn new(io: I, ahead: Bytes, preface: usize) -> Self {
        let meter = Meter::new(preface, Instant::now());
        let core = Core {
            io,
            ahead,
            out: Vec::new(),
            written: 0,
            unflushed: false,
            limit: GATHER,
            stall: Stall::default(),
            meter,
            flooded: false,
        };
        Self(Arc::new(Mutex::new(core)))
    }

    /// Writes the gathered bytes, when h2 has nothing more to write for now.
    pub(super) fn poll_drain(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let core = &mut *self.lock();
        ready!(core.poll_drain(task))?;
        core.stall.clear();
        Poll::Ready(Ok(()))
    }

    /// Makes the close that follows look like a failure to the peer.
    pub(super) fn abort(&self) {
        self.lock().io.abort();
    }

    /// Drops the buffer if it is empty.
    pub(super) fn release(&self) {
        let mut core = self.lock();
        if core.out.is_empty() {
            core.out = Vec::new();
        }
    }

    /// Returns the time at which to cut the peer off; see [`Stall::deadline`].
    pub(super) fn deadline(&self, limit: Duration, scarce: bool) -> Option<Instant> {
        self.lock().stall.deadline(limit, scarce)
    }

    /// Notes that a stream has begun.
    pub(super) fn opened(&self, stream: u32) {
        self.lock().meter.opened(stream);
    }

    /// Notes that a stream has ended, with an answer or without.
    pub(super) fn closed(&self, stream: u32, answered: bool) {
        self.lock().meter.closed(stream, answered);
    }

    /// Returns true if the peer has sent more frames than it may; no more is read from it.
    pub(super) fn is_flooded(&self) -> bool {
        self.lock().flooded
    }

    /// Returns the number of bytes of content received.
    pub(super) fn received(&self) -> u64 {
        self.lock().meter.received()
    }

    fn lock(&self) -> MutexGuard<'_, Core<I>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: Io> Clone for Wire<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I: Io> Core<I> {
    fn poll_drain(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            match Pin::new(&mut self.io).poll_write(task, &self.out[self.written..])? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => {
                    self.written += written;
                    self.meter.sent(written);
                    if self.stall.is_blocked() {
                        self.stall.took(written, Instant::now());
                    }
                    self.unflushed = true;
                }
                Poll::Pending => return self.block(),
            }
        }
        if self.unflushed {
            if Pin::new(&mut self.io).poll_flush(task)?.is_pending() {
                return self.block();
            }
            self.unflushed = false;
        }
        self.written = 0;
        self.out.clear();
        if self.out.capacity() > self.limit {
            self.out = Vec::new();
        }
        self.limit = GATHER.min(self.limit * 2);
        Poll::Ready(Ok(()))
    }

    /// Notes that the socket takes no more for now.
    fn block(&mut self) -> Poll<io::Result<()>> {
        self.limit = GATHER_BLOCKED;
        self.stall.block(Instant::now());
        Poll::Pending
    }

    /// Waits for room for more bytes.
    fn poll_room(&mut self, task: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.out.len() >= self.limit {
            ready!(self.poll_drain(task))?;
        }
        Poll::Ready(Ok(self.limit - self.out.len()))
    }

    fn gather(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }
}

impl<I: Io> AsyncRead for Wire<I> {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let core = &mut *self.lock();
        if core.flooded {
            // The connection's task checks `flooded` when h2 returns, and ends the connection.
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        if core.ahead.is_empty() {
            ready!(Pin::new(&mut core.io).poll_read(task, buffer))?;
        } else {
            let length = core.ahead.len().min(buffer.remaining());
            buffer.put_slice(&core.ahead.split_to(length));
        }
        let observed = core
            .meter
            .observe(&buffer.filled()[before..], Instant::now());
        if observed.is_err() {
            core.flooded = true;
            // h2 is spared even the bytes that have arrived.
            buffer.set_filled(before);
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: Io> AsyncWrite for Wire<I> {
    fn poll_write(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let core = &mut *self.lock();
        let length = ready!(core.poll_room(task))?.min(bytes.len());
        core.gather(&bytes[..length]);
        Poll::Ready(Ok(length))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let core = &mut *self.lock();
        let room = ready!(core.poll_room(task))?;
        let mut left = room;
        for slice in slices {
            let length = left.min(slice.len());
            core.gather(&slice[..length]);
            left -= length;
        }
        Poll::Ready(Ok(room - left))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: h2 flushes after every frame, and the connection's task drains when h2 is
    /// done.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let core = &mut *self.lock();
        ready!(core.poll_drain(task))?;
        Pin::new(&mut core.io).poll_shutdown(task)
    }
}
