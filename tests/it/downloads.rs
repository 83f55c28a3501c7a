//! Downloads by RFC 9110: complete, in ranges, conditional.

use bytes::Bytes;
use tests::{Client, Content, Fault, Flow, Proxy, Request, Response, TestServer, Version};

const CONTENT: Content = Content::new(60, 1_000_000);

/// Starts a server with [`CONTENT`] under `/files/a.bin`.
async fn serving() -> TestServer {
    let server = TestServer::start().await;
    let put = Request::put("/files/a.bin")
        .field("Content-Type", "application/x-test")
        .body(CONTENT.bytes());
    server.request(put).await.expect(201);
    server
}

fn get() -> Request {
    Request::get("/files/a.bin")
}

/// Checks the fields of an answer that describe the content.
#[track_caller]
fn assert_fields(response: &Response) {
    let etag = response.field("etag");
    assert!(
        etag.starts_with('"') && etag.ends_with('"'),
        "a strong tag: {etag}"
    );
    assert_eq!(response.field("accept-ranges"), "bytes");
    assert_eq!(response.field("repr-digest"), CONTENT.repr_digest());
    assert_eq!(response.field("x-content-type-options"), "nosniff");
    assert!(response.field("cache-control").contains("no-transform"));
    assert!(response.field("last-modified").ends_with(" GMT"));
    assert!(response.field("content-disposition").contains("a.bin"));
    for absent in ["transfer-encoding", "content-encoding", "set-cookie"] {
        assert!(
            response.optional(absent).is_none(),
            "{absent} in {response:?}"
        );
    }
}

#[tokio::test]
async fn a_download_is_whole_and_says_what_it_is() {
    let server = serving().await;
    for version in Version::ALL {
        let response = server
            .client(version)
            .await
            .exchange(&get())
            .await
            .unwrap()
            .expect(200);
        CONTENT.assert_is(&response.body);
        assert_eq!(response.field("content-length"), "1000000");
        assert_eq!(response.field("content-type"), "application/x-test");
        assert_fields(&response);

        let head = Request::head("/files/a.bin");
        let head = server
            .client(version)
            .await
            .exchange(&head)
            .await
            .unwrap()
            .expect(200);
        assert!(head.body.is_empty());
        for field in [
            "content-length",
            "content-type",
            "etag",
            "last-modified",
            "repr-digest",
            "accept-ranges",
        ] {
            assert_eq!(head.field(field), response.field(field));
        }
    }
}

#[tokio::test]
async fn one_range_is_that_part() {
    let server = serving().await;
    for (range, start, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-99", 0, 100),
        ("bytes=999999-", 999_999, 1_000_000),
        ("bytes=500000-600000", 500_000, 600_001),
        ("bytes=900000-99999999999999999999", 900_000, 1_000_000),
        ("bytes=-1", 999_999, 1_000_000),
        ("bytes=-2000000", 0, 1_000_000),
        ("bytes=0-", 0, 1_000_000),
        ("BYTES=1-2", 1, 3),
    ] {
        for version in Version::ALL {
            let request = get().field("Range", range);
            let response = server
                .client(version)
                .await
                .exchange(&request)
                .await
                .unwrap()
                .expect(206);
            assert_eq!(
                response.field("content-range"),
                format!("bytes {start}-{}/1000000", end - 1),
                "{range}"
            );
            assert_eq!(response.field("content-length"), (end - start).to_string());
            assert_eq!(response.body, CONTENT.slice(start..end), "{range}");
            assert_fields(&response);
        }
    }
}

#[tokio::test]
async fn a_range_beyond_the_end_cannot_be_satisfied() {
    let server = serving().await;
    for range in [
        "bytes=1000000-",
        "bytes=1000000-1000001",
        "bytes=-0",
        "bytes=99999999999999999999-",
    ] {
        let response = server
            .request(get().field("Range", range))
            .await
            .expect(416);
        assert_eq!(
            response.field("content-range"),
            "bytes */1000000",
            "{range}"
        );
        response.problem();
    }
}

#[tokio::test]
async fn a_range_that_makes_no_sense_is_ignored() {
    let server = serving().await;
    for range in [
        "bytes",
        "bytes=",
        "bytes=a-b",
        "bytes=5-1",
        "lines=1-2",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=+1-2",
    ] {
        let response = server
            .request(get().field("Range", range))
            .await
            .expect(200);
        assert_eq!(response.field("content-length"), "1000000", "{range}");
    }
    let head = Request::head("/files/a.bin").field("Range", "bytes=0-0");
    let head = server.request(head).await.expect(200);
    assert_eq!(
        head.field("content-length"),
        "1000000",
        "Range is for GET only"
    );
}

