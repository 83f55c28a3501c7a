//! The changes about packs, in the manner of [`commands`](super::commands). Lists come to the engine as JSON arrays, which are
//! written before a command waits for its turn.

use std::collections::HashSet;

use domain::events::Event;
use domain::files::Content;
use domain::metadata_store::MetadataError;
use domain::pack_store::{DraftRecord, PackVersion, Place, Published, StoredContent};
use domain::{BlobKey, DraftId, Timestamp};
use serde::Serialize;

use super::commands::{affected, exactly};
use super::events::record_event;
use super::writer::{Command, Transaction};
use super::{engine, pack_lists};
use crate::failures::failed;
use crate::pack_sql;
use crate::rows::{Row, blob_key, column};
use crate::values::{limited, sought};

/// How many contents are written by one statement, which bounds the memory that it takes.
const CONTENTS_AT_A_TIME: usize = 2000;

/// See [`insert_draft`](domain::PackStore::insert_draft).
#[derive(Debug)]
pub(super) struct InsertDraft(pub(super) DraftRecord);

impl Command for InsertDraft {
    type Answer = ();
    const DOING: &'static str = "record a draft";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<(), MetadataError> {
        let Self(draft) = self;
        if draft.published.is_some() {
            return Err(failed(Self::DOING, "a new draft must not be published"));
        }
        let id = draft.id.to_string();
        let tree = draft.tree.as_ref();
        let insert = sqlx::query(pack_sql::INSERT_DRAFT)
            .bind(id.as_str())
            .bind(draft.pack.as_str())
            .bind(tree.map(|tree| tree.blob.as_str()))
            .bind(draft.created_at.as_millis())
            .bind(draft.expires_at.as_millis());
        exactly(1, transaction, insert, Self::DOING).await?;
        let Some(tree) = tree else {
            return Ok(());
        };
        let hold = sqlx::query(pack_sql::HOLD_TREE)
            .bind(tree.blob.as_str())
            .bind(column(tree.size)?)
            .bind(tree.sha256.as_bytes().as_slice())
            .bind(id.as_str());
        exactly(2, transaction, hold, Self::DOING).await
    }
}

/// See [`forget_draft`](domain::PackStore::forget_draft) and [`expire_draft`](domain::PackStore::expire_draft).
#[derive(Debug)]
pub(super) struct ForgetDraft {
    pub(super) id: DraftId,
    /// The moment at which its time must be up, where that is why it is forgotten.
    pub(super) expired_at: Option<Timestamp>,
    pub(super) now: Timestamp,
}

impl Command for ForgetDraft {
    type Answer = bool;
    const DOING: &'static str = "forget a draft";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<bool, MetadataError> {
        let id = self.id.to_string();
        let may_go: bool = sqlx::query_scalar(pack_sql::MAY_FORGET_DRAFT)
            .bind(id.as_str())
            .bind(self.expired_at.map(Timestamp::as_millis))
            .fetch_one(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        if !may_go {
            return Ok(false);
        }
        let released = release_draft(transaction, &id, Self::DOING).await?;
        let delete = sqlx::query(pack_sql::DELETE_DRAFT).bind(id.as_str());
        let deleted = affected(transaction, delete, Self::DOING).await?;
        doom(transaction, &released, self.now, Self::DOING).await?;
        Ok(deleted == 1)
    }
}

/// See [`store_contents`](domain::PackStore::store_contents).
#[derive(Debug)]
pub(super) struct StoreContents {
    draft: DraftId,
    blobs: Blobs,
    /// JSON arrays of rows.
    contents: Vec<String>,
    expires_at: Timestamp,
}

impl StoreContents {
    pub(super) fn new(
        draft: &DraftId,
        blobs: &[Content],
        contents: &[StoredContent],
        expires_at: Timestamp,
    ) -> Result<Self, MetadataError> {
        let keys: HashSet<&BlobKey> = blobs.iter().map(|content| &content.blob).collect();
        let places = contents.iter().flat_map(|content| {
            let deflated = content.deflated.iter().map(|(_, place)| place);
            deflated.chain([&content.raw])
        });
        for place in places {
            if !keys.contains(&place.blob) {
                return Err(failed(Self::DOING, "a content is in none of the blobs"));
            }
        }
        // The engine looks digests up as they are sorted, and is faster when they come so.
        let mut sorted: Vec<&StoredContent> = contents.iter().collect();
        sorted.sort_by_key(|content| content.sha256);
        let mut arrays = Vec::with_capacity(sorted.len().div_ceil(CONTENTS_AT_A_TIME));
        for contents in sorted.chunks(CONTENTS_AT_A_TIME) {
            let rows = contents.iter().map(|content| content_row(content));
            arrays.push(array(&rows.collect::<Result<Vec<_>, _>>()?, Self::DOING)?);
        }
        Ok(Self {
            draft: *draft,
            blobs: Blobs::new(blobs, Self::DOING)?,
            contents: arrays,
            expires_at,
        })
    }
}

