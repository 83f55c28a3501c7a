//! Two servers on one database at once: what one does holds for the other, and of two that cannot
//! both be, one is.
//!
//! Each story runs many rounds, as which of the two is first is for chance to say.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use std::time::Duration;
use testing::postgres::fresh_schema;

use archive::PackName;
use domain::file::{Content, File, WriteCondition};
use domain::ids::SystemRandomness;
use domain::metadata_store::{
    Ask, Asked, Deleted, Guarded, Hold, Inserted, MetadataError, Written, node_lease,
};
use domain::pack::{DraftRecord, StoredContent};
use domain::pack_store::Published;
use domain::upload::{Gone, Upload};
use domain::{BlobKey, NodeId, Timestamp};
use futures::StreamExt as _;
use futures::future::{join, join_all};
use metadata::{Config, PostgresConfig, Stores};
use sqlx::{Connection as _, PgConnection};
use testing::metadata_store::{completed, file, progress, upload};
use testing::pack_store::{blob, draft, stored, version};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
const LATER: Timestamp = Timestamp::from_millis(1_900_000_000_000);
const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};
const ROUNDS: usize = 40;
/// Longer than any test takes.
const LONG: Duration = Duration::from_hours(1);
/// Time to wait for a request before it is repeated.
const AGAIN: Duration = Duration::from_millis(50);

/// Bounds what would never end if it failed.
async fn ends<T>(work: impl Future<Output = T>) -> T {
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, work).await.expect("it ends")
}

/// Two stores on one new database.
struct Nodes([Stores; 2]);

impl Nodes {
    async fn new() -> Self {
        let config = Config::Postgres(PostgresConfig::new(fresh_schema().await));
        let open = async || metadata::open(&config, "/nowhere".as_ref()).await.unwrap();
        Self([open().await, open().await])
    }

    /// The one or the other.
    fn of(&self, n: usize) -> &Stores {
        &self.0[n % 2]
    }

    async fn claimed(&self, upload: &Upload) -> Upload {
        let store = &self.of(0).metadata;
        assert_eq!(store.insert_upload(upload).await.unwrap(), Inserted::New);
        store
            .claim_upload(&upload.id, None, None)
            .await
            .unwrap()
            .unwrap()
    }

    async fn put(&self, file: &File) {
        let put = self.of(0).metadata.put_file(file, &ALWAYS, None).await;
        put.unwrap();
    }

    async fn is_doomed(&self, blob: &BlobKey) -> bool {
        let doomed = self.of(1).metadata.doomed_blobs(LATER, 10_000).await;
        doomed.unwrap().contains(blob)
    }

    /// A draft with a blob in which the contents are.
    async fn draft_with(&self, blob: &Content, contents: &[StoredContent]) -> DraftRecord {
        let draft = draft("maps");
        let packs = &self.of(0).packs;
        packs.insert_draft(&draft).await.unwrap();
        let blobs = std::slice::from_ref(blob);
        let taken = packs
            .store_contents(&draft.id, blobs, contents, LATER)
            .await;
        assert!(taken.unwrap());
        draft
    }

    async fn close(self) {
        for stores in self.0 {
            stores.metadata.close().await;
        }
    }
}

fn if_absent() -> WriteCondition {
    WriteCondition {
        if_match: None,
        if_none_match: Some("*".to_owned()),
        if_unmodified_since: None,
    }
}

fn is_failure<T>(answer: &Result<T, MetadataError>) -> bool {
    matches!(answer, Err(MetadataError::Failed { .. }))
}

#[tokio::test]
async fn creations_with_one_key_make_one_upload() {
    let nodes = Nodes::new().await;
    let mut upload = upload("a");
    upload.plan.idempotency_key = Some("k".to_owned());
    let uploads: Vec<Upload> = (0..32)
        .map(|_| Upload {
            id: self::upload("a").id,
            blob: self::upload("a").blob,
            ..upload.clone()
        })
        .collect();
    let inserts = uploads.iter().enumerate();
    let inserts = inserts.map(|(n, upload)| nodes.of(n).metadata.insert_upload(upload));
    let inserted: Vec<Inserted> = join_all(inserts)
        .await
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let made = inserted.iter().position(|it| *it == Inserted::New).unwrap();
    for (n, inserted) in inserted.into_iter().enumerate() {
        let existing = Inserted::Existing(Box::new(uploads[made].clone()));
        assert!(n == made || inserted == existing, "{inserted:?}");
    }
    nodes.close().await;
}

