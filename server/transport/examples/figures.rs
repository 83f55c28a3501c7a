//! Measures the transport: throughput, long paths, memory of idle and of slow connections.
//!
//! `cargo run --release -p transport --example figures [megabytes]`. The server runs in a process
//! of its own, so that its memory and processor time are not mixed with the client's. Both share
//! this machine, so the figures compare protocols and versions of this code with each other rather
//! than with other machines.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::{net::SocketAddr, process::Stdio, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Path,
    response::Response,
    routing::{get, put},
};
use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body_util::BodyExt;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use transport::{Config, ListenConfig, Listener, Memory, TlsConfig, serve};

const FRAME: usize = 256 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [command, directory] = &arguments[..]
        && command == "serve"
    {
        return run_server(directory).await;
    }
    let megabytes: u64 = arguments.first().map_or(Ok(1024), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(directory.path().join("certificate.pem"), pair.cert.pem())?;
    std::fs::write(
        directory.path().join("key.pem"),
        pair.signing_key.serialize_pem(),
    )?;
    let path = directory
        .path()
        .to_str()
        .ok_or("a temporary directory with an odd name")?;

    throughput(path, megabytes << 20).await?;
    long_path(path).await?;
    idle(path).await?;
    slow(path).await
}

// The server.

async fn run_server(directory: &str) -> Result<(), Failure> {
    let tls = TlsConfig {
        certificate: format!("{directory}/certificate.pem").into(),
        key: format!("{directory}/key.pem").into(),
        reload_interval: Duration::from_secs(3600),
    };
    let address = "127.0.0.1:0".parse()?;
    let plain = Listener::bind(&ListenConfig { address, tls: None })?;
    let secure = Listener::bind(&ListenConfig {
        address,
        tls: Some(tls),
    })?;
    println!("{} {}", plain.address(), secure.address());
    let frame = Bytes::from(vec![0; FRAME]);
    let router = Router::new()
        .route(
            "/up",
            put(async |mut body: Body| {
                let mut length = 0;
                while let Some(Ok(frame)) = body.frame().await {
                    length += frame.data_ref().map_or(0, Bytes::len);
                }
                length.to_string()
            }),
        )
        .route(
            "/down/{length}",
            get(async move |Path(length): Path<u64>| {
                let frames = length / FRAME as u64;
                let frames = futures::stream::iter(0..frames)
                    .map(move |_| Ok::<_, std::io::Error>(frame.clone()));
                Response::builder()
                    .header("content-length", length)
                    .body(Body::from_stream(frames))
                    .expect("a number is a field value")
            }),
        );
    serve(
        vec![plain, secure],
        Config {
            max_connections: 20_000,
            ..Config::default()
        },
        Memory::default(),
        router,
        CancellationToken::new(),
    )
    .await?;
    Ok(())
}

