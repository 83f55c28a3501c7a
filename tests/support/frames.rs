//! HTTP/2 frames by hand, for clients that behave as no library does.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{PATIENCE, within};

/// Maximum size of a window (RFC 9113 §6.9.1).
pub const LARGEST_WINDOW: u32 = (1 << 31) - 1;

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A connection on which the test writes every frame, and which reads only on request.
#[derive(Debug)]
pub struct Frames(TcpStream);

/// Encodes one frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Encodes a request without a body.
pub fn get(stream: u32, target: &str) -> Vec<u8> {
    head(stream, "GET", target, END_STREAM | END_HEADERS)
}

/// Encodes the head of a request whose body follows.
pub fn put(stream: u32, target: &str) -> Vec<u8> {
    head(stream, "PUT", target, END_HEADERS)
}

/// Encodes the reset of a stream.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Encodes the opening of a stream's window, or with 0 the connection's, by `by` bytes.
pub fn open_window(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

/// Encodes the setting of the streams' initial window.
pub fn initial_window(size: u32) -> Vec<u8> {
    let mut setting = vec![0, 4];
    setting.extend(size.to_be_bytes());
    frame(SETTINGS, 0, 0, &setting)
}

fn head(stream: u32, method: &str, target: &str, flags: u8) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in [
        (":method", method),
        (":scheme", "http"),
        (":path", target),
        (":authority", "localhost"),
    ] {
        // Literal, not indexed, no Huffman (RFC 7541 §6.2.2).
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("names and values are short"));
            block.extend(text.as_bytes());
        }
    }
    frame(HEADERS, flags, stream, &block)
}

impl Frames {
    /// Connects; `window` is the initial window of each stream, and the window of the connection
    /// never limits.
    pub async fn open(server: SocketAddr, window: u32) -> Self {
        let connecting = TcpStream::connect(server);
        let socket = within(PATIENCE, "a connection", connecting).await;
        let mut frames = Self(socket.expect("the server accepts"));
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(initial_window(window));
        hello.extend(open_window(0, LARGEST_WINDOW - 65_535));
        frames.send(&hello).await;
        frames
    }

    /// Sends bytes; ignores the error of a server that has closed the connection.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = within(PATIENCE, "the server takes bytes", self.0.write_all(bytes)).await;
    }

    /// Reads until the server ends the connection.
    pub async fn ended(mut self) {
        let mut rest = Vec::new();
        let _ = within(PATIENCE, "the end", self.0.read_to_end(&mut rest)).await;
    }
}
