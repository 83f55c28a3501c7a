//! Request bodies on their way to the handler.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// The reason why a request's body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// No byte came for [`Config::body_idle_timeout`](crate::Config::body_idle_timeout).
    #[error("the client sent nothing for too long")]
    Idle,
    /// The client closed the connection or reset the stream, or the transport is closing it.
    #[error("the client went away")]
    Disconnected(#[source] Box<dyn Error + Send + Sync>),
    /// The body breaks HTTP's framing, or its trailers are too large.
    #[error("the body is malformed")]
    Malformed(#[source] Box<dyn Error + Send + Sync>),
}

impl BodyError {
    /// Finds the transport's error in one that came out of a request's body, through any wrapping.
    #[must_use]
    pub fn of<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(found) = error.downcast_ref() {
                return Some(found);
            }
            cause = error.source();
        }
        None
    }
}

/// The source of a request's body, in one protocol.
pub(crate) trait Source:
    Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static
{
    /// Takes the body back when the handler is done with it.
    fn finish(self, end: End);
}

/// The state in which the handler left a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Read to its end.
    Complete,
    /// Dropped before its end.
    Unread,
    /// Broken off by an error, the idle timeout's included.
    Failed,
}

/// The body that a handler gets: the source, with the idle timeout.
///
/// The timeout runs only while the handler waits for a frame, so a slow handler never times its
/// client out.
pub(crate) struct RequestBody<S: Source> {
    /// Present until dropped.
    source: Option<S>,
    timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Set while the handler waits for a frame, and the timer runs.
    waiting: bool,
    /// Set once no more frames come.
    over: Option<End>,
}

impl<S: Source> RequestBody<S> {
    pub(crate) fn new(source: S, timeout: Duration) -> Self {
        let over = source.is_end_stream().then_some(End::Complete);
        Self {
            source: Some(source),
            timeout,
            timer: None,
            waiting: false,
            over,
        }
    }

    /// Polls the timer, which starts when the wait begins.
    fn poll_timeout(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timeout = self.timeout;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + timeout);
        }
        timer.as_mut().poll(context)
    }
}

impl<S: Source> Body for RequestBody<S> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(source) = this.source.as_mut().filter(|_| this.over.is_none()) else {
            return Poll::Ready(None);
        };
        match Pin::new(&mut *source).poll_frame(context) {
            Poll::Ready(frame) => {
                this.waiting = false;
                this.over = match &frame {
                    None => Some(End::Complete),
                    Some(Ok(frame)) => {
                        (frame.is_trailers() || source.is_end_stream()).then_some(End::Complete)
                    }
                    Some(Err(_)) => Some(End::Failed),
                };
                Poll::Ready(frame)
            }
            Poll::Pending => this.poll_timeout(context).map(|()| {
                this.over = Some(End::Failed);
                Some(Err(BodyError::Idle))
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.over == Some(End::Complete)
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.source, self.over) {
            (Some(source), None) => source.size_hint(),
            _ => SizeHint::with_exact(0),
        }
    }
}

impl<S: Source> Drop for RequestBody<S> {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            source.finish(self.over.unwrap_or(End::Unread));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt;

    use super::*;

    /// Yields its frames, then waits for ever.
    struct Scripted(Vec<Bytes>, Arc<Mutex<Option<End>>>);

    impl Body for Scripted {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.0.pop().map_or(Poll::Pending, |bytes| {
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            })
        }
    }

    impl Source for Scripted {
        fn finish(self, end: End) {
            *self.1.lock().unwrap() = Some(end);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_an_error_of_its_own() {
        let end = Arc::default();
        let mut body = axum::body::Body::new(RequestBody::new(
            Scripted(vec![Bytes::from_static(b"some")], Arc::clone(&end)),
            Duration::from_secs(60),
        ));
        assert_eq!(
            body.frame().await.unwrap().unwrap().into_data().unwrap(),
            "some"
        );
        // A handler may take its time.
        tokio::time::sleep(Duration::from_secs(600)).await;
        let before = Instant::now();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(BodyError::of(&error), Some(BodyError::Idle)));
        assert_eq!(before.elapsed().as_secs(), 60);
        assert!(body.frame().await.is_none());
        drop(body);
        assert_eq!(*end.lock().unwrap(), Some(End::Failed));
    }
}
