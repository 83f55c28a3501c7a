//! Malformed input: the answer is always a small problem document or a closed connection, and the
//! server survives.

use tests::{Client, Dice, Request, TestServer, Version};

use crate::dialect::Dialect;

/// Sends bytes on a new connection. Returns the status of every answer until the server closes.
async fn answers(server: &TestServer, wire: &[u8]) -> Vec<u16> {
    let Client::Http1(mut connection) = server.client(Version::Http1).await else {
        unreachable!("this version was requested")
    };
    // The server may stop reading before the end.
    let _ = connection.send_raw(wire).await;
    let mut answers = Vec::new();
    loop {
        connection.expect_answer_to("GET");
        match connection.response().await {
            Ok(response) => answers.push(response.status()),
            Err(_) => return answers,
        }
    }
}

async fn assert_alive(server: &TestServer) {
    server.request(Request::get("/files")).await.expect(200);
}

#[tokio::test]
async fn a_path_cannot_leave_the_files() {
    let server = TestServer::start().await;
    for path in [
        "/files/../secret",
        "/files/a/../../secret",
        "/files/%2e%2e/secret",
        "/files/a/%2e%2e/%2e%2e/secret",
        "/files/..%2fsecret",
        "/files/%2e%2e%2fsecret",
        "/files/a%5c..%5csecret",
        "/files/./a",
        "/files//etc/passwd",
        "/files/a//b",
        "/files/%2fetc%2fpasswd",
        "/files/a%00b",
        "/files/a%0ab",
        "/files/%ff%fe",
        "/files/a/",
        "/uploads/../files/a",
        "/uploads/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let request = Request::new(method, path).announcing(0);
            let response = server.request(request).await;
            assert!(
                [400, 404, 405].contains(&response.status()),
                "{method} {path}: {response:?}"
            );
            response.problem();
        }
    }
    // None of the requests has stored a file.
    let list = server
        .request(Request::get("/files"))
        .await
        .expect(200)
        .json();
    assert_eq!(list["files"].as_array().unwrap().len(), 0, "{list}");
}

#[tokio::test]
async fn names_that_are_odd_but_allowed_are_kept_apart() {
    let server = TestServer::start().await;
    let names = [
        "a%20b",
        "a+b",
        "%E2%82%AC",
        "%25",
        "%2525",
        "a.b..c",
        "...",
        "-",
        "~",
        "A",
        "caf%C3%A9",
        "cafe%CC%81",
        "x%3Fy",
        "x%23y",
    ];
    for name in names {
        server
            .request(Request::put(format!("/files/{name}")).body(name))
            .await
            .expect(201);
    }
    for name in names {
        let response = server
            .request(Request::get(format!("/files/{name}")))
            .await
            .expect(200);
        assert_eq!(response.body, name);
    }
}

#[tokio::test]
async fn a_name_has_a_greatest_length() {
    let server = TestServer::start().await;
    let longest = "x".repeat(255);
    server
        .request(Request::put(format!("/files/{longest}")).body("a"))
        .await
        .expect(201);
    for path in ["x".repeat(256), "x/".repeat(600) + "x"] {
        let response = server
            .request(Request::put(format!("/files/{path}")).body("a"))
            .await;
        assert!([400, 414].contains(&response.status()), "{response:?}");
        response.problem();
    }
}

#[tokio::test]
async fn malformed_fields_are_told_as_problems() {
    let server = TestServer::start().await;
    let create = Dialect::Rfc.create(Request::put("/files/a"), false);
    let created = server.request(create).await.expect(201);
    let upload = created.field("location");
    let append = |offset: &str, complete: &str| {
        Request::patch(upload)
            .field("Content-Type", "application/partial-upload")
            .field("Upload-Offset", offset)
            .field("Upload-Complete", complete)
            .body("x")
    };
    for offset in [
        "-1",
        "+0",
        "0x0",
        "1.5",
        "",
        "abc",
        "99999999999999999999",
        "0, 0",
        "\"0\"",
    ] {
        server
            .request(append(offset, "?1"))
            .await
            .expect(400)
            .problem();
    }
    for complete in ["1", "true", "?2", "?", "", "\"?1\""] {
        server
            .request(append("0", complete))
            .await
            .expect(400)
            .problem();
    }
    let without = Request::patch(upload)
        .field("Content-Type", "application/partial-upload")
        .body("x");
    server.request(without).await.expect(400).problem();
    let untyped = Request::patch(upload)
        .field("Upload-Offset", "0")
        .field("Upload-Complete", "?1")
        .body("x");
    server.request(untyped).await.expect(415).problem();

    // A creation with an invalid `Upload-Complete` is a plain upload: the field is ignored.
    let odd = Request::put("/files/b")
        .field("Upload-Complete", "yes")
        .body("x");
    let response = server.request(odd).await.expect(201);
    assert!(response.interim.is_empty(), "{response:?}");
}

