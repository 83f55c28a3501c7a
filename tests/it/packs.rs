//! Packs as a client uses them: publishing trees, and fetching the changes as one archive.

use bytes::Bytes;
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};
use tests::pack::{Files, document_of, sha256, text};
use tests::{Dice, Request, TestServer, Version};

/// Builds files of many sizes and kinds; `edition` changes some of them.
fn tree(edition: u8) -> Files {
    let mut files = Files::default();
    for number in 1..=200_u32 {
        let path = format!("icons/{:02}/{number}.svg", number % 7);
        files.0.insert(
            path,
            format!("<svg id=\"{number}\">")
                .repeat(number as usize)
                .into(),
        );
    }
    let noise = |seed, size| tests::Content::new(seed, size).bytes();
    files
        .0
        .insert("big/map.bin".to_owned(), noise(7, 3_000_000));
    files.0.insert(
        "big/text.txt".to_owned(),
        "all work and no play ".repeat(100_000).into(),
    );
    files.0.insert("empty".to_owned(), Bytes::new());
    files.0.insert(
        "unicode/Grüße – 日本.txt".to_owned(),
        Bytes::from_static(b"hello"),
    );
    files
        .0
        .insert("twin/a".to_owned(), Bytes::from_static(b"the same"));
    files
        .0
        .insert("twin/b".to_owned(), Bytes::from_static(b"the same"));
    if edition > 1 {
        files
            .0
            .insert("icons/00/7.svg".to_owned(), Bytes::from_static(b"changed"));
        files
            .0
            .insert("big/new.bin".to_owned(), noise(8, 1_500_000));
        let moved = files.0.remove("unicode/Grüße – 日本.txt").unwrap();
        files.0.insert("moved.txt".to_owned(), moved);
        files.0.remove("icons/01/1.svg");
    }
    files
}

/// Starts a server with both editions of [`tree`] as versions 1 and 2 of `maps`.
async fn serving() -> TestServer {
    let server = TestServer::start().await;
    server.publish("maps", &tree(1)).await;
    server.publish("maps", &tree(2)).await;
    server
}

#[tokio::test]
async fn a_tree_is_published_and_read_back() {
    let server = TestServer::start().await;
    let files = tree(1);
    let draft = server.draft("maps", &files.document()).await;
    assert_eq!(draft["files"], files.0.len());
    // Only the twins have the same content.
    assert_eq!(draft["missing"]["contents"], files.0.len() - 1);

    let early = server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(409);
    assert_eq!(early.problem()["type"], "tag:longhaul,2026:missing-content");
    assert_eq!(early.problem()["contents"], files.0.len() - 1);

    let content = Request::post(text(&draft["content_url"])).body(files.zip());
    server.request(content).await.expect(200);
    let drafted = server
        .request(Request::get(text(&draft["url"])))
        .await
        .expect(200)
        .json();
    assert_eq!(drafted["missing"]["contents"], 0);
    let published = server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(201);
    assert_eq!(published.field("location"), "/packs/maps/versions/1");
    // The answer may be lost: repeating the request gives the same answer.
    let again = server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(200);
    assert_eq!(again.json(), published.json());

    let version = server
        .request(Request::get("/packs/maps/versions/latest"))
        .await
        .expect(200);
    assert_eq!(version.json(), published.json());
    let version = version.json();
    assert_eq!(version["files"], files.0.len());

    let catalogue = server
        .request(Request::get(text(&version["catalogue"]["url"])))
        .await
        .expect(200);
    assert_eq!(
        sha256(&catalogue.body),
        text(&version["catalogue"]["sha256"])
    );
    let listed: Value = catalogue.json();
    assert_eq!(listed["files"].as_array().unwrap().len(), files.0.len());

    for (path, bytes) in &files.0 {
        let escaped: String = path.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let file = server
            .request(Request::get(format!(
                "/packs/maps/versions/1/files/{escaped}"
            )))
            .await
            .expect(200);
        assert_eq!(file.body, bytes, "{path}");
        assert_eq!(file.field("etag"), format!("\"{}\"", sha256(bytes)));
    }
    let zip = server.bytes(text(&version["archives"]["zip"]["url"])).await;
    assert_eq!(zip.len() as u64, version["archives"]["zip"]["size"]);
    assert_eq!(Files::from_zip(&zip), files);
    let tar = server.bytes(text(&version["archives"]["tar"]["url"])).await;
    assert_eq!(tar.len() as u64, version["archives"]["tar"]["size"]);
    assert_eq!(Files::from_tar(&tar), files);
}

