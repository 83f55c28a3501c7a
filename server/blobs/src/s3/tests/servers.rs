//! Servers that use the freedom S3 gives them, or break its rules: no acknowledged byte is lost.

use std::error::Error as _;

use super::faults::history;
use super::faulty_s3::Habits;
use super::*;
use crate::OpenError;

/// Known differences of other servers, and a little more.
const HABITS: [(&str, Habits); 5] = [
    (
        "unsorted",
        Habits {
            unsorted: true,
            ..NONE
        },
    ),
    (
        "repeats",
        Habits {
            repeats: true,
            ..NONE
        },
    ),
    (
        "unsorted and repeats",
        Habits {
            unsorted: true,
            repeats: true,
            ..NONE
        },
    ),
    (
        "terse",
        Habits {
            terse: true,
            ..NONE
        },
    ),
    (
        "unconditional",
        Habits {
            unconditional: true,
            ..NONE
        },
    ),
];
const NONE: Habits = Habits {
    unsorted: false,
    repeats: false,
    terse: false,
    endless: false,
    hides_last_part: false,
    unconditional: false,
    forgetful: false,
    trusting: false,
};

/// Runs the history of a blob with a crash in it, on two nodes.
async fn serves(server: &FaultyS3, change: impl Fn(Config) -> Config, what: &str) {
    let a = node_with(server, "a", Limits::default(), &change).await;
    let b = node_with(server, "b", Limits::default(), &change).await;
    for _ in 0..3 {
        let done = history(&a, &b).await;
        done.unwrap_or_else(|error| panic!("{what}: {error:?}"));
    }
    assert_all_goes(server, &a).await;
}

#[tokio::test]
async fn habits_of_other_servers_go_unnoticed() {
    for (what, habits) in HABITS {
        let server = FaultyS3::start().await;
        server.behave(habits);
        serves(&server, |config| config, what).await;
    }
}

#[tokio::test]
async fn what_a_server_refuses_is_done_without() {
    for (operation, status, code) in [
        ("UploadPartCopy", 400, "InvalidArgument"),
        ("UploadPartCopy", 501, "NotImplemented"),
        ("UploadPartCopy", 405, "MethodNotAllowed"),
        ("UploadPartCopy", 403, "AccessDenied"),
        ("DeleteObjects", 501, "NotImplemented"),
        ("DeleteObjects", 400, "MalformedXML"),
    ] {
        let server = FaultyS3::start().await;
        server.refuse(operation, status, code);
        serves(&server, |config| config, &format!("{operation}: {code}")).await;
    }
}

/// A server may refuse ranges of objects although it copied a complete object in the trial at the
/// start.
#[tokio::test]
async fn copies_may_be_refused_later_than_at_the_start() {
    let server = FaultyS3::start().await;
    let (a, b) = (node(&server, "a").await, node(&server, "b").await);
    assert!(a.shared.abilities.copies_parts());
    server.refuse("UploadPartCopy", 400, "InvalidRequest");
    history(&a, &b).await.unwrap();
    assert!(!a.shared.abilities.copies_parts());
    assert_all_goes(&server, &a).await;
}

#[tokio::test]
async fn every_kind_of_checksum_survives_a_crash() {
    for checksums in [
        Checksums::Crc32,
        Checksums::Crc64nvme,
        Checksums::Sha256,
        Checksums::Md5,
        Checksums::None,
    ] {
        let server = FaultyS3::start().await;
        let change = |config| Config {
            checksums,
            ..config
        };
        serves(&server, change, &format!("{checksums:?}")).await;
    }
}

#[tokio::test]
async fn a_prefix_may_be_any_text() {
    for prefix in ["größe/", "a b+c%20/", "x&y=z/"] {
        let server = FaultyS3::start().await;
        let change = |config| Config {
            prefix: prefix.to_owned(),
            ..config
        };
        let a = node_with(&server, "a", Limits::default(), change).await;
        let b = node_with(&server, "b", Limits::default(), change).await;
        let done = history(&a, &b).await;
        done.unwrap_or_else(|error| panic!("{prefix}: {error:?}"));
        assert_all_goes(&server, &a).await;
    }
}

