//! Contract of metadata stores: one function for each behaviour, each given an empty store.
//!
//! [`metadata_store_contract!`](crate::metadata_store_contract) generates a test for each of them.

#![expect(
    clippy::unwrap_used,
    reason = "a suite of tests, though not compiled as one"
)]

use std::time::Duration;

use futures::future::join_all;
use protocol::upload::{Complete, Open};

use domain::digest::{Hasher, Sha256Digest};
use domain::file::{Content, DELETED_REMEMBERED, Description, File, WriteCondition};
use domain::ids::SystemRandomness;
use domain::metadata_store::{
    Ask, Asked, Deleted, Guarded, Hold, Inserted, Lease, MetadataError, Seen, Written, node_lease,
};
use domain::upload::{Completed, Gone, Plan, Progress, Reported, Target, Upload, UploadState};
use domain::{BlobKey, FilePath, MetadataStore, NodeId, Timestamp, UploadId};

/// Generates a test for each behaviour that a metadata store must have.
///
/// `$fresh` names an async function that returns an empty store behind a pointer and a value that
/// is kept until the test ends.
#[macro_export]
macro_rules! metadata_store_contract {
    ($fresh:path) => {
        $crate::metadata_store_contract! {
            $fresh =>
            an_upload_reads_back
            an_upload_without_extras_reads_back
            an_unknown_upload_is_none
            only_an_open_upload_is_inserted
            a_name_is_taken_once
            creation_is_idempotent
            an_idempotency_key_belongs_to_its_owner
            an_idempotency_key_finds_a_completed_upload
            concurrent_creations_make_one_upload
            a_claim_raises_the_epoch
            concurrent_claims_yield_distinct_epochs
            a_claim_names_the_holder
            a_claim_goes_by_what_was_seen
            a_holder_lets_go
            what_was_told_is_remembered
            what_was_told_is_forgotten_with_its_upload
            what_has_ended_has_no_holder
            a_node_that_is_gone_is_not_asked
            what_a_living_node_holds_is_not_expired
            only_the_last_holder_may_change_an_upload
            progress_is_recorded
            progress_never_goes_back
            numbers_beyond_the_engine_are_refused
            completing_publishes_the_file
            a_completed_upload_stays_readable
            completing_replaces_a_file
            completing_keeps_the_condition
            a_fenced_holder_learns_nothing_of_the_file
            an_ended_upload_is_gone
            an_upload_is_ended_whoever_holds_it
            a_complete_upload_is_ended_and_its_file_stays
            only_an_expired_upload_expires
            open_uploads_are_found_by_their_reference
            expired_uploads_are_found
            old_uploads_are_forgotten
            a_file_reads_back
            a_condition_decides_on_writing
            a_condition_decides_on_deleting
            what_was_there_before_has_a_time
            a_date_decides_on_writing
            one_of_many_creators_wins
            a_file_is_as_last_written
            files_are_listed_in_byte_order
            a_prefix_is_taken_literally
            listing_goes_on_after_a_path
            needed_and_doomed_blobs_are_known
            a_replaced_blob_is_doomed
            a_shared_blob_is_doomed_with_its_last_file
            writing_a_file_again_keeps_its_blob
            a_doomed_blob_is_not_needed_again
            a_blob_has_one_content
            doomed_blobs_are_found_by_time
            a_needed_blob_is_not_forgotten
            a_lease_is_one_nodes
            a_lease_is_renewed_and_given_back
            an_expired_lease_is_anyones
            of_many_takers_one_has_the_lease
            expired_leases_are_forgotten
            many_at_once_all_succeed
            a_sound_store_can_be_written
        }
    };
    ($fresh:path => $($behaviour:ident)*) => {
        $(
            #[tokio::test]
            async fn $behaviour() {
                let (store, _keep) = $fresh().await;
                $crate::metadata_store::$behaviour(&*store).await;
                store.close().await;
            }
        )*
    };
}

/// Time from which the tests count.
const START: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// Returns the time `seconds` after `START`.
fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

/// Returns a new upload to `path` without optional facts, which expires 3,600 s after `START`.
pub fn upload(path: &str) -> Upload {
    Upload {
        id: UploadId::random(&SystemRandomness),
        blob: BlobKey::random(&SystemRandomness),
        plan: Plan {
            target: Target::File(path.parse().unwrap()),
            condition: WriteCondition::default(),
            description: Description::default(),
            repr_digest: None,
            owner: None,
            client_ref: None,
            idempotency_key: None,
            tus_metadata: None,
            tus_concat: None,
        },
        epoch: 0,
        holder: None,
        reported: None,
        created_at: START,
        expires_at: at(3600),
        state: UploadState::Open(progress(0, None)),
    }
}

/// Returns the progress of an upload at `offset`.
pub fn progress(offset: u64, length: Option<u64>) -> Progress {
    let mut hasher = Hasher::new();
    hasher.update(&offset.to_be_bytes());
    Progress {
        open: Open { offset, length },
        hash: hasher.state(),
    }
}

/// Returns the outcome of an upload of `content` that is completed at `now`.
pub fn completed(content: &str, now: Timestamp) -> Completed {
    Completed {
        complete: Complete {
            length: content.len() as u64,
        },
        sha256: Sha256Digest::of(content.as_bytes()),
        at: now,
        replaced: false,
        version: None,
    }
}

/// Returns a file at `path` with a blob of its own.
pub fn file(path: &str, content: &str, modified_at: Timestamp) -> File {
    File {
        path: path.parse().unwrap(),
        content: Content {
            blob: BlobKey::random(&SystemRandomness),
            size: content.len() as u64,
            sha256: Sha256Digest::of(content.as_bytes()),
        },
        description: Description::default(),
        modified_at,
        previous_at: None,
    }
}

fn path(text: &str) -> FilePath {
    text.parse().unwrap()
}

const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};

fn if_absent() -> WriteCondition {
    WriteCondition {
        if_none_match: Some("*".to_owned()),
        ..ALWAYS
    }
}

fn if_match(etag: String) -> WriteCondition {
    WriteCondition {
        if_match: Some(etag),
        ..ALWAYS
    }
}

/// Inserts an upload, claims it, and returns it as claimed.
async fn claimed(store: &dyn MetadataStore, upload: &Upload) -> Upload {
    assert_eq!(store.insert_upload(upload).await.unwrap(), Inserted::New);
    store
        .claim_upload(&upload.id, Some(node()), None)
        .await
        .unwrap()
        .unwrap()
}

async fn put(store: &dyn MetadataStore, file: &File) -> Written {
    store.put_file(file, &ALWAYS, None).await.unwrap()
}

/// Returns the file at a path without `previous_at`, which has a test of its own.
async fn read(store: &dyn MetadataStore, path: &FilePath) -> Option<File> {
    let file = store.file(path).await.unwrap()?;
    Some(File {
        previous_at: None,
        ..file
    })
}

async fn is_known(store: &dyn MetadataStore, key: &BlobKey) -> bool {
    let known = store.known_blobs(std::slice::from_ref(key)).await.unwrap();
    !known.is_empty()
}

async fn doomed(store: &dyn MetadataStore) -> Vec<BlobKey> {
    store.doomed_blobs(at(1 << 30), 1000).await.unwrap()
}

async fn listed(
    store: &dyn MetadataStore,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Vec<String> {
    let files = store.list_files(prefix, after, limit).await.unwrap();
    files.iter().map(|file| file.path.to_string()).collect()
}

/// All facts of an upload are kept exactly.
pub async fn an_upload_reads_back(store: &dyn MetadataStore) {
    let mut upload = upload("Grüße/日本 100%_'\"; drop table files.txt");
    upload.plan = Plan {
        target: upload.plan.target,
        condition: WriteCondition {
            if_match: Some("\"a\", W/\"b\"".to_owned()),
            if_none_match: Some("*".to_owned()),
            if_unmodified_since: Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned()),
        },
        description: Description {
            media_type: Some("text/plain; charset=utf-8".to_owned()),
            filename: Some("Ünïcode 🎉.txt".to_owned()),
        },
        repr_digest: Some("sha-256=:AAAA:".to_owned()),
        owner: Some(String::new()),
        client_ref: Some("camera roll/17".to_owned()),
        idempotency_key: Some("\"8e03978e\"".to_owned()),
        tus_metadata: Some("filename d29ybGQ=,is_confidential".to_owned()),
        tus_concat: Some("partial".to_owned()),
    };
    upload.epoch = 7;
    upload.holder = Some(node());
    upload.state = UploadState::Open(progress(5, Some(i64::MAX as u64)));
    assert_eq!(store.insert_upload(&upload).await.unwrap(), Inserted::New);
    assert_eq!(store.upload(&upload.id).await.unwrap(), Some(upload));
}

