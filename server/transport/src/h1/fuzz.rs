//! Random connections: pipelining, keep-alive, short writes, handlers of every habit, and a reader
//! that is strict.
//!
//! Time is virtual and there is one thread, so a seed plays the same connection each time. A
//! wake-up that is lost leaves only timers to run: the connection times out, and the reader misses
//! an answer.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context as Task, Poll},
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, response::Response};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf},
    time::{sleep, timeout},
};

use crate::{
    Config,
    context::Context,
    interim::{Cut, Interim},
    io::Io,
};

#[test]
fn random_connections() {
    run(0..1_500);
}

#[test]
#[ignore = "takes minutes"]
fn many_random_connections() {
    run(1_000_000..1_200_000);
}

fn run(seeds: std::ops::Range<u64>) {
    let mut totals = (0, 0);
    for seed in seeds.clone() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let outcome = runtime.block_on(async { tokio::spawn(connection(seed)).await });
        let (answers, interims) = outcome.unwrap_or_else(|_| panic!("failed with seed {seed}"));
        totals = (totals.0 + answers, totals.1 + interims);
    }
    // Guards against a test that tests nothing.
    let connections = seeds.end - seeds.start;
    assert!(
        totals.0 > connections * 3 && totals.1 > connections * 4,
        "{totals:?}"
    );
}

/// Small, shared, repeatable randomness (splitmix64).
#[derive(Clone)]
struct Random(Arc<Mutex<u64>>);

impl Random {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    fn below(&self, bound: u64) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap()]
    }

    fn size(&self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }
}

/// A socket that takes few bytes at a time and often none.
struct Chaos {
    io: DuplexStream,
    random: Random,
    vectored: bool,
    most: usize,
}

impl Chaos {
    fn not_now(&self, n: u64, task: &Task<'_>) -> bool {
        let pending = self.random.one_in(n);
        if pending {
            task.waker().wake_by_ref();
        }
        pending
    }
}

impl Io for Chaos {
    fn abort(&mut self) {}
}

