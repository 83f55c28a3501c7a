//! The resource that a request's path names.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use domain::{FilePath, UploadId};
use http::request::Parts;
use percent_encoding::percent_decode_str;
use protocol::problem::Problem;

use crate::problem::{Failure, kinds};

/// Prefix of the paths of files.
pub(crate) const FILES: &str = "/files/";
/// Prefix of the paths of packs.
pub(crate) const PACKS: &str = "/packs/";
/// Prefix of the paths of upload resources.
pub(crate) const UPLOADS: &str = "/uploads/";

/// File that a path below `/files/` names.
///
/// The path is decoded once and as a whole, so an encoded slash is a slash, and a path that decodes
/// to traversal is refused as such.
#[derive(Debug)]
pub(crate) struct Target(pub(crate) FilePath);

impl<A: Sync> FromRequestParts<A> for Target {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &A) -> Result<Self, Failure> {
        let path = parts.uri.path();
        let invalid = |reason: String| Problem::new(kinds::INVALID_PATH).detailed(reason);
        let decoded = percent_decode_str(path.strip_prefix(FILES).unwrap_or(path))
            .decode_utf8()
            .map_err(|_| invalid("A path is UTF-8.".to_owned()))?;
        match decoded.parse() {
            Ok(path) => Ok(Self(path)),
            Err(error) => Err(invalid(error.to_string()).into()),
        }
    }
}

/// Upload resource that a path below `/uploads/` names; `None` if the path cannot name one. Each
/// dialect reports that as an unknown upload.
#[derive(Debug)]
pub(crate) struct UploadTarget(pub(crate) Option<UploadId>);

impl<A: Sync> FromRequestParts<A> for UploadTarget {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &A) -> Result<Self, Infallible> {
        let path = parts.uri.path();
        Ok(Self(
            path.strip_prefix(UPLOADS).and_then(|id| id.parse().ok()),
        ))
    }
}
