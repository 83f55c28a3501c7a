//! Versions: reading, listing and retiring them.

use archive::Deflated;

use super::{
    ALWAYS, NONE, Ports, at, blob, digest, documents, draft, name, place, sorted, stored, version,
};
use domain::file::{Content, Description, File};
use domain::metadata_store::{MetadataError, Written};
use domain::pack::{DraftRecord, PackSummary, PackVersion, StoredContent};
use domain::pack_store::Published;

/// A version can be read by its number, as the newest one, and in lists.
pub async fn a_version_reads_back(ports: &Ports) {
    let (maps, packs) = (name("maps"), &ports.packs);
    assert_eq!(packs.version(&maps, None).await.unwrap(), None);
    assert_eq!(packs.next_version(&maps).await.unwrap(), 1);
    let draft = ports.insert("maps").await;
    // A draft alone makes no pack.
    assert_eq!(packs.pack(&maps).await.unwrap(), None);
    let version = PackVersion {
        files: 0,
        size: i64::MAX as u64,
        ..version("maps", 1)
    };
    let published = packs
        .publish_version(&draft.id, &version, &[], at(9), None)
        .await;
    assert_eq!(published.unwrap(), Published::Version(1));
    for number in [Some(1), None] {
        let read = packs.version(&maps, number).await.unwrap();
        assert_eq!(read.as_ref(), Some(&version));
    }
    assert_eq!(packs.version(&maps, Some(2)).await.unwrap(), None);
    assert_eq!(packs.version(&maps, Some(0)).await.unwrap(), None);
    let other = name("map");
    assert_eq!(packs.version(&other, Some(1)).await.unwrap(), None);
    assert_eq!(packs.next_version(&maps).await.unwrap(), 2);
    assert_eq!(packs.next_version(&other).await.unwrap(), 1);
    let versions = packs.versions(&maps, None, 9).await.unwrap();
    assert_eq!(versions, std::slice::from_ref(&version));
    let summary = PackSummary {
        name: maps.clone(),
        latest: Some(version),
    };
    let read = packs.pack(&maps).await.unwrap();
    assert_eq!(read.as_ref(), Some(&summary));
    assert_eq!(packs.packs(None, 9).await.unwrap(), [summary]);
}

/// Versions are listed newest first; each page continues below the last one.
pub async fn versions_are_listed_newest_first(ports: &Ports) {
    for number in 1..=11 {
        let draft = ports.insert("maps").await;
        ports.publish(&draft, number, &[]).await;
    }
    let other = ports.insert("maps of others").await;
    ports.publish(&other, 1, &[]).await;
    let retired = ports.packs.retire_version(&name("maps"), 9, at(6)).await;
    assert!(retired.unwrap());
    assert_eq!(ports.numbers("maps", None, 4).await, [11, 10, 8, 7]);
    assert_eq!(ports.numbers("maps", Some(7), 4).await, [6, 5, 4, 3]);
    assert_eq!(ports.numbers("maps", Some(3), 4).await, [2, 1]);
    assert_eq!(ports.numbers("maps", Some(10), 1).await, [8]);
    assert_eq!(ports.numbers("maps", Some(u64::MAX), 1).await, [11]);
    assert_eq!(ports.numbers("maps", Some(1), 4).await, NONE);
    assert_eq!(ports.numbers("maps", Some(0), 4).await, NONE);
    assert_eq!(ports.numbers("maps", None, 0).await, NONE);
    assert_eq!(ports.numbers("map", None, 4).await, NONE);
}

/// Packs are listed in byte order, page by page, each with its newest version.
pub async fn packs_are_listed_in_byte_order(ports: &Ports) {
    for pack in ["b", "ä", "a", "B", "a b", "aa"] {
        let draft = ports.insert(pack).await;
        ports.publish(&draft, 1, &[]).await;
    }
    ports.insert("a draft").await;
    let draft = ports.insert("aa").await;
    let newest = ports.publish(&draft, 2, &[]).await;
    let list = async |after, limit| {
        let packs = ports.packs.packs(after, limit).await.unwrap();
        let names = packs.iter().map(|pack| pack.name.to_string());
        names.collect::<Vec<String>>()
    };
    assert_eq!(list(None, 9).await, ["B", "a", "a b", "aa", "b", "ä"]);
    assert_eq!(list(None, 2).await, ["B", "a"]);
    assert_eq!(list(Some("a"), 2).await, ["a b", "aa"]);
    // The name to continue after need not be that of a pack.
    assert_eq!(list(Some("aaa"), 9).await, ["b", "ä"]);
    assert_eq!(list(Some(""), 1).await, ["B"]);
    assert_eq!(list(Some("ä"), 9).await, [""; 0]);
    assert_eq!(list(None, 0).await, [""; 0]);
    let aa = ports.packs.packs(Some("a b"), 1).await.unwrap();
    assert_eq!(
        aa,
        [PackSummary {
            name: name("aa"),
            latest: Some(newest),
        }]
    );
}