#[tokio::test]
async fn conditions_are_tried_or_believed() {
    for (habits, setting, expected) in [
        (NONE, Ability::Auto, true),
        (NONE, Ability::No, false),
        (
            Habits {
                unconditional: true,
                ..NONE
            },
            Ability::Auto,
            false,
        ),
        (
            Habits {
                unconditional: true,
                ..NONE
            },
            Ability::No,
            false,
        ),
    ] {
        let server = FaultyS3::start().await;
        server.behave(habits);
        let change = |config| Config {
            conditional_writes: setting,
            ..config
        };
        let store = node_with(&server, "a", Limits::default(), change).await;
        let found = store.shared.abilities.conditional_writes;
        assert_eq!(found, expected, "{habits:?} {setting:?}");
    }
}

/// Parts are verified by something, even if the server does not verify the signature of the body.
#[tokio::test]
async fn parts_are_never_taken_on_trust() {
    for (checksums, is_verified) in [
        (Checksums::Crc32, true),
        (Checksums::Crc64nvme, true),
        (Checksums::Md5, true),
        (Checksums::None, false),
    ] {
        let server = FaultyS3::start().await;
        server.behave(Habits {
            trusting: true,
            ..NONE
        });
        let change = |config| Config {
            checksums,
            ..config
        };
        serves(&server, change, &format!("{checksums:?}")).await;
        let trusted = server.trusted();
        let blobs = trusted.iter().filter(|name| name.starts_with("published/"));
        assert_eq!(blobs.count() == 0, is_verified, "{checksums:?}");
    }
}

#[tokio::test]
async fn finding_out_leaves_nothing() {
    let server = FaultyS3::start().await;
    let store = node(&server, "a").await;
    assert!(server.objects().is_empty());
    assert_eq!(server.uploads(), 0);
    let most = 25;
    let requests: u64 = store.requests().values().sum();
    assert!(requests <= most, "{requests} requests");
}

/// Writes a blob with acknowledged bytes in parts and behind them, and drops the writer.
async fn acknowledged(store: &S3Store) -> Vec<u8> {
    let whole = bytes(5 * PART + 10, 3);
    let mut staged = store.stage(&key(), at(0, 1)).await.unwrap();
    staged.write(whole.clone().into()).await.unwrap();
    assert_eq!(staged.sync().await.unwrap(), whole.len() as u64);
    whole
}

/// Asserts that a newer writer gets all bytes.
async fn assert_kept(server: &FaultyS3, store: &S3Store, whole: &[u8]) {
    let mut staged = store.stage(&key(), at(whole.len(), 9)).await.unwrap();
    staged.write(vec![7; 20].into()).await.unwrap();
    staged.publish().await.unwrap();
    let all = [whole, &[7; 20]].concat();
    assert!(read(store, &key(), all.len()).await.unwrap() == all);
    assert_all_goes(server, store).await;
}

#[tokio::test]
async fn a_list_that_lacks_what_was_acknowledged_drops_nothing() {
    let server = FaultyS3::start().await;
    let store = node(&server, "a").await;
    let whole = acknowledged(&store).await;
    server.behave(Habits {
        hides_last_part: true,
        ..NONE
    });
    let error = store.stage(&key(), at(whole.len(), 2)).await.unwrap_err();
    let BlobError::Inconsistent { reason, .. } = error else {
        panic!("{error:?}");
    };
    assert!(reason.contains("5010 bytes"), "{reason}");
    assert!(reason.contains("blobs.prefix"), "{reason}");
    server.behave(NONE);
    assert_kept(&server, &store, &whole).await;
}

#[tokio::test]
async fn a_list_without_an_end_is_no_list() {
    for repeats in [false, true] {
        let server = FaultyS3::start().await;
        let store = node(&server, "a").await;
        let whole = acknowledged(&store).await;
        server.behave(Habits {
            endless: true,
            repeats,
            ..NONE
        });
        let error = store.stage(&key(), at(whole.len(), 2)).await.unwrap_err();
        assert!(matches!(error, BlobError::Failed { .. }), "{error:?}");
        server.behave(NONE);
        assert_kept(&server, &store, &whole).await;
    }
}

