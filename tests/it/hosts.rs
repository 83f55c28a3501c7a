//! DNS rebinding: a server that is open only to its own machine is not open to pages whose host
//! name points to that machine.

use std::net::SocketAddr;

use tests::{Client, Request, Response, TestServer, Version};

const STRANGERS: [&str; 6] = [
    "attacker.example",
    "ATTACKER.example:8080",
    "localhost.attacker.example",
    "127.0.0.1.nip.io",
    "attacker.example.",
    "192.168.1.7",
];

async fn ask(address: SocketAddr, request: &Request) -> Response {
    let mut client = Client::open(address, Version::Http1).await;
    client.exchange(request).await.unwrap()
}

#[tokio::test]
async fn a_server_for_this_machine_answers_to_its_own_names_only() {
    let server = TestServer::start().await;
    server
        .request(Request::put("/files/private").body("secret"))
        .await
        .expect(201);
    for host in STRANGERS {
        for request in [
            Request::get("/files"),
            Request::get("/files/private"),
            Request::head("/files/private"),
            Request::delete("/files/private"),
            Request::put("/files/private").body("other"),
            Request::get("/packs"),
            Request::options("/files"),
        ] {
            let is_head = request.method == "HEAD";
            let answer = server
                .request(request.field("Host", host))
                .await
                .expect(421);
            if !is_head {
                let problem = answer.problem();
                assert_eq!(problem["type"], "tag:longhaul,2026:misdirected");
                let detail = problem["detail"].as_str().unwrap();
                assert!(
                    detail.contains(host) && detail.contains("public_url"),
                    "{detail}"
                );
            }
        }
    }
    let absolute = Request::get("http://attacker.example/files");
    server.request(absolute).await.expect(421);
    for host in [
        "localhost:1",
        "LocalHost",
        "a.localhost",
        "127.9.9.9:80",
        "[::1]:8080",
        "longhaul",
    ] {
        let request = Request::get("/files/private").field("Host", host);
        server.request(request).await.expect(200);
    }
}

#[tokio::test]
async fn a_name_that_is_told_is_answered_to_and_keys_or_openness_need_none() {
    let stranger = || Request::get("/files").field("Host", "files.example.org");
    let told = TestServer::setup()
        .config("public_url = 'https://Files.example.org/x'")
        .start()
        .await;
    told.request(stranger()).await.expect(200);
    told.request(Request::get("/files").field("Host", "x.files.example.org"))
        .await
        .expect(421);

    let keyed = TestServer::setup()
        .config(crate::access::WITH_KEY)
        .start()
        .await;
    keyed
        .request(stranger().bearer(crate::access::KEY))
        .await
        .expect(200);

    let open = TestServer::setup().argument("--open").start().await;
    open.request(stranger()).await.expect(200);
}

#[tokio::test]
async fn the_admin_listener_tells_its_data_under_names_that_nobody_can_register() {
    let server = TestServer::setup()
        .config("[admin]\nhosts = ['admin.example.org']")
        .start()
        .await;
    for (host, status) in [
        ("attacker.example", 421),
        ("127.0.0.1.nip.io:9090", 421),
        ("x.admin.example.org", 421),
        ("admin.example.org:9090", 200),
        ("10.1.2.3:9090", 200),
        ("[2001:db8::1]", 200),
        ("longhaul-admin", 200),
        ("localhost", 200),
    ] {
        for request in [
            Request::get("/events/dead"),
            Request::post("/events/dead/replay"),
        ] {
            let answer = ask(server.admin(), &request.field("Host", host)).await;
            assert_eq!(answer.status(), status, "{host}");
        }
        for probe in ["/livez", "/readyz"] {
            let request = Request::get(probe).field("Host", host);
            ask(server.admin(), &request).await.expect(200);
        }
    }
}
