//! One request and all responses to it, over HTTP/1.1 or HTTP/2: the interim responses, the final
//! one, or the cut.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;

use crate::url::Origin;
use crate::vector::Transport;
use crate::{http1, http2};

/// Maximum number of bytes that are read of a response body.
pub(crate) const MAX_BODY: usize = 16 << 20;
/// Maximum number of unprocessed interim responses and final answers.
const MAX_WAITING: usize = 1024;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    pub(crate) method: String,
    pub(crate) origin: Origin,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) http_1_0: bool,
    pub(crate) framing: Framing,
}

/// Framing of the request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    NoBody,
    /// By a `Content-Length` among the fields.
    Length,
    /// By chunks, or by the end of the stream.
    Streamed,
}

#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) arrived: Instant,
}

impl Head {
    /// Returns the value of the field, several lines joined by commas (RFC 9110 §5.3).
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let mut lines = self
            .fields
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str());
        let first = lines.next()?.to_owned();
        Some(lines.fold(first, |joined, line| format!("{joined}, {line}")))
    }
}

#[derive(Debug)]
pub(crate) enum Event {
    Interim(Head),
    Final(Head, Bytes),
    /// The exchange ended without a (further) response; the text describes how.
    Closed(String),
}

/// An exchange in progress. Dropping it closes the connection or resets the stream.
#[derive(Debug)]
pub(crate) struct Exchange {
    events: mpsc::Receiver<Event>,
    writer: Writer,
}

#[derive(Debug)]
enum Writer {
    Http1(http1::Writer),
    Http2(http2::Writer),
}

impl Exchange {
    /// Returns the next event, or `None` at the deadline.
    ///
    /// # Cancel safety
    ///
    /// No event is lost.
    pub(crate) async fn event_before(&mut self, deadline: Instant) -> Option<Event> {
        match timeout_at(deadline, self.events.recv()).await {
            Ok(Some(event)) => Some(event),
            Ok(None) => Some(Event::Closed("the exchange was over".to_owned())),
            Err(_) => None,
        }
    }

    /// Sends a part of the body. Stops early if the exchange ends: a server need not read a body
    /// that it has rejected.
    pub(crate) async fn send(&mut self, bytes: Bytes, deadline: Instant) -> Result<(), String> {
        let sent = match &mut self.writer {
            Writer::Http1(writer) => timeout_at(deadline, writer.send(bytes)).await,
            Writer::Http2(writer) => timeout_at(deadline, writer.send(bytes)).await,
        };
        sent.map_err(|_| "the server neither read the body nor answered".to_owned())
    }

    /// Ends the body.
    pub(crate) async fn end(&mut self, trailers: &[(String, String)]) {
        match &mut self.writer {
            Writer::Http1(writer) => writer.end(trailers).await,
            Writer::Http2(writer) => writer.end(trailers),
        }
    }

    /// Closes the connection (HTTP/1.1) or resets the stream (HTTP/2).
    pub(crate) async fn cut(self) {
        match self.writer {
            Writer::Http1(writer) => writer.cut().await,
            Writer::Http2(writer) => writer.cut(),
        }
    }
}

/// Sender of the events that the reading half produces.
#[derive(Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<Event>,
    ended: watch::Sender<bool>,
}

impl Events {
    pub(crate) async fn interim(&self, head: Head) {
        // Fails if the receiver is gone: the exchange was dropped, and nobody needs the event.
        let _ = self.sender.send(Event::Interim(head)).await;
    }

    pub(crate) async fn end(&self, event: Event) {
        self.ended.send_replace(true);
        let _ = self.sender.send(event).await;
    }
}

/// Task that reads the responses. It is aborted with the exchange, which closes the socket or
/// resets the stream.
#[derive(Debug)]
pub(crate) struct Reading(pub(crate) JoinHandle<()>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Completes when the exchange has ended.
pub(crate) async fn ended(ended: &mut watch::Receiver<bool>) {
    // An error means that the reader is gone, which is an end as well.
    let _ = ended.wait_for(|ended| *ended).await;
}

pub(crate) fn channel() -> (Events, mpsc::Receiver<Event>, watch::Receiver<bool>) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let (ended, watcher) = watch::channel(false);
    (Events { sender, ended }, receiver, watcher)
}

/// A connection, encrypted or plain.
pub(crate) trait Io: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Io for T {}

/// Opens connections.
#[derive(Clone)]
pub(crate) struct Connector {
    http1: TlsConnector,
    http2: TlsConnector,
}