#[tokio::test]
async fn content_is_asked_for_once() {
    let server = TestServer::start().await;
    server.publish("maps", &tree(1)).await;
    let draft = server.draft("other", &tree(2).document()).await;
    let missing: Vec<String> = serde_json::from_value(draft["missing"]["sha256"].clone()).unwrap();
    let mut expected = [sha256(b"changed"), sha256(&tree(2).0["big/new.bin"])];
    expected.sort();
    let mut missing = missing;
    missing.sort();
    assert_eq!(missing, expected);
    assert_eq!(draft["missing"]["size"], 1_500_007);
}

#[tokio::test]
async fn a_difference_is_one_archive() {
    let server = serving().await;
    let diff = server
        .request(Request::get("/packs/maps/versions/2/since/1"))
        .await
        .expect(200)
        .json();
    assert_eq!(diff["needed"], json!({"files": 2, "size": 1_500_007}));
    assert_eq!(
        diff["moved"],
        json!([{"from": "unicode/Grüße – 日本.txt", "to": "moved.txt"}])
    );
    assert!(
        diff["removed"]
            .as_array()
            .unwrap()
            .contains(&json!("icons/01/1.svg"))
    );
    let zip = server
        .request(Request::get(text(&diff["archives"]["zip"]["url"])))
        .await
        .expect(200);
    assert_eq!(zip.body.len() as u64, diff["archives"]["zip"]["size"]);
    assert_eq!(zip.field("etag"), text(&diff["archives"]["zip"]["etag"]));
    assert!(zip.field("cache-control").contains("immutable"));
    let brought = Files::from_zip(&zip.body);
    assert_eq!(
        brought,
        Files::new([
            ("icons/00/7.svg", &b"changed"[..]),
            ("big/new.bin", &tree(2).0["big/new.bin"]),
        ])
    );
    let document = document_of(&zip.body);
    assert_eq!(document["from"]["version"], 1);
    let removals = document["ops"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|op| op["op"] == "remove");
    assert_eq!(removals.count(), 2);

    // A difference to an older version works like any other.
    let back = server
        .request(Request::get("/packs/maps/versions/1/since/2"))
        .await
        .expect(200)
        .json();
    assert_eq!(back["needed"]["files"], 2);
    for nothing in ["since/2", "since/2.zip", "since/2.tar"] {
        server
            .request(Request::get(format!("/packs/maps/versions/2/{nothing}")))
            .await
            .expect(204);
    }
    server
        .request(Request::get("/packs/maps/versions/2/since/3"))
        .await
        .expect(404);
}