/// Absent facts of an upload stay absent.
pub async fn an_upload_without_extras_reads_back(store: &dyn MetadataStore) {
    let upload = upload("a");
    assert_eq!(store.insert_upload(&upload).await.unwrap(), Inserted::New);
    assert_eq!(store.upload(&upload.id).await.unwrap(), Some(upload));
}

/// An unknown upload can be neither read nor changed.
pub async fn an_unknown_upload_is_none(store: &dyn MetadataStore) {
    let upload = upload("a");
    assert_eq!(store.upload(&upload.id).await.unwrap(), None);
    assert_eq!(
        store
            .claim_upload(&upload.id, Some(node()), None)
            .await
            .unwrap(),
        None
    );
    let recorded = store
        .record_progress(&upload.id, 0, &progress(0, None), at(9), Hold::Keep)
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Fenced);
    let ended = store
        .end_upload(&upload.id, None, Gone::Cancelled, at(9))
        .await;
    assert_eq!(ended.unwrap(), Guarded::Fenced);
    let written = store
        .complete_upload(&upload, &completed("x", at(1)), at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::Fenced);
    assert_eq!(store.file(upload.path().unwrap()).await.unwrap(), None);
    assert!(!is_known(store, &upload.blob).await);
}

/// Inserting an upload that is complete or gone fails and records nothing.
pub async fn only_an_open_upload_is_inserted(store: &dyn MetadataStore) {
    for state in [
        UploadState::Gone(Gone::Invalid),
        UploadState::Complete(completed("x", START)),
    ] {
        let upload = Upload {
            state,
            ..upload("a")
        };
        assert!(store.insert_upload(&upload).await.is_err());
        assert_eq!(store.upload(&upload.id).await.unwrap(), None);
    }
}

/// No two uploads have the same id, and no two open ones the same blob.
pub async fn a_name_is_taken_once(store: &dyn MetadataStore) {
    let first = upload("a");
    assert_eq!(store.insert_upload(&first).await.unwrap(), Inserted::New);
    let same_id = Upload {
        id: first.id,
        ..upload("b")
    };
    assert!(store.insert_upload(&same_id).await.is_err());
    let same_blob = Upload {
        blob: first.blob.clone(),
        ..upload("b")
    };
    assert!(store.insert_upload(&same_blob).await.is_err());
    assert_eq!(store.upload(&first.id).await.unwrap(), Some(first));
}

fn with_key(owner: Option<&str>, key: &str) -> Upload {
    let mut upload = upload("a");
    upload.plan.owner = owner.map(str::to_owned);
    upload.plan.idempotency_key = Some(key.to_owned());
    upload
}

/// A second creation with the same owner and key finds the first upload, in its current state.
pub async fn creation_is_idempotent(store: &dyn MetadataStore) {
    let first = with_key(Some("ann"), "k");
    let first = claimed(store, &first).await;
    let second = with_key(Some("ann"), "k");
    assert_eq!(
        store.insert_upload(&second).await.unwrap(),
        Inserted::Existing(Box::new(first.clone()))
    );
    assert_eq!(store.upload(&second.id).await.unwrap(), None);
    assert!(!is_known(store, &second.blob).await);
    assert_eq!(store.upload(&first.id).await.unwrap(), Some(first));
}

/// Equal idempotency keys of different owners, or of none, are different keys; uploads without a
/// key never match.
pub async fn an_idempotency_key_belongs_to_its_owner(store: &dyn MetadataStore) {
    for upload in [
        with_key(Some("ann"), "k"),
        with_key(Some("bob"), "k"),
        with_key(Some(""), "k"),
        with_key(None, "k"),
        with_key(Some("ann"), "K"),
        upload("a"),
        upload("a"),
    ] {
        assert_eq!(store.insert_upload(&upload).await.unwrap(), Inserted::New);
    }
    for (owner, key) in [(Some("bob"), "k"), (Some(""), "k"), (None, "k")] {
        let again = store.insert_upload(&with_key(owner, key)).await.unwrap();
        let Inserted::Existing(found) = again else {
            panic!("{owner:?} made a second upload");
        };
        assert_eq!(found.plan.owner.as_deref(), owner);
    }
}

/// An idempotency key finds its completed upload until the upload is forgotten. The key of a
/// cancelled upload is free again.
pub async fn an_idempotency_key_finds_a_completed_upload(store: &dyn MetadataStore) {
    let gone = with_key(None, "gone");
    store.insert_upload(&gone).await.unwrap();
    let ended = store
        .end_upload(&gone.id, None, Gone::Cancelled, at(9))
        .await;
    ended.unwrap();
    let again = store.insert_upload(&with_key(None, "gone")).await.unwrap();
    assert_eq!(again, Inserted::New);
    let whole = claimed(store, &with_key(None, "whole")).await;
    let written = store
        .complete_upload(&whole, &completed("x", at(1)), at(9), None)
        .await;
    written.unwrap();
    let again = store.insert_upload(&with_key(None, "whole")).await.unwrap();
    let Inserted::Existing(found) = again else {
        panic!("the completed upload was not found");
    };
    assert_eq!(Some(*found), store.upload(&whole.id).await.unwrap());
    store.forget_uploads(at(9), 10).await.unwrap();
    let again = store.insert_upload(&with_key(None, "whole")).await.unwrap();
    assert_eq!(again, Inserted::New);
}

/// Concurrent creations with one key make one upload, which all of them return.
pub async fn concurrent_creations_make_one_upload(store: &dyn MetadataStore) {
    let uploads: Vec<Upload> = (0..32).map(|_| with_key(Some("ann"), "k")).collect();
    let inserted = join_all(uploads.iter().map(|upload| store.insert_upload(upload))).await;
    let mut found = Vec::new();
    for (inserted, upload) in inserted.into_iter().zip(&uploads) {
        match inserted.unwrap() {
            Inserted::New => found.push(upload.id),
            Inserted::Existing(existing) => assert!(uploads.contains(&existing)),
        }
    }
    let [made] = found[..] else {
        panic!("{} uploads were made", found.len());
    };
    for upload in &uploads {
        let there = store.upload(&upload.id).await.unwrap().is_some();
        assert_eq!(there, upload.id == made);
    }
}

/// A claim raises the epoch, records its node, and changes nothing else.
pub async fn a_claim_raises_the_epoch(store: &dyn MetadataStore) {
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    for epoch in 1..4 {
        let holder = Some(node());
        let claimed = store.claim_upload(&upload.id, holder, None).await.unwrap();
        let expected = Upload {
            epoch,
            holder,
            ..upload.clone()
        };
        assert_eq!(claimed, Some(expected.clone()));
        assert_eq!(store.upload(&upload.id).await.unwrap(), Some(expected));
    }
}

/// No two claims get the same epoch.
pub async fn concurrent_claims_yield_distinct_epochs(store: &dyn MetadataStore) {
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let claims =
        join_all((0..32).map(|_| store.claim_upload(&upload.id, Some(node()), None))).await;
    let mut epochs: Vec<u64> = claims
        .into_iter()
        .map(|claim| claim.unwrap().unwrap().epoch)
        .collect();
    epochs.sort_unstable();
    assert_eq!(epochs, (1..=32).collect::<Vec<u64>>());
}

async fn holder(store: &dyn MetadataStore, id: &UploadId) -> Option<NodeId> {
    store.upload(id).await.unwrap().unwrap().holder
}

/// The recorded node is that of the newest claim, or none.
pub async fn a_claim_names_the_holder(store: &dyn MetadataStore) {
    let nodes = [node(), node()];
    let mut upload = upload("a");
    upload.holder = Some(nodes[0]);
    store.insert_upload(&upload).await.unwrap();
    for (n, claimer) in [Some(nodes[1]), None, Some(nodes[0])]
        .into_iter()
        .enumerate()
    {
        let claimed = store.claim_upload(&upload.id, claimer, None).await;
        let claimed = claimed.unwrap().unwrap();
        assert_eq!((claimed.holder, claimed.epoch), (claimer, n as u64 + 1));
        assert_eq!(store.upload(&upload.id).await.unwrap(), Some(claimed));
    }
}

