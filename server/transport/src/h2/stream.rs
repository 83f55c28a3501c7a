//! One HTTP/2 stream: a request, its handler, its response.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body::{Frame, SizeHint};
use tokio::time::timeout;

use crate::{
    answer::{self, AnswerError, Gone, SendHalf},
    body::{BodyError, End, RequestBody, Source},
    context::{Context, Handler},
    interim::{
        Cut, Interim, InterimError,
        h2::{Backlog, Sender},
    },
    request::{Discard, Unread, expects_continue, handle},
};

/// Serves one stream to its end; returns true if the peer has its answer.
pub(super) async fn serve<S: Handler>(
    request: Request<RecvStream>,
    responder: SendResponse<Bytes>,
    backlog: Arc<Backlog>,
    context: Arc<Context>,
    handler: S,
) -> bool {
    let method = request.method().clone();
    let sender = Sender::new(responder, Arc::clone(&backlog));
    // At every end, a panic included, the sender's clones must not keep the stream open.
    let _closing = CloseOnDrop(sender.clone());
    let unread = Arc::new(Unread::default());
    let request = prepare(request, &sender, &unread, &context);
    let is_gone = |task: &mut Task<'_>| sender.poll_reset(task);
    let Some(response) = handle(request, handler, &unread, &context, is_gone).await else {
        return false;
    };
    if Cut::is_wanted(&response) {
        // Resetting a stream throws away what h2 has queued for it.
        let _ = timeout(context.config.linger_timeout, backlog.empty()).await;
        if let Some(mut responder) = sender.take() {
            responder.send_reset(CUT);
        }
        return false;
    }
    let Some(responder) = sender.take() else {
        return false;
    };
    match answer(responder, response, &method, &context).await {
        Ok(()) => unread.discard(&context).await,
        Err(error) => {
            error.log(&context);
            return false;
        }
    }
    true
}

/// The code of a cut: the one that the text on resumable uploads names for it
/// (httpwg/http-extensions#3475), and that Apple's own server framework sends when a handler closes
/// its stream. Not `REFUSED_STREAM`, which promises that nothing was processed and makes clients
/// repeat the whole request.
const CUT: Reason = Reason::CANCEL;

struct CloseOnDrop(Sender);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// Returns the request that the handler gets.
fn prepare(
    request: Request<RecvStream>,
    sender: &Sender,
    unread: &Arc<Unread<RecvStream>>,
    context: &Context,
) -> Request<Body> {
    let expects_continue = expects_continue(request.headers());
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let mut request = request.map(|stream| {
        let content = Content {
            stream,
            length,
            data_done: false,
            unreleased: 0,
            unasked: expects_continue.then(|| sender.clone()),
            unread: Arc::clone(unread),
        };
        Body::new(RequestBody::new(content, context.config.body_idle_timeout))
    });
    let interim = if context.interim {
        sender.clone().into()
    } else {
        Interim::shut(InterimError::Disabled)
    };
    request.extensions_mut().insert(context.peer);
    request.extensions_mut().insert(interim);
    request
}

async fn answer(
    mut responder: SendResponse<Bytes>,
    response: Response,
    method: &Method,
    context: &Arc<Context>,
) -> Result<(), AnswerError> {
    let (head, content) = match answer::prepare(response, method) {
        Ok(prepared) => prepared,
        Err(error) => {
            responder.send_reset(Reason::INTERNAL_ERROR);
            return Err(error);
        }
    };
    let stream = responder.send_response(head, content.is_none());
    let mut stream = stream.map_err(|_| Gone)?;
    drop(responder);
    match content {
        Some(content) => content.send(&mut stream, context).await,
        None => Ok(()),
    }
}

impl SendHalf for SendStream<Bytes> {
    async fn room(&mut self, wanted: usize) -> Result<usize, Gone> {
        self.reserve_capacity(wanted);
        poll_fn(|task| {
            if self.poll_reset(task).is_ready() {
                return Poll::Ready(Err(Gone));
            }
            // h2 does not report capacity again that is there already.
            while self.capacity() == 0 {
                match ready!(self.poll_capacity(task)) {
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return Poll::Ready(Err(Gone)),
                }
            }
            Poll::Ready(Ok(self.capacity()))
        })
        .await
    }

    fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), Gone> {
        Self::send_data(self, data, end).map_err(|_| Gone)
    }

    fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Gone> {
        Self::send_trailers(self, trailers).map_err(|_| Gone)
    }

    fn poll_gone(&mut self, task: &mut Task<'_>) -> Poll<()> {
        self.poll_reset(task).map(drop)
    }

    fn reset(&mut self) {
        self.send_reset(Reason::INTERNAL_ERROR);
    }
}

impl Discard for RecvStream {
    async fn discard(&mut self, left: u64) -> Option<u64> {
        let length = self.data().await?.ok()?.len();
        if (length as u64) < left {
            self.flow_control().release_capacity(length).ok()?;
        }
        Some(length as u64)
    }
}

/// A request's body as h2 delivers it.
struct Content {
    stream: RecvStream,
    /// Bytes still to come, if declared.
    length: Option<u64>,
    data_done: bool,
    /// Bytes that the handler has, and that the peer may not yet send anew.
    unreleased: usize,
    /// The client waits for `100 Continue`, which the first poll sends.
    unasked: Option<Sender>,
    unread: Arc<Unread<RecvStream>>,
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(sender) = this.unasked.take() {
            // Refused only when there is nothing left to continue.
            let _ = sender.send(StatusCode::CONTINUE, HeaderMap::new());
        }
        // A handler that asks for more is done with the bytes before.
        if this.unreleased > 0 {
            let _ = this
                .stream
                .flow_control()
                .release_capacity(std::mem::take(&mut this.unreleased));
        }
        if !this.data_done {
            match ready!(this.stream.poll_data(task)) {
                Some(Ok(data)) => {
                    this.unreleased = data.len();
                    if let Some(length) = &mut this.length {
                        *length = length.saturating_sub(data.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // `NO_ERROR`, too: a request that was reset is not whole.
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => this.data_done = true,
            }
        }
        Poll::Ready(match ready!(this.stream.poll_trailers(task)) {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(error.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Some(length) => SizeHint::with_exact(length),
            None if self.stream.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}

impl From<h2::Error> for BodyError {
    fn from(error: h2::Error) -> Self {
        // h2 itself resets a stream when the peer breaks the protocol, with a wrong
        // `Content-Length` for one.
        if error.is_reset() && error.is_library() {
            Self::Malformed(error.into())
        } else {
            Self::Disconnected(error.into())
        }
    }
}

impl Source for Content {
    fn finish(mut self, end: End) {
        if end != End::Complete {
            let _ = self.stream.flow_control().release_capacity(self.unreleased);
        }
        self.unread.leave(self.stream, end);
    }
}
