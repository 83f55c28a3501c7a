//! Publishing: version numbers, and the blobs that a version takes over from its draft.

use futures::future::join_all;

use super::{
    NONE, Ports, at, blob, digest, documents, draft, is_failure, name, sorted, stored, version,
};
use domain::file::Content;
use domain::pack::{DraftRecord, PackSummary, PackVersion};
use domain::pack_store::Published;

/// A version takes over the blobs that it uses; the other blobs of its draft are doomed when it is
/// published.
pub async fn a_version_holds_its_blobs_and_the_draft_none(ports: &Ports) {
    let draft = DraftRecord {
        tree: Some(blob("tree")),
        ..draft("maps")
    };
    ports.packs.insert_draft(&draft).await.unwrap();
    let (taken, left) = (blob("taken"), blob("left"));
    ports.give(&draft, "taken", &taken).await;
    ports.give(&draft, "left", &left).await;
    // A blob that is named twice is held once.
    let version = ports.publish(&draft, 1, &[&taken, &taken]).await;
    let tree = draft.tree.clone().unwrap();
    let released = sorted(vec![tree.blob.clone(), left.blob.clone()]);
    assert_eq!(ports.doomed().await, released);
    let before = ports.metadata.doomed_blobs(version.published_at, 9).await;
    assert_eq!(before.unwrap(), []);
    assert_eq!(ports.content("taken").await, Some(stored("taken", &taken)));
    assert_eq!(ports.content("left").await, None);
    for key in documents(&version) {
        assert!(ports.is_recorded(&key).await);
    }
    let published = DraftRecord {
        tree: None,
        expires_at: at(9),
        published: Some(1),
        ..draft.clone()
    };
    let read = ports.packs.draft(&draft.id).await.unwrap();
    assert_eq!(read, Some(published));
    // Forgetting the draft takes nothing from the version.
    assert!(ports.packs.forget_draft(&draft.id, at(9)).await.unwrap());
    assert_eq!(ports.doomed().await, released);
    let read = ports.packs.version(&name("maps"), None).await.unwrap();
    assert_eq!(read, Some(version));
}

/// Publishing a draft again returns its version, even if the version is retired.
pub async fn publishing_again_is_the_same_version(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let first = ports.publish(&draft, 1, &[]).await;
    let gone = blob("gone").blob;
    for retire in [false, true] {
        if retire {
            let retired = ports.packs.retire_version(&name("maps"), 1, at(9)).await;
            assert!(retired.unwrap());
        }
        for again in [first.clone(), version("maps", 1), version("maps", 2)] {
            let published = ports
                .packs
                .publish_version(&draft.id, &again, std::slice::from_ref(&gone), at(99), None)
                .await;
            assert_eq!(published.unwrap(), Published::Version(1));
        }
        let read = ports.packs.version(&name("maps"), None).await.unwrap();
        assert_eq!(read, (!retire).then(|| first.clone()));
        assert_eq!(ports.packs.next_version(&name("maps")).await.unwrap(), 2);
    }
    let kept = ports.packs.draft(&draft.id).await.unwrap().unwrap();
    assert_eq!(kept.expires_at, at(9));
}

/// A version with another number than the next one is refused, and nothing changes.
pub async fn only_the_next_number_is_published(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let segment = blob("segment");
    ports.give(&draft, "a", &segment).await;
    let try_number = async |number, next| {
        let version = version("maps", number);
        let published = ports
            .packs
            .publish_version(&draft.id, &version, &[], at(9), None)
            .await;
        assert_eq!(published.unwrap(), Published::NextIs(next));
        for key in documents(&version) {
            assert!(!ports.is_recorded(&key).await);
        }
        let read = ports.packs.draft(&draft.id).await.unwrap();
        assert_eq!(read.as_ref(), Some(&draft));
        assert!(ports.content("a").await.is_some());
    };
    for number in [0, 2, u64::MAX] {
        try_number(number, 1).await;
    }
    assert_eq!(ports.packs.pack(&name("maps")).await.unwrap(), None);
    let other = ports.insert("maps").await;
    ports.publish(&other, 1, &[]).await;
    for number in [0, 1, 3] {
        try_number(number, 2).await;
    }
    // Each pack has its own numbers.
    let elsewhere = ports.insert("other").await;
    ports.publish(&elsewhere, 1, &[]).await;
    ports.publish(&draft, 2, &[&segment]).await;
}

/// A version with unknown or doomed blobs is refused, and nothing changes.
pub async fn a_version_of_gone_blobs_is_not_published(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let (segment, doomed) = (blob("segment"), blob("doomed"));
    ports.give(&draft, "a", &segment).await;
    ports.doom(&doomed).await;
    let sound = version("maps", 1);
    let unsound = PackVersion {
        forms: doomed.clone(),
        ..sound.clone()
    };
    let unknown = blob("unknown").blob;
    for (version, key) in [
        (&sound, &unknown),
        (&sound, &doomed.blob),
        (&unsound, &segment.blob),
    ] {
        let keys = [segment.blob.clone(), key.clone()];
        let published = ports
            .packs
            .publish_version(&draft.id, version, &keys, at(9), None)
            .await;
        assert_eq!(published.unwrap(), Published::BlobsGone);
        assert!(!ports.is_recorded(&sound.catalogue.blob).await);
        let read = ports.packs.draft(&draft.id).await.unwrap();
        assert_eq!(read.as_ref(), Some(&draft));
    }
    assert_eq!(ports.packs.pack(&name("maps")).await.unwrap(), None);
    assert_eq!(ports.doomed().await, [doomed.blob]);
    ports.publish(&draft, 1, &[&segment]).await;
}