/// A claim that expects another state than the recorded one is refused and changes nothing.
pub async fn a_claim_goes_by_what_was_seen(store: &dyn MetadataStore) {
    let node = Some(node());
    for (length, news) in [(None, None), (Some(9), Some(5))] {
        let upload = claimed(store, &upload("a")).await;
        let step = progress(7, length);
        let recorded = store
            .record_progress(&upload.id, upload.epoch, &step, at(9), Hold::Keep)
            .await;
        assert_eq!(recorded.unwrap(), Guarded::Done);
        let news = news.map(|offset| Reported { offset, at: at(1) });
        tell(store, &upload, news).await;
        let upload = store.upload(&upload.id).await.unwrap().unwrap();
        let seen = Seen::of(&upload).unwrap();
        let open = |offset, length| Seen {
            open: Open { offset, length },
            ..seen
        };
        let reported = |reported| Seen { reported, ..seen };
        let others = [
            open(6, length),
            open(8, length),
            open(7, Some(8)),
            open(7, length.xor(Some(9))),
            reported(Some(4)),
            reported(seen.reported.xor(Some(5))),
        ];
        for other in others {
            let claim = store.claim_upload(&upload.id, node, Some(other)).await;
            assert_eq!(claim.unwrap().as_ref(), Some(&upload), "{other:?}");
            assert_eq!(
                store.upload(&upload.id).await.unwrap().as_ref(),
                Some(&upload)
            );
        }
        let claim = store.claim_upload(&upload.id, node, Some(seen)).await;
        let expected = Upload {
            epoch: upload.epoch + 1,
            holder: node,
            ..upload
        };
        assert_eq!(claim.unwrap(), Some(expected));
    }
}

/// A claim is released with its last record or separately, and only under its own epoch.
pub async fn a_holder_lets_go(store: &dyn MetadataStore) {
    let upload = claimed(store, &upload("a")).await;
    let node = upload.holder;
    let record = async |offset, hold| {
        let step = progress(offset, None);
        let recorded = store
            .record_progress(&upload.id, upload.epoch, &step, at(9), hold)
            .await;
        assert_eq!(recorded.unwrap(), Guarded::Done);
        holder(store, &upload.id).await
    };
    assert!(node.is_some());
    assert_eq!(record(5, Hold::Keep).await, node);
    assert_eq!(record(6, Hold::Release).await, None);
    assert_eq!(record(7, Hold::Keep).await, None);

    let upload = store
        .claim_upload(&upload.id, node, None)
        .await
        .unwrap()
        .unwrap();
    let release = async |epoch| {
        store.release_upload(&upload.id, epoch).await.unwrap();
        holder(store, &upload.id).await
    };
    assert_eq!(release(upload.epoch - 1).await, node);
    assert_eq!(release(upload.epoch + 1).await, node);
    assert_eq!(release(upload.epoch).await, None);

    // Progress behind the recorded offset changes nothing but the claim.
    let upload = store
        .claim_upload(&upload.id, node, None)
        .await
        .unwrap()
        .unwrap();
    let behind = progress(1, None);
    let recorded = store
        .record_progress(&upload.id, upload.epoch, &behind, at(99), Hold::Release)
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Done);
    let released = Upload {
        holder: None,
        ..upload.clone()
    };
    assert_eq!(store.upload(&upload.id).await.unwrap(), Some(released));
}

async fn reported(store: &dyn MetadataStore, id: &UploadId) -> Option<Reported> {
    store.upload(id).await.unwrap().unwrap().reported
}

async fn tell(store: &dyn MetadataStore, upload: &Upload, reported: Option<Reported>) {
    let guarded = store
        .report_offset(&upload.id, upload.epoch, reported)
        .await;
    assert_eq!(guarded.unwrap(), Guarded::Done);
    assert_eq!(self::reported(store, &upload.id).await, reported);
}

/// The reported offset is remembered, even across claims, until an append settles it.
pub async fn what_was_told_is_remembered(store: &dyn MetadataStore) {
    let upload = claimed(store, &upload("a")).await;
    let id = &upload.id;
    assert_eq!(reported(store, id).await, None);
    for offset in [5, 3, i64::MAX as u64] {
        let news = Some(Reported {
            offset,
            at: at(offset % 100),
        });
        tell(store, &upload, news).await;
    }
    let last = reported(store, id).await;
    store.release_upload(id, upload.epoch).await.unwrap();
    let before = upload.epoch;
    let upload = store
        .claim_upload(id, Some(node()), None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(upload.reported, last);
    // A report under an epoch other than the current one is outdated.
    let old = Some(Reported {
        offset: 1,
        at: at(1),
    });
    for (epoch, news) in [(before, old), (before, None), (upload.epoch + 1, old)] {
        let guarded = store.report_offset(id, epoch, news).await.unwrap();
        assert_eq!(
            (guarded, reported(store, id).await),
            (Guarded::Fenced, last)
        );
    }
    // Progress behind the recorded offset settles the report, too.
    for (hold, offset, expected) in [
        (Hold::Keep, 5, last),
        (Hold::Release, 6, last),
        (Hold::Settle, 7, None),
        (Hold::Settle, 1, None),
    ] {
        tell(store, &upload, last).await;
        let step = progress(offset, None);
        let recorded = store
            .record_progress(id, upload.epoch, &step, at(9), hold)
            .await;
        assert_eq!(recorded.unwrap(), Guarded::Done);
        assert_eq!(reported(store, id).await, expected, "{hold:?}");
    }
    tell(store, &upload, last).await;
    tell(store, &upload, None).await;
}

/// The reported offset is forgotten when its upload is gone, but not when the upload completes: the
/// client may not have learned of the completion.
pub async fn what_was_told_is_forgotten_with_its_upload(store: &dyn MetadataStore) {
    let news = Some(Reported {
        offset: 1,
        at: at(1),
    });
    let complete = claimed(store, &upload("a")).await;
    tell(store, &complete, news).await;
    let written = store
        .complete_upload(&complete, &completed("x", at(1)), at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::Created);
    assert_eq!(reported(store, &complete.id).await, news);
    tell(store, &complete, None).await;

    let gone = claimed(store, &upload("b")).await;
    tell(store, &gone, news).await;
    let ended = store
        .end_upload(&gone.id, None, Gone::Cancelled, at(9))
        .await;
    assert_eq!(ended.unwrap(), Guarded::Done);
    assert_eq!(reported(store, &gone.id).await, None);
    let epoch = store.upload(&gone.id).await.unwrap().unwrap().epoch;
    for epoch in [gone.epoch, epoch] {
        let guarded = store.report_offset(&gone.id, epoch, news).await.unwrap();
        let reported = reported(store, &gone.id).await;
        assert_eq!((guarded, reported), (Guarded::Fenced, None));
    }
    // Nothing is remembered of an unknown upload.
    let never = upload("c");
    let guarded = store.report_offset(&never.id, never.epoch, news).await;
    assert_eq!(guarded.unwrap(), Guarded::Fenced);
    assert_eq!(store.upload(&never.id).await.unwrap(), None);
}

/// An upload that is complete or gone is released, and cannot be claimed.
pub async fn what_has_ended_has_no_holder(store: &dyn MetadataStore) {
    let complete = claimed(store, &upload("a")).await;
    let written = store
        .complete_upload(&complete, &completed("x", at(1)), at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::Created);
    let gone = claimed(store, &upload("b")).await;
    let ended = store
        .end_upload(&gone.id, Some(gone.epoch), Gone::Invalid, at(9))
        .await;
    assert_eq!(ended.unwrap(), Guarded::Done);
    let expired = claimed(store, &upload("c")).await;
    let ended = store
        .expire_upload(&expired.id, expired.expires_at, at(1 << 20))
        .await;
    assert_eq!(ended.unwrap(), Guarded::Done);
    for upload in [complete, gone, expired] {
        assert_eq!(holder(store, &upload.id).await, None);
        // A later claim has no effect.
        let claimed = store
            .claim_upload(&upload.id, Some(node()), None)
            .await
            .unwrap();
        assert_eq!(claimed.unwrap().holder, None);
    }
}

/// A node is asked to yield only if it is alive and has the claim with the given epoch.
pub async fn a_node_that_is_gone_is_not_asked(store: &dyn MetadataStore) {
    let upload = claimed(store, &upload("a")).await;
    let ask = Ask {
        upload: upload.id,
        node: upload.holder.unwrap(),
        epoch: upload.epoch,
    };
    assert_eq!(store.ask_to_yield(&ask).await.unwrap(), Asked::Nobody);
    let alive = node_lease(ask.node);
    let lapsed = store.lease(&alive, ask.node, Duration::ZERO).await;
    assert!(lapsed.unwrap().is_some());
    assert_eq!(store.ask_to_yield(&ask).await.unwrap(), Asked::Nobody);
    assert!(lease(store, &alive, ask.node).await.is_some());
    let other = node();
    assert!(lease(store, &node_lease(other), other).await.is_some());
    let others = [
        Ask { node: other, ..ask },
        Ask {
            epoch: ask.epoch + 1,
            ..ask
        },
        Ask {
            epoch: ask.epoch - 1,
            ..ask
        },
        Ask {
            upload: self::upload("b").id,
            ..ask
        },
    ];
    for ask in others {
        assert_eq!(store.ask_to_yield(&ask).await.unwrap(), Asked::Nobody);
    }
}

/// An overdue upload is not listed as expired while another living node has its claim.
pub async fn what_a_living_node_holds_is_not_expired(store: &dyn MetadataStore) {
    let held = claimed(store, &upload("a")).await;
    let node = held.holder.unwrap();
    let free = upload("b");
    store.insert_upload(&free).await.unwrap();
    let expired_for = async |node| {
        let found = store.expired_uploads(at(1 << 20), node, 9).await.unwrap();
        let mut ids: Vec<UploadId> = found.iter().map(|upload| upload.id).collect();
        ids.sort_unstable();
        ids
    };
    let expired = async || expired_for(self::node()).await;
    let mut both = vec![held.id, free.id];
    both.sort_unstable();
    assert_eq!(expired().await, both);
    assert!(lease(store, &node_lease(node), node).await.is_some());
    assert_eq!(expired().await, [free.id]);
    // The node itself knows whether it works on the upload.
    assert_eq!(expired_for(node).await, both);
    store.release_lease(&node_lease(node), node).await.unwrap();
    assert_eq!(expired().await, both);
}

/// An outdated claim is fenced in every change.
pub async fn only_the_last_holder_may_change_an_upload(store: &dyn MetadataStore) {
    let old = claimed(store, &upload("a")).await;
    let new = store
        .claim_upload(&old.id, Some(node()), None)
        .await
        .unwrap()
        .unwrap();
    let recorded = store
        .record_progress(&old.id, old.epoch, &progress(9, None), at(9), Hold::Keep)
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Fenced);
    let written = store
        .complete_upload(&old, &completed("old", at(1)), at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::Fenced);
    let ended = store
        .end_upload(&old.id, Some(old.epoch), Gone::Invalid, at(9))
        .await;
    assert_eq!(ended.unwrap(), Guarded::Fenced);
    // An epoch that was never issued is fenced, too.
    let recorded = store
        .record_progress(
            &old.id,
            new.epoch + 1,
            &progress(9, None),
            at(9),
            Hold::Keep,
        )
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Fenced);
    assert_eq!(store.upload(&new.id).await.unwrap(), Some(new.clone()));
    assert_eq!(store.file(new.path().unwrap()).await.unwrap(), None);

    let recorded = store
        .record_progress(&new.id, new.epoch, &progress(9, None), at(9), Hold::Keep)
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Done);
}

