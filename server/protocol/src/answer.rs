//! State from which a dialect writes answers, and the answers themselves.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::problem::Problem;
use crate::upload::Limits;

/// State of an upload, as far as answers show it. Sizes and offsets are in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// URL of the upload resource for `Location`; the same in every answer.
    pub location: &'a HeaderValue,
    /// Durable offset.
    pub offset: u64,
    /// Length of the representation, once a request has stated it.
    pub length: Option<u64>,
    /// True if the upload has all its bytes and its file was published.
    pub complete: bool,
    /// The bounds of this upload.
    pub limits: &'a Limits,
    /// Time at which the upload expires.
    pub deadline: Option<Deadline>,
    /// Fields that a tus client sent at creation and expects back; `None` for an upload of another
    /// dialect.
    pub tus: Option<Echo<'a>>,
}

/// Fields that a tus client sent at creation, for `HEAD` to repeat verbatim.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Echo<'a> {
    /// `Upload-Metadata`.
    pub metadata: Option<&'a str>,
    /// `Upload-Concat`.
    pub concat: Option<&'a str>,
}

/// End of an upload's life, in the two forms that dialects report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// Remaining time.
    pub remaining: Duration,
    /// Time of the end.
    pub at: SystemTime,
}

/// An answer without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status. A 204 has no body.
    pub status: StatusCode,
    /// The fields that the dialect or the target resource writes.
    pub fields: HeaderMap,
}

/// An answer that refuses a request, with the problem document.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Problem document and status.
    pub problem: Problem,
    /// Further fields, without `Content-Type`.
    pub fields: HeaderMap,
}

/// Knowledge about an upload at the refusal of a request.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// The request was refused before any lookup.
    Nothing,
    /// No upload was created; these would have been its limits.
    Limits(&'a Limits),
    /// The upload exists.
    Standing(&'a Standing<'a>),
}

/// Kind of the request that completed an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The request that created the upload.
    Creation,
    /// An append.
    Append,
}
