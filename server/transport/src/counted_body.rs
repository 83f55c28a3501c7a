//! An answer's body whose bytes count as memory of its connection.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use axum::body::Body;
use budget::Held;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::{context::Context, memory::CHUNK};

/// An answer's body that is read as far as there is memory. Its bytes count until they are dropped:
/// on the wire, or with their connection.
pub(crate) struct CountedBody {
    body: Body,
    context: Arc<Context>,
    /// Memory for the next piece.
    held: Option<Held>,
    taking: Option<Pin<Box<dyn Future<Output = Held> + Send>>>,
    /// A piece that needs more memory than was taken for it.
    large: Option<Bytes>,
    /// Dropped with the last of the bytes.
    alive: Option<mpsc::Sender<()>>,
}

struct CountedBytes {
    bytes: Bytes,
    _held: Held,
    _alive: Option<mpsc::Sender<()>>,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl CountedBody {
    pub(crate) fn new(body: Body, context: Arc<Context>) -> Self {
        Self {
            body,
            context,
            held: None,
            taking: None,
            large: None,
            alive: None,
        }
    }

    /// Also returns a channel that closes once the body and all of its bytes are dropped.
    pub(crate) fn watched(body: Body, context: Arc<Context>) -> (Self, mpsc::Receiver<()>) {
        let (alive, gone) = mpsc::channel(1);
        let counted = Self {
            alive: Some(alive),
            ..Self::new(body, context)
        };
        (counted, gone)
    }

    /// Returns the size of the next piece, as far as it is known.
    fn wanted(&self) -> u64 {
        match &self.large {
            Some(piece) => piece.len() as u64,
            None => self.body.size_hint().upper().unwrap_or(CHUNK).min(CHUNK),
        }
    }

    fn poll_held(&mut self, task: &mut Task<'_>) -> Poll<Held> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(held);
        }
        if self.taking.is_none() {
            let wanted = self.wanted();
            if let Some(held) = self.context.memory.try_chunk(wanted) {
                return Poll::Ready(held);
            }
            let context = Arc::clone(&self.context);
            self.taking = Some(Box::pin(async move { context.memory.chunk(wanted).await }));
        }
        let taking = self.taking.as_mut().expect("set above");
        let held = ready!(taking.as_mut().poll(task));
        self.taking = None;
        Poll::Ready(held)
    }

    fn count(&self, bytes: Bytes, mut held: Held) -> Frame<Bytes> {
        held.keep(bytes.len() as u64);
        Frame::data(Bytes::from_owner(CountedBytes {
            bytes,
            _held: held,
            _alive: self.alive.clone(),
        }))
    }
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        loop {
            let held = ready!(this.poll_held(task));
            if let Some(piece) = this.large.take() {
                return Poll::Ready(Some(Ok(this.count(piece, held))));
            }
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(task) else {
                this.held = Some(held);
                return Poll::Pending;
            };
            let data = match frame {
                Some(Ok(frame)) => frame.into_data().map_err(Ok),
                Some(Err(error)) => Err(Err(error)),
                None => return Poll::Ready(None),
            };
            match data {
                Ok(data) if data.len() as u64 <= CHUNK => {
                    return Poll::Ready(Some(Ok(this.count(data, held))));
                }
                // Waits without holding memory, as everybody does.
                Ok(data) => this.large = Some(data),
                Err(other) => return Poll::Ready(Some(other)),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.large.is_none() && self.body.is_end_stream()
    }

    /// Only called before the first poll.
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
