//! The changes about packs, in the manner of [`commands`](super::commands). Lists come to the engine as arrays, one a column.

use std::collections::{BTreeMap, BTreeSet};

use archive::{PackName, Sha256Digest};
use domain::events::Event;
use domain::files::Content;
use domain::metadata_store::MetadataError;
use domain::pack_store::{DraftRecord, PackVersion, Place, Published, StoredContent};
use domain::{BlobKey, DraftId, Timestamp};
use sqlx::PgConnection;

use super::commands::need;
use super::events::record_event;
use super::transaction::{Command, affected, engine, exactly};
use super::{locks, pack_lists};
use crate::failures::failed;
use crate::pack_sql;
use crate::rows::{Row, blob_key, column};
use crate::values::{limited, sought};

/// How many contents are written by one statement, which bounds the memory that it takes.
const CONTENTS_AT_A_TIME: usize = 2000;

/// See [`insert_draft`](domain::PackStore::insert_draft).
pub(super) struct InsertDraft<'a>(pub(super) &'a DraftRecord);

impl Command for InsertDraft<'_> {
    type Answer = ();
    const DOING: &'static str = "record a draft";

    async fn run(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
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
        exactly(1, connection, insert, Self::DOING).await?;
        let Some(tree) = tree else {
            return Ok(());
        };
        need(connection, tree, Self::DOING).await?;
        let hold = sqlx::query(pack_sql::HOLD_BLOB)
            .bind(tree.blob.as_str())
            .bind(column(tree.size)?)
            .bind(tree.sha256.as_bytes().as_slice())
            .bind(id.as_str());
        exactly(1, connection, hold, Self::DOING).await
    }
}

/// See [`forget_draft`](domain::PackStore::forget_draft) and [`expire_draft`](domain::PackStore::expire_draft).
pub(super) struct ForgetDraft {
    pub(super) id: DraftId,
    /// The moment at which its time must be up, where that is why it is forgotten.
    pub(super) expired_at: Option<Timestamp>,
    pub(super) now: Timestamp,
}

impl Command for ForgetDraft {
    type Answer = bool;
    const DOING: &'static str = "forget a draft";

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, MetadataError> {
        let id = self.id.to_string();
        locks::draft(connection, &self.id, Self::DOING).await?;
        let may_go: bool = sqlx::query_scalar(pack_sql::MAY_FORGET_DRAFT)
            .bind(id.as_str())
            .bind(self.expired_at.map(Timestamp::as_millis))
            .fetch_one(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        if !may_go {
            return Ok(false);
        }
        let released = release_draft(connection, &id, Self::DOING).await?;
        let delete = sqlx::query(pack_sql::DELETE_DRAFT).bind(id.as_str());
        exactly(1, connection, delete, Self::DOING).await?;
        lock_and_doom(connection, &released, self.now, Self::DOING).await?;
        Ok(true)
    }
}

/// See [`store_contents`](domain::PackStore::store_contents).
pub(super) struct StoreContents<'a> {
    draft: DraftId,
    blobs: Blobs<'a>,
    /// No digest comes twice.
    contents: Vec<Contents<'a>>,
    expires_at: Timestamp,
}

impl<'a> StoreContents<'a> {
    pub(super) fn new(
        draft: &DraftId,
        blobs: &'a [Content],
        contents: &'a [StoredContent],
        expires_at: Timestamp,
    ) -> Result<Self, MetadataError> {
        let blobs = Blobs::new(blobs, Self::DOING)?;
        let places = contents.iter().flat_map(|content| {
            let deflated = content.deflated.iter().map(|(_, place)| place);
            deflated.chain([&content.raw])
        });
        for place in places {
            if blobs.keys.binary_search(&place.blob.as_str()).is_err() {
                return Err(failed(Self::DOING, "a content is in none of the blobs"));
            }
        }
        // In one order, so that no two such changes wait for each other. Of the same content twice, the first counts.
        let mut sorted = BTreeMap::new();
        for content in contents {
            sorted.entry(&content.sha256).or_insert(content);
        }
        let sorted: Vec<&StoredContent> = sorted.into_values().collect();
        let contents: Result<_, _> = sorted
            .chunks(CONTENTS_AT_A_TIME)
            .map(Contents::new)
            .collect();
        Ok(Self {
            draft: *draft,
            blobs,
            contents: contents?,
            expires_at,
        })
    }
}

