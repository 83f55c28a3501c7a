//! Drafts: the blobs that they hold, and their expiry.

use super::{Ports, at, blob, draft, is_failure, name, sorted, stored, version};
use domain::DraftId;
use domain::pack::DraftRecord;
use domain::pack_store::Published;

/// A draft is read back as it was inserted, with or without a tree.
pub async fn a_draft_reads_back(ports: &Ports) {
    let bare = draft("Weltkarten (日本)");
    let full = DraftRecord {
        tree: Some(blob("tree")),
        ..draft("maps")
    };
    for draft in [bare, full] {
        ports.packs.insert_draft(&draft).await.unwrap();
        assert_eq!(ports.packs.draft(&draft.id).await.unwrap(), Some(draft));
    }
}

/// An unknown draft can be neither read nor changed.
pub async fn of_an_unknown_draft_there_is_nothing(ports: &Ports) {
    let draft = draft("maps");
    let segment = blob("segment");
    let packs = &ports.packs;
    assert_eq!(packs.draft(&draft.id).await.unwrap(), None);
    assert!(!packs.forget_draft(&draft.id, at(1)).await.unwrap());
    let contents = [stored("a", &segment)];
    let taken = packs
        .store_contents(&draft.id, std::slice::from_ref(&segment), &contents, at(9))
        .await;
    assert!(!taken.unwrap());
    ports.drop_blobs(&draft, &[&segment], at(1)).await;
    let published = packs
        .publish_version(&draft.id, &version("maps", 1), &[], at(9), None)
        .await;
    assert_eq!(published.unwrap(), Published::DraftGone);
    assert_eq!(ports.content("a").await, None);
    assert!(!ports.is_recorded(&segment.blob).await);
    assert_eq!(packs.pack(&name("maps")).await.unwrap(), None);
}

/// Inserting a draft fails if its id is taken, or if it is already published.
pub async fn a_draft_is_recorded_once(ports: &Ports) {
    let first = ports.insert("maps").await;
    let second = DraftRecord {
        pack: name("other"),
        tree: Some(blob("tree")),
        ..first.clone()
    };
    let tree = second.tree.clone().unwrap();
    assert!(is_failure(&ports.packs.insert_draft(&second).await));
    assert!(!ports.is_recorded(&tree.blob).await);
    assert_eq!(ports.packs.draft(&first.id).await.unwrap(), Some(first));

    let published = DraftRecord {
        published: Some(1),
        ..draft("maps")
    };
    assert!(is_failure(&ports.packs.insert_draft(&published).await));
    assert_eq!(ports.packs.draft(&published.id).await.unwrap(), None);
}

/// A draft holds the blob of its tree until the draft is forgotten.
pub async fn a_draft_holds_its_tree(ports: &Ports) {
    let tree = blob("tree");
    let drafts = [draft("maps"), draft("maps")].map(|draft| DraftRecord {
        tree: Some(tree.clone()),
        ..draft
    });
    for draft in &drafts {
        ports.packs.insert_draft(draft).await.unwrap();
    }
    for draft in &drafts {
        assert!(ports.is_recorded(&tree.blob).await);
        assert_eq!(ports.doomed().await, []);
        assert!(ports.packs.forget_draft(&draft.id, at(1)).await.unwrap());
        assert!(!ports.packs.forget_draft(&draft.id, at(1)).await.unwrap());
        assert_eq!(ports.packs.draft(&draft.id).await.unwrap(), None);
    }
    assert_eq!(ports.doomed().await, [tree.blob]);
    let before = ports.metadata.doomed_blobs(at(1), 9).await;
    assert_eq!(before.unwrap(), []);
}

/// A draft with a doomed tree is refused, because a doomed blob may be deleted at any moment.
pub async fn a_draft_is_not_made_of_a_doomed_tree(ports: &Ports) {
    let tree = blob("tree");
    ports.doom(&tree).await;
    let draft = DraftRecord {
        tree: Some(tree.clone()),
        ..draft("maps")
    };
    assert!(is_failure(&ports.packs.insert_draft(&draft).await));
    assert_eq!(ports.packs.draft(&draft.id).await.unwrap(), None);
    assert_eq!(ports.doomed().await, [tree.blob]);
}

/// A draft expires only at its time, which new contents may have moved since the draft was found.
/// All blobs that it held are then released.
pub async fn only_an_expired_draft_is_expired(ports: &Ports) {
    let record = DraftRecord {
        expires_at: at(10),
        ..draft("maps")
    };
    ports.packs.insert_draft(&record).await.unwrap();
    let expire = async |seconds| {
        let expired = ports.packs.expire_draft(&record.id, at(seconds)).await;
        expired.unwrap()
    };
    assert!(!expire(9).await);
    let later = DraftRecord {
        expires_at: at(40),
        ..record.clone()
    };
    let segment = blob("segment");
    ports.give(&later, "a", &segment).await;
    assert!(!expire(39).await);
    assert_eq!(ports.packs.draft(&record.id).await.unwrap(), Some(later));
    assert!(expire(40).await);
    assert_eq!(ports.packs.draft(&record.id).await.unwrap(), None);
    assert!(ports.doomed().await.contains(&segment.blob));
    assert!(!expire(40).await);
}

