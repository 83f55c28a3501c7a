//! Access control: requests with and without a key.

use tests::{Content, Request, TestServer, Version};

use crate::dialect::Dialect;
use crate::resume::begin;

/// An API key, and the configuration that holds its SHA-256.
pub(crate) const KEY: &str = "longhaul-test-key";
pub(crate) const WITH_KEY: &str = r#"
[access]
keys = [{ name = "test", sha256 = "bb1a6947bdeeb634d53904aa13980b98118db9f090b287479ec00f71c1176a44" }]
"#;

#[tokio::test]
async fn without_the_key_nothing_is_done() {
    let server = TestServer::setup().config(WITH_KEY).start().await;
    let put = || Request::put("/files/a").body("hello");
    server.request(put().bearer(KEY)).await.expect(201);

    for credential in [
        None,
        Some("Bearer wrong"),
        Some("Bearer "),
        Some("Basic dGVzdDp0ZXN0"),
        Some("Bearer a b"),
    ] {
        for request in [
            put(),
            Request::post("/files").body("hello"),
            Request::get("/files/a"),
            Request::head("/files/a"),
            Request::delete("/files/a"),
            Request::get("/files"),
            Dialect::Interop6.create(put(), true),
        ] {
            let is_head = request.method == "HEAD";
            let request = match credential {
                Some(credential) => request.field("Authorization", credential),
                None => request,
            };
            let response = server.request(request).await.expect(401);
            assert!(
                response.field("www-authenticate").starts_with("Bearer"),
                "{response:?}"
            );
            assert!(
                response.interim.is_empty(),
                "no upload is made: {response:?}"
            );
            if !is_head {
                response.problem();
            }
        }
    }
    let get = server
        .request(Request::get("/files/a").bearer(KEY))
        .await
        .expect(200);
    assert_eq!(get.body, "hello");
}

#[tokio::test]
async fn a_client_without_the_key_is_told_before_it_sends_its_body() {
    let server = TestServer::setup().config(WITH_KEY).start().await;
    for version in Version::ALL {
        let mut client = server.client(version).await;
        client
            .begin(&Request::put("/files/a").announcing(1 << 40))
            .await
            .unwrap();
        client.response().await.unwrap().expect(401).problem();
    }
}

#[tokio::test]
async fn the_url_of_an_upload_is_a_capability_for_that_upload() {
    let server = TestServer::setup().config(WITH_KEY).start().await;
    let content = Content::new(50, 20_000);
    let dialect = Dialect::Interop6;
    let create = Request::put("/files/a")
        .bearer(KEY)
        .body(content.slice(0..4_000));
    let created = server
        .request(dialect.create(create, false))
        .await
        .expect(201);
    let upload = created.field("location");

    // Many clients do not repeat their credentials in these requests.
    let head = server.request(dialect.head(upload)).await.expect(204);
    assert_eq!(head.offset(), 4_000);
    let append = dialect
        .append(upload, 4_000, true)
        .body(content.from(4_000));
    server.request(append).await.expect(201);
    server.request(Request::get("/files/a")).await.expect(401);
    // A client that sends a wrong credential is refused.
    let wrong = dialect.head(upload).bearer("wrong");
    server.request(wrong).await.expect(401);
}

#[tokio::test]
async fn the_names_of_uploads_cannot_be_guessed() {
    let server = TestServer::start().await;
    let mut names = std::collections::HashSet::new();
    for _ in 0..20 {
        let mut client = server.client(Version::Http1).await;
        let upload = begin(&mut client, Dialect::Interop6, "/files/a", 1).await;
        let name = upload
            .strip_prefix("/uploads/")
            .expect("a path reference")
            .to_owned();
        assert!(
            name.len() >= 22,
            "128 bits take 22 characters of base64: {name}"
        );
        assert!(names.insert(name));
    }
}

#[tokio::test]
async fn a_server_open_to_the_network_wants_to_be_told_so() {
    let (status, log) = TestServer::setup().listen("0.0.0.0:0").refuse().await;
    assert!(!status.success());
    assert!(log.contains("--open"), "the message says what to do: {log}");
}

#[tokio::test]
async fn a_server_told_to_be_open_is() {
    let server = TestServer::setup()
        .listen("0.0.0.0:0")
        .argument("--open")
        .start()
        .await;
    server
        .request(Request::put("/files/a").body("hello"))
        .await
        .expect(201);
    let log = server.log();
    assert!(
        log.contains("\"WARN\"") && log.contains("OPEN"),
        "the log must warn: {log}"
    );
}

#[tokio::test]
async fn a_server_with_a_key_may_listen_on_the_network() {
    let server = TestServer::setup()
        .listen("0.0.0.0:0")
        .config(WITH_KEY)
        .start()
        .await;
    server.request(Request::get("/files")).await.expect(401);
    server
        .request(Request::get("/files").bearer(KEY))
        .await
        .expect(200);
}