impl AsyncRead for Chaos {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.not_now(4, task) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl AsyncWrite for Chaos {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.not_now(4, task) {
            return Poll::Pending;
        }
        let length = bytes.len().min(1 + self.random.size(self.most));
        Pin::new(&mut self.io).poll_write(task, &bytes[..length])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut bytes = Vec::new();
        for slice in slices {
            let room = slice.len().min(self.most - bytes.len());
            bytes.extend_from_slice(&slice[..room]);
        }
        self.poll_write(task, &bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        if self.not_now(6, task) {
            return Poll::Pending;
        }
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}

/// The outcome of each handler, by the number of its request.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<HashMap<u64, Done>>>);

#[derive(Clone, Copy)]
struct Done {
    interims: u64,
    cut: bool,
}

fn interim(name: &'static str, value: u64) -> (StatusCode, HeaderMap) {
    (
        StatusCode::from_u16(104).unwrap(),
        HeaderMap::from_iter([(http::HeaderName::from_static(name), value.into())]),
    )
}

/// A handler of random habits.
fn router(random: Random, log: Log, sizes: [usize; 5]) -> Router {
    Router::new().fallback(async move |request: Request| {
        let number: u64 = request.headers()["x-number"]
            .to_str()
            .unwrap()
            .parse()
            .unwrap();
        let sender = request.extensions().get::<Interim>().unwrap().clone();
        let mut interims = 0;
        let mut announce = |most: u64| {
            for _ in 0..random.below(most + 1) {
                let (status, mut fields) = interim("x-interim", interims);
                fields.insert("x-number", number.into());
                if interims % 3 == 2 {
                    fields.insert(
                        "x-padding",
                        HeaderValue::from_str(&"p".repeat(300)).unwrap(),
                    );
                }
                if sender.send(status, fields).is_ok() {
                    interims += 1;
                }
            }
        };
        announce(2);
        for _ in 0..random.below(3) {
            tokio::task::yield_now().await;
        }
        let mut body = request.into_body();
        match random.below(8) {
            // Leaves all of the body, or some.
            0 => {}
            1 => drop(body.frame().await),
            // Leaves the body to a task that reads on while the answer is on its way.
            2 => {
                tokio::spawn(async move { while body.frame().await.is_some() {} });
            }
            _ => {
                while let Some(Ok(_)) = body.frame().await {
                    if random.one_in(3) {
                        announce(1);
                    }
                }
            }
        }
        if random.one_in(3) {
            sleep(Duration::from_micros(random.below(300))).await;
        }
        announce(2);
        // A clone that fires later, while other requests are on the connection.
        if random.one_in(2) {
            let (sender, random) = (sender.clone(), random.clone());
            tokio::spawn(async move {
                for _ in 0..4 {
                    sleep(Duration::from_micros(random.below(500))).await;
                    let (status, fields) = interim("x-stale", number);
                    let _ = sender.send(status, fields);
                }
            });
        }
        let cut = random.one_in(40);
        log.0.lock().unwrap().insert(number, Done { interims, cut });
        if cut {
            return Cut::response();
        }
        let size = random.of(&sizes);
        // All H, as in HTTP, so that bytes in the wrong place are noticed.
        let body = match random.below(3) {
            0 => Body::from(vec![b'H'; size]),
            1 => {
                let frames =
                    vec![Ok::<_, Infallible>(Bytes::from(vec![b'H'; 1_000])); size / 1_000];
                Body::from_stream(futures::stream::iter(frames))
            }
            _ => Body::from_stream(futures::stream::unfold(
                (size, random),
                async |(left, random)| {
                    if left == 0 {
                        return None;
                    }
                    if random.one_in(3) {
                        tokio::task::yield_now().await;
                    }
                    let size = left.min(1 + random.size(9_000));
                    Some((
                        Ok::<_, io::Error>(Bytes::from(vec![b'H'; size])),
                        (left - size, random),
                    ))
                },
            )),
        };
        Response::builder()
            .header("x-number", number)
            .body(body)
            .unwrap()
    })
}

/// Returns a number of pipelined requests, and for each if it asks for `100 Continue`.
fn requests(random: &Random, sizes: [usize; 5]) -> (Vec<Bytes>, Vec<bool>) {
    let mut expectations = Vec::new();
    let mut requests = Vec::new();
    for number in 0..1 + random.below(12) {
        let size = random.of(&sizes);
        let expects = random.one_in(5);
        let method = if size > 0 { "POST" } else { "GET" };
        let mut bytes =
            format!("{method} /x HTTP/1.1\r\nhost: x\r\nx-number: {number}\r\n").into_bytes();
        if expects {
            bytes.extend(b"expect: 100-continue\r\n");
        }
        if size > 0 && random.one_in(2) {
            bytes.extend(b"transfer-encoding: chunked\r\n\r\n");
            let mut left = size;
            while left > 0 {
                let size = left.min(1 + random.size(4_000));
                bytes.extend(format!("{size:x}\r\n").bytes());
                bytes.extend(vec![b'b'; size]);
                bytes.extend(b"\r\n");
                left -= size;
            }
            bytes.extend(b"0\r\n");
            if random.one_in(4) {
                bytes.extend(b"x-trailer: x\r\n");
            }
            bytes.extend(b"\r\n");
        } else {
            bytes.extend(format!("content-length: {size}\r\n\r\n").bytes());
            bytes.extend(vec![b'b'; size]);
        }
        requests.push(bytes.into());
        expectations.push(expects && size > 0);
    }
    (requests, expectations)
}

/// Plays one connection, and returns the number of answers and of interim responses.
async fn connection(seed: u64) -> (u64, u64) {
    let random = Random::new(seed);
    let log = Log::default();
    let capacity = 16 + random.size(random.of(&[64, 70_000]));
    let (client, server) = tokio::io::duplex(capacity);
    let most = random.of(&[1, 7, 100, 100_000]);
    let chaos = Chaos {
        io: server,
        random: random.clone(),
        vectored: random.one_in(2),
        most,
    };
    let config = Config {
        linger_size: bytesize::ByteSize::kb(10),
        linger_timeout: Duration::from_millis(20),
        ..Config::default()
    };
    let context = Context {
        shed_after: Duration::from_micros(random.of(&[0, 100, 2_000, 1_000_000])),
        ..Context::alone(config)
    };
    // Thousands of tiny writes show no more than hundreds.
    let sizes = if most.min(capacity) < 100 {
        [0, 1, 50, 300, 1_000]
    } else {
        [0, 1, 50, 5_000, 60_000]
    };
    let handler = router(random.clone(), log.clone(), sizes);
    let server = tokio::spawn(super::serve(
        chaos,
        Bytes::new(),
        Arc::new(context),
        handler,
    ));

    let (requests, expectations) = requests(&random, sizes);
    let (read, mut write) = tokio::io::split(client);
    let total = requests.len() as u64;
    let writer = tokio::spawn(async move {
        for mut request in requests {
            while request.has_remaining() {
                let size = request.len().min(1 + random.size(30_000));
                if write.write_all(&request.split_to(size)).await.is_err() {
                    return write;
                }
                if random.one_in(3) {
                    sleep(Duration::from_micros(random.below(200))).await;
                }
            }
            // Between requests, long enough for the server to become idle.
            if random.one_in(3) {
                sleep(Duration::from_millis(random.below(6))).await;
            }
        }
        write
    });
    let mut reader = Reader {
        io: read,
        buffer: BytesMut::new(),
    };
    let read = async {
        let mut seen = (0, 0);
        for number in 0..total {
            let outcome = reader
                .answer(number, expectations[usize::try_from(number).unwrap()], &log)
                .await;
            seen.0 += 1;
            match outcome {
                Outcome::More(interims) => seen.1 += interims,
                Outcome::Last => break,
            }
        }
        seen
    };
    // Virtual time: far longer than any honest pause, shorter than the keep-alive timeout.
    let seen = timeout(Duration::from_secs(30), read)
        .await
        .expect("an answer is missing");
    drop(reader);
    let _ = writer.await;
    timeout(Duration::from_secs(5), server)
        .await
        .expect("the connection does not end")
        .unwrap();
    seen
}

enum Outcome {
    /// An answer, and the number of interim responses before it.
    More(u64),
    /// An answer that ends the connection, or a cut.
    Last,
}

/// A strict parser of the server's bytes.
struct Reader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    async fn answer(&mut self, number: u64, expects: bool, log: &Log) -> Outcome {
        let mut interims = 0;
        let fields = loop {
            let Some((status, fields)) = self.head().await else {
                let done = log.0.lock().unwrap()[&number];
                assert!(
                    done.cut,
                    "the connection ended without an answer to {number}"
                );
                assert_eq!(
                    interims, done.interims,
                    "interim responses lost before the cut of {number}"
                );
                return Outcome::Last;
            };
            match status {
                100 => assert!(expects, "stray 100 before the answer to {number}"),
                104 => {
                    assert!(
                        !fields.contains_key("x-stale"),
                        "an interim response of an earlier request"
                    );
                    assert_eq!(fields["x-number"], number.to_string());
                    assert_eq!(fields["x-interim"], interims.to_string());
                    interims += 1;
                }
                status => {
                    assert_eq!(status, 200);
                    break fields;
                }
            }
        };
        assert_eq!(fields["x-number"], number.to_string());
        self.content(&fields).await;
        assert_eq!(
            interims,
            log.0.lock().unwrap()[&number].interims,
            "interim responses lost before {number}"
        );
        if fields
            .get("connection")
            .is_some_and(|value| value == "close")
        {
            while self.fill().await {}
            assert!(self.buffer.is_empty(), "bytes after the last answer");
            return Outcome::Last;
        }
        Outcome::More(interims)
    }

