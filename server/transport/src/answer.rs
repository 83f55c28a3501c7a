//! The sending of answers on streams of their own, as HTTP/2 and HTTP/3 have them: the declared
//! length is kept, a chunk is read from the store when there is room for it, and a peer that takes
//! nothing is given up.
//!
//! A protocol sends the head that [`prepare`] returns, and lends its [`SendHalf`] to
//! [`Content::send`].

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body::Body as _;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    context::Context, counted_body::CountedBody, date, interim::remove_connection_fields, metrics,
    refusal, stall::Stall,
};

/// The sending half of a stream, after the head of the answer.
pub(crate) trait SendHalf: Send {
    /// Waits until the stream takes some of `wanted` bytes, and returns how many it takes now.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    fn room(&mut self, wanted: usize) -> impl Future<Output = Result<usize, Gone>> + Send;

    /// Sends `data`, for which there is room, and then ends the stream if `end` is set.
    fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), Gone>;

    /// Sends trailers, which end the stream.
    fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), Gone>;

    /// Completes once the peer has reset the stream or is gone.
    fn poll_gone(&mut self, task: &mut Task<'_>) -> Poll<()>;

    /// Resets the stream, so that the peer does not take what it got for the whole answer.
    fn reset(&mut self);
}

/// The peer has reset the stream or is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gone;

/// The reason why an answer did not arrive whole. Its stream is reset.
#[derive(Debug)]
pub(crate) enum AnswerError {
    /// The peer reset the stream or is gone.
    Gone,
    /// The peer makes no room.
    Stalled,
    /// The body failed.
    Body(Box<axum::Error>),
    /// The body is shorter or longer than its `Content-Length`.
    Length { declared: u64, sent: u64 },
}

