//! Webhooks of an operator: events of completed uploads, and the decision whether an upload may
//! begin.

use std::net::SocketAddr;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tests::receiver::{Message, Receiver, Reply, SECRET};
use tests::server::{Setup, program};
use tests::{Client, Content, Request, Response, Stores, TestServer, Version, eventually};

use crate::dialect::Dialect;
use crate::resume::begin;
use crate::uploads::assert_file;

/// Configures a server that sends its events to `receiver`.
fn telling(receiver: &Receiver, settings: &str) -> Setup {
    let url = receiver.url();
    TestServer::setup().config(&format!(
        "[webhooks]\nurl = {url:?}\nsecrets = [{SECRET:?}]\n{settings}"
    ))
}

/// Configures a server that asks `receiver` before an upload begins.
fn asking(receiver: &Receiver, settings: &str) -> Setup {
    let url = receiver.url();
    TestServer::setup().config(&format!(
        "[webhooks]\nsecrets = [{SECRET:?}]\n[webhooks.pre_create]\nurl = {url:?}\n{settings}"
    ))
}

fn put(path: &str, content: Content) -> Request {
    Request::put(path).body(content.bytes())
}

/// Sends a request to the admin listener.
async fn ask(admin: SocketAddr, request: &Request) -> Response {
    let mut client = Client::open(admin, Version::Http1).await;
    client.exchange(request).await.unwrap()
}

/// Runs `longhaul events …` against the server with this admin listener.
fn events(admin: SocketAddr, arguments: &[&str]) -> Output {
    Command::new(program())
        .arg("events")
        .args(arguments)
        .args(["--admin", &admin.to_string()])
        .env_remove("LONGHAUL_CONFIG")
        .output()
        .unwrap()
}

