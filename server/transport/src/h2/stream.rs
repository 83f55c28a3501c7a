//! One HTTP/2 stream: a request, its handler, its response.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context as Task, Poll, ready},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server::SendResponse};
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::{Instant, timeout, timeout_at};
use tower::ServiceExt;

use crate::{
    body::{BodyError, End, RequestBody, Source},
    connection::{Context, Handler},
    date,
    interim::{
        Cut, Interim, InterimError,
        h2::{Backlog, Sender},
        remove_connection_fields,
    },
    memory::Counted,
    metrics, refusal,
    stall::Stall,
};

/// Serves one stream to its end; tells whether the peer has its answer.
pub(super) async fn serve<S: Handler>(
    request: Request<RecvStream>,
    responder: SendResponse<Bytes>,
    backlog: Arc<Backlog>,
    context: Arc<Context>,
    handler: S,
) -> bool {
    let method = request.method().clone();
    let sender = Sender::new(responder, Arc::clone(&backlog));
    // However this ends, a panic included, the sender's clones must not keep the stream open.
    let _closing = CloseOnDrop(sender.clone());
    let leftover = Arc::new(Leftover::default());
    let request = prepare(request, &sender, &leftover, &context);
    let Some(response) = handle(request, &sender, &leftover, &context, handler).await else {
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
        Ok(()) => leftover.discard(&context).await,
        Err(unanswered) => {
            unanswered.tell(&context);
            return false;
        }
    }
    true
}

/// How a cut looks: the code that the text on resumable uploads names for it (httpwg/http-extensions#3475), and the
/// one that Apple's own server framework sends when a handler closes its stream. Not `REFUSED_STREAM`, which promises
/// that nothing was processed and has clients repeat the whole request.
const CUT: Reason = Reason::CANCEL;

struct CloseOnDrop(Sender);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.take();
    }
}

