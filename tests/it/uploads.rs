//! Uploads that arrive in one request, of every kind.

use tests::{Client, Content, Request, TestServer, Version};

use crate::dialect::Dialect;

/// Checks that the file under `path` is exactly `content`.
pub(crate) async fn assert_file(server: &TestServer, path: &str, content: Content) {
    let response = server.request(Request::get(path)).await.expect(200);
    content.assert_is(&response.body);
    assert_eq!(response.field("repr-digest"), content.repr_digest());
}

#[tokio::test]
async fn a_plain_put_is_kept_and_served() {
    let server = TestServer::start().await;
    for version in Version::ALL {
        let content = Content::new(1, 300_000);
        let path = format!("/files/photos/2026/{version:?}.HEIC");
        let put = Request::put(&path)
            .field("Content-Type", "image/heic")
            .body(content.bytes());
        let response = server
            .client(version)
            .await
            .exchange(&put)
            .await
            .unwrap()
            .expect(201);

        assert!(response.interim.is_empty(), "{response:?}");
        assert_eq!(response.field("repr-digest"), content.repr_digest());
        assert_eq!(response.field("content-location"), path);
        let etag = response.field("etag");
        assert!(etag.starts_with('"'), "a strong tag: {etag}");
        assert!(response.json().is_object());

        let get = server.request(Request::get(&path)).await.expect(200);
        content.assert_is(&get.body);
        assert_eq!(get.field("etag"), etag);
        assert_eq!(get.field("content-type"), "image/heic");
    }
}

#[tokio::test]
async fn a_post_is_given_a_name() {
    let server = TestServer::start().await;
    let content = Content::new(2, 5_000);
    let post = Request::post("/files").body(content.bytes());
    let response = server.request(post).await.expect(201);
    let location = response.field("location");
    assert!(location.starts_with("/files/"), "{location}");
    assert_file(&server, location, content).await;

    let again = server
        .request(Request::post("/files").body(content.bytes()))
        .await
        .expect(201);
    assert_ne!(
        again.field("location"),
        location,
        "each upload has a name of its own"
    );
}

#[tokio::test]
async fn the_end_of_a_chunked_body_is_the_end_of_the_file() {
    let server = TestServer::start().await;
    let content = Content::new(3, 100_001);
    for version in Version::ALL {
        let mut client = server.client(version).await;
        client
            .begin(&Request::put("/files/chunked").unannounced())
            .await
            .unwrap();
        for piece in content.bytes().chunks(30_000) {
            client.send(piece).await.unwrap();
        }
        client.finish().await.unwrap();
        let response = client.response().await.unwrap();
        assert!([200, 201].contains(&response.status()), "{response:?}");
        assert_file(&server, "/files/chunked", content).await;
    }
}

#[tokio::test]
async fn a_chunked_body_that_is_cut_is_no_file() {
    let server = TestServer::start().await;
    for version in Version::ALL {
        let mut client = server.client(version).await;
        client
            .begin(&Request::put("/files/cut").unannounced())
            .await
            .unwrap();
        client.send(&Content::new(4, 50_000).bytes()).await.unwrap();
        client.drained().await;
        client.lose();
        server
            .request(Request::get("/files/cut"))
            .await
            .expect(404)
            .problem();
    }
}

#[tokio::test]
async fn an_empty_file_is_a_file() {
    let server = TestServer::start().await;
    let nothing = Content::new(0, 0);
    server
        .request(Request::put("/files/empty"))
        .await
        .expect(201);
    assert_file(&server, "/files/empty", nothing).await;
    for dialect in Dialect::ALL {
        let path = format!("/files/empty-{dialect:?}");
        let put = dialect.create(Request::put(&path), true);
        server.request(put).await.expect(201);
        assert_file(&server, &path, nothing).await;
    }
}

#[tokio::test]
async fn a_second_put_replaces_the_first() {
    let server = TestServer::start().await;
    let (old, new) = (Content::new(5, 4_000), Content::new(6, 3_000));
    let first = server
        .request(Request::put("/files/a").body(old.bytes()))
        .await
        .expect(201);
    let second = server
        .request(Request::put("/files/a").body(new.bytes()))
        .await
        .expect(200);
    assert_ne!(first.field("etag"), second.field("etag"));
    assert_file(&server, "/files/a", new).await;
}

