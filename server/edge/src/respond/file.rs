//! Metadata of files in answers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::File;
use domain::digest::Sha256Digest;
use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use protocol::disposition::{self, Disposition};
use serde::Serialize;

use crate::api::Api;
use crate::extract::FILES;
use crate::respond::content::{BYTES, CHANGING, Representation};
use crate::respond::time;

/// Characters that stay unescaped in a path: RFC 3986 unreserved characters, and the slash.
pub(crate) const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A file as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct FileDocument {
    path: String,
    url: String,
    size: u64,
    sha256: String,
    etag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<String>,
    modified_at: String,
}

impl FileDocument {
    pub(crate) fn new(api: &Api, file: &File) -> Self {
        Self {
            path: file.path.to_string(),
            url: url(api, file),
            size: file.content.size,
            sha256: file.content.sha256.to_string(),
            etag: file.etag(),
            media_type: file.description.media_type.clone(),
            filename: file.description.filename.clone(),
            modified_at: time(file.modified_at),
        }
    }
}

/// Returns the URL of a file: absolute if the server's own URL is configured, else a path.
pub(crate) fn url(api: &Api, file: &File) -> String {
    let path = utf8_percent_encode(file.path.as_str(), PATH);
    api.absolute(&format!("{FILES}{path}"))
}

/// Returns a file's entity tag as a field value.
pub(crate) fn etag(file: &File) -> HeaderValue {
    HeaderValue::from_str(&file.etag()).expect("a quoted hexadecimal text is a field value")
}

/// Returns `Repr-Digest` of a representation (RFC 9530 §3).
pub(crate) fn repr_digest(sha256: &Sha256Digest) -> HeaderValue {
    let value = STANDARD.encode(sha256.as_bytes());
    HeaderValue::from_str(&format!("sha-256=:{value}:")).expect("base64 is a field value")
}

/// Returns the representation of a file.
pub(crate) fn representation(file: &File) -> Representation {
    let description = &file.description;
    let name = description
        .filename
        .as_deref()
        .unwrap_or_else(|| file.path.file_name());
    Representation {
        tag: domain::file::tag(&file.content.sha256),
        last_modified: Some(file.modified()),
        size: file.content.size,
        media_type: description
            .media_type
            .as_deref()
            .and_then(|media_type| HeaderValue::from_str(media_type).ok())
            .unwrap_or(BYTES),
        disposition: Some(disposition::write(Disposition::Attachment, name)),
        repr_digest: Some(repr_digest(&file.content.sha256)),
        others: HeaderMap::new(),
        cache_control: CHANGING,
    }
}
