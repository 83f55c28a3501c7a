//! A server in this process and clients that see every byte.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use axum::{Extension, Router, body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use rcgen::{CertifiedKey, KeyPair};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpSocket, TcpStream},
    sync::Notify,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;
use transport::{
    Config, Drained, Interim, InterimError, ListenConfig, Listener, Memory, TlsConfig, serve,
};

/// No step of a test takes longer than this unless something hangs.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("this should not take so long")
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<Drained>,
    tls: Option<Identity>,
}

impl Server {
    pub(crate) async fn start(config: Config, router: Router) -> Self {
        Self::listen(config, Memory::default(), router, None).await
    }

    pub(crate) async fn start_with(config: Config, memory: Memory, router: Router) -> Self {
        Self::listen(config, memory, router, None).await
    }

    pub(crate) async fn start_tls(config: Config, router: Router) -> Self {
        Self::listen(config, Memory::default(), router, Some(Identity::new())).await
    }

    async fn listen(config: Config, memory: Memory, router: Router, tls: Option<Identity>) -> Self {
        let listen = ListenConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            tls: tls.as_ref().map(|identity| identity.config.clone()),
        };
        let listener = Listener::bind(&listen).unwrap();
        let address = listener.address();
        let shutdown = CancellationToken::new();
        let served = serve(vec![listener], config, memory, router, shutdown.clone());
        let task = tokio::spawn(async { served.await.unwrap() });
        Self {
            address,
            shutdown,
            task,
            tls,
        }
    }

    pub(crate) async fn connect(&self) -> Raw {
        let socket = TcpStream::connect(self.address).await.unwrap();
        match &self.tls {
            None => Raw::new(Io::Plain(socket)),
            Some(identity) => Raw::new(Io::Tls(Box::new(
                identity.connect(socket, b"http/1.1").await,
            ))),
        }
    }

    /// Connects from another address of this machine, such as `127.0.0.2`.
    pub(crate) async fn connect_from(&self, address: &str) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::new(address.parse().unwrap(), 0))
            .unwrap();
        Raw::new(Io::Plain(socket.connect(self.address).await.unwrap()))
    }

    pub(crate) async fn connect_h2(&self) -> Io {
        let socket = TcpStream::connect(self.address).await.unwrap();
        match &self.tls {
            None => Io::Plain(socket),
            Some(identity) => Io::Tls(Box::new(identity.connect(socket, b"h2").await)),
        }
    }

    pub(crate) async fn h2(&self) -> H2 {
        H2::new(self.connect_h2().await).await
    }

    pub(crate) fn identity(&self) -> &Identity {
        self.tls.as_ref().unwrap()
    }

    /// Shuts down and waits for the end.
    pub(crate) async fn stop(self) -> Drained {
        self.shutdown.cancel();
        soon(self.task).await.unwrap()
    }
}

/// A certificate of our own, in two files.
pub(crate) struct Identity {
    pub(crate) config: TlsConfig,
    /// The certificate that clients trust; shared because tests renew it.
    trusted: Mutex<Arc<ClientConfig>>,
    _directory: tempfile::TempDir,
}

impl Identity {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = TlsConfig {
            certificate: directory.path().join("certificate.pem"),
            key: directory.path().join("key.pem"),
            reload_interval: Duration::from_millis(100),
        };
        let trusted = Mutex::new(Arc::new(Self::trusting(&Self::generate())));
        let identity = Self {
            config,
            trusted,
            _directory: directory,
        };
        identity.renew();
        identity
    }

    fn generate() -> CertifiedKey<KeyPair> {
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap()
    }

    fn trusting(pair: &CertifiedKey<KeyPair>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(pair.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// Writes a new pair, which is the only one that clients trust from now on.
    pub(crate) fn renew(&self) {
        let pair = Self::generate();
        std::fs::write(&self.config.certificate, pair.cert.pem()).unwrap();
        std::fs::write(&self.config.key, pair.signing_key.serialize_pem()).unwrap();
        *self.trusted.lock().unwrap() = Arc::new(Self::trusting(&pair));
    }

    pub(crate) async fn try_connect(
        &self,
        socket: TcpStream,
        protocol: &[u8],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.trusted.lock().unwrap());
        config.alpn_protocols = vec![protocol.to_vec()];
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config))
            .connect(name, socket)
            .await
    }

    async fn connect(&self, socket: TcpStream, protocol: &[u8]) -> TlsStream<TcpStream> {
        let stream = soon(self.try_connect(socket, protocol)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        stream
    }
}

