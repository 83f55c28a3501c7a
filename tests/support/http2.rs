//! HTTP/2 over the `h2` crate, with access to interim responses and stream resets.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;

use crate::sockets::{Ends, connect};
use crate::{Authority, Cut, Head, PATIENCE, Request, Response, request::Framing, within};

/// Window size that never limits a test.
const WINDOW: u32 = 8 * 1024 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    scheme: &'static str,
    ends: Ends,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// One request and its response on one stream.
#[derive(Debug)]
pub struct Exchange {
    method: String,
    body: SendStream<Bytes>,
    response: ResponseFuture,
    interim: Vec<Head>,
}

impl Connection {
    /// Connects without TLS, with prior knowledge.
    pub async fn try_open(address: SocketAddr) -> io::Result<Self> {
        let (socket, ends) = connect(address).await?;
        Self::over(socket, ends, "http")
            .await
            .map_err(io::Error::other)
    }

    /// Connects with TLS and ALPN.
    pub async fn open_tls(address: SocketAddr, authority: &Authority) -> Self {
        let (socket, ends) = connect(address).await.expect("the server accepts");
        let handshake = authority.connect(socket, b"h2");
        let stream = within(PATIENCE, "the TLS handshake", handshake)
            .await
            .expect("the TLS handshake succeeds");
        Self::over(stream, ends, "https")
            .await
            .expect("the HTTP/2 preface is sent")
    }

    async fn over<T>(stream: T, ends: Ends, scheme: &'static str) -> Result<Self, h2::Error>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(stream)
            .await?;
        Ok(Self {
            requests,
            scheme,
            ends,
            driver: tokio::spawn(connection),
        })
    }

    /// Sends the head of `request`, which ends the stream if there is no body.
    pub async fn begin(&mut self, request: &Request) -> Result<Exchange, h2::Error> {
        let mut builder = http::Request::builder()
            .method(request.method.as_str())
            .uri(format!("{}://localhost{}", self.scheme, request.target));
        for (name, value) in &request.fields {
            builder = builder.header(name.to_ascii_lowercase(), value);
        }
        if let Framing::Length(length) = request.framing {
            builder = builder.header("content-length", length);
        }
        let head = builder.body(()).expect("the test's request is well formed");

        let ready = poll_fn(|context| self.requests.poll_ready(context));
        within(PATIENCE, "room for a stream", ready).await?;
        let ends = matches!(request.framing, Framing::Nothing | Framing::Length(0));
        let (response, body) = self.requests.send_request(head, ends)?;
        Ok(Exchange {
            method: request.method.clone(),
            body,
            response,
            interim: Vec::new(),
        })
    }

    /// Sends a request with its body and reads the final response, which may arrive before the
    /// request is sent.
    pub async fn exchange(&mut self, request: &Request) -> Result<Response, Cut> {
        match self.begin(request).await {
            Ok(exchange) => exchange.complete(request.body.clone()).await,
            Err(error) => Err(Cut {
                interim: Vec::new(),
                partial: None,
                how: error.to_string(),
            }),
        }
    }

    /// Waits until the server has read all bytes that the connection has written.
    pub async fn drained(&self) {
        // The task of the connection writes the bytes when it next runs; a test runs on one thread.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        self.ends.drained().await;
    }

    /// Drops the connection without notice to the server.
    pub fn abandon(self) {
        self.driver.abort();
    }
}