/// Progress updates the offset, length, hash state and expiry.
pub async fn progress_is_recorded(store: &dyn MetadataStore) {
    let mut upload = claimed(store, &upload("a")).await;
    for (offset, length, seconds) in [
        (0, None, 5000),
        (10, None, 6000),
        (10, Some(30), 7000),
        (30, Some(30), 4000),
    ] {
        let step = progress(offset, length);
        upload.expires_at = at(seconds);
        upload.state = UploadState::Open(step.clone());
        let recorded = store
            .record_progress(
                &upload.id,
                upload.epoch,
                &step,
                upload.expires_at,
                Hold::Keep,
            )
            .await;
        assert_eq!(recorded.unwrap(), Guarded::Done);
        assert_eq!(
            store.upload(&upload.id).await.unwrap().as_ref(),
            Some(&upload)
        );
    }
}

/// Progress behind the recorded offset changes nothing, but is not fenced.
pub async fn progress_never_goes_back(store: &dyn MetadataStore) {
    let upload = claimed(store, &upload("a")).await;
    let record = async |offset, seconds| {
        let step = progress(offset, Some(99));
        let recorded = store
            .record_progress(&upload.id, upload.epoch, &step, at(seconds), Hold::Keep)
            .await;
        recorded.unwrap()
    };
    assert_eq!(record(20, 5000).await, Guarded::Done);
    let before = store.upload(&upload.id).await.unwrap();
    assert_eq!(record(19, 6000).await, Guarded::Done);
    assert_eq!(store.upload(&upload.id).await.unwrap(), before);
}

/// Numbers that the engine cannot hold are refused, not altered.
pub async fn numbers_beyond_the_engine_are_refused(store: &dyn MetadataStore) {
    let huge = Upload {
        state: UploadState::Open(progress(0, Some(u64::MAX))),
        ..upload("a")
    };
    let inserted = store.insert_upload(&huge).await;
    assert!(matches!(inserted, Err(MetadataError::Full)), "{inserted:?}");
    assert_eq!(store.upload(&huge.id).await.unwrap(), None);

    let holder = claimed(store, &upload("b")).await;
    let step = progress(1 << 63, None);
    let recorded = store
        .record_progress(&holder.id, holder.epoch, &step, at(9), Hold::Keep)
        .await;
    assert!(matches!(recorded, Err(MetadataError::Full)));
    assert_eq!(store.upload(&holder.id).await.unwrap(), Some(holder));
}

/// A file and the completion of its upload are recorded together or not at all.
pub async fn completing_publishes_the_file(store: &dyn MetadataStore) {
    let mut upload = upload("a/b");
    upload.plan.description.media_type = Some("text/plain".to_owned());
    upload.plan.description.filename = Some("b.txt".to_owned());
    let upload = claimed(store, &upload).await;
    let completed = completed("hello", at(1));
    let written = store
        .complete_upload(&upload, &completed, at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::Created);
    let file = store.file(upload.path().unwrap()).await.unwrap();
    assert_eq!(file, upload.file(&completed));
    assert!(is_known(store, &upload.blob).await);
    assert_eq!(doomed(store).await, []);
}

/// A completed upload stays readable and can no longer be changed.
pub async fn a_completed_upload_stays_readable(store: &dyn MetadataStore) {
    let upload = claimed(store, &upload("a")).await;
    let completed = completed("hello", at(1));
    let written = store
        .complete_upload(&upload, &completed, at(9), None)
        .await;
    written.unwrap();
    let expected = Upload {
        expires_at: at(9),
        holder: None,
        state: UploadState::Complete(completed.clone()),
        ..upload.clone()
    };
    let read = store.upload(&upload.id).await.unwrap();
    assert_eq!(read.as_ref(), Some(&expected));
    let claim = store
        .claim_upload(&upload.id, Some(node()), None)
        .await
        .unwrap();
    assert_eq!(claim.as_ref(), Some(&expected));

    let recorded = store
        .record_progress(
            &upload.id,
            upload.epoch,
            &progress(9, None),
            at(99),
            Hold::Keep,
        )
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Fenced);
    let written = store
        .complete_upload(&upload, &completed, at(99), None)
        .await;
    assert_eq!(written.unwrap(), Written::Fenced);

    let deleted = store
        .delete_file(upload.path().unwrap(), &ALWAYS, at(2))
        .await;
    deleted.unwrap();
    let read = store.upload(&upload.id).await.unwrap();
    assert_eq!(read, Some(expected));
}