fn said(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

/// Checks that the event reports this content under this path.
fn assert_tells_of(message: &Message, path: &str, content: Content) {
    let event = message.json();
    assert_eq!(event["type"], "upload.completed");
    let timestamp = event["timestamp"].as_str().unwrap();
    assert!(timestamp.ends_with('Z'), "{timestamp}");
    let data = &event["data"];
    assert_eq!(data["path"], path);
    assert_eq!(data["size"], content.length());
    let sha256 = data["sha256"].as_str().unwrap();
    assert_eq!(sha256, tests::pack::sha256(&content.bytes()));
    assert_eq!(data["etag"], format!("\"{sha256}\""));
}

#[tokio::test]
async fn completion_is_told_whatever_is_spoken() {
    let mut receiver = Receiver::start().await;
    let server = telling(&receiver, "").start().await;
    let content = Content::new(1, 200_000);

    let plain = put("/files/plain.heic", content).field("Content-Type", "image/heic");
    server.request(plain).await.expect(201);
    let message = receiver.next().await;
    assert_tells_of(&message, "plain.heic", content);
    assert_eq!(message.json()["data"]["media_type"], "image/heic");
    assert_eq!(message.field("content-type"), "application/json");

    for dialect in Dialect::ALL {
        let path = format!("{dialect:?}");
        let mut client = server.client(Version::Http1).await;
        let target = format!("/files/{path}");
        let upload = begin(&mut client, dialect, &target, content.length()).await;
        client.send(&content.slice(0..150_000)).await.unwrap();
        client.drained().await;
        client.lose();
        server.request(dialect.head(&upload)).await.expect(204);
        let append = dialect.append(&upload, 150_000, true);
        let append = append.body(content.from(150_000));
        server.request(append).await.expect(201);
        let message = receiver.next().await;
        assert_tells_of(&message, &path, content);
        // The name of an upload grants access to it.
        let name = upload.rsplit('/').next().unwrap();
        assert!(!said(message.body()).contains(name));
    }

    let metadata = "filename dHVzLmJpbg==,purpose dGVzdA==";
    let create = Request::post("/files")
        .field("Tus-Resumable", "1.0.0")
        .field("Upload-Length", content.length())
        .field("Upload-Metadata", metadata)
        .field("Upload-Client-Ref", "asset-7");
    let created = server.request(create).await.expect(201);
    let append = Request::patch(created.field("location"))
        .field("Tus-Resumable", "1.0.0")
        .field("Upload-Offset", 0)
        .field("Content-Type", "application/offset+octet-stream")
        .body(content.bytes());
    let appended = server.request(append).await.expect(204);
    let message = receiver.next().await;
    let path = appended.field("content-location");
    assert_tells_of(&message, path.strip_prefix("/files/").unwrap(), content);
    let data = &message.json()["data"];
    assert_eq!(data["filename"], "tus.bin");
    assert_eq!(data["tus_metadata"], metadata);
    assert_eq!(data["client_ref"], "asset-7");
    assert!(receiver.is_empty());
}

#[tokio::test]
async fn a_new_version_is_told_however_it_was_published() {
    let mut receiver = Receiver::start().await;
    let server = telling(&receiver, "").start().await;
    let files = tests::pack::Files::new([("a", &b"one"[..]), ("b/c", b"two")]);
    server.publish("maps", &files).await;
    let archive = Request::post("/packs/maps/versions").body(files.tar());
    let second = server.request(archive).await;
    assert_eq!(second.status(), 201, "{second:?}");
    for number in [1, 2] {
        let event = receiver.next().await.json();
        assert_eq!(event["type"], "version.published");
        let target = format!("/packs/maps/versions/{number}");
        let version = server.request(Request::get(target)).await.expect(200);
        let catalogue = &version.json()["catalogue"]["sha256"];
        assert_eq!(
            event["data"],
            json!({
                "pack": "maps",
                "version": number,
                "files": 2,
                "size": 6,
                "catalogue_sha256": catalogue,
            })
        );
    }
    assert!(receiver.is_empty());
}

#[tokio::test]
async fn only_the_events_that_are_asked_for_are_sent() {
    let mut receiver = Receiver::start().await;
    let chosen = "events = [\"version.published\"]";
    let server = telling(&receiver, chosen).start().await;
    let content = Content::new(2, 10);
    server.request(put("/files/a", content)).await.expect(201);
    let files = tests::pack::Files::new([("a", &b"one"[..])]);
    server.publish("maps", &files).await;
    let event = receiver.next().await.json();
    assert_eq!(event["type"], "version.published");
    assert!(receiver.is_empty());
}

#[tokio::test]
async fn every_secret_signs_so_that_one_can_follow_another() {
    let mut receiver = Receiver::start().await;
    let next = "whsec_bmV4dCBzZWNyZXQgb2YgMzIgcmFuZG9tIGJ5dGVzISE=";
    let url = receiver.url();
    let server = TestServer::setup()
        .config(&format!(
            "[webhooks]\nurl = {url:?}\nsecrets = [{next:?}, {SECRET:?}]"
        ))
        .start()
        .await;
    let content = Content::new(3, 10);
    server.request(put("/files/a", content)).await.expect(201);
    let message = receiver.next().await;
    assert!(message.is_signed_with(next));
    assert!(!message.is_signed_with("whsec_b3RoZXIgc2VjcmV0IG9mIDMyIHJhbmRvbSBieXRlcyE="));
}

/// The failed event is sent again with the same name and body. Later events of its path wait for
/// it; other paths do not.
#[tokio::test]
async fn a_failed_event_is_sent_again_before_later_ones_of_its_path() {
    let mut receiver = Receiver::start().await;
    let settings = "first_retry = \"2s\"";
    let server = telling(&receiver, settings).start().await;
    let contents = [4, 5, 6].map(|seed| Content::new(seed, 10));
    receiver.reply(Reply::status(500));
    server
        .request(put("/files/a", contents[0]))
        .await
        .expect(201);
    let first = receiver.next().await;
    server
        .request(put("/files/a", contents[1]))
        .await
        .expect(200);
    server
        .request(put("/files/b", contents[2]))
        .await
        .expect(201);
    assert_tells_of(&receiver.next().await, "b", contents[2]);
    let again = receiver.next().await;
    assert_eq!(again.id(), first.id());
    assert_eq!(again.body(), first.body());
    assert_tells_of(&again, "a", contents[0]);
    let later = receiver.next().await;
    assert_ne!(later.id(), first.id());
    assert_tells_of(&later, "a", contents[1]);
}

/// A redirect is no delivery, and a signature is valid for one receiver only.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let mut receiver = Receiver::start().await;
    let server = telling(&receiver, "first_retry = \"10ms\"").start().await;
    let elsewhere = "location: /elsewhere\r\n";
    receiver.reply(Reply::Status(307, elsewhere, String::new()));
    let content = Content::new(7, 10);
    server.request(put("/files/a", content)).await.expect(201);
    let first = receiver.next().await;
    assert_eq!(receiver.next().await.id(), first.id());
}

