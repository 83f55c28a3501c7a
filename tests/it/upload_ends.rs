//! Completed uploads: they answer repeats, serve their file, and can be deleted.

use tests::{Client, Content, Request, Response, TestServer, Version};

use crate::dialect::Dialect;
use crate::uploads::assert_file;

const KEY: &str = "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"";

fn tus(request: Request) -> Request {
    request.field("Tus-Resumable", "1.0.0")
}

fn tus_append(upload: &str, offset: u64) -> Request {
    tus(Request::patch(upload))
        .field("Content-Type", "application/offset+octet-stream")
        .field("Upload-Offset", offset)
}

/// Uploads a file as a tus client does, in one request. Returns the URL of the upload.
async fn tus_upload(server: &TestServer, content: Content) -> String {
    let length = content.bytes().len();
    let post = tus(Request::post("/files"))
        .field("Content-Type", "application/offset+octet-stream")
        .field("Upload-Length", length)
        .field("Upload-Metadata", "filetype aW1hZ2UvcG5n")
        .body(content.bytes());
    let created = server.request(post).await.expect(201);
    created.field("location").to_owned()
}

/// Returns a creation of each kind with this body.
fn creations(body: &[u8]) -> Vec<(&'static str, Request)> {
    let post = |path: &str| Request::post(path).field("Idempotency-Key", KEY);
    let mut form =
        b"--frontier\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n"
            .to_vec();
    form.extend_from_slice(body);
    form.extend_from_slice(b"\r\n--frontier--\r\n");
    let plain = post("/files").body(body.to_vec());
    vec![
        ("plain", plain.clone()),
        ("draft 3", Dialect::Interop3.create(plain.clone(), true)),
        ("draft 6", Dialect::Interop6.create(plain.clone(), true)),
        ("RFC", Dialect::Rfc.create(plain, true)),
        (
            "tus",
            tus(post("/files").body(body.to_vec()))
                .field("Content-Type", "application/offset+octet-stream")
                .field("Upload-Length", body.len()),
        ),
        (
            "form",
            post("/files")
                .field("Content-Type", "multipart/form-data; boundary=frontier")
                .body(form),
        ),
    ]
}

/// Sends `request` with its body and without declaring the length.
async fn unannounced(
    server: &TestServer,
    version: Version,
    request: Request,
    body: &[u8],
) -> Response {
    let mut client: Client = server.client(version).await;
    client.begin(&request.unannounced()).await.unwrap();
    if !body.is_empty() {
        // The server may refuse the request before the body is sent.
        let _ = client.send(body).await;
    }
    let _ = client.finish().await;
    client.response().await.unwrap()
}

#[tokio::test]
async fn one_key_stands_for_one_body_in_every_way_in() {
    let (content, other) = (Content::new(200, 9_000), Content::new(201, 9_000));
    let firsts = creations(&content.bytes());
    let others = creations(&other.bytes());
    let longer = creations(&Content::new(200, 9_001).bytes());
    for (place, (name, first)) in firsts.into_iter().enumerate() {
        let server = TestServer::start().await;
        let stored = server.request(first.clone()).await.expect(201);
        for another in [&others, &longer] {
            let refused = server.request(another[place].1.clone()).await.expect(422);
            let problem = refused.problem();
            let kind = "tag:longhaul,2026:idempotency-key-reused";
            assert_eq!(problem["type"], kind, "{name}: {problem}");
        }
        let again = server.request(first).await.expect(201);
        assert_eq!(again.field("location"), stored.field("location"), "{name}");
        let files = server
            .request(Request::get("/files"))
            .await
            .expect(200)
            .json();
        let files = files["files"].as_array().unwrap();
        assert_eq!(files.len(), 1, "{name}: {files:?}");
        assert_file(&server, files[0]["url"].as_str().unwrap(), content).await;
    }
}

#[tokio::test]
async fn one_key_stands_for_one_body_where_its_length_is_not_told() {
    let server = TestServer::start().await;
    let (content, other) = (Content::new(202, 9_000), Content::new(203, 9_000));
    let put = || Request::put("/files/a").field("Idempotency-Key", KEY);
    for version in Version::ALL {
        let stored = unannounced(&server, version, put(), &content.bytes()).await;
        assert!([200, 201].contains(&stored.status()), "{stored:?}");
        for wrong in [&other.bytes()[..], &content.bytes()[..8_999], b""] {
            let refused = unannounced(&server, version, put(), wrong).await;
            refused.expect(422).problem();
        }
        assert_file(&server, "/files/a", content).await;
    }
}

#[tokio::test]
async fn a_deleted_upload_is_gone_and_its_file_stays() {
    let server = TestServer::start().await;
    for (number, dialect) in (210..).zip(Dialect::ALL) {
        let content = Content::new(number, 5_000);
        let path = format!("/files/{number}");
        let create = dialect.create(Request::put(&path).body(content.slice(0..2_000)), false);
        let created = server.request(create).await.expect(201);
        let upload = created.field("location");
        let last = dialect
            .append(upload, 2_000, true)
            .body(content.from(2_000));
        server.request(last.clone()).await.expect(201);
        server.request(dialect.cancel(upload)).await.expect(204);
        let absent = match dialect {
            Dialect::Interop3 | Dialect::Interop5 | Dialect::Interop6 => 404,
            Dialect::Rfc => 410,
        };
        let replay = dialect.append(upload, 5_000, true).body("");
        for request in [dialect.head(upload), last, replay, dialect.cancel(upload)] {
            server.request(request).await.expect(absent);
        }
        assert_file(&server, &path, content).await;
    }

    let content = Content::new(219, 5_000);
    let upload = tus_upload(&server, content).await;
    let got = server.request(Request::get(&upload)).await.expect(200);
    let file = got.field("content-location").to_owned();
    server
        .request(tus(Request::delete(&upload)))
        .await
        .expect(204);
    for request in [
        tus(Request::head(&upload)),
        tus_append(&upload, 5_000).body(""),
        tus(Request::delete(&upload)),
        Request::get(&upload),
    ] {
        server.request(request).await.expect(410);
    }
    assert_file(&server, &file, content).await;
}