/// A completion replaces an existing file, dooms its blob, and is recorded as a replacement.
pub async fn completing_replaces_a_file(store: &dyn MetadataStore) {
    let old = file("a", "old", START);
    put(store, &old).await;
    let upload = claimed(store, &upload("a")).await;
    let completed = completed("new", at(1));
    let written = store
        .complete_upload(&upload, &completed, at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::Replaced);
    let read = store.upload(&upload.id).await.unwrap().unwrap();
    assert_eq!(
        read.state,
        UploadState::Complete(Completed {
            replaced: true,
            ..completed.clone()
        })
    );
    let current = store.file(&old.path).await.unwrap();
    let expected = upload.file(&completed).map(|file| File {
        previous_at: Some(old.modified_at),
        ..file
    });
    assert_eq!(current, expected);
    assert_eq!(doomed(store).await, [old.content.blob]);
}

/// A completion whose condition fails changes nothing: the upload stays open and claimed.
pub async fn completing_keeps_the_condition(store: &dyn MetadataStore) {
    let current = file("a", "current", START);
    put(store, &current).await;
    let mut creating = upload("a");
    creating.plan.condition = if_absent();
    let creating = claimed(store, &creating).await;
    let mut updating = upload("none");
    updating.plan.condition = if_match(current.etag());
    let updating = claimed(store, &updating).await;

    let completed = completed("new", at(1));
    let written = store
        .complete_upload(&creating, &completed, at(9), None)
        .await;
    assert_eq!(
        written.unwrap(),
        Written::ConditionFailed(Some(Box::new(current.clone())))
    );
    let written = store
        .complete_upload(&updating, &completed, at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::ConditionFailed(None));
    for upload in [&creating, &updating] {
        let read = store.upload(&upload.id).await.unwrap();
        assert_eq!(read.as_ref(), Some(upload));
    }
    let read = store.file(&current.path).await.unwrap();
    assert_eq!(read.as_ref(), Some(&current));
    assert_eq!(doomed(store).await, []);

    let deleted = store.delete_file(&current.path, &ALWAYS, at(2)).await;
    deleted.unwrap();
    let written = store
        .complete_upload(&creating, &completed, at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::Created);
}

/// A fenced completion does not reveal whether its condition holds.
pub async fn a_fenced_holder_learns_nothing_of_the_file(store: &dyn MetadataStore) {
    put(store, &file("a", "current", START)).await;
    let mut upload = upload("a");
    upload.plan.condition = if_absent();
    let old = claimed(store, &upload).await;
    store
        .claim_upload(&old.id, Some(node()), None)
        .await
        .unwrap();
    let written = store
        .complete_upload(&old, &completed("new", at(1)), at(9), None)
        .await;
    assert_eq!(written.unwrap(), Written::Fenced);
}

/// An upload's end is remembered with its reason; discarding the blob is left to the caller.
pub async fn an_ended_upload_is_gone(store: &dyn MetadataStore) {
    for gone in [Gone::Cancelled, Gone::Expired, Gone::Invalid] {
        let upload = claimed(store, &upload("a")).await;
        let step = progress(3, Some(5));
        let recorded = store
            .record_progress(&upload.id, upload.epoch, &step, at(5), Hold::Keep)
            .await;
        recorded.unwrap();
        assert!(is_known(store, &upload.blob).await);
        let ended = store
            .end_upload(&upload.id, Some(upload.epoch), gone, at(9))
            .await;
        assert_eq!(ended.unwrap(), Guarded::Done);
        let expected = Upload {
            expires_at: at(9),
            holder: None,
            state: UploadState::Gone(gone),
            ..upload.clone()
        };
        let read = store.upload(&upload.id).await.unwrap();
        assert_eq!(read.as_ref(), Some(&expected));
        let claim = store
            .claim_upload(&upload.id, Some(node()), None)
            .await
            .unwrap();
        assert_eq!(claim, Some(expected));
        assert!(!is_known(store, &upload.blob).await);

        let ended = store
            .end_upload(&upload.id, None, Gone::Cancelled, at(99))
            .await;
        assert_eq!(ended.unwrap(), Guarded::Fenced);
        let written = store
            .complete_upload(&upload, &completed("x", at(1)), at(99), None)
            .await;
        assert_eq!(written.unwrap(), Written::Fenced);
    }
    assert_eq!(store.file(&path("a")).await.unwrap(), None);
    assert_eq!(doomed(store).await, []);
}

/// An upload can be ended without an epoch, which fences its current claim.
pub async fn an_upload_is_ended_whoever_holds_it(store: &dyn MetadataStore) {
    let upload = claimed(store, &upload("a")).await;
    let ended = store
        .end_upload(&upload.id, None, Gone::Cancelled, at(9))
        .await;
    assert_eq!(ended.unwrap(), Guarded::Done);
    let recorded = store
        .record_progress(
            &upload.id,
            upload.epoch,
            &progress(9, None),
            at(99),
            Hold::Keep,
        )
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Fenced);
}

/// A complete upload can be ended only without an epoch; its file stays, and its idempotency key is
/// free again.
pub async fn a_complete_upload_is_ended_and_its_file_stays(store: &dyn MetadataStore) {
    let mut upload = upload("a");
    upload.plan.idempotency_key = Some("key".to_owned());
    let upload = claimed(store, &upload).await;
    let completed = completed("x", at(1));
    let written = store
        .complete_upload(&upload, &completed, at(50), None)
        .await;
    assert_eq!(written.unwrap(), Written::Created);
    let kept = store.upload(&upload.id).await.unwrap();
    for fenced in [
        store
            .end_upload(&upload.id, Some(upload.epoch), Gone::Invalid, at(99))
            .await,
        store.expire_upload(&upload.id, at(60), at(99)).await,
    ] {
        assert_eq!(fenced.unwrap(), Guarded::Fenced);
        assert_eq!(store.upload(&upload.id).await.unwrap(), kept);
    }

    let ended = store
        .end_upload(&upload.id, None, Gone::Cancelled, at(9))
        .await;
    assert_eq!(ended.unwrap(), Guarded::Done);
    let read = store.upload(&upload.id).await.unwrap().unwrap();
    assert_eq!(read.state, UploadState::Gone(Gone::Cancelled));
    assert_eq!((read.expires_at, read.plan.idempotency_key), (at(9), None));
    let file = store.file(&path("a")).await.unwrap().unwrap();
    assert_eq!(Some(file), upload.file(&completed));
    assert!(is_known(store, &upload.blob).await);
    assert_eq!(doomed(store).await, []);
    assert_eq!(store.forget_uploads(at(9), 10).await.unwrap(), 1);
}

/// Expiry is decided when the upload is ended, not when it is found.
pub async fn only_an_expired_upload_expires(store: &dyn MetadataStore) {
    let mut upload = upload("a");
    upload.expires_at = at(10);
    let upload = claimed(store, &upload).await;
    let early = store.expire_upload(&upload.id, at(9), at(99)).await;
    assert_eq!(early.unwrap(), Guarded::Fenced);
    let found = store.expired_uploads(at(10), node(), 10).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&upload));
    let step = progress(1, None);
    let recorded = store
        .record_progress(&upload.id, upload.epoch, &step, at(20), Hold::Keep)
        .await;
    recorded.unwrap();
    let overtaken = store.expire_upload(&upload.id, at(10), at(99)).await;
    assert_eq!(overtaken.unwrap(), Guarded::Fenced);
    let read = store.upload(&upload.id).await.unwrap().unwrap();
    assert_eq!(read.state, UploadState::Open(step));

    let ended = store.expire_upload(&upload.id, at(20), at(99)).await;
    assert_eq!(ended.unwrap(), Guarded::Done);
    let read = store.upload(&upload.id).await.unwrap().unwrap();
    assert_eq!(read.state, UploadState::Gone(Gone::Expired));
    assert_eq!(read.expires_at, at(99));
    let again = store.expire_upload(&upload.id, at(100), at(200)).await;
    assert_eq!(again.unwrap(), Guarded::Fenced);
}