#[tokio::test]
async fn an_event_outlives_a_crash() {
    let mut receiver = Receiver::start().await;
    let mut server = telling(&receiver, "").start().await;
    let content = Content::new(8, 300_000);
    receiver.reply(Reply::Silence);
    server.request(put("/files/a", content)).await.expect(201);
    let before = receiver.next().await;
    server.kill().await;
    server.restart().await;
    let after = receiver.next().await;
    assert_eq!(after.id(), before.id());
    assert_eq!(after.body(), before.body());
    assert_file(&server, "/files/a", content).await;
}

/// One node delivers for all, and another continues when it is gone.
#[tokio::test]
async fn nodes_deliver_for_each_other() {
    let mut receiver = Receiver::start().await;
    let stores = Stores::for_nodes().await;
    let node = || telling(&receiver, "").stores(&stores).start();
    let [mut a, b, c] = [node().await, node().await, node().await];
    let contents = [20, 21, 22].map(|seed| Content::new(seed, 10));
    receiver.reply(Reply::Silence);
    a.request(put("/files/a", contents[0])).await.expect(201);
    let before = receiver.next().await;
    b.request(put("/files/a", contents[1])).await.expect(200);
    a.kill().await;
    let after = receiver.next().await;
    assert_eq!(after.id(), before.id());
    assert_tells_of(&receiver.next().await, "a", contents[1]);
    // Each event is delivered once, whichever node delivers.
    for round in 0..10 {
        let (node, path) = ([&b, &c][round % 2], format!("{round}"));
        let put = put(&format!("/files/{path}"), contents[2]);
        node.request(put).await.expect(201);
        assert_tells_of(&receiver.next().await, &path, contents[2]);
    }
    assert!(receiver.is_empty());
}

#[tokio::test]
async fn an_event_that_nobody_took_in_time_is_sent_after_the_server_was_ended() {
    let mut receiver = Receiver::start().await;
    let mut server = telling(&receiver, "timeout = \"1s\"").start().await;
    receiver.reply(Reply::Silence);
    let content = Content::new(9, 10);
    server.request(put("/files/a", content)).await.expect(201);
    let before = receiver.next().await;
    server.terminate();
    assert!(server.ended(tests::PATIENCE).await.success());
    server.restart().await;
    assert_eq!(receiver.next().await.id(), before.id());
}