impl Connector {
    /// Trusts the root certificates of the machine, or any certificate if `insecure`.
    pub(crate) fn new(insecure: bool) -> Result<Self, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = |protocol: &[u8]| -> Result<TlsConnector, String> {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| format!("cannot set up TLS: {error}"))?;
            let mut config = if insecure {
                let verifier = Arc::new(TrustAnything(Arc::clone(&provider)));
                builder
                    .dangerous()
                    .with_custom_certificate_verifier(verifier)
                    .with_no_client_auth()
            } else {
                let mut roots = RootCertStore::empty();
                // A machine without root certificates can still test http:// URLs; a handshake
                // reports what is missing.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                builder.with_root_certificates(roots).with_no_client_auth()
            };
            config.alpn_protocols = vec![protocol.to_vec()];
            Ok(TlsConnector::from(Arc::new(config)))
        };
        Ok(Self {
            http1: config(b"http/1.1")?,
            http2: config(b"h2")?,
        })
    }

    async fn connect(&self, origin: &Origin, transport: Transport) -> io::Result<Box<dyn Io>> {
        let host = origin.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, origin.port)).await?;
        stream.set_nodelay(true)?;
        if !origin.tls {
            return Ok(Box::new(stream));
        }
        let (tls, protocol): (_, &[u8]) = match transport {
            Transport::Http1 => (&self.http1, b"http/1.1"),
            Transport::Http2 => (&self.http2, b"h2"),
        };
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = tls.connect(name, stream).await?;
        let negotiated = stream.get_ref().1.alpn_protocol();
        if negotiated != Some(protocol) && transport == Transport::Http2 {
            return Err(io::Error::other("the server does not negotiate HTTP/2"));
        }
        Ok(Box::new(stream))
    }
}

/// The connections of one case: a new one for each HTTP/1.1 request, a shared one per origin for
/// HTTP/2.
pub(crate) struct Client {
    connector: Connector,
    transport: Transport,
    sessions: HashMap<Origin, http2::Session>,
}

impl Client {
    pub(crate) fn new(connector: &Connector, transport: Transport) -> Self {
        Self {
            connector: connector.clone(),
            transport,
            sessions: HashMap::new(),
        }
    }

    /// Sends a request's head.
    pub(crate) async fn open(&mut self, head: RequestHead) -> Result<Exchange, String> {
        let opening = async {
            match self.transport {
                Transport::Http1 => self.open_http1(head).await,
                Transport::Http2 => self.open_http2(head).await,
            }
        };
        match timeout(CONNECT_TIMEOUT, opening).await {
            Ok(opened) => opened,
            Err(_) => Err("no connection in time".to_owned()),
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<Box<dyn Io>, String> {
        let connected = self.connector.connect(origin, self.transport).await;
        connected.map_err(|error| format!("cannot connect to {origin}: {error}"))
    }

    async fn open_http1(&self, head: RequestHead) -> Result<Exchange, String> {
        let stream = self.connect(&head.origin).await?;
        let (events, receiver, ended) = channel();
        let writer = http1::open(stream, &head, events, ended).await;
        Ok(Exchange {
            events: receiver,
            writer: Writer::Http1(writer),
        })
    }

    async fn open_http2(&mut self, head: RequestHead) -> Result<Exchange, String> {
        if let Some(session) = self.sessions.get_mut(&head.origin)
            && !session.is_ready().await
        {
            self.sessions.remove(&head.origin);
        }
        if !self.sessions.contains_key(&head.origin) {
            let stream = self.connect(&head.origin).await?;
            let session = http2::Session::start(stream).await?;
            self.sessions.insert(head.origin.clone(), session);
        }
        let session = self
            .sessions
            .get_mut(&head.origin)
            .expect("it was there or has just been inserted");
        let (events, receiver, ended) = channel();
        let writer = session.open(&head, events, ended).await?;
        Ok(Exchange {
            events: receiver,
            writer: Writer::Http2(writer),
        })
    }
}

/// Certificate verifier for `--insecure`: servers under test often have self-signed certificates.
#[derive(Debug)]
struct TrustAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivateKeyDer;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// Starts a server with a self-signed certificate that speaks HTTP/1.1 alone and answers once
    /// on every connection.
    async fn tls_server() -> Origin {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that rejects the certificate gets no answer.
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                let _ = stream.shutdown().await;
            }
        });
        Origin {
            tls: true,
            host: "127.0.0.1".to_owned(),
            port,
        }
    }

    async fn status(origin: &Origin, insecure: bool, transport: Transport) -> Result<u16, String> {
        let connector = Connector::new(insecure).unwrap();
        let head = RequestHead {
            method: "GET".to_owned(),
            origin: origin.clone(),
            path: "/".to_owned(),
            fields: Vec::new(),
            http_1_0: false,
            framing: Framing::NoBody,
        };
        let mut exchange = Client::new(&connector, transport).open(head).await?;
        match exchange
            .event_before(Instant::now() + Duration::from_secs(5))
            .await
        {
            Some(Event::Final(head, _)) => Ok(head.status),
            other => Err(format!("{other:?}")),
        }
    }

    #[tokio::test]
    async fn unknown_certificates_are_trusted_only_on_demand() {
        let origin = tls_server().await;
        assert_eq!(status(&origin, true, Transport::Http1).await, Ok(204));
        let error = status(&origin, false, Transport::Http1).await.unwrap_err();
        assert!(error.contains("certificate"), "{error}");
    }

    #[tokio::test]
    async fn http_2_has_to_be_negotiated() {
        let error = status(&tls_server().await, true, Transport::Http2)
            .await
            .unwrap_err();
        assert!(error.contains("cannot connect"), "{error}");
    }
}
