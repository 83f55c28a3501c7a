//! One accepted connection, from its first byte to the protocol that serves it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use crate::{
    Config,
    context::{Context, Handler},
    h1, h2,
    io::{Io, first_bytes},
    tls::Acceptor,
};

/// A TCP connection, with or without TLS.
enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Serves an accepted connection to its end.
pub(crate) async fn serve<S: Handler>(
    socket: TcpStream,
    acceptor: Option<Acceptor>,
    context: Context,
    handler: S,
) {
    let address = context.peer.address;
    if let Err(error) = prepare(&socket, &context.config) {
        tracing::debug!(peer = %address, %error, "connection gone before it began");
        return;
    }
    let Some((mut io, negotiated)) = open(socket, acceptor, &context).await else {
        return;
    };
    let Some(first) = first_bytes(&mut io, &context).await else {
        return;
    };
    let sniffed = match negotiated.as_deref() {
        Some(b"h2") => Some((Protocol::Http2, first)),
        Some(b"http/1.1") => Some((Protocol::Http1, first)),
        _ => {
            let sniffing = timeout(context.config.head_timeout, sniff(&mut io, first));
            let sniffed = context.unless_closing(sniffing).await;
            sniffed.and_then(Result::ok).and_then(Result::ok)
        }
    };
    let context = Arc::new(context);
    let peer = context.peer;
    match sniffed {
        Some((Protocol::Http1, ahead)) => h1::serve(io, ahead, context, handler).await,
        Some((Protocol::Http2, ahead)) => Box::pin(h2::serve(io, ahead, context, handler)).await,
        None => tracing::debug!(peer = %peer.address, "connection ended before its first request"),
    }
}

/// Returns the byte stream, after the TLS handshake if there is one, and the protocol that TLS
/// negotiated.
async fn open(
    socket: TcpStream,
    acceptor: Option<Acceptor>,
    context: &Context,
) -> Option<(Socket, Option<Vec<u8>>)> {
    let peer = context.peer.address;
    let Some(acceptor) = acceptor else {
        return Some((Socket::Plain(socket), None));
    };
    let handshake = timeout(
        context.config.tls_handshake_timeout,
        acceptor.accept(socket),
    );
    match Box::pin(context.unless_closing(handshake)).await {
        Some(Ok(Ok(stream))) => {
            let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            return Some((Socket::Tls(Box::new(stream)), protocol));
        }
        Some(Ok(Err(error))) => tracing::debug!(%peer, %error, "TLS handshake failed"),
        Some(Err(_)) => tracing::debug!(%peer, "TLS handshake timed out"),
        None => tracing::debug!(%peer, "TLS handshake broken off"),
    }
    None
}

/// Sets the options of an accepted socket.
fn prepare(socket: &TcpStream, config: &Config) -> io::Result<()> {
    // Answers and interim responses are written whole; Nagle's algorithm would only delay the last
    // part.
    socket.set_nodelay(true)?;
    // Without a bound, the kernel takes megabytes for a peer that has once read fast. Bytes on
    // their way are not bounded by this, so a long path carries as much as before.
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    {
        let unsent = u32::try_from(config.max_unsent.as_u64()).unwrap_or(u32::MAX);
        socket2::SockRef::from(socket).set_tcp_notsent_lowat(unsent)?;
    }
    Ok(())
}

enum Protocol {
    Http1,
    Http2,
}

/// Detects the protocol by the first bytes: HTTP/2 by its preface; anything else is left to HTTP/1
/// to refuse.
async fn sniff(io: &mut Socket, first: Bytes) -> io::Result<(Protocol, Bytes)> {
    let mut bytes = BytesMut::from(first);
    loop {
        let length = bytes.len().min(h2::PREFACE.len());
        if bytes[..length] != h2::PREFACE[..length] {
            return Ok((Protocol::Http1, bytes.freeze()));
        }
        if length == h2::PREFACE.len() {
            return Ok((Protocol::Http2, bytes.freeze()));
        }
        if io.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

impl Io for Socket {
    fn abort(&mut self) {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        };
        // Fails only if the connection is gone already.
        let _ = stream.set_zero_linger();
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(task, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(task, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(task, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(task),
            Self::Tls(stream) => Pin::new(stream).poll_flush(task),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(task),
        }
    }
}