/// Drafts are found from their expiry on, open or published, the longest expired first. New
/// contents move the expiry of an open draft.
pub async fn expired_drafts_are_found(ports: &Ports) {
    let mut ids = Vec::new();
    for seconds in [30, 10, 20] {
        let draft = DraftRecord {
            expires_at: at(seconds),
            ..draft("maps")
        };
        ports.packs.insert_draft(&draft).await.unwrap();
        ids.push(draft);
    }
    ids.rotate_left(1);
    let find = async |seconds, limit| {
        let found = ports.packs.expired_drafts(at(seconds), limit).await;
        found.unwrap()
    };
    let expected: Vec<DraftId> = ids.iter().map(|draft| draft.id).collect();
    assert_eq!(find(9, 10).await, []);
    assert_eq!(find(10, 10).await, expected[..1]);
    assert_eq!(find(99, 10).await, expected);
    assert_eq!(find(99, 2).await, expected[..2]);
    assert_eq!(find(99, 0).await, []);

    let later = DraftRecord {
        expires_at: at(40),
        ..ids[0].clone()
    };
    ports.give(&later, "a", &blob("segment")).await;
    assert_eq!(find(39, 10).await, expected[1..]);
    let moved = ports.packs.draft(&later.id).await.unwrap();
    assert_eq!(moved, Some(later));
    // Publishing moves the draft's expiry to 9.
    ports.publish(&ids[2], 1, &[]).await;
    assert_eq!(find(9, 10).await, expected[2..]);
}

/// A published draft takes no contents and does not change.
pub async fn a_closed_draft_takes_no_contents(ports: &Ports) {
    let draft = ports.insert("maps").await;
    ports.publish(&draft, 1, &[]).await;
    let closed = ports.packs.draft(&draft.id).await.unwrap();
    let segment = blob("segment");
    let contents = [stored("a", &segment)];
    let taken = ports
        .packs
        .store_contents(&draft.id, std::slice::from_ref(&segment), &contents, at(99))
        .await;
    assert!(!taken.unwrap());
    assert_eq!(ports.content("a").await, None);
    assert!(!ports.is_recorded(&segment.blob).await);
    assert_eq!(ports.packs.draft(&draft.id).await.unwrap(), closed);
}

/// Dropped blobs are doomed at the given time, with their contents; other blobs are kept.
pub async fn dropped_blobs_are_doomed_with_their_contents(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let (kept, dropped) = (blob("kept"), blob("dropped"));
    ports.give(&draft, "a", &kept).await;
    ports.give(&draft, "b", &dropped).await;
    ports.drop_blobs(&draft, &[&dropped], at(7)).await;
    assert_eq!(ports.content("a").await, Some(stored("a", &kept)));
    assert_eq!(ports.content("b").await, None);
    assert_eq!(ports.doomed().await, std::slice::from_ref(&dropped.blob));
    let before = ports.metadata.doomed_blobs(at(7), 9).await;
    assert_eq!(before.unwrap(), []);
    // Dropping the blob again does not change the time at which it was doomed.
    ports.drop_blobs(&draft, &[&dropped], at(8)).await;
    let before = ports.metadata.doomed_blobs(at(8), 9).await;
    assert_eq!(before.unwrap(), [dropped.blob]);
    assert_eq!(ports.packs.draft(&draft.id).await.unwrap(), Some(draft));
}

/// Dropping dooms neither the draft's tree nor blobs that others hold, and nothing that was
/// published.
pub async fn a_draft_drops_only_what_it_was_given(ports: &Ports) {
    let tree = blob("tree");
    let draft = DraftRecord {
        tree: Some(tree.clone()),
        ..draft("maps")
    };
    ports.packs.insert_draft(&draft).await.unwrap();
    let (mine, others, shared) = (blob("mine"), blob("others"), blob("shared"));
    let other = ports.insert("maps").await;
    ports.give(&draft, "mine", &mine).await;
    ports.give(&other, "others", &others).await;
    ports.give(&draft, "shared", &shared).await;
    ports.give(&other, "shared", &shared).await;
    let unknown = blob("unknown");
    ports
        .drop_blobs(&draft, &[&tree, &others, &shared, &unknown], at(1))
        .await;
    assert_eq!(ports.doomed().await, []);
    assert!(ports.content("shared").await.is_some());
    // The other draft is now the last holder of the shared blob.
    ports.drop_blobs(&other, &[&shared], at(2)).await;
    assert_eq!(ports.doomed().await, std::slice::from_ref(&shared.blob));
    assert_eq!(ports.content("shared").await, None);

    ports.publish(&draft, 1, &[&mine]).await;
    ports.drop_blobs(&draft, &[&mine], at(9)).await;
    assert_eq!(ports.content("mine").await, Some(stored("mine", &mine)));
    assert_eq!(ports.doomed().await, sorted(vec![shared.blob, tree.blob]));
}
