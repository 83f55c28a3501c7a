//! `Expect: 100-continue`: the 104 comes first, because some proxies relay only the first interim
//! response, then the 100; and the 100 comes only if the server wants the body.

use tests::{Client, Request, TestServer, Version};

use crate::dialect::Dialect;

const ROUNDS: usize = 20;

/// Returns the statuses of the interim responses up to the 100.
async fn until_continue(client: &mut Client, request: Request) -> Vec<u16> {
    let request = request.field("Expect", "100-continue");
    client.begin(&request).await.unwrap();
    let mut statuses = Vec::new();
    while statuses.last() != Some(&100) {
        statuses.push(client.interim().await.expect("a 100").status);
    }
    statuses
}

async fn finish(client: &mut Client) -> u16 {
    client.send(b"hello").await.unwrap();
    client.finish().await.unwrap();
    client.response().await.unwrap().status()
}

#[tokio::test]
async fn the_104_of_a_creation_comes_before_the_100() {
    let server = TestServer::start().await;
    for version in Version::ALL {
        for dialect in Dialect::ALL {
            for round in 0..ROUNDS {
                let mut client = server.client(version).await;
                let target = format!("/files/{version:?}/{dialect:?}/{round}");
                let create = dialect.create(Request::put(target).announcing(5), true);
                assert_eq!(until_continue(&mut client, create).await, [104, 100]);
                assert_eq!(finish(&mut client).await, 201);
            }
        }
    }
}

#[tokio::test]
async fn the_100_comes_alone_where_there_is_no_104() {
    let quiet = TestServer::setup()
        .config("[http]\ninterim = \"off\"")
        .start()
        .await;
    let server = TestServer::start().await;
    for version in Version::ALL {
        let put = || Request::put("/files/a").announcing(5);
        let tus = Request::post("/files")
            .field("Tus-Resumable", "1.0.0")
            .field("Upload-Length", 5)
            .field("Content-Type", "application/offset+octet-stream")
            .announcing(5);
        for (server, request) in [
            (&server, put()),
            (&server, tus),
            (&quiet, Dialect::Rfc.create(put(), true)),
        ] {
            let mut client = server.client(version).await;
            assert_eq!(until_continue(&mut client, request).await, [100]);
            assert!([200, 201].contains(&finish(&mut client).await));
        }

        let create = Dialect::Rfc.create(Request::put("/files/b").announcing(0), false);
        let upload = server.request(create).await.expect(201);
        let append = Dialect::Rfc.append(upload.field("location"), 0, true);
        let mut client = server.client(version).await;
        let statuses = until_continue(&mut client, append.announcing(5)).await;
        assert_eq!(statuses, [100]);
        assert!([200, 201].contains(&finish(&mut client).await));
    }
}

#[tokio::test]
async fn a_refusal_comes_without_a_100() {
    let server = TestServer::setup()
        .config(crate::access::WITH_KEY)
        .config("[uploads]\nmax_size = \"1 MB\"")
        .start()
        .await;
    for version in Version::ALL {
        let too_large = Request::put("/files/a").announcing(2_000_000);
        for (request, status) in [
            (Request::put("/files/a").announcing(5), 401),
            (too_large.bearer(crate::access::KEY), 413),
        ] {
            let mut client = server.client(version).await;
            let request = request.field("Expect", "100-continue");
            client.begin(&request).await.unwrap();
            assert!(client.interim().await.is_none());
            assert_eq!(client.response().await.unwrap().status(), status);
        }
    }
}
