//! Interim responses arrive at once, in order, and only where they may.

use axum::{Extension, Router, body::Body, routing::put as route_put};
use http::{HeaderMap, Request, StatusCode};
use transport::{Config, Cut, Interim, InterimError, InterimPolicy};

use crate::support::{H2, Server, announce, chattering, put, soon, uploads};

const PUT_5: &str = "PUT /upload HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n";

async fn h1_server(tls: bool) -> Server {
    if tls {
        Server::start_tls(Config::default(), uploads()).await
    } else {
        Server::start(Config::default(), uploads()).await
    }
}

#[tokio::test]
async fn a_104_arrives_before_the_body_is_sent() {
    for tls in [false, true] {
        let server = h1_server(tls).await;
        let mut client = server.connect().await;
        // Again and again on one connection.
        for _ in 0..3 {
            client.send(PUT_5).await;
            let head = client.head().await;
            assert_eq!(head.line, "HTTP/1.1 104 Upload Resumption Supported");
            assert_eq!(head.field("location"), "/uploads/1");
            client.assert_quiet().await;
            client.send("12345").await;
            let (head, content) = client.response().await;
            assert_eq!((head.status, &content[..]), (200, &b"Ok(()) 5"[..]));
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn a_104_arrives_before_the_body_is_sent_on_http2() {
    for tls in [false, true] {
        let server = h1_server(tls).await;
        let mut client = server.h2().await;
        for _ in 0..3 {
            let (mut response, mut body) = client.request(put("/upload"), false).await;
            let interim = H2::interim(&mut response).await;
            assert_eq!(interim.status().as_u16(), 104);
            assert_eq!(interim.headers()["location"], "/uploads/1");
            body.send_data("12345".into(), true).unwrap();
            let (head, content) = H2::response(response).await.unwrap();
            assert_eq!(
                (head.status.as_u16(), &content[..]),
                (200, &b"Ok(()) 5"[..])
            );
            assert!(head.headers.contains_key("date"));
        }
        drop((client, server));
    }
}

#[tokio::test]
async fn pipelined_requests_get_their_own() {
    let server = Server::start(Config::default(), uploads()).await;
    let mut client = server.connect().await;
    client
        .send(format!(
            "{PUT_5}12345{PUT_5}67890GET /hello HTTP/1.1\r\nhost: x\r\n\r\n{PUT_5}"
        ))
        .await;
    for _ in 0..2 {
        assert_eq!(client.head().await.status, 104);
        assert_eq!(client.response().await.1, "Ok(()) 5");
    }
    assert_eq!(client.response().await.1, "hello");
    assert_eq!(client.head().await.status, 104);
    client.send("abcde").await;
    assert_eq!(client.response().await.1, "Ok(()) 5");
}

#[tokio::test]
async fn a_100_continue_is_sent_as_well() {
    let server = Server::start(Config::default(), uploads()).await;
    let mut client = server.connect().await;
    client
        .send(
            "PUT /upload HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
        )
        .await;
    assert_eq!(client.head().await.status, 104);
    assert_eq!(client.head().await.status, 100);
    client.send("12345").await;
    assert_eq!(client.response().await.1, "Ok(()) 5");

    let mut client = server.h2().await;
    let mut request = put("/upload");
    request
        .headers_mut()
        .insert("expect", "100-continue".parse().unwrap());
    let (mut response, mut body) = client.request(request, false).await;
    assert_eq!(H2::interim(&mut response).await.status().as_u16(), 104);
    assert_eq!(H2::interim(&mut response).await.status().as_u16(), 100);
    body.send_data("12345".into(), true).unwrap();
    assert_eq!(H2::response(response).await.unwrap().1, "Ok(()) 5");
}

/// `/upload` sends a 104, reads the body and sends another 104, all in a task of their own, as
/// uploads run: the body is asked for beside the connection's task. `/plain` just reads the body.
fn in_tasks() -> Router {
    let read = async |body: Body| axum::body::to_bytes(body, 100).await.unwrap().len();
    Router::new()
        .route(
            "/upload",
            route_put(
                async move |Extension(interim): Extension<Interim>, body: Body| {
                    let work = async move {
                        announce(&interim, "/uploads/1").unwrap();
                        let length = read(body).await;
                        announce(&interim, "/uploads/1").unwrap();
                        length.to_string()
                    };
                    tokio::spawn(work).await.unwrap()
                },
            ),
        )
        .route(
            "/plain",
            route_put(async move |body: Body| {
                let work = async move { read(body).await.to_string() };
                tokio::spawn(work).await.unwrap()
            }),
        )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_104_comes_before_the_100_every_time() {
    for tls in [false, true] {
        let server = match tls {
            true => Server::start_tls(Config::default(), in_tasks()).await,
            false => Server::start(Config::default(), in_tasks()).await,
        };
        for (path, before, after) in [
            ("/upload", &[104, 100][..], &[104][..]),
            ("/plain", &[100], &[]),
        ] {
            let mut client = server.connect().await;
            for _ in 0..200 {
                client
                    .send(format!("PUT {path} HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n"))
                    .await;
                for status in before {
                    assert_eq!(client.head().await.status, *status);
                }
                client.send("12345").await;
                for status in after {
                    assert_eq!(client.head().await.status, *status);
                }
                assert_eq!(client.response().await.1, "5");
            }
            let mut client = server.h2().await;
            for _ in 0..200 {
                let mut request = put(path);
                let expect = "100-continue".parse().unwrap();
                request.headers_mut().insert("expect", expect);
                let (mut response, mut body) = client.request(request, false).await;
                for status in before {
                    let interim = H2::interim(&mut response).await;
                    assert_eq!(interim.status().as_u16(), *status);
                }
                body.send_data("12345".into(), true).unwrap();
                for status in after {
                    let interim = H2::interim(&mut response).await;
                    assert_eq!(interim.status().as_u16(), *status);
                }
                assert_eq!(H2::response(response).await.unwrap().1, "5");
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_is_refused_is_not_asked_for() {
    let server = Server::start(Config::default(), uploads()).await;
    let mut client = server.connect().await;
    client
        .send("PUT /short HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n")
        .await;
    let (head, content) = client.response().await;
    assert_eq!(
        (head.status, &content[..], head.field("connection")),
        (409, &b"no"[..], "close")
    );
    client.assert_closed().await;

    let mut client = server.h2().await;
    let mut request = put("/short");
    request
        .headers_mut()
        .insert("expect", "100-continue".parse().unwrap());
    let (mut response, _body) = client.request(request, false).await;
    assert!(
        soon(std::future::poll_fn(
            |task| response.poll_informational(task)
        ))
        .await
        .is_none()
    );
    assert_eq!(H2::response(response).await.unwrap().0.status, 409);
}

#[tokio::test]
async fn an_http_1_0_peer_gets_none() {
    let server = Server::start(Config::default(), uploads()).await;
    let mut client = server.connect().await;
    client
        .send("PUT /upload HTTP/1.0\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n12345")
        .await;
    let (head, content) = client.response().await;
    assert_eq!(
        (head.status, &content[..]),
        (200, &b"Err(Unsupported) 5"[..])
    );
}

#[tokio::test]
async fn the_switch_is_obeyed() {
    let proxies = [
        "10.0.0.0/8".parse().unwrap(),
        "127.0.0.0/8".parse().unwrap(),
    ];
    for (interim, proxies, sent) in [
        (InterimPolicy::On, &proxies[..], true),
        (InterimPolicy::Off, &[][..], false),
        (InterimPolicy::Trusted, &proxies[..], false),
        (InterimPolicy::Trusted, &proxies[..1], true),
    ] {
        let config = Config {
            interim,
            interim_untrusted_proxies: proxies.to_vec(),
            ..Config::default()
        };
        let server = Server::start(config, uploads()).await;
        let answer = if sent { "Ok(()) 5" } else { "Err(Disabled) 5" };
        let mut client = server.connect().await;
        client.send(format!("{PUT_5}12345")).await;
        if sent {
            assert_eq!(client.head().await.status, 104);
        }
        assert_eq!(client.response().await.1, answer);

        let mut client = server.h2().await;
        let (response, mut body) = client.request(put("/upload"), false).await;
        body.send_data("12345".into(), true).unwrap();
        assert_eq!(H2::response(response).await.unwrap().1, answer);
    }
}

#[tokio::test]
async fn a_sender_that_outlives_its_exchange_is_harmless() {
    let stale = std::sync::Arc::new(std::sync::Mutex::new(Vec::<Interim>::new()));
    let kept = std::sync::Arc::clone(&stale);
    let router = Router::new().route(
        "/",
        route_put(async move |Extension(interim): Extension<Interim>| {
            for old in &*kept.lock().unwrap() {
                assert_eq!(announce(old, "/stale"), Err(InterimError::Closed));
            }
            assert_eq!(
                interim.send(StatusCode::CONTINUE, HeaderMap::new()),
                Err(InterimError::Status(StatusCode::CONTINUE))
            );
            assert_eq!(
                interim.send(StatusCode::OK, HeaderMap::new()),
                Err(InterimError::Status(StatusCode::OK))
            );
            announce(&interim, "/fresh").unwrap();
            kept.lock().unwrap().push(interim);
        }),
    );
    let server = Server::start(Config::default(), router).await;
    let mut client = server.connect().await;
    for _ in 0..3 {
        client.send("PUT / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!(client.head().await.field("location"), "/fresh");
        assert_eq!(client.response().await.0.status, 200);
        announce(&stale.lock().unwrap()[0], "/stale").unwrap_err();
    }
    client.assert_quiet().await;
    let mut client = server.h2().await;
    for _ in 0..3 {
        let (mut response, _) = client.request(put("/"), true).await;
        assert_eq!(
            H2::interim(&mut response).await.headers()["location"],
            "/fresh"
        );
        assert_eq!(H2::response(response).await.unwrap().0.status, 200);
        for old in &*stale.lock().unwrap() {
            announce(old, "/stale").unwrap_err();
        }
    }
}

/// `/cut` sends a 104, then cuts the exchange. `/slow` answers when notified.
fn cutting() -> Router {
    Router::new()
        .route(
            "/cut",
            route_put(
                async |Extension(interim): Extension<Interim>, request: Request<Body>| {
                    announce(&interim, "/uploads/1").unwrap();
                    drop(request);
                    Cut::response()
                },
            ),
        )
        .merge(uploads())
}

#[tokio::test]
async fn a_cut_closes_without_an_answer() {
    for tls in [false, true] {
        let server = match tls {
            true => Server::start_tls(Config::default(), cutting()).await,
            false => Server::start(Config::default(), cutting()).await,
        };
        let mut client = server.connect().await;
        client.send("GET /hello HTTP/1.1\r\nhost: x\r\n\r\nPUT /cut HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\n123").await;
        assert_eq!(client.response().await.1, "hello");
        assert_eq!(client.head().await.status, 104);
        client.assert_closed().await;
    }
}

#[tokio::test]
async fn a_cut_resets_its_stream_and_no_other() {
    let server = Server::start(Config::default(), cutting()).await;
    let mut client = server.h2().await;
    let (mut sibling, mut sibling_body) = client.request(put("/upload"), false).await;
    assert_eq!(H2::interim(&mut sibling).await.status(), 104);
    let (mut response, _body) = client.request(put("/cut"), false).await;
    assert_eq!(H2::interim(&mut response).await.status(), 104);
    let error = soon(response).await.unwrap_err();
    assert!(error.is_reset() && error.is_remote());
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    sibling_body.send_data("12345".into(), true).unwrap();
    assert_eq!(H2::response(sibling).await.unwrap().1, "Ok(()) 5");
    let (response, _) = client.request(crate::support::get("/hello"), true).await;
    assert_eq!(H2::response(response).await.unwrap().1, "hello");
}

#[tokio::test]
async fn a_peer_that_does_not_read_costs_a_bounded_queue() {
    let (router, full) = chattering();
    let server = Server::start(Config::default(), router).await;
    let mut client = server.connect().await;
    client.send("PUT / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    soon(full.notified()).await;
    // What was accepted arrives, and the answer after it.
    while client.head().await.status == 104 {}
    assert_eq!(client.content(4).await, "full");
}