#[tokio::test]
async fn lengths_that_contradict_each_other_are_refused() {
    let server = TestServer::start().await;
    let create = Dialect::Interop6.create(Request::put("/files/a").body("hello"), true);
    server
        .request(create.field("Upload-Length", 6))
        .await
        .expect(400)
        .problem();
    server.request(Request::get("/files/a")).await.expect(404);
}

#[tokio::test]
async fn unknown_places_and_methods_are_told_as_problems() {
    let server = TestServer::start().await;
    server
        .request(Request::get("/"))
        .await
        .expect(404)
        .problem();
    server
        .request(Request::get("/nothing/here"))
        .await
        .expect(404)
        .problem();
    server
        .request(Request::new("BREW", "/files/a"))
        .await
        .expect(405)
        .problem();
    let response = server.request(Request::patch("/files")).await.expect(405);
    assert!(response.field("allow").contains("POST"), "{response:?}");
    response.problem();
}

#[tokio::test]
async fn a_head_can_be_too_long() {
    let server = TestServer::start().await;
    let long = Request::get("/files/a").field("X-Long", "x".repeat(100_000));
    let response = server.try_request(&long).await;
    if let Ok(response) = response {
        assert_eq!(response.status(), 431, "{response:?}");
    }
    let many = (0..5_000).fold(Request::get("/files/a"), |request, n| {
        request.field(&format!("X-{n}"), n)
    });
    if let Ok(response) = server.try_request(&many).await {
        assert_eq!(response.status(), 431, "{response:?}");
    }
    let target = format!("/files?prefix={}", "x".repeat(100_000));
    if let Ok(response) = server.try_request(&Request::get(target)).await {
        assert!([414, 431].contains(&response.status()), "{response:?}");
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn requests_that_could_be_read_in_two_ways_are_not_read_at_all() {
    let server = TestServer::start().await;
    let smuggling: [&[u8]; 6] = [
        b"PUT /files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"PUT /files/a HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nhello",
        b"PUT /files/a HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\nhello",
        b"PUT /files/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"PUT /files/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        b"PUT /files/a HTTP/1.1\r\nHost : x\r\nContent-Length: 5\r\n\r\nhello",
    ];
    for wire in smuggling {
        let answers = answers(&server, wire).await;
        let refused = answers.iter().all(|status| (400..500).contains(status));
        assert!(
            refused && answers.len() <= 1,
            "{answers:?} to {}",
            wire.escape_ascii()
        );
    }
    server.request(Request::get("/files/a")).await.expect(404);
    assert_alive(&server).await;
}

#[tokio::test]
async fn what_follows_a_request_of_two_lengths_is_not_a_request() {
    let server = TestServer::start().await;
    let wire = b"PUT /files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
        0\r\n\r\nPUT /files/smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    // RFC 9112 §6.1: the server may refuse the request or read it as chunked; either way it closes
    // the connection after the answer.
    let answers = answers(&server, wire).await;
    assert!(answers.len() <= 1, "{answers:?}");
    server
        .request(Request::get("/files/smuggled"))
        .await
        .expect(404);
}

#[tokio::test]
async fn noise_is_survived() {
    let server = TestServer::start().await;
    let mut dice = Dice::new(80);
    let valid = b"PUT /files/noise HTTP/1.1\r\nHost: x\r\nUpload-Complete: ?1\r\nContent-Length: 5\r\n\r\nhello";
    for _ in 0..200 {
        let mut wire = valid.to_vec();
        for _ in 0..dice.within(1..6) {
            let at = usize::try_from(dice.within(0..u64::try_from(wire.len()).unwrap())).unwrap();
            wire[at] = u8::try_from(dice.within(0..256)).unwrap();
        }
        let Client::Http1(mut connection) = server.client(Version::Http1).await else {
            unreachable!("this version was requested")
        };
        let _ = connection.send_raw(&wire).await;
        let _ = connection.half_close().await;
        connection.expect_answer_to("PUT");
        if let Ok(response) = connection.response().await {
            assert!(
                response.status() < 500,
                "{response:?} to {}",
                wire.escape_ascii()
            );
        }
    }
    assert_alive(&server).await;
}

#[tokio::test]
async fn errors_say_nothing_about_the_inside() {
    let server = TestServer::start().await;
    let data = server.data();
    for request in [
        Request::get("/files/missing"),
        Request::get("/files/%ff"),
        Request::put("/files/a")
            .field("Repr-Digest", "sha-256=:AAAA:")
            .body("x"),
        Request::get("/files?limit=minus"),
        Request::get("/files?cursor=%00%01"),
    ] {
        let response = server.request(request).await;
        assert!((400..500).contains(&response.status()), "{response:?}");
        let text = response.problem().to_string();
        for inside in [
            data.to_str().unwrap(),
            "sqlx",
            "rusqlite",
            "postgres",
            "panicked",
            "src/",
            ".rs:",
        ] {
            assert!(!text.contains(inside), "{inside} in {text}");
        }
    }
}
