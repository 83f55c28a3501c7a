//! Archives of a version: of all its files, of a difference, and of the entries that a client
//! needs.

use archive::ArchiveFormat;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::response::{IntoResponse as _, Response};
use domain::pack::PackVersion;
use domain::packs::{Archive, Selection};
use domain::{Authorized, Packs};
use http::{HeaderMap, HeaderValue, StatusCode};
use protocol::conditional::{DateOf, EntityTag};
use protocol::disposition::{self, Disposition};
use serde::Deserialize;

use super::{lasting, published};
use crate::api::Api;
use crate::extract::document as body;
use crate::extract::pack::{ArchiveName, Names, VersionPath, version_number};
use crate::extract::query::malformed;
use crate::extract::{Access, Asked};
use crate::problem::{Failure, Missing};
use crate::respond::content::Representation;
use crate::respond::document::{created, document};
use crate::respond::pack::{ComparisonDocument, DiffDocument, VersionDocument};

/// Describes a version and its archives.
pub(super) async fn version_document(
    api: &Api,
    packs: &Authorized<Packs>,
    version: &PackVersion,
) -> Result<VersionDocument, Failure> {
    let archives = archives(packs, version, &Selection::Whole).await?;
    Ok(VersionDocument::new(api, version, &archives))
}

/// Lays a selection out in both formats.
async fn archives(
    packs: &Authorized<Packs>,
    version: &PackVersion,
    selection: &Selection,
) -> Result<[Archive; 2], Failure> {
    let (pack, number) = (&version.pack, Some(version.number));
    Ok([
        packs
            .archive(pack, number, selection, ArchiveFormat::Zip)
            .await?,
        packs
            .archive(pack, number, selection, ArchiveFormat::Tar)
            .await?,
    ])
}

/// Answers with all files of a version.
pub(super) async fn whole(
    Access(packs): Access<Packs>,
    path: VersionPath,
    asked: Asked,
    format: ArchiveFormat,
) -> Result<Response, Failure> {
    send(&packs, &path, &Selection::Whole, format, &asked).await
}

/// Answers with the entries that a holder of version `base` lacks: as an archive if the last
/// segment has an extension, else as JSON.
pub(super) async fn since(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    path: VersionPath,
    Names(SinceVariable { base }): Names<SinceVariable>,
    asked: Asked,
) -> Result<Response, Failure> {
    let name = ArchiveName::parse(&base);
    let selection = Selection::Since(version_number(&name.stem)?);
    if let Some(format) = name.format {
        return send(&packs, &path, &selection, format, &asked).await;
    }
    let version = packs.version(&path.pack, path.number).await?;
    let archives = archives(&packs, &version, &selection).await?;
    if archives[0].changes_nothing() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let difference =
        DiffDocument::new(&api, &archives).expect("a selection since a version has a base");
    document(&asked, &difference, None).await
}

#[derive(Deserialize)]
pub(super) struct SinceVariable {
    base: String,
}

/// Answers with the archive of a need that [`compare`] named.
pub(super) async fn need(
    Access(packs): Access<Packs>,
    path: VersionPath,
    Names(NeedVariable { need }): Names<NeedVariable>,
    asked: Asked,
) -> Result<Response, Failure> {
    let name = ArchiveName::parse(&need);
    let format = name.format.ok_or(Missing::Archive)?;
    send(&packs, &path, &Selection::Need(name.stem), format, &asked).await
}

#[derive(Deserialize)]
pub(super) struct NeedVariable {
    need: String,
}

async fn send(
    packs: &Authorized<Packs>,
    path: &VersionPath,
    selection: &Selection,
    format: ArchiveFormat,
    asked: &Asked,
) -> Result<Response, Failure> {
    let archive = packs
        .archive(&path.pack, path.number, selection, format)
        .await?;
    if matches!(selection, Selection::Since(_)) && archive.changes_nothing() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let layout = archive.layout();
    let at = archive.version().published_at;
    let file_name = file_name(archive.version(), selection, format);
    let representation = Representation {
        tag: EntityTag::strong(layout.tag().as_str()).expect("base64url is a tag"),
        last_modified: Some(published(at, path.number, DateOf::This)),
        size: layout.len(),
        media_type: HeaderValue::from_static(format.media_type()),
        disposition: Some(disposition::write(Disposition::Attachment, &file_name)),
        // The archive was never read as a whole. Each entry is checked against the catalogue.
        repr_digest: None,
        others: HeaderMap::new(),
        cache_control: lasting(path.number),
    };
    let open = async { Ok(packs.open_archive(&archive)?) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

fn file_name(version: &PackVersion, selection: &Selection, format: ArchiveFormat) -> String {
    let (pack, number, extension) = (&version.pack, version.number, format.extension());
    match selection {
        Selection::Whole => format!("{pack}-{number}.{extension}"),
        Selection::Since(base) => format!("{pack}-{base}-to-{number}.{extension}"),
        Selection::Need(_) => format!("{pack}-{number}-part.{extension}"),
    }
}

/// Compares a version with the contents that a client states.
pub(super) async fn compare(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    VersionPath { pack, number }: VersionPath,
    query: Result<Query<FormatQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| malformed(error.body_text()))?;
    let format = match query.format.as_deref() {
        None => ArchiveFormat::Zip,
        Some(format) => ArchiveFormat::from_extension(format)
            .ok_or_else(|| malformed("Ask for format=zip or format=tar."))?,
    };
    let (head, bytes) = request.into_parts();
    let version = packs.version(&pack, number).await?;
    let holdings = body::document(&head.headers, bytes)?;
    let lacking = packs
        .compare(&version.pack, Some(version.number), holdings)
        .await?;
    let Some(need) = lacking else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let archives = archives(&packs, &version, &Selection::Need(need.to_string())).await?;
    let comparison = ComparisonDocument::new(&api, &need, &archives);
    Ok(created(comparison.url(format), &comparison))
}

#[derive(Debug, Deserialize)]
pub(super) struct FormatQuery {
    format: Option<String>,
}
