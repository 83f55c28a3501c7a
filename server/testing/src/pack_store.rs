//! Contract of pack stores: one function for each behaviour, each given both ports of an empty
//! store.
//!
//! [`pack_store_contract!`](crate::pack_store_contract) generates a test for each of them.

#![expect(
    clippy::unwrap_used,
    reason = "a suite of tests, though not compiled as one"
)]

mod contents;
mod drafts;
mod needs;
mod publishing;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use archive::PackName;

use domain::digest::Sha256Digest;
use domain::file::{Content, WriteCondition};
use domain::ids::SystemRandomness;
use domain::metadata_store::MetadataError;
use domain::pack::{DraftRecord, PackVersion, Place, StoredContent};
use domain::pack_store::Published;
use domain::{BlobKey, DraftId, MetadataStore, PackStore, Timestamp};

pub use self::contents::*;
pub use self::drafts::*;
pub use self::needs::*;
pub use self::publishing::*;
pub use self::versions::*;

/// Generates a test for each behaviour that a pack store must have.
///
/// `$fresh` names an async function that returns the [`Ports`] of an empty store and a value that
/// is kept until the test ends.
#[macro_export]
macro_rules! pack_store_contract {
    ($fresh:path) => {
        $crate::pack_store_contract! {
            $fresh =>
            a_draft_reads_back
            of_an_unknown_draft_there_is_nothing
            a_draft_is_recorded_once
            a_draft_holds_its_tree
            a_draft_is_not_made_of_a_doomed_tree
            expired_drafts_are_found
            only_an_expired_draft_is_expired
            a_closed_draft_takes_no_contents
            dropped_blobs_are_doomed_with_their_contents
            a_draft_drops_only_what_it_was_given
            contents_read_back
            many_contents_are_stored_and_looked_up
            known_contents_keep_their_places
            contents_can_be_stored_again
            known_contents_are_held_where_they_lie
            a_draft_holds_what_it_goes_without
            an_only_draft_holds_what_others_let_go
            contents_lie_in_the_blobs_given
            a_blob_of_contents_has_one_content
            a_content_goes_with_any_of_its_blobs
            a_content_that_went_can_be_stored_anew
            a_version_holds_its_blobs_and_the_draft_none
            publishing_again_is_the_same_version
            only_the_next_number_is_published
            a_version_of_gone_blobs_is_not_published
            a_document_has_one_content
            only_a_draft_of_the_pack_is_published
            a_number_is_never_given_twice
            concurrent_publishes_get_distinct_numbers
            a_version_reads_back
            versions_are_listed_newest_first
            packs_are_listed_in_byte_order
            retiring_dooms_what_the_version_alone_held
            a_draft_keeps_what_a_version_lets_go
            a_file_keeps_what_a_pack_lets_go
            a_held_blob_is_not_forgotten
            pack_numbers_beyond_the_engine_are_refused
            a_need_reads_back
            a_need_goes_with_its_version
            needs_are_kept_as_long_as_anyone_asks
        }
    };
    ($fresh:path => $($behaviour:ident)*) => {
        $(
            #[tokio::test]
            async fn $behaviour() {
                let (ports, _keep) = $fresh().await;
                $crate::pack_store::$behaviour(&ports).await;
                ports.metadata.close().await;
            }
        )*
    };
}

/// Ports of one store.
#[derive(Debug, Clone)]
pub struct Ports {
    /// Port of uploads, files and doomed blobs.
    pub metadata: Arc<dyn MetadataStore>,
    /// Port of packs.
    pub packs: Arc<dyn PackStore>,
}

/// Time from which the tests count.
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};

/// Empty list of version numbers.
const NONE: [u64; 0] = [];

/// Returns the time `seconds` after `START`.
fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn name(text: &str) -> PackName {
    PackName::parse(text).unwrap()
}

fn digest(text: &str) -> Sha256Digest {
    Sha256Digest::of(text.as_bytes())
}

/// Returns a new blob of these bytes.
pub fn blob(bytes: &str) -> Content {
    Content {
        blob: BlobKey::random(&SystemRandomness),
        size: bytes.len() as u64,
        sha256: digest(bytes),
    }
}

/// Returns a new draft without a tree, which expires 3,600 s after `START`.
pub fn draft(pack: &str) -> DraftRecord {
    DraftRecord {
        id: DraftId::random(&SystemRandomness),
        pack: name(pack),
        tree: None,
        created_at: START,
        expires_at: at(3600),
        published: None,
    }
}

