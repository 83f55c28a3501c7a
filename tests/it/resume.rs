//! Uploads that are interrupted and resumed.

use tests::{Client, Content, Fault, Flow, Proxy, Request, TestServer, Version};

use crate::crash::BACK_OFF;
use crate::dialect::Dialect;
use crate::uploads::assert_file;

/// Begins an upload of `length` bytes to `path`. Returns the upload URL of its 104.
pub(crate) async fn begin(
    client: &mut Client,
    dialect: Dialect,
    path: &str,
    length: u64,
) -> String {
    let put = Request::put(path).announcing(length);
    client.begin(&dialect.create(put, true)).await.unwrap();
    let interim = client.interim().await.expect("a 104");
    interim.field("location").to_owned()
}

#[tokio::test]
async fn an_upload_that_was_cut_goes_on_where_it_stopped() {
    let server = TestServer::start().await;
    let content = Content::new(20, 900_000);
    for version in Version::ALL {
        for dialect in Dialect::ALL {
            let path = format!("/files/{version:?}-{dialect:?}");
            let mut client = server.client(version).await;
            let upload = begin(&mut client, dialect, &path, content.length()).await;
            client.send(&content.slice(0..500_000)).await.unwrap();
            client.drained().await;
            client.lose();

            let head = server.request(dialect.head(&upload)).await.expect(204);
            assert_eq!(head.offset(), 500_000, "what arrived is kept");
            assert_eq!(dialect.is_complete(&head.head), Some(false));
            assert_eq!(head.field("cache-control"), "no-store");
            assert_eq!(
                head.optional("upload-draft-interop-version"),
                dialect.interop()
            );

            let append = dialect
                .append(&upload, 500_000, true)
                .body(content.from(500_000));
            let response = server
                .client(version)
                .await
                .exchange(&append)
                .await
                .unwrap()
                .expect(201);
            assert_eq!(dialect.is_complete(&response.head), Some(true));
            assert_eq!(response.field("content-location"), path);
            assert_eq!(response.field("repr-digest"), content.repr_digest());
            assert_file(&server, &path, content).await;
        }
    }
}

#[tokio::test]
async fn a_body_that_ends_early_is_kept_and_the_upload_stays_open() {
    let server = TestServer::start().await;
    let content = Content::new(21, 300_000);
    for dialect in Dialect::ALL {
        let Client::Http1(mut connection) = server.client(Version::Http1).await else {
            unreachable!("this version was requested")
        };
        let put = Request::put("/files/short").announcing(content.length());
        connection.begin(&dialect.create(put, true)).await.unwrap();
        let interim = connection.interim().await.expect("a 104");
        connection.send(&content.slice(0..123_456)).await.unwrap();
        connection.half_close().await.unwrap();
        connection
            .response()
            .await
            .expect_err("a body that ended early is not answered");

        let head = server
            .request(dialect.head(interim.field("location")))
            .await
            .expect(204);
        assert_eq!(head.offset(), 123_456);
        assert_eq!(dialect.is_complete(&head.head), Some(false));
        server
            .request(Request::get("/files/short"))
            .await
            .expect(404);
    }
}

#[tokio::test]
async fn an_upload_survives_a_network_that_breaks_again_and_again() {
    let server = TestServer::start().await;
    let content = Content::new(22, 2_000_000);
    let dialect = Dialect::Interop6;
    let breaking = Flow {
        fault: Some(Fault::CutAfter(300_000)),
        ..Flow::default()
    };
    let proxy = Proxy::start(server.address(), breaking, Flow::default()).await;

    let mut client = Client::open(proxy.address(), Version::Http1).await;
    let upload = begin(&mut client, dialect, "/files/far", content.length()).await;
    let _ = client.send(&content.bytes()).await;
    client.response().await.expect_err("the proxy cuts");

    let mut attempts = 1;
    loop {
        tokio::time::sleep(BACK_OFF).await;
        let mut client = Client::open(proxy.address(), Version::Http1).await;
        let head = client
            .exchange(&dialect.head(&upload))
            .await
            .unwrap()
            .expect(204);
        let offset = head.offset();
        let append = dialect
            .append(&upload, offset, true)
            .body(content.from(offset));
        attempts += 1;
        let mut client = Client::open(proxy.address(), Version::Http1).await;
        match client.exchange(&append).await {
            Ok(response) => {
                response.expect(201);
                break;
            }
            Err(_cut) => {}
        }
        assert!(
            attempts < 50,
            "no progress: {offset} after {attempts} attempts"
        );
    }
    assert!(attempts >= 7, "300 kB at most pass at a time");
    assert_file(&server, "/files/far", content).await;
}

