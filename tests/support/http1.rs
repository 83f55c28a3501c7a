//! HTTP/1.1 over a bare socket: nothing is retried, merged or hidden.
//!
//! A test can send bytes at any pace and in any shape, sees every interim response, and can
//! half-close, reset or abandon a connection.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::io::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf,
};

use crate::sockets::{Ends, connect};
use crate::{Authority, Cut, Head, PATIENCE, Request, Response, request::Framing, within};

/// Maximum length of a response head that a test accepts.
const HEAD_LIMIT: usize = 64 * 1024;

trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// One connection.
pub struct Connection {
    reader: Reader,
    writer: WriteHalf<Box<dyn Transport>>,
    /// The same socket, for its options.
    socket: OwnedFd,
    ends: Ends,
    /// Set if the body in progress uses chunked coding.
    chunked: bool,
}

struct Reader {
    stream: ReadHalf<Box<dyn Transport>>,
    buffer: BytesMut,
    /// Methods of requests without a final response yet, oldest first: a `HEAD` has no body in its
    /// answer.
    awaited: VecDeque<String>,
    interim: Vec<Head>,
    /// The final head, if it arrived while looking for an interim one.
    head: Option<Head>,
}

impl Connection {
    /// Connects without TLS.
    pub async fn try_open(address: SocketAddr) -> io::Result<Self> {
        let (socket, ends) = connect(address).await?;
        let option = socket.as_fd().try_clone_to_owned();
        Ok(Self::over(ends, option, Box::new(socket)))
    }

    /// Connects with TLS.
    pub async fn open_tls(address: SocketAddr, authority: &Authority) -> Self {
        let (socket, ends) = connect(address).await.expect("the server accepts");
        let option = socket.as_fd().try_clone_to_owned();
        let handshake = authority.connect(socket, b"http/1.1");
        let stream = within(PATIENCE, "the TLS handshake", handshake)
            .await
            .expect("the TLS handshake succeeds");
        Self::over(ends, option, Box::new(stream))
    }

    fn over(ends: Ends, socket: io::Result<OwnedFd>, stream: Box<dyn Transport>) -> Self {
        let (stream, writer) = tokio::io::split(stream);
        Self {
            reader: Reader {
                stream,
                buffer: BytesMut::new(),
                awaited: VecDeque::new(),
                interim: Vec::new(),
                head: None,
            },
            writer,
            socket: socket.expect("a descriptor can be doubled"),
            ends,
            chunked: false,
        }
    }

    /// Sends the head of `request` without its body.
    pub async fn begin(&mut self, request: &Request) -> io::Result<()> {
        self.chunked = request.framing == Framing::Unknown;
        self.reader.awaited.push_back(request.method.clone());
        self.send_raw(head_of(request).as_bytes()).await
    }

    /// Sends a piece of the body, as one chunk if the coding is chunked.
    pub async fn send(&mut self, piece: &[u8]) -> io::Result<()> {
        if !self.chunked {
            return self.send_raw(piece).await;
        }
        if piece.is_empty() {
            return Ok(());
        }
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        self.send_raw(&chunk).await
    }

    /// Ends the body; only a chunked one needs bytes for that.
    pub async fn finish(&mut self) -> io::Result<()> {
        if self.chunked {
            self.send_raw(b"0\r\n\r\n").await?;
        }
        Ok(())
    }

