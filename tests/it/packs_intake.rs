//! Untrusted archives: the names and contents that a pack accepts, the cost to the server, and
//! concurrent publications.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tests::pack::{DOCUMENT, Files, document_of, text};
use tests::{Request, TestServer};

const MIB: u64 = 1024 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, bytes).unwrap();
    gzip.finish().unwrap()
}

/// Builds a tar of empty files with these names, of any length.
fn tar_of_names(names: impl Iterator<Item = String>) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for name in names {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, std::io::empty())
            .unwrap();
    }
    tar.into_inner().unwrap()
}

fn whole(pack: &str, archive: impl Into<Bytes>) -> Request {
    Request::post(format!("/packs/{pack}/versions")).body(archive)
}

#[tokio::test]
async fn names_that_begin_with_a_dot_are_ordinary() {
    let server = TestServer::start().await;
    let files = Files::new([
        (".well-known/assetlinks.json", &b"x"[..]),
        (".nojekyll", b""),
        ("a/.htaccess", b"deny"),
        ("index.html", b"y"),
    ]);
    server.publish("site", &files).await;
    for archive in [files.zip(), files.tar()] {
        server.request(whole("site", archive)).await.expect(201);
    }
    let file = "/packs/site/versions/3/files/.well-known/assetlinks.json";
    assert_eq!(server.bytes(file).await, "x");
    let zip = server.bytes("/packs/site/versions/2/archive.zip").await;
    assert_eq!(Files::from_zip(&zip), files);
    // Only names that archives reserve, and entries that are skipped when archives are read.
    for name in [
        ".longhaul/x",
        ".LONGHAUL/x",
        "a/.DS_Store",
        "._a",
        "__MACOSX/a",
    ] {
        let document = Files::new([(name, &b"x"[..])]).document().to_string();
        let draft = Request::post("/packs/site/drafts").body(document);
        server.request(draft).await.expect(422);
    }
}

