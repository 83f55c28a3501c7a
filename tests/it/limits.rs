//! Limits are announced, and they hold regardless of what a client declares.

use std::time::Duration;

use tests::{Blobs, Client, Content, PATIENCE, Request, Response, TestServer, Version, within};
use tokio::io::AsyncWriteExt as _;

use crate::dialect::Dialect;

const LIMITED: &str = "[uploads]\nmax_size = \"100 KB\"";
const MAX: u64 = 100_000;

async fn limited() -> TestServer {
    TestServer::setup().config(LIMITED).start().await
}

/// Returns the value of `key` in `Upload-Limit`.
#[track_caller]
fn limit(response: &Response, key: &str) -> Option<u64> {
    let members = response.field("upload-limit").split(',');
    members
        .filter_map(|member| member.trim().split_once('='))
        .find_map(|(name, value)| (name == key).then(|| value.parse().unwrap()))
}

#[tokio::test]
async fn the_largest_size_is_announced() {
    let server = limited().await;
    let options = server.request(Request::options("/files")).await.expect(200);
    assert_eq!(limit(&options, "max-size"), Some(MAX));
    assert_eq!(options.field("tus-max-size"), MAX.to_string());

    let mut client = server.client(Version::Http1).await;
    let create = Dialect::Rfc.create(Request::put("/files/a").announcing(5), true);
    client.begin(&create).await.unwrap();
    let interim = client.interim().await.expect("a 104");
    assert!(
        interim
            .field("upload-limit")
            .contains(&format!("max-size={MAX}")),
        "{interim:?}"
    );
}

#[tokio::test]
async fn a_size_that_is_declared_too_large_is_refused_at_once() {
    let server = limited().await;
    for version in Version::ALL {
        for request in [
            Request::put("/files/a").announcing(MAX + 1),
            Dialect::Interop3.create(Request::put("/files/a").announcing(MAX + 1), true),
            Dialect::Interop6.create(Request::put("/files/a").announcing(MAX + 1), true),
            Dialect::Rfc
                .create(Request::put("/files/a").announcing(0), false)
                .field("Upload-Length", MAX + 1),
        ] {
            let mut client = server.client(version).await;
            client.begin(&request).await.unwrap();
            let response = client.response().await.unwrap().expect(413);
            assert_eq!(limit(&response, "max-size"), Some(MAX));
            response.problem();
        }
    }
    server.request(Request::get("/files/a")).await.expect(404);
}

#[tokio::test]
async fn a_body_that_grows_too_large_is_stopped() {
    let server = limited().await;
    let content = Content::new(70, MAX + 1);
    for version in Version::ALL {
        let chunked = Request::put("/files/a").unannounced();
        for request in [chunked.clone(), Dialect::Interop6.create(chunked, true)] {
            let mut client = server.client(version).await;
            client.begin(&request).await.unwrap();
            // The server may answer and close before it has read everything.
            let _ = client.send(&content.bytes()).await;
            let _ = client.finish().await;
            client.response().await.unwrap().expect(413).problem();
        }
    }
    server.request(Request::get("/files/a")).await.expect(404);
}

#[tokio::test]
async fn appends_cannot_creep_past_the_limit() {
    let server = limited().await;
    let content = Content::new(71, MAX + 1);
    for dialect in Dialect::ALL {
        let create = dialect.create(
            Request::put("/files/a").body(content.slice(0..MAX - 10)),
            false,
        );
        let created = server.request(create).await.expect(201);
        let upload = created.field("location");
        let append = dialect
            .append(upload, MAX - 10, true)
            .body(content.from(MAX - 10));
        server.request(append).await.expect(413).problem();
    }
    server.request(Request::get("/files/a")).await.expect(404);
}

#[tokio::test]
async fn exactly_the_limit_is_fine() {
    let server = limited().await;
    let content = Content::new(72, MAX);
    server
        .request(Request::put("/files/a").body(content.bytes()))
        .await
        .expect(201);
    let put = Dialect::Interop6.create(Request::put("/files/b").body(content.bytes()), true);
    server.request(put).await.expect(201);
}

#[tokio::test]
async fn more_bytes_than_the_upload_is_long_are_refused() {
    let server = TestServer::start().await;
    let content = Content::new(73, 10_000);
    let dialect = Dialect::Interop6;
    let create = Request::put("/files/a")
        .body(content.slice(0..4_000))
        .field("Upload-Length", 9_000);
    let created = server
        .request(dialect.create(create, false))
        .await
        .expect(201);
    let upload = created.field("location");
    let append = dialect
        .append(upload, 4_000, true)
        .body(content.from(4_000));
    server.request(append).await.expect(400).problem();
    server.request(Request::get("/files/a")).await.expect(404);
    // In interop 6 the upload stays usable.
    let append = dialect
        .append(upload, 4_000, true)
        .body(content.slice(4_000..9_000));
    let head = server.request(dialect.head(upload)).await;
    if head.offset() == 4_000 {
        server.request(append).await.expect(201);
    } else {
        assert_eq!(
            head.offset(),
            9_000,
            "up to the length, and not one byte more"
        );
        server
            .request(dialect.append(upload, 9_000, true))
            .await
            .expect(201);
    }
}

#[tokio::test]
async fn a_client_that_sends_nothing_more_is_cut_and_what_it_sent_is_kept() {
    let server = TestServer::setup()
        .config("[http]\nbody_idle_timeout = \"1s\"")
        .start()
        .await;
    let content = Content::new(74, 100_000);
    for version in Version::ALL {
        let dialect = Dialect::Interop6;
        let mut client = server.client(version).await;
        let upload =
            crate::resume::begin(&mut client, dialect, "/files/idle", content.length()).await;
        client.send(&content.slice(0..30_000)).await.unwrap();
        within(Duration::from_secs(10), "the cut", client.response())
            .await
            .expect_err("close, don't answer");
        let head = server.request(dialect.head(&upload)).await.expect(204);
        assert_eq!(head.offset(), 30_000);
    }
}

