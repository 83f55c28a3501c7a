//! Bytes in answers: `200`, `206`, `304`, `412` and `416`, from any source that can be read by
//! ranges (RFC 9110 §13 to §15).

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use domain::Blob;
use domain::blob_store::{BlobError, BlobStream, Link, LinkFields};
use futures::stream::{self, StreamExt as _};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, LAST_MODIFIED, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};
use protocol::conditional::{
    EntityTag, Modified, Preconditions, Validators, Verdict, range_applies,
};
use protocol::date;
use protocol::fields::name::REPR_DIGEST;
use protocol::multipart_ranges::{Boundary, MultipartRanges, Piece};
use protocol::problem::{Problem, types};
use protocol::range::{self, RangeSet, Resolved, Satisfiable};
use uuid::Uuid;

use crate::problem::Failure;

/// Media type of bytes about which nothing else is known.
pub(crate) const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Makes caches revalidate content that can change under its URL, and forbids them to recode it
/// (RFC 9111 §5.2.2.6).
pub(crate) const CHANGING: HeaderValue = HeaderValue::from_static("no-cache, no-transform");

/// Metadata of a representation, for its answers.
#[derive(Debug, Clone)]
pub(crate) struct Representation {
    /// Strong entity tag.
    pub(crate) tag: EntityTag,
    /// Time of the last change, if known.
    pub(crate) last_modified: Option<Modified>,
    /// Length in bytes.
    pub(crate) size: u64,
    /// Media type.
    pub(crate) media_type: HeaderValue,
    /// `Content-Disposition`, if clients should save the representation as a file.
    pub(crate) disposition: Option<HeaderValue>,
    /// `Repr-Digest`, if the digest is known.
    pub(crate) repr_digest: Option<HeaderValue>,
    /// `Content-Encoding`, `Content-Location` and `Vary`, if there are any.
    pub(crate) others: HeaderMap,
    /// `Cache-Control`; has `no-transform`, since a recoded body would break resumption.
    pub(crate) cache_control: HeaderValue,
}

/// Part of a representation that is sent.
#[derive(Debug)]
enum Decision {
    /// 304.
    NotModified,
    /// 200.
    Whole,
    /// 206.
    Parts(Satisfiable),
}

impl Representation {
    /// Decides the answer to a `GET` or `HEAD`: preconditions in the order of RFC 9110 §13.2.2,
    /// then the range.
    fn decide(&self, method: &Method, request: &HeaderMap) -> Result<Decision, Failure> {
        let validators = Validators {
            tag: &self.tag,
            last_modified: self.last_modified,
        };
        match Preconditions::read(request).evaluate(method, Some(validators)) {
            Verdict::Proceed => {}
            Verdict::NotModified => return Ok(Decision::NotModified),
            Verdict::Failed => {
                return Err(Failure::from(domain::Error::PreconditionFailed)
                    .with(ETAG, self.tag.to_value()));
            }
        }
        // RFC 9110 §14.2: `Range` has a meaning only for GET.
        if *method != Method::GET || !range_applies(request, validators) {
            return Ok(Decision::Whole);
        }
        let Some(ranges) = RangeSet::read(request) else {
            return Ok(Decision::Whole);
        };
        match ranges.resolve(self.size) {
            Resolved::Whole => Ok(Decision::Whole),
            Resolved::Satisfiable(parts) => Ok(Decision::Parts(parts)),
            Resolved::Unsatisfiable => {
                let problem = Problem::new(types::RANGE_NOT_SATISFIABLE)
                    .detailed(format!("The representation has {} bytes.", self.size));
                Err(Failure::from(problem)
                    .with(CONTENT_RANGE, range::unsatisfied(self.size))
                    .with(ETAG, self.tag.to_value()))
            }
        }
    }

    /// Returns 304, with the fields of a 200 that caches need (RFC 9110 §15.4.5).
    fn not_modified(&self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response.headers_mut().extend(self.validators());
        response
    }

