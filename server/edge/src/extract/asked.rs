//! Method and fields of a request for a representation.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{HeaderMap, Method};

/// Method and fields of a request for a representation.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) fields: HeaderMap,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            method: parts.method.clone(),
            fields: parts.headers.clone(),
        })
    }
}