    /// Sends bytes unchanged.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        within(PATIENCE, "the server takes bytes", write).await
    }

    /// Sends bytes unchanged, `size` at a time with a `pause` after each.
    pub async fn send_slowly(
        &mut self,
        bytes: &[u8],
        size: usize,
        pause: Duration,
    ) -> io::Result<()> {
        for piece in bytes.chunks(size) {
            self.send_raw(piece).await?;
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// Declares that a request with this method was sent by [`Self::send_raw`], so that its
    /// response can be read.
    pub fn expect_answer_to(&mut self, method: &str) {
        self.reader.awaited.push_back(method.to_owned());
    }

    /// Returns the next interim response; `None` if the final response or the end of the connection
    /// comes first.
    pub async fn interim(&mut self) -> Option<Head> {
        within(PATIENCE, "an interim response", self.reader.interim()).await
    }

    /// Returns the final response to the oldest request without one.
    pub async fn response(&mut self) -> Result<Response, Cut> {
        within(PATIENCE, "a response", self.reader.response()).await
    }

    /// Sends a request with its body and reads the final response, which may arrive before the
    /// request is sent.
    pub async fn exchange(&mut self, request: &Request) -> Result<Response, Cut> {
        let mut wire = head_of(request).into_bytes();
        match request.framing {
            Framing::Nothing => {}
            Framing::Length(_) => wire.extend_from_slice(&request.body),
            Framing::Unknown => {
                if !request.body.is_empty() {
                    wire.extend_from_slice(format!("{:x}\r\n", request.body.len()).as_bytes());
                    wire.extend_from_slice(&request.body);
                    wire.extend_from_slice(b"\r\n");
                }
                wire.extend_from_slice(b"0\r\n\r\n");
            }
        }
        self.reader.awaited.push_back(request.method.clone());

        let (reader, writer) = (&mut self.reader, &mut self.writer);
        let exchange = async {
            let write = async {
                // A server that answers early may stop reading; its answer gives the reason.
                if writer.write_all(&wire).await.is_ok() {
                    let _ = writer.flush().await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                // Cancel safe enough: the write is only cut short if the answer has already
                // arrived.
                () = write => unreachable!("it never ends"),
                response = reader.response() => response,
            }
        };
        within(PATIENCE, "a response", exchange).await
    }

    /// Waits for the server to close the connection or send bytes; reports whether it closed.
    pub async fn is_closed(&mut self) -> bool {
        let read = self.reader.fill();
        !matches!(
            within(PATIENCE, "the end of the connection", read).await,
            Ok(true)
        )
    }

    /// Waits until the server has read all sent bytes.
    pub async fn drained(&self) {
        self.ends.drained().await;
    }

    /// Closes the sending direction.
    pub async fn half_close(&mut self) -> io::Result<()> {
        self.writer.shutdown().await
    }

    /// Ends the connection with a TCP reset, as a lost network eventually does.
    pub fn reset(self) {
        let zero = Some(Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(&self.socket, zero).expect("a TCP socket lingers");
    }
}

impl Reader {
    async fn interim(&mut self) -> Option<Head> {
        if self.head.is_none() {
            let head = self.message().await.ok()?;
            if is_interim(head.status) {
                self.interim.push(head.clone());
                return Some(head);
            }
            self.head = Some(head);
        }
        None
    }

    async fn response(&mut self) -> Result<Response, Cut> {
        let head = loop {
            match self.head.take() {
                Some(head) => break head,
                None => match self.message().await {
                    Ok(head) if is_interim(head.status) => self.interim.push(head),
                    Ok(head) => break head,
                    Err(how) => {
                        return Err(Cut {
                            interim: std::mem::take(&mut self.interim),
                            partial: None,
                            how,
                        });
                    }
                },
            }
        };
        let method = self
            .awaited
            .pop_front()
            .expect("a response answers a request");
        let interim = std::mem::take(&mut self.interim);
        match self.body(&method, &head).await {
            Ok(body) => Ok(Response {
                interim,
                head,
                body,
            }),
            Err((body, how)) => Err(Cut {
                interim,
                partial: Some((head, body)),
                how,
            }),
        }
    }

    /// Reads the next head, interim or final.
    async fn message(&mut self) -> Result<Head, String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = self.buffer.split_to(end + 4);
                return Ok(parse_head(&head));
            }
            assert!(self.buffer.len() < HEAD_LIMIT, "an endless response head");
            if !self.fill().await? {
                return Err(if self.buffer.is_empty() {
                    "closed".to_owned()
                } else {
                    format!("closed within a head: {}", self.buffer.escape_ascii())
                });
            }
        }
    }

    /// Reads the body that belongs to `head`. If it ends early, the error holds the bytes so far
    /// and the reason.
    async fn body(&mut self, method: &str, head: &Head) -> Result<Bytes, (Bytes, String)> {
        if method == "HEAD" || head.status == 204 || head.status == 304 {
            return Ok(Bytes::new());
        }
        if head
            .optional("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            return self.chunked_body().await;
        }
        let Some(length) = head.optional("content-length") else {
            // RFC 9112 §6.3: without either field the body ends with the connection.
            loop {
                match self.fill().await {
                    Ok(true) => {}
                    Ok(false) => return Ok(self.buffer.split().freeze()),
                    Err(how) => return Err((self.buffer.split().freeze(), how)),
                }
            }
        };
        let length: usize = length.parse().expect("Content-Length is a number");
        self.take(length).await
    }

    async fn chunked_body(&mut self) -> Result<Bytes, (Bytes, String)> {
        let mut body = BytesMut::new();
        loop {
            let line = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break self.buffer.split_to(end + 2);
                }
                match self.fill().await {
                    Ok(true) => {}
                    Ok(false) => {
                        return Err((body.freeze(), "closed within a chunked body".to_owned()));
                    }
                    Err(how) => return Err((body.freeze(), how)),
                }
            };
            let line = std::str::from_utf8(&line).expect("a chunk size is ASCII");
            let size = line.split(';').next().expect("a first part").trim();
            let size = usize::from_str_radix(size, 16).expect("a chunk size is a number");
            match self.take(size + 2).await {
                Ok(mut chunk) => {
                    chunk.truncate(size);
                    body.extend_from_slice(&chunk);
                }
                Err((part, how)) => {
                    body.extend_from_slice(&part);
                    return Err((body.freeze(), how));
                }
            }
            if size == 0 {
                return Ok(body.freeze());
            }
        }
    }

    async fn take(&mut self, length: usize) -> Result<Bytes, (Bytes, String)> {
        while self.buffer.len() < length {
            match self.fill().await {
                Ok(true) => {}
                Ok(false) => {
                    let body = self.buffer.split().freeze();
                    let how = format!("closed after {} of {length} bytes", body.len());
                    return Err((body, how));
                }
                Err(how) => return Err((self.buffer.split().freeze(), how)),
            }
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    /// Reads more bytes; `false` at the end of the stream.
    async fn fill(&mut self) -> Result<bool, String> {
        self.buffer.reserve(64 * 1024);
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(count) => Ok(count > 0),
            // A TLS peer that is cut sends no `close_notify`; that counts as an ordinary end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// Reports whether the response is not the final one. `101` would end the exchange, and no test
/// upgrades.
pub(crate) fn is_interim(status: u16) -> bool {
    (100..200).contains(&status)
}

/// Encodes the head of a request. A `Host` in the request takes precedence.
pub fn head_of(request: &Request) -> String {
    let mut head = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
    let has_host = request
        .fields
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"));
    if !has_host {
        head.push_str("Host: localhost\r\n");
    }
    for (name, value) in &request.fields {
        write!(head, "{name}: {value}\r\n").expect("a string takes everything");
    }
    match request.framing {
        Framing::Nothing => {}
        Framing::Length(length) => {
            write!(head, "Content-Length: {length}\r\n").expect("a string takes everything");
        }
        Framing::Unknown => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
    head
}

/// Parses a response head; panics with its text if it is malformed, since a server under test must
/// not send one.
fn parse_head(bytes: &[u8]) -> Head {
    let text = std::str::from_utf8(bytes)
        .unwrap_or_else(|_| panic!("a head that is no text: {}", bytes.escape_ascii()));
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let line = lines.next().expect("split has a first part");
    let status = line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| line.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .unwrap_or_else(|| panic!("no status line: {text:?}"));
    let mut fields = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .unwrap_or_else(|| panic!("no field line: {line:?} in {text:?}"));
        fields.append(
            HeaderName::try_from(name).unwrap_or_else(|_| panic!("no field name: {line:?}")),
            HeaderValue::try_from(value.trim()).unwrap_or_else(|_| panic!("no value: {line:?}")),
        );
    }
    Head { status, fields }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
