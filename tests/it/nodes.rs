//! Several servers on one PostgreSQL and one S3 server form one service: each request may go to any
//! of them.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rustix::process::Signal;
use sha2::{Digest as _, Sha256};
use tests::pack::Files;
use tests::{
    Client, Content, Cut, Dice, Fault, Flow, Proxy, Request, Response, Stores, TestServer, Version,
    within,
};

use crate::dialect::Dialect;
use crate::resume::begin;
use crate::uploads::assert_file;

/// Time within which the contract promises an answer to the newest request, doubled for a machine
/// that is busy with other tests.
const SOON: Duration = Duration::from_secs(2);
/// The same for a node that cannot answer any more and is fenced.
const WITHOUT_AN_ANSWER: Duration = Duration::from_secs(5);

/// Starts a service of three nodes.
async fn three() -> [TestServer; 3] {
    let stores = Stores::for_nodes().await;
    let node = || TestServer::setup().stores(&stores).start();
    [node().await, node().await, node().await]
}

/// Begins an upload of `content` at `node` and sends the bytes before `end`. Returns the connection
/// and the URL of the upload.
async fn send_before(
    node: &TestServer,
    version: Version,
    dialect: Dialect,
    path: &str,
    content: Content,
    end: u64,
) -> (Client, String) {
    let mut client = node.client(version).await;
    let upload = begin(&mut client, dialect, path, content.length()).await;
    client.send(&content.slice(0..end)).await.unwrap();
    client.drained().await;
    (client, upload)
}

#[tokio::test]
async fn a_head_on_another_node_ends_the_append_that_lies_there() {
    let [a, b, c] = three().await;
    let content = Content::new(200, 900_000);
    for version in Version::ALL {
        for dialect in Dialect::ALL {
            let path = format!("/files/{version:?}-{dialect:?}");
            let (mut old, upload) =
                send_before(&a, version, dialect, &path, content, 500_000).await;

            let head = b.request(dialect.head(&upload));
            let head = within(SOON, "the offset", head).await.expect(204);
            assert_eq!(head.offset(), 500_000, "what arrived is kept");
            assert_eq!(dialect.is_complete(&head.head), Some(false));
            let cut = old
                .response()
                .await
                .expect_err("the older request is not answered");
            assert!(cut.partial.is_none(), "{cut:?}");

            let append = dialect.append(&upload, 500_000, true);
            let append = append.body(content.from(500_000));
            c.request(append).await.expect(201);
            assert_file(&a, &path, content).await;
        }
    }
}

#[tokio::test]
async fn an_append_on_another_node_takes_the_upload_over() {
    let [a, b, c] = three().await;
    // One smaller and one larger than a part in S3.
    for (number, length) in [900_000, 20_000_000].into_iter().enumerate() {
        let content = Content::new(201, length);
        let (path, half) = (format!("/files/{number}"), length / 2);
        let dialect = Dialect::Interop6;
        let (mut old, upload) =
            send_before(&a, Version::Http1, dialect, &path, content, half).await;

        let end = half + length / 4;
        let append = dialect.append(&upload, half, false);
        let append = append.body(content.slice(half..end));
        let response = b.request(append).await.expect(201);
        assert_eq!(response.offset(), end);
        old.response()
            .await
            .expect_err("the older request is not answered");

        let append = dialect.append(&upload, end, true).body(content.from(end));
        c.request(append).await.expect(201);
        for node in [&a, &b, &c] {
            assert_file(node, &path, content).await;
        }
    }
}

#[tokio::test]
async fn a_cancellation_on_another_node_ends_the_append_that_lies_there() {
    let [a, b, c] = three().await;
    let content = Content::new(202, 900_000);
    let dialect = Dialect::Interop6;
    let (mut old, upload) =
        send_before(&a, Version::Http1, dialect, "/files/a", content, 500_000).await;
    let cancel = b.request(dialect.cancel(&upload));
    within(SOON, "the cancellation", cancel).await.expect(204);
    old.response()
        .await
        .expect_err("the older request is not answered");
    c.request(dialect.head(&upload)).await.expect(404);
    c.request(Request::get("/files/a")).await.expect(404);
}