impl Command for StoreContents {
    type Answer = bool;
    const DOING: &'static str = "record contents";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<bool, MetadataError> {
        let draft = self.draft.to_string();
        let prolong = sqlx::query(pack_sql::PROLONG_DRAFT)
            .bind(draft.as_str())
            .bind(self.expires_at.as_millis());
        if affected(transaction, prolong, Self::DOING).await? == 0 {
            return Ok(false);
        }
        self.blobs.record(transaction, Self::DOING).await?;
        let hold = sqlx::query(pack_lists::HOLD_BY_DRAFT)
            .bind(draft.as_str())
            .bind(self.blobs.rows.as_str());
        affected(transaction, hold, Self::DOING).await?;
        for contents in &self.contents {
            let store = sqlx::query(pack_lists::STORE_CONTENTS).bind(contents.as_str());
            affected(transaction, store, Self::DOING).await?;
            let hold = sqlx::query(pack_lists::HOLD_PLACES)
                .bind(draft.as_str())
                .bind(contents.as_str());
            affected(transaction, hold, Self::DOING).await?;
        }
        Ok(true)
    }
}

/// See [`hold_blobs`](domain::PackStore::hold_blobs).
#[derive(Debug)]
pub(super) struct HoldBlobs {
    draft: DraftId,
    /// A JSON array of keys.
    blobs: String,
}

impl HoldBlobs {
    pub(super) fn new(draft: &DraftId, blobs: &[BlobKey]) -> Result<Self, MetadataError> {
        Ok(Self {
            draft: *draft,
            blobs: keys(blobs, Self::DOING)?,
        })
    }
}

impl Command for HoldBlobs {
    type Answer = Option<Vec<BlobKey>>;
    const DOING: &'static str = "hold contents";

