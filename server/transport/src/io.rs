//! The byte stream below a protocol.

use std::{
    pin::Pin,
    task::{Poll, ready},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};

use crate::context::Context;

/// The byte stream below a protocol.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Makes the close that follows look like a failure to the peer, not like an end.
    fn abort(&mut self);
}

/// Waits for a request to begin and returns its first bytes; `None` if the connection should close
/// instead: its peer is gone or silent for too long, its place is needed, or the server shuts down.
///
/// Holds no buffer while it waits.
pub(crate) async fn first_bytes<I: AsyncRead + Unpin>(
    io: &mut I,
    context: &Context,
) -> Option<Bytes> {
    let read = std::future::poll_fn(|task| {
        let mut space = [0; 2048];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut *io).poll_read(task, &mut buffer)).ok();
        Poll::Ready(Some(Bytes::copy_from_slice(buffer.filled())).filter(|bytes| !bytes.is_empty()))
    });
    // Dropping a pending read loses nothing; the other futures hold no state worth keeping.
    tokio::select! {
        biased;
        bytes = read => bytes,
        () = context.drain.cancelled() => None,
        () = sleep(context.config.keep_alive_timeout) => None,
        () = context.place.evicted() => None,
    }
}