/// A proxy in front of the server may answer so for a moment.
#[tokio::test]
async fn not_found_is_no_proof_of_a_loss() {
    for operation in ["PutObject", "ListObjectsV2", "ListParts"] {
        let server = FaultyS3::start().await;
        let limits = Limits {
            completing: Duration::from_millis(200),
            ..Limits::default()
        };
        let store = node_with(&server, "a", limits, |config| config).await;
        let whole = acknowledged(&store).await;
        server.refuse(operation, 404, "NotFound");
        let error = store.stage(&key(), at(whole.len(), 2)).await.unwrap_err();
        let is_lost = matches!(error, BlobError::Missing { .. });
        assert!(!is_lost, "{operation}: {error:?}");
        server.relent();
        assert_kept(&server, &store, &whole).await;
    }
    // Nor is a multipart upload gone if only the list of its parts is denied.
    let server = FaultyS3::start().await;
    let limits = Limits {
        completing: Duration::from_millis(200),
        ..Limits::default()
    };
    let store = node_with(&server, "a", limits, |config| config).await;
    let whole = acknowledged(&store).await;
    server.refuse("ListParts", 404, "NoSuchUpload");
    let error = store.stage(&key(), at(whole.len(), 2)).await.unwrap_err();
    assert!(matches!(error, BlobError::Inconsistent { .. }), "{error:?}");
    server.relent();
    assert_kept(&server, &store, &whole).await;
}

/// Refusals that stay, with a word of their advice.
const REFUSALS: [(&str, u16, &str, &str); 12] = [
    ("PutObject", 404, "NoSuchBucket", "blobs.bucket"),
    ("PutObject", 403, "AccessDenied", "credentials"),
    ("PutObject", 400, "InvalidBucketName", "blobs.bucket"),
    (
        "PutObject",
        403,
        "SignatureDoesNotMatch",
        "blobs.secret_access_key",
    ),
    ("PutObject", 301, "PermanentRedirect", "blobs.region"),
    ("PutObject", 403, "RequestTimeTooSkewed", "clock"),
    ("PutObject", 400, "InvalidArgument", "[blobs]"),
    ("ListObjectsV2", 403, "AccessDenied", "list"),
    (
        "CreateMultipartUpload",
        501,
        "NotImplemented",
        "blobs.endpoint",
    ),
    ("UploadPart", 403, "AccessDenied", "multipart"),
    (
        "CompleteMultipartUpload",
        405,
        "MethodNotAllowed",
        "blobs.endpoint",
    ),
    ("DeleteObject", 403, "AccessDenied", "delete"),
];

#[tokio::test]
async fn a_refusal_is_said_at_the_start_with_what_to_change() {
    for (operation, status, code, expected) in REFUSALS {
        let server = FaultyS3::start().await;
        server.refuse(operation, status, code);
        if operation == "DeleteObject" {
            server.refuse("DeleteObjects", status, code);
        }
        let error = S3Store::open(&config(&server, "a")).await.unwrap_err();
        let OpenError::Bucket { advice, .. } = &error else {
            panic!("{operation} {code}: {error:?}");
        };
        assert!(advice.contains(expected), "{operation} {code}: {advice}");
        let said = error.source().unwrap().to_string();
        assert!(said.contains(code), "{operation} {code}: {said}");
    }
    let server = FaultyS3::start().await;
    server.behave(Habits {
        forgetful: true,
        ..NONE
    });
    let error = S3Store::open(&config(&server, "a")).await.unwrap_err();
    let said = error.source().unwrap().to_string();
    assert!(said.contains("metadata"), "{said}");
}

#[tokio::test]
async fn a_refusal_is_final_and_a_busy_server_is_not() {
    let server = FaultyS3::start().await;
    let store = node(&server, "a").await;
    let whole = acknowledged(&store).await;
    for (operation, status, code) in [
        ("PutObject", 403, "AccessDenied"),
        ("ListObjectsV2", 404, "NoSuchBucket"),
        ("ListParts", 501, "NotImplemented"),
        ("PutObject", 507, "XMinioStorageFull"),
        ("PutObject", 403, "QuotaExceeded"),
        ("ListObjectsV2", 503, "SlowDown"),
        ("HeadObject", 500, ""),
    ] {
        server.refuse(operation, status, code);
        let error = store.stage(&key(), at(whole.len(), 2)).await.unwrap_err();
        let is_as_it_should = match (status, &error) {
            (500 | 503, BlobError::Unreachable { .. }) => true,
            (_, BlobError::Full) => code.contains("Full") || code.contains("Quota"),
            (400..=499 | 501, BlobError::Refused { .. }) => !code.contains("Quota"),
            _ => false,
        };
        assert!(is_as_it_should, "{operation} {status} {code}: {error:?}");
        server.relent();
    }
    assert_kept(&server, &store, &whole).await;
}