pub(crate) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Io {
    /// Ends the connection as a crash would.
    pub(crate) fn reset(self) {
        match self {
            Self::Plain(socket) => socket.set_zero_linger().unwrap(),
            Self::Tls(stream) => stream.get_ref().0.set_zero_linger().unwrap(),
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_read(task, buffer),
            Self::Tls(io) => Pin::new(io).poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_write(task, bytes),
            Self::Tls(io) => Pin::new(io).poll_write(task, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_flush(task),
            Self::Tls(io) => Pin::new(io).poll_flush(task),
        }
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_shutdown(task),
            Self::Tls(io) => Pin::new(io).poll_shutdown(task),
        }
    }
}

/// An HTTP/1 client that parses strictly and hides nothing.
pub(crate) struct Raw {
    pub(crate) io: Io,
    buffer: BytesMut,
}

/// The head of a response, interim or final.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) line: String,
    pub(crate) fields: HeaderMap,
}

impl Head {
    pub(crate) fn field(&self, name: &str) -> &str {
        self.fields
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

impl Raw {
    fn new(io: Io) -> Self {
        Self {
            io,
            buffer: BytesMut::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.io.write_all(bytes.as_ref())).await.unwrap();
        soon(self.io.flush()).await.unwrap();
    }

    /// Ends the connection as a crash would.
    pub(crate) fn reset(self) {
        self.io.reset();
    }

    /// Closes our side for writing.
    pub(crate) async fn finish(&mut self) {
        self.io.shutdown().await.unwrap();
    }

    /// Returns the next head. Panics on anything else.
    pub(crate) async fn head(&mut self) -> Head {
        soon(self.try_head())
            .await
            .expect("the connection ended instead of a response")
    }

    /// Returns the next head, unless the connection ends before it.
    pub(crate) async fn try_head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                let head = self.buffer.split_to(end + 4);
                return Some(Self::parse(std::str::from_utf8(&head[..end]).unwrap()));
            }
            match self.io.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => {
                    assert!(
                        self.buffer.is_empty(),
                        "the connection ended inside a head: {:?}",
                        self.buffer
                    );
                    return None;
                }
                Ok(_) => {}
            }
        }
    }

    fn parse(head: &str) -> Head {
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap().to_owned();
        let rest = line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| line.strip_prefix("HTTP/1.0 "))
            .expect("not HTTP");
        let status = rest[..3].parse().unwrap();
        let mut fields = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            fields.append(
                http::HeaderName::try_from(name).unwrap(),
                value.parse().unwrap(),
            );
        }
        Head {
            status,
            line,
            fields,
        }
    }

    /// Reads exactly `length` bytes of content.
    pub(crate) async fn content(&mut self, length: usize) -> Bytes {
        while self.buffer.len() < length {
            let read = soon(self.io.read_buf(&mut self.buffer)).await.unwrap();
            assert!(read > 0, "the connection ended inside a body");
        }
        self.buffer.split_to(length).freeze()
    }

    /// Reads a final response with a declared length.
    pub(crate) async fn response(&mut self) -> (Head, Bytes) {
        let head = self.head().await;
        let length = head.field("content-length").parse().unwrap();
        let content = self.content(length).await;
        (head, content)
    }

    /// Reads until the connection ends; returns the bytes and the end.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, std::io::Result<()>) {
        let mut bytes = self.buffer.split().to_vec();
        let end = soon(self.io.read_to_end(&mut bytes)).await.map(drop);
        (bytes, end)
    }

    /// Checks that the connection has ended without another byte.
    pub(crate) async fn assert_closed(&mut self) {
        let (rest, _) = self.rest().await;
        assert!(
            rest.is_empty(),
            "unexpected: {:?}",
            String::from_utf8_lossy(&rest)
        );
    }

    /// Checks that nothing arrives for a moment.
    pub(crate) async fn assert_quiet(&mut self) {
        assert!(self.buffer.is_empty(), "unexpected: {:?}", self.buffer);
        let read = timeout(
            Duration::from_millis(150),
            self.io.read_buf(&mut self.buffer),
        )
        .await;
        assert!(read.is_err(), "unexpected: {:?}", self.buffer);
    }
}

