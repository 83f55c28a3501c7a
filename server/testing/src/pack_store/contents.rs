//! Contents: their places, and the time for which they are known.

use std::collections::BTreeSet;

use archive::Deflated;

use super::{Ports, at, blob, digest, is_failure, place, stored};
use domain::digest::Sha256Digest;
use domain::file::Content;
use domain::pack::StoredContent;
use domain::pack_store::MAX_LOOKED_UP;

/// Contents are read back exactly, in each form; unknown contents are left out.
pub async fn contents_read_back(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let (segment, own) = (blob("a segment"), blob("of its own"));
    let plain = StoredContent {
        size: i64::MAX as u64,
        crc32: u32::MAX,
        raw: place(&segment, i64::MAX as u64),
        ..stored("plain", &segment)
    };
    let both = StoredContent {
        crc32: 0,
        raw: place(&own, 0),
        deflated: Some((
            Deflated {
                size: 3,
                sha256: digest("deflated"),
            },
            place(&segment, 5),
        )),
        ..stored("both", &own)
    };
    let empty = stored("", &segment);
    let contents = [plain, both, empty];
    let taken = ports
        .packs
        .store_contents(&draft.id, &[segment, own], &contents, at(9))
        .await;
    assert!(taken.unwrap());
    assert_eq!(ports.content("plain").await.as_ref(), Some(&contents[0]));
    let wanted = ["both", "unknown", "", "plain", "both"].map(digest);
    let mut found = ports.packs.contents(&wanted).await.unwrap();
    found.sort_by_key(|content| std::cmp::Reverse(content.size));
    assert_eq!(found, contents);
    assert_eq!(ports.packs.contents(&[]).await.unwrap(), []);
}

/// Thousands of contents can be stored at once, and up to [`MAX_LOOKED_UP`] can be looked up.
pub async fn many_contents_are_stored_and_looked_up(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let segment = blob("segment");
    let contents: Vec<StoredContent> = (0..4500_u64)
        .map(|n| StoredContent {
            raw: place(&segment, n),
            ..stored(&n.to_string(), &segment)
        })
        .collect();
    let taken = ports
        .packs
        .store_contents(&draft.id, std::slice::from_ref(&segment), &contents, at(9))
        .await;
    assert!(taken.unwrap());
    let sha256s: Vec<Sha256Digest> = contents.iter().map(|content| content.sha256).collect();
    let mut found = Vec::new();
    for some in sha256s.chunks(MAX_LOOKED_UP) {
        found.extend(ports.packs.contents(some).await.unwrap());
    }
    found.sort_by_key(|content| content.raw.start);
    assert_eq!(found, contents);
    let too_many = ports.packs.contents(&sha256s[..=MAX_LOOKED_UP]).await;
    assert!(is_failure(&too_many));

    assert!(ports.packs.forget_draft(&draft.id, at(1)).await.unwrap());
    let left = ports.packs.contents(&sha256s[..MAX_LOOKED_UP]).await;
    assert_eq!(left.unwrap(), []);
}

/// A content that is stored again keeps its first place, but the draft holds the second blob.
pub async fn known_contents_keep_their_places(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let (first, second) = (blob("first"), blob("second"));
    ports.give(&draft, "a", &first).await;
    ports.give(&draft, "a", &second).await;
    assert_eq!(ports.content("a").await, Some(stored("a", &first)));
    ports.drop_blobs(&draft, &[&second], at(1)).await;
    assert_eq!(ports.doomed().await, [second.blob]);
    assert_eq!(ports.content("a").await, Some(stored("a", &first)));
}

/// A content can be stored again in its place, as after a lost answer, by the same draft or
/// another.
pub async fn contents_can_be_stored_again(ports: &Ports) {
    let segment = blob("segment");
    let drafts = [ports.insert("maps").await, ports.insert("maps").await];
    for draft in [&drafts[0], &drafts[0], &drafts[1]] {
        ports.give(draft, "a", &segment).await;
    }
    ports.drop_blobs(&drafts[0], &[&segment], at(1)).await;
    assert_eq!(ports.doomed().await, []);
    assert_eq!(ports.content("a").await, Some(stored("a", &segment)));
}

