//! Upload resources, and the requests that create them.

mod creation;
mod resource;

use axum::extract::{Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use domain::Uploads;
use protocol::dialect::Dialect;
use protocol::tus;
use serde::{Deserialize, Serialize};

pub(super) use self::creation::{create, create_at, create_content, create_version};
use self::resource::resource;
use crate::api::Api;
use crate::extract::Access;
use crate::extract::query::malformed;
use crate::problem::{Failure, Voice};
use crate::respond::upload::{UploadDocument, written};

/// Maximum number of uploads in a list.
const MAX_LISTED: usize = 1000;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/uploads", get(list))
        .route("/uploads/{id}", any(resource).options(discover))
        .layer(middleware::from_fn(stand_for))
}

/// Applies `X-HTTP-Method-Override`: replaces the method of a request for an upload resource.
async fn stand_for(mut request: Request, next: Next) -> Response {
    match tus::method(request.method(), request.headers()) {
        Ok(method) => {
            *request.method_mut() = method;
            next.run(request).await
        }
        Err(rejection) => {
            let dialect = Dialect::of_upload_request(request.method(), request.headers());
            Voice::of(dialect).rejected(&rejection).into_response()
        }
    }
}

/// Answers `OPTIONS` with the limits of uploads, to anyone.
pub(super) async fn discover(State(api): State<Api>, request: Request) -> Response {
    let dialect = Dialect::of_upload_request(request.method(), request.headers());
    written(dialect.discovery(&api.uploads.limits()), Vec::new())
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    client_ref: String,
}

#[derive(Debug, Serialize)]
struct UploadList {
    uploads: Vec<UploadDocument>,
}

/// Lists the open uploads with a reference, for an app that was force-quit and kept only its own
/// reference.
async fn list(
    State(api): State<Api>,
    Access(uploads): Access<Uploads>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<UploadList>, Failure> {
    let Query(query) = query.map_err(|_| {
        malformed("Ask for the uploads of one reference, such as /uploads?client_ref=photo-7.")
    })?;
    let uploads = uploads.list(&query.client_ref, MAX_LISTED).await?;
    Ok(Json(UploadList {
        uploads: uploads
            .iter()
            .map(|upload| UploadDocument::new(&api, upload))
            .collect(),
    }))
}
