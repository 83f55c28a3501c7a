//! HTTP/2 with prior knowledge or by ALPN, with no interim response hidden.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exchange::{self, Event, Events, Framing, Head, Io, MAX_BODY, Reading, RequestHead};

/// A connection.
#[derive(Debug)]
pub(crate) struct Session {
    requests: SendRequest<Bytes>,
}

#[derive(Debug)]
pub(crate) struct Writer {
    stream: SendStream<Bytes>,
    ended: watch::Receiver<bool>,
    /// Set once the last frame of the request has been sent.
    finished: bool,
    _reader: Reading,
}

impl Session {
    pub(crate) async fn start(stream: Box<dyn Io>) -> Result<Self, String> {
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .handshake(stream)
            .await;
        let (requests, connection) =
            handshake.map_err(|error| format!("no HTTP/2 connection: {error}"))?;
        // The task ends with the last stream and the last handle; an error reaches the streams.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self { requests })
    }

    pub(crate) async fn is_ready(&mut self) -> bool {
        poll_fn(|cx| self.requests.poll_ready(cx)).await.is_ok()
    }

    pub(crate) async fn open(
        &mut self,
        head: &RequestHead,
        events: Events,
        ended: watch::Receiver<bool>,
    ) -> Result<Writer, String> {
        if !self.is_ready().await {
            return Err("the server closed the HTTP/2 connection".to_owned());
        }
        let finished = head.framing == Framing::NoBody;
        let opened = self.requests.send_request(request(head)?, finished);
        let (response, stream) = opened.map_err(|error| format!("no HTTP/2 stream: {error}"))?;
        let reader = Reading(tokio::spawn(read(response, events)));
        Ok(Writer {
            stream,
            ended,
            finished,
            _reader: reader,
        })
    }
}

fn request(head: &RequestHead) -> Result<Request<()>, String> {
    let mut request = Request::builder()
        .method(head.method.as_str())
        .uri(format!("{}{}", head.origin, head.path))
        .version(http::Version::HTTP_2)
        .body(())
        .map_err(|error| format!("no such request can be made: {error}"))?;
    *request.headers_mut() = field_map(&head.fields)?;
    Ok(request)
}

fn field_map(fields: &[(String, String)]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name =
            HeaderName::try_from(name.as_str()).map_err(|error| format!("{name:?}: {error}"))?;
        let value =
            HeaderValue::try_from(value.as_str()).map_err(|error| format!("{value:?}: {error}"))?;
        map.append(name, value);
    }
    Ok(map)
}

impl Writer {
    pub(crate) async fn send(&mut self, bytes: Bytes) {
        tokio::select! {
            () = write(&mut self.stream, bytes) => {}
            () = exchange::ended(&mut self.ended) => {}
        }
    }

    pub(crate) fn end(&mut self, trailers: &[(String, String)]) {
        if self.finished {
            return;
        }
        self.finished = true;
        // A stream that the server has already ended takes no more frames; the reader sees its end.
        let _ = match field_map(trailers) {
            Ok(map) if !map.is_empty() => self.stream.send_trailers(map),
            Ok(_) | Err(_) => self.stream.send_data(Bytes::new(), true),
        };
    }

    pub(crate) fn cut(mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }
}

/// Sends as the peer's windows allow; stops once the stream takes no more.
async fn write(stream: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let Some(Ok(capacity)) = poll_fn(|cx| stream.poll_capacity(cx)).await else {
            return;
        };
        let part = bytes.split_to(capacity.min(bytes.len()));
        if stream.send_data(part, false).is_err() {
            return;
        }
    }
}

async fn read(mut response: ResponseFuture, events: Events) {
    // `None` comes only with the final head or the end of the stream. Polling for the response
    // earlier would swallow an interim response that arrives in between.
    while let Some(interim) = poll_fn(|cx| response.poll_informational(cx)).await {
        match interim {
            Ok(interim) => events.interim(head(&interim)).await,
            Err(error) => return events.end(Event::Closed(ending(&error))).await,
        }
    }
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return events.end(Event::Closed(ending(&error))).await,
    };
    let head = head(&response);
    let mut stream = response.into_body();
    let mut body = BytesMut::new();
    while let Some(data) = stream.data().await {
        match data {
            Ok(data) if body.len() + data.len() <= MAX_BODY => {
                // Fails only if more is released than was received.
                let _ = stream.flow_control().release_capacity(data.len());
                body.extend_from_slice(&data);
            }
            Ok(_) => {
                return events
                    .end(Event::Closed(
                        "the content is too long for this client".to_owned(),
                    ))
                    .await;
            }
            // RFC 9113 §8.1: after a complete response the server may reset the stream with
            // NO_ERROR, to get no more of the request.
            Err(error) if error.is_reset() && error.reason() == Some(Reason::NO_ERROR) => break,
            Err(error) => {
                return events
                    .end(Event::Closed(format!(
                        "a {} whose body broke: {}",
                        head.status,
                        ending(&error)
                    )))
                    .await;
            }
        }
    }
    events.end(Event::Final(head, body.freeze())).await;
}

fn head<B>(response: &Response<B>) -> Head {
    let fields = response.headers().iter();
    Head {
        status: response.status().as_u16(),
        fields: fields
            .map(|(name, value)| {
                (
                    name.to_string(),
                    String::from_utf8_lossy(value.as_bytes()).into_owned(),
                )
            })
            .collect(),
        arrived: Instant::now(),
    }
}

fn ending(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_reset() => format!("the server reset the stream: {reason:?}"),
        Some(reason) if error.is_go_away() => {
            format!("the server closed the connection: {reason:?}")
        }
        _ => format!("the stream broke: {error}"),
    }
}