/// A version is refused if one of its documents is recorded with another size or digest.
pub async fn a_document_has_one_content(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let segment = blob("segment");
    ports.give(&draft, "a", &segment).await;
    let longer = Content {
        size: segment.size + 1,
        ..segment.clone()
    };
    let other = Content {
        sha256: digest("other"),
        ..segment.clone()
    };
    for places in [longer, other] {
        let version = PackVersion {
            places,
            ..version("maps", 1)
        };
        let published = ports
            .packs
            .publish_version(&draft.id, &version, &[], at(9), None)
            .await;
        assert!(is_failure(&published));
        assert!(!ports.is_recorded(&version.catalogue.blob).await);
    }
    assert_eq!(ports.packs.pack(&name("maps")).await.unwrap(), None);
    assert_eq!(ports.packs.draft(&draft.id).await.unwrap(), Some(draft));
}

/// Publishing from a draft of another pack is refused, as from a forgotten one.
pub async fn only_a_draft_of_the_pack_is_published(ports: &Ports) {
    let (other, forgotten) = (ports.insert("other").await, ports.insert("maps").await);
    let forgot = ports.packs.forget_draft(&forgotten.id, at(1)).await;
    assert!(forgot.unwrap());
    let version = version("maps", 1);
    for draft in [&other, &forgotten] {
        let published = ports
            .packs
            .publish_version(&draft.id, &version, &[], at(9), None)
            .await;
        assert_eq!(published.unwrap(), Published::DraftGone);
    }
    assert!(!ports.is_recorded(&version.catalogue.blob).await);
    assert_eq!(ports.packs.draft(&other.id).await.unwrap(), Some(other));
}

/// Version numbers are never reused, even if the newest version, or every version, is retired.
pub async fn a_number_is_never_given_twice(ports: &Ports) {
    let maps = name("maps");
    for number in [1, 2] {
        ports
            .version_of("maps", number, "a", &[&blob("segment")])
            .await;
    }
    let retire = async |number| {
        let retired = ports.packs.retire_version(&maps, number, at(6)).await;
        retired.unwrap()
    };
    assert!(retire(2).await);
    assert!(!retire(2).await);
    assert_eq!(ports.packs.version(&maps, Some(2)).await.unwrap(), None);
    let latest = ports.packs.version(&maps, None).await.unwrap().unwrap();
    assert_eq!(latest.number, 1);
    assert_eq!(ports.packs.next_version(&maps).await.unwrap(), 3);
    assert!(retire(1).await);
    assert_eq!(ports.packs.next_version(&maps).await.unwrap(), 3);
    // The pack still exists.
    let bare = PackSummary {
        name: maps.clone(),
        latest: None,
    };
    assert_eq!(ports.packs.pack(&maps).await.unwrap().as_ref(), Some(&bare));
    assert_eq!(ports.packs.packs(None, 9).await.unwrap(), [bare]);
    assert_eq!(ports.packs.version(&maps, None).await.unwrap(), None);
    assert_eq!(ports.numbers("maps", None, 9).await, NONE);
    let draft = ports.insert("maps").await;
    ports.publish(&draft, 3, &[]).await;
    assert_eq!(ports.numbers("maps", None, 9).await, [3]);
}

/// Concurrent publishers that retry with the next number get distinct numbers.
pub async fn concurrent_publishes_get_distinct_numbers(ports: &Ports) {
    let publishers = (0..16).map(|_| async {
        let draft = ports.insert("maps").await;
        let segment = blob("segment");
        ports.give(&draft, "shared", &segment).await;
        let mut number = ports.packs.next_version(&draft.pack).await.unwrap();
        loop {
            let version = version("maps", number);
            let keys = [segment.blob.clone()];
            let published = ports
                .packs
                .publish_version(&draft.id, &version, &keys, at(9), None)
                .await;
            match published.unwrap() {
                Published::Version(given) => {
                    assert_eq!(given, number);
                    return version;
                }
                Published::NextIs(next) => {
                    assert!(next > number, "{next} after {number}");
                    number = next;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    let mut versions = join_all(publishers).await;
    versions.sort_by_key(|version| std::cmp::Reverse(version.number));
    let numbers: Vec<u64> = versions.iter().map(|version| version.number).collect();
    assert_eq!(numbers, (1..=16).rev().collect::<Vec<u64>>());
    let listed = ports.packs.versions(&name("maps"), None, 99).await;
    assert_eq!(listed.unwrap(), versions);
    assert_eq!(ports.doomed().await, []);
}