#[tokio::test]
async fn conditions_decide_whether_a_put_may_write() {
    let server = TestServer::start().await;
    let (old, new) = (Content::new(7, 4_000), Content::new(8, 3_000));
    let put = |content: Content| Request::put("/files/a").body(content.bytes());

    server
        .request(put(old).field("If-Match", "*"))
        .await
        .expect(412)
        .problem();
    let created = server
        .request(put(old).field("If-None-Match", "*"))
        .await
        .expect(201);
    server
        .request(put(new).field("If-None-Match", "*"))
        .await
        .expect(412)
        .problem();
    server
        .request(put(new).field("If-Match", "\"other\""))
        .await
        .expect(412)
        .problem();
    assert_file(&server, "/files/a", old).await;

    server
        .request(put(new).field("If-Match", created.field("etag")))
        .await
        .expect(200);
    assert_file(&server, "/files/a", new).await;
}

#[tokio::test]
async fn a_condition_that_cannot_hold_is_told_before_the_body_is_sent() {
    let server = TestServer::start().await;
    let content = Content::new(9, 1_000);
    server
        .request(Request::put("/files/a").body(content.bytes()))
        .await
        .expect(201);
    for version in Version::ALL {
        let mut client = server.client(version).await;
        let put = Request::put("/files/a")
            .field("If-None-Match", "*")
            .announcing(1 << 40);
        client.begin(&put).await.unwrap();
        client.response().await.unwrap().expect(412).problem();
    }
}

#[tokio::test]
async fn a_resumable_upload_is_told_of_before_its_body_is_sent() {
    let server = TestServer::start().await;
    let content = Content::new(10, 200_000);
    for version in Version::ALL {
        for dialect in Dialect::ALL {
            for method in ["PUT", "POST"] {
                let target = match method {
                    "PUT" => format!("/files/{version:?}-{dialect:?}"),
                    _ => "/files".to_owned(),
                };
                let request = Request::new(method, target).announcing(content.length());
                let mut client = server.client(version).await;
                client.begin(&dialect.create(request, true)).await.unwrap();

                // No byte of the body has been sent yet.
                let interim = client.interim().await.expect("a 104");
                assert_eq!(interim.status, 104, "{interim:?}");
                assert_eq!(
                    interim.optional("upload-draft-interop-version"),
                    dialect.interop()
                );
                let upload = interim.field("location").to_owned();
                assert!(upload.starts_with("/uploads/"), "{upload}");

                client.send(&content.bytes()).await.unwrap();
                client.finish().await.unwrap();
                let response = client.response().await.unwrap().expect(201);
                assert_eq!(
                    dialect.is_complete(&response.head),
                    Some(true),
                    "{response:?}"
                );
                assert_eq!(
                    response.optional("upload-draft-interop-version"),
                    dialect.interop()
                );
                assert_eq!(response.field("repr-digest"), content.repr_digest());
                let file = response.field("content-location");
                match dialect {
                    Dialect::Interop3 | Dialect::Interop5 | Dialect::Interop6 => {
                        assert_eq!(response.field("location"), upload);
                        assert_eq!(response.offset(), content.length());
                    }
                    Dialect::Rfc => assert_eq!(response.field("location"), file),
                }
                let progress = response
                    .interim
                    .iter()
                    .filter(|head| head.optional("location").is_none());
                let offsets: Vec<u64> = progress.map(tests::Head::offset).collect();
                assert!(offsets.is_sorted(), "{offsets:?}");
                assert_file(&server, file, content).await;
            }
        }
    }
}