#[tokio::test]
async fn the_url_of_a_complete_upload_stands_for_its_file() {
    let server = TestServer::start().await;
    let content = Content::new(220, 50_000);
    let upload = tus_upload(&server, content).await;
    let get = server.request(tus(Request::get(&upload))).await.expect(200);
    content.assert_is(&get.body);
    assert_eq!(get.field("content-type"), "image/png");
    assert_eq!(get.field("repr-digest"), content.repr_digest());
    assert_eq!(get.field("tus-resumable"), "1.0.0");
    assert_eq!(get.field("vary").to_ascii_lowercase(), "accept");
    let tag = get.field("etag");
    let file = get.field("content-location");
    assert_file(&server, file, content).await;

    let part = Request::get(&upload)
        .field("Range", "bytes=40000-")
        .field("If-Range", tag);
    let part = server.request(part).await.expect(206);
    content.assert_slice(40_000, &part.body);
    let same = Request::get(&upload).field("If-None-Match", tag);
    server.request(same).await.expect(304);
    let head = server.request(tus(Request::head(&upload))).await;
    assert_eq!(head.offset(), 50_000);

    for accept in ["application/json", "text/html, application/json;q=0.5"] {
        let told = Request::get(&upload).field("Accept", accept);
        let told = server.request(told).await.expect(200).json();
        assert_eq!(told["complete"], true);
    }
    for accept in ["*/*", "application/json;q=0, */*"] {
        let get = Request::get(&upload).field("Accept", accept);
        content.assert_is(&server.request(get).await.expect(200).body);
    }

    // The URL of an upload gives access to the content of that upload alone.
    let replaced = Request::put(file).body("another");
    server.request(replaced).await.expect(200);
    server
        .request(Request::get(&upload))
        .await
        .expect(404)
        .problem();
    server
        .request(Request::put(file).body(content.bytes()))
        .await
        .expect(200);
    server.request(Request::get(&upload)).await.expect(200);
    server.request(Request::delete(file)).await.expect(204);
    server
        .request(Request::get(&upload))
        .await
        .expect(404)
        .problem();
    let told = Request::get(&upload).field("Accept", "application/json");
    assert_eq!(
        server.request(told).await.expect(200).json()["complete"],
        true
    );
}

#[tokio::test]
async fn an_incomplete_upload_tells_how_it_stands() {
    let server = TestServer::start().await;
    let create = Dialect::Rfc.create(Request::put("/files/a").body("hello"), false);
    let created = server.request(create).await.expect(201);
    let get = server
        .request(Request::get(created.field("location")))
        .await;
    assert_eq!(get.expect(200).json()["offset"], 5);
}

#[tokio::test]
async fn nothing_more_of_unknown_length_is_welcome_at_the_end() {
    let server = TestServer::start().await;
    for version in Version::ALL {
        for length in [0, 3_000] {
            let content = Content::new(230, length);
            let upload = tus_upload(&server, content).await;
            let append = || tus_append(&upload, length);
            let done = unannounced(&server, version, append(), b"")
                .await
                .expect(204);
            assert_eq!(done.offset(), length);
            let expecting = append().field("Expect", "100-continue");
            unannounced(&server, version, expecting, b"")
                .await
                .expect(204);
            unannounced(&server, version, append(), b"!")
                .await
                .expect(413)
                .problem();
            let head = server.request(tus(Request::head(&upload))).await;
            assert_eq!(head.offset(), length);
        }
        let dialect = Dialect::Rfc;
        let create = dialect.create(Request::put("/files/a").body("hello"), false);
        let created = server.request(create).await.expect(201);
        let upload = created.field("location");
        // The first request completes the upload, the second repeats it.
        for _ in 0..2 {
            let last = dialect.append(upload, 5, true);
            let done = unannounced(&server, version, last, b"").await;
            assert!([200, 201].contains(&done.status()), "{done:?}");
        }
        let more = dialect.append(upload, 5, true);
        let more = unannounced(&server, version, more, b"!").await;
        assert!((400..500).contains(&more.status()), "{more:?}");
        let get = server.request(Request::get("/files/a")).await.expect(200);
        assert_eq!(get.body, "hello");
    }
}

#[tokio::test]
async fn a_small_append_of_unknown_length_is_judged_by_what_comes() {
    let config = "[uploads]\nmin_append_size = \"100 B\"\nmax_size = \"1 KB\"";
    let server = TestServer::setup().config(config).start().await;
    for version in Version::ALL {
        let create = Dialect::Rfc.create(Request::put("/files/a").body("hello"), false);
        let created = server.request(create).await.expect(201);
        let upload = created.field("location");
        for small in [&b""[..], b"seven b"] {
            let head = server.request(Dialect::Rfc.head(upload)).await;
            let append = Dialect::Rfc.append(upload, head.offset(), false);
            unannounced(&server, version, append, small)
                .await
                .expect(400)
                .problem();
        }
        let put = Request::put("/files/empty");
        let empty = unannounced(&server, version, put, b"").await;
        assert!([200, 201].contains(&empty.status()), "{empty:?}");
        let large = vec![7; 1_001];
        let put = Request::put("/files/large");
        unannounced(&server, version, put, &large)
            .await
            .expect(413)
            .problem();
    }
}
