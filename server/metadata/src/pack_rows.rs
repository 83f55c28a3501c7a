//! Rows about packs and their conversion to values, like [`rows`](crate::rows).

use archive::{Deflated, PackName};
use domain::file::Content;
use domain::metadata_store::MetadataError;
use domain::pack::{DraftRecord, PackSummary, PackVersion, Place, StoredContent};
use domain::{DraftId, Timestamp};

use crate::rows::Row;

/// A row of `drafts` with the row of `blobs` that it refers to.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct DraftRow {
    id: String,
    pack: String,
    tree: Option<String>,
    tree_size: Option<i64>,
    tree_sha256: Option<Vec<u8>>,
    created_at: i64,
    expires_at: i64,
    published: Option<i64>,
}

/// A row of `packs` with an optional row of `pack_versions` and the rows of `blobs` that the
/// version refers to.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct VersionRow {
    pack: String,
    number: Option<i64>,
    files: Option<i64>,
    size: Option<i64>,
    catalogue: Option<String>,
    catalogue_size: Option<i64>,
    catalogue_sha256: Option<Vec<u8>>,
    catalogue_gzip: Option<String>,
    catalogue_gzip_size: Option<i64>,
    catalogue_gzip_sha256: Option<Vec<u8>>,
    catalogue_zstd: Option<String>,
    catalogue_zstd_size: Option<i64>,
    catalogue_zstd_sha256: Option<Vec<u8>>,
    forms: Option<String>,
    forms_size: Option<i64>,
    forms_sha256: Option<Vec<u8>>,
    places: Option<String>,
    places_size: Option<i64>,
    places_sha256: Option<Vec<u8>>,
    published_at: Option<i64>,
}

/// A row of `contents` with the rows of `blobs` that it refers to.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ContentRow {
    sha256: Vec<u8>,
    size: i64,
    crc32: i64,
    raw_blob: String,
    raw_blob_size: i64,
    raw_start: i64,
    deflated_blob: Option<String>,
    deflated_blob_size: Option<i64>,
    deflated_start: Option<i64>,
    deflated_size: Option<i64>,
    deflated_sha256: Option<Vec<u8>>,
}

impl TryFrom<DraftRow> for DraftRecord {
    type Error = MetadataError;

    fn try_from(row: DraftRow) -> Result<Self, MetadataError> {
        let key = shortened(&row.id);
        let here = Row {
            table: "drafts",
            key: &key,
        };
        let tree = match row.tree {
            Some(tree) => {
                let blob = (Some(tree), row.tree_size, row.tree_sha256);
                Some(document(here, "tree", blob)?)
            }
            None => None,
        };
        Ok(Self {
            id: here.parse("id", &row.id)?,
            pack: pack_name(here, &row.pack)?,
            tree,
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: Timestamp::from_millis(row.expires_at),
            published: here.optional_count("published", row.published)?,
        })
    }
}

impl TryFrom<VersionRow> for PackSummary {
    type Error = MetadataError;

    fn try_from(row: VersionRow) -> Result<Self, MetadataError> {
        let key = match row.number {
            Some(number) => format!("{} {number}", row.pack),
            None => row.pack.clone(),
        };
        let here = Row {
            table: "pack_versions",
            key: &key,
        };
        let name = pack_name(here, &row.pack)?;
        // All four are `not null` in an existing row.
        let (Some(number), Some(files), Some(size), Some(published_at)) =
            (row.number, row.files, row.size, row.published_at)
        else {
            return Ok(Self { name, latest: None });
        };
        let document = |column, blob| document(here, column, blob);
        let version = PackVersion {
            pack: name.clone(),
            number: here.count("number", number)?,
            files: here.count("files", files)?,
            size: here.count("size", size)?,
            catalogue: document(
                "catalogue",
                (row.catalogue, row.catalogue_size, row.catalogue_sha256),
            )?,
            catalogue_gzip: document(
                "catalogue_gzip",
                (
                    row.catalogue_gzip,
                    row.catalogue_gzip_size,
                    row.catalogue_gzip_sha256,
                ),
            )?,
            catalogue_zstd: document(
                "catalogue_zstd",
                (
                    row.catalogue_zstd,
                    row.catalogue_zstd_size,
                    row.catalogue_zstd_sha256,
                ),
            )?,
            forms: document("forms", (row.forms, row.forms_size, row.forms_sha256))?,
            places: document("places", (row.places, row.places_size, row.places_sha256))?,
            published_at: Timestamp::from_millis(published_at),
        };
        Ok(Self {
            name,
            latest: Some(version),
        })
    }
}

impl TryFrom<ContentRow> for StoredContent {
    type Error = MetadataError;

    fn try_from(row: ContentRow) -> Result<Self, MetadataError> {
        let unknown = Row {
            table: "contents",
            key: "of unknown digest",
        };
        let sha256 = unknown.sha256(row.sha256)?;
        let key = sha256.to_string();
        let here = Row {
            table: "contents",
            key: &key,
        };
        let place = |blob: &str, blob_size, start| {
            Ok(Place {
                blob: here.parse("blob", blob)?,
                blob_size: here.count("blob's size", blob_size)?,
                start: here.count("start", start)?,
            })
        };
        let deflated = match (
            row.deflated_blob,
            row.deflated_blob_size,
            row.deflated_start,
            row.deflated_size,
            row.deflated_sha256,
        ) {
            (None, None, None, None, None) => None,
            (Some(blob), Some(blob_size), Some(start), Some(size), Some(sha256)) => {
                let form = Deflated {
                    size: here.count("deflated_size", size)?,
                    sha256: here.sha256(sha256)?,
                };
                Some((form, place(&blob, blob_size, start)?))
            }
            _ => {
                let reason = "the deflated form's columns do not go together";
                return Err(here.inconsistent(reason.to_owned()));
            }
        };
        Ok(Self {
            sha256,
            size: here.count("size", row.size)?,
            crc32: u32::try_from(row.crc32)
                .map_err(|_| here.inconsistent(format!("crc32 is {}", row.crc32)))?,
            raw: place(&row.raw_blob, row.raw_blob_size, row.raw_start)?,
            deflated,
        })
    }
}

/// Reads the id of a row of `drafts`.
pub(crate) fn draft_id(text: &str) -> Result<DraftId, MetadataError> {
    Row {
        table: "drafts",
        key: &shortened(text),
    }
    .parse("id", text)
}

/// Shortens a name for logs: the complete name is a capability.
fn shortened(id: &str) -> String {
    id.chars().take(8).chain(['…']).collect()
}

fn pack_name(here: Row<'_>, text: &str) -> Result<PackName, MetadataError> {
    PackName::parse(text).map_err(|error| here.inconsistent(format!("pack: {error}")))
}

/// Reads a document from the key, size and digest of its blob.
fn document(
    here: Row<'_>,
    column: &str,
    blob: (Option<String>, Option<i64>, Option<Vec<u8>>),
) -> Result<Content, MetadataError> {
    let (Some(key), Some(size), Some(sha256)) = blob else {
        return Err(here.inconsistent(format!("the blob of {column} is doomed or not recorded")));
    };
    Ok(Content {
        blob: here.parse(column, &key)?,
        size: here.count(column, size)?,
        sha256: here.sha256(sha256)?,
    })
}