impl AnswerError {
    pub(crate) fn log(&self, context: &Context) {
        match self {
            Self::Gone => {}
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

impl From<Gone> for AnswerError {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// The content of an answer, and the length that its head declares.
pub(crate) struct Content {
    body: Body,
    declared: Option<u64>,
}

/// Completes the head of the answer to a request with `method`, and returns it with the content
/// that follows; without content, the head ends the stream.
///
/// # Errors
///
/// [`AnswerError::Length`] for an empty body of which the head declares otherwise.
pub(crate) fn prepare(
    response: Response,
    method: &Method,
) -> Result<(http::Response<()>, Option<Content>), AnswerError> {
    let (parts, body) = refusal::unless_final(response).into_parts();
    let mut head = http::Response::new(());
    *head.status_mut() = parts.status;
    *head.headers_mut() = parts.headers;
    remove_connection_fields(head.headers_mut());
    head.headers_mut()
        .entry(header::DATE)
        .or_insert_with(date::now);
    let bodiless = *method == Method::HEAD || has_no_content(parts.status);
    let declared = content_length(&mut head, bodiless, &body);
    if bodiless {
        return Ok((head, None));
    }
    if !body.is_end_stream() {
        return Ok((head, Some(Content { body, declared })));
    }
    match declared {
        Some(declared @ 1..) => Err(AnswerError::Length { declared, sent: 0 }),
        _ => Ok((head, None)),
    }
}

fn has_no_content(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Completes the `Content-Length`, and returns the length that the body has to have.
fn content_length(head: &mut http::Response<()>, bodiless: bool, body: &Body) -> Option<u64> {
    if has_no_content(head.status()) {
        // RFC 9110 §8.6 forbids it on 204; on 304 axum's own is the length of nothing. hyper does
        // the same.
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

impl Content {
    /// Sends the content as fast as the peer and the socket take it, and waits until they have it.
    ///
    /// # Errors
    ///
    /// Every [`AnswerError`]; the stream is reset then.
    pub(crate) async fn send(
        self,
        half: &mut impl SendHalf,
        context: &Arc<Context>,
    ) -> Result<(), AnswerError> {
        let result = self.pump(half, context).await;
        if result.is_err() {
            half.reset();
        }
        result
    }

    async fn pump(
        self,
        half: &mut impl SendHalf,
        context: &Arc<Context>,
    ) -> Result<(), AnswerError> {
        let (body, mut dropped) = CountedBody::watched(self.body, Arc::clone(context));
        send_frames(body, self.declared, half, context).await?;
        // The protocol may still hold some of it: the peer can take back a window that it opened.
        loop {
            let sent = poll_fn(|task| match half.poll_gone(task) {
                Poll::Ready(()) => Poll::Ready(Err(AnswerError::Gone)),
                Poll::Pending => dropped.poll_recv(task).map(|_| Ok(())),
            });
            match timeout(context.config.write_stall_timeout, sent).await {
                Ok(sent) => return sent,
                Err(_) if context.memory.is_scarce() => return Err(AnswerError::Stalled),
                Err(_) => {}
            }
        }
    }
}

async fn send_frames(
    body: CountedBody,
    declared: Option<u64>,
    half: &mut impl SendHalf,
    context: &Context,
) -> Result<(), AnswerError> {
    let mut body = pin!(body);
    let mut sent = 0;
    let check_end = |sent| match declared {
        Some(declared) if declared != sent => Err(AnswerError::Length { declared, sent }),
        _ => Ok(()),
    };
    loop {
        // Content that the peer has no room for stays in the store.
        room(1, half, &mut Stall::default(), context).await?;
        let frame = poll_fn(|task| match half.poll_gone(task) {
            Poll::Ready(()) => Poll::Ready(Err(AnswerError::Gone)),
            Poll::Pending => body.as_mut().poll_frame(task).map(Ok),
        })
        .await?;
        let Some(frame) = frame else {
            check_end(sent)?;
            return Ok(half.send_data(Bytes::new(), true)?);
        };
        let frame = frame.map_err(|error| AnswerError::Body(Box::new(error)))?;
        match frame.into_data() {
            Ok(data) => {
                let last = body.is_end_stream();
                sent += data.len() as u64;
                if last {
                    check_end(sent)?;
                } else if let Some(declared) = declared.filter(|declared| sent > *declared) {
                    return Err(AnswerError::Length { declared, sent });
                }
                send_data(data, last, half, context).await?;
                if last {
                    return Ok(());
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    check_end(sent)?;
                    return Ok(half.send_trailers(trailers)?);
                }
            }
        }
    }
}

/// Sends `data` in the pieces that there is room for.
async fn send_data(
    mut data: Bytes,
    last: bool,
    half: &mut impl SendHalf,
    context: &Context,
) -> Result<(), AnswerError> {
    if data.is_empty() {
        return if last {
            Ok(half.send_data(data, true)?)
        } else {
            Ok(())
        };
    }
    let mut stall = Stall::default();
    while !data.is_empty() {
        let room = room(data.len(), half, &mut stall, context).await?;
        let piece = data.split_to(room.min(data.len()));
        stall.took(piece.len(), Instant::now());
        half.send_data(piece, last && data.is_empty())?;
    }
    Ok(())
}

/// Waits for room for some of `wanted` bytes, and gives a peer up that makes none for too long.
async fn room(
    wanted: usize,
    half: &mut impl SendHalf,
    stall: &mut Stall,
    context: &Context,
) -> Result<usize, AnswerError> {
    stall.block(Instant::now());
    let limit = context.config.write_stall_timeout;
    let deadline = stall.deadline(limit, context.memory.is_scarce());
    let deadline = deadline.expect("it is blocked");
    match timeout_at(deadline, half.room(wanted)).await {
        Ok(room) => Ok(room?),
        Err(_) => Err(AnswerError::Stalled),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use super::*;
    use crate::Config;

    /// Notes what is sent; has the rooms given, then none.
    #[derive(Default)]
    struct Noting {
        rooms: VecDeque<usize>,
        sent: Vec<(Bytes, bool)>,
        is_reset: bool,
    }

    impl SendHalf for Noting {
        async fn room(&mut self, _: usize) -> Result<usize, Gone> {
            match self.rooms.pop_front() {
                Some(room) => Ok(room),
                None => std::future::pending().await,
            }
        }

        fn send_data(&mut self, data: Bytes, end: bool) -> Result<(), Gone> {
            self.sent.push((data, end));
            Ok(())
        }

        fn send_trailers(&mut self, _: HeaderMap) -> Result<(), Gone> {
            Err(Gone)
        }

        fn poll_gone(&mut self, _: &mut Task<'_>) -> Poll<()> {
            Poll::Pending
        }

        fn reset(&mut self) {
            self.is_reset = true;
        }
    }

    async fn send(response: Response, half: &mut Noting) -> Result<(), AnswerError> {
        let context = Arc::new(Context::alone(Config::default()));
        let (_, content) = prepare(response, &Method::GET)?;
        content.unwrap().send(half, &context).await
    }

    fn declaring(length: u64, body: &'static str) -> Response {
        let pieces =
            futures::stream::iter([Ok::<_, Infallible>(Bytes::from_static(body.as_bytes()))]);
        let mut response = Response::new(Body::from_stream(pieces));
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length.into());
        response
    }

    #[tokio::test(start_paused = true)]
    async fn content_leaves_in_pieces_that_there_is_room_for() {
        let mut half = Noting {
            rooms: [1, 3, 5].into(),
            ..Noting::default()
        };
        // Kept, so the answer counts as unsent until the bytes are dropped.
        let task = send(Response::new(Body::from("content")), &mut half);
        let sent = timeout(std::time::Duration::from_secs(1), task).await;
        assert!(sent.is_err(), "{sent:?}");
        let pieces: Vec<_> = half
            .sent
            .iter()
            .map(|(data, end)| (&data[..], *end))
            .collect();
        assert_eq!(pieces, [(&b"con"[..], false), (b"tent", true)]);
        assert!(!half.is_reset);
    }

    #[tokio::test(start_paused = true)]
    async fn content_of_another_length_resets_the_stream() {
        for (declared, sent) in [(8, 7), (6, 7)] {
            let mut half = Noting {
                rooms: [10; 8].into(),
                ..Noting::default()
            };
            let error = send(declaring(declared, "content"), &mut half).await;
            let length = AnswerError::Length { declared, sent };
            assert_eq!(format!("{error:?}"), format!("{:?}", Err::<(), _>(length)));
            assert!(half.is_reset);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_makes_no_room_is_given_up_in_time() {
        let before = Instant::now();
        let mut half = Noting::default();
        let error = send(Response::new(Body::from("content")), &mut half).await;
        assert!(matches!(error, Err(AnswerError::Stalled)), "{error:?}");
        assert_eq!(before.elapsed(), Config::default().write_stall_timeout);
        assert!(half.is_reset);
    }
}
