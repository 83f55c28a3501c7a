//! A client with minimal cost: one thread, non-blocking sockets, reused buffers; the kernel
//! discards bodies (`MSG_TRUNC`) without copying them.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventFlags};
use rustix::net::{RecvFlags, recv};
use rustix::time::Timespec;
use tokio::time::Instant;

/// Maximum number of bytes sent or discarded by one call.
const PIECE: usize = 256 * 1024;
/// Maximum length of a response head.
const HEAD: usize = 16 * 1024;
/// Silence after which a server counts as broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// One request on the wire, and the expected status.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    /// Request line and fields, with the empty line.
    pub(crate) head: Rc<[u8]>,
    /// Number of body bytes after the head.
    pub(crate) body: u64,
    /// Expected status of the answer.
    pub(crate) status: u16,
}

/// Source of requests.
pub(crate) trait Work {
    /// Returns the next request, for any idle connection; `None` at the end.
    fn next(&mut self) -> Option<Exchange>;
}

impl<F: FnMut() -> Option<Exchange>> Work for F {
    fn next(&mut self) -> Option<Exchange> {
        self()
    }
}

/// Measurements of a run.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    /// Bytes of bodies in both directions.
    pub(crate) bytes: u64,
    /// Time from the first byte sent to the last received, one for each request, in order of
    /// completion.
    pub(crate) latencies: Vec<Duration>,
}

/// Performs all of `work` over `connections` persistent connections.
pub(crate) fn run(
    address: SocketAddr,
    connections: usize,
    work: &mut impl Work,
) -> anyhow::Result<Outcome> {
    let mut client = Client {
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        open: Vec::with_capacity(connections),
        busy: 0,
        body: body(),
        waste: vec![0; PIECE],
        outcome: Outcome::default(),
    };
    let begun = Instant::now();
    while client.open.len() < connections {
        let Some(exchange) = work.next() else { break };
        client.connect(address, exchange)?;
    }
    let patience = Timespec::try_from(PATIENCE)?;
    let mut events = Vec::with_capacity(connections);
    while client.busy > 0 {
        let ready = epoll::wait(&client.epoll, spare_capacity(&mut events), Some(&patience))?;
        ensure!(ready > 0, "no answer within {PATIENCE:?}");
        for event in events.drain(..) {
            client.drive(usize::try_from(event.data.u64())?, work)?;
        }
    }
    client.outcome.elapsed = begun.elapsed();
    Ok(client.outcome)
}

struct Client {
    epoll: OwnedFd,
    /// Connections by the number in their events; `None` once there is no more work for one.
    open: Vec<Option<Connection>>,
    busy: usize,
    body: Vec<u8>,
    /// Target of reads that the kernel cannot discard by itself.
    waste: Vec<u8>,
    outcome: Outcome,
}

struct Connection {
    stream: TcpStream,
    exchange: Exchange,
    begun: Instant,
    head_sent: usize,
    body_sent: u64,
    /// Buffer for the head of the answer, of which `filled` bytes have arrived.
    answer: Box<[u8]>,
    filled: usize,
    /// Remaining bytes of the answer's body, once its head has arrived.
    to_come: Option<u64>,
}

impl Client {
    fn connect(&mut self, address: SocketAddr, exchange: Exchange) -> anyhow::Result<()> {
        let connection = Connection::open(address, exchange)?;
        // A new connection is writable, so its first event comes at once.
        epoll::add(
            &self.epoll,
            &connection.stream,
            event_data(self.open.len())?,
            EventFlags::IN | EventFlags::OUT,
        )?;
        self.open.push(Some(connection));
        self.busy += 1;
        Ok(())
    }

    /// Advances a connection until it would block or has begun its next request.
    fn drive(&mut self, number: usize, work: &mut impl Work) -> anyhow::Result<()> {
        let slot = &mut self.open[number];
        let Some(connection) = slot else {
            return Ok(());
        };
        let waited_to_write = !connection.is_sent();
        if let Some(received) = connection.receive(&mut self.waste)? {
            ensure!(connection.is_sent(), "answered before the request was sent");
            self.outcome.bytes += received + connection.exchange.body;
            self.outcome.latencies.push(connection.begun.elapsed());
            let Some(exchange) = work.next() else {
                *slot = None;
                self.busy -= 1;
                return Ok(());
            };
            connection.begin(exchange);
        }
        connection.send(&self.body)?;
        let waits_to_write = !connection.is_sent();
        if waits_to_write != waited_to_write {
            let mut flags = EventFlags::IN;
            flags.set(EventFlags::OUT, waits_to_write);
            epoll::modify(&self.epoll, &connection.stream, event_data(number)?, flags)?;
        }
        Ok(())
    }
}