#[tokio::test]
async fn what_a_killed_node_had_acknowledged_goes_on_at_another() {
    let [mut a, b, c] = three().await;
    let dialect = Dialect::Interop6;
    for (number, length) in [900_000, 20_000_000].into_iter().enumerate() {
        let content = Content::new(203, length);
        let path = format!("/files/{number}");
        let part = length / 3;
        let create = dialect.create(Request::put(&path).body(content.slice(0..part)), false);
        let created = a.request(create).await.expect(201);
        assert_eq!(created.offset(), part);
        let upload = created.field("location");
        let mut client = a.client(Version::Http1).await;
        let append = dialect.append(upload, part, true);
        client
            .begin(&append.announcing(length - part))
            .await
            .unwrap();
        client.send(&content.slice(part..part * 2)).await.unwrap();
        a.kill().await;

        let head = b.request(dialect.head(upload));
        let head = within(WITHOUT_AN_ANSWER, "the offset", head).await;
        let offset = head.expect(204).offset();
        assert!((part..=part * 2).contains(&offset), "{offset}");
        let append = dialect.append(upload, offset, true);
        let append = append.body(content.from(offset));
        c.request(append).await.expect(201);
        a.restart().await;
        assert_file(&a, &path, content).await;
    }
}

#[tokio::test]
async fn many_that_compete_on_all_nodes_leave_the_content_exact() {
    let nodes = three().await;
    let content = Content::new(204, 3_000_000);
    let dialect = Dialect::Interop6;
    let mut client = nodes[0].client(Version::Http1).await;
    let upload = begin(&mut client, dialect, "/files/contended", content.length()).await;
    client.lose();

    let contender = async |seed: u64| {
        let mut dice = Dice::new(seed);
        loop {
            let mut any = || &nodes[usize::try_from(dice.within(0..3)).unwrap()];
            let (first, second) = (any(), any());
            // Another contender may end any of these requests; the client then asks again after a
            // pause, as real clients do. Six clients that take over the upload from each other
            // without a pause can prevent all progress.
            let pause = Duration::from_millis(dice.within(0..1000));
            let Ok(head) = first.try_request(&dialect.head(&upload)).await else {
                tokio::time::sleep(pause).await;
                continue;
            };
            let head = head.expect(204);
            if dialect.is_complete(&head.head) == Some(true) {
                return;
            }
            let offset = head.offset();
            let end = (offset + dice.within(1..800_000)).min(content.length());
            let append = dialect.append(&upload, offset, end == content.length());
            let append = append.body(content.slice(offset..end));
            match second.try_request(&append).await {
                Err(_) => tokio::time::sleep(pause).await,
                Ok(response) => match response.status() {
                    201 => assert!(response.offset() >= end, "{end}: {response:?}"),
                    // Another contender was faster, or the upload is complete.
                    409 | 400 => {}
                    other => panic!("{other}: {response:?}"),
                },
            }
        }
    };
    let all = futures::future::join_all((0..6).map(contender));
    within(
        tests::PATIENCE * 4,
        "one client completes the upload",
        Box::pin(all),
    )
    .await;
    for node in &nodes {
        assert_file(node, "/files/contended", content).await;
    }
}

/// Returns the time for which a stopped node stays stopped beyond what the test needs.
/// `TESTS_STOPPED_SECONDS` sets it for a longer run.
fn stopped_for() -> Duration {
    let seconds = std::env::var_os("TESTS_STOPPED_SECONDS").map_or(0, |seconds| {
        seconds
            .to_str()
            .and_then(|seconds| seconds.parse().ok())
            .expect("TESTS_STOPPED_SECONDS is a number")
    });
    Duration::from_secs(seconds)
}

/// Time at which a stopped node is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Continued {
    /// Another node has completed the upload.
    AfterTheEnd,
    /// Another node has received half of the remaining bytes.
    InTheMiddle,
}

