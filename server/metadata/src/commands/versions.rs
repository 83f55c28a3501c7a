//! Changes of versions and of the blobs that they hold.

use std::collections::BTreeSet;

use archive::{PackName, Sha256Digest};
use domain::event::Event;
use domain::metadata_store::MetadataError;
use domain::pack::PackVersion;
use domain::pack_store::Published;
use domain::{BlobKey, DraftId, Timestamp};

use super::drafts::{NeededBlobs, doom, lock_and_doom, release_draft};
use super::events::record_event;
use crate::engine::{Command, Lock, Transaction};
use crate::queries::next_version;
use crate::rows::{Row, column};
use crate::values::{Column, limited, sought, values};
use crate::{pack_lists, pack_sql};

/// See [`publish_version`](domain::PackStore::publish_version).
#[derive(Debug)]
pub(crate) struct PublishVersion {
    draft: DraftId,
    version: PackVersion,
    documents: NeededBlobs,
    blobs: Vec<BlobKey>,
    kept_until: Timestamp,
    event: Option<Event>,
}

impl PublishVersion {
    pub(crate) fn new(
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
        kept_until: Timestamp,
        event: Option<&Event>,
    ) -> Result<Self, MetadataError> {
        let documents = [
            &version.catalogue,
            &version.catalogue_gzip,
            &version.catalogue_zstd,
            &version.forms,
            &version.places,
        ];
        Ok(Self {
            draft: *draft,
            version: version.clone(),
            documents: NeededBlobs::new(documents, Self::DOING)?,
            blobs: blobs.to_vec(),
            kept_until,
            event: event.cloned(),
        })
    }

    /// Returns the blobs that the version will hold.
    fn held(&self) -> impl Iterator<Item = &str> {
        let blobs = self.blobs.iter().map(BlobKey::as_str);
        blobs.chain(self.documents.keys())
    }

    /// Locks the draft, the pack's next number, and all blobs that the version will hold or the
    /// draft releases.
    async fn lock<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        transaction.lock(Lock::Draft(&self.draft)).await?;
        transaction.lock(Lock::Pack(&self.version.pack)).await?;
        let draft = values![self.draft.to_string()];
        let held: Vec<String> = transaction.scalars(pack_sql::HELD_BY_DRAFT, draft).await?;
        let held = held.iter().map(String::as_str);
        let all: BTreeSet<&str> = held.chain(self.held()).collect();
        let all: Vec<&str> = all.into_iter().collect();
        transaction.lock(Lock::Blobs(&all)).await
    }

    /// Returns the outcome if the version cannot be published, or already is.
    async fn hindrance<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> Result<Option<Published>, MetadataError> {
        let pack = &self.version.pack;
        let draft = values![self.draft.to_string(), pack.as_str()];
        match transaction.row(pack_sql::PUBLISHED, draft).await? {
            None => return Ok(Some(Published::DraftGone)),
            Some((Some(number),)) => {
                let here = Row {
                    table: "drafts",
                    key: pack.as_str(),
                };
                let number = here.count("published", number)?;
                return Ok(Some(Published::Version(number)));
            }
            Some((None::<i64>,)) => {}
        }
        let next = next_version(transaction, pack).await?;
        if self.version.number != next {
            return Ok(Some(Published::NextIs(next)));
        }
        let blobs = Column::texts(self.blobs.iter().map(BlobKey::as_str));
        let documents = Column::texts(self.documents.keys());
        let values = values![&blobs, &documents];
        let (gone,): (bool,) = transaction.one(pack_lists::BLOBS_GONE, values).await?;
        Ok(gone.then_some(Published::BlobsGone))
    }

    /// Records the version and its blobs.
    async fn insert<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        let version = &self.version;
        self.documents.record(transaction).await?;
        let give = values![version.pack.as_str(), column(version.number)?];
        transaction.exactly(1, pack_sql::GIVE_NUMBER, give).await?;
        let insert = values![
            version.pack.as_str(),
            column(version.number)?,
            column(version.files)?,
            column(version.size)?,
            &version.catalogue.blob,
            &version.catalogue_gzip.blob,
            &version.catalogue_zstd.blob,
            &version.forms.blob,
            &version.places.blob,
            version.published_at,
        ];
        let (id,): (i64,) = transaction.one(pack_sql::INSERT_VERSION, insert).await?;
        let held = Column::texts(self.held());
        let hold = values![id, &held];
        let held = transaction.run(pack_lists::HOLD_BY_VERSION, hold).await;
        held.map(drop)
    }
}

impl Command for PublishVersion {
    type Answer = Published;
    const DOING: &'static str = "publish a version";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<Published, MetadataError> {
        self.lock(transaction).await?;
        if let Some(hindrance) = self.hindrance(transaction).await? {
            return Ok(hindrance);
        }
        self.insert(transaction).await?;
        let version = &self.version;
        let publish = values![
            self.draft.to_string(),
            column(version.number)?,
            self.kept_until,
        ];
        transaction
            .exactly(1, pack_sql::PUBLISH_DRAFT, publish)
            .await?;
        let released = release_draft(transaction, &self.draft).await?;
        doom(transaction, &released, version.published_at).await?;
        record_event(transaction, self.event.as_ref()).await?;
        Ok(Published::Version(version.number))
    }
}

/// See [`retire_version`](domain::PackStore::retire_version).
#[derive(Debug)]
pub(crate) struct RetireVersion {
    pub(crate) pack: PackName,
    pub(crate) number: u64,
    pub(crate) now: Timestamp,
}

impl Command for RetireVersion {
    type Answer = bool;
    const DOING: &'static str = "retire a version";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<bool, MetadataError> {
        let lock = Lock::Version(&self.pack, self.number);
        transaction.lock(lock).await?;
        let version = values![self.pack.as_str(), sought(self.number)];
        let id: Option<(i64,)> = transaction.row(pack_sql::VERSION_ID, version).await?;
        let Some((id,)) = id else {
            return Ok(false);
        };
        let id = values![id];
        let released: Vec<String> = transaction.scalars(pack_sql::RELEASE_VERSION, id).await?;
        transaction.exactly(1, pack_sql::DELETE_VERSION, id).await?;
        lock_and_doom(transaction, &released, self.now).await?;
        Ok(true)
    }
}

/// See [`register_need`](domain::PackStore::register_need).
#[derive(Debug)]
pub(crate) struct RegisterNeed {
    pub(crate) pack: PackName,
    pub(crate) number: u64,
    pub(crate) sha256: Sha256Digest,
    pub(crate) encoded: Vec<u8>,
    pub(crate) expires_at: Timestamp,
}

impl Command for RegisterNeed {
    type Answer = bool;
    const DOING: &'static str = "register a need";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<bool, MetadataError> {
        let lock = Lock::Version(&self.pack, self.number);
        transaction.lock(lock).await?;
        let values = values![
            self.pack.as_str(),
            sought(self.number),
            &self.sha256,
            self.encoded.as_slice(),
            self.expires_at,
        ];
        let registered = transaction.run(pack_sql::REGISTER_NEED, values).await?;
        Ok(registered == 1)
    }
}

/// See [`forget_needs`](domain::PackStore::forget_needs).
#[derive(Debug)]
pub(crate) struct ForgetNeeds {
    pub(crate) now: Timestamp,
    pub(crate) limit: usize,
}

impl Command for ForgetNeeds {
    type Answer = u64;
    const DOING: &'static str = "forget needs";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<u64, MetadataError> {
        let values = values![self.now, limited(self.limit)];
        transaction.run(pack_sql::FORGET_NEEDS, values).await
    }
}
