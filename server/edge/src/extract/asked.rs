//! Method and fields of a request for a representation.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::Response;
use domain::Blob;
use http::request::Parts;
use http::{HeaderMap, Method};

use crate::problem::Failure;
use crate::respond::content::Representation;

/// Method and fields of a request for a representation.
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) fields: HeaderMap,
}

impl Asked {
    /// Answers with the representation, whose bytes `open` gives if some are to be sent.
    pub(crate) async fn answer(
        &self,
        representation: &Representation,
        open: impl Future<Output = Result<Arc<dyn Blob>, Failure>>,
    ) -> Result<Response, Failure> {
        representation
            .answer(&self.method, &self.fields, open)
            .await
    }
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
