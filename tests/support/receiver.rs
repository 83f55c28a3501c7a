//! A receiver of webhooks: a small HTTP/1.1 server that keeps all messages and gives prepared
//! replies.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::{PATIENCE, within};

/// Secret that verifies the messages in [`Receiver::next`].
pub const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Reply to a message.
#[derive(Debug, Clone)]
pub enum Reply {
    /// A status, with fields and a body.
    Status(u16, &'static str, String),
    /// Silence, for as long as the sender waits.
    Silence,
}

impl Reply {
    /// Creates a reply without fields and body.
    pub fn status(status: u16) -> Self {
        Self::Status(status, "", String::new())
    }

    /// Creates a reply with a JSON document.
    pub fn json(status: u16, document: &Value) -> Self {
        let field = "content-type: application/json\r\n";
        Self::Status(status, field, document.to_string())
    }
}

/// A received message.
#[derive(Debug, Clone)]
pub struct Message {
    fields: HeaderMap,
    body: Bytes,
}

impl Message {
    /// Returns the value of a field, which must be there.
    pub fn field(&self, name: &str) -> &str {
        let value = self.fields.get(name);
        let value = value.unwrap_or_else(|| panic!("{name} is missing: {self:?}"));
        value.to_str().expect("it is ASCII")
    }

    /// Returns the id of the event, by which receivers recognise a repetition.
    pub fn id(&self) -> &str {
        self.field("webhook-id")
    }

    /// Returns the body as received.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Parses the body.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("it is JSON")
    }

    /// Reports whether the Standard Webhooks library accepts the signature by this secret.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        let library = Webhook::new(secret).expect("it is a secret");
        library.verify(&self.body, &self.fields).is_ok()
    }
}

/// A running receiver, which ends when dropped.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    messages: mpsc::UnboundedReceiver<Message>,
    accepting: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Receiver {
    /// Starts a receiver that answers every message with 204, unless [`Receiver::reply`] sets
    /// another reply.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let (tell, messages) = mpsc::unbounded_channel();
        let replies: Arc<Mutex<VecDeque<Reply>>> = Arc::default();
        let told = Arc::clone(&replies);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&told), tell.clone()));
            }
        });
        Self {
            address,
            replies,
            messages,
            accepting,
        }
    }

    /// Returns the URL for messages.
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Sets the reply to the next message without one.
    pub fn reply(&self, reply: Reply) {
        let mut replies = self
            .replies
            .lock()
            .expect("no thread panics with the lock held");
        replies.push_back(reply);
    }

    /// Returns the next message, after verifying its signature.
    pub async fn next(&mut self) -> Message {
        let next = within(PATIENCE, "a message", self.messages.recv()).await;
        let message = next.expect("the receiver runs");
        assert!(message.is_signed_with(SECRET), "{message:?}");
        message
    }

    /// Reports whether all received messages have been taken.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

/// Answers messages until the sender closes.
async fn serve(
    mut stream: TcpStream,
    replies: Arc<Mutex<VecDeque<Reply>>>,
    tell: mpsc::UnboundedSender<Message>,
) {
    let mut read = BytesMut::new();
    while let Some(message) = receive(&mut stream, &mut read).await {
        let told = replies
            .lock()
            .expect("no thread panics with the lock held")
            .pop_front();
        // Fails if the test has ended.
        let _ = tell.send(message);
        let (status, fields, body) = match told.unwrap_or(Reply::status(204)) {
            Reply::Status(status, fields, body) => (status, fields, body),
            Reply::Silence => {
                while stream
                    .read_buf(&mut read)
                    .await
                    .is_ok_and(|count| count > 0)
                {}
                return;
            }
        };
        let length = match status {
            204 => String::new(),
            _ => format!("content-length: {}\r\n", body.len()),
        };
        let answer = format!("HTTP/1.1 {status} Told\r\n{fields}{length}\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn receive(stream: &mut TcpStream, read: &mut BytesMut) -> Option<Message> {
    let end = loop {
        if let Some(at) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    };
    let head = read.split_to(end);
    read.advance(4);
    let head = std::str::from_utf8(&head).expect("a head is text");
    assert!(head.starts_with("POST /hook HTTP/1.1\r\n"), "{head}");
    let fields: HeaderMap = head
        .lines()
        .skip(1)
        .map(|line| {
            let (name, value) = line.split_once(':').expect("a field has a colon");
            let name: HeaderName = name.parse().expect("it is a field's name");
            let value: HeaderValue = value.trim().parse().expect("it is a field's value");
            (name, value)
        })
        .collect();
    let length = fields
        .get("content-length")
        .expect("webhooks have a length");
    let length: usize = length.to_str().ok()?.parse().ok()?;
    while read.len() < length {
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
    let body = read.split_to(length).freeze();
    Some(Message { fields, body })
}