    /// Returns the answer's head alone, as to `HEAD`.
    fn head(&self) -> Response {
        let mut response = Response::new(Body::empty());
        response.headers_mut().extend(self.fields());
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(self.size));
        response
    }

    /// Answers a `GET` or `HEAD`. `open` is called only if bytes are to be sent.
    pub(crate) async fn answer(
        &self,
        method: &Method,
        request: &HeaderMap,
        open: impl Future<Output = Result<Arc<dyn Blob>, Failure>>,
    ) -> Result<Response, Failure> {
        let decision = self.decide(method, request)?;
        match decision {
            Decision::NotModified => Ok(self.not_modified()),
            _ if *method == Method::HEAD => Ok(self.head()),
            Decision::Whole | Decision::Parts(_) => Ok(self.send(&decision, &open.await?)),
        }
    }

    /// Returns 200 with all bytes, or 206 with parts, read from `blob`.
    fn send(&self, decision: &Decision, blob: &Arc<dyn Blob>) -> Response {
        match decision {
            Decision::NotModified => self.not_modified(),
            Decision::Whole => {
                let mut response = self.head();
                *response.body_mut() = ExactBody::new(blob.read(0..self.size), self.size);
                response
            }
            Decision::Parts(parts) => match parts.single() {
                Some(range) => self.part(&range, blob),
                None => self.parts(parts, blob),
            },
        }
    }

    fn part(&self, range: &Range<u64>, blob: &Arc<dyn Blob>) -> Response {
        let length = range.end - range.start;
        let mut response = Response::new(ExactBody::new(blob.read(range.clone()), length));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let fields = response.headers_mut();
        fields.extend(self.fields());
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
        fields.insert(CONTENT_RANGE, range::content_range(range, self.size));
        response
    }

    fn parts(&self, parts: &Satisfiable, blob: &Arc<dyn Blob>) -> Response {
        let boundary = Boundary::new(Uuid::new_v4().simple().to_string())
            .expect("32 hexadecimal digits are a boundary");
        let layout = MultipartRanges::new(boundary, Some(&self.media_type), parts);
        let blob = Arc::clone(blob);
        let pieces = layout.pieces().to_vec();
        let body = stream::iter(pieces)
            .flat_map(move |piece| match piece {
                Piece::Literal(bytes) => stream::iter([Ok(bytes)]).boxed(),
                Piece::Part(range) => blob.read(range),
            })
            .boxed();
        let length = layout.content_length();
        let mut response = Response::new(ExactBody::new(body, length));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let fields = response.headers_mut();
        fields.extend(self.fields());
        fields.insert(CONTENT_LENGTH, HeaderValue::from(length));
        // RFC 9110 §15.3.7.2: the parts have their own Content-Range, the answer has none.
        fields.insert(CONTENT_TYPE, layout.content_type());
        response
    }

    fn validators(&self) -> HeaderMap {
        let mut fields = self.others.clone();
        fields.insert(ETAG, self.tag.to_value());
        fields.insert(CACHE_CONTROL, self.cache_control.clone());
        if let Some(date) = self
            .last_modified
            .and_then(|modified| date::write(modified.at))
        {
            fields.insert(LAST_MODIFIED, date);
        }
        fields
    }

    fn fields(&self) -> HeaderMap {
        let mut fields = self.validators();
        fields.extend([
            (ACCEPT_RANGES, HeaderValue::from_static("bytes")),
            (CONTENT_TYPE, self.media_type.clone()),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        ]);
        for (name, value) in [
            (CONTENT_DISPOSITION, &self.disposition),
            (REPR_DIGEST, &self.repr_digest),
        ] {
            if let Some(value) = value {
                fields.insert(name, value.clone());
            }
        }
        fields
    }
}

/// Bytes in memory, to be sent like those of a store.
#[derive(Debug)]
pub(crate) struct InMemory(pub(crate) Bytes);

#[async_trait]
impl Blob for InMemory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        let place = |offset| usize::try_from(offset).expect("within what is in memory");
        let bytes = self.0.slice(place(range.start)..place(range.end));
        stream::iter([Ok(bytes)]).boxed()
    }

    async fn link(&self, _: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        Ok(None)
    }
}

/// A body of exactly this many bytes. A source that ends early ends the body with an error, so that
/// the connection is cut.
struct ExactBody {
    source: BlobStream,
    remaining: u64,
}

impl ExactBody {
    #[expect(
        clippy::new_ret_no_self,
        reason = "a body is made to be handed on as one"
    )]
    fn new(source: BlobStream, length: u64) -> Body {
        Body::new(Self {
            source,
            remaining: length,
        })
    }
}

impl http_body::Body for ExactBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        let next = ready!(self.source.poll_next_unpin(context));
        Poll::Ready(Some(match next {
            Some(Ok(bytes)) => match self.remaining.checked_sub(bytes.len() as u64) {
                Some(remaining) => {
                    self.remaining = remaining;
                    Ok(Frame::data(bytes))
                }
                None => Err(BodyFailure::Length),
            },
            Some(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a download is cut"
                );
                Err(BodyFailure::Store(error))
            }
            None => {
                tracing::error!(missing_bytes = self.remaining, "a download is cut");
                Err(BodyFailure::Length)
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.remaining == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.remaining)
    }
}

/// Reason that a body was not sent to its end.
#[derive(Debug, thiserror::Error)]
enum BodyFailure {
    #[error("the stored bytes could not be read")]
    Store(#[source] BlobError),
    #[error("there are not as many stored bytes as recorded")]
    Length,
}