#[tokio::test]
async fn claims_yield_distinct_epochs() {
    let nodes = Nodes::new().await;
    let upload = nodes.claimed(&upload("a")).await;
    let claims = (0..64).map(|n| nodes.of(n).metadata.claim_upload(&upload.id, None, None));
    let mut epochs: Vec<u64> = join_all(claims)
        .await
        .into_iter()
        .map(|claim| claim.unwrap().unwrap().epoch)
        .collect();
    epochs.sort_unstable();
    assert_eq!(epochs, (2..66).collect::<Vec<u64>>());
    nodes.close().await;
}

#[tokio::test]
async fn a_claim_fences_the_other_node() {
    let nodes = Nodes::new().await;
    let [old_node, new_node] = [&nodes.of(0).metadata, &nodes.of(1).metadata];
    let old = nodes.claimed(&upload("a")).await;
    let new = new_node
        .claim_upload(&old.id, None, None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(new.epoch, old.epoch + 1);
    let recorded = old_node
        .record_progress(&old.id, old.epoch, &progress(9, None), LATER, Hold::Keep)
        .await;
    assert_eq!(recorded.unwrap(), Guarded::Fenced);
    let written = old_node
        .complete_upload(&old, &completed("old", NOW), LATER, None)
        .await;
    assert_eq!(written.unwrap(), Written::Fenced);
    let ended = old_node
        .end_upload(&old.id, Some(old.epoch), Gone::Invalid, LATER)
        .await;
    assert_eq!(ended.unwrap(), Guarded::Fenced);
    let written = new_node
        .complete_upload(&new, &completed("new", NOW), LATER, None)
        .await;
    assert_eq!(written.unwrap(), Written::Created);
    let read = old_node.file(new.path().unwrap()).await.unwrap();
    assert_eq!(read, new.file(&completed("new", NOW)));
    nodes.close().await;
}

/// Of a claim and whatever the older holder does at that moment, one is first; what is acknowledged
/// is there.
#[tokio::test]
async fn a_completion_and_a_claim_exclude_each_other() {
    let nodes = Nodes::new().await;
    for round in 0..ROUNDS {
        let path = round.to_string();
        let old = nodes.claimed(&upload(&path)).await;
        let done = completed("old", NOW);
        let (written, claimed) = join(
            nodes
                .of(round)
                .metadata
                .complete_upload(&old, &done, LATER, None),
            nodes
                .of(round + 1)
                .metadata
                .claim_upload(&old.id, None, None),
        )
        .await;
        let claimed = claimed.unwrap().unwrap();
        let file = nodes
            .of(0)
            .metadata
            .file(old.path().unwrap())
            .await
            .unwrap();
        match written.unwrap() {
            Written::Created => {
                assert_eq!(claimed.epoch, old.epoch);
                assert_eq!(file, old.file(&done));
            }
            Written::Fenced => {
                assert_eq!(claimed.epoch, old.epoch + 1);
                assert_eq!(file, None);
            }
            other => panic!("{other:?}"),
        }
    }
    nodes.close().await;
}

#[tokio::test]
async fn an_upload_is_completed_once() {
    let nodes = Nodes::new().await;
    for round in 0..ROUNDS {
        let upload = nodes.claimed(&upload(&round.to_string())).await;
        let done = completed("x", NOW);
        let (one, other) = join(
            nodes
                .of(0)
                .metadata
                .complete_upload(&upload, &done, LATER, None),
            nodes
                .of(1)
                .metadata
                .complete_upload(&upload, &done, LATER, None),
        )
        .await;
        let mut written = [one.unwrap(), other.unwrap()];
        written.sort_by_key(|written| *written == Written::Fenced);
        assert_eq!(written, [Written::Created, Written::Fenced]);
    }
    nodes.close().await;
}

#[tokio::test]
async fn one_of_many_completions_creates_the_file() {
    let nodes = Nodes::new().await;
    let mut uploads = Vec::new();
    for _ in 0..32 {
        let mut upload = upload("a");
        upload.plan.condition = if_absent();
        uploads.push(nodes.claimed(&upload).await);
    }
    let done = completed("x", NOW);
    let completions = uploads.iter().enumerate();
    let completions = completions.map(|(n, upload)| {
        let store = &nodes.of(n).metadata;
        store.complete_upload(upload, &done, LATER, None)
    });
    let written: Vec<Written> = join_all(completions)
        .await
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    let winner = written.iter().position(|it| *it == Written::Created);
    let winner = winner.unwrap();
    let current = uploads[winner].file(&done).unwrap();
    for (n, written) in written.into_iter().enumerate() {
        let failed = Written::ConditionFailed(Some(Box::new(current.clone())));
        assert!(n == winner || written == failed, "{written:?}");
    }
    let read = nodes.of(winner + 1).metadata.file(&current.path).await;
    assert_eq!(read.unwrap(), Some(current));
    nodes.close().await;
}

/// Each replaces what another has just written: every blob but the last one's is doomed.
#[tokio::test]
async fn replaced_blobs_are_doomed_whoever_replaces_them() {
    let nodes = Nodes::new().await;
    let files: Vec<File> = (0..64).map(|n| file("a", &n.to_string(), NOW)).collect();
    let puts = files.iter().enumerate();
    let puts = puts.map(|(n, file)| nodes.of(n).metadata.put_file(file, &ALWAYS, None));
    for written in join_all(puts).await {
        written.unwrap();
    }
    let left = nodes.of(0).metadata.file(&files[0].path).await;
    let left = left.unwrap().unwrap();
    let doomed = nodes.of(1).metadata.doomed_blobs(LATER, 100).await.unwrap();
    assert_eq!(doomed.len(), files.len() - 1);
    assert!(!doomed.contains(&left.content.blob));
    nodes.close().await;
}

#[tokio::test]
async fn what_one_node_writes_the_other_reads() {
    let nodes = Nodes::new().await;
    for round in 0..ROUNDS {
        let [writer, reader] = [&nodes.of(round).metadata, &nodes.of(round + 1).metadata];
        let file = file("a", &round.to_string(), NOW);
        writer.put_file(&file, &ALWAYS, None).await.unwrap();
        let read = reader.file(&file.path).await.unwrap().unwrap();
        let previous_at = file.previous_at;
        assert_eq!(
            File {
                previous_at,
                ..read
            },
            file
        );
        if round % 2 == 1 {
            let deleted = writer.delete_file(&file.path, &ALWAYS, NOW).await;
            assert_eq!(deleted.unwrap(), Deleted::Done);
            assert_eq!(reader.file(&file.path).await.unwrap(), None);
        }
    }
    nodes.close().await;
}

/// Each sees the other's file until that is gone, and one of them must see that it is the last.
#[tokio::test]
async fn a_shared_blob_is_doomed_when_both_let_go_at_once() {
    let nodes = Nodes::new().await;
    for _ in 0..ROUNDS {
        let one = file("a", "x", NOW);
        let other = File {
            path: "b".parse().unwrap(),
            ..one.clone()
        };
        nodes.put(&one).await;
        nodes.put(&other).await;
        let (first, second) = join(
            nodes.of(0).metadata.delete_file(&one.path, &ALWAYS, NOW),
            nodes.of(1).metadata.delete_file(&other.path, &ALWAYS, NOW),
        )
        .await;
        assert_eq!(first.unwrap(), Deleted::Done);
        assert_eq!(second.unwrap(), Deleted::Done);
        assert!(nodes.is_doomed(&one.content.blob).await);
    }
    nodes.close().await;
}

/// A blob that goes while another file is made of it is needed, or the file is not made.
#[tokio::test]
async fn no_file_is_made_of_a_blob_that_is_doomed_meanwhile() {
    let nodes = Nodes::new().await;
    for round in 0..ROUNDS {
        let one = file("a", "x", NOW);
        let other = File {
            path: "b".parse().unwrap(),
            ..one.clone()
        };
        nodes.put(&one).await;
        let [deleter, writer] = [&nodes.of(round).metadata, &nodes.of(round + 1).metadata];
        let (deleted, written) = join(
            deleter.delete_file(&one.path, &ALWAYS, NOW),
            writer.put_file(&other, &ALWAYS, None),
        )
        .await;
        assert_eq!(deleted.unwrap(), Deleted::Done);
        let is_doomed = nodes.is_doomed(&one.content.blob).await;
        assert_eq!(is_doomed, is_failure(&written), "{written:?}");
        deleter
            .delete_file(&other.path, &ALWAYS, NOW)
            .await
            .unwrap();
    }
    nodes.close().await;
}

#[tokio::test]
async fn publishing_from_both_nodes_yields_distinct_numbers() {
    let nodes = Nodes::new().await;
    let publishers = (0..16).map(async |n: usize| {
        let segment = blob("segment");
        let draft = nodes.draft_with(&segment, &[stored("a", &segment)]).await;
        let packs = &nodes.of(n).packs;
        let mut number = packs.next_version(&draft.pack).await.unwrap();
        loop {
            let version = version("maps", number);
            let blobs = [segment.blob.clone()];
            let published = packs
                .publish_version(&draft.id, &version, &blobs, LATER, None)
                .await;
            match published.unwrap() {
                Published::Version(given) => return given,
                Published::NextIs(next) => number = next,
                other => panic!("{other:?}"),
            }
        }
    });
    let mut numbers = join_all(publishers).await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=16).collect::<Vec<u64>>());
    let maps = PackName::parse("maps").unwrap();
    let listed = nodes.of(1).packs.versions(&maps, None, 99).await.unwrap();
    assert_eq!(listed.len(), 16);
    nodes.close().await;
}