#[tokio::test]
async fn a_client_tells_what_it_has() {
    let server = serving().await;
    let ask =
        |holdings: Value| Request::post("/packs/maps/versions/2/diff").body(holdings.to_string());
    let mut held = tree(1);
    held.0.remove("big/text.txt");
    let digests: Vec<String> = held.0.values().map(|bytes| sha256(bytes)).collect();
    let mut answers = Vec::new();
    for holdings in [
        held.document(),
        json!({"digests": digests}),
        json!(digests),
        json!({"version": 1, "except": ["big/text.txt"]}),
    ] {
        let answer = server.request(ask(holdings)).await.expect(201);
        assert_eq!(
            answer.field("location"),
            text(&answer.json()["archives"]["zip"]["url"])
        );
        answers.push(answer.json());
    }
    assert!(
        answers.windows(2).all(|pair| pair[0] == pair[1]),
        "the same question: {answers:?}"
    );
    assert_eq!(answers[0]["needed"]["files"], 3);
    let brought = Files::from_zip(
        &server
            .bytes(text(&answers[0]["archives"]["zip"]["url"]))
            .await,
    );
    let paths: Vec<&str> = brought.0.keys().map(String::as_str).collect();
    assert_eq!(paths, ["big/new.bin", "big/text.txt", "icons/00/7.svg"]);
    let brought = Files::from_tar(
        &server
            .bytes(text(&answers[0]["archives"]["tar"]["url"]))
            .await,
    );
    assert_eq!(brought.0.len(), 3);

    server.request(ask(tree(2).document())).await.expect(204);
    let tar = server
        .request(Request::post("/packs/maps/versions/latest/diff?format=tar").body("[]"))
        .await
        .expect(201);
    assert!(tar.field("location").ends_with(".tar"));

    let text = held.document().to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, text.as_bytes()).unwrap();
    let zstd = zstd::bulk::compress(text.as_bytes(), 1).unwrap();
    for (coding, body) in [("gzip", gzip.finish().unwrap()), ("zstd", zstd)] {
        let request =
            Request::post("/packs/maps/versions/2/diff").field("Content-Encoding", coding);
        let answer = server
            .request(request.clone().body(body.clone()))
            .await
            .expect(201);
        assert_eq!(answer.json(), answers[0]);
        let cut = body[..body.len() - 9].to_vec();
        let broken = server.request(request.body(cut)).await;
        assert!((400..500).contains(&broken.status()), "{broken:?}");
    }
    let brotli = Request::post("/packs/maps/versions/2/diff")
        .field("Content-Encoding", "br")
        .body("x");
    let refused = server.request(brotli).await.expect(415);
    assert_eq!(refused.field("accept-encoding"), "gzip, zstd");
    for nonsense in [
        "",
        "{",
        "[1]",
        "{\"version\": 1, \"except\": [\"nowhere\"]}",
        "{\"files\": [{\"path\": \"../x\", \"size\": 0, \"sha256\": \"\"}]}",
    ] {
        let refused = server
            .request(Request::post("/packs/maps/versions/2/diff").body(nonsense))
            .await;
        assert_eq!(refused.status(), 422, "{nonsense}: {refused:?}");
    }
}

#[tokio::test]
async fn a_long_need_is_registered_and_outlives_the_server() {
    let mut server = TestServer::start().await;
    let mut files = Files::default();
    for number in 0..9000_u32 {
        files
            .0
            .insert(format!("{number:05}"), number.to_be_bytes().to_vec().into());
    }
    server.publish("many", &files).await;
    // Every other file with irregular gaps, so that there are hardly any runs.
    let held: Vec<String> = files
        .0
        .values()
        .enumerate()
        .filter(|(number, _)| (number * number + number / 3) % 5 < 2)
        .map(|(_, bytes)| sha256(bytes))
        .collect();
    let ask = Request::post("/packs/many/versions/1/diff").body(json!(held).to_string());
    let answer = server.request(ask.clone()).await.expect(201).json();
    assert!(
        text(&answer["need"]).starts_with("sha256."),
        "{}",
        answer["need"]
    );
    let url = text(&answer["archives"]["zip"]["url"]);
    let zip = server.request(Request::get(url)).await.expect(200);
    assert_eq!(Files::from_zip(&zip.body).0.len(), 9000 - held.len());
    server.kill().await;
    server.restart().await;
    assert_eq!(server.request(ask).await.expect(201).json(), answer);
    let tail = Request::get(url)
        .field("Range", "bytes=100000-")
        .field("If-Range", zip.field("etag"));
    let tail = server.request(tail).await.expect(206);
    assert_eq!(tail.body, zip.body[100_000..]);
}