#[tokio::test]
async fn many_ranges_are_parts_of_one_answer() {
    let server = serving().await;
    for version in Version::ALL {
        let request = get().field("Range", "bytes=0-9, 500000-500099, -5");
        let response = server
            .client(version)
            .await
            .exchange(&request)
            .await
            .unwrap()
            .expect(206);
        assert!(response.optional("content-range").is_none());
        let kind = response.field("content-type");
        let boundary = kind
            .strip_prefix("multipart/byteranges; boundary=")
            .expect("the media type of several ranges");
        let found = parts(&response.body, boundary.trim_matches('"'));

        let expected = [(0, 10), (500_000, 500_100), (999_995, 1_000_000)];
        assert_eq!(found.len(), expected.len(), "{response:?}");
        for ((head, body), (start, end)) in found.iter().zip(expected) {
            let range = format!("content-range: bytes {start}-{}/1000000", end - 1);
            assert!(
                head.to_ascii_lowercase().contains(&range),
                "{range} in {head}"
            );
            assert!(
                head.to_ascii_lowercase()
                    .contains("content-type: application/x-test"),
                "{head}"
            );
            assert_eq!(*body, CONTENT.slice(start..end));
        }
    }
}

#[tokio::test]
async fn a_request_for_very_many_ranges_does_not_multiply_the_answer() {
    let server = serving().await;
    let overlapping = vec!["0-"; 1000].join(",");
    let tiny: Vec<String> = (0..1000).map(|n| format!("{}-{}", n * 2, n * 2)).collect();
    for ranges in [overlapping, tiny.join(",")] {
        let response = server
            .request(get().field("Range", format!("bytes={ranges}")))
            .await;
        assert!([200, 206, 416].contains(&response.status()), "{response:?}");
        assert!(
            response.body.len() <= 1_100_000,
            "{} bytes",
            response.body.len()
        );
    }
}

#[tokio::test]
async fn a_client_that_has_it_is_told_so() {
    let server = serving().await;
    let response = server.request(get()).await.expect(200);
    let (etag, date) = (response.field("etag"), response.field("last-modified"));
    for version in Version::ALL {
        for (field, value) in [
            ("If-None-Match", etag.to_owned()),
            ("If-None-Match", format!("W/{etag}")),
            ("If-None-Match", format!("\"x\", {etag}")),
            ("If-None-Match", "*".to_owned()),
            ("If-Modified-Since", date.to_owned()),
        ] {
            let request = get().field(field, &value);
            let response = server
                .client(version)
                .await
                .exchange(&request)
                .await
                .unwrap()
                .expect(304);
            assert!(response.body.is_empty());
            assert_eq!(response.field("etag"), etag, "{field}: {value}");
        }
    }
}

#[tokio::test]
async fn conditions_are_weighed_in_their_order() {
    let server = serving().await;
    let response = server.request(get()).await.expect(200);
    let (etag, date) = (
        response.field("etag").to_owned(),
        response.field("last-modified").to_owned(),
    );
    let long_ago = "Mon, 01 Jan 2001 00:00:00 GMT".to_owned();
    let ask = async |fields: &[(&str, &String)], status: u16| {
        let request = fields
            .iter()
            .fold(get(), |request, (name, value)| request.field(name, value));
        let response = server.request(request).await;
        assert_eq!(response.status(), status, "{fields:?}");
    };
    let other = "\"other\"".to_owned();

    ask(&[("If-Match", &etag)], 200).await;
    ask(&[("If-Match", &other)], 412).await;
    ask(&[("If-Match", &format!("W/{etag}"))], 412).await;
    ask(&[("If-Unmodified-Since", &date)], 200).await;
    ask(&[("If-Unmodified-Since", &long_ago)], 412).await;
    // RFC 9110 §13.2.2: the tag is evaluated first, and the date then not at all.
    ask(
        &[("If-Match", &etag), ("If-Unmodified-Since", &long_ago)],
        200,
    )
    .await;
    ask(
        &[("If-None-Match", &other), ("If-Modified-Since", &date)],
        200,
    )
    .await;
    ask(&[("If-Modified-Since", &long_ago)], 200).await;
    ask(&[("If-Modified-Since", &"yesterday".to_owned())], 200).await;
    ask(
        &[("If-None-Match", &etag), ("Range", &"bytes=0-0".to_owned())],
        304,
    )
    .await;
    ask(
        &[("If-Match", &other), ("Range", &"bytes=0-0".to_owned())],
        412,
    )
    .await;
}

#[tokio::test]
async fn if_range_keeps_parts_of_different_files_apart() {
    let server = serving().await;
    let response = server.request(get()).await.expect(200);
    let (etag, date) = (
        response.field("etag").to_owned(),
        response.field("last-modified").to_owned(),
    );
    for (value, status) in [
        (etag.clone(), 206),
        (format!("W/{etag}"), 200),
        ("\"other\"".to_owned(), 200),
        // Only a date that is old enough to be a strong validator may be used (RFC 9110 §8.8.2.2),
        // so both answers are correct.
        ("Mon, 01 Jan 2001 00:00:00 GMT".to_owned(), 200),
    ] {
        let request = get()
            .field("Range", "bytes=10-19")
            .field("If-Range", &value);
        let response = server.request(request).await;
        assert_eq!(response.status(), status, "{value}");
    }
    let request = get().field("Range", "bytes=10-19").field("If-Range", &date);
    let status = server.request(request).await.status();
    assert!([200, 206].contains(&status), "{status}");

    let replacement = Content::new(61, 1_000_000);
    server
        .request(Request::put("/files/a.bin").body(replacement.bytes()))
        .await
        .expect(200);
    let request = get().field("Range", "bytes=10-19").field("If-Range", &etag);
    let response = server.request(request).await.expect(200);
    replacement.assert_is(&response.body);
}