/// A content outside the given blobs is refused, with everything else in the call.
pub async fn contents_lie_in_the_blobs_given(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let (given, other) = (blob("given"), blob("other"));
    ports.give(&draft, "other", &other).await;
    let elsewhere = StoredContent {
        deflated: Some((
            Deflated {
                size: 1,
                sha256: digest("deflated"),
            },
            place(&other, 0),
        )),
        ..stored("b", &given)
    };
    for second in [elsewhere, stored("b", &other)] {
        let contents = [stored("a", &given), second];
        let taken = ports
            .packs
            .store_contents(&draft.id, std::slice::from_ref(&given), &contents, at(9))
            .await;
        assert!(is_failure(&taken));
        assert_eq!(ports.content("a").await, None);
        assert_eq!(ports.content("b").await, None);
        assert!(!ports.is_recorded(&given.blob).await);
    }
    assert_eq!(ports.packs.draft(&draft.id).await.unwrap(), Some(draft));
}

/// A blob that is doomed, or recorded with another size or digest, is refused with everything else
/// in the call.
pub async fn a_blob_of_contents_has_one_content(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let (known, doomed, new) = (blob("known"), blob("doomed"), blob("new"));
    ports.give(&draft, "known", &known).await;
    ports.doom(&doomed).await;
    let longer = Content {
        size: known.size + 1,
        ..known.clone()
    };
    let other = Content {
        sha256: digest("other"),
        ..known.clone()
    };
    for wrong in [doomed, longer, other] {
        let contents = [stored("a", &new), stored("b", &wrong)];
        let taken = ports
            .packs
            .store_contents(&draft.id, &[new.clone(), wrong], &contents, at(9))
            .await;
        assert!(is_failure(&taken));
        assert_eq!(ports.content("a").await, None);
        assert_eq!(ports.content("b").await, None);
        assert!(!ports.is_recorded(&new.blob).await);
    }
    assert_eq!(ports.packs.draft(&draft.id).await.unwrap(), Some(draft));
    assert_eq!(ports.content("known").await, Some(stored("known", &known)));
}

/// A content is forgotten with any of its blobs, even if the blob of its other form is still
/// needed.
pub async fn a_content_goes_with_any_of_its_blobs(ports: &Ports) {
    let form = Deflated {
        size: 1,
        sha256: digest("deflated"),
    };
    for (raw_goes, text) in [(true, "a"), (false, "b")] {
        let draft = ports.insert("maps").await;
        let (raw, deflated) = (blob("raw"), blob("deflated"));
        let content = StoredContent {
            deflated: Some((form, place(&deflated, 0))),
            ..stored(text, &raw)
        };
        let beside = stored("beside", if raw_goes { &deflated } else { &raw });
        let blobs = [raw.clone(), deflated.clone()];
        let taken = ports
            .packs
            .store_contents(&draft.id, &blobs, &[content.clone(), beside], at(9))
            .await;
        assert!(taken.unwrap());
        assert_eq!(ports.content(text).await, Some(content));
        let goes = if raw_goes { &raw } else { &deflated };
        ports.drop_blobs(&draft, &[goes], at(1)).await;
        assert_eq!(ports.content(text).await, None);
        assert!(ports.content("beside").await.is_some());
        ports.drop_blobs(&draft, &[&raw, &deflated], at(1)).await;
        assert_eq!(ports.content("beside").await, None);
    }
}

/// A forgotten content can be stored in another blob, before and after the doomed one is forgotten;
/// the old place does not come back.
pub async fn a_content_that_went_can_be_stored_anew(ports: &Ports) {
    let draft = ports.insert("maps").await;
    let [first, second, third] = ["first", "second", "third"].map(blob);
    ports.give(&draft, "a", &first).await;
    ports.drop_blobs(&draft, &[&first], at(1)).await;
    ports.give(&draft, "a", &second).await;
    assert_eq!(ports.content("a").await, Some(stored("a", &second)));
    ports.metadata.forget_blob(&first.blob).await.unwrap();
    assert!(!ports.is_recorded(&first.blob).await);
    assert_eq!(ports.content("a").await, Some(stored("a", &second)));
    ports.drop_blobs(&draft, &[&second], at(2)).await;
    ports.metadata.forget_blob(&second.blob).await.unwrap();
    assert_eq!(ports.content("a").await, None);
    ports.give(&draft, "a", &third).await;
    assert_eq!(ports.content("a").await, Some(stored("a", &third)));
}