/// Retiring a version dooms its documents, and the segments that no other version holds with their
/// contents.
pub async fn retiring_dooms_what_the_version_alone_held(ports: &Ports) {
    let (shared, own) = (blob("shared"), blob("own"));
    let one = ports.version_of("maps", 1, "shared", &[&shared]).await;
    let two = ports.version_of("other", 1, "own", &[&own, &shared]).await;
    let retire = async |pack, number, seconds| {
        let pack = name(pack);
        let retired = ports.packs.retire_version(&pack, number, at(seconds)).await;
        retired.unwrap()
    };
    for (pack, number) in [("maps", 2), ("maps", 0), ("no such", 1)] {
        assert!(!retire(pack, number, 10).await);
    }
    assert_eq!(ports.doomed().await, []);
    assert!(retire("maps", 1, 10).await);
    let mut doomed = documents(&one);
    assert_eq!(ports.doomed().await, sorted(doomed.clone()));
    assert!(ports.content("shared").await.is_some());
    assert!(ports.content("own").await.is_some());

    assert!(retire("other", 1, 20).await);
    doomed.extend(documents(&two));
    doomed.extend([shared.blob, own.blob]);
    assert_eq!(ports.doomed().await, sorted(doomed));
    assert_eq!(ports.content("shared").await, None);
    assert_eq!(ports.content("own").await, None);
    let before = ports.metadata.doomed_blobs(at(20), 99).await;
    assert_eq!(sorted(before.unwrap()), sorted(documents(&one)));
}

/// A segment of a retired version is kept while a draft holds it.
pub async fn a_draft_keeps_what_a_version_lets_go(ports: &Ports) {
    let segment = blob("segment");
    let version = ports.version_of("maps", 1, "a", &[&segment]).await;
    let draft = ports.insert("other").await;
    ports.give(&draft, "a", &segment).await;
    let retired = ports.packs.retire_version(&name("maps"), 1, at(10)).await;
    assert!(retired.unwrap());
    assert_eq!(ports.doomed().await, sorted(documents(&version)));
    assert_eq!(ports.content("a").await, Some(stored("a", &segment)));
    assert!(ports.packs.forget_draft(&draft.id, at(11)).await.unwrap());
    assert!(ports.doomed().await.contains(&segment.blob));
    assert_eq!(ports.content("a").await, None);
}

/// A blob that a file and a draft share is kept until both have released it.
pub async fn a_file_keeps_what_a_pack_lets_go(ports: &Ports) {
    let (first, second) = (blob("first"), blob("second"));
    let file = |content: &Content| File {
        path: "a".parse().unwrap(),
        content: content.clone(),
        description: Description::default(),
        modified_at: at(12),
        previous_at: None,
    };
    let draft = ports.insert("maps").await;
    for segment in [&first, &second] {
        ports
            .give(&draft, segment.sha256.to_string().as_str(), segment)
            .await;
    }
    let put = async |content| {
        let written = ports.metadata.put_file(&file(content), &ALWAYS, None).await;
        written.unwrap()
    };
    assert_eq!(put(&first).await, Written::Created);
    ports.drop_blobs(&draft, &[&first], at(11)).await;
    assert_eq!(ports.doomed().await, []);
    let text = first.sha256.to_string();
    assert!(ports.content(&text).await.is_some());
    // A file can also use a blob that a draft holds.
    assert_eq!(put(&second).await, Written::Replaced);
    assert_eq!(ports.doomed().await, std::slice::from_ref(&first.blob));
    assert_eq!(ports.content(&text).await, None);
    let deleted = ports
        .metadata
        .delete_file(&file(&second).path, &ALWAYS, at(13))
        .await;
    deleted.unwrap();
    assert_eq!(ports.doomed().await, [first.blob]);
    let text = second.sha256.to_string();
    assert!(ports.content(&text).await.is_some());
}