#[tokio::test]
async fn a_download_over_a_network_that_breaks_is_completed_by_ranges() {
    let server = serving().await;
    let breaking = Flow {
        fault: Some(Fault::CutAfter(150_000)),
        ..Flow::default()
    };
    let proxy = Proxy::start(server.address(), Flow::default(), breaking).await;

    let mut received = Vec::new();
    let mut etag = None;
    for attempt in 0.. {
        assert!(attempt < 50, "no progress: {} bytes", received.len());
        let mut request = get().field("Range", format!("bytes={}-", received.len()));
        if let Some(etag) = &etag {
            request = request.field("If-Range", etag);
        }
        let mut client = Client::open(proxy.address(), Version::Http1).await;
        let (head, body, whole) = match client.exchange(&request).await {
            Ok(response) => (response.head, response.body, true),
            Err(cut) => match cut.partial {
                Some((head, body)) => (head, body, false),
                None => continue,
            },
        };
        assert_eq!(head.status, 206, "{head:?}");
        etag = Some(head.field("etag").to_owned());
        received.extend_from_slice(&body);
        if whole {
            break;
        }
    }
    CONTENT.assert_is(&received);
}

#[tokio::test]
async fn requests_that_come_together_are_answered_in_order() {
    let server = serving().await;
    let Client::Http1(mut connection) = server.client(Version::Http1).await else {
        unreachable!("this version was requested")
    };
    let mut wire = String::new();
    for start in 0..20 {
        wire += &format!(
            "GET /files/a.bin HTTP/1.1\r\nHost: localhost\r\nRange: bytes={start}-{}\r\n\r\n",
            start + 999
        );
        connection.expect_answer_to("GET");
    }
    connection.send_raw(wire.as_bytes()).await.unwrap();
    for start in 0..20 {
        let response = connection.response().await.unwrap().expect(206);
        assert_eq!(response.body, CONTENT.slice(start..start + 1000));
    }
}

#[tokio::test]
async fn a_name_that_is_not_ascii_is_told_in_both_ways() {
    let server = TestServer::start().await;
    let path = "/files/Gr%C3%BC%C3%9Fe%20%22%E2%82%AC%22.txt";
    server
        .request(Request::put(path).body("hello"))
        .await
        .expect(201);
    let response = server.request(Request::get(path)).await.expect(200);
    let disposition = response.field("content-disposition");
    assert!(
        disposition.contains("filename*=UTF-8''Gr%C3%BC%C3%9Fe%20%22%E2%82%AC%22.txt"),
        "{disposition}"
    );
}

#[tokio::test]
async fn a_file_that_is_replaced_or_deleted_meanwhile_is_served_to_its_end() {
    let server = TestServer::start().await;
    let content = Content::new(62, 20_000_000);
    for (round, meanwhile) in [
        Request::put("/files/big").body("new"),
        Request::delete("/files/big"),
    ]
    .into_iter()
    .enumerate()
    {
        server
            .request(Request::put("/files/big").body(content.bytes()))
            .await;
        let slow = Flow {
            delay: std::time::Duration::from_millis(1),
            ..Flow::default()
        };
        let proxy = Proxy::start(server.address(), Flow::default(), slow).await;
        let mut client = Client::open(proxy.address(), Version::Http1).await;
        client.begin(&Request::get("/files/big")).await.unwrap();
        // The answer has begun: its head is the next to arrive.
        assert!(client.interim().await.is_none());
        let change = async {
            let response = server.request(meanwhile).await;
            assert!(
                [200, 204].contains(&response.status()),
                "round {round}: {response:?}"
            );
        };
        let (response, ()) = tokio::join!(client.response(), change);
        content.assert_is(&response.unwrap().expect(200).body);
    }
}

/// Splits a `multipart/byteranges` body; returns head and content of each part.
fn parts(body: &Bytes, boundary: &str) -> Vec<(String, Bytes)> {
    let find = |from: usize, needle: &str| -> usize {
        let found = body[from..]
            .windows(needle.len())
            .position(|window| window == needle.as_bytes());
        from + found.unwrap_or_else(|| panic!("no {needle:?} from {from} on"))
    };
    let delimiter = format!("--{boundary}");
    let mut parts = Vec::new();
    let mut at = find(0, &delimiter) + delimiter.len();
    while !body[at..].starts_with(b"--") {
        let start = find(at, "\r\n\r\n") + 4;
        let end = find(start, &format!("\r\n{delimiter}"));
        parts.push((
            String::from_utf8(body[at..start].to_vec()).unwrap(),
            body.slice(start..end),
        ));
        at = end + 2 + delimiter.len();
    }
    parts
}