/// The request as the handler gets it.
fn prepare(
    request: Request<RecvStream>,
    sender: &Sender,
    leftover: &Arc<Leftover>,
    context: &Context,
) -> Request<Body> {
    let expects_continue = request
        .headers()
        .get(header::EXPECT)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
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
            leftover: Arc::clone(leftover),
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

/// Runs the handler; `None` when its client went away first.
///
/// The handler is dropped then, unless it has not read its request to the end: it gets an error from the body and the
/// chance to keep what came. A request that was reset before this is not worked on at all: beginning and resetting at once
/// makes no work.
async fn handle<S: Handler>(
    request: Request<Body>,
    sender: &Sender,
    leftover: &Leftover,
    context: &Context,
    handler: S,
) -> Option<Response> {
    if request.method() == Method::CONNECT {
        return Some(refusal::connect());
    }
    if poll_fn(|task| Poll::Ready(sender.poll_reset(task))).await {
        return None;
    }
    let mut response = pin!(handler.oneshot(request));
    let mut detached = None;
    poll_fn(|task| {
        if let Poll::Ready(response) = response.as_mut().poll(task) {
            return Poll::Ready(Some(response.unwrap_or_else(|never| match never {})));
        }
        if sender.poll_reset(task) {
            if !leftover.is_reading.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            detached.get_or_insert_with(|| context.place.detach());
        }
        Poll::Pending
    })
    .await
}

/// Why a response did not arrive whole; the stream is reset.
enum Unanswered {
    /// The peer reset the stream or is gone.
    Peer,
    /// The peer leaves the window closed.
    Stalled,
    /// The response's body failed.
    Body(Box<axum::Error>),
    /// The response's body is shorter or longer than its `Content-Length`.
    Length { declared: u64, sent: u64 },
}

impl Unanswered {
    fn tell(&self, context: &Context) {
        match self {
            Self::Peer => {}
            Self::Body(error) => tracing::warn!(
                error = &**error as &dyn std::error::Error,
                "answer cut: its body failed"
            ),
            Self::Length { declared, sent } => tracing::error!(
                declared,
                sent,
                "answer cut: its body is not as long as declared"
            ),
            Self::Stalled => {
                metrics::stalled();
                tracing::debug!(peer = %context.peer.address, "peer does not read its answer");
            }
        }
    }
}

impl From<h2::Error> for Unanswered {
    fn from(_: h2::Error) -> Self {
        Self::Peer
    }
}

async fn answer(
    mut responder: SendResponse<Bytes>,
    response: Response,
    method: &Method,
    context: &Arc<Context>,
) -> Result<(), Unanswered> {
    let (parts, body) = refusal::unless_final(response).into_parts();
    let mut head = http::Response::new(());
    *head.status_mut() = parts.status;
    *head.headers_mut() = parts.headers;
    remove_connection_fields(head.headers_mut());
    head.headers_mut()
        .entry(header::DATE)
        .or_insert_with(date::now);
    let bodiless = *method == Method::HEAD
        || matches!(
            parts.status,
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
        );
    let declared = content_length(&mut head, bodiless, &body);
    let ends = bodiless || body.is_end_stream();
    if ends && !bodiless && declared.is_some_and(|length| length != 0) {
        responder.send_reset(Reason::INTERNAL_ERROR);
        return Err(Unanswered::Length {
            declared: declared.unwrap_or_default(),
            sent: 0,
        });
    }
    let mut stream = responder.send_response(head, ends)?;
    drop(responder);
    if ends {
        return Ok(());
    }
    let result = pump(body, &mut stream, declared, context).await;
    if result.is_err() {
        // The peer must not take what it got for the whole.
        stream.send_reset(Reason::INTERNAL_ERROR);
    }
    result
}

/// Completes the `Content-Length`; what the body has to hold to.
fn content_length(head: &mut http::Response<()>, bodiless: bool, body: &Body) -> Option<u64> {
    if matches!(
        head.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        // RFC 9110 §8.6 forbids it on 204; on 304 axum's own is the length of nothing. hyper does the same.
        head.headers_mut().remove(header::CONTENT_LENGTH);
        return None;
    }
    if let Some(declared) = head.headers().get(header::CONTENT_LENGTH) {
        return declared.to_str().ok()?.parse().ok();
    }
    let exact = body.size_hint().exact()?;
    // An empty body of a bodiless answer says nothing about the length that GET would have.
    if !bodiless || exact > 0 {
        head.headers_mut()
            .insert(header::CONTENT_LENGTH, exact.into());
    }
    Some(exact)
}

/// Sends the body as fast as the peer's windows and the socket take it, and waits until they have.
async fn pump(
    body: Body,
    stream: &mut SendStream<Bytes>,
    declared: Option<u64>,
    context: &Arc<Context>,
) -> Result<(), Unanswered> {
    let (body, mut gone) = Counted::watched(body, Arc::clone(context));
    send_all(body, stream, declared, context).await?;
    // h2 may still hold some of it: the peer can take back a window that it has opened.
    loop {
        let left = poll_fn(|task| match stream.poll_reset(task) {
            Poll::Ready(_) => Poll::Ready(Err(Unanswered::Peer)),
            Poll::Pending => gone.poll_recv(task).map(|_| Ok(())),
        });
        match timeout(context.config.write_stall_timeout, left).await {
            Ok(left) => return left,
            Err(_) if context.memory.is_scarce() => return Err(Unanswered::Stalled),
            Err(_) => {}
        }
    }
}

async fn send_all(
    body: Counted,
    stream: &mut SendStream<Bytes>,
    declared: Option<u64>,
    context: &Context,
) -> Result<(), Unanswered> {
    let mut body = pin!(body);
    let mut sent = 0;
    loop {
        // What the peer has no window for stays with the store.
        room(1, stream, &mut Stall::default(), context).await?;
        let frame = poll_fn(|task| match stream.poll_reset(task) {
            Poll::Ready(_) => Poll::Ready(Err(Unanswered::Peer)),
            Poll::Pending => body.as_mut().poll_frame(task).map(Ok),
        })
        .await?;
        let whole = |sent| match declared {
            Some(declared) if declared != sent => Err(Unanswered::Length { declared, sent }),
            _ => Ok(()),
        };
        let frame = match frame {
            None => {
                whole(sent)?;
                return Ok(stream.send_data(Bytes::new(), true)?);
            }
            Some(frame) => frame.map_err(|error| Unanswered::Body(Box::new(error)))?,
        };
        match frame.into_data() {
            Ok(data) => {
                let last = body.is_end_stream();
                sent += data.len() as u64;
                if last {
                    whole(sent)?;
                } else if let Some(declared) = declared.filter(|declared| sent > *declared) {
                    return Err(Unanswered::Length { declared, sent });
                }
                send(data, last, stream, context).await?;
                if last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    whole(sent)?;
                    return Ok(stream.send_trailers(trailers)?);
                }
            }
        }
    }
}

