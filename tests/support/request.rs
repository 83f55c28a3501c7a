//! A request as a test says it, independent of the HTTP version that carries it.

use bytes::Bytes;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// The method, as sent.
    pub method: String,
    /// The request target: path and query.
    pub target: String,
    /// Field names and values, in order, as sent.
    pub fields: Vec<(String, String)>,
    /// The body that goes with the request when it is sent whole.
    pub body: Bytes,
    /// How the end of the body is told.
    pub framing: Framing,
}

/// How a request says where its body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    Nothing,
    /// `Content-Length` with this number, whatever is sent in the end.
    Length(u64),
    /// Chunked on HTTP/1.1; no declared length on HTTP/2.
    Unknown,
}

impl Request {
    /// A request without fields or body.
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

    /// With an empty body, until one is given.
    pub fn put(target: impl Into<String>) -> Self {
        Self::new("PUT", target).announcing(0)
    }

    /// With an empty body, until one is given.
    pub fn post(target: impl Into<String>) -> Self {
        Self::new("POST", target).announcing(0)
    }

    /// With an empty body, until one is given.
    pub fn patch(target: impl Into<String>) -> Self {
        Self::new("PATCH", target).announcing(0)
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// Adds an API key as the bearer.
    pub fn bearer(self, key: &str) -> Self {
        self.field("Authorization", format!("Bearer {key}"))
    }

    /// The whole body, with its length declared.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        let length = u64::try_from(self.body.len()).expect("a length fits");
        self.announcing(length)
    }

    /// Declares `length` bytes, which the test sends by itself.
    pub fn announcing(mut self, length: u64) -> Self {
        self.framing = Framing::Length(length);
        self
    }

    /// Declares a body without telling its length.
    pub fn unannounced(mut self) -> Self {
        self.framing = Framing::Unknown;
        self
    }
}
