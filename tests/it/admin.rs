//! The operator's view: liveness, readiness, the end of a server, and its start by a supervisor.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output};
use std::time::Duration;

use tests::server::program;
use tests::{Client, Content, PATIENCE, Request, Response, TestServer, Version, eventually};

use crate::dialect::Dialect;
use crate::resume::begin;
use crate::uploads::assert_file;

/// Sends a request to the admin listener.
async fn ask(admin: SocketAddr, request: &Request) -> Response {
    let mut client = Client::open(admin, Version::Http1).await;
    client.exchange(request).await.unwrap()
}

/// Runs `longhaul healthcheck` against the admin listener at this address.
fn healthcheck(admin: &str) -> Output {
    Command::new(program())
        .args(["healthcheck", "--admin", admin])
        // The test must not depend on the settings of the user who runs it.
        .env_clear()
        .output()
        .unwrap()
}

fn standard_error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[tokio::test]
async fn a_server_that_works_is_live_and_ready() {
    let server = TestServer::start().await;
    for (path, status) in [("/livez", "live"), ("/readyz", "ready")] {
        let answer = ask(server.admin(), &Request::get(path)).await.expect(200);
        assert_eq!(answer.json()["status"], status);
        ask(server.admin(), &Request::post(path))
            .await
            .expect(405)
            .problem();
        server.request(Request::get(path)).await.expect(404);
    }
    let elsewhere = Request::get("/files");
    let problem = ask(server.admin(), &elsewhere).await.expect(404).problem();
    assert_eq!(problem["type"], "tag:longhaul,2026:not-found");

    let checked = healthcheck(&server.admin().to_string());
    assert!(checked.status.success(), "{checked:?}");
}

#[tokio::test]
async fn a_store_that_does_not_work_makes_the_server_unready() {
    let server = TestServer::start().await;
    server.take_blobs_away();

    let readyz = Request::get("/readyz");
    let problem = ask(server.admin(), &readyz).await.expect(503).problem();
    assert_eq!(problem["type"], "tag:longhaul,2026:not-ready");
    assert_eq!(problem["stores"], serde_json::json!(["blob store"]));
    ask(server.admin(), &Request::get("/livez"))
        .await
        .expect(200);
    let checked = healthcheck(&server.admin().to_string());
    assert_eq!(checked.status.code(), Some(1));
    let said = standard_error(&checked);
    assert!(said.contains("Not working: blob store."), "{said}");

    server.give_blobs_back();
    ask(server.admin(), &readyz).await.expect(200);
}

#[tokio::test]
async fn a_server_that_is_told_to_end_serves_on_until_load_balancers_have_noticed() {
    let mut server = TestServer::setup()
        .config("[http]\ndrain_delay = \"1h\"")
        .start()
        .await;
    let content = Content::new(95, 300_000);
    let mut client = server.client(Version::Http1).await;
    begin(&mut client, Dialect::Interop6, "/files/a", content.length()).await;

    server.terminate();
    let problem = eventually("/readyz says 503", async || {
        let answer = ask(server.admin(), &Request::get("/readyz")).await;
        (answer.status() == 503).then(|| answer.problem())
    })
    .await;
    assert_eq!(problem["detail"], "The server is about to end.");
    ask(server.admin(), &Request::get("/livez"))
        .await
        .expect(200);
    // Requests in progress continue, and new ones are accepted.
    client.send(&content.bytes()).await.unwrap();
    client.response().await.unwrap().expect(201);
    assert_file(&server, "/files/a", content).await;

    server.terminate();
    let status = server.ended(PATIENCE).await;
    assert!(!status.success(), "a second signal ends it at once");
}

#[tokio::test]
async fn the_delay_before_the_end_has_an_end() {
    let mut server = TestServer::setup()
        .config("[http]\ndrain_delay = \"100ms\"")
        .start()
        .await;
    server.terminate();
    assert!(server.ended(PATIENCE).await.success());
    assert!(server.log().contains("no longer ready"), "{}", server.log());
}

#[tokio::test]
async fn two_servers_on_a_machine_need_two_admin_listeners() {
    let first = TestServer::start().await;
    let taken = first.admin().to_string();
    let (status, said) = TestServer::setup().admin(&taken).refuse().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains(&format!("{taken} is in use"))
            && said.contains("with --admin ADDR")
            && said.contains("off with --admin off"),
        "{said}"
    );

    let without = TestServer::setup().admin("off").start().await;
    without.request(Request::get("/files")).await.expect(200);
    assert!(!without.log().contains("listening for admin"));
    let checked = healthcheck("off");
    assert_eq!(checked.status.code(), Some(1));
    let said = standard_error(&checked);
    assert!(said.contains("the admin listener is off"), "{said}");
}

#[tokio::test]
async fn a_socket_that_a_supervisor_passes_is_served_and_outlives_the_server() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // Never bound, because the passed socket replaces it.
    let mut server = TestServer::setup()
        .listen("192.0.2.1:1")
        .socket(socket)
        .start()
        .await;
    assert_eq!(server.address(), address);
    let content = Content::new(96, 100_000);
    let put = Request::put("/files/a").body(content.bytes());
    server.request(put).await.expect(201);

    server.terminate();
    assert!(server.ended(PATIENCE).await.success());
    // The supervisor still holds the socket, so new connections wait instead of being refused.
    let mut waiting = Client::open(address, Version::Http1).await;
    waiting.begin(&Request::get("/files/a")).await.unwrap();
    server.restart().await;
    let response = waiting.response().await.unwrap().expect(200);
    content.assert_is(&response.body);
}

#[tokio::test]
async fn a_passed_socket_is_not_served_to_everyone_by_mistake() {
    let socket = TcpListener::bind("0.0.0.0:0").unwrap();
    let (status, said) = TestServer::setup().socket(socket).refuse().await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("no API key is configured"), "{said}");
}

#[tokio::test]
async fn the_supervisor_hears_when_the_server_is_ready_and_when_it_stops() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut message = [0; 64];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8(message[..length].to_vec()).unwrap()
    };

    let mut server = TestServer::setup()
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .start()
        .await;
    assert_eq!(heard(), "READY=1\n");
    server.terminate();
    assert_eq!(heard(), "STOPPING=1\n");
    assert!(server.ended(Duration::from_secs(10)).await.success());
}