    async fn run(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Option<Vec<BlobKey>>, MetadataError> {
        let draft = self.draft.to_string();
        let is_open: bool = sqlx::query_scalar(pack_sql::IS_OPEN_DRAFT)
            .bind(draft.as_str())
            .fetch_one(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        if !is_open {
            return Ok(None);
        }
        let hold = sqlx::query(pack_lists::HOLD_KNOWN_BLOBS)
            .bind(draft.as_str())
            .bind(self.blobs.as_str());
        affected(transaction, hold, Self::DOING).await?;
        let held: Vec<String> = sqlx::query_scalar(pack_lists::KNOWN_BLOBS)
            .bind(self.blobs.as_str())
            .fetch_all(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        let held: Result<_, _> = held.iter().map(|key| blob_key(key)).collect();
        held.map(Some)
    }
}

/// See [`drop_contents`](domain::PackStore::drop_contents).
#[derive(Debug)]
pub(super) struct DropContents {
    draft: DraftId,
    /// A JSON array of keys.
    blobs: String,
    now: Timestamp,
}

impl DropContents {
    pub(super) fn new(
        draft: &DraftId,
        blobs: &[BlobKey],
        now: Timestamp,
    ) -> Result<Self, MetadataError> {
        Ok(Self {
            draft: *draft,
            blobs: keys(blobs, Self::DOING)?,
            now,
        })
    }
}

impl Command for DropContents {
    type Answer = ();
    const DOING: &'static str = "drop contents";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<(), MetadataError> {
        let released: Vec<String> = sqlx::query_scalar(pack_lists::DROP_BLOBS)
            .bind(self.draft.to_string())
            .bind(self.blobs.as_str())
            .fetch_all(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        doom(transaction, &released, self.now, Self::DOING).await
    }
}

/// See [`publish_version`](domain::PackStore::publish_version).
#[derive(Debug)]
pub(super) struct PublishVersion {
    draft: DraftId,
    version: PackVersion,
    documents: Blobs,
    /// A JSON array of keys.
    blobs: String,
    kept_until: Timestamp,
    event: Option<Event>,
}

impl PublishVersion {
    pub(super) fn new(
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
        kept_until: Timestamp,
        event: Option<&Event>,
    ) -> Result<Self, MetadataError> {
        let documents = [
            version.catalogue.clone(),
            version.catalogue_gzip.clone(),
            version.catalogue_zstd.clone(),
            version.forms.clone(),
            version.places.clone(),
        ];
        Ok(Self {
            draft: *draft,
            version: version.clone(),
            documents: Blobs::new(&documents, Self::DOING)?,
            blobs: keys(blobs, Self::DOING)?,
            kept_until,
            event: event.cloned(),
        })
    }

    /// Why the version cannot be published, or that it is.
    async fn hindrance(
        &self,
        transaction: &mut Transaction<'_>,
    ) -> Result<Option<Published>, MetadataError> {
        let pack = self.version.pack.as_str();
        let published: Option<Option<i64>> = sqlx::query_scalar(pack_sql::PUBLISHED)
            .bind(self.draft.to_string())
            .bind(pack)
            .fetch_optional(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        match published {
            None => return Ok(Some(Published::DraftGone)),
            Some(Some(number)) => {
                let here = Row {
                    table: "drafts",
                    key: pack,
                };
                let number = here.count("published", number)?;
                return Ok(Some(Published::Version(number)));
            }
            Some(None) => {}
        }
        let next = super::packs::next_version(
            &mut *transaction.connection,
            &self.version.pack,
            Self::DOING,
        )
        .await?;
        if self.version.number != next {
            return Ok(Some(Published::NextIs(next)));
        }
        let gone: bool = sqlx::query_scalar(pack_lists::BLOBS_GONE)
            .bind(self.blobs.as_str())
            .bind(self.documents.rows.as_str())
            .fetch_one(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        Ok(gone.then_some(Published::BlobsGone))
    }

    /// Records the version and has it hold its blobs.
    async fn insert(&self, transaction: &mut Transaction<'_>) -> Result<(), MetadataError> {
        let version = &self.version;
        self.documents.record(transaction, Self::DOING).await?;
        let give = sqlx::query(pack_sql::GIVE_NUMBER)
            .bind(version.pack.as_str())
            .bind(column(version.number)?);
        exactly(1, transaction, give, Self::DOING).await?;
        let id: i64 = sqlx::query_scalar(pack_sql::INSERT_VERSION)
            .bind(version.pack.as_str())
            .bind(column(version.number)?)
            .bind(column(version.files)?)
            .bind(column(version.size)?)
            .bind(version.catalogue.blob.as_str())
            .bind(version.catalogue_gzip.blob.as_str())
            .bind(version.catalogue_zstd.blob.as_str())
            .bind(version.forms.blob.as_str())
            .bind(version.places.blob.as_str())
            .bind(version.published_at.as_millis())
            .fetch_one(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        let hold = sqlx::query(pack_lists::HOLD_BY_VERSION)
            .bind(id)
            .bind(self.blobs.as_str())
            .bind(self.documents.rows.as_str());
        affected(transaction, hold, Self::DOING).await.map(drop)
    }
}

impl Command for PublishVersion {
    type Answer = Published;
    const DOING: &'static str = "publish a version";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Published, MetadataError> {
        if let Some(hindrance) = self.hindrance(transaction).await? {
            return Ok(hindrance);
        }
        self.insert(transaction).await?;
        let (draft, version) = (self.draft.to_string(), &self.version);
        let publish = sqlx::query(pack_sql::PUBLISH_DRAFT)
            .bind(draft.as_str())
            .bind(column(version.number)?)
            .bind(self.kept_until.as_millis());
        exactly(1, transaction, publish, Self::DOING).await?;
        let released = release_draft(transaction, &draft, Self::DOING).await?;
        doom(transaction, &released, version.published_at, Self::DOING).await?;
        record_event(transaction, self.event.as_ref(), Self::DOING).await?;
        Ok(Published::Version(version.number))
    }
}

/// See [`retire_version`](domain::PackStore::retire_version).
#[derive(Debug)]
pub(super) struct RetireVersion {
    pub(super) pack: archive::PackName,
    pub(super) number: u64,
    pub(super) now: Timestamp,
}

impl Command for RetireVersion {
    type Answer = bool;
    const DOING: &'static str = "retire a version";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<bool, MetadataError> {
        let id: Option<i64> = sqlx::query_scalar(pack_sql::VERSION_ID)
            .bind(self.pack.as_str())
            .bind(sought(self.number))
            .fetch_optional(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        let Some(id) = id else {
            return Ok(false);
        };
        let released: Vec<String> = sqlx::query_scalar(pack_sql::RELEASE_VERSION)
            .bind(id)
            .fetch_all(&mut *transaction.connection)
            .await
            .map_err(engine(Self::DOING))?;
        let delete = sqlx::query(pack_sql::DELETE_VERSION).bind(id);
        exactly(1, transaction, delete, Self::DOING).await?;
        doom(transaction, &released, self.now, Self::DOING).await?;
        Ok(true)
    }
}

/// See [`register_need`](domain::PackStore::register_need).
#[derive(Debug)]
pub(super) struct RegisterNeed {
    pub(super) pack: archive::PackName,
    pub(super) number: u64,
    pub(super) sha256: archive::Sha256Digest,
    pub(super) encoded: Vec<u8>,
    pub(super) expires_at: Timestamp,
}

impl Command for RegisterNeed {
    type Answer = bool;
    const DOING: &'static str = "register a need";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<bool, MetadataError> {
        let register = sqlx::query(pack_sql::REGISTER_NEED)
            .bind(self.pack.as_str())
            .bind(sought(self.number))
            .bind(self.sha256.as_bytes().as_slice())
            .bind(self.encoded.as_slice())
            .bind(self.expires_at.as_millis());
        Ok(affected(transaction, register, Self::DOING).await? == 1)
    }
}

/// See [`forget_needs`](domain::PackStore::forget_needs).
#[derive(Debug)]
pub(super) struct ForgetNeeds {
    pub(super) now: Timestamp,
    pub(super) limit: usize,
}

impl Command for ForgetNeeds {
    type Answer = u64;
    const DOING: &'static str = "forget needs";

    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<u64, MetadataError> {
        let delete = sqlx::query(pack_sql::FORGET_NEEDS)
            .bind(self.now.as_millis())
            .bind(limited(self.limit));
        affected(transaction, delete, Self::DOING).await
    }
}

/// Blobs that are needed from now on.
#[derive(Debug)]
struct Blobs {
    count: u64,
    /// A JSON array of rows: key, size, digest.
    rows: String,
}

impl Blobs {
    fn new(contents: &[Content], doing: &'static str) -> Result<Self, MetadataError> {
        let mut rows = Vec::with_capacity(contents.len());
        for content in contents {
            let size = column(content.size)?;
            rows.push((content.blob.as_str(), size, content.sha256.to_string()));
        }
        Ok(Self {
            count: contents.len() as u64,
            rows: array(&rows, doing)?,
        })
    }

    /// Records them, unless one is doomed, or recorded with another size or digest.
    async fn record(
        &self,
        transaction: &mut Transaction<'_>,
        doing: &'static str,
    ) -> Result<(), MetadataError> {
        let record = sqlx::query(pack_lists::RECORD_BLOBS).bind(self.rows.as_str());
        exactly(self.count, transaction, record, doing).await
    }
}

/// A row of `contents`, the blobs by their keys and the digests in hexadecimal.
fn content_row(content: &StoredContent) -> Result<impl Serialize, MetadataError> {
    let start = |place: &Place| column(place.start);
    let deflated = content.deflated.as_ref();
    Ok((
        content.sha256.to_string(),
        column(content.size)?,
        content.crc32,
        content.raw.blob.as_str(),
        start(&content.raw)?,
        deflated.map(|(_, place)| place.blob.as_str()),
        deflated.map(|(_, place)| start(place)).transpose()?,
        deflated.map(|(form, _)| column(form.size)).transpose()?,
        deflated.map(|(form, _)| form.sha256.to_string()),
    ))
}

/// Takes all blobs from a draft.
async fn release_draft(
    transaction: &mut Transaction<'_>,
    draft: &str,
    doing: &'static str,
) -> Result<Vec<String>, MetadataError> {
    sqlx::query_scalar(pack_sql::RELEASE_DRAFT)
        .bind(draft)
        .fetch_all(&mut *transaction.connection)
        .await
        .map_err(engine(doing))
}

/// Dooms those of the blobs that nothing needs. The contents in them are known no more.
async fn doom(
    transaction: &mut Transaction<'_>,
    blobs: &[String],
    at: Timestamp,
    doing: &'static str,
) -> Result<(), MetadataError> {
    if blobs.is_empty() {
        return Ok(());
    }
    let doom = sqlx::query(pack_lists::DOOM_BLOBS)
        .bind(array(&blobs, doing)?)
        .bind(at.as_millis());
    affected(transaction, doom, doing).await.map(drop)
}

/// A list of keys as the engine takes it.
fn keys(blobs: &[BlobKey], doing: &'static str) -> Result<String, MetadataError> {
    let texts: Vec<&str> = blobs.iter().map(BlobKey::as_str).collect();
    array(&texts, doing)
}

/// A list as the engine takes it.
pub(super) fn array(list: &impl Serialize, doing: &'static str) -> Result<String, MetadataError> {
    serde_json::to_string(list).map_err(|error| failed(doing, error))
}
