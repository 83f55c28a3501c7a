//! Changes of drafts and of the blobs that they hold.

use std::collections::BTreeMap;

use domain::file::Content;
use domain::metadata_store::MetadataError;
use domain::pack::{DraftRecord, StoredContent};
use domain::{BlobKey, DraftId, Timestamp};

use crate::engine::{Command, Lock, Transaction};
use crate::failures::failed;
use crate::rows::{blob_key, column};
use crate::values::{Column, values};
use crate::{pack_lists, pack_sql};

/// Maximum number of contents in one statement, which bounds its memory.
const CONTENTS_AT_A_TIME: usize = 2000;

/// See [`insert_draft`](domain::PackStore::insert_draft).
#[derive(Debug)]
pub(crate) struct InsertDraft(pub(crate) DraftRecord);

impl Command for InsertDraft {
    type Answer = ();
    const DOING: &'static str = "record a draft";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        let Self(draft) = self;
        if draft.published.is_some() {
            return Err(transaction.failed("a new draft must not be published"));
        }
        let tree = draft.tree.as_ref();
        let insert = values![
            draft.id.to_string(),
            draft.pack.as_str(),
            tree.map(|tree| tree.blob.as_str()),
            draft.created_at,
            draft.expires_at,
        ];
        transaction
            .exactly(1, pack_sql::INSERT_DRAFT, insert)
            .await?;
        let Some(tree) = tree else {
            return Ok(());
        };
        let hold = values![
            &tree.blob,
            column(tree.size)?,
            &tree.sha256,
            draft.id.to_string(),
        ];
        transaction.exactly(2, pack_sql::HOLD_TREE, hold).await
    }
}

/// See [`forget_draft`](domain::PackStore::forget_draft) and
/// [`expire_draft`](domain::PackStore::expire_draft).
#[derive(Debug)]
pub(crate) struct ForgetDraft {
    pub(crate) id: DraftId,
    /// Time by which the draft must have expired, if expiry is the reason.
    pub(crate) expired_at: Option<Timestamp>,
    pub(crate) now: Timestamp,
}

impl Command for ForgetDraft {
    type Answer = bool;
    const DOING: &'static str = "forget a draft";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<bool, MetadataError> {
        transaction.lock(Lock::Draft(&self.id)).await?;
        let id = self.id.to_string();
        let values = values![id.as_str(), self.expired_at];
        let (may_go,): (bool,) = transaction.one(pack_sql::MAY_FORGET_DRAFT, values).await?;
        if !may_go {
            return Ok(false);
        }
        let released = release_draft(transaction, &self.id).await?;
        let delete = values![id.as_str()];
        transaction
            .exactly(1, pack_sql::DELETE_DRAFT, delete)
            .await?;
        lock_and_doom(transaction, &released, self.now).await?;
        Ok(true)
    }
}

/// See [`store_contents`](domain::PackStore::store_contents).
#[derive(Debug)]
pub(crate) struct StoreContents {
    draft: DraftId,
    blobs: NeededBlobs,
    /// Contents in the order of digests, without repetition.
    contents: Vec<StoredContent>,
    expires_at: Timestamp,
}

impl StoreContents {
    pub(crate) fn new(
        draft: &DraftId,
        blobs: &[Content],
        contents: &[StoredContent],
        expires_at: Timestamp,
    ) -> Result<Self, MetadataError> {
        let blobs = NeededBlobs::new(blobs, Self::DOING)?;
        let places = contents.iter().flat_map(|content| {
            let deflated = content.deflated.iter().map(|(_, place)| place);
            deflated.chain([&content.raw])
        });
        for place in places {
            if !blobs.0.contains_key(&place.blob) {
                return Err(failed(Self::DOING, "a content is in none of the blobs"));
            }
        }
        // One order for all, so that no two such changes wait for each other; the engine also looks
        // them up faster. Of equal contents, the first counts.
        let mut contents = contents.to_vec();
        contents.sort_by_key(|content| content.sha256);
        contents.dedup_by_key(|content| content.sha256);
        Ok(Self {
            draft: *draft,
            blobs,
            contents,
            expires_at,
        })
    }
}