impl Command for StoreContents<'_> {
    type Answer = bool;
    const DOING: &'static str = "record contents";

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, MetadataError> {
        let draft = self.draft.to_string();
        let prolong = sqlx::query(pack_sql::PROLONG_DRAFT)
            .bind(draft.as_str())
            .bind(self.expires_at.as_millis());
        // Locks the draft as well.
        if affected(connection, prolong, Self::DOING).await? == 0 {
            return Ok(false);
        }
        self.blobs.record(connection, Self::DOING).await?;
        let hold = sqlx::query(pack_lists::HOLD_BY_DRAFT)
            .bind(draft.as_str())
            .bind(&self.blobs.keys);
        affected(connection, hold, Self::DOING).await?;
        for contents in &self.contents {
            contents.store(connection, Self::DOING).await?;
            // Storing has locked the rows of those that are known, so they lie where they lie until the end.
            let elsewhere: Vec<String> = contents.elsewhere(connection, &self.blobs.keys).await?;
            if elsewhere.is_empty() {
                continue;
            }
            let keys: Vec<&str> = elsewhere.iter().map(String::as_str).collect();
            locks::blobs(connection, &keys, Self::DOING).await?;
            // In the place of those whose blobs were doomed before the lock.
            contents.store(connection, Self::DOING).await?;
            let elsewhere = contents.elsewhere(connection, &self.blobs.keys).await?;
            let hold = sqlx::query(pack_lists::HOLD_BY_DRAFT)
                .bind(draft.as_str())
                .bind(&elsewhere);
            affected(connection, hold, Self::DOING).await?;
        }
        Ok(true)
    }
}

/// See [`hold_blobs`](domain::PackStore::hold_blobs).
pub(super) struct HoldBlobs<'a> {
    pub(super) draft: &'a DraftId,
    pub(super) blobs: &'a [BlobKey],
}

impl Command for HoldBlobs<'_> {
    type Answer = Option<Vec<BlobKey>>;
    const DOING: &'static str = "hold contents";

    async fn run(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<Vec<BlobKey>>, MetadataError> {
        locks::draft(connection, self.draft, Self::DOING).await?;
        let draft = self.draft.to_string();
        let is_open: bool = sqlx::query_scalar(pack_sql::IS_OPEN_DRAFT)
            .bind(draft.as_str())
            .fetch_one(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        if !is_open {
            return Ok(None);
        }
        let keys = keys(self.blobs);
        locks::blobs(connection, &keys, Self::DOING).await?;
        let held: Vec<String> = sqlx::query_scalar(pack_lists::KNOWN_BLOBS)
            .bind(&keys)
            .fetch_all(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        let hold = sqlx::query(pack_lists::HOLD_BY_DRAFT)
            .bind(draft.as_str())
            .bind(&held);
        affected(connection, hold, Self::DOING).await?;
        let held: Result<_, _> = held.iter().map(|key| blob_key(key)).collect();
        held.map(Some)
    }
}

/// See [`drop_contents`](domain::PackStore::drop_contents).
pub(super) struct DropContents<'a> {
    pub(super) draft: &'a DraftId,
    pub(super) blobs: &'a [BlobKey],
    pub(super) now: Timestamp,
}

impl Command for DropContents<'_> {
    type Answer = ();
    const DOING: &'static str = "drop contents";

    async fn run(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
        locks::draft(connection, self.draft, Self::DOING).await?;
        let released: Vec<String> = sqlx::query_scalar(pack_lists::DROP_BLOBS)
            .bind(self.draft.to_string())
            .bind(keys(self.blobs))
            .fetch_all(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        lock_and_doom(connection, &released, self.now, Self::DOING).await
    }
}

/// See [`publish_version`](domain::PackStore::publish_version).
pub(super) struct PublishVersion<'a> {
    draft: &'a DraftId,
    version: &'a PackVersion,
    documents: Blobs<'a>,
    blobs: Vec<&'a str>,
    kept_until: Timestamp,
    event: Option<&'a Event>,
}

