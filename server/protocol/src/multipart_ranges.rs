//! Framing of `multipart/byteranges`: the bytes between the parts, and the total length (RFC 9110
//! §14.6).

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;

use crate::range::{self, Satisfiable};

/// Boundary between the parts of one answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary(String);

impl Boundary {
    /// Creates a boundary of 1 to 70 letters, digits, hyphens and underscores (those characters of
    /// RFC 2046 §5.1.1 that need no quotes). The caller chooses enough randomness that no part
    /// contains it.
    pub fn new(boundary: impl Into<String>) -> Option<Self> {
        let boundary = boundary.into();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let fits = (1..=70).contains(&boundary.len()) && boundary.bytes().all(plain);
        fits.then_some(Self(boundary))
    }
}

/// A piece of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the framing.
    Literal(Bytes),
    /// A range of the representation.
    Part(Range<u64>),
}

/// Body of an answer with several ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultipartRanges {
    boundary: Boundary,
    pieces: Vec<Piece>,
}

impl MultipartRanges {
    /// Lays out the parts, each with the type `content_type` if there is one.
    pub fn new(
        boundary: Boundary,
        content_type: Option<&HeaderValue>,
        satisfiable: &Satisfiable,
    ) -> Self {
        let mut pieces = Vec::with_capacity(satisfiable.ranges().len() * 2 + 1);
        for part in satisfiable.ranges() {
            // RFC 2046 §5.1.1: a delimiter begins with CRLF. Before the first part this ends an
            // empty preamble, as in nginx and Apache: clients such as zsync look for the whole
            // delimiter.
            let mut head = b"\r\n--".to_vec();
            head.extend_from_slice(boundary.0.as_bytes());
            if let Some(content_type) = content_type {
                head.extend_from_slice(b"\r\nContent-Type: ");
                head.extend_from_slice(content_type.as_bytes());
            }
            let content_range = range::content_range_text(part, satisfiable.complete_length());
            head.extend_from_slice(b"\r\nContent-Range: ");
            head.extend_from_slice(content_range.as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
            pieces.push(Piece::Literal(head.into()));
            pieces.push(Piece::Part(part.clone()));
        }
        pieces.push(Piece::Literal(format!("\r\n--{}--\r\n", boundary.0).into()));
        Self { boundary, pieces }
    }

    /// Returns the `Content-Type` of the answer.
    pub fn content_type(&self) -> HeaderValue {
        HeaderValue::try_from(format!(
            "multipart/byteranges; boundary={}",
            self.boundary.0
        ))
        .expect("a boundary is visible ASCII")
    }

    /// Returns the exact `Content-Length` of the answer.
    pub fn content_length(&self) -> u64 {
        self.pieces
            .iter()
            .map(Piece::length)
            .fold(0, u64::saturating_add)
    }

    /// Returns the body's pieces in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }
}

impl Piece {
    /// Returns the length in bytes.
    pub fn length(&self) -> u64 {
        match self {
            Self::Literal(bytes) => bytes.len() as u64,
            Self::Part(range) => range.end - range.start,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::range::{RangeSet, Resolved};

    fn satisfiable(value: &str, length: u64) -> Satisfiable {
        match RangeSet::parse(value).unwrap().resolve(length) {
            Resolved::Satisfiable(satisfiable) => satisfiable,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn parts_stand_between_delimiters() {
        let content = b"0123456789";
        let parts = MultipartRanges::new(
            Boundary::new("B").unwrap(),
            Some(&HeaderValue::from_static("text/plain")),
            &satisfiable("bytes=0-1,-3", 10),
        );
        let mut body = Vec::new();
        for piece in parts.pieces() {
            match piece {
                Piece::Literal(bytes) => body.extend_from_slice(bytes),
                Piece::Part(range) => {
                    let start = usize::try_from(range.start).unwrap();
                    let end = usize::try_from(range.end).unwrap();
                    body.extend_from_slice(&content[start..end]);
                }
            }
        }
        assert_eq!(
            String::from_utf8(body.clone()).unwrap(),
            "\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
             \r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 7-9/10\r\n\r\n789\
             \r\n--B--\r\n"
        );
        assert_eq!(parts.content_length(), body.len() as u64);
        assert_eq!(parts.content_type(), "multipart/byteranges; boundary=B");
    }

    #[test]
    fn a_boundary_needs_no_quotes() {
        assert!(Boundary::new("a-Z_9").is_some());
        for bad in ["", "a b", "a\"", "a\r\n", &"x".repeat(71)] {
            assert_eq!(Boundary::new(bad), None, "{bad:?}");
        }
    }
}