impl Exchange {
    /// Sends a piece of the body, as fast as the server's windows allow.
    pub async fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        let piece = Bytes::copy_from_slice(piece);
        let sending = send_all(&mut self.body, piece);
        within(PATIENCE, "the server takes bytes", sending)
            .await
            .map_err(io::Error::other)
    }

    /// Ends the body.
    pub fn finish(&mut self) -> io::Result<()> {
        self.body
            .send_data(Bytes::new(), true)
            .map_err(io::Error::other)
    }

    /// Returns the next interim response; `None` if the final response or the end of the stream
    /// comes first.
    pub async fn interim(&mut self) -> Option<Head> {
        let next = next_interim(&mut self.response);
        let head = within(PATIENCE, "an interim response", next).await?;
        self.interim.push(head.clone());
        Some(head)
    }

    /// Returns the final response.
    pub async fn response(self) -> Result<Response, Cut> {
        within(PATIENCE, "a response", self.rest()).await
    }

    /// Ends the stream with `RST_STREAM`, like a client that cancels.
    pub fn reset(mut self) {
        self.body.send_reset(Reason::CANCEL);
    }

    /// Sends `body`, ends the stream and reads the final response, whichever comes first.
    async fn complete(mut self, body: Bytes) -> Result<Response, Cut> {
        if body.is_empty() {
            // Fails if the head has already ended the stream, which is as good.
            let _ = self.finish();
            return self.response().await;
        }
        let Self {
            method,
            body: mut sender,
            response,
            interim,
        } = self;
        let sending = async {
            if send_all(&mut sender, body).await.is_ok() {
                let _ = sender.send_data(Bytes::new(), true);
            }
            std::future::pending::<()>().await;
        };
        let reading = read_response(&method, response, interim);
        let exchange = async {
            tokio::select! {
                // Cancel safe enough: the body is only cut short if the answer has already arrived.
                () = sending => unreachable!("it never ends"),
                response = reading => response,
            }
        };
        within(PATIENCE, "a response", exchange).await
    }

    async fn rest(self) -> Result<Response, Cut> {
        // The sending half must stay alive: dropping it would reset the stream.
        let _sender = self.body;
        read_response(&self.method, self.response, self.interim).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn send_all(sender: &mut SendStream<Bytes>, mut rest: Bytes) -> Result<(), h2::Error> {
    while !rest.is_empty() {
        sender.reserve_capacity(rest.len());
        let capacity = match poll_fn(|context| sender.poll_capacity(context)).await {
            Some(capacity) => capacity?,
            None => return Err(Reason::STREAM_CLOSED.into()),
        };
        let piece = rest.split_to(capacity.min(rest.len()));
        sender.send_data(piece, false)?;
    }
    Ok(())
}

async fn next_interim(response: &mut ResponseFuture) -> Option<Head> {
    let interim = poll_fn(|context| response.poll_informational(context)).await?;
    let (parts, ()) = interim.ok()?.into_parts();
    Some(Head {
        status: parts.status.as_u16(),
        fields: parts.headers,
    })
}

async fn read_response(
    method: &str,
    mut response: ResponseFuture,
    mut interim: Vec<Head>,
) -> Result<Response, Cut> {
    while let Some(head) = next_interim(&mut response).await {
        interim.push(head);
    }
    let (parts, stream) = match response.await {
        Ok(response) => response.into_parts(),
        Err(error) => {
            return Err(Cut {
                interim,
                partial: None,
                how: error.to_string(),
            });
        }
    };
    let head = Head {
        status: parts.status.as_u16(),
        fields: parts.headers,
    };
    match read_body(stream).await {
        Ok(body) => {
            // A stream may end cleanly and still be short (RFC 9113 §8.1.1).
            if let Some(length) = head.optional("content-length")
                && method != "HEAD"
                && head.status != 304
            {
                assert_eq!(length, body.len().to_string(), "Content-Length lies");
            }
            Ok(Response {
                interim,
                head,
                body,
            })
        }
        Err((body, error)) => Err(Cut {
            interim,
            partial: Some((head, body)),
            how: error.to_string(),
        }),
    }
}

async fn read_body(mut stream: RecvStream) -> Result<Bytes, (Bytes, h2::Error)> {
    let mut body = BytesMut::new();
    while let Some(piece) = stream.data().await {
        match piece {
            Ok(piece) => {
                body.extend_from_slice(&piece);
                // Fails only on a stream that has ended.
                let _ = stream.flow_control().release_capacity(piece.len());
            }
            Err(error) => return Err((body.freeze(), error)),
        }
    }
    Ok(body.freeze())
}