impl<'a> PublishVersion<'a> {
    pub(super) fn new(
        draft: &'a DraftId,
        version: &'a PackVersion,
        blobs: &'a [BlobKey],
        kept_until: Timestamp,
        event: Option<&'a Event>,
    ) -> Result<Self, MetadataError> {
        let documents = [
            &version.catalogue,
            &version.catalogue_gzip,
            &version.catalogue_zstd,
            &version.forms,
            &version.places,
        ];
        Ok(Self {
            draft,
            version,
            documents: Blobs::new(documents, Self::DOING)?,
            blobs: keys(blobs),
            kept_until,
            event,
        })
    }

    /// Locks the draft, the pack's next number, and all blobs that the version comes to hold or the draft lets go of.
    async fn lock(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
        locks::draft(connection, self.draft, Self::DOING).await?;
        locks::pack(connection, &self.version.pack, Self::DOING).await?;
        let held: Vec<String> = sqlx::query_scalar(pack_lists::HELD_BY_DRAFT)
            .bind(self.draft.to_string())
            .fetch_all(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        let held = held.iter().map(String::as_str);
        let all: BTreeSet<&str> = held
            .chain(self.blobs.iter().copied())
            .chain(self.documents.keys.iter().copied())
            .collect();
        let all: Vec<&str> = all.into_iter().collect();
        locks::blobs(connection, &all, Self::DOING).await
    }

    /// Why the version cannot be published, or that it is.
    async fn hindrance(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Option<Published>, MetadataError> {
        let pack = &self.version.pack;
        let published: Option<Option<i64>> = sqlx::query_scalar(pack_sql::PUBLISHED)
            .bind(self.draft.to_string())
            .bind(pack.as_str())
            .fetch_optional(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        match published {
            None => return Ok(Some(Published::DraftGone)),
            Some(Some(number)) => {
                let here = Row {
                    table: "drafts",
                    key: pack.as_str(),
                };
                let number = here.count("published", number)?;
                return Ok(Some(Published::Version(number)));
            }
            Some(None) => {}
        }
        let next = super::packs::next_version(&mut *connection, pack, Self::DOING).await?;
        if self.version.number != next {
            return Ok(Some(Published::NextIs(next)));
        }
        let gone: bool = sqlx::query_scalar(pack_lists::BLOBS_GONE)
            .bind(&self.blobs)
            .bind(&self.documents.keys)
            .fetch_one(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        Ok(gone.then_some(Published::BlobsGone))
    }

    /// Records the version and has it hold its blobs.
    async fn insert(&self, connection: &mut PgConnection) -> Result<(), MetadataError> {
        let version = self.version;
        self.documents.record(connection, Self::DOING).await?;
        let give = sqlx::query(pack_sql::GIVE_NUMBER)
            .bind(version.pack.as_str())
            .bind(column(version.number)?);
        exactly(1, connection, give, Self::DOING).await?;
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
            .fetch_one(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        let hold = sqlx::query(pack_lists::HOLD_BY_VERSION)
            .bind(id)
            .bind(&self.blobs)
            .bind(&self.documents.keys);
        affected(connection, hold, Self::DOING).await.map(drop)
    }
}

impl Command for PublishVersion<'_> {
    type Answer = Published;
    const DOING: &'static str = "publish a version";

    async fn run(&self, connection: &mut PgConnection) -> Result<Published, MetadataError> {
        self.lock(connection).await?;
        if let Some(hindrance) = self.hindrance(connection).await? {
            return Ok(hindrance);
        }
        self.insert(connection).await?;
        let (draft, version) = (self.draft.to_string(), self.version);
        let publish = sqlx::query(pack_sql::PUBLISH_DRAFT)
            .bind(draft.as_str())
            .bind(column(version.number)?)
            .bind(self.kept_until.as_millis());
        exactly(1, connection, publish, Self::DOING).await?;
        let released = release_draft(connection, &draft, Self::DOING).await?;
        doom(connection, &released, version.published_at, Self::DOING).await?;
        record_event(connection, self.event, Self::DOING).await?;
        Ok(Published::Version(version.number))
    }
}

/// See [`retire_version`](domain::PackStore::retire_version).
pub(super) struct RetireVersion<'a> {
    pub(super) pack: &'a PackName,
    pub(super) number: u64,
    pub(super) now: Timestamp,
}

impl Command for RetireVersion<'_> {
    type Answer = bool;
    const DOING: &'static str = "retire a version";

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, MetadataError> {
        let number = sought(self.number);
        let Some(id) = locks::version(connection, self.pack, number, Self::DOING).await? else {
            return Ok(false);
        };
        let released: Vec<String> = sqlx::query_scalar(pack_sql::RELEASE_VERSION)
            .bind(id)
            .fetch_all(&mut *connection)
            .await
            .map_err(engine(Self::DOING))?;
        let delete = sqlx::query(pack_sql::DELETE_VERSION).bind(id);
        exactly(1, connection, delete, Self::DOING).await?;
        lock_and_doom(connection, &released, self.now, Self::DOING).await?;
        Ok(true)
    }
}

/// See [`register_need`](domain::PackStore::register_need).
pub(super) struct RegisterNeed<'a> {
    pub(super) pack: &'a PackName,
    pub(super) number: u64,
    pub(super) sha256: &'a Sha256Digest,
    pub(super) encoded: &'a [u8],
    pub(super) expires_at: Timestamp,
}

impl Command for RegisterNeed<'_> {
    type Answer = bool;
    const DOING: &'static str = "register a need";

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, MetadataError> {
        let number = sought(self.number);
        locks::version(connection, self.pack, number, Self::DOING).await?;
        let register = sqlx::query(pack_sql::REGISTER_NEED)
            .bind(self.pack.as_str())
            .bind(number)
            .bind(self.sha256.as_bytes().as_slice())
            .bind(self.encoded)
            .bind(self.expires_at.as_millis());
        Ok(affected(connection, register, Self::DOING).await? == 1)
    }
}

