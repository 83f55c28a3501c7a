//! Documents in answers.

use std::sync::Arc;

use archive::Sha256Digest;
use axum::body::Bytes;
use axum::response::{IntoResponse as _, Response};
use domain::Blob;
use domain::pack::PackVersion;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::conditional::EntityTag;
use serde::Serialize;

use super::content::{CHANGING, InMemory, Representation};
use super::{JSON, file, url_value};
use crate::extract::Asked;
use crate::problem::Failure;

/// Answers with a document, and an entity tag by which caches ask whether it changed.
///
/// If the document is about a version or a pack, `newest` is that version or the pack's newest; the
/// tag can then be a condition of publishing.
pub(crate) async fn document(
    asked: &Asked,
    document: &impl Serialize,
    newest: Option<&PackVersion>,
) -> Result<Response, Failure> {
    bytes(asked, encoded(document), JSON, newest).await
}

/// Answers with bytes, as [`document`] does.
pub(crate) async fn bytes(
    asked: &Asked,
    bytes: Bytes,
    media_type: HeaderValue,
    newest: Option<&PackVersion>,
) -> Result<Response, Failure> {
    let representation = Representation {
        tag: tag(&bytes, newest),
        last_modified: None,
        size: bytes.len() as u64,
        media_type,
        disposition: None,
        repr_digest: Some(file::repr_digest(&Sha256Digest::of(&bytes))),
        others: HeaderMap::new(),
        cache_control: CHANGING,
    };
    let open = async { Ok(Arc::new(InMemory(bytes)) as Arc<dyn Blob>) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

/// Answers 201 with a document that caches do not keep.
pub(crate) fn created(url: &str, document: &impl Serialize) -> Response {
    let mut response = fresh(StatusCode::CREATED, document);
    response.headers_mut().insert(LOCATION, url_value(url));
    response
}

/// Answers with a document that caches do not keep.
pub(crate) fn fresh(status: StatusCode, document: &impl Serialize) -> Response {
    let fields = [
        (CONTENT_TYPE, JSON),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, fields, encoded(document)).into_response()
}

/// Encodes a document.
pub(crate) fn encoded(document: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(document).expect("a document of ours is JSON"))
}

/// Returns the entity tag of a document: the state of the pack if it is about one, and the digest
/// of the bytes.
pub(crate) fn tag(bytes: &Bytes, newest: Option<&PackVersion>) -> EntityTag {
    let digest = Sha256Digest::of(bytes);
    match newest {
        None => domain::file::tag(&digest),
        Some(newest) => EntityTag::strong(format!("{}.{digest}", newest.state()))
            .expect("hexadecimal digits and a dot are a tag"),
    }
}