/// Open uploads are found by exactly their owner and client reference, oldest first.
pub async fn open_uploads_are_found_by_their_reference(store: &dyn MetadataStore) {
    let make = async |owner: Option<&str>, client_ref: Option<&str>, created: u64| {
        let mut upload = upload("a");
        upload.plan.owner = owner.map(str::to_owned);
        upload.plan.client_ref = client_ref.map(str::to_owned);
        upload.created_at = at(created);
        store.insert_upload(&upload).await.unwrap();
        upload
    };
    let third = make(Some("ann"), Some("r"), 30).await;
    let first = make(Some("ann"), Some("r"), 10).await;
    let closed = make(Some("ann"), Some("r"), 15).await;
    let second = make(Some("ann"), Some("r"), 20).await;
    let bobs = make(Some("bob"), Some("r"), 1).await;
    let nobodys = make(None, Some("r"), 1).await;
    make(Some("ann"), Some("R"), 1).await;
    make(Some("ann"), None, 1).await;
    let ended = store
        .end_upload(&closed.id, None, Gone::Cancelled, at(9))
        .await;
    ended.unwrap();

    let find = async |owner, limit| store.open_uploads(owner, "r", limit).await.unwrap();
    assert_eq!(
        find(Some("ann"), 10).await,
        [first.clone(), second.clone(), third]
    );
    assert_eq!(find(Some("ann"), 2).await, [first, second]);
    assert_eq!(find(Some("bob"), 10).await, [bobs]);
    assert_eq!(find(None, 10).await, [nobodys]);
    assert_eq!(find(Some(""), 10).await, []);
}

/// Open uploads are found once they have expired, the longest overdue first.
pub async fn expired_uploads_are_found(store: &dyn MetadataStore) {
    let make = async |expires| {
        let mut upload = upload("a");
        upload.expires_at = at(expires);
        claimed(store, &upload).await
    };
    let second = make(20).await;
    let first = make(10).await;
    let third = make(30).await;
    let moved = make(5).await;
    let step = progress(1, None);
    let recorded = store
        .record_progress(&moved.id, moved.epoch, &step, at(100), Hold::Keep)
        .await;
    recorded.unwrap();
    let closed = make(5).await;
    let ended = store
        .end_upload(&closed.id, None, Gone::Cancelled, at(6))
        .await;
    ended.unwrap();

    let find = async |now, limit| store.expired_uploads(at(now), node(), limit).await.unwrap();
    assert_eq!(find(9, 10).await, []);
    assert_eq!(find(10, 10).await, std::slice::from_ref(&first));
    assert_eq!(
        find(99, 10).await,
        [first.clone(), second.clone(), third.clone()]
    );
    assert_eq!(find(99, 2).await, [first, second]);
    assert_eq!(find(99, 0).await, []);
}

/// Closed uploads are forgotten once they have expired; open uploads and files stay.
pub async fn old_uploads_are_forgotten(store: &dyn MetadataStore) {
    let mut open = upload("a");
    open.expires_at = at(1);
    store.insert_upload(&open).await.unwrap();
    let gone = claimed(store, &upload("b")).await;
    let ended = store
        .end_upload(&gone.id, None, Gone::Expired, at(10))
        .await;
    ended.unwrap();
    let whole = claimed(store, &upload("c")).await;
    let written = store
        .complete_upload(&whole, &completed("c", at(1)), at(20), None)
        .await;
    written.unwrap();
    let later = claimed(store, &upload("d")).await;
    let ended = store
        .end_upload(&later.id, None, Gone::Expired, at(30))
        .await;
    ended.unwrap();

    assert_eq!(store.forget_uploads(at(9), 10).await.unwrap(), 0);
    assert_eq!(store.forget_uploads(at(20), 1).await.unwrap(), 1);
    assert_eq!(store.upload(&gone.id).await.unwrap(), None);
    assert_eq!(store.forget_uploads(at(20), 10).await.unwrap(), 1);
    assert_eq!(store.upload(&whole.id).await.unwrap(), None);
    assert_eq!(store.forget_uploads(at(20), 10).await.unwrap(), 0);
    assert!(store.upload(&later.id).await.unwrap().is_some());
    assert!(store.upload(&open.id).await.unwrap().is_some());
    assert!(store.file(whole.path().unwrap()).await.unwrap().is_some());
    assert!(is_known(store, &whole.blob).await);
}

/// All facts of a file are kept, and absent facts stay absent.
pub async fn a_file_reads_back(store: &dyn MetadataStore) {
    let plain = file("a", "", START);
    let mut full = file("Grüße/日本 100%_'.txt", "hello", at(1));
    full.description = Description {
        media_type: Some("text/plain".to_owned()),
        filename: Some("Ünïcode 🎉.txt".to_owned()),
    };
    for file in [plain, full] {
        assert_eq!(store.file(&file.path).await.unwrap(), None);
        assert_eq!(put(store, &file).await, Written::Created);
        assert_eq!(store.file(&file.path).await.unwrap(), Some(file));
    }
}

/// A file is written only if its condition holds for the current file.
pub async fn a_condition_decides_on_writing(store: &dyn MetadataStore) {
    let one = file("a", "one", at(1));
    let two = file("a", "two", at(2));
    let three = file("a", "three", at(3));
    let write = async |file, condition| store.put_file(file, &condition, None).await.unwrap();
    assert_eq!(
        write(&one, if_match("*".to_owned())).await,
        Written::ConditionFailed(None)
    );
    assert!(!is_known(store, &one.content.blob).await);
    assert_eq!(write(&one, if_absent()).await, Written::Created);
    assert_eq!(
        write(&two, if_absent()).await,
        Written::ConditionFailed(Some(Box::new(one.clone())))
    );
    assert_eq!(write(&two, if_match(one.etag())).await, Written::Replaced);
    assert_eq!(
        write(&three, if_match(one.etag())).await,
        Written::ConditionFailed(Some(Box::new(File {
            previous_at: Some(one.modified_at),
            ..two.clone()
        })))
    );
    assert_eq!(read(store, &two.path).await, Some(two));
    assert!(!is_known(store, &three.content.blob).await);
}

/// A file is deleted only if its condition holds, and only once.
pub async fn a_condition_decides_on_deleting(store: &dyn MetadataStore) {
    let current = file("a", "current", START);
    put(store, &current).await;
    let delete = async |condition| {
        let deleted = store.delete_file(&current.path, &condition, at(5)).await;
        deleted.unwrap()
    };
    assert_eq!(
        delete(if_match("\"other\"".to_owned())).await,
        Deleted::ConditionFailed(Box::new(current.clone()))
    );
    let read = store.file(&current.path).await.unwrap();
    assert_eq!(read.as_ref(), Some(&current));
    assert_eq!(delete(if_match(current.etag())).await, Deleted::Done);
    assert_eq!(store.file(&current.path).await.unwrap(), None);
    assert_eq!(delete(ALWAYS).await, Deleted::Missing);
    assert_eq!(delete(if_match("*".to_owned())).await, Deleted::Missing);
}

/// A file records when its path last received bytes before, even if the earlier file was deleted.
pub async fn what_was_there_before_has_a_time(store: &dyn MetadataStore) {
    let path = path("a");
    let before = async || store.file(&path).await.unwrap().unwrap().previous_at;
    let delete = async |now| store.delete_file(&path, &ALWAYS, now).await.unwrap();
    put(store, &file("a", "one", at(5))).await;
    assert_eq!(before().await, None);
    // A clock that was set back, or is another node's, does not move the latest time back.
    for (content, time, latest) in [
        ("two", 3, 5),
        ("three", 4, 5),
        ("four", 9, 5),
        ("five", 9, 9),
    ] {
        put(store, &file("a", content, at(time))).await;
        assert_eq!(before().await, Some(at(latest)), "{content}");
    }
    put(store, &file("a", "six", at(8))).await;
    assert_eq!(delete(at(9)).await, Deleted::Done);
    put(store, &file("a", "seven", at(9))).await;
    assert_eq!(before().await, Some(at(9)));
    let uploaded = claimed(store, &upload("a")).await;
    store
        .complete_upload(&uploaded, &completed("eight", at(9)), at(99), None)
        .await
        .unwrap();
    assert_eq!(before().await, Some(at(9)));

    // The time is forgotten once no clock can be so far behind.
    let later = at(9).plus(DELETED_REMEMBERED).plus(Duration::from_secs(1));
    assert_eq!(delete(later).await, Deleted::Done);
    put(store, &file("a", "nine", later)).await;
    assert_eq!(before().await, None);
}