/// Stops a node while it receives `content`. Another node continues from the offset that it
/// reports, with bytes of `other`, and the file must consist of exactly these bytes.
async fn what_a_stopped_node_still_has_does_not_count(length: u64, continued: Continued) {
    let [mut a, b, c] = three().await;
    let (content, other) = (Content::new(205, length), Content::new(206, length));
    let dialect = Dialect::Interop6;
    let half = length / 2;
    let (mut old, upload) =
        send_before(&a, Version::Http1, dialect, "/files/a", content, half).await;
    a.process().signal(Signal::STOP);

    let head = b.request(dialect.head(&upload));
    let head = within(WITHOUT_AN_ANSWER, "the offset", head).await;
    let offset = head.expect(204).offset();
    assert!(offset <= half, "{offset}");
    let file = [content.slice(0..offset), other.from(offset)].concat();
    let middle = offset + (length - offset) / 2;
    let append = dialect.append(&upload, offset, false);
    let append = append.body(other.slice(offset..middle));
    let response = b.request(append).await.expect(201);
    assert_eq!(response.offset(), middle);
    let rest = dialect.append(&upload, middle, true);
    let rest = rest.body(other.from(middle));
    if continued == Continued::AfterTheEnd {
        c.request(rest.clone()).await.expect(201);
    }

    tokio::time::sleep(stopped_for()).await;
    a.process().signal(Signal::CONT);
    // The rest of the old content, if the node still reads.
    let _ = old.send(&content.from(half)).await;
    if let Ok(response) = old.response().await {
        assert!(response.status() >= 400, "{response:?}");
    }
    if continued == Continued::InTheMiddle {
        let head = c.request(dialect.head(&upload)).await.expect(204);
        assert_eq!(head.offset(), middle, "nothing was added");
        c.request(rest).await.expect(201);
    }

    let told = describe(
        &b.request(Request::get("/files/a")).await.expect(200),
        &file,
    );
    for node in [&a, &c] {
        let response = node.request(Request::get("/files/a")).await.expect(200);
        assert_eq!(describe(&response, &file), told);
        let head = node.request(dialect.head(&upload)).await.expect(204);
        assert_eq!(dialect.is_complete(&head.head), Some(true));
        assert_eq!(head.offset(), length);
    }
    // Nor does the node clean up data that others need, at its end or at its start.
    a.terminate();
    assert!(a.ended(tests::PATIENCE).await.success());
    a.restart().await;
    let response = a.request(Request::get("/files/a")).await.expect(200);
    assert_eq!(describe(&response, &file), told);
}

/// Checks that the answer carries all of `file`, and returns the fields that describe it.
#[track_caller]
fn describe(response: &Response, file: &[u8]) -> [String; 4] {
    assert!(response.body == file, "other bytes: {response:?}");
    let digest = format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(file)));
    assert_eq!(response.field("repr-digest"), digest);
    ["etag", "last-modified", "content-type", "content-length"]
        .map(|name| response.field(name).to_owned())
}

#[tokio::test]
async fn a_stopped_node_writes_nothing_that_counts() {
    // One smaller than a part in S3, and one of several parts.
    for length in [900_000, 40_000_000] {
        what_a_stopped_node_still_has_does_not_count(length, Continued::AfterTheEnd).await;
    }
}

#[tokio::test]
async fn a_node_that_is_continued_disturbs_no_upload() {
    for length in [900_000, 40_000_000] {
        what_a_stopped_node_still_has_does_not_count(length, Continued::InTheMiddle).await;
    }
}