#[tokio::test]
async fn archives_follow_the_rules_of_downloads() {
    let mut server = serving().await;
    for target in [
        "/packs/maps/versions/2/archive.zip",
        "/packs/maps/versions/2/archive.tar",
        "/packs/maps/versions/2/since/1.zip",
    ] {
        let whole = server.request(Request::get(target)).await.expect(200);
        let (bytes, etag) = (whole.body.clone(), whole.field("etag").to_owned());
        assert_eq!(whole.field("accept-ranges"), "bytes");
        assert!(whole.field("content-disposition").starts_with("attachment"));
        let head = server.request(Request::head(target)).await.expect(200);
        assert_eq!(head.field("content-length"), bytes.len().to_string());
        assert_eq!(head.field("etag"), etag);
        server
            .request(Request::get(target).field("If-None-Match", &etag))
            .await
            .expect(304);
        server
            .request(Request::get(target).field("If-Match", "\"other\""))
            .await
            .expect(412);
        let beyond = Request::get(target).field("Range", format!("bytes={}-", bytes.len()));
        assert_eq!(
            server
                .request(beyond)
                .await
                .expect(416)
                .field("content-range"),
            format!("bytes */{}", bytes.len())
        );
        let changed = Request::get(target)
            .field("Range", "bytes=5-")
            .field("If-Range", "\"other\"");
        assert_eq!(server.request(changed).await.expect(200).body, bytes);
        let several = Request::get(target).field("Range", "bytes=0-9,100-199,-5");
        let several = server.request(several).await.expect(206);
        assert!(
            several
                .field("content-type")
                .starts_with("multipart/byteranges")
        );

        server.kill().await;
        server.restart().await;
        let mut dice = Dice::new(40);
        let mut client = server.client(Version::ALL[0]).await;
        for _ in 0..100 {
            let start = dice.within(0..bytes.len() as u64);
            let end = dice.within(start..bytes.len() as u64);
            let range = Request::get(target)
                .field("Range", format!("bytes={start}-{end}"))
                .field("If-Range", &etag);
            let part = client.exchange(&range).await.unwrap().expect(206);
            assert_eq!(
                part.body,
                bytes[place(start)..=place(end)],
                "{target} {start}-{end}"
            );
        }
    }
}

#[tokio::test]
async fn a_whole_tree_goes_up_in_one_request() {
    let server = TestServer::start().await;
    let files = tree(1);
    let zip = server
        .request(Request::post("/packs/maps/versions").body(files.zip()))
        .await
        .expect(201);
    assert_eq!(zip.field("location"), "/packs/maps/versions/1");
    let tar = server
        .request(Request::post("/packs/maps/versions").body(files.tar()))
        .await
        .expect(201);
    assert_eq!(tar.field("location"), "/packs/maps/versions/2");
    for version in [1, 2] {
        let archive = server
            .bytes(&format!("/packs/maps/versions/{version}/archive.zip"))
            .await;
        assert_eq!(Files::from_zip(&archive), files);
    }
    server
        .request(Request::get("/packs/maps/versions/2/since/1"))
        .await
        .expect(204);
}