#[tokio::test]
async fn a_request_that_arrives_late_does_not_make_the_told_offset_wrong() {
    let server = TestServer::start().await;
    let content = Content::new(32, 900_000);
    for version in Version::ALL {
        for dialect in Dialect::ALL {
            let path = format!("/files/late-{version:?}-{dialect:?}");
            let mut first = server.client(version).await;
            let upload = begin(&mut first, dialect, &path, content.length()).await;
            first.send(&content.slice(0..300_000)).await.unwrap();
            first.drained().await;
            first.lose();
            let told = server
                .request(dialect.head(&upload))
                .await
                .expect(204)
                .offset();
            assert_eq!(told, 300_000);

            // Sent before the client asked for the offset, and read by the server only now.
            let mut late = server.client(version).await;
            let append = dialect.append(&upload, told, true);
            let length = content.length() - told;
            late.begin(&append.announcing(length)).await.unwrap();
            late.send(&content.slice(told..500_000)).await.unwrap();
            late.drained().await;

            let append = dialect.append(&upload, told, true).body(content.from(told));
            server.request(append).await.expect(201);
            late.response().await.expect_err("it was overtaken");
            assert_file(&server, &path, content).await;
        }
    }
}

#[tokio::test]
async fn a_late_request_that_completes_the_upload_answers_the_next_one_too() {
    let server = TestServer::start().await;
    let content = Content::new(33, 900_000);
    for dialect in Dialect::ALL {
        let path = format!("/files/late-{dialect:?}");
        let mut first = server.client(Version::Http1).await;
        let upload = begin(&mut first, dialect, &path, content.length()).await;
        first.send(&content.slice(0..300_000)).await.unwrap();
        first.drained().await;
        first.lose();
        let told = server.request(dialect.head(&upload)).await.offset();
        let append = || dialect.append(&upload, told, true).body(content.from(told));
        // The answer to this request is lost.
        let late = server.request(append()).await.expect(201);

        let response = server.request(append()).await.expect(201);
        for field in ["etag", "repr-digest", "content-location"] {
            assert_eq!(response.field(field), late.field(field));
        }
        let other = Content::new(34, content.length());
        let append = dialect.append(&upload, told, true).body(other.from(told));
        let status = server.request(append).await.status();
        assert!([400, 409].contains(&status), "{status}");
        assert_file(&server, &path, content).await;
    }
}

#[tokio::test]
async fn an_upload_can_be_sent_in_parts() {
    let server = TestServer::start().await;
    let content = Content::new(23, 250_000);
    for dialect in Dialect::ALL {
        let path = format!("/files/parts-{dialect:?}");
        let create = dialect.create(Request::put(&path), false);
        let created = server.request(create).await.expect(201);
        assert_eq!(dialect.is_complete(&created.head), Some(false));
        let upload = created.field("location");

        let mut offset = 0;
        while offset < content.length() {
            let end = (offset + 100_000).min(content.length());
            let completes = end == content.length();
            let append = dialect
                .append(upload, offset, completes)
                .body(content.slice(offset..end));
            let response = server.request(append).await;
            match dialect {
                Dialect::Rfc if !completes => assert_eq!(response.status(), 204, "{response:?}"),
                _ => assert_eq!(response.status(), 201, "{response:?}"),
            }
            assert_eq!(dialect.is_complete(&response.head), Some(completes));
            assert_eq!(response.offset(), end);
            offset = end;
        }
        assert_file(&server, &path, content).await;
    }
}

