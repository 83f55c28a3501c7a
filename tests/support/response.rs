//! A response, with all interim responses before it.

use std::fmt;

use bytes::Bytes;
use http::HeaderMap;

/// Status and fields of an interim or a final response.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status code.
    pub status: u16,
    /// The fields.
    pub fields: HeaderMap,
}

/// A final response that arrived completely, and the interim ones before it.
#[derive(Clone)]
pub struct Response {
    /// The interim responses, in order of arrival.
    pub interim: Vec<Head>,
    /// Status and fields.
    pub head: Head,
    /// The body, without any transfer coding.
    pub body: Bytes,
}

/// An exchange that ended before its final response was complete.
#[derive(Debug)]
pub struct Cut {
    /// The interim responses that arrived.
    pub interim: Vec<Head>,
    /// The final response as far as it arrived; its body is short.
    pub partial: Option<(Head, Bytes)>,
    /// Readable description of the end of the connection or stream.
    pub how: String,
}

impl Head {
    /// Returns the value of a field, which must be there.
    #[track_caller]
    pub fn field(&self, name: &str) -> &str {
        self.optional(name)
            .unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    /// Returns the value of a field, if it is there.
    #[track_caller]
    pub fn optional(&self, name: &str) -> Option<&str> {
        let value = self.fields.get(name)?;
        Some(value.to_str().expect("fields in tests are ASCII"))
    }

    /// Returns the number in `Upload-Offset`, which must be there.
    #[track_caller]
    pub fn offset(&self) -> u64 {
        let value = self.field("upload-offset");
        value
            .parse()
            .unwrap_or_else(|_| panic!("{value} is no offset"))
    }
}

impl Response {
    /// Returns the status code.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// Returns this response if its status is `status`; panics with all of it otherwise.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status(), status, "{self:#?}");
        self
    }

    /// Returns the value of a field, which must be there.
    #[track_caller]
    pub fn field(&self, name: &str) -> &str {
        self.optional(name)
            .unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    /// Returns the value of a field, if it is there.
    #[track_caller]
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.head.optional(name)
    }

    /// Returns the number in `Upload-Offset`, which must be there.
    #[track_caller]
    pub fn offset(&self) -> u64 {
        self.head.offset()
    }

    /// Parses the body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:#?}"))
    }

    /// Returns the problem document of an error answer (RFC 9457), after checking that it is one
    /// and agrees with the status.
    #[track_caller]
    pub fn problem(&self) -> serde_json::Value {
        assert_eq!(
            self.field("content-type"),
            "application/problem+json",
            "{self:#?}"
        );
        let problem = self.json();
        assert_eq!(problem["status"], self.status(), "{self:#?}");
        for member in ["type", "title", "detail", "request_id"] {
            assert!(
                problem[member].is_string(),
                "no {member} in the problem: {self:#?}"
            );
        }
        assert!(
            self.body.len() < 4096,
            "an error answer is small: {self:#?}"
        );
        problem
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("interim", &self.interim)
            .field("status", &self.head.status)
            .field("fields", &self.head.fields)
            .field("body", &Excerpt(&self.body))
            .finish()
    }
}

/// The beginning of a body, in readable form.
struct Excerpt<'a>(&'a [u8]);

impl fmt::Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(600)];
        write!(f, "{} bytes: {}", self.0.len(), shown.escape_ascii())
    }
}