#[tokio::test]
async fn an_archive_is_uploaded_resumably_in_every_dialect() {
    let server = TestServer::start().await;
    let files = tree(1);
    let zip = files.zip();
    let half = zip.len() / 2;
    // IETF: the creation carries half, an append the rest.
    let create = Request::post("/packs/ietf/versions")
        .field("Upload-Draft-Interop-Version", "6")
        .field("Upload-Complete", "?0")
        .body(zip.slice(..half));
    let created = server.request(create).await.expect(201);
    let upload = created.field("location").to_owned();
    assert!(upload.starts_with("/uploads/"));
    let rest = Request::patch(&upload)
        .field("Upload-Draft-Interop-Version", "6")
        .field("Upload-Complete", "?1")
        .field("Upload-Offset", half)
        .field("Content-Type", "application/partial-upload")
        .body(zip.slice(half..));
    let done = server.request(rest).await;
    assert!((200..300).contains(&done.status()), "{done:?}");
    assert_eq!(done.field("content-location"), "/packs/ietf/versions/1");
    // The result is available as long as the upload exists.
    let head = Request::head(&upload).field("Upload-Draft-Interop-Version", "6");
    let head = server.request(head).await.expect(204);
    assert_eq!(head.field("upload-complete"), "?1");
    assert_eq!(head.field("content-location"), "/packs/ietf/versions/1");

    // tus: the contents of a draft.
    let draft = server.draft("tus", &files.document()).await;
    assert_eq!(
        draft["missing"]["contents"], 0,
        "content is shared between packs"
    );
    let fresh = Files::new([("only/here", &b"new content"[..])]);
    let draft = server.draft("tus", &fresh.document()).await;
    let zip = fresh.zip();
    let create = Request::post(text(&draft["content_url"]))
        .field("Tus-Resumable", "1.0.0")
        .field("Upload-Length", zip.len());
    let upload = server
        .request(create)
        .await
        .expect(201)
        .field("location")
        .to_owned();
    let patch = Request::patch(&upload)
        .field("Tus-Resumable", "1.0.0")
        .field("Upload-Offset", 0)
        .field("Content-Type", "application/offset+octet-stream")
        .body(zip);
    server.request(patch).await.expect(204);
    server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(201);
    assert_eq!(
        server
            .bytes("/packs/tus/versions/latest/files/only/here")
            .await,
        "new content"
    );
}

#[tokio::test]
async fn a_hostile_archive_leaves_nothing_behind() {
    let server = TestServer::start().await;
    let before = server.blobs();
    let entry = |path: &str, kind: tar::EntryType, target: Option<&str>| {
        let mut header = tar::Header::new_ustar();
        let name = header.as_old_mut();
        name.name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        if let Some(target) = target {
            header.set_link_name(target).unwrap();
        }
        header.set_size(0);
        header.set_mode(0o644);
        header.set_cksum();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append(&header, std::io::empty()).unwrap();
        Bytes::from(tar.into_inner().unwrap())
    };
    let file = tar::EntryType::Regular;
    let two =
        |first: &str, second: &str| Files::new([(first, &b"x"[..]), (second, &b"y"[..])]).tar();
    let bomb = {
        let zeros = vec![0; 64 << 20];
        Files::new([("bomb", &zeros[..])]).zip()
    };
    for (archive, named) in [
        (entry("../up", file, None), Some("../up")),
        (entry("/etc/passwd", file, None), Some("/etc/passwd")),
        (entry("a/./b", file, None), Some("a/./b")),
        (entry("C:/x", file, None), Some("C:/x")),
        (
            entry("link", tar::EntryType::Symlink, Some("/etc")),
            Some("link"),
        ),
        (entry("hard", tar::EntryType::Link, Some("x")), Some("hard")),
        (entry("null", tar::EntryType::Char, None), Some("null")),
        (two("a/File", "a/file"), Some("a/file")),
        (two("x", "x/y"), Some("x/y")),
        (bomb, Some("bomb")),
        (tree(1).zip().slice(..100_000), None),
        (Bytes::from_static(b"this is no archive at all"), None),
    ] {
        let refused = server
            .request(Request::post("/packs/evil/versions").body(archive))
            .await
            .expect(422);
        let problem = refused.problem();
        assert_eq!(problem["type"], "tag:longhaul,2026:invalid-archive");
        if let Some(named) = named {
            assert_eq!(problem["entry"], named, "{problem}");
        }
    }
    server
        .request(Request::get("/packs/evil"))
        .await
        .expect(404);
    assert_eq!(server.blobs(), before, "nothing is left");

    // Valid contents that do not match the draft.
    let drafted = Files::new([("a", &b"right"[..])]);
    let draft = server.draft("evil", &drafted.document()).await;
    for (wrong, entry) in [
        (Files::new([("a", &b"wrong"[..])]), "a"),
        (Files::new([("a", &b"longer"[..])]), "a"),
        (Files::new([("b", &b"right"[..])]), "b"),
    ] {
        let content = Request::post(text(&draft["content_url"])).body(wrong.zip());
        let refused = server.request(content).await.expect(422);
        assert_eq!(refused.problem()["entry"], entry);
    }
    let content = Request::post(text(&draft["content_url"])).body(drafted.zip());
    server.request(content).await.expect(200);
    server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(201);
}

