//! A request's body as it comes.

use bytes::Bytes;
use futures::stream::BoxStream;
use protocol::digest::StatedDigests;
use protocol::rejection::Rejection;

/// A piece of a request's body.
#[derive(Debug)]
pub enum BodyPart {
    /// Bytes.
    Data(Bytes),
    /// Digests, stated in a trailer.
    Digests(StatedDigests),
}

/// Why a body ended before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyFault {
    /// What came is not what the protocol asks for; the client is told.
    Broken(Rejection),
    /// The connection or stream was cut, or its framing broke.
    Cut,
    /// Nothing came for too long.
    Idle,
}

/// A request's body.
pub type UploadBody = BoxStream<'static, Result<BodyPart, BodyFault>>;
