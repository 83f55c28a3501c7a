//! Files: one representation each.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use domain::Files;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};

use super::page::{self, Page};
use super::uploads;
use crate::api::Api;
use crate::extract::condition::condition;
use crate::extract::query::malformed;
use crate::extract::{Access, Target};
use crate::problem::Failure;
use crate::respond::file::{self, FileDocument};

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route(
            "/files",
            get(list).post(uploads::create).options(uploads::discover),
        )
        .route(
            "/files/{*path}",
            get(download)
                .put(uploads::create_at)
                .delete(delete)
                .options(uploads::discover),
        )
}

async fn download(
    Access(files): Access<Files>,
    Target(path): Target,
    request: Request,
) -> Result<Response, Failure> {
    let found = files.find(&path).await?;
    file::representation(&found)
        .answer_or_redirect(request.method(), request.headers(), async {
            Ok(files.open(&found).await?)
        })
        .await
}

async fn delete(
    Access(files): Access<Files>,
    Target(path): Target,
    fields: HeaderMap,
) -> Result<StatusCode, Failure> {
    files.delete(&path, &condition(&fields)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct Filter {
    #[serde(default)]
    prefix: String,
}

#[derive(Debug, Serialize)]
struct FileList {
    files: Vec<FileDocument>,
    /// Request the next page with this cursor; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

async fn list(
    State(api): State<Api>,
    Access(files): Access<Files>,
    Page { limit, cursor }: Page,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<FileList>, Failure> {
    let Query(filter) = filter.map_err(|error| malformed(error.body_text()))?;
    let after = cursor.as_deref().map(page::name).transpose()?;
    let mut found = files
        .list(&filter.prefix, after.as_deref(), limit + 1)
        .await?;
    let cursor = page::cut(&mut found, limit, |last| page::cursor(last.path.as_str()));
    Ok(Json(FileList {
        files: found
            .iter()
            .map(|file| FileDocument::new(&api, file))
            .collect(),
        cursor,
    }))
}
