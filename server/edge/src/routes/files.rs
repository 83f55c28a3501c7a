//! Files: one representation each.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use domain::{File, Files};
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::disposition::{self, Disposition};
use serde::{Deserialize, Serialize};

use super::{page, uploads};
use crate::extract::condition::condition;
use crate::extract::query::malformed;
use crate::extract::{Access, Target};
use crate::problem::Failure;
use crate::respond::content::{BYTES, CHANGING, Representation};
use crate::respond::file::{self, FileDocument};
use crate::routes::Api;

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
    representation(&found)
        .answer_or_redirect(request.method(), request.headers(), async {
            Ok(files.open(&found).await?)
        })
        .await
}

pub(super) fn representation(file: &File) -> Representation {
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
        repr_digest: Some(file::repr_digest(&file.content.sha256)),
        others: HeaderMap::new(),
        cache_control: CHANGING,
    }
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
struct ListQuery {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    limit: Option<String>,
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct FileList {
    files: Vec<FileDocument>,
    /// Ask with this for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

async fn list(
    State(api): State<Api>,
    Access(files): Access<Files>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<FileList>, Failure> {
    let Query(query) = query.map_err(|error| malformed(error.body_text()))?;
    let limit = page::limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(page::name).transpose()?;
    let mut found = files
        .list(&query.prefix, after.as_deref(), limit + 1)
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
