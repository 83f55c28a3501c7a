//! Floods of HTTP/2 frames, sent raw: each ends its connection, and another client notices nothing.

use std::time::Duration;

use axum::{Router, routing::any};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use transport::Config;

use crate::support::{H2, Server, chattering, get, soon, uploads};

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `:method`, `:scheme`, `:path /hello` or `/never`, `:authority x`, in HPACK without indexing.
fn request(method: u8, path: &str) -> Vec<u8> {
    let mut block = vec![method, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend(path.as_bytes());
    block.extend([0x01, 1, b'x']);
    block
}

/// Returns the frames of the `n`th request of a connection, for `/never`, and of a frame behind it
/// on the same stream.
fn request_and(n: u32, kind: u8, payload: [u8; 4]) -> Vec<u8> {
    let stream = 2 * n + 1;
    let head = request(METHOD_GET, "/never");
    let mut bytes = frame(HEADERS, END_HEADERS | END_STREAM, stream, &head);
    bytes.extend(frame(kind, 0, stream, &payload));
    bytes
}

/// The head of a `PUT /`.
pub(crate) fn put_head() -> Vec<u8> {
    let mut block = vec![0x02, 3];
    block.extend(b"PUT");
    block.extend([0x86, 0x84, 0x01, 1, b'x']);
    block
}

const METHOD_GET: u8 = 0x82;
const METHOD_POST: u8 = 0x83;

struct Attacker(TcpStream);

impl Attacker {
    async fn connect(server: &Server) -> Self {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(socket)
    }

    /// Sends frames until the server cuts the connection, reading its frames; returns the last
    /// `GOAWAY`'s reason, and the number of frames that were sent.
    async fn flood(
        self,
        mut frames: impl FnMut(u32) -> Vec<u8> + Send + 'static,
    ) -> (Option<u32>, u32) {
        let (mut read, mut write) = self.0.into_split();
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            // Ten times what any of these may need.
            while sent < 100_000 {
                let batch: Vec<u8> = (sent..sent + 100).flat_map(&mut frames).collect();
                if write.write_all(&batch).await.is_err() {
                    break;
                }
                sent += 100;
            }
            (sent, write)
        });
        let mut bytes = Vec::new();
        let _ = soon(read.read_to_end(&mut bytes)).await;
        let (sent, _) = sending.await.unwrap();
        (goaway(&bytes), sent)
    }
}

/// Returns the reason of the last `GOAWAY`.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    let mut reason = None;
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]) as usize;
        let Some(payload) = bytes.get(9..9 + length) else {
            break;
        };
        if bytes[3] == GOAWAY {
            reason = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
        bytes = &bytes[9 + length..];
    }
    reason
}

fn router() -> Router {
    uploads().route("/never", any(async || std::future::pending::<()>().await))
}

/// Checks that the flood ends its connection, with `ENHANCE_YOUR_CALM` if the peer reads it.
async fn check(name: &str, setup: Vec<u8>, frames: impl FnMut(u32) -> Vec<u8> + Send + 'static) {
    let server = Server::start(Config::default(), router()).await;
    let mut bystander = server.h2().await;
    let mut attacker = Attacker::connect(&server).await;
    attacker.0.write_all(&setup).await.unwrap();
    let (reason, sent) = attacker.flood(frames).await;
    assert!(sent < 100_000, "{name}: the server never had enough");
    // The rest of the flood may reset the connection before the reason is read.
    assert!(matches!(reason, None | Some(11)), "{name}: {reason:?}");
    let (response, _) = bystander.request(get("/hello"), true).await;
    assert_eq!(H2::response(response).await.unwrap().1, "hello", "{name}");
}

#[tokio::test]
async fn pings() {
    check("PING", vec![], |_| frame(PING, 0, 0, &[0; 8])).await;
}

#[tokio::test]
async fn settings() {
    check("SETTINGS", vec![], |n| {
        frame(
            SETTINGS,
            0,
            0,
            &[0, 4, 0, 0, 0xff, u8::try_from(n % 256).unwrap()],
        )
    })
    .await;
}

#[tokio::test]
async fn priorities() {
    check("PRIORITY", vec![], |_| {
        frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 1])
    })
    .await;
}

#[tokio::test]
async fn window_updates() {
    let open = frame(HEADERS, END_HEADERS, 1, &request(METHOD_POST, "/never"));
    check("WINDOW_UPDATE", open, |n| {
        frame(WINDOW_UPDATE, 0, n % 2, &[0, 0, 0, 1])
    })
    .await;
}