/// `If-Unmodified-Since` holds for a write only if its date tells the current content from earlier
/// ones.
pub async fn a_date_decides_on_writing(store: &dyn MetadataStore) {
    let date = |millis| {
        let time = Timestamp::from_millis(millis).into();
        let text = protocol::date::write(time).unwrap();
        WriteCondition {
            if_unmodified_since: Some(text.to_str().unwrap().to_owned()),
            ..ALWAYS
        }
    };
    let file = |content, millis| file("a", content, Timestamp::from_millis(millis));
    let write = async |file: &File, since| {
        let written = store.put_file(file, &date(since), None).await.unwrap();
        matches!(written, Written::Created | Written::Replaced)
    };
    assert!(
        write(&file("one", 5_100), 1_000).await,
        "there is nothing to be modified"
    );
    assert!(!write(&file("two", 6_100), 4_000).await);
    assert!(write(&file("two", 6_100), 5_000).await);
    assert!(write(&file("three", 6_900), 6_000).await);
    // A client with this date may have the first content of that second.
    assert!(!write(&file("four", 7_000), 6_000).await);
    let delete = async |since| store.delete_file(&path("a"), &date(since), at(9)).await;
    assert!(matches!(
        delete(6_000).await.unwrap(),
        Deleted::ConditionFailed(_)
    ));
    assert_eq!(delete(7_000).await.unwrap(), Deleted::Done);
}