/// As after an answer that was lost, when the client asks another node.
#[tokio::test]
async fn a_draft_is_published_once() {
    let nodes = Nodes::new().await;
    for round in 1..=ROUNDS as u64 {
        let draft = nodes.draft_with(&blob("segment"), &[]).await;
        let versions = [version("maps", round), version("maps", round)];
        let publishes = versions.iter().enumerate().map(|(n, version)| {
            let packs = &nodes.of(n).packs;
            packs.publish_version(&draft.id, version, &[], LATER, None)
        });
        for published in join_all(publishes).await {
            assert_eq!(published.unwrap(), Published::Version(round));
        }
    }
    nodes.close().await;
}

/// A version holds all of its blobs, or there is none.
#[tokio::test]
async fn no_version_is_made_of_a_blob_that_is_doomed_meanwhile() {
    let nodes = Nodes::new().await;
    let maps = PackName::parse("maps").unwrap();
    for round in 0..ROUNDS {
        let (own, others) = (blob("own"), blob("another draft's"));
        let draft = nodes.draft_with(&own, &[]).await;
        let other = nodes.draft_with(&others, &[]).await;
        let [packs, other_packs] = [&nodes.of(round).packs, &nodes.of(round + 1).packs];
        let number = packs.next_version(&maps).await.unwrap();
        let version = version("maps", number);
        let blobs = [own.blob.clone(), others.blob.clone()];
        let (published, forgotten) = join(
            packs.publish_version(&draft.id, &version, &blobs, LATER, None),
            other_packs.forget_draft(&other.id, NOW),
        )
        .await;
        assert!(forgotten.unwrap());
        let is_doomed = nodes.is_doomed(&others.blob).await;
        match published.unwrap() {
            Published::Version(given) => assert!(given == number && !is_doomed),
            Published::BlobsGone => assert!(is_doomed),
            other => panic!("{other:?}"),
        }
        assert!(!nodes.is_doomed(&own.blob).await);
    }
    nodes.close().await;
}

