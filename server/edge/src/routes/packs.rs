//! Packs: versions of trees, their archives and differences, and how they are published.

mod archives;
mod catalogue;
mod drafts;

use archive::ArchiveFormat;
use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use domain::{Packs, Timestamp};
use http::{HeaderValue, StatusCode};
use protocol::conditional::{DateOf, Modified};
use serde::Serialize;

use super::page::{self, Page};
use super::uploads;
use crate::api::Api;
use crate::extract::pack::{PackPath, VersionPath};
use crate::extract::query::malformed;
use crate::extract::{Access, Asked};
use crate::problem::Failure;
use crate::respond::content::CHANGING;
use crate::respond::document::document;
use crate::respond::pack::{PackDocument, PackPage, VersionLine};

/// Lets caches keep content that never changes under its URL, but not recode it (RFC 9111
/// §5.2.2.6).
const IMMUTABLE: HeaderValue =
    HeaderValue::from_static("max-age=31536000, immutable, no-transform");

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/packs", get(list))
        .route("/packs/signing-key", get(catalogue::signing_key))
        .route("/packs/{pack}", get(pack))
        .route(
            "/packs/{pack}/versions",
            post(uploads::create_version).options(uploads::discover),
        )
        .route("/packs/{pack}/versions/{v}", get(version).delete(retire))
        .route(
            "/packs/{pack}/versions/{v}/catalogue",
            get(catalogue::catalogue),
        )
        .route(
            "/packs/{pack}/versions/{v}/catalogue.sig",
            get(catalogue::signature),
        )
        .route(
            "/packs/{pack}/versions/{v}/files/{*path}",
            get(catalogue::file),
        )
        .route(
            "/packs/{pack}/versions/{v}/archive.zip",
            get(|packs, path, asked| archives::whole(packs, path, asked, ArchiveFormat::Zip)),
        )
        .route(
            "/packs/{pack}/versions/{v}/archive.tar",
            get(|packs, path, asked| archives::whole(packs, path, asked, ArchiveFormat::Tar)),
        )
        .route(
            "/packs/{pack}/versions/{v}/since/{base}",
            get(archives::since),
        )
        .route(
            "/packs/{pack}/versions/{v}/need/{need}",
            get(archives::need),
        )
        .route("/packs/{pack}/versions/{v}/diff", post(archives::compare))
        .route("/packs/{pack}/drafts", post(drafts::create))
        .route(
            "/packs/{pack}/drafts/{draft}",
            get(drafts::status).delete(drafts::cancel),
        )
        .route(
            "/packs/{pack}/drafts/{draft}/content",
            post(uploads::create_content).options(uploads::discover),
        )
        .route(
            "/packs/{pack}/drafts/{draft}/publish",
            post(drafts::publish),
        )
}

#[derive(Debug, Serialize)]
struct PackList {
    packs: Vec<PackDocument>,
    /// Request the next page with this cursor; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

async fn list(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Page { limit, cursor }: Page,
    asked: Asked,
) -> Result<Response, Failure> {
    let after = cursor.as_deref().map(page::name).transpose()?;
    let mut found = packs.list(after.as_deref(), limit + 1).await?;
    let cursor = page::cut(&mut found, limit, |last| page::cursor(last.name.as_str()));
    let packs = found
        .iter()
        .map(|pack| PackDocument::new(&api, pack))
        .collect();
    document(&asked, &PackList { packs, cursor }, None).await
}

async fn pack(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    PackPath(name): PackPath,
    Page { limit, cursor }: Page,
    asked: Asked,
) -> Result<Response, Failure> {
    let before = cursor
        .map(|cursor| cursor.parse().map_err(|_| page::no_cursor()))
        .transpose()?;
    let (summary, mut versions) = packs.pack(&name, before, limit + 1).await?;
    let cursor = page::cut(&mut versions, limit, |last| last.number.to_string());
    let page = PackPage {
        pack: PackDocument::new(&api, &summary),
        versions: versions
            .iter()
            .map(|version| VersionLine::new(&api, version))
            .collect(),
        cursor,
    };
    document(&asked, &page, summary.latest.as_ref()).await
}

async fn version(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    VersionPath { pack, number }: VersionPath,
    asked: Asked,
) -> Result<Response, Failure> {
    let version = packs.version(&pack, number).await?;
    let described = archives::version_document(&api, &packs, &version).await?;
    document(&asked, &described, Some(&version)).await
}

async fn retire(
    Access(packs): Access<Packs>,
    VersionPath { pack, number }: VersionPath,
) -> Result<StatusCode, Failure> {
    let Some(number) = number else {
        return Err(malformed("Name the version to retire by its number."));
    };
    packs.retire(&pack, number).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the date of a representation of a version. A URL with a number always gives the same
/// version; under `latest`, two versions may have the same second.
fn published(at: Timestamp, number: Option<u64>, under_a_number: DateOf) -> Modified {
    Modified {
        at: at.into(),
        date: match number {
            Some(_) => under_a_number,
            None => DateOf::Several,
        },
    }
}

/// Returns `Cache-Control`: immutable under a number, to be revalidated under `latest`.
fn lasting(number: Option<u64>) -> HeaderValue {
    match number {
        Some(_) => IMMUTABLE,
        None => CHANGING,
    }
}