/// Returns a version with documents of its own, published 5 s after `START`.
pub fn version(pack: &str, number: u64) -> PackVersion {
    PackVersion {
        pack: name(pack),
        number,
        files: 3,
        size: 1000,
        catalogue: blob("catalogue"),
        catalogue_gzip: blob("gzip"),
        catalogue_zstd: blob("zstd"),
        forms: blob("forms"),
        places: blob("places"),
        published_at: at(5),
    }
}

/// Returns the content `text`, stored in `blob` in raw form only.
pub fn stored(text: &str, blob: &Content) -> StoredContent {
    StoredContent {
        sha256: digest(text),
        size: text.len() as u64,
        crc32: 7,
        raw: place(blob, 0),
        deflated: None,
    }
}

fn place(blob: &Content, start: u64) -> Place {
    Place {
        blob: blob.blob.clone(),
        blob_size: blob.size,
        start,
    }
}

fn documents(version: &PackVersion) -> Vec<BlobKey> {
    let documents = [
        &version.catalogue,
        &version.catalogue_gzip,
        &version.catalogue_zstd,
        &version.forms,
        &version.places,
    ];
    documents.map(|document| document.blob.clone()).to_vec()
}

/// Operations that several tests share.
impl Ports {
    async fn insert(&self, pack: &str) -> DraftRecord {
        let draft = draft(pack);
        self.packs.insert_draft(&draft).await.unwrap();
        draft
    }

    /// Gives a draft a blob that contains the content `text`.
    async fn give(&self, draft: &DraftRecord, text: &str, blob: &Content) {
        let given = self
            .packs
            .store_contents(
                &draft.id,
                std::slice::from_ref(blob),
                &[stored(text, blob)],
                draft.expires_at,
            )
            .await;
        assert!(given.unwrap());
    }

    async fn publish(&self, draft: &DraftRecord, number: u64, blobs: &[&Content]) -> PackVersion {
        let version = version(draft.pack.as_str(), number);
        let keys: Vec<BlobKey> = blobs.iter().map(|blob| blob.blob.clone()).collect();
        let published = self
            .packs
            .publish_version(&draft.id, &version, &keys, at(9), None)
            .await;
        assert_eq!(published.unwrap(), Published::Version(number));
        version
    }

    /// Publishes a version that holds `blobs`, the first of which is new and contains the content
    /// `text`.
    async fn version_of(
        &self,
        pack: &str,
        number: u64,
        text: &str,
        blobs: &[&Content],
    ) -> PackVersion {
        let draft = self.insert(pack).await;
        self.give(&draft, text, blobs[0]).await;
        self.publish(&draft, number, blobs).await
    }

    async fn drop_blobs(&self, draft: &DraftRecord, blobs: &[&Content], now: Timestamp) {
        let keys: Vec<BlobKey> = blobs.iter().map(|blob| blob.blob.clone()).collect();
        let dropped = self.packs.drop_contents(&draft.id, &keys, now).await;
        dropped.unwrap();
    }

    async fn content(&self, text: &str) -> Option<StoredContent> {
        let mut found = self.packs.contents(&[digest(text)]).await.unwrap();
        assert!(found.len() <= 1);
        found.pop()
    }

    /// Returns all doomed blobs, sorted.
    async fn doomed(&self) -> Vec<BlobKey> {
        let doomed = self.metadata.doomed_blobs(at(1 << 30), 1000).await;
        sorted(doomed.unwrap())
    }

    async fn is_recorded(&self, blob: &BlobKey) -> bool {
        let known = self.metadata.known_blobs(std::slice::from_ref(blob)).await;
        !known.unwrap().is_empty()
    }

    /// Records a blob and dooms it.
    async fn doom(&self, blob: &Content) {
        let draft = self.insert("doomed").await;
        self.give(&draft, "in a doomed blob", blob).await;
        self.drop_blobs(&draft, &[blob], START).await;
    }

    async fn numbers(&self, pack: &str, before: Option<u64>, limit: usize) -> Vec<u64> {
        let versions = self.packs.versions(&name(pack), before, limit).await;
        let versions = versions.unwrap();
        versions.iter().map(|version| version.number).collect()
    }
}

fn sorted(mut keys: Vec<BlobKey>) -> Vec<BlobKey> {
    keys.sort_unstable();
    keys
}

fn is_failure<T>(answer: &Result<T, MetadataError>) -> bool {
    matches!(answer, Err(MetadataError::Failed { .. }))
}
