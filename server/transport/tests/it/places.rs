//! The clients that get a place when there are more connections than places, and the bound on work
//! that is begun.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::put as route_put};
use http_body_util::BodyExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};
use transport::{BodyError, Config};

use crate::{
    floods::{DATA, END_HEADERS, HEADERS, PING, RST_STREAM, SETTINGS, frame, put_head},
    support::{H2, Raw, Server, get, soon, uploads},
};

const PLACES: usize = 6;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";

/// No timeout ends anything here.
fn config() -> Config {
    let long = Duration::from_secs(600);
    Config {
        max_connections: PLACES,
        head_timeout: long,
        keep_alive_timeout: long,
        tls_handshake_timeout: long,
        linger_timeout: long,
        ..Config::default()
    }
}

async fn assert_served(client: &mut Raw) {
    client.send(HELLO).await;
    assert_eq!(client.response().await.1, "hello");
}

/// Opens more connections than there are places, each of which sends `bytes` and no more; then a
/// client connects and is served, and as many connections as there are places are left.
async fn check(name: &str, server: &Server, bytes: &[u8]) {
    let mut sockets = Vec::new();
    for _ in 0..2 * PLACES {
        let mut socket = TcpStream::connect(server.address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        sockets.push(socket);
    }
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.send(HELLO).await;
        assert_eq!(client.response().await.1, "hello", "{name}");
    }
    // The oldest made room.
    let mut end = Vec::new();
    let _ = soon(sockets[0].read_to_end(&mut end)).await;
}

