//! Files: one representation each.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::{File, Files};
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::conditional::EntityTag;
use protocol::disposition::{self, Disposition};
use protocol::problem::Problem;
use serde::{Deserialize, Serialize};

use super::uploads;
use crate::extract::{Access, Target};
use crate::problem::{Failure, own};
use crate::respond::content::Representation;
use crate::respond::file::{self, FileDocument};
use crate::routes::Api;

/// The type of a file whose uploader did not say.
const UNKNOWN_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// A path can be given other bytes at any time, so caches ask first; they must not recode (RFC 9111 §5.2.2.6).
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("no-cache, no-transform");

/// How many files a list has, unless the request says otherwise.
const LISTED: usize = 100;
/// Most files that a list has.
const MOST_LISTED: usize = 1000;

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
        .answer(request.method(), request.headers(), async {
            Ok(files.open(&found).await?)
        })
        .await
}

fn representation(file: &File) -> Representation {
    let description = &file.description;
    let name = description
        .filename
        .as_deref()
        .unwrap_or_else(|| file.path.file_name());
    Representation {
        tag: EntityTag::strong(file.content.sha256.to_string())
            .expect("hexadecimal digits are a tag"),
        last_modified: Some(file.modified_at.into()),
        size: file.content.size,
        media_type: description
            .media_type
            .as_deref()
            .and_then(|media_type| HeaderValue::from_str(media_type).ok())
            .unwrap_or(UNKNOWN_TYPE),
        disposition: Some(disposition::write(Disposition::Attachment, name)),
        repr_digest: Some(file::repr_digest(&file.content.sha256)),
        others: HeaderMap::new(),
        cache_control: CACHE_CONTROL,
    }
}

async fn delete(
    Access(files): Access<Files>,
    Target(path): Target,
    fields: HeaderMap,
) -> Result<StatusCode, Failure> {
    files.delete(&path, &uploads::condition(&fields)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    limit: Option<usize>,
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
    let malformed = |detail: String| Problem::new(own::MALFORMED_REQUEST).detailed(detail);
    let Query(query) = query.map_err(|error| malformed(error.body_text()))?;
    let limit = query.limit.unwrap_or(LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return Err(malformed(format!("A limit is 1 to {MOST_LISTED}.")).into());
    }
    let after = match query.cursor {
        None => None,
        Some(cursor) => {
            Some(read_cursor(&cursor).ok_or_else(|| malformed("That is no cursor.".to_owned()))?)
        }
    };
    // One more than is shown tells whether there is a next page.
    let mut found = files
        .list(&query.prefix, after.as_deref(), limit + 1)
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let cursor = match found.last() {
        Some(last) if more => Some(URL_SAFE_NO_PAD.encode(last.path.as_str())),
        _ => None,
    };
    Ok(Json(FileList {
        files: found
            .iter()
            .map(|file| FileDocument::new(&api, file))
            .collect(),
        cursor,
    }))
}

fn read_cursor(cursor: &str) -> Option<String> {
    String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}