#[tokio::test]
async fn a_file_that_one_node_replaces_or_deletes_is_so_on_all() {
    let [a, b, c] = three().await;
    let (first, second) = (Content::new(207, 10_000), Content::new(208, 20_000));
    let put = |content: Content| Request::put("/files/a").body(content.bytes());
    let one = a.request(put(first)).await.expect(201);
    assert_file(&b, "/files/a", first).await;
    let replace = put(second).field("If-Match", one.field("etag"));
    let two = c.request(replace).await.expect(200);
    for node in [&a, &b, &c] {
        assert_file(node, "/files/a", second).await;
    }
    let delete = Request::delete("/files/a");
    let stale = delete.clone().field("If-Match", one.field("etag"));
    a.request(stale).await.expect(412);
    let fresh = delete.field("If-Match", two.field("etag"));
    b.request(fresh).await.expect(204);
    for node in [&a, &b, &c] {
        node.request(Request::get("/files/a")).await.expect(404);
    }
}

/// Publishes a file and a pack of two versions at `node`. Returns a request for everything that can
/// be downloaded.
async fn publish(node: &TestServer) -> Vec<Request> {
    let put = Request::put("/files/a.bin").field("Content-Type", "application/x-test");
    let put = put.body(Content::new(209, 3_000_000).bytes());
    node.request(put).await.expect(201);
    let file = |number: u64, length| (format!("{number:02}"), Content::new(number, length).bytes());
    let tree = |changed: u64| -> Files {
        let small = (0..30).map(|number| file(number + changed * u64::from(number < 9), 9_000));
        let large = [file(70 + changed, 2_000_000), file(90, 1_500_000)];
        small.chain(large).collect()
    };
    node.publish("pack", &tree(0)).await;
    node.publish("pack", &tree(100)).await;
    let pack = [
        "archive.zip",
        "archive.tar",
        "since/1.zip",
        "since/1.tar",
        "catalogue",
        "files/90",
    ]
    .map(|name| Request::get(format!("/packs/pack/versions/2/{name}")));
    let coded = ["gzip", "zstd"].map(|coding| {
        Request::get("/packs/pack/versions/2/catalogue").field("Accept-Encoding", coding)
    });
    let file = Request::get("/files/a.bin");
    Vec::from_iter([file].into_iter().chain(pack).chain(coded))
}

#[tokio::test]
async fn every_node_gives_the_same_bytes_and_tag() {
    let [a, b, c] = three().await;
    for request in publish(&a).await {
        let one = a.request(request.clone()).await.expect(200);
        for node in [&b, &c] {
            let other = node.request(request.clone()).await.expect(200);
            assert!(other.body == one.body, "{request:?}: other bytes");
            for name in ["etag", "content-length", "content-type"] {
                assert_eq!(other.field(name), one.field(name), "{request:?}");
            }
            for name in ["content-encoding", "last-modified", "repr-digest"] {
                assert_eq!(other.optional(name), one.optional(name), "{request:?}");
            }
            let known = request.clone().field("If-None-Match", one.field("etag"));
            node.request(known).await.expect(304);
        }
    }
}

#[tokio::test]
async fn a_download_that_one_node_began_goes_on_at_another() {
    let [a, b, c] = three().await;
    let requests = publish(&c).await;
    let breaking = Flow {
        fault: Some(Fault::CutAfter(100_000)),
        ..Flow::default()
    };
    let proxy = Proxy::start(a.address(), Flow::default(), breaking).await;
    for request in requests {
        let whole = c.request(request.clone()).await.expect(200).body;
        let mut client = Client::open(proxy.address(), Version::Http1).await;
        let (head, mut body) = match client.exchange(&request).await {
            Err(Cut {
                partial: Some(partial),
                ..
            }) => partial,
            Ok(response) => (response.head, response.body.slice(..whole.len() / 3)),
            Err(cut) => panic!("{cut:?}"),
        };
        assert!(body.len() < whole.len(), "{request:?} is large enough");
        for (node, end) in [
            (&b, format!("{}", body.len() + whole.len() / 3)),
            (&c, String::new()),
        ] {
            let range = format!("bytes={}-{end}", body.len());
            let rest = request
                .clone()
                .field("Range", range)
                .field("If-Range", head.field("etag"));
            let rest = node.request(rest).await.expect(206);
            body = Bytes::from([body, rest.body].concat());
        }
        assert!(body == whole, "{request:?}: other bytes");
    }
}
