//! The body of a request as a stream.

use bytes::Bytes;
use futures::stream::BoxStream;
use protocol::digest::StatedDigests;
use protocol::rejection::Rejection;

/// A piece of a request's body.
#[derive(Debug)]
pub enum BodyPart {
    /// Bytes.
    Data(Bytes),
    /// Digests from a trailer.
    Digests(StatedDigests),
}

/// Failures of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyFault {
    /// The body violates its protocol; the client gets this rejection.
    Broken(Rejection),
    /// The connection or stream was cut, or its framing broke.
    Cut,
    /// No bytes arrived for too long.
    Idle,
}

/// A request's body.
pub type UploadBody = BoxStream<'static, Result<BodyPart, BodyFault>>;
