//! Rules of the specifications of uploads and downloads, as pure functions: headers and numbers in,
//! decisions out.
//!
//! This crate uses no clock, socket, file or async runtime.
//!
//! Uploads: [`dialect::Dialect`] reads requests and writes answers; [`upload`] has the rules
//! between. Downloads: [`conditional`], then [`range`], then perhaps [`multipart_ranges`].

use http::HeaderValue;

pub mod answer;
pub mod coding;
pub mod conditional;
pub mod content;
pub mod date;
pub mod dialect;
pub mod digest;
pub mod disposition;
pub mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod ietf;
pub mod media_type;
pub mod multipart_ranges;
pub mod problem;
pub mod range;
pub mod rejection;
pub mod request;
pub mod tus;
pub mod upload;

/// `Cache-Control` of every answer about an upload: offsets are outdated at once.
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