#[tokio::test]
async fn dead_letters_are_listed_and_replayed() {
    let mut receiver = Receiver::start().await;
    let server = telling(&receiver, "attempts = 1").start().await;
    let admin = server.admin();
    let content = Content::new(10, 10);
    let mut ids = Vec::new();
    // Any status but success is a failure; the second one says that the receiver will never accept
    // the event.
    for (path, status) in [("a", 500), ("b", 410), ("c", 404)] {
        receiver.reply(Reply::status(status));
        let put = put(&format!("/files/{path}"), content);
        server.request(put).await.expect(201);
        ids.push(receiver.next().await.id().to_owned());
    }
    let listed = eventually("all events are dead", || async {
        let list = ask(admin, &Request::get("/events/dead")).await.expect(200);
        let list = list.json();
        (list["events"].as_array().unwrap().len() == 3).then_some(list)
    })
    .await;
    assert_eq!(listed["cursor"], Value::Null);
    let first = &listed["events"][0];
    assert_eq!(first["id"], ids[0]);
    assert_eq!(first["type"], "upload.completed");
    assert_eq!(first["subject"], "file:a");
    assert_eq!(first["failures"], 1);
    assert_eq!(first["payload"]["data"]["path"], "a");
    let error = first["last_error"].as_str().unwrap();
    assert!(error.contains("500"), "{error}");

    let mut paged = Vec::new();
    let mut target = "/events/dead?limit=2".to_owned();
    loop {
        let page = ask(admin, &Request::get(&target)).await.expect(200).json();
        let events = page["events"].as_array().unwrap().clone();
        assert!(events.len() <= 2);
        paged.extend(events);
        match page["cursor"].as_str() {
            Some(cursor) => target = format!("/events/dead?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(Value::from(paged), listed["events"]);

    let shown = events(admin, &["list"]);
    assert!(shown.status.success(), "{shown:?}");
    let shown = said(&shown.stdout);
    assert!(ids.iter().all(|id| shown.contains(id)), "{shown}");
    let objects = said(&events(admin, &["list", "--json"]).stdout);
    let object: Value = serde_json::from_str(objects.lines().next().unwrap()).unwrap();
    assert_eq!(object, *first);

    let replayed = events(admin, &["replay", &ids[1]]);
    assert!(replayed.status.success(), "{replayed:?}");
    assert_eq!(receiver.next().await.id(), ids[1]);
    let again = events(admin, &["replay", &ids[1]]);
    assert_eq!(again.status.code(), Some(1));
    assert!(
        said(&again.stderr).contains("no such dead event"),
        "{again:?}"
    );
    let rest = events(admin, &["replay", "--all"]);
    assert_eq!(said(&rest.stdout), "2 events will be delivered again\n");
    let mut last = [receiver.next().await, receiver.next().await];
    last.sort_by_key(|message| ids.iter().position(|id| id == message.id()));
    assert_eq!(last.each_ref().map(Message::id), [&ids[0], &ids[2]]);
    let empty = ask(admin, &Request::get("/events/dead")).await.expect(200);
    assert_eq!(empty.json(), json!({ "events": [] }));
}

#[tokio::test]
async fn the_list_of_dead_letters_refuses_what_it_does_not_understand() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for query in [
        "cursor=%2B",
        "cursor=YQ",
        "limit=0",
        "limit=1001",
        "limit=x",
    ] {
        let target = format!("/events/dead?{query}");
        ask(admin, &Request::get(target))
            .await
            .expect(400)
            .problem();
    }
    for id in ["x", &"0".repeat(32), "replay"] {
        let target = format!("/events/dead/{id}/replay");
        let problem = ask(admin, &Request::post(target))
            .await
            .expect(404)
            .problem();
        assert_eq!(problem["type"], "tag:longhaul,2026:not-found");
    }
    let replay = Request::post("/events/dead/replay");
    let replayed = ask(admin, &replay).await.expect(200).json();
    assert_eq!(replayed["replayed"], 0);
    // Pages in a browser on this machine can reach the listener, too.
    let of_a_page = replay.field("Origin", "https://example.org");
    ask(admin, &of_a_page).await.expect(403).problem();
    // None of it is available on the listener for clients.
    server
        .request(Request::get("/events/dead"))
        .await
        .expect(404);
}

#[tokio::test]
async fn webhooks_that_would_be_unsafe_are_refused_at_the_start() {
    let secret = format!("secrets = [{SECRET:?}]");
    for settings in [
        "url = \"https://example.org/\"".to_owned(),
        format!("url = \"http://example.org/\"\n{secret}"),
        format!("url = \"https://u:p@example.org/\"\n{secret}"),
        "secrets = [\"whsec_c2hvcnQ=\"]".to_owned(),
        "events = [\"upload.begun\"]".to_owned(),
    ] {
        let setup = TestServer::setup().config(&format!("[webhooks]\n{settings}"));
        let (status, said) = setup.refuse().await;
        assert!(!status.success());
        assert!(said.contains("webhooks"), "{said}");
        assert!(!said.contains("u:p@"), "{said}");
    }
}

/// Returns creations of every kind, with the data of the request to the gatekeeper.
fn creations(content: Content) -> Vec<(Request, Value)> {
    let length = content.length();
    let mut creations = vec![
        (
            put("/files/plain", content).field("Content-Type", "text/plain"),
            json!({ "path": "plain", "length": length, "media_type": "text/plain", "resumable": false }),
        ),
        (
            Request::post("/files").body(content.bytes()),
            json!({ "length": length, "resumable": false }),
        ),
        (
            Request::post("/files")
                .field("Tus-Resumable", "1.0.0")
                .field("Upload-Length", length)
                .field("Upload-Metadata", "purpose dGVzdA=="),
            json!({ "length": length, "tus_metadata": "purpose dGVzdA==", "resumable": true }),
        ),
        (
            Request::post("/packs/maps/versions").body(content.bytes()),
            json!({ "pack": "maps", "length": length, "resumable": false }),
        ),
    ];
    for dialect in Dialect::ALL {
        let path = format!("{dialect:?}");
        creations.push((
            dialect.create(put(&format!("/files/{path}"), content), true),
            json!({ "path": path, "length": length, "resumable": true }),
        ));
    }
    creations
}

#[tokio::test]
async fn a_refused_upload_never_begins() {
    let mut receiver = Receiver::start().await;
    let server = asking(&receiver, "").start().await;
    let content = Content::new(11, 5_000);
    let before = server.blobs();
    for (request, data) in creations(content) {
        receiver.reply(Reply::json(
            402,
            &json!({ "detail": "The quota\nis used up." }),
        ));
        let response = server.request(request).await.expect(403);
        assert!(response.interim.is_empty(), "{response:?}");
        let problem = response.problem();
        assert_eq!(problem["type"], "tag:longhaul,2026:refused");
        assert_eq!(problem["detail"], "The quota is used up.");
        let question = receiver.next().await.json();
        assert_eq!(question["type"], "upload.pre-create");
        assert_eq!(question["data"], data);
    }
    let files = server.request(Request::get("/files")).await.expect(200);
    assert_eq!(files.json()["files"], json!([]));
    assert_eq!(server.blobs(), before);
    // A refusal without a reason.
    receiver.reply(Reply::status(403));
    let request = put("/files/a", content);
    let problem = server.request(request).await.expect(403).problem();
    assert!(problem["detail"].is_string());
}

#[tokio::test]
async fn an_upload_may_be_another_file_than_its_client_says() {
    let mut receiver = Receiver::start().await;
    let server = asking(&receiver, "").start().await;
    let content = Content::new(12, 5_000);
    for dialect in Dialect::ALL {
        let path = format!("inbox/{dialect:?}.txt");
        let amendment = json!({ "path": path, "media_type": "text/plain", "other": 1 });
        receiver.reply(Reply::json(200, &amendment));
        let create = dialect.create(put("/files/any", content), true);
        let response = server.request(create).await.expect(201);
        assert_eq!(response.field("content-location"), format!("/files/{path}"));
        let file = server.request(Request::get(format!("/files/{path}")));
        assert_eq!(file.await.expect(200).field("content-type"), "text/plain");
        receiver.next().await;
    }
    server.request(Request::get("/files/any")).await.expect(404);
    // Any other successful reply lets the upload begin unchanged.
    for reply in [
        Reply::status(204),
        Reply::status(200),
        Reply::Status(200, "content-type: text/html\r\n", "<p>OK</p>".to_owned()),
    ] {
        receiver.reply(reply);
        server.request(put("/files/as-said", content)).await;
        assert_file(&server, "/files/as-said", content).await;
        receiver.next().await;
    }
}

#[tokio::test]
async fn where_nobody_can_say_an_upload_waits_or_begins_as_the_operator_chose() {
    let content = Content::new(13, 5_000);
    let too_long = format!("\"{}\"", "x".repeat(100_000));
    let useless = || {
        vec![
            Reply::Silence,
            Reply::status(500),
            Reply::status(429),
            Reply::Status(302, "location: /hook\r\n", String::new()),
            Reply::json(200, &json!({ "path": "../../etc" })),
            Reply::json(200, &json!(["no object"])),
            Reply::Status(200, "content-type: application/json\r\n", too_long.clone()),
        ]
    };
    let timeout = "timeout = \"500ms\"";
    let mut receiver = Receiver::start().await;
    let server = asking(&receiver, timeout).start().await;
    for reply in useless() {
        receiver.reply(reply);
        let create = Dialect::Rfc.create(put("/files/a", content), true);
        let response = server.request(create).await.expect(503);
        assert!(response.interim.is_empty(), "{response:?}");
        assert!(response.optional("retry-after").is_some());
        response.problem();
        receiver.next().await;
    }
    server.request(Request::get("/files/a")).await.expect(404);

    let lenient = asking(&receiver, &format!("{timeout}\non_failure = \"allow\""));
    let server = lenient.start().await;
    for (number, reply) in useless().into_iter().enumerate() {
        receiver.reply(reply);
        let path = format!("/files/{number}");
        server.request(put(&path, content)).await.expect(201);
        assert_file(&server, &path, content).await;
        receiver.next().await;
    }
}

/// Later bytes of an admitted upload do not ask the receiver again.
#[tokio::test]
async fn only_the_beginning_is_asked_about() {
    let mut receiver = Receiver::start().await;
    let server = asking(&receiver, "").start().await;
    let content = Content::new(14, 200_000);
    let dialect = Dialect::Interop6;
    let mut client = server.client(Version::Http2).await;
    let upload = begin(&mut client, dialect, "/files/a", content.length()).await;
    client.send(&content.slice(0..100_000)).await.unwrap();
    client.drained().await;
    client.lose();
    server.request(dialect.head(&upload)).await.expect(204);
    let append = dialect.append(&upload, 100_000, true);
    let append = append.body(content.from(100_000));
    server.request(append).await.expect(201);
    assert_file(&server, "/files/a", content).await;
    receiver.next().await;
    assert!(receiver.is_empty());
}