#[tokio::test]
async fn what_is_no_request_makes_room() {
    let mut refused =
        b"PUT /short HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n".to_vec();
    refused.extend([b'x'; 1000]);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let head = frame(HEADERS, 0, 1, &put_head());
    for (name, bytes) in [
        ("nothing", &b""[..]),
        ("the first byte of a head", b"G"),
        ("a head without an end", b"GET / HTTP/1.1\r\nA: "),
        (
            "a request and half a head",
            b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /",
        ),
        ("a body that nobody wants", &refused),
        ("half a preface of HTTP/2", &PREFACE[..20]),
        ("a preface of HTTP/2", PREFACE),
        ("HTTP/2 without streams", &[PREFACE, &settings].concat()),
        (
            "half a head of HTTP/2",
            &[PREFACE, &settings, &head].concat(),
        ),
    ] {
        let server = Server::start(config(), uploads()).await;
        check(name, &server, bytes).await;
    }
    for (name, bytes) in [
        ("no handshake", &b""[..]),
        ("half a handshake", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
    ] {
        let server = Server::start_tls(config(), uploads()).await;
        check(name, &server, bytes).await;
    }
}

#[tokio::test]
async fn an_idle_connection_leaves_before_one_that_sends_a_head() {
    let server = Server::start(config(), uploads()).await;
    let mut heads = Vec::new();
    for _ in 2..PLACES {
        let mut client = server.connect().await;
        client.send("GET /hello HTTP/1.1\r\n").await;
        heads.push(client);
    }
    let mut idle = server.h2().await;
    let (response, _) = idle.request(get("/hello"), true).await;
    H2::response(response).await.unwrap();
    // Once this is answered, what was sent before it has been read.
    let mut served = server.connect().await;
    assert_served(&mut served).await;
    let mut next = server.connect().await;
    assert_served(&mut next).await;
    soon(idle.connection).await.unwrap().unwrap();
    for mut client in heads {
        client.send("host: x\r\n\r\n").await;
        assert_eq!(client.response().await.1, "hello");
    }
}

/// `/keep` reads the body and keeps it, for which it needs a permit; counts the beginnings, the
/// bodies that are being kept, the most of those, and the bodies that were cut.
#[derive(Clone, Default)]
struct Work {
    begun: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    cut: Arc<AtomicUsize>,
}

impl Work {
    fn router(&self, gate: &Arc<Semaphore>) -> Router {
        let (work, gate) = (self.clone(), Arc::clone(gate));
        let keep = async move |mut body: Body| {
            work.begun.fetch_add(1, Ordering::SeqCst);
            let running = work.running.fetch_add(1, Ordering::SeqCst) + 1;
            work.most.fetch_max(running, Ordering::SeqCst);
            while let Some(frame) = body.frame().await {
                if let Err(error) = frame {
                    assert!(BodyError::of(&error).is_some());
                    work.cut.fetch_add(1, Ordering::SeqCst);
                }
            }
            drop(body);
            gate.acquire().await.unwrap().forget();
            work.running.fetch_sub(1, Ordering::SeqCst);
            "kept"
        };
        let keep = route_put(keep);
        uploads().route("/keep", keep.clone()).route("/", keep)
    }

    /// Waits until that many were begun.
    async fn reach(count: &AtomicUsize, expected: usize) {
        soon(async {
            while count.load(Ordering::SeqCst) < expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }
}

/// Waits until everything that was sent over HTTP/2 has been read.
async fn pong(client: &mut Raw) {
    client.send(frame(PING, 0, 0, b"12345678")).await;
    soon(async {
        loop {
            let head = client.content(9).await;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            client.content(usize::try_from(length).unwrap()).await;
            if head[3..5] == [PING, 1] {
                return;
            }
        }
    })
    .await;
}

const KEEP: &str = "PUT /keep HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345";

#[tokio::test]
async fn work_is_cut_only_for_an_address_that_has_less_than_its_share() {
    let work = Work::default();
    let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
    let server = Server::start(config(), work.router(&gate)).await;
    let mut slow = Vec::new();
    for _ in 0..PLACES {
        let mut client = server.connect_from("127.0.0.2").await;
        client.send(KEEP).await;
        slow.push(client);
    }
    Work::reach(&work.begun, PLACES).await;
    // The same address waits for itself.
    let mut same = server.connect_from("127.0.0.2").await;
    same.send(HELLO).await;
    same.assert_quiet().await;
    assert_eq!(work.cut.load(Ordering::SeqCst), 0);

    let mut other = server.connect().await;
    assert_served(&mut other).await;
    // What came of the upload that was cut is kept, the others go on.
    Work::reach(&work.cut, 1).await;
    let (_, end) = slow.remove(0).rest().await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    for mut client in slow {
        client.send("67890").await;
        assert_eq!(client.response().await.1, "kept");
    }
    assert_eq!(work.cut.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn streams_that_were_reset_count_while_they_are_worked_on() {
    const MAX: u32 = 8;

    let work = Work::default();
    let gate = Arc::new(Semaphore::new(0));
    let mut config = Config::default();
    config.http2.max_streams = MAX;
    let server = Server::start(config, work.router(&gate)).await;
    let mut client = server.connect().await;
    client
        .send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
        .await;
    // As many again as may be worked on, less than what ends a connection.
    for stream in (1..4 * MAX - 8).step_by(2) {
        let mut frames = frame(HEADERS, END_HEADERS, stream, &put_head());
        frames.extend(frame(DATA, 0, stream, b"x"));
        client.send(frames).await;
        if stream < 2 * MAX {
            Work::reach(&work.begun, usize::try_from(stream.div_ceil(2)).unwrap()).await;
        }
        client
            .send(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]))
            .await;
    }
    pong(&mut client).await;
    assert_eq!(work.begun.load(Ordering::SeqCst), 8);

    gate.add_permits(1000);
    // Later streams of the connection are served.
    let mut last = frame(HEADERS, END_HEADERS, 101, &put_head());
    last.extend(frame(DATA, 1, 101, b"x"));
    client.send(last).await;
    soon(async {
        loop {
            let head = client.content(9).await;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            client.content(usize::try_from(length).unwrap()).await;
            if head[3] == HEADERS && head[5..] == 101_u32.to_be_bytes() {
                break;
            }
        }
    })
    .await;
    assert_eq!(work.most.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn streams_that_are_reset_at_once_are_not_worked_on() {
    let work = Work::default();
    let gate = Arc::new(Semaphore::new(0));
    let server = Server::start(Config::default(), work.router(&gate)).await;
    let mut client = server.connect().await;
    client
        .send([PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
        .await;
    pong(&mut client).await;
    let mut frames = Vec::new();
    for stream in (1..40).step_by(2) {
        frames.extend(frame(HEADERS, END_HEADERS, stream, &put_head()));
        frames.extend(frame(DATA, 0, stream, b"x"));
        frames.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
    }
    client.send(frames).await;
    pong(&mut client).await;
    // One write is read at once, or cut in two.
    assert!(work.begun.load(Ordering::SeqCst) <= 1);
}

#[tokio::test]
async fn only_the_client_that_leaves_too_many_requests_behind_waits() {
    let work = Work::default();
    let gate = Arc::new(Semaphore::new(0));
    let config = Config {
        max_detached_requests: 3,
        ..Config::default()
    };
    let server = Server::start(config, work.router(&gate)).await;
    for n in 1..=3 {
        let mut client = server.connect_from("127.0.0.2").await;
        client.send(KEEP).await;
        Work::reach(&work.begun, n).await;
        client.reset();
    }
    Work::reach(&work.cut, 3).await;
    let mut held_back = server.connect_from("127.0.0.2").await;
    held_back.send(HELLO).await;
    let mut other = server.connect().await;
    assert_served(&mut other).await;
    held_back.assert_quiet().await;
    gate.add_permits(3);
    assert_eq!(held_back.response().await.1, "hello");
}

/// Opens connections that send no request, in various ways.
async fn unserved(server: &Server) -> Vec<Raw> {
    let mut clients = Vec::new();
    for bytes in [
        &b""[..],
        b"GET /hello HTTP/1.1\r\n",
        b"GET /hello HTTP/1.1\r\nhost: x\r\n\r\nGET /",
        &PREFACE[..20],
        PREFACE,
    ] {
        let mut client = server.connect().await;
        client.send(bytes).await;
        clients.push(client);
    }
    clients
}

#[tokio::test]
async fn draining_waits_for_nobody_who_has_sent_no_request() {
    let linger_timeout = Duration::from_millis(200);
    let config = || Config {
        linger_timeout,
        ..config()
    };
    let server = Server::start(config(), uploads()).await;
    let _unserved = unserved(&server).await;
    assert_eq!(server.stop().await.cut, 0);

    let server = Server::start_tls(config(), uploads()).await;
    let mut half = TcpStream::connect(server.address).await.unwrap();
    half.write_all(&[0x16, 3, 1]).await.unwrap();
    assert_eq!(server.stop().await.cut, 0);
}

#[tokio::test]
async fn the_grace_is_kept_by_everything() {
    let work = Work::default();
    let gate = Arc::new(Semaphore::new(0));
    let config = Config {
        max_connections: 20,
        drain_grace: Duration::from_millis(300),
        ..config()
    };
    let router = work.router(&gate).route(
        "/endless",
        axum::routing::get(async || crate::support::endless()),
    );
    let server = Server::start(config, router).await;
    let mut clients = unserved(&server).await;
    for bytes in [
        // A reader that stalls, a body that nobody wants, one that never ends.
        "GET /endless HTTP/1.1\r\nhost: x\r\n\r\n",
        "PUT /short HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\nx",
        "PUT /short HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\nx",
        KEEP,
    ] {
        let mut client = server.connect().await;
        client.send(bytes).await;
        clients.push(client);
    }
    Work::reach(&work.begun, 1).await;
    // A request that is worked on although its client is gone.
    let mut gone = server.connect().await;
    gone.send(KEEP).await;
    Work::reach(&work.begun, 2).await;
    gone.reset();
    Work::reach(&work.cut, 1).await;
    assert!(server.stop().await.cut > 0);
}