struct Server {
    child: Child,
    plain: SocketAddr,
    secure: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Server {
    async fn start(directory: &str) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", directory])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?)
            .read_line(&mut line)
            .await?;
        let (plain, secure) = line.trim().split_once(' ').ok_or("no addresses")?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(format!(
            "{directory}/certificate.pem"
        ))?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            child,
            plain: plain.parse()?,
            secure: secure.parse()?,
            tls: Arc::new(tls),
        })
    }

    async fn connect(&self, tls: bool, protocol: &[u8]) -> Result<Box<dyn Stream>, Failure> {
        if !tls {
            let socket = TcpStream::connect(self.plain).await?;
            socket.set_nodelay(true)?;
            return Ok(Box::new(socket));
        }
        let mut config = ClientConfig::clone(&self.tls);
        config.alpn_protocols = vec![protocol.to_vec()];
        let socket = TcpStream::connect(self.secure).await?;
        socket.set_nodelay(true)?;
        Ok(Box::new(
            tokio_rustls::TlsConnector::from(Arc::new(config))
                .connect("localhost".try_into()?, socket)
                .await?,
        ))
    }

    fn stat(&self, name: &str) -> Result<String, Failure> {
        let id = self.child.id().ok_or("the server is gone")?;
        Ok(std::fs::read_to_string(format!("/proc/{id}/{name}"))?)
    }

    /// Returns the resident memory in KiB.
    fn resident(&self) -> Result<u64, Failure> {
        let status = self.stat("status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    /// Returns the processor time in seconds.
    fn processor(&self) -> Result<f64, Failure> {
        let stat = self.stat("stat")?;
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .ok_or("no stat")?
            .split(' ')
            .collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }
}

// Throughput on loopback.

async fn throughput(directory: &str, length: u64) -> Result<(), Failure> {
    println!(
        "throughput of {} MiB, one connection   GB/s   server CPU s/GiB",
        length >> 20
    );
    for tls in [false, true] {
        for http2 in [false, true] {
            for up in [true, false] {
                let mut best = (0.0_f64, 0.0);
                for _ in 0..3 {
                    let server = Server::start(directory).await?;
                    let io = server
                        .connect(tls, if http2 { b"h2" } else { b"http/1.1" })
                        .await?;
                    let (before, start) = (server.processor()?, Instant::now());
                    match (http2, up) {
                        (false, true) => h1_up(io, length).await?,
                        (false, false) => h1_down(io, length).await?,
                        (true, true) => h2_up(io, length).await?,
                        (true, false) => h2_down(io, length).await?,
                    }
                    let rate = bytes_per_second(length, start) / 1e9;
                    if rate > best.0 {
                        best = (rate, (server.processor()? - before) / gibibytes(length));
                    }
                }
                let name = format!(
                    "{}{} {}",
                    if http2 { "HTTP/2" } else { "HTTP/1.1" },
                    if tls { " TLS" } else { "" },
                    if up { "up" } else { "down" },
                );
                println!("  {name:<36} {:>5.2}   {:>5.2}", best.0, best.1);
            }
        }
    }
    Ok(())
}

fn gibibytes(length: u64) -> f64 {
    length as f64 / f64::from(1 << 30)
}

fn bytes_per_second(length: u64, start: Instant) -> f64 {
    length as f64 / start.elapsed().as_secs_f64()
}

async fn h1_up(mut io: impl Stream, length: u64) -> Result<(), Failure> {
    io.write_all(
        format!("PUT /up HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n").as_bytes(),
    )
    .await?;
    let block = vec![0; FRAME];
    for _ in 0..length / FRAME as u64 {
        io.write_all(&block).await?;
    }
    io.flush().await?;
    let mut answer = [0; 64];
    let read = io.read(&mut answer).await?;
    if answer[..read].starts_with(b"HTTP/1.1 200") {
        Ok(())
    } else {
        Err("refused".into())
    }
}

async fn h1_down(mut io: impl Stream, length: u64) -> Result<(), Failure> {
    io.write_all(format!("GET /down/{length} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes())
        .await?;
    io.flush().await?;
    let mut block = vec![0; FRAME];
    let mut read = 0;
    while read < length {
        match io.read(&mut block).await? {
            0 => return Err("ended early".into()),
            more => read += more as u64,
        }
    }
    Ok(())
}

type H2 = h2::client::SendRequest<Bytes>;

async fn h2_client(io: impl Stream + 'static) -> Result<H2, Failure> {
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .handshake(io)
        .await?;
    tokio::spawn(connection);
    Ok(send.ready().await?)
}

async fn h2_up(io: impl Stream + 'static, length: u64) -> Result<(), Failure> {
    let mut client = h2_client(io).await?;
    let (response, mut body) =
        client.send_request(Request::put("http://localhost/up").body(())?, false)?;
    let block = Bytes::from(vec![0; FRAME]);
    for _ in 0..length / FRAME as u64 {
        let mut block = block.clone();
        while !block.is_empty() {
            body.reserve_capacity(block.len());
            let capacity = std::future::poll_fn(|task| body.poll_capacity(task))
                .await
                .ok_or("closed")??;
            body.send_data(block.split_to(capacity.min(block.len())), false)?;
        }
    }
    body.send_data(Bytes::new(), true)?;
    if response.await?.status() == 200 {
        Ok(())
    } else {
        Err("refused".into())
    }
}

async fn h2_down(io: impl Stream + 'static, length: u64) -> Result<(), Failure> {
    let mut client = h2_client(io).await?;
    let (response, _) = client.send_request(
        Request::get(format!("http://localhost/down/{length}")).body(())?,
        true,
    )?;
    let mut body = response.await?.into_body();
    let mut read = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        read += data.len() as u64;
    }
    if read == length {
        Ok(())
    } else {
        Err("ended early".into())
    }
}

// A path with a round trip of 200 ms.

async fn long_path(directory: &str) -> Result<(), Failure> {
    println!("one upload of 128 MiB over a path of 200 ms   MB/s");
    for http2 in [false, true] {
        let server = Server::start(directory).await?;
        let io = delayed(server.plain, Duration::from_millis(100)).await?;
        let (length, start) = (128 << 20, Instant::now());
        if http2 {
            h2_up(io, length).await?
        } else {
            h1_up(io, length).await?
        }
        let rate = bytes_per_second(length, start) / 1e6;
        println!(
            "  {:<42} {rate:>5.1}",
            if http2 { "HTTP/2" } else { "HTTP/1.1" }
        );
    }
    Ok(())
}

/// A connection through a proxy that delays everything, each way.
async fn delayed(to: SocketAddr, delay: Duration) -> Result<TcpStream, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let (near, _) = listener.accept().await?;
    let far = TcpStream::connect(to).await?;
    for socket in [&client, &near, &far] {
        socket.set_nodelay(true)?;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    tokio::spawn(carry(near_read, far_write, delay));
    tokio::spawn(carry(far_read, near_write, delay));
    Ok(client)
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin + Send + 'static,
    delay: Duration,
) {
    // The path holds 256 MiB: no bound that a window of HTTP/2 could meet.
    let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    tokio::spawn(async move {
        while let Some((at, bytes)) = receive.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if send
            .send((Instant::now() + delay, buffer[..read].to_vec()))
            .await
            .is_err()
        {
            return;
        }
    }
}

// Memory.

async fn idle(directory: &str) -> Result<(), Failure> {
    const CONNECTIONS: u64 = 5_000;
    println!("{CONNECTIONS} idle connections   KiB each, resident");
    for (name, tls, http2, request) in [
        ("HTTP/1.1, fresh", false, false, false),
        ("HTTP/1.1, after a request", false, false, true),
        ("HTTP/2, after a request", false, true, true),
        ("HTTP/1.1 TLS, after a request", true, false, true),
        ("HTTP/2 TLS, after a request", true, true, true),
    ] {
        let server = Server::start(directory).await?;
        // What the first connections cost once and for all.
        let warm = open(&server, tls, http2, request).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = server.resident()?;
        let mut kept = Vec::new();
        for _ in 0..CONNECTIONS {
            kept.push(open(&server, tls, http2, request).await?);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let each = (server.resident()? - before) * 10 / CONNECTIONS;
        println!("  {name:<36} {:>3}.{}", each / 10, each % 10);
        drop((warm, kept));
    }
    Ok(())
}

/// A connection that stays open while the value lives.
async fn open(
    server: &Server,
    tls: bool,
    http2: bool,
    request: bool,
) -> Result<Box<dyn Send>, Failure> {
    let mut io = server
        .connect(tls, if http2 { b"h2" } else { b"http/1.1" })
        .await?;
    if http2 {
        let mut client = h2_client(io).await?;
        let (response, _) =
            client.send_request(Request::get("http://localhost/down/0").body(())?, true)?;
        response.await?;
        return Ok(Box::new(client));
    }
    if request {
        io.write_all(b"GET /down/0 HTTP/1.1\r\nhost: x\r\n\r\n")
            .await?;
        let mut answer = [0; 512];
        let _ = io.read(&mut answer).await?;
    }
    Ok(Box::new(io))
}

async fn slow(directory: &str) -> Result<(), Failure> {
    const CONNECTIONS: usize = 1_000;
    println!("{CONNECTIONS} slow transfers at once   MiB resident, the whole process");
    for (name, http2, up) in [
        ("HTTP/1.1 up", false, true),
        ("HTTP/1.1 down", false, false),
        ("HTTP/2 up", true, true),
        ("HTTP/2 down", true, false),
    ] {
        let server = Server::start(directory).await?;
        let mut transfers = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let io = server.connect(false, b"").await?;
            transfers.spawn(async move {
                match (http2, up) {
                    (false, true) => slow_h1_up(io).await,
                    (false, false) => slow_h1_down(io).await,
                    (true, true) => slow_h2_up(io).await,
                    (true, false) => slow_h2_down(io).await,
                }
            });
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        if let Some(ended) = transfers.try_join_next() {
            ended??;
            return Err("a slow transfer ended".into());
        }
        println!("  {name:<36} {:>4}", server.resident()? / 1024);
    }
    Ok(())
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(250)).await;
}

async fn slow_h1_up(mut io: impl Stream) -> Result<(), Failure> {
    io.write_all(b"PUT /up HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n")
        .await?;
    loop {
        io.write_all(&[0; 16 * 1024]).await?;
        pause().await;
    }
}

async fn slow_h1_down(mut io: impl Stream) -> Result<(), Failure> {
    io.write_all(b"GET /down/1073741824 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await?;
    let mut block = vec![0; 16 * 1024];
    loop {
        io.read_exact(&mut block).await?;
        pause().await;
    }
}

async fn slow_h2_up(io: impl Stream + 'static) -> Result<(), Failure> {
    let mut client = h2_client(io).await?;
    let (_response, mut body) =
        client.send_request(Request::put("http://localhost/up").body(())?, false)?;
    loop {
        body.send_data(Bytes::from_static(&[0; 16 * 1024]), false)?;
        pause().await;
    }
}

async fn slow_h2_down(io: impl Stream + 'static) -> Result<(), Failure> {
    let mut client = h2_client(io).await?;
    let (response, _) = client.send_request(
        Request::get("http://localhost/down/1073741824").body(())?,
        true,
    )?;
    let mut body = response.await?.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
        pause().await;
    }
    Err("ended".into())
}
