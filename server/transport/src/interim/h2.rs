//! Interim responses on HTTP/2: `HEADERS` frames sent through the `h2` crate.
//!
//! h2 checks neither the order (an interim response after the final one would go out) nor how many
//! are queued for a peer that does not read. [`Sender`] does the first by giving the stream's
//! responder away with the final response, [`Backlog`] the second.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use budget::Held;
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::sync::Notify;

use super::InterimError;
use crate::context::Context;

/// Maximum number of interim responses that may wait for one connection.
const MAX_QUEUED: usize = 256;

/// Memory that an interim response takes, beside its fields.
const RESPONSE: usize = 512;

/// The interim responses of one connection that have not reached the socket.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// The memory of each response.
    queued: Mutex<VecDeque<Held>>,
    left: Notify,
    context: Arc<Context>,
}

impl Backlog {
    pub(crate) fn new(context: Arc<Context>) -> Self {
        Self {
            queued: Mutex::default(),
            left: Notify::new(),
            context,
        }
    }

    /// Returns the number of waiting responses, for [`sent`](Self::sent) once everything older has
    /// left.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Removes the oldest `count` responses, which have left.
    pub(crate) fn sent(&self, count: usize) {
        if count == 0 {
            return;
        }
        let mut queued = self.lock();
        queued.drain(..count);
        if queued.is_empty() {
            self.left.notify_waiters();
        }
    }

    /// Waits until all queued responses have left.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub(crate) async fn empty(&self) {
        loop {
            let left = self.left.notified();
            if self.waiting() == 0 {
                return;
            }
            left.await;
        }
    }

    /// Counts one more response, if there is room for it.
    fn enter(&self, fields: &HeaderMap) -> bool {
        let mut queued = self.lock();
        if queued.len() >= MAX_QUEUED {
            return false;
        }
        let fields: usize = fields.values().map(HeaderValue::len).sum();
        let held = self.context.memory.try_small((RESPONSE + fields) as u64);
        held.map(|held| queued.push_back(held)).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Held>> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sender on behalf of one stream, until its final response begins.
#[derive(Clone)]
pub(crate) struct Sender {
    /// Empty once the final response has begun or the stream is gone.
    responder: Arc<Mutex<Option<SendResponse<Bytes>>>>,
    backlog: Arc<Backlog>,
}

impl Sender {
    pub(crate) fn new(responder: SendResponse<Bytes>, backlog: Arc<Backlog>) -> Self {
        Self {
            responder: Arc::new(Mutex::new(Some(responder))),
            backlog,
        }
    }

    /// Queues an interim response; also `100`, which handlers may not send.
    pub(crate) fn send(&self, status: StatusCode, fields: HeaderMap) -> Result<(), InterimError> {
        let mut responder = self.lock();
        let responder = responder.as_mut().ok_or(InterimError::Closed)?;
        if !self.backlog.enter(&fields) {
            return Err(InterimError::Full);
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = fields;
        responder
            .send_informational(response)
            .map_err(|_| InterimError::Closed)
    }

    /// Takes the responder for the final response; every later [`send`](Self::send) is refused.
    pub(crate) fn take(&self) -> Option<SendResponse<Bytes>> {
        self.lock().take()
    }

    /// Returns true if the peer has reset the stream, or the connection is gone.
    pub(crate) fn poll_reset(&self, context: &mut std::task::Context<'_>) -> bool {
        self.lock()
            .as_mut()
            .is_none_or(|responder| responder.poll_reset(context).is_ready())
    }

    fn lock(&self) -> MutexGuard<'_, Option<SendResponse<Bytes>>> {
        self.responder
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender")
            .field("backlog", &self.backlog)
            .finish_non_exhaustive()
    }
}