/// Many drafts bring the same contents and the same blobs, each in an order of its own, and let go
/// of them.
#[tokio::test]
async fn overlapping_contents_get_in_nobodys_way() {
    let nodes = Nodes::new().await;
    let blobs: Vec<Content> = (0..8).map(|n| blob(&n.to_string())).collect();
    let bringers = (0..16).map(async |n: usize| {
        let mut blobs = blobs.clone();
        blobs.rotate_left(n % 8);
        let mut contents: Vec<StoredContent> = (0..64)
            .map(|text| stored(&text.to_string(), &blobs[0]))
            .collect();
        contents.rotate_left(n * 4);
        let draft = draft("maps");
        let packs = &nodes.of(n).packs;
        packs.insert_draft(&draft).await.unwrap();
        let taken = packs
            .store_contents(&draft.id, &blobs, &contents, LATER)
            .await;
        assert!(taken.unwrap());
        draft
    });
    let drafts = join_all(bringers).await;
    let sha256s: Vec<_> = (0..64)
        .map(|text| stored(&text.to_string(), &blobs[0]).sha256)
        .collect();
    let known = nodes.of(0).packs.contents(&sha256s).await.unwrap();
    assert_eq!(known.len(), 64);
    let forgets = drafts.iter().enumerate();
    let forgets = forgets.map(|(n, draft)| nodes.of(n).packs.forget_draft(&draft.id, NOW));
    for forgotten in join_all(forgets).await {
        assert!(forgotten.unwrap());
    }
    for blob in &blobs {
        assert!(nodes.is_doomed(&blob.blob).await);
    }
    nodes.close().await;
}