#[tokio::test]
async fn an_append_at_another_offset_is_told_the_right_one() {
    let server = TestServer::start().await;
    let content = Content::new(24, 10_000);
    for dialect in Dialect::ALL {
        let create = dialect.create(
            Request::put("/files/a").body(content.slice(0..4_000)),
            false,
        );
        let created = server.request(create).await.expect(201);
        let upload = created.field("location");
        for wrong in [0, 3_999, 4_001, 1 << 40] {
            let append = dialect
                .append(upload, wrong, true)
                .body(content.from(4_000));
            let response = server.request(append).await.expect(409);
            assert_eq!(response.offset(), 4_000);
            assert_eq!(dialect.is_complete(&response.head), Some(false));
            let problem = response.problem();
            if matches!(dialect, Dialect::Interop6 | Dialect::Rfc) {
                let mismatch =
                    "https://iana.org/assignments/http-problem-types#mismatching-upload-offset";
                assert_eq!(problem["type"], mismatch);
                assert_eq!(problem["expected-offset"], 4_000);
                assert_eq!(problem["provided-offset"], wrong);
            }
        }
        let append = dialect
            .append(upload, 4_000, true)
            .body(content.from(4_000));
        let status = server.request(append).await.status();
        assert!([200, 201].contains(&status));
        assert_file(&server, "/files/a", content).await;
    }
}

#[tokio::test]
async fn an_upload_begun_in_one_dialect_goes_on_in_another() {
    let server = TestServer::start().await;
    let content = Content::new(25, 400_000);
    for first in Dialect::ALL {
        for second in Dialect::ALL {
            let path = format!("/files/{first:?}-{second:?}");
            let mut client = server.client(Version::Http1).await;
            let upload = begin(&mut client, first, &path, content.length()).await;
            client.send(&content.slice(0..150_000)).await.unwrap();
            client.drained().await;
            client.lose();

            let head = server.request(second.head(&upload)).await.expect(204);
            assert_eq!(head.offset(), 150_000);
            let append = second
                .append(&upload, 150_000, true)
                .body(content.from(150_000));
            server.request(append).await.expect(201);
            assert_file(&server, &path, content).await;
        }
    }
}

#[tokio::test]
async fn a_lost_last_answer_is_given_again() {
    let server = TestServer::start().await;
    let content = Content::new(26, 200_000);
    let dialect = Dialect::Rfc;
    let create = dialect.create(
        Request::put("/files/a").body(content.slice(0..150_000)),
        false,
    );
    let created = server.request(create).await.expect(201);
    let upload = created.field("location");
    let append = dialect
        .append(upload, 150_000, true)
        .body(content.from(150_000));
    let first = server.request(append).await.expect(201);

    let head = server.request(dialect.head(upload)).await;
    assert_eq!(head.offset(), content.length());
    assert_eq!(dialect.is_complete(&head.head), Some(true));

    // A client that never saw the answer repeats the end of the append: an empty one at the offset
    // that `HEAD` reported.
    let again = dialect.append(upload, content.length(), true);
    let replayed = server.request(again).await.expect(201);
    assert_eq!(replayed.body, first.body);
    for field in [
        "etag",
        "repr-digest",
        "content-location",
        "location",
        "upload-complete",
    ] {
        assert_eq!(replayed.field(field), first.field(field));
    }
    assert_file(&server, "/files/a", content).await;
}

#[tokio::test]
async fn nothing_can_be_added_to_a_complete_upload() {
    let server = TestServer::start().await;
    let content = Content::new(27, 20_000);
    for dialect in Dialect::ALL {
        let mut client = server.client(Version::Http1).await;
        let upload = begin(&mut client, dialect, "/files/a", content.length()).await;
        client.send(&content.bytes()).await.unwrap();
        client.response().await.unwrap();

        let append = dialect.append(&upload, content.length(), true).body("more");
        server.request(append).await.expect(400).problem();
        assert_file(&server, "/files/a", content).await;
    }
}