impl Command for StoreContents {
    type Answer = bool;
    const DOING: &'static str = "record contents";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<bool, MetadataError> {
        let draft = self.draft.to_string();
        let prolong = values![draft.as_str(), self.expires_at];
        // This locks the draft as well.
        if transaction.run(pack_sql::PROLONG_DRAFT, prolong).await? == 0 {
            return Ok(false);
        }
        self.blobs.record(transaction).await?;
        let blobs = Column::texts(self.blobs.keys());
        hold_by_draft(transaction, &self.draft, &blobs).await?;
        for contents in self.contents.chunks(CONTENTS_AT_A_TIME) {
            let digests = Column::digests(contents.iter().map(|content| &content.sha256));
            let others = values![&digests, &blobs];
            let table = table(contents)?;
            let table = values![table.as_slice()];
            transaction.run(pack_lists::STORE_CONTENTS, table).await?;
            // Storing locked the rows of known contents, so they keep their places until the
            // commit.
            let elsewhere: Vec<String> = transaction
                .scalars(pack_lists::OTHER_PLACES, others)
                .await?;
            if elsewhere.is_empty() {
                continue;
            }
            let keys: Vec<&str> = elsewhere.iter().map(String::as_str).collect();
            transaction.lock(Lock::Blobs(&keys)).await?;
            // Replaces contents in blobs that were doomed before the lock.
            transaction.run(pack_lists::STORE_CONTENTS, table).await?;
            let elsewhere: Vec<String> = transaction
                .scalars(pack_lists::OTHER_PLACES, others)
                .await?;
            let elsewhere = Column::texts(elsewhere.iter().map(String::as_str));
            hold_by_draft(transaction, &self.draft, &elsewhere).await?;
        }
        Ok(true)
    }
}

/// See [`hold_blobs`](domain::PackStore::hold_blobs).
#[derive(Debug)]
pub(crate) struct HoldBlobs {
    pub(crate) draft: DraftId,
    pub(crate) blobs: Vec<BlobKey>,
}

impl Command for HoldBlobs {
    type Answer = Option<Vec<BlobKey>>;
    const DOING: &'static str = "hold contents";

    async fn run<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> Result<Option<Vec<BlobKey>>, MetadataError> {
        transaction.lock(Lock::Draft(&self.draft)).await?;
        let draft = values![self.draft.to_string()];
        let (is_open,): (bool,) = transaction.one(pack_sql::IS_OPEN_DRAFT, draft).await?;
        if !is_open {
            return Ok(None);
        }
        let keys: Vec<&str> = self.blobs.iter().map(BlobKey::as_str).collect();
        transaction.lock(Lock::Blobs(&keys)).await?;
        let keys = Column::texts(keys);
        let held: Vec<String> = transaction
            .scalars(pack_lists::KNOWN_BLOBS, values![&keys])
            .await?;
        let known = Column::texts(held.iter().map(String::as_str));
        hold_by_draft(transaction, &self.draft, &known).await?;
        let held: Result<_, _> = held.iter().map(|key| blob_key(key)).collect();
        held.map(Some)
    }
}

/// See [`drop_contents`](domain::PackStore::drop_contents).
#[derive(Debug)]
pub(crate) struct DropContents {
    pub(crate) draft: DraftId,
    pub(crate) blobs: Vec<BlobKey>,
    pub(crate) now: Timestamp,
}

impl Command for DropContents {
    type Answer = ();
    const DOING: &'static str = "drop contents";

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        transaction.lock(Lock::Draft(&self.draft)).await?;
        let blobs = Column::texts(self.blobs.iter().map(BlobKey::as_str));
        let values = values![self.draft.to_string(), &blobs];
        let released: Vec<String> = transaction.scalars(pack_lists::DROP_BLOBS, values).await?;
        lock_and_doom(transaction, &released, self.now).await
    }
}

/// Blobs that become needed, without repetition, in the order of keys.
#[derive(Debug)]
pub(super) struct NeededBlobs(BTreeMap<BlobKey, Content>);