/// Sends `data` in the pieces that the windows allow.
async fn send(
    mut data: Bytes,
    last: bool,
    stream: &mut SendStream<Bytes>,
    context: &Context,
) -> Result<(), Unanswered> {
    if data.is_empty() {
        return if last {
            Ok(stream.send_data(data, true)?)
        } else {
            Ok(())
        };
    }
    let mut stall = Stall::default();
    while !data.is_empty() {
        let room = room(data.len(), stream, &mut stall, context).await?;
        let piece = data.split_to(room.min(data.len()));
        stall.took(piece.len(), Instant::now());
        stream.send_data(piece, last && data.is_empty())?;
    }
    Ok(())
}

/// Waits until h2 takes some of `wanted` bytes. A peer that opens no window for too long is cut off.
async fn room(
    wanted: usize,
    stream: &mut SendStream<Bytes>,
    stall: &mut Stall,
    context: &Context,
) -> Result<usize, Unanswered> {
    stream.reserve_capacity(wanted);
    stall.block(Instant::now());
    let limit = context.config.write_stall_timeout;
    let deadline = stall.deadline(limit, context.memory.is_scarce());
    let deadline = deadline.expect("it is blocked");
    timeout_at(deadline, poll_fn(|task| poll_capacity(stream, task)))
        .await
        .map_err(|_| Unanswered::Stalled)?
}

fn poll_capacity(
    stream: &mut SendStream<Bytes>,
    task: &mut Task<'_>,
) -> Poll<Result<usize, Unanswered>> {
    if stream.poll_reset(task).is_ready() {
        return Poll::Ready(Err(Unanswered::Peer));
    }
    // Capacity that is there already is not reported again.
    while stream.capacity() == 0 {
        match ready!(stream.poll_capacity(task)) {
            Some(result) => result?,
            None => return Poll::Ready(Err(Unanswered::Peer)),
        };
    }
    Poll::Ready(Ok(stream.capacity()))
}

/// What a handler left of its request.
#[derive(Debug)]
struct Leftover {
    stream: Mutex<Option<RecvStream>>,
    /// The handler has not come to the request's end, or is about to deal with its failure.
    is_reading: AtomicBool,
}

impl Default for Leftover {
    fn default() -> Self {
        Self {
            stream: Mutex::default(),
            is_reading: AtomicBool::new(true),
        }
    }
}

impl Leftover {
    /// Gives the client time to see the answer and stop sending.
    ///
    /// Dropping the stream resets it with `NO_ERROR`, as RFC 9113 §8.1 asks for, but curl 7.88 and its like lose the
    /// answer to that. So the rest is read for a while; beyond the limit the window just stays closed.
    async fn discard(&self, context: &Context) {
        let Some(mut stream) = self.lock().take() else {
            return;
        };
        let discard = async {
            let mut left = context.linger_size();
            while let Some(Ok(data)) = stream.data().await {
                left = left.saturating_sub(data.len() as u64);
                if left > 0 && stream.flow_control().release_capacity(data.len()).is_err() {
                    return;
                }
            }
        };
        let _ = timeout(context.config.linger_timeout, discard).await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<RecvStream>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's body as h2 delivers it.
struct Content {
    stream: RecvStream,
    /// What is still to come, if declared.
    length: Option<u64>,
    data_done: bool,
    /// Bytes that the handler has and the peer may not yet send anew.
    unreleased: usize,
    /// The client waits for `100 Continue`, which the first poll sends.
    unasked: Option<Sender>,
    leftover: Arc<Leftover>,
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
        // The handler is back for more, so it is done with what it had.
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
                // NO_ERROR too: a request that was reset is not whole.
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

impl Source for Content {
    fn finish(mut self, end: End) {
        if end != End::Complete {
            let _ = self.stream.flow_control().release_capacity(self.unreleased);
            *self.leftover.lock() = Some(self.stream);
        }
        if end != End::Failed {
            self.leftover.is_reading.store(false, Ordering::Release);
        }
    }
}