#[tokio::test]
async fn an_upload_of_a_version_not_known_here_is_a_plain_one() {
    let server = TestServer::start().await;
    let content = Content::new(11, 9_000);
    for version in Version::ALL {
        for interop in ["2", "99", "banana"] {
            let put = Request::put("/files/future")
                .field("Upload-Draft-Interop-Version", interop)
                .field("Upload-Complete", "?1")
                .body(content.bytes());
            let response = server.client(version).await.exchange(&put).await.unwrap();
            assert!([200, 201].contains(&response.status()), "{response:?}");
            assert!(response.interim.is_empty(), "{response:?}");
            assert_file(&server, "/files/future", content).await;
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_never_sees_an_interim_response() {
    let server = TestServer::start().await;
    let Client::Http1(mut connection) = server.client(Version::Http1).await else {
        unreachable!("this version was requested")
    };
    let head = "PUT /files/old HTTP/1.0\r\nHost: localhost\r\nUpload-Complete: ?1\r\nContent-Length: 5\r\n\r\nhello";
    connection.expect_answer_to("PUT");
    connection.send_raw(head.as_bytes()).await.unwrap();
    let response = connection.response().await.unwrap().expect(201);
    assert!(response.interim.is_empty(), "{response:?}");
}

#[tokio::test]
async fn interim_responses_can_be_switched_off() {
    let content = Content::new(12, 9_000);
    for setup in [
        TestServer::setup().config("[http]\ninterim = \"off\""),
        TestServer::setup().environment("LONGHAUL_HTTP__INTERIM", "off"),
    ] {
        let server = setup.start().await;
        for version in Version::ALL {
            let put = Request::put("/files/a").body(content.bytes());
            let put = Dialect::Interop6.create(put, true);
            let response = server.client(version).await.exchange(&put).await.unwrap();
            assert!([200, 201].contains(&response.status()), "{response:?}");
            assert!(response.interim.is_empty(), "{response:?}");
        }
    }
}

#[tokio::test]
async fn who_waits_for_100_continue_gets_it() {
    let server = TestServer::start().await;
    let content = Content::new(13, 9_000);
    let put = Request::put("/files/polite")
        .field("Expect", "100-continue")
        .announcing(content.length());
    for (request, statuses) in [
        (put.clone(), vec![100]),
        (Dialect::Interop6.create(put, true), vec![100, 104]),
    ] {
        let mut client = server.client(Version::Http1).await;
        client.begin(&request).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < statuses.len() {
            seen.push(client.interim().await.expect("an interim response").status);
        }
        // Both may come in either order: one announces the upload, the other asks for the body.
        seen.sort_unstable();
        assert_eq!(seen, statuses);
        client.send(&content.bytes()).await.unwrap();
        let response = client.response().await.unwrap();
        assert!([200, 201].contains(&response.status()), "{response:?}");
    }
}

#[tokio::test]
async fn the_default_type_of_a_typeless_post_is_no_type() {
    let server = TestServer::start().await;
    let post = Request::post("/files")
        .field("Content-Type", "application/x-www-form-urlencoded")
        .body("hello");
    let created = server.request(post).await.expect(201);
    let get = server
        .request(Request::get(created.field("location")))
        .await
        .expect(200);
    assert_eq!(get.field("content-type"), "application/octet-stream");
}

#[tokio::test]
async fn a_wrong_digest_of_the_whole_publishes_nothing() {
    let server = TestServer::start().await;
    let content = Content::new(14, 9_000);
    let other = Content::new(15, 9_000);
    let put = |digest: String| {
        Request::put("/files/a")
            .field("Repr-Digest", digest)
            .body(content.bytes())
    };
    server
        .request(put(other.repr_digest()))
        .await
        .expect(400)
        .problem();
    server.request(Request::get("/files/a")).await.expect(404);
    server.request(put(content.repr_digest())).await.expect(201);
    assert_file(&server, "/files/a", content).await;
}

#[tokio::test]
async fn a_wrong_digest_of_the_whole_in_the_last_append_publishes_nothing() {
    let server = TestServer::start().await;
    let content = Content::new(14, 9_000);
    let other = Content::new(15, 9_000);
    let dialect = Dialect::Interop6;
    for (stated, status) in [(other, 400), (content, 201)] {
        let create = dialect.create(
            Request::put("/files/a").body(content.slice(0..4_000)),
            false,
        );
        let created = server.request(create).await.expect(201);
        server.request(Request::get("/files/a")).await.expect(404);
        let append = dialect
            .append(created.field("location"), 4_000, true)
            .field("Repr-Digest", stated.repr_digest())
            .body(content.from(4_000));
        server.request(append).await.expect(status);
    }
    assert_file(&server, "/files/a", content).await;
}

#[tokio::test]
async fn a_wrong_digest_of_the_content_appends_nothing() {
    let server = TestServer::start().await;
    let content = Content::new(16, 9_000);
    let other = Content::new(17, 9_000);
    let dialect = Dialect::Rfc;
    let create = dialect.create(
        Request::put("/files/a").body(content.slice(0..4_000)),
        false,
    );
    let created = server.request(create).await.expect(201);
    let upload = created.field("location");

    let append = dialect
        .append(upload, 4_000, true)
        .field("Content-Digest", other.repr_digest())
        .body(content.from(4_000));
    server.request(append).await.expect(400).problem();
    let head = server.request(dialect.head(upload)).await;
    assert_eq!(head.offset(), 4_000);
    server
        .request(
            dialect
                .append(upload, 4_000, true)
                .body(content.from(4_000)),
        )
        .await
        .expect(201);
    assert_file(&server, "/files/a", content).await;
}

#[tokio::test]
async fn the_same_creation_finds_the_same_upload() {
    let server = TestServer::start().await;
    let content = Content::new(18, 9_000);
    let dialect = Dialect::Interop6;
    let create = || {
        let request = Request::post("/files").field(
            "Idempotency-Key",
            "\"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        );
        dialect.create(request, false)
    };
    let first = server
        .request(create().body(content.slice(0..4_000)))
        .await
        .expect(201);
    let again = server.request(create()).await;
    assert_eq!(
        again.field("location"),
        first.field("location"),
        "{again:?}"
    );
}

#[tokio::test]
async fn a_form_with_one_file_is_that_file() {
    let server = TestServer::start().await;
    let content = Content::new(19, 70_000);
    let mut body =
        b"--frontier\r\nContent-Disposition: form-data; name=\"file\"; filename=\"cat.png\"\r\n\
        Content-Type: image/png\r\n\r\n"
            .to_vec();
    body.extend_from_slice(&content.bytes());
    body.extend_from_slice(b"\r\n--frontier--\r\n");
    let post = Request::post("/files")
        .field("Content-Type", "multipart/form-data; boundary=frontier")
        .body(body);
    let created = server.request(post).await.expect(201);
    let get = server
        .request(Request::get(created.field("location")))
        .await
        .expect(200);
    content.assert_is(&get.body);
    assert_eq!(get.field("content-type"), "image/png");
    assert!(
        get.field("content-disposition").contains("cat.png"),
        "{get:?}"
    );
}

#[tokio::test]
async fn a_deleted_file_is_gone() {
    let server = TestServer::start().await;
    server
        .request(Request::put("/files/a").body("hello"))
        .await
        .expect(201);
    server
        .request(Request::delete("/files/a"))
        .await
        .expect(204);
    server
        .request(Request::get("/files/a"))
        .await
        .expect(404)
        .problem();
    server
        .request(Request::delete("/files/a"))
        .await
        .expect(404)
        .problem();
}

#[tokio::test]
async fn the_list_of_files_is_in_path_order_and_comes_in_pages() {
    let server = TestServer::start().await;
    for path in ["b/2", "a", "b/1", "c", "b/3"] {
        server
            .request(Request::put(format!("/files/{path}")).body(path))
            .await
            .expect(201);
    }
    let paths = |page: &serde_json::Value| -> Vec<String> {
        let files = page["files"].as_array().unwrap().iter();
        files
            .map(|file| file["path"].as_str().unwrap().to_owned())
            .collect()
    };

    let all = server
        .request(Request::get("/files"))
        .await
        .expect(200)
        .json();
    assert_eq!(paths(&all), ["a", "b/1", "b/2", "b/3", "c"]);

    let first = server
        .request(Request::get("/files?prefix=b/&limit=2"))
        .await
        .expect(200)
        .json();
    assert_eq!(paths(&first), ["b/1", "b/2"]);
    let cursor = first["cursor"].as_str().expect("there is a next page");
    let target = format!("/files?prefix=b/&limit=2&cursor={cursor}");
    let second = server
        .request(Request::get(target))
        .await
        .expect(200)
        .json();
    assert_eq!(paths(&second), ["b/3"]);
    assert!(second["cursor"].is_null(), "{second}");
}

#[tokio::test]
async fn anyone_may_ask_what_can_be_uploaded() {
    let server = TestServer::setup()
        .config(crate::access::WITH_KEY)
        .start()
        .await;
    for target in ["/files", "/files/photos/a.heic"] {
        let response = server.request(Request::options(target)).await.expect(200);
        assert!(
            response.field("upload-limit").contains('='),
            "a dictionary: {response:?}"
        );
        let accepted = response.field("accept-patch");
        assert!(
            accepted.contains("application/partial-upload"),
            "{accepted}"
        );
        assert_eq!(response.field("tus-version"), "1.0.0");
    }
}

#[tokio::test]
async fn a_preflight_of_a_browser_is_answered_as_one() {
    let server = TestServer::setup()
        .config(crate::access::WITH_KEY)
        .start()
        .await;
    let response = server.request(preflight("https://app.example")).await;
    assert!([200, 204].contains(&response.status()), "{response:?}");
    assert_eq!(response.field("access-control-allow-origin"), "*");
    assert!(
        response
            .field("access-control-allow-methods")
            .contains("PATCH")
    );
    let allowed = response.field("access-control-allow-headers");
    assert!(
        allowed.to_ascii_lowercase().contains("upload-complete"),
        "{allowed}"
    );
}

#[tokio::test]
async fn a_server_open_to_this_machine_is_not_open_to_foreign_pages() {
    let server = TestServer::start().await;
    server
        .request(preflight("https://app.example"))
        .await
        .expect(403)
        .problem();
    let post = Request::post("/files")
        .field("Origin", "https://app.example")
        .body("hello");
    server.request(post).await.expect(403).problem();
    let response = server.request(preflight("http://localhost:3000")).await;
    assert!([200, 204].contains(&response.status()), "{response:?}");
}

fn preflight(origin: &str) -> Request {
    Request::options("/files")
        .field("Origin", origin)
        .field("Access-Control-Request-Method", "POST")
        .field("Access-Control-Request-Headers", "upload-complete")
}
