//! One request and its response, between hyper and the handler.

use std::{
    convert::Infallible,
    error::Error as _,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Version, header};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tower::{ServiceExt, util::Oneshot};

use super::shared::Shared;
use crate::{
    body::{BodyError, End, RequestBody, Source},
    context::{Context, Handler},
    counted_body::CountedBody,
    interim::{self, Cut, Interim, InterimError},
    places::{Activity, Detached},
    refusal,
    request::expects_continue,
};

/// The handler as a service of hyper's.
pub(super) struct Exchanges<S> {
    shared: Arc<Shared>,
    context: Arc<Context>,
    handler: S,
}

impl<S> Exchanges<S> {
    pub(super) fn new(shared: Arc<Shared>, context: Arc<Context>, handler: S) -> Self {
        Self {
            shared,
            context,
            handler,
        }
    }
}

impl<S: Handler> hyper::service::Service<Request<Incoming>> for Exchanges<S> {
    type Response = http::Response<Answer>;
    type Error = Infallible;
    type Future = Exchange<S>;

    fn call(&self, request: Request<Incoming>) -> Exchange<S> {
        self.context.place.set_activity(Activity::Serving);
        let modern = request.version() >= Version::HTTP_11;
        let number = self.shared.begin(modern && self.context.interim);
        let interim = match (modern, self.context.interim) {
            (false, _) => Interim::shut(InterimError::Unsupported),
            (true, false) => Interim::shut(InterimError::Disabled),
            (true, true) => {
                interim::h1::Sender::new(Arc::clone(&self.shared.interim_queue), number).into()
            }
        };
        let refusal = refusal_of(&request);
        let expects_continue = modern && expects_continue(request.headers());
        let mut request = request.map(|incoming| {
            let source = Content {
                incoming,
                shared: Arc::clone(&self.shared),
                exchange: number,
                unasked: expects_continue,
            };
            Body::new(RequestBody::new(
                source,
                self.context.config.body_idle_timeout,
            ))
        });
        request.extensions_mut().insert(self.context.peer);
        request.extensions_mut().insert(interim);
        let state = match refusal {
            Some(response) => State::Holding(response),
            None => State::Handling(Box::pin(self.handler.clone().oneshot(request))),
        };
        Exchange {
            state,
            shared: Arc::clone(&self.shared),
            context: Arc::clone(&self.context),
            number,
            detached: None,
        }
    }
}

/// Returns the refusal of a request that no handler should see.
fn refusal_of(request: &Request<Incoming>) -> Option<Response> {
    if request.method() == Method::CONNECT {
        return Some(refusal::connect());
    }
    // RFC 9112 §3.2: exactly one Host, from HTTP/1.1 on.
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() >= Version::HTTP_11) {
        return Some(refusal::host());
    }
    refusal::transfer_coding(request.headers())
}

/// A future that runs the handler, then holds its response until the interim responses before it
/// have left.
pub(super) struct Exchange<S: Handler> {
    state: State<S>,
    shared: Arc<Shared>,
    context: Arc<Context>,
    number: u64,
    /// Set while the handler runs although its client is gone: hyper waits for it.
    detached: Option<Detached>,
}

enum State<S: Handler> {
    Handling(Pin<Box<Oneshot<S, Request<Body>>>>),
    Holding(Response),
    /// The exchange is cut: the connection's task ends the connection.
    Cut,
    /// hyper has the response.
    Done,
}

impl<S: Handler> Future for Exchange<S> {
    type Output = Result<http::Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        if let State::Handling(handler) = &mut self.state {
            let response = match handler.as_mut().poll(task) {
                Poll::Ready(Ok(response)) => response,
                Poll::Ready(Err(never)) => match never {},
                Poll::Pending => {
                    if self.detached.is_none() && self.shared.has_failed() {
                        self.detached = Some(self.context.place.detach());
                    }
                    return Poll::Pending;
                }
            };
            self.state = if Cut::is_wanted(&response) {
                self.shared.cut(self.number);
                State::Cut
            } else {
                State::Holding(refusal::unless_final(response))
            };
        }
        // The flush that follows takes the queue and wakes this task.
        if !self.shared.interim_queue.finish() {
            return Poll::Pending;
        }
        let State::Holding(mut response) = std::mem::replace(&mut self.state, State::Done) else {
            self.state = State::Cut;
            return Poll::Pending;
        };
        if self.shared.is_abandoned() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        self.shared.answering();
        Poll::Ready(Ok(response.map(|body| Answer {
            body: CountedBody::new(body, Arc::clone(&self.context)),
            shared: Arc::clone(&self.shared),
            exchange: self.number,
        })))
    }
}

impl<S: Handler> Drop for Exchange<S> {
    /// Lets a handler that has not read its request to the end run on when hyper drops it with the
    /// connection: its body fails, and it may keep the bytes that arrived.
    fn drop(&mut self) {
        if let State::Handling(handler) = std::mem::replace(&mut self.state, State::Done)
            && self.shared.is_reading()
            && !std::thread::panicking()
        {
            self.context.run_on(handler);
        }
    }
}

/// A request's body as hyper delivers it.
struct Content {
    incoming: Incoming,
    shared: Arc<Shared>,
    exchange: u64,
    /// The client waits for `100 Continue`, which hyper sends at the first poll.
    unasked: bool,
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.unasked {
            ready!(self.shared.interim_queue.poll_taken(self.exchange, task));
            self.unasked = false;
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(task));
        if let Some(Err(_)) = frame {
            self.shared.request_failed(self.exchange);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Source for Content {
    fn finish(self, end: End) {
        match end {
            End::Complete => self.shared.request_done(self.exchange),
            // Reading on would ask the client for a body that nobody reads.
            End::Unread => self
                .shared
                .request_unread(self.exchange, self.incoming, !self.unasked),
            End::Failed => self
                .shared
                .request_unread(self.exchange, self.incoming, false),
        }
    }
}

impl From<hyper::Error> for BodyError {
    fn from(error: hyper::Error) -> Self {
        // hyper reports broken framing as these two kinds (`proto/h1/decode.rs`); every other error
        // is a lost connection.
        let kind = error
            .source()
            .and_then(<dyn std::error::Error>::downcast_ref)
            .map(io::Error::kind);
        match kind {
            Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
                Self::Malformed(error.into())
            }
            _ => Self::Disconnected(error.into()),
        }
    }
}

/// A response's body on its way to hyper, which drops it when it has all of it.
pub(super) struct Answer {
    body: CountedBody,
    shared: Arc<Shared>,
    exchange: u64,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(task));
        if let Some(Err(error)) = &frame {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "answer cut: its body failed"
            );
            self.shared.response_broken(self.exchange);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.shared.response_done(self.exchange);
    }
}
