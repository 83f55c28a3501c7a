//! The proxies of `deploy/proxy`: uploads are announced, streamed, cut and resumed; downloads
//! resume; a node that is about to end gets no new requests.

pub(crate) mod front;

use tests::http1::head_of;
use tests::{
    Blobs, Client, Content, Metadata, PATIENCE, Request, Stores, TestServer, Version, eventually,
    within,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::dialect::Dialect;
use crate::resume::begin;
use front::{Front, Kind};

/// Content that is larger than every buffer on the way.
const CONTENT: Content = Content::new(300, 9_000_000);
/// Bytes that a client has sent when its connection is lost.
const SENT: u64 = 6_000_000;

/// Starts a server with local stores: a proxy does not depend on them.
async fn node(config: &str) -> TestServer {
    let stores = Stores::new(Metadata::Sqlite, Blobs::Fs).await;
    TestServer::setup()
        .stores(&stores)
        .config(config)
        .start()
        .await
}

/// Returns the number of bytes that a server has stored, including uploads in progress.
fn stored(server: &TestServer) -> u64 {
    let sizes = server.blobs().into_iter().map(|file| {
        // A file may be renamed or removed meanwhile.
        file.metadata().map_or(0, |metadata| metadata.len())
    });
    sizes.sum()
}

/// Sends the first part of a body, of which no more follows, and waits until most of it has arrived
/// at the server.
async fn send_first_part(client: &mut Client, server: &TestServer) {
    let before = stored(server);
    client.send(&CONTENT.slice(0..SENT)).await.unwrap();
    eventually("the server gets a body that has not ended", async || {
        (stored(server) - before >= SENT / 2).then_some(())
    })
    .await;
}

/// Asks for the offset of a cut upload and sends the rest, all through the proxy.
async fn resume(front: &Front, version: Version, upload: &str) {
    let dialect = Dialect::Interop6;
    let head = front.request(version, dialect.head(upload)).await;
    let offset = head.expect(204).offset();
    assert!(
        (SENT / 2..=SENT).contains(&offset),
        "{offset} of the {SENT} bytes that were sent"
    );
    let append = dialect
        .append(upload, offset, true)
        .body(CONTENT.from(offset));
    let appended = front.request(version, append).await.expect(201);
    assert_eq!(appended.field("repr-digest"), CONTENT.repr_digest());
}

async fn uploads_are_announced_and_resumed(test: &str, kind: Kind) {
    let server = node("").await;
    let Some(front) = Front::start(test, kind, [&server, &server]).await else {
        return;
    };
    for &version in kind.versions() {
        let path = format!("/files/{version:?}");
        let mut client = front.client(version).await;
        // The URL comes with a 104, before any byte of the body is sent.
        let upload = begin(&mut client, Dialect::Interop6, &path, CONTENT.length()).await;
        send_first_part(&mut client, &server).await;
        client.lose();

        resume(&front, version, &upload).await;
        let got = front.request(version, Request::get(&path)).await;
        CONTENT.assert_is(&got.expect(200).body);
    }
}

#[tokio::test]
async fn haproxy_relays_104_and_uploads_resume() {
    uploads_are_announced_and_resumed("haproxy_relays_104_and_uploads_resume", Kind::Haproxy).await;
}

#[tokio::test]
async fn caddy_relays_104_and_uploads_resume() {
    uploads_are_announced_and_resumed("caddy_relays_104_and_uploads_resume", Kind::Caddy).await;
}

#[tokio::test]
async fn envoy_relays_104_and_uploads_resume() {
    uploads_are_announced_and_resumed("envoy_relays_104_and_uploads_resume", Kind::Envoy).await;
}

#[tokio::test]
async fn through_nginx_uploads_resume_that_were_created_first() {
    let test = "through_nginx_uploads_resume_that_were_created_first";
    let server = node("[http]\ninterim_untrusted_proxies = [\"127.0.0.1\"]").await;
    let nodes = [&server, &server];
    let front = Front::start(test, Kind::Nginx, nodes).await.unwrap();
    let (version, dialect) = (Version::Http1, Dialect::Interop6);

    let create = dialect.create(Request::put("/files/a"), false);
    let created = front.request(version, create).await.expect(201);
    let upload = created.field("location");
    let mut client = front.client(version).await;
    let append = dialect.append(upload, 0, true).announcing(CONTENT.length());
    client.begin(&append).await.unwrap();
    send_first_part(&mut client, &server).await;
    client.lose();

    resume(&front, version, upload).await;
    let got = front.request(version, Request::get("/files/a")).await;
    CONTENT.assert_is(&got.expect(200).body);
}

/// nginx sends the final answer as the content of the 104, once it learns where that content ends.
/// A client sees no answer at all.
#[tokio::test]
async fn nginx_takes_104_for_the_final_answer() {
    let test = "nginx_takes_104_for_the_final_answer";
    let server = node("").await;
    let nodes = [&server, &server];
    let front = Front::start(test, Kind::Nginx, nodes).await.unwrap();
    let content = Content::new(302, 100_000);
    let put = Request::put("/files/a").field("Connection", "close");
    let create = Dialect::Interop6.create(put.announcing(content.length()), true);
    let mut socket = TcpStream::connect(front.address()).await.unwrap();
    let request = [head_of(&create).as_bytes(), &content.bytes()].concat();
    socket.write_all(&request).await.unwrap();
    eventually("the file is there", async || {
        let answer = server.request(Request::head("/files/a")).await;
        (answer.status() == 200).then_some(())
    })
    .await;

    server.terminate();
    let mut answer = String::new();
    let read = socket.read_to_string(&mut answer);
    within(PATIENCE, "the end of the answer", read)
        .await
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 104 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(body.contains("HTTP/1.1 201 Created\r\n"), "{answer}");
}

async fn downloads_resume(test: &str, kind: Kind) {
    let server = node("[http]\ninterim = \"off\"").await;
    let Some(front) = Front::start(test, kind, [&server, &server]).await else {
        return;
    };
    let put = Request::put("/files/a.txt").field("Content-Type", "text/plain");
    server.request(put.body(CONTENT.bytes())).await.expect(201);
    let direct = server.request(Request::head("/files/a.txt")).await;
    let tag = direct.expect(200).field("etag").to_owned();
    // Browsers and `URLSession` accept content codings, which may lead proxies to change the
    // content.
    let get = || Request::get("/files/a.txt").field("Accept-Encoding", "gzip, deflate, br");

    for &version in kind.versions() {
        let whole = front.request(version, get()).await.expect(200);
        CONTENT.assert_is(&whole.body);
        assert_eq!(whole.field("etag"), tag);
        assert_eq!(whole.optional("content-encoding"), None);
        assert_eq!(whole.field("content-length"), "9000000");
        assert_eq!(whole.field("accept-ranges"), "bytes");

        let rest = get().field("Range", "bytes=8000000-");
        let part = front
            .request(version, rest.clone().field("If-Range", &tag))
            .await
            .expect(206);
        assert_eq!(part.field("content-range"), "bytes 8000000-8999999/9000000");
        assert_eq!(part.field("etag"), tag);
        assert_eq!(part.body, CONTENT.from(8_000_000));
        let other = rest.field("If-Range", "\"another\"");
        let changed = front.request(version, other).await.expect(200);
        CONTENT.assert_is(&changed.body);

        let several = get().field("Range", "bytes=0-9,8999990-");
        let parts = front.request(version, several).await.expect(206);
        let kind_of_parts = parts.field("content-type");
        assert!(kind_of_parts.starts_with("multipart/byteranges"));
        let fresh = get().field("If-None-Match", &tag);
        let unchanged = front.request(version, fresh).await.expect(304);
        assert_eq!(unchanged.field("etag"), tag);
    }
}

#[tokio::test]
async fn haproxy_leaves_ranges_and_tags_alone() {
    downloads_resume("haproxy_leaves_ranges_and_tags_alone", Kind::Haproxy).await;
}

#[tokio::test]
async fn caddy_leaves_ranges_and_tags_alone() {
    downloads_resume("caddy_leaves_ranges_and_tags_alone", Kind::Caddy).await;
}

#[tokio::test]
async fn envoy_leaves_ranges_and_tags_alone() {
    downloads_resume("envoy_leaves_ranges_and_tags_alone", Kind::Envoy).await;
}

#[tokio::test]
async fn nginx_leaves_ranges_and_tags_alone() {
    downloads_resume("nginx_leaves_ranges_and_tags_alone", Kind::Nginx).await;
}

/// Ends a node: requests on it continue, and soon all new ones go to the other node.
async fn a_node_that_ends_is_left_out(test: &str, kind: Kind) {
    let config = "[http]\ndrain_delay = \"1h\"";
    let (ending, staying) = (node(config).await, node(config).await);
    for (server, name) in [(&ending, "ending"), (&staying, "staying")] {
        let put = Request::put("/files/who").body(name);
        server.request(put).await.expect(201);
    }
    let Some(front) = Front::start(test, kind, [&ending, &staying]).await else {
        return;
    };
    let who = async || {
        let answer = front
            .request(Version::Http1, Request::get("/files/who"))
            .await
            .expect(200);
        String::from_utf8(answer.body.to_vec()).unwrap()
    };
    // Uploads in progress on both nodes.
    let content = Content::new(301, 100_000);
    let mut running = Vec::new();
    for number in 0..8 {
        let mut client = front.client(Version::Http1).await;
        let path = format!("/files/{number}");
        begin(&mut client, Dialect::Interop6, &path, content.length()).await;
        running.push(client);
    }

    ending.terminate();
    eventually("requests go to the other node", async || {
        for _ in 0..20 {
            if who().await != "staying" {
                return None;
            }
        }
        Some(())
    })
    .await;
    for mut client in running {
        client.send(&content.bytes()).await.unwrap();
        client.response().await.unwrap().expect(201);
    }
}

/// Caddy checks all nodes on one port, so one machine can have only one.
#[tokio::test]
async fn caddy_leaves_out_a_node_that_ends() {
    let test = "caddy_leaves_out_a_node_that_ends";
    let server = node("[http]\ndrain_delay = \"1h\"").await;
    let nodes = [&server, &server];
    let front = Front::start(test, Kind::Caddy, nodes).await.unwrap();
    server.terminate();
    eventually("no node is left", async || {
        let answer = front.request(Version::Http1, Request::get("/files")).await;
        (answer.status() == 503).then_some(())
    })
    .await;
    server.request(Request::get("/files")).await.expect(200);
}

#[tokio::test]
async fn haproxy_leaves_out_a_node_that_ends() {
    a_node_that_ends_is_left_out("haproxy_leaves_out_a_node_that_ends", Kind::Haproxy).await;
}

#[tokio::test]
async fn envoy_leaves_out_a_node_that_ends() {
    a_node_that_ends_is_left_out("envoy_leaves_out_a_node_that_ends", Kind::Envoy).await;
}

/// The stack of `docker-compose.yml` without containers: PostgreSQL, an S3 server, two nodes and a
/// proxy.
#[tokio::test]
async fn behind_haproxy_a_lost_node_loses_nothing() {
    let test = "behind_haproxy_a_lost_node_loses_nothing";
    let stores = Stores::for_nodes().await;
    let setup = || TestServer::setup().stores(&stores);
    let (mut lost, kept) = (setup().start().await, setup().start().await);
    let front = Front::start(test, Kind::Haproxy, [&lost, &kept])
        .await
        .unwrap();
    let version = Version::Http1;
    // In sequence, each goes to the node with the fewest connections, so both nodes get some.
    let mut running = Vec::new();
    for number in 0..4 {
        let mut client = front.client(version).await;
        let path = format!("/files/{number}");
        let upload = begin(&mut client, Dialect::Interop6, &path, CONTENT.length()).await;
        client.send(&CONTENT.slice(0..SENT)).await.unwrap();
        running.push((client, path, upload));
    }

    lost.kill().await;
    let mut cut = 0;
    for (mut client, path, upload) in running {
        // HAProxy answers 502 for a node that is gone; a client of resumable uploads then asks for
        // the offset.
        let sent = client.send(&CONTENT.from(SENT)).await;
        let answer = match sent {
            Ok(()) => client.response().await.ok(),
            Err(_) => None,
        };
        if answer.is_none_or(|answer| answer.status() != 201) {
            cut += 1;
            let dialect = Dialect::Interop6;
            let head = front.request(version, dialect.head(&upload)).await;
            let offset = head.expect(204).offset();
            let append = dialect
                .append(&upload, offset, true)
                .body(CONTENT.from(offset));
            front.request(version, append).await.expect(201);
        }
        let got = front.request(version, Request::get(&path)).await;
        CONTENT.assert_is(&got.expect(200).body);
    }
    assert!(
        (1..4).contains(&cut),
        "{cut} of 4 uploads ran on the lost node"
    );
}