impl NeededBlobs {
    pub(super) fn new<'a>(
        contents: impl IntoIterator<Item = &'a Content>,
        doing: &'static str,
    ) -> Result<Self, MetadataError> {
        let mut blobs = BTreeMap::new();
        for content in contents {
            let first = blobs
                .entry(content.blob.clone())
                .or_insert_with(|| content.clone());
            if first != content {
                return Err(failed(doing, "a blob comes with two contents"));
            }
        }
        Ok(Self(blobs))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(BlobKey::as_str)
    }

    /// Records and locks the blobs. Fails if one is doomed, or recorded with another size or
    /// digest.
    pub(super) async fn record<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> Result<(), MetadataError> {
        let sizes = self
            .0
            .values()
            .map(|content| column(content.size).map(Some));
        let table = [
            Column::texts(self.keys()),
            Column::Ints(sizes.collect::<Result<_, _>>()?),
            Column::digests(self.0.values().map(|content| &content.sha256)),
        ];
        let values = values![table.as_slice()];
        transaction
            .exactly(self.0.len() as u64, pack_lists::RECORD_BLOBS, values)
            .await
    }
}

/// Arranges contents as the columns of their table, in order.
fn table(contents: &[StoredContent]) -> Result<[Column<'_>; 9], MetadataError> {
    let ints = |value: &dyn Fn(&StoredContent) -> Option<u64>| {
        let values = contents.iter().map(|content| value(content).map(column));
        let values: Result<_, _> = values.map(Option::transpose).collect();
        values.map(Column::Ints)
    };
    let deflated = || contents.iter().map(|content| content.deflated.as_ref());
    let forms = deflated().map(|deflated| deflated.map(|(form, _)| &form.sha256));
    let places = deflated().map(|deflated| deflated.map(|(_, place)| place.blob.as_str()));
    Ok([
        Column::digests(contents.iter().map(|content| &content.sha256)),
        ints(&|content| Some(content.size))?,
        ints(&|content| Some(content.crc32.into()))?,
        Column::texts(contents.iter().map(|content| content.raw.blob.as_str())),
        ints(&|content| Some(content.raw.start))?,
        Column::Texts(places.collect()),
        ints(&|content| content.deflated.as_ref().map(|(_, place)| place.start))?,
        ints(&|content| content.deflated.as_ref().map(|(form, _)| form.size))?,
        Column::Digests(forms.collect()),
    ])
}

/// Adds blobs to a draft.
async fn hold_by_draft<T: Transaction>(
    transaction: &mut T,
    draft: &DraftId,
    blobs: &Column<'_>,
) -> Result<(), MetadataError> {
    let values = values![draft.to_string(), blobs];
    let held = transaction.run(pack_lists::HOLD_BY_DRAFT, values).await;
    held.map(drop)
}

/// Removes all blobs from a draft, and returns them.
pub(super) async fn release_draft<T: Transaction>(
    transaction: &mut T,
    draft: &DraftId,
) -> Result<Vec<String>, MetadataError> {
    let draft = values![draft.to_string()];
    transaction.scalars(pack_sql::RELEASE_DRAFT, draft).await
}

/// Locks released blobs, and dooms those that nothing needs.
pub(super) async fn lock_and_doom<T: Transaction>(
    transaction: &mut T,
    blobs: &[String],
    at: Timestamp,
) -> Result<(), MetadataError> {
    let keys: Vec<&str> = blobs.iter().map(String::as_str).collect();
    transaction.lock(Lock::Blobs(&keys)).await?;
    doom(transaction, blobs, at).await
}

/// Dooms the blobs that nothing needs. Contents in them become unknown. The blobs must be locked.
pub(super) async fn doom<T: Transaction>(
    transaction: &mut T,
    blobs: &[String],
    at: Timestamp,
) -> Result<(), MetadataError> {
    if blobs.is_empty() {
        return Ok(());
    }
    let blobs = Column::texts(blobs.iter().map(String::as_str));
    let doom = values![&blobs, at];
    let doomed = transaction.run(pack_lists::DOOM_BLOBS, doom).await;
    doomed.map(drop)
}