/// An HTTP/2 client.
pub(crate) struct H2 {
    pub(crate) send: h2::client::SendRequest<Bytes>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

impl H2 {
    async fn new(io: Io) -> Self {
        let (send, connection) = h2::client::handshake(io).await.unwrap();
        Self {
            send,
            connection: tokio::spawn(connection),
        }
    }

    pub(crate) async fn request(
        &mut self,
        request: Request<()>,
        ends: bool,
    ) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut ready = soon(self.send.clone().ready()).await.unwrap();
        ready.send_request(request, ends).unwrap()
    }

    /// Returns the next interim response of a stream.
    pub(crate) async fn interim(response: &mut h2::client::ResponseFuture) -> http::Response<()> {
        soon(std::future::poll_fn(|task| {
            response.poll_informational(task)
        }))
        .await
        .expect("no interim response")
        .unwrap()
    }

    /// Reads a response and its content.
    pub(crate) async fn response(
        response: h2::client::ResponseFuture,
    ) -> Result<(http::response::Parts, Bytes), h2::Error> {
        let (parts, mut body) = soon(response).await?.into_parts();
        let mut content = BytesMut::new();
        while let Some(data) = soon(body.data()).await {
            let data = data?;
            body.flow_control().release_capacity(data.len()).unwrap();
            content.extend_from_slice(&data);
        }
        Ok((parts, content.freeze()))
    }
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://localhost{path}"))
        .body(())
        .unwrap()
}

pub(crate) fn put(path: &str) -> Request<()> {
    Request::put(format!("http://localhost{path}"))
        .body(())
        .unwrap()
}

pub(crate) fn resumption() -> StatusCode {
    StatusCode::from_u16(104).unwrap()
}

/// Sends a 104 that carries `location`.
pub(crate) fn announce(interim: &Interim, location: &str) -> Result<(), InterimError> {
    let fields = HeaderMap::from_iter([(http::header::LOCATION, location.parse().unwrap())]);
    interim.send(resumption(), fields)
}

/// `/upload` sends a 104, then the body's length. `/short` answers without reading.
pub(crate) fn uploads() -> Router {
    use axum::routing::{get, put};
    use http_body_util::BodyExt;

    Router::new()
        .route(
            "/upload",
            put(
                async |Extension(interim): Extension<Interim>, mut body: Body| {
                    let sent = announce(&interim, "/uploads/1");
                    let mut length = 0;
                    while let Some(frame) = body.frame().await {
                        match frame {
                            Ok(frame) => length += frame.data_ref().map_or(0, Bytes::len),
                            Err(error) => {
                                return format!("{sent:?} {:?}", transport::BodyError::of(&error));
                            }
                        }
                    }
                    format!("{sent:?} {length}")
                },
            ),
        )
        .route("/short", put(async || (StatusCode::CONFLICT, "no")))
        .route("/hello", get(async || "hello"))
}

/// Sends interim responses until the queue is full, then notifies the test.
pub(crate) fn chattering() -> (Router, Arc<Notify>) {
    let full = Arc::new(Notify::new());
    let notified = Arc::clone(&full);
    let router = Router::new().route(
        "/",
        axum::routing::any(async move |Extension(interim): Extension<Interim>| {
            let location = "x".repeat(1000);
            while announce(&interim, &location) != Err(InterimError::Full) {
                tokio::task::yield_now().await;
            }
            notified.notify_one();
            "full"
        }),
    );
    (router, full)
}

/// Calls a function when dropped.
pub(crate) struct OnDrop<F: FnMut()>(pub(crate) F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Returns an answer whose body never ends.
pub(crate) fn endless() -> Response {
    let frame = Bytes::from(vec![b'x'; 256 * 1024]);
    Response::new(Body::from_stream(futures::stream::repeat_with(move || {
        Ok::<_, std::io::Error>(frame.clone())
    })))
}