#[tokio::test]
async fn versions_are_listed_and_retired() {
    let server = serving().await;
    let packs = server.request(Request::get("/packs")).await.expect(200);
    assert_eq!(
        packs.json()["packs"],
        json!([{"name": "maps", "url": "/packs/maps", "latest": 2}])
    );
    let same = Request::get("/packs").field("If-None-Match", packs.field("etag"));
    server.request(same).await.expect(304);
    let page = server
        .request(Request::get("/packs/maps?limit=1"))
        .await
        .expect(200)
        .json();
    assert_eq!(page["versions"].as_array().unwrap().len(), 1);
    assert_eq!(page["versions"][0]["version"], 2);
    let next = format!("/packs/maps?limit=1&cursor={}", text(&page["cursor"]));
    let page = server.request(Request::get(next)).await.expect(200).json();
    assert_eq!(page["versions"][0]["version"], 1);
    assert_eq!(page.get("cursor"), None);

    server
        .request(Request::delete("/packs/maps/versions/2"))
        .await
        .expect(204);
    server
        .request(Request::delete("/packs/maps/versions/2"))
        .await
        .expect(404);
    server
        .request(Request::get("/packs/maps/versions/2/archive.zip"))
        .await
        .expect(404);
    let latest = server
        .request(Request::get("/packs/maps/versions/latest"))
        .await
        .expect(200)
        .json();
    assert_eq!(latest["version"], 1);
    // A number is never reused, and contents that only the retired version had must be sent again.
    let third = server.publish("maps", &tree(2)).await;
    assert_eq!(third["version"], 3);
    let zip = server.bytes(text(&third["archives"]["zip"]["url"])).await;
    assert_eq!(Files::from_zip(&zip), tree(2));
}

#[tokio::test]
async fn a_draft_can_be_based_on_a_version_and_given_up() {
    let server = serving().await;
    let mut document = tree(2).document();
    document["base"] = json!(1);
    let draft = server.draft("maps", &document).await;
    let refused = server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(409);
    assert_eq!(refused.problem()["type"], "tag:longhaul,2026:outdated-base");
    assert_eq!(refused.problem()["latest"], 2);
    server
        .request(Request::delete(text(&draft["url"])))
        .await
        .expect(204);
    server
        .request(Request::get(text(&draft["url"])))
        .await
        .expect(404);
    document["base"] = json!(2);
    let draft = server.draft("maps", &document).await;
    server
        .request(Request::post(text(&draft["publish_url"])))
        .await
        .expect(201);
}

