//! HTTP/1.1 over a bare stream: bytes exactly as the vector says, and no interim response hidden.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::exchange::{self, Event, Events, Framing, Head, Io, MAX_BODY, Reading, RequestHead};

const MAX_HEAD: usize = 64 << 10;
const MAX_CHUNK_LINE: usize = 1 << 10;

#[derive(Debug)]
pub(crate) struct Writer {
    stream: WriteHalf<Box<dyn Io>>,
    framing: Framing,
    ended: watch::Receiver<bool>,
    _reader: Reading,
}

/// Writes the head and starts the reading task.
pub(crate) async fn open(
    stream: Box<dyn Io>,
    head: &RequestHead,
    events: Events,
    ended: watch::Receiver<bool>,
) -> Writer {
    let (reading, stream) = split(stream);
    let method = head.method.clone();
    let reader = tokio::spawn(async move {
        let end = Reader {
            stream: reading,
            buffer: BytesMut::new(),
        }
        .run(&method, &events)
        .await;
        events.end(end).await;
    });
    let mut writer = Writer {
        stream,
        framing: head.framing,
        ended,
        _reader: Reading(reader),
    };
    writer.write(&head_bytes(head)).await;
    writer
}

fn head_bytes(head: &RequestHead) -> Vec<u8> {
    let version = if head.http_1_0 {
        "HTTP/1.0"
    } else {
        "HTTP/1.1"
    };
    let mut text = format!(
        "{} {} {version}\r\nHost: {}\r\n",
        head.method,
        head.path,
        head.origin.authority()
    );
    for (name, value) in &head.fields {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if head.framing == Framing::Streamed {
        text.push_str("Transfer-Encoding: chunked\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

impl Writer {
    pub(crate) async fn send(&mut self, bytes: Bytes) {
        match self.framing {
            Framing::NoBody | Framing::Length => self.write(&bytes).await,
            // An empty chunk would end the body.
            Framing::Streamed if bytes.is_empty() => {}
            Framing::Streamed => {
                let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                chunk.extend_from_slice(&bytes);
                chunk.extend_from_slice(b"\r\n");
                self.write(&chunk).await;
            }
        }
    }

    pub(crate) async fn end(&mut self, trailers: &[(String, String)]) {
        match self.framing {
            Framing::NoBody | Framing::Length => {}
            Framing::Streamed => {
                let mut text = "0\r\n".to_owned();
                for (name, value) in trailers {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }
                text.push_str("\r\n");
                self.write(text.as_bytes()).await;
            }
        }
    }

    pub(crate) async fn cut(mut self) {
        // The peer may have closed first.
        let _ = self.stream.shutdown().await;
    }

    /// Writes bytes and ignores errors: the reader sees how the server ended the exchange, perhaps
    /// with an answer.
    async fn write(&mut self, bytes: &[u8]) {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        tokio::select! {
            _written = writing => {}
            () = exchange::ended(&mut self.ended) => {}
        }
    }
}

struct Reader<R> {
    stream: R,
    buffer: BytesMut,
}

impl Reader<ReadHalf<Box<dyn Io>>> {
    /// Reads until the end of the exchange and returns its last event.
    async fn run(mut self, method: &str, events: &Events) -> Event {
        loop {
            let head = match self.head().await {
                Ok(Some(head)) => head,
                Ok(None) => return Event::Closed("the server closed the connection".to_owned()),
                Err(error) => return Event::Closed(format!("the connection broke: {error}")),
            };
            if (100..200).contains(&head.status) {
                events.interim(head).await;
                continue;
            }
            return match self.body(method, &head).await {
                Ok(body) => Event::Final(head, body),
                Err(error) => Event::Closed(format!("a {} whose body broke: {error}", head.status)),
            };
        }
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads the head of the next response; `None` if the connection was closed before one began.
    async fn head(&mut self) -> io::Result<Option<Head>> {
        let end = loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break end;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(invalid("the response's head is too long"));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(invalid("half a head"))
                };
            }
        };
        let head = self.buffer.split_to(end);
        self.buffer.advance(4);
        let text = String::from_utf8_lossy(&head);
        parse_head(&text).map(Some).ok_or_else(|| {
            invalid(&format!(
                "no HTTP response: {:?}",
                text.lines().next().unwrap_or_default()
            ))
        })
    }

    async fn body(&mut self, method: &str, head: &Head) -> io::Result<Bytes> {
        let chunked = head
            .field("Transfer-Encoding")
            .is_some_and(|codings| codings.eq_ignore_ascii_case("chunked"));
        let length = match head.field("Content-Length") {
            Some(length) => Some(
                length
                    .parse()
                    .map_err(|_| invalid(&format!("Content-Length is {length:?}")))?,
            ),
            None => None,
        };
        if method == "HEAD" || head.status == 204 || head.status == 304 {
            return self.nothing(method, head.status);
        }
        match (chunked, length) {
            (true, Some(_)) => Err(invalid("both Transfer-Encoding and Content-Length")),
            (true, None) => self.chunks().await,
            (false, Some(length)) => self.exactly(length).await,
            (false, None) => self.rest().await,
        }
    }

    /// Returns the empty content of a response that has none (RFC 9110 §9.3.2, §15.3.5 and
    /// §15.4.5). Bytes that follow would desynchronise the connection, so they are an error.
    fn nothing(&self, method: &str, status: u16) -> io::Result<Bytes> {
        if self.buffer.is_empty() {
            Ok(Bytes::new())
        } else {
            Err(invalid(&format!(
                "content in answer to {method}, status {status}"
            )))
        }
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Bytes> {
        if length > MAX_BODY {
            return Err(invalid("the content is too long for this client"));
        }
        while self.buffer.len() < length {
            if !self.fill().await? {
                return Err(invalid("the content is shorter than announced"));
            }
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn rest(&mut self) -> io::Result<Bytes> {
        while self.fill().await? {
            if self.buffer.len() > MAX_BODY {
                return Err(invalid("the content is too long for this client"));
            }
        }
        Ok(self.buffer.split().freeze())
    }

    async fn chunks(&mut self) -> io::Result<Bytes> {
        let mut content = BytesMut::new();
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16)
                .map_err(|_| invalid(&format!("a chunk of size {line:?}")))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(content.freeze());
            }
            if content.len().saturating_add(size) > MAX_BODY {
                return Err(invalid("the content is too long for this client"));
            }
            content.extend_from_slice(&self.exactly(size).await?);
            if !self.line().await?.is_empty() {
                return Err(invalid("a chunk is longer than its size"));
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = self.buffer.split_to(end);
                self.buffer.advance(2);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.buffer.len() > MAX_CHUNK_LINE {
                return Err(invalid("a line of the chunked coding is too long"));
            }
            if !self.fill().await? {
                return Err(invalid("the chunked content was cut short"));
            }
        }
    }

    /// Reads more bytes; `false` at the end of the stream.
    async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(16 << 10);
        Ok(self.stream.read_buf(&mut self.buffer).await? > 0)
    }
}

fn parse_head(text: &str) -> Option<Head> {
    let mut lines = text.split("\r\n");
    let status_line = lines.next()?;
    let rest = status_line
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| status_line.strip_prefix("HTTP/1.0 "))?;
    let status = rest
        .get(..3)?
        .parse()
        .ok()
        .filter(|status| (100..600).contains(status))?;
    let fields = lines
        .map(|line| {
            line.split_once(':')
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        })
        .collect::<Option<_>>()?;
    Some(Head {
        status,
        fields,
        arrived: Instant::now(),
    })
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(method: &str, text: &str) -> Result<(u16, Bytes), String> {
        let mut reader = Reader {
            stream: text.as_bytes(),
            buffer: BytesMut::new(),
        };
        let head = reader
            .head()
            .await
            .map_err(|error| error.to_string())?
            .ok_or("closed")?;
        let body = reader
            .body(method, &head)
            .await
            .map_err(|error| error.to_string())?;
        Ok((head.status, body))
    }

    #[tokio::test]
    async fn bodies_end_as_their_framing_says() {
        let check = async |text: &str, expected: &'static str| {
            assert_eq!(
                read("GET", text).await.unwrap().1,
                expected.as_bytes(),
                "{text}"
            );
        };
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhello", "he").await;
        check("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x\r\nlo\r\n0\r\nA: b\r\n\r\n", "hello").await;
        check("HTTP/1.0 200\r\n\r\nhello", "hello").await;
        check("HTTP/1.1 204 No Content\r\n\r\n", "").await;
    }

    #[tokio::test]
    async fn broken_messages_are_told() {
        let check = async |method: &str, text: &str, expected: &str| {
            let error = read(method, text).await.unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        check(
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
            "shorter",
        )
        .await;
        check(
            "GET",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n",
            "longer than its size",
        )
        .await;
        check(
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
            "content in answer",
        )
        .await;
        check(
            "PATCH",
            "HTTP/1.1 204 No Content\r\n\r\n{}",
            "content in answer",
        )
        .await;
        check("GET", "SSH-2.0\r\n\r\n", "no HTTP response").await;
        check("GET", "HTTP/1.1 200", "half a head").await;
    }
}
