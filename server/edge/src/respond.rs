//! Conversion of the domain's types to answers.

pub(crate) mod content;
pub(crate) mod document;
pub(crate) mod file;
pub(crate) mod pack;
pub(crate) mod redirect;
pub(crate) mod upload;

use domain::Timestamp;
use http::HeaderValue;

/// Media type of documents.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Returns a URL as a field value.
pub(crate) fn url_value(url: &str) -> HeaderValue {
    HeaderValue::from_str(url).expect("an escaped path is a field value")
}

/// Returns a time as documents state it (RFC 3339).
pub(crate) fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(at.into()).to_string()
}