    async fn head(&mut self) -> Option<(u16, HashMap<String, String>)> {
        let end = loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break end;
            }
            if !self.fill().await {
                assert!(
                    self.buffer.is_empty(),
                    "the connection ended inside a head: {:?}",
                    self.buffer
                );
                return None;
            }
        };
        let head = String::from_utf8(self.buffer.split_to(end + 4).to_vec()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines
            .next()
            .and_then(|shared| shared.strip_prefix("HTTP/1.1 "))
            .unwrap_or_else(|| panic!("{head:?}"));
        let fields = lines
            .map(|shared| shared.split_once(": ").unwrap())
            .map(|(name, value)| (name.into(), value.into()));
        Some((status[..3].parse().unwrap(), fields.collect()))
    }

    async fn content(&mut self, fields: &HashMap<String, String>) {
        if let Some(length) = fields.get("content-length") {
            return self.bytes(length.parse().unwrap()).await;
        }
        assert_eq!(fields["transfer-encoding"], "chunked");
        loop {
            let end = loop {
                if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                    break end;
                }
                assert!(
                    self.fill().await,
                    "the connection ended inside a chunk's size"
                );
            };
            let shared = self.buffer.split_to(end + 2);
            let size =
                usize::from_str_radix(std::str::from_utf8(&shared[..end]).unwrap(), 16).unwrap();
            self.bytes(size).await;
            while self.buffer.len() < 2 {
                assert!(self.fill().await, "the connection ended inside a chunk");
            }
            assert_eq!(self.buffer.split_to(2), "\r\n");
            if size == 0 {
                return;
            }
        }
    }

    /// Takes that many bytes of content.
    async fn bytes(&mut self, length: usize) {
        while self.buffer.len() < length {
            assert!(self.fill().await, "the connection ended inside a body");
        }
        let content = self.buffer.split_to(length);
        assert!(
            content.iter().all(|byte| *byte == b'H'),
            "foreign bytes in a body"
        );
    }

    async fn fill(&mut self) -> bool {
        self.io
            .read_buf(&mut self.buffer)
            .await
            .is_ok_and(|read| read > 0)
    }
}