#[tokio::test]
async fn a_slow_client_is_no_idle_one() {
    let server = TestServer::setup()
        .config("[http]\nbody_idle_timeout = \"1s\"")
        .start()
        .await;
    let content = Content::new(75, 3_000);
    let Client::Http1(mut connection) = server.client(Version::Http1).await else {
        unreachable!("this version was requested")
    };
    connection
        .begin(&Request::put("/files/slow").announcing(content.length()))
        .await
        .unwrap();
    // 100 bytes every 50 ms: 1.5 s in total, longer than the server waits on a silent connection.
    connection
        .send_slowly(&content.bytes(), 100, Duration::from_millis(50))
        .await
        .unwrap();
    connection.response().await.unwrap().expect(201);
    crate::uploads::assert_file(&server, "/files/slow", content).await;
}

#[tokio::test]
async fn a_request_head_must_come_to_an_end() {
    let server = TestServer::setup()
        .config("[http]\nhead_timeout = \"1s\"")
        .start()
        .await;
    let Client::Http1(mut connection) = server.client(Version::Http1).await else {
        unreachable!("this version was requested")
    };
    connection
        .send_raw(b"GET /files/a HTTP/1.1\r\nHost: local")
        .await
        .unwrap();
    connection.expect_answer_to("GET");
    let end = within(Duration::from_secs(10), "the end", connection.response()).await;
    if let Ok(response) = end {
        assert_eq!(response.status(), 408, "{response:?}");
        assert!(connection.is_closed().await);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let server = TestServer::setup()
        .config("[http]\nmax_connections = 4")
        .start()
        .await;
    let mut held = Vec::new();
    for number in 0..4 {
        let mut client = server.client(Version::Http1).await;
        client
            .begin(&Request::put(format!("/files/{number}")).announcing(5))
            .await
            .unwrap();
        client.send(b"he").await.unwrap();
        client.drained().await;
        held.push(client);
    }
    let mut waiting = server.client(Version::Http1).await;
    let list = Request::get("/files");
    let answer = waiting.exchange(&list);
    let release = async {
        for mut client in held {
            client.send(b"llo").await.unwrap();
            client.response().await.unwrap().expect(201);
        }
    };
    let (answer, ()) = tokio::join!(answer, release);
    answer.unwrap().expect(200);
}

#[tokio::test]
async fn large_uploads_and_downloads_do_not_fill_the_memory() {
    let server = TestServer::start().await;
    let content = Content::new(76, 300_000_000);
    let most = match Blobs::of_this_run() {
        Blobs::Fs => 50_000_000,
        // Two parts in transit and one being filled, then two ranges that are read ahead, of 8 MiB
        // each; as much again may be freed but still held by the allocator.
        Blobs::S3 => 100_000_000,
    };
    let before = server.resident().total;
    server.process().forget_peak();
    server
        .request(Request::put("/files/large").body(content.bytes()))
        .await
        .expect(201);
    let response = server
        .request(Request::get("/files/large"))
        .await
        .expect(200);
    content.assert_is(&response.body);
    let grown = server.process().peak().saturating_sub(before);
    assert!(
        grown < most,
        "{grown} bytes more at a time, of 300 MB up and down"
    );
}

/// Builds HTTP/2 frames that begin an upload on this stream, send one byte of it, and reset it.
fn begun_and_reset(stream: u32) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    };
    let mut head = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/files"),
        (":authority", "localhost"),
        ("upload-complete", "?1"),
        ("upload-draft-interop-version", "6"),
    ] {
        // A literal without indexing, with strings without Huffman coding (RFC 7541 §6.2.2).
        head.push(0);
        for text in [name, value] {
            head.push(u8::try_from(text.len()).unwrap());
            head.extend(text.as_bytes());
        }
    }
    [
        frame(1, 4, stream, &head),
        frame(0, 0, stream, b"x"),
        frame(3, 0, stream, &8_u32.to_be_bytes()),
    ]
    .concat()
}

/// Work on an upload continues after its stream is reset, so a bound on streams does not bound the
/// work.
#[tokio::test]
async fn uploads_that_are_begun_and_reset_hold_little_memory() {
    /// Maximum memory. Without a bound, 8,000 uploads would hold 25 KiB each.
    const MAX: u64 = 64 << 20;
    const CONNECTIONS: usize = 8;
    const UPLOADS: u32 = 1_000;
    let server = TestServer::setup()
        .config("[uploads]\nmax_at_once = 64\nmax_at_once_per_address = 32")
        .start()
        .await;
    let put = || Request::put("/files/healthy").body("hello");
    server.request(put()).await.expect(201);
    server.process().forget_peak();
    let before = server.process().peak();

    let address = server.address();
    let attack = |_| {
        tokio::spawn(async move {
            let mut begun = 0;
            while begun < UPLOADS {
                let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
                let opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
                socket.write_all(opening).await.unwrap();
                for stream in (1..400).step_by(2) {
                    // The server may close this connection.
                    if socket.write_all(&begun_and_reset(stream)).await.is_err() {
                        break;
                    }
                    begun += 1;
                }
            }
        })
    };
    let attacks: Vec<_> = (0..CONNECTIONS).map(attack).collect();
    // Other clients are served meanwhile.
    server.request(put()).await.expect(200);
    for attack in attacks {
        within(PATIENCE, "all are sent", attack).await.unwrap();
    }
    server.request(put()).await.expect(200);
    let grown = server.process().peak().saturating_sub(before);
    assert!(grown < MAX, "{} KiB", grown >> 10);
}
