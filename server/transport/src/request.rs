//! The handling of requests on streams of their own, as HTTP/2 and HTTP/3 have them: a client may
//! go away before its handler is done, and a handler may answer before it has read its request.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as Task, Poll},
};

use axum::{body::Body, response::Response};
use http::{HeaderMap, Method, Request, header};
use tokio::time::timeout;
use tower::ServiceExt;

use crate::{
    body::End,
    context::{Context, Handler},
    refusal,
};

/// Returns true if the client waits for `100 Continue` before it sends the body.
pub(crate) fn expects_continue(fields: &HeaderMap) -> bool {
    fields
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Runs the handler; `None` if its client goes away first, of which `is_gone` tells.
///
/// The handler is dropped then, unless it has not read its request to the end: its body fails, and
/// it may keep what came. A request that was reset before it got here is not handled at all:
/// beginning and resetting at once makes no work.
pub(crate) async fn handle<S: Handler, R>(
    request: Request<Body>,
    handler: S,
    unread: &Unread<R>,
    context: &Context,
    mut is_gone: impl FnMut(&mut Task<'_>) -> bool,
) -> Option<Response> {
    if request.method() == Method::CONNECT {
        return Some(refusal::connect());
    }
    if poll_fn(|task| Poll::Ready(is_gone(task))).await {
        return None;
    }
    let mut response = pin!(handler.oneshot(request));
    let mut detached = None;
    poll_fn(|task| {
        if let Poll::Ready(response) = response.as_mut().poll(task) {
            return Poll::Ready(Some(response.unwrap_or_else(|never| match never {})));
        }
        if is_gone(task) {
            if !unread.is_reading() {
                return Poll::Ready(None);
            }
            detached.get_or_insert_with(|| context.place.detach());
        }
        Poll::Pending
    })
    .await
}

/// The receiving half of a stream whose request the handler has left.
pub(crate) trait Discard: Send {
    /// Waits for the next bytes, discards them and returns how many they were; `None` at the end.
    /// The peer may send as many anew if they are fewer than `left`.
    fn discard(&mut self, left: u64) -> impl Future<Output = Option<u64>> + Send;
}

/// The part of a request that its handler has not read.
#[derive(Debug)]
pub(crate) struct Unread<R> {
    rest: Mutex<Option<R>>,
    /// The handler has not come to the request's end, or is about to deal with its failure.
    is_reading: AtomicBool,
}

impl<R> Default for Unread<R> {
    fn default() -> Self {
        Self {
            rest: Mutex::default(),
            is_reading: AtomicBool::new(true),
        }
    }
}

impl<R> Unread<R> {
    /// Takes back the body that the handler is done with.
    pub(crate) fn leave(&self, rest: R, end: End) {
        if end != End::Complete {
            *self.rest.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
        }
        if end != End::Failed {
            self.is_reading.store(false, Ordering::Release);
        }
    }

    fn is_reading(&self) -> bool {
        self.is_reading.load(Ordering::Acquire)
    }

    /// Gives the client time to see the answer and stop sending.
    ///
    /// Dropping the stream resets it with `NO_ERROR`, as RFC 9113 §8.1 asks for, but curl 7.88 and
    /// its like lose the answer to that. So the rest is read for a while; beyond
    /// [`Config::linger_size`](crate::Config::linger_size) the window stays closed.
    pub(crate) async fn discard(&self, context: &Context)
    where
        R: Discard,
    {
        let rest = self
            .rest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(mut rest) = rest else {
            return;
        };
        let discard = async {
            let mut left = context.linger_size();
            while let Some(length) = rest.discard(left).await {
                left = left.saturating_sub(length);
            }
        };
        let _ = timeout(context.config.linger_timeout, discard).await;
    }
}