/// See [`forget_needs`](domain::PackStore::forget_needs).
pub(super) struct ForgetNeeds {
    pub(super) now: Timestamp,
    pub(super) limit: usize,
}

impl Command for ForgetNeeds {
    type Answer = u64;
    const DOING: &'static str = "forget needs";

    async fn run(&self, connection: &mut PgConnection) -> Result<u64, MetadataError> {
        let delete = sqlx::query(pack_sql::FORGET_NEEDS)
            .bind(self.now.as_millis())
            .bind(limited(self.limit));
        affected(connection, delete, Self::DOING).await
    }
}

/// Blobs that are needed from now on, each once, in the order of their keys.
struct Blobs<'a> {
    keys: Vec<&'a str>,
    sizes: Vec<i64>,
    sha256s: Vec<&'a [u8]>,
}

impl<'a> Blobs<'a> {
    fn new(
        contents: impl IntoIterator<Item = &'a Content>,
        doing: &'static str,
    ) -> Result<Self, MetadataError> {
        let mut sorted = BTreeMap::new();
        for content in contents {
            let first = *sorted.entry(content.blob.as_str()).or_insert(content);
            if first != content {
                return Err(failed(doing, "a blob comes with two contents"));
            }
        }
        let mut blobs = Self {
            keys: Vec::with_capacity(sorted.len()),
            sizes: Vec::with_capacity(sorted.len()),
            sha256s: Vec::with_capacity(sorted.len()),
        };
        for (key, content) in sorted {
            blobs.keys.push(key);
            blobs.sizes.push(column(content.size)?);
            blobs.sha256s.push(content.sha256.as_bytes());
        }
        Ok(blobs)
    }

    /// Records them and locks them, unless one is doomed, or recorded with another size or digest.
    async fn record(
        &self,
        connection: &mut PgConnection,
        doing: &'static str,
    ) -> Result<(), MetadataError> {
        let record = sqlx::query(pack_lists::RECORD_BLOBS)
            .bind(&self.keys)
            .bind(&self.sizes)
            .bind(&self.sha256s);
        exactly(self.keys.len() as u64, connection, record, doing).await
    }
}