#[tokio::test]
async fn empty_data() {
    let open = frame(HEADERS, END_HEADERS, 1, &request(METHOD_POST, "/never"));
    check("empty DATA", open, |_| frame(DATA, 0, 1, &[])).await;
}

#[tokio::test]
async fn unknown_frames() {
    check("unknown", vec![], |_| frame(0x7f, 0, 0, &[0; 4])).await;
}

#[tokio::test]
async fn rapid_resets() {
    check("RST_STREAM", vec![], |n| {
        request_and(n, RST_STREAM, [0, 0, 0, 8])
    })
    .await;
}

#[tokio::test]
async fn resets_that_we_are_made_to_send() {
    // A window update that overflows the stream's window makes the server reset the stream.
    check("provoked RST_STREAM", vec![], |n| {
        request_and(n, WINDOW_UPDATE, [0x7f, 0xff, 0xff, 0xff])
    })
    .await;
}

#[tokio::test]
async fn continuations() {
    let open = frame(HEADERS, 0, 1, &request(METHOD_GET, "/never"));
    // Each with a small field that is not indexed.
    check("CONTINUATION", open, |_| {
        frame(CONTINUATION, 0, 1, &[0x00, 1, b'a', 1, b'b'])
    })
    .await;
}

#[tokio::test]
async fn empty_continuations() {
    let open = frame(HEADERS, 0, 1, &request(METHOD_GET, "/never"));
    check("empty CONTINUATION", open, |_| {
        frame(CONTINUATION, 0, 1, &[])
    })
    .await;
}

#[tokio::test]
async fn headers_on_a_stream_that_is_over() {
    // Trailers must end their stream: the server resets it, and is sent more.
    let open = frame(HEADERS, END_HEADERS, 1, &request(METHOD_POST, "/never"));
    check("HEADERS", open, |_| {
        frame(HEADERS, END_HEADERS, 1, &[0x00, 1, b'a', 1, b'b'])
    })
    .await;
}

#[tokio::test]
async fn requests_beyond_the_streams_there_may_be() {
    // Each is refused, which answers nothing.
    check("refused requests", vec![], |n| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * n + 1,
            &request(METHOD_GET, "/never"),
        )
    })
    .await;
}

#[tokio::test]
async fn large_header_blocks() {
    // Fields of the table by one byte each, on one stream after the other, of which none is
    // answered.
    let fields = [request(METHOD_GET, "/never"), vec![0x90; 8 * 1024]].concat();
    check("header blocks", vec![], move |n| {
        frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &fields)
    })
    .await;
}

#[tokio::test]
async fn many_small_requests_are_no_flood() {
    let server = Server::start(Config::default(), router()).await;
    let mut client = server.h2().await;
    for _ in 0..100 {
        let mut responses = Vec::new();
        for _ in 0..100 {
            responses.push(client.request(get("/hello"), true).await.0);
        }
        for response in responses {
            assert_eq!(H2::response(response).await.unwrap().1, "hello");
        }
    }
}

#[tokio::test]
async fn a_request_that_never_gets_whole_is_closed_with_the_idle() {
    let config = Config {
        keep_alive_timeout: Duration::from_millis(300),
        linger_timeout: Duration::from_millis(200),
        ..Config::default()
    };
    let server = Server::start(config, router()).await;
    let mut attacker = Attacker::connect(&server).await;
    attacker
        .0
        .write_all(&frame(HEADERS, 0, 1, &request(METHOD_GET, "/never")))
        .await
        .unwrap();
    let mut bytes = Vec::new();
    let _ = soon(attacker.0.read_to_end(&mut bytes)).await;
}

#[tokio::test]
async fn honest_cancelling_is_not_a_flood() {
    let server = Server::start(Config::default(), router()).await;
    let mut client = server.h2().await;
    for _ in 0..10 {
        for _ in 0..20 {
            let (_response, mut stream) = client.request(get("/never"), true).await;
            stream.send_reset(h2::Reason::CANCEL);
        }
        let (response, _) = client.request(get("/hello"), true).await;
        assert_eq!(H2::response(response).await.unwrap().1, "hello");
    }
}

#[tokio::test]
async fn interim_responses_that_nobody_reads_are_bounded() {
    let (router, full) = chattering();
    let server = Server::start(Config::default(), router).await;
    let mut client = Attacker::connect(&server).await;
    let open = frame(
        HEADERS,
        END_HEADERS | END_STREAM,
        1,
        &request(METHOD_GET, "/"),
    );
    client.0.write_all(&open).await.unwrap();
    soon(full.notified()).await;
}