/// A draft that stores a known content holds the blobs of its recorded places, besides its own
/// blob.
pub async fn known_contents_are_held_where_they_lie(ports: &Ports) {
    let (first, second) = (blob("first"), blob("second"));
    let deflated = StoredContent {
        deflated: Some((
            Deflated {
                size: 1,
                sha256: digest("deflated"),
            },
            place(&second, 0),
        )),
        ..stored("b", &first)
    };
    let one = ports.insert("maps").await;
    let blobs = [first.clone(), second.clone()];
    let contents = [stored("a", &first), deflated.clone()];
    let taken = ports
        .packs
        .store_contents(&one.id, &blobs, &contents, at(9))
        .await;
    assert!(taken.unwrap());
    let other = ports.insert("maps").await;
    let own = blob("own");
    let contents = [stored("a", &own), stored("b", &own)];
    let taken = ports
        .packs
        .store_contents(&other.id, std::slice::from_ref(&own), &contents, at(9))
        .await;
    assert!(taken.unwrap());
    assert!(ports.packs.forget_draft(&one.id, at(1)).await.unwrap());
    assert_eq!(ports.doomed().await, []);
    assert_eq!(ports.content("a").await, Some(stored("a", &first)));
    assert_eq!(ports.content("b").await, Some(deflated));
    assert!(ports.packs.forget_draft(&other.id, at(2)).await.unwrap());
    assert_eq!(ports.doomed().await.len(), 3);
}

/// An open draft can hold existing blobs that it did not store, but no doomed or unknown ones.
pub async fn a_draft_holds_what_it_goes_without(ports: &Ports) {
    let (there, doomed, unknown) = (blob("there"), blob("doomed"), blob("unknown"));
    ports.doom(&doomed).await;
    let version = ports.version_of("maps", 1, "a", &[&there]).await;
    let draft = ports.insert("other").await;
    let keys = [&there, &doomed, &unknown, &there].map(|blob| blob.blob.clone());
    let hold = async |id| {
        let held = ports.packs.hold_blobs(id, &keys).await.unwrap()?;
        Some(held.into_iter().collect::<BTreeSet<_>>())
    };
    assert_eq!(
        hold(&draft.id).await,
        Some(BTreeSet::from([there.blob.clone()]))
    );
    let retired = ports
        .packs
        .retire_version(&version.pack, version.number, at(1))
        .await;
    assert!(retired.unwrap());
    assert!(!ports.doomed().await.contains(&there.blob));
    assert_eq!(ports.content("a").await, Some(stored("a", &there)));
    ports.publish(&draft, 1, &[&there]).await;
    assert_eq!(hold(&draft.id).await, None);
    assert!(ports.packs.forget_draft(&draft.id, at(2)).await.unwrap());
    assert_eq!(hold(&draft.id).await, None);
    assert_eq!(ports.content("a").await, Some(stored("a", &there)));
}

/// A draft that takes hold of a blob while versions release it either holds the blob or learns that
/// it is gone.
pub async fn an_only_draft_holds_what_others_let_go(ports: &Ports) {
    for round in 0..20 {
        let shared = blob("shared");
        let keys = [shared.blob.clone()];
        let versions = [1, 2].map(|n| format!("maps {round} {n}"));
        for name in &versions {
            ports.version_of(name, 1, "a", &[&shared]).await;
        }
        let draft = ports.insert("other").await;
        let packs = versions.each_ref().map(|name| super::name(name));
        let [one, other] = packs
            .each_ref()
            .map(|pack| ports.packs.retire_version(pack, 1, at(1)));
        let (held, one, other) = tokio::join!(ports.packs.hold_blobs(&draft.id, &keys), one, other);
        assert!(one.unwrap() && other.unwrap());
        let is_held = !held.unwrap().unwrap().is_empty();
        assert_eq!(ports.content("a").await.is_some(), is_held);
        ports.packs.forget_draft(&draft.id, at(2)).await.unwrap();
    }
}