#[tokio::test]
async fn a_tree_without_files_is_no_version() {
    let server = TestServer::start().await;
    let mut directories = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_size(0);
    directories
        .append_data(&mut header, "empty/", std::io::empty())
        .unwrap();
    for archive in [
        Files::default().zip(),
        Files::default().tar(),
        directories.into_inner().unwrap().into(),
        Files::new([(".DS_Store", &b"litter"[..])]).zip(),
    ] {
        let refused = server.request(whole("none", archive)).await.expect(422);
        assert_eq!(refused.problem()["type"], "tag:longhaul,2026:no-files");
    }
    let draft = Request::post("/packs/none/drafts").body(r#"{"files":[]}"#);
    server.request(draft).await.expect(422);
    server
        .request(Request::get("/packs/none"))
        .await
        .expect(404);
}

#[tokio::test]
async fn hard_links_are_published_as_copies() {
    let server = TestServer::start().await;
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    tar.append_data(&mut header, "first", &b"same"[..]).unwrap();
    let mut link = tar::Header::new_gnu();
    link.set_entry_type(tar::EntryType::Link);
    link.set_size(0);
    link.set_mode(0o644);
    tar.append_link(&mut link, "second", "first").unwrap();
    let tar = tar.into_inner().unwrap();
    server
        .request(whole("links", tar.clone()))
        .await
        .expect(201);
    let expected = Files::new([("first", &b"same"[..]), ("second", b"same")]);
    let zip = server.bytes("/packs/links/versions/1/archive.zip").await;
    assert_eq!(Files::from_zip(&zip), expected);
    // As the contents of a draft they are compared with the draft.
    let draft = server.draft("links", &expected.document()).await;
    let content = Request::post(text(&draft["content_url"])).body(tar.clone());
    server.request(content).await.expect(200);
    let other = Files::new([("first", &b"same"[..]), ("second", b"else")]);
    let draft = server.draft("links", &other.document()).await;
    let content = Request::post(text(&draft["content_url"])).body(tar);
    let refused = server.request(content).await.expect(422);
    assert_eq!(refused.problem()["entry"], "second");
}

#[tokio::test]
async fn a_million_bytes_of_names_are_bounded() {
    let server = TestServer::setup()
        .config("[packs]\nmax_path_bytes = \"4 MiB\"")
        .start()
        .await;
    let before = server.blobs();
    let deep = "d".repeat(200);
    let names = tar_of_names((0..20_000).map(|n| format!("{deep}/{deep}/{deep}/{deep}/{n:020}")));
    assert!(names.len() as u64 > 30 * MIB);
    server.process().forget_peak();
    let idle = server.process().resident().total;
    let bombs = [gzip(&names), zstd::bulk::compress(&names, 3).unwrap()];
    for bomb in bombs {
        let refused = server.request(whole("names", bomb)).await.expect(422);
        let problem = refused.problem();
        assert_eq!(problem["type"], "tag:longhaul,2026:invalid-archive");
    }
    let grown = server.process().peak().saturating_sub(idle);
    assert!(grown < 100 * MIB, "{} MiB more", grown / MIB);
    assert_eq!(server.blobs(), before, "nothing is left");
}

#[tokio::test]
async fn what_comes_behind_the_end_is_no_work() {
    let mut server = TestServer::setup()
        .config("[http]\ndrain_grace = \"5s\"")
        .start()
        .await;
    let mut tar = Files::new([("a", &b"x"[..])]).tar().to_vec();
    tar.resize(tar.len() + (64 << 20), 0);
    for bomb in [gzip(&tar), zstd::bulk::compress(&tar, 1).unwrap()] {
        assert!((bomb.len() as u64) < MIB);
        let refused = server.request(whole("behind", bomb)).await.expect(422);
        assert!(text(&refused.problem()["detail"]).contains("behind the end"));
    }
    server.terminate();
    let status = server.ended(Duration::from_secs(10)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn archives_wait_for_each_other() {
    let server = TestServer::setup()
        .config("[packs]\nmax_unpacking = 1")
        .start()
        .await;
    let tree = |n: u8| {
        let noise = tests::Content::new(n.into(), 300_000).bytes();
        Files::new([("noise", &noise[..]), ("text", &[b'a' + n; 100_000])])
    };
    let requests = (0..12).map(|n| server.request(whole(&format!("p{n}"), tree(n).zip())));
    for answer in futures::future::join_all(requests).await {
        answer.expect(201);
    }
    for n in 0..12 {
        let zip = server
            .bytes(&format!("/packs/p{n}/versions/1/archive.zip"))
            .await;
        assert_eq!(Files::from_zip(&zip), tree(n));
    }
}

#[tokio::test]
async fn the_second_of_two_who_publish_on_the_same_version_is_told() {
    let server = TestServer::start().await;
    let tree = |n: u8| Files::new([("a", &[n][..])]);
    let first = server
        .request(whole("maps", tree(1).zip()).field("If-None-Match", "*"))
        .await;
    first.expect(201);
    let again = whole("maps", tree(2).zip()).field("If-None-Match", "*");
    server.request(again).await.expect(412);
    // The tag of each document about the newest version identifies that version.
    for target in [
        "/packs/maps",
        "/packs/maps?limit=1",
        "/packs/maps/versions/latest",
        "/packs/maps/versions/latest/catalogue",
    ] {
        let newest = server.request(Request::get(target)).await.expect(200);
        let tag = newest.field("etag").to_owned();
        let draft = server.draft("maps", &tree(3).document()).await;
        let one = whole("maps", tree(4).zip()).field("If-Match", &tag);
        server.request(one).await.expect(201);
        let content = Request::post(text(&draft["content_url"])).body(tree(3).zip());
        server.request(content).await.expect(200);
        let publish = Request::post(text(&draft["publish_url"]));
        let refused = server
            .request(publish.clone().field("If-Match", &tag))
            .await
            .expect(412);
        assert_eq!(refused.field("content-type"), "application/problem+json");
        let late = whole("maps", tree(5).zip()).field("If-Match", &tag);
        server.request(late).await.expect(412);
        // The client reads the current tag, and publishes with it. A repeated publication is
        // answered with 200 and the same tag.
        let now = server
            .request(Request::get("/packs/maps"))
            .await
            .expect(200);
        let publish = publish.field("If-Match", now.field("etag"));
        let published = server.request(publish.clone()).await.expect(201);
        let repeated = server.request(publish).await.expect(200);
        assert_eq!(published.field("etag"), repeated.field("etag"));
        let next = whole("maps", tree(6).zip()).field("If-Match", published.field("etag"));
        server.request(next).await.expect(201);
    }
    let any = whole("other", tree(1).zip()).field("If-Match", "*");
    server.request(any).await.expect(412);
    let base = json!({"files": tree(1).document()["files"], "base": 1});
    let draft = server.draft("unpublished", &base).await;
    let content = Request::post(text(&draft["content_url"])).body(tree(1).zip());
    server.request(content).await.expect(200);
    let refused = server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(409);
    let detail = refused.problem()["detail"].to_string();
    assert!(detail.contains("has no version now"), "{detail}");
}

#[tokio::test]
async fn no_content_means_that_nothing_is_to_be_done() {
    let server = TestServer::start().await;
    let files = |files: &[(&'static str, &'static str)]| {
        Files::new(
            files
                .iter()
                .map(|(path, content)| (*path, content.as_bytes())),
        )
    };
    let old = files(&[("a", "1"), ("b", "2")]);
    let versions = [
        ("renamed", files(&[("c", "1"), ("b", "2")])),
        ("removed", files(&[("b", "2")])),
        ("copied", files(&[("a", "1"), ("b", "2"), ("c", "1")])),
        ("swapped", files(&[("a", "2"), ("b", "1")])),
    ];
    for (pack, new) in versions {
        server.publish(pack, &old).await;
        server.publish(pack, &new).await;
        let ask = |holdings: Value| {
            Request::post(format!("/packs/{pack}/versions/2/diff")).body(holdings.to_string())
        };
        for holdings in [json!({"version": 1, "except": []}), old.document()] {
            let answer = server.request(ask(holdings)).await.expect(201).json();
            assert_eq!(answer["needed"]["files"], 0);
            let zip = server.bytes(text(&answer["archives"]["zip"]["url"])).await;
            assert_eq!(Files::from_zip(&zip), Files::default());
            assert_eq!(document_of(&zip)["version"], 2, "{DOCUMENT} is there");
        }
        // Digests alone do not carry paths.
        let digests: Vec<String> = new
            .0
            .values()
            .map(|bytes| tests::pack::sha256(bytes))
            .collect();
        server.request(ask(json!(digests))).await.expect(201);
        for holdings in [json!({"version": 2}), new.document()] {
            server.request(ask(holdings)).await.expect(204);
        }
    }
}

#[tokio::test]
async fn what_is_asked_for_by_its_path_is_sent() {
    let server = TestServer::start().await;
    server
        .publish("twins", &Files::new([("base", &b"base"[..])]))
        .await;
    let new = Files::new([
        ("base", &b"base"[..]),
        ("m1/__init__.py", b""),
        ("m2/__init__.py", b""),
    ]);
    server.publish("twins", &new).await;
    let ask = |except: Value| {
        let holdings = json!({"version": 1, "except": except}).to_string();
        server.request(Request::post("/packs/twins/versions/2/diff").body(holdings))
    };
    for (except, expected) in [
        (json!([]), vec!["m1/__init__.py"]),
        (json!(["m2/__init__.py"]), vec!["m2/__init__.py"]),
        (
            json!(["base", "m2/__init__.py"]),
            vec!["base", "m2/__init__.py"],
        ),
    ] {
        let answer = ask(except).await.expect(201).json();
        let zip = server.bytes(text(&answer["archives"]["zip"]["url"])).await;
        let files = Files::from_zip(&zip);
        assert_eq!(files.0.keys().collect::<Vec<_>>(), expected);
    }
    let refused = ask(json!(["base", "nowhere"])).await.expect(422);
    let detail = refused.problem()["detail"].to_string();
    assert!(
        detail.contains("nowhere") && detail.contains("neither version 1 nor version 2"),
        "{detail}"
    );
}

/// Each archive is complete, so each version is published, whatever is retired meanwhile.
#[tokio::test]
async fn whole_trees_are_published_beside_retirements() {
    let server = TestServer::start().await;
    let server = &server;
    let clients = (0..4).map(|n| async move {
        for round in 0..15 {
            let own = format!("{n} {round}");
            let files = Files::new([("own", own.as_bytes()), ("shared", b"in all of them")]);
            let pack = format!("p{n}");
            let published = server.request(whole(&pack, files.zip())).await.expect(201);
            let version = published.field("location").to_owned();
            let zip = server.bytes(&format!("{version}/archive.zip")).await;
            assert_eq!(Files::from_zip(&zip), files);
            server.request(Request::delete(version)).await.expect(204);
        }
    });
    futures::future::join_all(clients).await;
}

/// Contents that a draft did not ask for are kept, whatever is retired.
#[tokio::test]
async fn a_draft_keeps_what_it_was_told_not_to_send() {
    let server = TestServer::start().await;
    let files = Files::new([("a", &b"here already"[..]), ("big", &[7; 2_000_000])]);
    server.publish("first", &files).await;
    let draft = server.draft("second", &files.document()).await;
    assert_eq!(draft["missing"]["contents"], 0);
    server
        .request(Request::delete("/packs/first/versions/1"))
        .await
        .expect(204);
    server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(201);
    let zip = server.bytes("/packs/second/versions/1/archive.zip").await;
    assert_eq!(Files::from_zip(&zip), files);
}
