//! A document in a request's body, decoded from its content coding.

use std::io;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use async_compression::zstd::DParameter;
use axum::body::Body;
use bytes::Bytes;
use domain::body::BodyFault;
use domain::packs::DocumentBody;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue};
use protocol::digest::StatedDigests;
use protocol::problem::{Problem, types};
use protocol::rejection::Rejection;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::body;
use super::query::malformed;
use crate::problem::Failure;

/// Bytes of a decompressed chunk.
const CHUNK: usize = 64 * 1024;

/// Maximum window of a zstd stream, as a power of two: 8 MiB, which RFC 8878 (section 3.1.1.1.2)
/// recommends every decoder to support.
const ZSTD_WINDOW: u32 = 23;

/// Reads a document that may be compressed by gzip or zstd. The caller limits the length of the
/// decoded bytes.
///
/// Digests of documents are not verified, so requests that state them are refused.
pub(crate) fn document(fields: &HeaderMap, body: Body) -> Result<DocumentBody, Failure> {
    let stated = StatedDigests::read(fields).map_err(domain::Error::Rejected)?;
    if stated != StatedDigests::default() {
        let detail = "Leave out Repr-Digest, Content-Digest and their like: the server does not verify \
                      digests of documents.";
        return Err(malformed(detail));
    }
    let chunks = body::chunks(body);
    let mut codings = fields.get_all(CONTENT_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(chunks.boxed()),
        (Some(coding), None) => match coding.as_bytes().to_ascii_lowercase().as_slice() {
            b"" | b"identity" => Ok(chunks.boxed()),
            b"gzip" | b"x-gzip" => {
                let mut decoder = GzipDecoder::new(reader(chunks));
                decoder.multiple_members(true);
                Ok(plain(decoder))
            }
            b"zstd" => {
                let window = DParameter::window_log_max(ZSTD_WINDOW);
                let mut decoder = ZstdDecoder::with_params(reader(chunks), &[window]);
                decoder.multiple_members(true);
                Ok(plain(decoder))
            }
            _ => Err(unsupported()),
        },
        (Some(_), Some(_)) => Err(unsupported()),
    }
}

fn unsupported() -> Failure {
    let problem = Problem::new(types::UNSUPPORTED_CODING)
        .detailed("Send the document as it is, or with Content-Encoding: gzip or zstd.");
    Failure::from(problem).with(ACCEPT_ENCODING, HeaderValue::from_static("gzip, zstd"))
}

fn reader(
    chunks: impl Stream<Item = Result<Bytes, BodyFault>> + Send + Unpin + 'static,
) -> StreamReader<impl Stream<Item = io::Result<Bytes>> + Send + Unpin, Bytes> {
    StreamReader::new(chunks.map_err(|fault| io::Error::other(Fault(fault))))
}

fn plain(decoder: impl AsyncRead + Send + 'static) -> DocumentBody {
    ReaderStream::with_capacity(decoder, CHUNK)
        .map_err(|error| match error.downcast::<Fault>() {
            Ok(Fault(fault)) => fault,
            // The decoder's own error: the bytes are not in the coding that the field states.
            Err(error) => {
                let reason = format!("does not fit the body: {error}");
                BodyFault::Broken(Rejection::malformed("Content-Encoding", reason))
            }
        })
        .boxed()
}

/// A body's fault on its way through a decoder.
#[derive(Debug, thiserror::Error)]
#[error("the body broke off")]
struct Fault(BodyFault);