impl Connection {
    fn open(address: SocketAddr, exchange: Exchange) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address)
            .with_context(|| format!("failed to connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            exchange,
            begun: Instant::now(),
            head_sent: 0,
            body_sent: 0,
            answer: vec![0; HEAD].into(),
            filled: 0,
            to_come: None,
        })
    }

    fn begin(&mut self, exchange: Exchange) {
        self.exchange = exchange;
        self.begun = Instant::now();
        self.head_sent = 0;
        self.body_sent = 0;
        self.filled = 0;
        self.to_come = None;
    }

    fn is_sent(&self) -> bool {
        self.head_sent == self.exchange.head.len() && self.body_sent == self.exchange.body
    }

    /// Sends the remaining bytes, as far as the socket accepts them.
    fn send(&mut self, body: &[u8]) -> anyhow::Result<()> {
        while self.head_sent < self.exchange.head.len() {
            match would_block(self.stream.write(&self.exchange.head[self.head_sent..]))? {
                Some(count) => self.head_sent += count,
                None => return Ok(()),
            }
        }
        while self.body_sent < self.exchange.body {
            let left = usize::try_from(self.exchange.body - self.body_sent)?;
            match would_block(self.stream.write(&body[..left.min(body.len())]))? {
                Some(count) => self.body_sent += u64::try_from(count)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Reads the available bytes. Returns the length of the body once the answer is complete.
    fn receive(&mut self, waste: &mut [u8]) -> anyhow::Result<Option<u64>> {
        while self.to_come.is_none() {
            ensure!(self.filled < HEAD, "an endless head");
            match would_block(self.stream.read(&mut self.answer[self.filled..]))? {
                None => return Ok(None),
                Some(0) => bail!(
                    "the server closed the connection: {}",
                    self.head().escape_ascii()
                ),
                Some(count) => self.filled += count,
            }
            self.read_head()?;
        }
        while let Some(left) = self.to_come.filter(|left| *left > 0) {
            let size = usize::try_from(left)?.min(waste.len());
            let thrown = recv(&self.stream, &mut waste[..size], RecvFlags::TRUNC);
            match would_block(thrown.map_err(io::Error::from))? {
                None => return Ok(None),
                Some((_, 0)) => bail!("the server closed the connection within a body"),
                Some((_, count)) => self.to_come = Some(left - u64::try_from(count)?),
            }
        }
        Ok(Some(self.length()))
    }

    /// Parses the head of the answer once it is complete; the buffer then holds only the head.
    /// Interim answers are skipped.
    fn read_head(&mut self) -> anyhow::Result<()> {
        while let Some(end) = self
            .head()
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        {
            let status = status(self.head())
                .with_context(|| format!("no HTTP: {}", self.head().escape_ascii()))?;
            let after = self.filled - end - 4;
            if (100..200).contains(&status) {
                self.answer.copy_within(end + 4..self.filled, 0);
                self.filled = after;
                continue;
            }
            ensure!(
                status == self.exchange.status,
                "{}",
                self.head().escape_ascii()
            );
            self.filled = end + 2;
            let left = self.length().checked_sub(u64::try_from(after)?);
            self.to_come = Some(left.context("more bytes than announced")?);
            return Ok(());
        }
        Ok(())
    }

    fn head(&self) -> &[u8] {
        &self.answer[..self.filled]
    }

    /// Returns the length of the answer's body, once its head has arrived. RFC 9110 §8.6: a 304
    /// carries the length that a 200 would have.
    fn length(&self) -> u64 {
        if self.exchange.status == 304 {
            return 0;
        }
        let head = self.head();
        field(head, b"\r\ncontent-length:")
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| match field(head, b"\r\ntransfer-encoding:") {
                // Some peers send an empty body in chunks: the last chunk is the only one.
                Some(_) => 5,
                None => 0,
            })
    }
}

fn event_data(number: usize) -> anyhow::Result<epoll::EventData> {
    Ok(epoll::EventData::new_u64(u64::try_from(number)?))
}

fn would_block<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.strip_prefix(b"HTTP/1.1 ")?.get(..3)?)
        .ok()?
        .parse()
        .ok()
}

/// Returns the value of a field of a head that ends with a line end; `name` includes the preceding
/// line end and the colon.
fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let at = head
        .windows(name.len())
        .position(|window| window.eq_ignore_ascii_case(name))?;
    let value = head[at + name.len()..]
        .split(|byte| *byte == b'\r')
        .next()?;
    std::str::from_utf8(value).ok().map(str::trim)
}

/// Returns the bytes that bodies consist of, repeated: they do not compress.
pub(crate) fn body() -> Vec<u8> {
    tests::Content::new(1, u64::try_from(PIECE).expect("a small number"))
        .bytes()
        .to_vec()
}
