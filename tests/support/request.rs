//! A request in a test, independent of the HTTP version that carries it.

use bytes::Bytes;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    /// Method, as sent.
    pub method: String,
    /// Request target: path and query.
    pub target: String,
    /// Field names and values, in order, as sent.
    pub fields: Vec<(String, String)>,
    /// Body, if the request is sent in one call.
    pub body: Bytes,
    /// Framing of the body.
    pub framing: Framing,
}

/// Framing of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Nothing,
    /// `Content-Length` with this number, regardless of the bytes actually sent.
    Length(u64),
    /// Chunked on HTTP/1.1; no declared length on HTTP/2.
    Unknown,
}

impl Request {
    /// Creates a request without fields or body.
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.into(),
            fields: Vec::new(),
            body: Bytes::new(),
            framing: Framing::Nothing,
        }
    }

    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    pub fn head(target: impl Into<String>) -> Self {
        Self::new("HEAD", target)
    }

    pub fn options(target: impl Into<String>) -> Self {
        Self::new("OPTIONS", target)
    }

    pub fn delete(target: impl Into<String>) -> Self {
        Self::new("DELETE", target)
    }

    /// Creates a `PUT`, with an empty body until one is set.
    pub fn put(target: impl Into<String>) -> Self {
        Self::new("PUT", target).announcing(0)
    }

    /// Creates a `POST`, with an empty body until one is set.
    pub fn post(target: impl Into<String>) -> Self {
        Self::new("POST", target).announcing(0)
    }

    /// Creates a `PATCH`, with an empty body until one is set.
    pub fn patch(target: impl Into<String>) -> Self {
        Self::new("PATCH", target).announcing(0)
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an API key as bearer token.
    pub fn bearer(self, key: &str) -> Self {
        self.field("Authorization", format!("Bearer {key}"))
    }

    /// Sets the body and declares its length.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        let length = u64::try_from(self.body.len()).expect("a length fits");
        self.announcing(length)
    }

    /// Declares a body of `length` bytes, which the test sends itself.
    pub fn announcing(mut self, length: u64) -> Self {
        self.framing = Framing::Length(length);
        self
    }

    /// Declares a body of unknown length.
    pub fn unannounced(mut self) -> Self {
        self.framing = Framing::Unknown;
        self
    }
}