/// Exactly one of many concurrent creations of a file succeeds, and its file is recorded.
pub async fn one_of_many_creators_wins(store: &dyn MetadataStore) {
    let files: Vec<File> = (0..32).map(|n| file("a", &n.to_string(), START)).collect();
    let condition = if_absent();
    let written = join_all(
        files
            .iter()
            .map(|file| store.put_file(file, &condition, None)),
    )
    .await;
    let mut winners = Vec::new();
    for (written, file) in written.into_iter().zip(&files) {
        match written.unwrap() {
            Written::Created => winners.push(file),
            Written::ConditionFailed(Some(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    let [winner] = winners[..] else {
        panic!("{} files were created", winners.len());
    };
    assert_eq!(store.file(&path("a")).await.unwrap().as_ref(), Some(winner));
}

/// A read after an acknowledged write sees that write or a later one, with any number of concurrent
/// reads.
pub async fn a_file_is_as_last_written(store: &dyn MetadataStore) {
    let path = path("a");
    for round in 0..50 {
        let file = file("a", &round.to_string(), at(round));
        let (written, ()) = futures::join!(store.put_file(&file, &ALWAYS, None), async {
            for read in join_all((0..8).map(|_| store.file(&path))).await {
                let seen = read.unwrap();
                assert!(seen.is_none_or(|seen| seen.modified_at >= at(round.saturating_sub(1))));
            }
        });
        written.unwrap();
        assert_eq!(read(store, &path).await, Some(file));
        if round % 5 == 4 {
            let (deleted, _) = futures::join!(
                store.delete_file(&path, &ALWAYS, at(round)),
                store.file(&path)
            );
            deleted.unwrap();
            assert_eq!(store.file(&path).await.unwrap(), None);
        }
    }
}

/// Files are listed in byte order: case matters, a slash is a byte like any other, and astral
/// characters come last.
pub async fn files_are_listed_in_byte_order(store: &dyn MetadataStore) {
    let sorted = [
        "B", "a", "a b", "a-b", "a/b", "a/b/c", "a/c", "a0", "ab", "b", "z", "é", "日", "\u{ffff}",
        "😀",
    ];
    for path in sorted.iter().rev() {
        put(store, &file(path, path, START)).await;
    }
    assert_eq!(listed(store, "", None, 100).await, sorted);
    let files = store.list_files("é", None, 100).await.unwrap();
    assert_eq!(files, [store.file(&path("é")).await.unwrap().unwrap()]);
}

/// A prefix is matched literally: no character in it is special.
pub async fn a_prefix_is_taken_literally(store: &dyn MetadataStore) {
    for path in [
        "100%/a",
        "100/a",
        "100_/a",
        "1000/a",
        "A/x",
        "a*b",
        "a/x",
        "a/y",
        "a?b",
        "aXb",
        "a[b]c",
        "é/x",
        "é",
        "\u{10ffff}x",
    ] {
        put(store, &file(path, path, START)).await;
    }
    let check = async |prefix: &str, expected: &[&str]| {
        assert_eq!(listed(store, prefix, None, 100).await, expected, "{prefix}");
    };
    check("100%", &["100%/a"]).await;
    check("100_", &["100_/a"]).await;
    check("100", &["100%/a", "100/a", "1000/a", "100_/a"]).await;
    check("a/", &["a/x", "a/y"]).await;
    check("A", &["A/x"]).await;
    check("a*", &["a*b"]).await;
    check("a?", &["a?b"]).await;
    check("a[", &["a[b]c"]).await;
    check("é", &["é", "é/x"]).await;
    check("\u{10ffff}", &["\u{10ffff}x"]).await;
    check("a/x", &["a/x"]).await;
    check("a/x/", &[]).await;
    check("'", &[]).await;
    check("\0", &[]).await;
}

/// Consecutive pages form the complete list, whatever their limit.
pub async fn listing_goes_on_after_a_path(store: &dyn MetadataStore) {
    let all: Vec<String> = (0..25).map(|n| format!("p/{n:02}")).collect();
    for path in &all {
        put(store, &file(path, path, START)).await;
    }
    put(store, &file("o", "o", START)).await;
    put(store, &file("q", "q", START)).await;
    for limit in [1, 7, 25, 26] {
        let mut whole: Vec<String> = Vec::new();
        loop {
            let page = listed(store, "p/", whole.last().map(String::as_str), limit).await;
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            whole.extend(page);
        }
        assert_eq!(whole, all, "by {limit}");
    }
    // The path to continue after need not exist, nor lie below the prefix.
    assert_eq!(listed(store, "p/", Some("p/22x"), 9).await, all[23..]);
    assert_eq!(listed(store, "p/", Some("a"), 2).await, all[..2]);
    assert_eq!(listed(store, "p/", Some("p"), 2).await, all[..2]);
    assert_eq!(listed(store, "p/", Some("p0"), 9).await, [""; 0]);
    assert_eq!(listed(store, "p/", Some("z"), 9).await, [""; 0]);
    assert_eq!(listed(store, "", Some("p/24"), 9).await, ["q"]);
    assert_eq!(listed(store, "", None, 0).await, [""; 0]);
}

/// Known blobs are those of open uploads, of files, and of former files until they are forgotten.
pub async fn needed_and_doomed_blobs_are_known(store: &dyn MetadataStore) {
    let open = upload("open");
    store.insert_upload(&open).await.unwrap();
    let kept = file("kept", "x", START);
    put(store, &kept).await;
    let deleted = file("deleted", "y", START);
    put(store, &deleted).await;
    let answer = store.delete_file(&deleted.path, &ALWAYS, at(1)).await;
    answer.unwrap();
    let forgotten = file("forgotten", "z", START);
    put(store, &forgotten).await;
    let answer = store.delete_file(&forgotten.path, &ALWAYS, at(1)).await;
    answer.unwrap();
    store.forget_blob(&forgotten.content.blob).await.unwrap();

    let known = [open.blob, kept.content.blob, deleted.content.blob];
    let unknown = [
        forgotten.content.blob,
        BlobKey::random(&SystemRandomness),
        "x-0".parse().unwrap(),
    ];
    let all: Vec<BlobKey> = known.iter().chain(&unknown).cloned().collect();
    let mut found = store.known_blobs(&all).await.unwrap();
    found.sort();
    let mut known = known.to_vec();
    known.sort();
    assert_eq!(found, known);
    assert_eq!(store.known_blobs(&unknown).await.unwrap(), []);
    assert_eq!(store.known_blobs(&[]).await.unwrap(), []);
}

/// A blob is doomed once its file is replaced or deleted.
pub async fn a_replaced_blob_is_doomed(store: &dyn MetadataStore) {
    let one = file("a", "one", at(1));
    let two = file("a", "two", at(2));
    put(store, &one).await;
    assert_eq!(doomed(store).await, []);
    put(store, &two).await;
    assert_eq!(doomed(store).await, std::slice::from_ref(&one.content.blob));
    let deleted = store.delete_file(&two.path, &ALWAYS, at(3)).await;
    deleted.unwrap();
    assert_eq!(doomed(store).await, [one.content.blob, two.content.blob]);
}

/// A blob that several files share is doomed only with the last of them.
pub async fn a_shared_blob_is_doomed_with_its_last_file(store: &dyn MetadataStore) {
    let one = file("a", "x", START);
    let two = File {
        path: path("b"),
        ..one.clone()
    };
    put(store, &one).await;
    put(store, &two).await;
    put(store, &file("a", "y", at(1))).await;
    assert_eq!(doomed(store).await, []);
    assert_eq!(store.file(&two.path).await.unwrap().as_ref(), Some(&two));
    let deleted = store.delete_file(&two.path, &ALWAYS, at(2)).await;
    deleted.unwrap();
    assert_eq!(doomed(store).await, [one.content.blob]);
}

/// Writing the same file again, as after a lost answer, does not doom its blob.
pub async fn writing_a_file_again_keeps_its_blob(store: &dyn MetadataStore) {
    let file = file("a", "x", START);
    assert_eq!(put(store, &file).await, Written::Created);
    assert_eq!(put(store, &file).await, Written::Replaced);
    assert_eq!(doomed(store).await, []);
    let expected = File {
        previous_at: Some(file.modified_at),
        ..file.clone()
    };
    assert_eq!(store.file(&file.path).await.unwrap(), Some(expected));
}

/// A doomed blob cannot become a file again, because it may be deleted at any moment.
pub async fn a_doomed_blob_is_not_needed_again(store: &dyn MetadataStore) {
    let file = file("a", "x", START);
    put(store, &file).await;
    let deleted = store.delete_file(&file.path, &ALWAYS, at(1)).await;
    deleted.unwrap();
    let written = store.put_file(&file, &ALWAYS, None).await;
    assert!(
        matches!(written, Err(MetadataError::Failed { .. })),
        "{written:?}"
    );
    assert_eq!(store.file(&file.path).await.unwrap(), None);
    assert_eq!(doomed(store).await, [file.content.blob]);
}

/// A blob that is recorded with one size and digest cannot be recorded with others.
pub async fn a_blob_has_one_content(store: &dyn MetadataStore) {
    let one = file("a", "x", START);
    put(store, &one).await;
    let mut longer = file("b", "x", START);
    longer.content = Content {
        size: 2,
        ..one.content.clone()
    };
    let mut other = file("b", "x", START);
    other.content = Content {
        sha256: Sha256Digest::of(b"y"),
        ..one.content.clone()
    };
    for file in [longer, other] {
        assert!(store.put_file(&file, &ALWAYS, None).await.is_err());
        assert_eq!(store.file(&file.path).await.unwrap(), None);
    }
    assert_eq!(store.file(&one.path).await.unwrap(), Some(one));
}

/// Blobs that were doomed before the given time are found, the longest doomed first.
pub async fn doomed_blobs_are_found_by_time(store: &dyn MetadataStore) {
    let mut keys = Vec::new();
    for (name, seconds) in [("c", 30), ("a", 10), ("b", 20)] {
        let file = file(name, name, START);
        put(store, &file).await;
        let deleted = store.delete_file(&file.path, &ALWAYS, at(seconds)).await;
        deleted.unwrap();
        keys.push(file.content.blob);
    }
    keys.rotate_left(1);
    let find = async |before, limit| store.doomed_blobs(at(before), limit).await.unwrap();
    assert_eq!(find(10, 10).await, []);
    assert_eq!(find(11, 10).await, keys[..1]);
    assert_eq!(find(99, 10).await, keys);
    assert_eq!(find(99, 2).await, keys[..2]);
    store.forget_blob(&keys[0]).await.unwrap();
    assert_eq!(find(99, 10).await, keys[1..]);
}

/// Only a doomed blob can be forgotten; forgetting it again succeeds.
pub async fn a_needed_blob_is_not_forgotten(store: &dyn MetadataStore) {
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let file = file("b", "x", START);
    put(store, &file).await;
    for key in [&upload.blob, &file.content.blob] {
        store.forget_blob(key).await.unwrap();
        assert!(is_known(store, key).await);
    }
    let deleted = store.delete_file(&file.path, &ALWAYS, at(1)).await;
    deleted.unwrap();
    for _ in 0..2 {
        store.forget_blob(&file.content.blob).await.unwrap();
        assert!(!is_known(store, &file.content.blob).await);
    }
}

/// Duration longer than any test.
const LONG: Duration = Duration::from_hours(1);

fn node() -> NodeId {
    NodeId::random(&SystemRandomness)
}

async fn lease(store: &dyn MetadataStore, name: &str, node: NodeId) -> Option<Lease> {
    store.lease(name, node, LONG).await.unwrap()
}

/// The lease of one node can be neither taken nor released by another.
pub async fn a_lease_is_one_nodes(store: &dyn MetadataStore) {
    let (one, other) = (node(), node());
    let given = lease(store, "janitor", one).await.unwrap();
    assert_eq!(given.given_at.until(given.expires_at), LONG);
    assert_eq!(lease(store, "janitor", other).await, None);
    store.release_lease("janitor", other).await.unwrap();
    assert_eq!(lease(store, "janitor", other).await, None);
    assert!(lease(store, "webhooks", other).await.is_some());
}

/// A node can renew its lease, and release it so that another node can take it.
pub async fn a_lease_is_renewed_and_given_back(store: &dyn MetadataStore) {
    let (one, other) = (node(), node());
    let given = lease(store, "janitor", one).await.unwrap();
    let renewed = lease(store, "janitor", one).await.unwrap();
    assert!(renewed.given_at >= given.given_at);
    assert!(renewed.expires_at >= given.expires_at);
    store.release_lease("janitor", one).await.unwrap();
    store.release_lease("janitor", one).await.unwrap();
    assert!(lease(store, "janitor", other).await.is_some());
    assert_eq!(lease(store, "janitor", one).await, None);
}

/// A lease of zero duration expires at once, and any node can take it.
pub async fn an_expired_lease_is_anyones(store: &dyn MetadataStore) {
    let (one, other) = (node(), node());
    let given = store.lease("janitor", one, Duration::ZERO).await.unwrap();
    let given = given.unwrap();
    assert_eq!(given.given_at, given.expires_at);
    let taken = lease(store, "janitor", other).await.unwrap();
    assert!(taken.given_at >= given.expires_at);
    assert_eq!(lease(store, "janitor", one).await, None);
}

/// Exactly one of many concurrent takers gets the lease.
pub async fn of_many_takers_one_has_the_lease(store: &dyn MetadataStore) {
    for name in ["a", "b", "c"] {
        let takers = (0..16).map(|_| lease(store, name, node()));
        let taken = join_all(takers).await;
        assert_eq!(taken.iter().flatten().count(), 1);
    }
}

/// Expired leases are forgotten, up to the given limit; current ones are kept.
pub async fn expired_leases_are_forgotten(store: &dyn MetadataStore) {
    let one = node();
    for name in ["a", "b", "c"] {
        let given = store.lease(name, one, Duration::ZERO).await;
        assert!(given.unwrap().is_some());
    }
    assert!(lease(store, "d", one).await.is_some());
    assert_eq!(store.forget_leases(2).await.unwrap(), 2);
    assert_eq!(store.forget_leases(2).await.unwrap(), 1);
    assert_eq!(store.forget_leases(2).await.unwrap(), 0);
    assert_eq!(lease(store, "d", node()).await, None);
}

/// Uploads of 64 concurrent callers, each from creation to completion, do not affect each other.
pub async fn many_at_once_all_succeed(store: &dyn MetadataStore) {
    let lives = (0..64).map(|n| async move {
        let name = format!("many/{n:02}");
        let upload = claimed(store, &upload(&name)).await;
        let length = name.len() as u64;
        let step = progress(length, Some(length));
        let recorded = store
            .record_progress(&upload.id, upload.epoch, &step, at(9), Hold::Keep)
            .await;
        assert_eq!(recorded.unwrap(), Guarded::Done);
        let completed = completed(&name, at(1));
        let written = store
            .complete_upload(&upload, &completed, at(9), None)
            .await;
        assert_eq!(written.unwrap(), Written::Created);
        upload.file(&completed).unwrap()
    });
    let files = join_all(lives).await;
    assert_eq!(store.list_files("many/", None, 100).await.unwrap(), files);
}

/// The check of a working store succeeds repeatedly and leaves no files behind.
pub async fn a_sound_store_can_be_written(store: &dyn MetadataStore) {
    store.check().await.unwrap();
    store.check().await.unwrap();
    assert_eq!(listed(store, "", None, 10).await, [""; 0]);
}
