//! What a dialect writes its answers from, and what it writes.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};

use crate::problem::Problem;
use crate::upload::Limits;

/// How an upload stands, as far as its answers tell. Sizes and offsets are bytes.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// The upload resource's URL as it is told in `Location`; the same in every answer.
    pub location: &'a HeaderValue,
    /// Bytes that are durable.
    pub offset: u64,
    /// The representation's length, once a request has told it.
    pub length: Option<u64>,
    /// Whether the upload has all its bytes and its file was published.
    pub complete: bool,
    /// The bounds of this upload.
    pub limits: &'a Limits,
    /// When the upload is given up.
    pub deadline: Option<Deadline>,
    /// What a tus client said at creation and expects to hear again; `None` for an upload that was not made by tus.
    pub tus: Option<Echo<'a>>,
}

/// What a client said at creation and hears again from `HEAD`, word for word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Echo<'a> {
    /// `Upload-Metadata`.
    pub metadata: Option<&'a str>,
    /// `Upload-Concat`.
    pub concat: Option<&'a str>,
}

/// The end of an upload's life, in the two forms that the dialects tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// How much of it remains.
    pub remaining: Duration,
    /// When it ends.
    pub at: SystemTime,
}

/// An answer without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status. With 204 there is no body.
    pub status: StatusCode,
    /// The fields that the dialect or the target resource writes.
    pub fields: HeaderMap,
}

/// An answer that refuses, with the document that says why.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// The body, and the status.
    pub problem: Problem,
    /// Fields beside it, without `Content-Type`.
    pub fields: HeaderMap,
}

/// What is known of an upload when a request for it is refused.
#[derive(Debug, Clone, Copy)]
pub enum Known<'a> {
    /// The request was refused before anything was looked up.
    Nothing,
    /// No upload was made; these would have been its limits.
    Limits(&'a Limits),
    /// There is an upload.
    Standing(&'a Standing<'a>),
}

/// Which kind of request an upload was completed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The request that made the upload.
    Creation,
    /// An append.
    Append,
}