/// And a node that was never asked hears it as well: it looks for its own name.
#[tokio::test]
async fn an_ask_reaches_the_other_node() {
    let nodes = Nodes::new().await;
    let node = NodeId::random(&SystemRandomness);
    let [asker, asked] = [&nodes.of(0).metadata, &nodes.of(1).metadata];
    let alive = asked.lease(&node_lease(node), node, LONG).await;
    assert!(alive.unwrap().is_some());
    let upload = nodes.claimed(&upload("a")).await;
    let upload = asked.claim_upload(&upload.id, Some(node), None).await;
    let upload = upload.unwrap().unwrap();
    let ask = Ask {
        upload: upload.id,
        node,
        epoch: upload.epoch,
    };
    let mut listeners = [asker.asks(), asked.asks()];
    for asks in &mut listeners {
        let heard = ends(async {
            // Whether it listens already is not for the asker to know.
            loop {
                assert_eq!(asker.ask_to_yield(&ask).await.unwrap(), Asked::Holder);
                let soon = tokio::time::timeout(AGAIN, asks.next());
                if let Ok(heard) = soon.await {
                    break heard;
                }
            }
        });
        assert_eq!(heard.await, Some(ask));
    }
    nodes.close().await;
}

/// Requests in the meantime are lost; later ones arrive.
#[tokio::test]
async fn a_listener_that_was_cut_off_listens_again() {
    let nodes = Nodes::new().await;
    let node = NodeId::random(&SystemRandomness);
    let [asker, asked] = [&nodes.of(0).metadata, &nodes.of(1).metadata];
    let alive = asked.lease(&node_lease(node), node, LONG).await;
    assert!(alive.unwrap().is_some());
    let upload = nodes.claimed(&upload("a")).await;
    let upload = asked.claim_upload(&upload.id, Some(node), None).await;
    let ask = Ask {
        upload: upload.unwrap().unwrap().id,
        node,
        epoch: 2,
    };
    let mut asks = asked.asks();
    for cut in [false, true, true] {
        if cut {
            let ended = cut_listeners_off().await;
            assert!(ended > 0);
        }
        let heard = ends(async {
            loop {
                assert_eq!(asker.ask_to_yield(&ask).await.unwrap(), Asked::Holder);
                let soon = tokio::time::timeout(AGAIN, asks.next());
                if let Ok(heard) = soon.await {
                    break heard;
                }
            }
        });
        assert_eq!(heard.await, Some(ask));
    }
    nodes.close().await;
}

/// Ends every connection of the server that listens; those of other tests connect again as well.
/// Returns how many there were.
async fn cut_listeners_off() -> usize {
    let config = PostgresConfig::new(fresh_schema().await);
    let mut database = PgConnection::connect(&config.url.to_string())
        .await
        .unwrap();
    let ended: Vec<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen %'",
    )
    .fetch_all(&mut database)
    .await
    .unwrap();
    ended.len()
}

/// Of two nodes that want it at the same moment, and again once the one is gone.
#[tokio::test]
async fn a_lease_is_one_of_two_nodes() {
    let nodes = Nodes::new().await;
    let names = [0, 1].map(|_| NodeId::random(&SystemRandomness));
    for round in 0..ROUNDS {
        let name = round.to_string();
        let take = |n: usize, time| nodes.of(n).metadata.lease(&name, names[n], time);
        let (one, other) = join(take(0, LONG), take(1, LONG)).await;
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_ne!(one.is_some(), other.is_some());
        let holder = usize::from(other.is_some());
        // The holder's time is up at once.
        assert!(take(holder, Duration::ZERO).await.unwrap().is_some());
        assert!(take(1 - holder, LONG).await.unwrap().is_some());
        assert!(take(holder, LONG).await.unwrap().is_none());
    }
    nodes.close().await;
}

/// No node's clock affects leases.
#[tokio::test]
async fn a_lease_has_the_time_of_the_database() {
    let nodes = Nodes::new().await;
    let now = async || -> i64 {
        let config = PostgresConfig::new(fresh_schema().await);
        let mut database = PgConnection::connect(&config.url.to_string())
            .await
            .unwrap();
        sqlx::query_scalar("select floor(extract(epoch from clock_timestamp()) * 1000)::bigint")
            .fetch_one(&mut database)
            .await
            .unwrap()
    };
    let before = now().await;
    let node = NodeId::random(&SystemRandomness);
    let lease = nodes.of(0).metadata.lease("a", node, LONG).await;
    let given_at = lease.unwrap().unwrap().given_at.as_millis();
    let after = now().await;
    assert!(
        (before..=after).contains(&given_at),
        "{before} {given_at} {after}"
    );
    nodes.close().await;
}
