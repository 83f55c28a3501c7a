//! The domain's words in answers.

pub(crate) mod content;
pub(crate) mod document;
pub(crate) mod file;
pub(crate) mod pack;
pub(crate) mod redirect;
pub(crate) mod upload;

use domain::Timestamp;
use http::HeaderValue;

/// The media type of documents.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A URL as a field value.
pub(crate) fn url_value(url: &str) -> HeaderValue {
    HeaderValue::from_str(url).expect("an escaped path is a field value")
}

/// A time as documents tell it (RFC 3339).
pub(crate) fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(at.into()).to_string()
}