/// Rows of `contents` by their columns.
#[derive(Default)]
struct Contents<'a> {
    sha256s: Vec<&'a [u8]>,
    sizes: Vec<i64>,
    crc32s: Vec<i64>,
    raw_blobs: Vec<&'a str>,
    raw_starts: Vec<i64>,
    deflated_blobs: Vec<Option<&'a str>>,
    deflated_starts: Vec<Option<i64>>,
    deflated_sizes: Vec<Option<i64>>,
    deflated_sha256s: Vec<Option<&'a [u8]>>,
}

impl<'a> Contents<'a> {
    fn new(contents: &[&'a StoredContent]) -> Result<Self, MetadataError> {
        let start = |place: &Place| column(place.start);
        let mut columns = Self::default();
        for content in contents {
            let deflated = content.deflated.as_ref();
            let form = deflated.map(|(form, _)| form);
            let place = deflated.map(|(_, place)| place);
            columns.sha256s.push(content.sha256.as_bytes());
            columns.sizes.push(column(content.size)?);
            columns.crc32s.push(content.crc32.into());
            columns.raw_blobs.push(content.raw.blob.as_str());
            columns.raw_starts.push(start(&content.raw)?);
            columns
                .deflated_blobs
                .push(place.map(|place| place.blob.as_str()));
            columns.deflated_starts.push(place.map(start).transpose()?);
            columns
                .deflated_sizes
                .push(form.map(|form| column(form.size)).transpose()?);
            columns
                .deflated_sha256s
                .push(form.map(|form| form.sha256.as_bytes().as_slice()));
        }
        Ok(columns)
    }

    /// The blobs that they lie in beside these.
    async fn elsewhere(
        &self,
        connection: &mut PgConnection,
        blobs: &[&str],
    ) -> Result<Vec<String>, MetadataError> {
        sqlx::query_scalar(pack_lists::OTHER_PLACES)
            .bind(&self.sha256s)
            .bind(blobs)
            .fetch_all(&mut *connection)
            .await
            .map_err(engine(StoreContents::DOING))
    }

    async fn store(
        &self,
        connection: &mut PgConnection,
        doing: &'static str,
    ) -> Result<(), MetadataError> {
        let store = sqlx::query(pack_lists::STORE_CONTENTS)
            .bind(&self.sha256s)
            .bind(&self.sizes)
            .bind(&self.crc32s)
            .bind(&self.raw_blobs)
            .bind(&self.raw_starts)
            .bind(&self.deflated_blobs)
            .bind(&self.deflated_starts)
            .bind(&self.deflated_sizes)
            .bind(&self.deflated_sha256s);
        affected(connection, store, doing).await.map(drop)
    }
}

/// Takes all blobs from a draft.
async fn release_draft(
    connection: &mut PgConnection,
    draft: &str,
    doing: &'static str,
) -> Result<Vec<String>, MetadataError> {
    sqlx::query_scalar(pack_sql::RELEASE_DRAFT)
        .bind(draft)
        .fetch_all(&mut *connection)
        .await
        .map_err(engine(doing))
}

/// Locks blobs that were let go of, and dooms those that nothing needs.
async fn lock_and_doom(
    connection: &mut PgConnection,
    blobs: &[String],
    at: Timestamp,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let keys: Vec<&str> = blobs.iter().map(String::as_str).collect();
    locks::blobs(connection, &keys, doing).await?;
    doom(connection, blobs, at, doing).await
}

/// Dooms those of the blobs, which are locked, that nothing needs. The contents in them are known no more.
async fn doom(
    connection: &mut PgConnection,
    blobs: &[String],
    at: Timestamp,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let doom = sqlx::query(pack_lists::DOOM_BLOBS)
        .bind(blobs)
        .bind(at.as_millis());
    affected(connection, doom, doing).await.map(drop)
}

fn keys(blobs: &[BlobKey]) -> Vec<&str> {
    blobs.iter().map(BlobKey::as_str).collect()
}
