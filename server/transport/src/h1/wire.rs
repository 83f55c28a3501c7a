//! The socket that hyper reads and writes.
//!
//! Below hyper, the wire writes interim responses ([`interim::h1`](crate::interim::h1) shows why
//! that is safe), gives hyper's bare refusals of broken heads a problem document, and keeps the
//! state in [`Shared`] up to date.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::shared::Shared;
use crate::{io::Io, refusal};

pub(super) struct Wire<I: Io> {
    io: I,
    /// Bytes that were read before hyper; they come first.
    ahead: Bytes,
    /// Bytes of ours, to write before hyper's.
    out: Bytes,
    shared: Arc<Shared>,
    /// Set if dropping the wire resets the connection when an exchange is unfinished.
    armed: bool,
}

impl<I: Io> Wire<I> {
    pub(super) fn new(io: I, ahead: Bytes, shared: Arc<Shared>) -> Self {
        Self {
            io,
            ahead,
            out: Bytes::new(),
            shared,
            armed: true,
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Puts bytes back that were read and not used.
    pub(super) fn put_ahead(&mut self, bytes: Bytes) {
        debug_assert!(
            self.ahead.is_empty() || bytes.is_empty(),
            "hyper reads on only when this is used up"
        );
        if !bytes.is_empty() {
            self.ahead = bytes;
        }
    }

    /// Lets a drop just close the connection.
    pub(super) fn disarm(&mut self) {
        self.armed = false;
    }

    fn poll_out(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let result = Pin::new(&mut self.io).poll_write(task, &self.out);
            self.shared.wrote(&result);
            let written = ready!(result)?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Returns true if `bytes`, about to be written by hyper, are its own refusal of a head that it
    /// could not parse: the only bytes it writes while no exchange is unfinished. hyper's refusals
    /// have no body; ours takes their place.
    fn refuse(&mut self, bytes: &[u8]) -> bool {
        if self.shared.in_flight() {
            return false;
        }
        let status = bytes
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|status| StatusCode::from_bytes(status).ok())
            .filter(StatusCode::is_client_error);
        if let Some(status) = status {
            self.out = refusal::raw(status);
        }
        status.is_some()
    }

    fn poll_write_with(
        &mut self,
        task: &mut Context<'_>,
        head: &[u8],
        length: usize,
        write: impl FnOnce(Pin<&mut I>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_out(task))?;
        let result = if self.refuse(head) {
            Poll::Ready(Ok(length))
        } else {
            write(Pin::new(&mut self.io), task)
        };
        self.shared.wrote(&result);
        result
    }
}

impl<I: Io> AsyncRead for Wire<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.io).poll_read(task, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead.split_to(length));
        if self.ahead.is_empty() {
            self.ahead = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<I: Io> AsyncWrite for Wire<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(task, bytes, bytes.len(), |io, task| {
            io.poll_write(task, bytes)
        })
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let head = slices
            .iter()
            .find(|slice| !slice.is_empty())
            .map_or(&[][..], |slice| slice);
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_write_with(task, head, length, |io, task| {
            io.poll_write_vectored(task, slices)
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Writes interim responses, then flushes. hyper calls this only when its own buffer is empty,
    /// so these bytes fall between two messages.
    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.out.is_empty() {
            this.out = this.shared.interim_queue.take().unwrap_or_default();
        }
        ready!(this.poll_out(task))?;
        ready!(Pin::new(&mut this.io).poll_flush(task))?;
        if this.shared.flushed() {
            // hyper 1.12 can fall asleep after this flush although a pipelined request is in its
            // buffer already: its poll loop has two such lost wake-ups (without any of our code,
            // too). One more poll cures both and costs next to nothing.
            task.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Only flushes: the connection's task closes in its own way once hyper is dropped.
    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(task))?;
        if self.armed {
            Pin::new(&mut self.io).poll_flush(task)
        } else {
            Pin::new(&mut self.io).poll_shutdown(task)
        }
    }
}

impl<I: Io> Drop for Wire<I> {
    fn drop(&mut self) {
        self.shared.interim_queue.close();
        if self.armed && self.shared.in_flight() {
            // A plain close would make a body without a length look whole.
            self.io.abort();
        }
    }
}
