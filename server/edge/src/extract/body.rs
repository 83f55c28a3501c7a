//! Conversion of a request's body to the domain's types.

use axum::body::Body;
use bytes::Bytes;
use domain::body::{BodyFault, BodyPart, UploadBody};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use protocol::digest::StatedDigests;

use transport::BodyError;

/// Returns the body's length in bytes, if its framing states it.
pub(crate) fn length(body: &Body) -> Option<u64> {
    body.size_hint().exact()
}

/// Returns the body as a stream of its parts. Digests in its trailer come last.
pub(crate) fn parts(body: Body) -> UploadBody {
    stream::unfold(Some(body), |body| async {
        let mut body = body?;
        let frame = match body.frame().await? {
            Ok(frame) => frame,
            Err(error) => return Some((Err(fault(&error)), None)),
        };
        match frame.into_data() {
            Ok(bytes) => Some((Ok(BodyPart::Data(bytes)), Some(body))),
            Err(frame) => {
                let trailer = frame.into_trailers().unwrap_or_default();
                let digests = StatedDigests::read_trailer(&trailer).map_err(BodyFault::Broken);
                Some((digests.map(BodyPart::Digests), None))
            }
        }
    })
    .boxed()
}

/// Returns the body as a stream of its bytes, without trailers.
pub(crate) fn chunks(body: Body) -> BoxStream<'static, Result<Bytes, BodyFault>> {
    body.into_data_stream()
        .map(|chunk| chunk.map_err(|error| fault(&error)))
        .boxed()
}

/// Returns an empty body.
pub(crate) fn none() -> UploadBody {
    stream::empty().boxed()
}

fn fault(error: &axum::Error) -> BodyFault {
    match BodyError::of(error) {
        Some(BodyError::Idle) => BodyFault::Idle,
        Some(BodyError::Disconnected(_) | BodyError::Malformed(_)) | None => BodyFault::Cut,
    }
}
