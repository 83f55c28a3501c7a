//! Registered needs.

use archive::PackName;

use super::{Ports, at, digest, name};
use domain::digest::Sha256Digest;

/// A need is found only under its pack, version and digest.
pub async fn a_need_reads_back(ports: &Ports) {
    let maps = name("maps");
    for number in [1, 2] {
        let draft = ports.insert("maps").await;
        ports.publish(&draft, number, &[]).await;
    }
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let sha256 = Sha256Digest::of(&bytes);
    let register = async |pack: &PackName, number| {
        let registered = ports
            .packs
            .register_need(pack, number, &sha256, &bytes, at(60))
            .await;
        registered.unwrap()
    };
    assert!(!register(&maps, 3).await);
    assert!(!register(&name("other"), 1).await);
    assert!(register(&maps, 2).await);
    let need = async |pack: &PackName, number, sha256: &Sha256Digest| {
        let need = ports.packs.need(pack, number, sha256).await;
        need.unwrap()
    };
    assert_eq!(need(&maps, 2, &sha256).await, Some(bytes.clone()));
    assert_eq!(need(&maps, 2, &digest("another")).await, None);
    assert_eq!(need(&maps, 1, &sha256).await, None);
    assert_eq!(need(&maps, 3, &sha256).await, None);
    assert_eq!(need(&name("other"), 2, &sha256).await, None);
}

/// A need is forgotten when its version is retired, and is not passed on to the next version.
pub async fn a_need_goes_with_its_version(ports: &Ports) {
    let maps = name("maps");
    let draft = ports.insert("maps").await;
    ports.publish(&draft, 1, &[]).await;
    let sha256 = digest("x");
    let registered = ports
        .packs
        .register_need(&maps, 1, &sha256, b"x", at(60))
        .await;
    assert!(registered.unwrap());
    let retired = ports.packs.retire_version(&maps, 1, at(6)).await;
    assert!(retired.unwrap());
    assert_eq!(ports.packs.need(&maps, 1, &sha256).await.unwrap(), None);
    let next = ports.insert("maps").await;
    ports.publish(&next, 2, &[]).await;
    assert_eq!(ports.packs.need(&maps, 2, &sha256).await.unwrap(), None);
    assert_eq!(ports.packs.forget_needs(at(99), 9).await.unwrap(), 0);
}

/// Needs are kept until the latest time with which they were registered, then forgotten up to the
/// given limit.
pub async fn needs_are_kept_as_long_as_anyone_asks(ports: &Ports) {
    let maps = name("maps");
    let draft = ports.insert("maps").await;
    ports.publish(&draft, 1, &[]).await;
    for (need, seconds) in [("a", 10), ("b", 20), ("c", 30), ("a", 25), ("c", 5)] {
        let registered = ports
            .packs
            .register_need(&maps, 1, &digest(need), need.as_bytes(), at(seconds))
            .await;
        assert!(registered.unwrap());
    }
    let left = async || {
        let mut left = String::new();
        for need in ["a", "b", "c"] {
            let bytes = ports.packs.need(&maps, 1, &digest(need)).await.unwrap();
            left.push_str(std::str::from_utf8(&bytes.unwrap_or_default()).unwrap());
        }
        left
    };
    let forget = async |seconds, limit| {
        let forgotten = ports.packs.forget_needs(at(seconds), limit).await;
        forgotten.unwrap()
    };
    assert_eq!(forget(19, 9).await, 0);
    assert_eq!(left().await, "abc");
    assert_eq!(forget(20, 9).await, 1);
    assert_eq!(left().await, "ac");
    assert_eq!(forget(29, 0).await, 0);
    assert_eq!(forget(29, 9).await, 1);
    assert_eq!(left().await, "c");
    assert_eq!(forget(30, 9).await, 1);
    assert_eq!(left().await, "");

    for need in ["a", "b", "c"] {
        let registered = ports
            .packs
            .register_need(&maps, 1, &digest(need), need.as_bytes(), at(40))
            .await;
        assert!(registered.unwrap());
    }
    assert_eq!(forget(40, 2).await, 2);
    assert_eq!(left().await.len(), 1);
    assert_eq!(forget(40, 2).await, 1);
}