/// A blob that a version or a draft holds can be forgotten only once it is doomed.
pub async fn a_held_blob_is_not_forgotten(ports: &Ports) {
    let segment = blob("segment");
    let version = ports.version_of("maps", 1, "a", &[&segment]).await;
    let draft = DraftRecord {
        tree: Some(blob("tree")),
        ..draft("maps")
    };
    ports.packs.insert_draft(&draft).await.unwrap();
    let given = blob("given");
    ports.give(&draft, "b", &given).await;
    let tree = draft.tree.clone().unwrap();
    let mut held = documents(&version);
    held.extend([segment.blob, tree.blob, given.blob]);
    for key in &held {
        ports.metadata.forget_blob(key).await.unwrap();
    }
    let known = ports.metadata.known_blobs(&held).await.unwrap();
    assert_eq!(sorted(known), sorted(held.clone()));

    let retired = ports.packs.retire_version(&name("maps"), 1, at(6)).await;
    assert!(retired.unwrap());
    assert!(ports.packs.forget_draft(&draft.id, at(6)).await.unwrap());
    let known = ports.metadata.known_blobs(&held).await.unwrap();
    assert_eq!(sorted(known), sorted(held.clone()));
    for key in &held {
        ports.metadata.forget_blob(key).await.unwrap();
    }
    assert_eq!(ports.metadata.known_blobs(&held).await.unwrap(), []);
    assert_eq!(ports.doomed().await, []);
}

/// Numbers from 2⁶³ on are refused when they are recorded, and never found.
pub async fn pack_numbers_beyond_the_engine_are_refused(ports: &Ports) {
    const BEYOND: u64 = 1 << 63;
    let (maps, draft) = (name("maps"), ports.insert("maps").await);
    let is_full = |answer: Result<(), MetadataError>| matches!(answer, Err(MetadataError::Full));
    let segment = blob("segment");
    let good = stored("a", &segment);
    let large = Content {
        size: BEYOND,
        ..segment.clone()
    };
    let form = Deflated {
        size: BEYOND,
        sha256: digest("deflated"),
    };
    let contents = [
        StoredContent {
            size: BEYOND,
            ..good.clone()
        },
        StoredContent {
            raw: place(&segment, BEYOND),
            ..good.clone()
        },
        StoredContent {
            deflated: Some((form, place(&segment, 0))),
            ..good.clone()
        },
    ];
    for (blob, content) in [(&large, &good)]
        .into_iter()
        .chain(contents.iter().map(|content| (&segment, content)))
    {
        let taken = ports
            .packs
            .store_contents(
                &draft.id,
                std::slice::from_ref(blob),
                std::slice::from_ref(content),
                at(9),
            )
            .await;
        assert!(is_full(taken.map(drop)));
    }
    let version = version("maps", 1);
    let versions = [
        PackVersion {
            size: BEYOND,
            ..version.clone()
        },
        PackVersion {
            files: BEYOND,
            ..version.clone()
        },
        PackVersion {
            places: large.clone(),
            ..version
        },
    ];
    for version in &versions {
        let published = ports
            .packs
            .publish_version(&draft.id, version, &[], at(9), None)
            .await;
        assert!(is_full(published.map(drop)));
    }
    let tree = DraftRecord {
        tree: Some(large),
        ..super::draft("maps")
    };
    assert!(is_full(ports.packs.insert_draft(&tree).await));
    assert_eq!(ports.packs.draft(&tree.id).await.unwrap(), None);
    assert!(!ports.is_recorded(&segment.blob).await);
    assert_eq!(ports.packs.pack(&maps).await.unwrap(), None);

    ports.publish(&draft, 1, &[]).await;
    for number in [BEYOND, u64::MAX] {
        let found = ports.packs.version(&maps, Some(number)).await;
        assert_eq!(found.unwrap(), None);
        let need = ports.packs.need(&maps, number, &digest("x")).await;
        assert_eq!(need.unwrap(), None);
        let registered = ports
            .packs
            .register_need(&maps, number, &digest("x"), b"x", at(9))
            .await;
        assert!(!registered.unwrap());
        let retired = ports.packs.retire_version(&maps, number, at(9)).await;
        assert!(!retired.unwrap());
    }
}