#[tokio::test]
async fn a_cancelled_upload_is_gone() {
    let server = TestServer::start().await;
    let content = Content::new(28, 20_000);
    for dialect in Dialect::ALL {
        let create = dialect.create(
            Request::put("/files/a").body(content.slice(0..4_000)),
            false,
        );
        let created = server.request(create).await.expect(201);
        let upload = created.field("location");
        server.request(dialect.cancel(upload)).await.expect(204);
        let head = server.request(dialect.head(upload)).await;
        assert!([404, 410].contains(&head.status()), "{head:?}");
        assert!(head.optional("upload-offset").is_none(), "{head:?}");
        let append = dialect
            .append(upload, 4_000, true)
            .body(content.from(4_000));
        let append = server.request(append).await;
        assert!([404, 410].contains(&append.status()), "{append:?}");
    }
}

#[tokio::test]
async fn an_upload_that_never_was_is_not_found() {
    let server = TestServer::start().await;
    for dialect in Dialect::ALL {
        let upload = "/uploads/AAAAAAAAAAAAAAAAAAAAAA";
        server.request(dialect.head(upload)).await.expect(404);
        server
            .request(dialect.append(upload, 0, true).body("x"))
            .await
            .expect(404)
            .problem();
        server
            .request(dialect.cancel(upload))
            .await
            .expect(404)
            .problem();
    }
}

#[tokio::test]
async fn a_get_tells_the_offset_too() {
    let server = TestServer::start().await;
    let content = Content::new(29, 20_000);
    let dialect = Dialect::Rfc;
    let create = dialect.create(
        Request::put("/files/a").body(content.slice(0..4_000)),
        false,
    );
    let created = server.request(create).await.expect(201);
    let get = server
        .request(Request::get(created.field("location")))
        .await
        .expect(200);
    assert_eq!(get.offset(), 4_000);
    assert!(get.json().is_object());
}

#[tokio::test]
async fn a_post_can_stand_for_the_other_methods() {
    let server = TestServer::start().await;
    let content = Content::new(30, 20_000);
    let dialect = Dialect::Interop6;
    let create = dialect.create(
        Request::put("/files/a").body(content.slice(0..4_000)),
        false,
    );
    let created = server.request(create).await.expect(201);
    let upload = created.field("location");
    let posing = |request: Request| {
        let method = request.method.clone();
        Request {
            method: "POST".to_owned(),
            ..request
        }
        .field("X-HTTP-Method-Override", method)
    };

    let head = server
        .request(posing(dialect.head(upload)).announcing(0))
        .await;
    assert_eq!(head.offset(), 4_000);
    let append = posing(dialect.append(upload, 4_000, true)).body(content.from(4_000));
    server.request(append).await.expect(201);
    assert_file(&server, "/files/a", content).await;
}

#[tokio::test]
async fn an_upload_survives_a_restart() {
    let mut server = TestServer::start().await;
    let content = Content::new(31, 700_000);
    let dialect = Dialect::Interop6;
    let create = dialect.create(
        Request::put("/files/a").body(content.slice(0..400_000)),
        false,
    );
    let created = server.request(create).await.expect(201);
    let upload = created.field("location").to_owned();

    server.terminate();
    assert!(server.ended(tests::PATIENCE).await.success());
    server.restart().await;

    let head = server.request(dialect.head(&upload)).await.expect(204);
    assert_eq!(head.offset(), 400_000);
    let append = dialect
        .append(&upload, 400_000, true)
        .body(content.from(400_000));
    server.request(append).await.expect(201);
    assert_file(&server, "/files/a", content).await;
}

#[tokio::test]
async fn a_location_is_absolute_where_the_public_url_is_known() {
    let server = TestServer::setup()
        .config("public_url = \"https://files.example.org\"")
        .start()
        .await;
    let mut client = server.client(Version::Http1).await;
    let upload = begin(&mut client, Dialect::Interop6, "/files/a", 5).await;
    assert!(
        upload.starts_with("https://files.example.org/uploads/"),
        "{upload}"
    );
    client.send(b"hello").await.unwrap();
    let response = client.response().await.unwrap().expect(201);
    assert_eq!(response.field("location"), upload);
}