#[tokio::test]
async fn a_catalogue_comes_in_the_coding_that_the_client_likes() {
    let server = serving().await;
    let target = "/packs/maps/versions/1/catalogue";
    let plain = server.request(Request::get(target)).await.expect(200);
    assert_eq!(plain.optional("content-encoding"), None);
    assert_eq!(plain.field("vary"), "Accept-Encoding");
    let mut tags = vec![plain.field("etag").to_owned()];
    for (accepted, coding) in [("gzip", "gzip"), ("gzip, zstd", "zstd")] {
        let coded = Request::get(target).field("Accept-Encoding", accepted);
        let coded = server.request(coded).await.expect(200);
        assert_eq!(coded.field("content-encoding"), coding);
        let decoded = match coding {
            "gzip" => {
                let mut decoded = Vec::new();
                let mut decoder = flate2::read::GzDecoder::new(&*coded.body);
                std::io::Read::read_to_end(&mut decoder, &mut decoded).unwrap();
                decoded
            }
            _ => zstd::bulk::decompress(&coded.body, 1 << 20).unwrap(),
        };
        assert_eq!(decoded, plain.body);
        tags.push(coded.field("etag").to_owned());
        // A range applies to the encoded bytes.
        let part = Request::get(target)
            .field("Accept-Encoding", accepted)
            .field("Range", "bytes=10-19")
            .field("If-Range", coded.field("etag"));
        assert_eq!(
            server.request(part).await.expect(206).body,
            coded.body[10..20]
        );
    }
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 3, "each coding has a tag of its own");
}

#[tokio::test]
async fn a_catalogue_is_signed() {
    let directory = tempfile::tempdir().unwrap();
    let key = directory.path().join("key.pem");
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&key)
        .status()
        .unwrap();
    assert!(made.success());
    let setting = format!("[packs]\nsigning_key = {:?}", key.display().to_string());
    let server = TestServer::setup().config(&setting).start().await;
    server.publish("maps", &tree(1)).await;
    let told = server
        .request(Request::get("/packs/signing-key"))
        .await
        .expect(200)
        .json();
    assert_eq!(told["algorithm"], "ed25519");
    let public = base64::Engine::decode(
        &base64::engine::general_purpose::STANDARD,
        text(&told["public_key"]),
    )
    .unwrap();
    let public = VerifyingKey::from_bytes(&public.try_into().unwrap()).unwrap();
    let signature = server.bytes("/packs/maps/versions/1/catalogue.sig").await;
    let signature = Signature::from_slice(&signature).unwrap();
    let catalogue = server.bytes("/packs/maps/versions/1/catalogue").await;
    public.verify_strict(&catalogue, &signature).unwrap();

    let unsigned = TestServer::start().await;
    unsigned.publish("maps", &tree(1)).await;
    unsigned
        .request(Request::get("/packs/maps/versions/1/catalogue.sig"))
        .await
        .expect(404);
    unsigned
        .request(Request::get("/packs/signing-key"))
        .await
        .expect(404);
}

#[tokio::test]
async fn packs_need_a_key_where_the_server_has_one() {
    let server = TestServer::setup()
        .config(&format!(
            "[access]\nkeys = [{{ name = \"ci\", sha256 = \"{}\" }}]",
            sha256(b"secret")
        ))
        .start()
        .await;
    for request in [
        Request::get("/packs"),
        Request::get("/packs/maps"),
        Request::get("/packs/maps/versions/1/archive.zip"),
        Request::post("/packs/maps/drafts").body("{\"files\":[]}"),
        Request::post("/packs/maps/versions").body(tree(1).zip()),
    ] {
        server.request(request).await.expect(401);
    }
    let tree = Request::post("/packs/maps/versions")
        .bearer("secret")
        .body(tree(1).zip());
    server.request(tree).await.expect(201);
    server
        .request(Request::get("/packs/maps").bearer("secret"))
        .await
        .expect(200);
}

#[tokio::test]
async fn names_that_cannot_be_are_refused() {
    let server = TestServer::start().await;
    for name in ["..%2F", ".hidden", "a%00", "signing-key", "%FF"] {
        let request = Request::post(format!("/packs/{name}/drafts")).body("{\"files\":[]}");
        let refused = server.request(request).await.expect(400);
        assert_eq!(
            refused.problem()["type"],
            "tag:longhaul,2026:invalid-path",
            "{name}"
        );
    }
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).unwrap()
}
