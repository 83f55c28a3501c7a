//! Redirects of large files to the S3 server, if the operator enables them.

use std::net::SocketAddr;

use serde_json::Value;
use tests::server::program;
use tests::{
    Blobs, Client, Content, Fault, Flow, Metadata, Proxy, Request, Response, Stores, TestServer,
    Version, eventually,
};
use tokio::process::Command;

use crate::access::{KEY, WITH_KEY};
use crate::real_clients::{curl, run};

const PATH: &str = "/files/large.bin";
const LARGE: Content = Content::new(400, 300_000);
const SMALL: Content = Content::new(401, 99_999);

/// Starts a server that sends files of less than 100,000 bytes itself, and redirects to S3 for
/// others.
async fn redirecting(settings: &[(&str, &str)]) -> TestServer {
    let stores = Stores::new(Metadata::Sqlite, Blobs::S3).await;
    let least = ("LONGHAUL_BLOBS__REDIRECT_MIN_SIZE", "100000");
    let setup = settings
        .iter()
        .chain([&least])
        .fold(TestServer::setup(), |setup, (name, value)| {
            setup.environment(name, value)
        });
    let server = setup.stores(&stores).start().await;
    for (path, content) in [(PATH, LARGE), ("/files/small.bin", SMALL)] {
        let put = Request::put(path)
            .field("Content-Type", "application/x-test")
            .body(content.bytes());
        server.request(put).await.expect(201);
    }
    server
}

fn with(request: Request, fields: &[(&str, &str)]) -> Request {
    fields
        .iter()
        .fold(request, |request, (name, value)| request.field(name, value))
}

/// Returns the URL of a redirect.
fn link(redirect: &Response) -> String {
    redirect.field("location").to_owned()
}

/// Fetches the target of a link.
async fn follow(link: &str, fields: &[(&str, &str)]) -> Response {
    let (authority, target) = link
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .unwrap();
    let address = authority.replace("localhost", "127.0.0.1");
    let address: SocketAddr = address.parse().unwrap();
    // The signature of a link covers the host.
    let get = Request::get(format!("/{target}")).field("Host", authority);
    let get = with(get, fields);
    let mut client = Client::open(address, Version::Http1).await;
    client.exchange(&get).await.unwrap()
}

#[tokio::test]
async fn a_large_file_comes_from_the_store() {
    let server = redirecting(&[]).await;
    for version in Version::ALL {
        let mut client = server.client(version).await;
        let redirect = client.exchange(&Request::get(PATH)).await.unwrap();
        let redirect = redirect.expect(307);
        assert!(redirect.body.is_empty());
        assert_eq!(redirect.field("cache-control"), "no-store");
        assert_eq!(redirect.field("content-length"), "0");

        let whole = follow(&link(&redirect), &[]).await.expect(200);
        LARGE.assert_is(&whole.body);
        assert_eq!(whole.field("content-type"), "application/x-test");
        assert!(whole.field("content-disposition").contains("large.bin"));
        assert_eq!(whole.field("cache-control"), "no-cache, no-transform");
    }

    let small = server.request(Request::get("/files/small.bin")).await;
    SMALL.assert_is(&small.expect(200).body);
    let head = server.request(Request::head(PATH)).await.expect(200);
    assert_eq!(head.field("repr-digest"), LARGE.repr_digest());
    assert_eq!(head.field("content-length"), "300000");
}

#[tokio::test]
async fn what_was_begun_at_one_place_goes_on_there() {
    let server = redirecting(&[]).await;
    let ours = server.request(Request::head(PATH)).await.expect(200);
    let (ours, date) = (ours.field("etag"), ours.field("last-modified"));
    let redirect = server.request(Request::get(PATH)).await.expect(307);
    let theirs = follow(&link(&redirect), &[]).await.expect(200);
    let theirs = theirs.field("etag");
    assert_ne!(ours, theirs);

    let rest = ("Range", "bytes=100-");
    for (fields, status) in [
        (vec![rest], 307),
        (vec![("Range", "bytes=-5")], 307),
        (vec![("Range", "bytes=0-1,10-11")], 206),
        (vec![("Range", "bytes=300000-")], 416),
        (vec![("Range", "lines=1-2")], 200),
        (vec![rest, ("If-Range", theirs)], 307),
        (vec![rest, ("If-Range", ours)], 206),
        (vec![rest, ("If-Range", date)], 206),
        (vec![rest, ("If-Range", "\"another\"")], 200),
        (vec![("If-None-Match", theirs)], 307),
        (
            vec![("If-None-Match", theirs), ("If-Modified-Since", date)],
            307,
        ),
        (vec![("If-None-Match", ours)], 304),
        (vec![("If-None-Match", "*")], 304),
        (vec![("If-Modified-Since", date)], 304),
        (vec![("If-Match", theirs), rest], 307),
        (vec![("If-Match", ours), rest], 206),
        (vec![("If-Match", "\"another\""), rest], 412),
        (vec![("If-Unmodified-Since", date)], 200),
    ] {
        let get = with(Request::get(PATH), &fields);
        let answer = server.request(get).await;
        assert_eq!(answer.status(), status, "{fields:?}");
        match status {
            200 => LARGE.assert_is(&answer.body),
            307 => {
                let range = fields.iter().find(|(name, _)| *name == "Range");
                let answer = follow(&link(&answer), range.map_or(&[], std::slice::from_ref)).await;
                match range {
                    Some(&(_, "bytes=-5")) => LARGE.assert_slice(299_995, &answer.expect(206).body),
                    Some(_) => LARGE.assert_slice(100, &answer.expect(206).body),
                    None => LARGE.assert_is(&answer.expect(200).body),
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_download_that_was_cut_does_not_go_on_with_another_file() {
    let server = redirecting(&[]).await;
    let redirect = server.request(Request::get(PATH)).await.expect(307);
    let first = follow(&link(&redirect), &[("Range", "bytes=0-999")]).await;
    let first = first.expect(206);

    let newer = Content::new(402, 300_000);
    let put = Request::put(PATH).body(newer.bytes());
    server.request(put).await.expect(200);
    let resume = Request::get(PATH)
        .field("Range", "bytes=1000-")
        .field("If-Range", first.field("etag"));
    let whole = server.request(resume).await.expect(200);
    newer.assert_is(&whole.body);
}

#[tokio::test]
async fn curl_goes_on_through_redirects() {
    let server = redirecting(&[]).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("downloaded");
    std::fs::write(&file, LARGE.slice(0..123_456)).unwrap();
    let output = run(curl()
        .args(["--fail", "--location", "--continue-at", "-"])
        .args(["--write-out", "%{num_redirects} %{http_code}", "--output"])
        .arg(&file)
        .arg(server.url(PATH)))
    .await;
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told, "1 206", "{}", String::from_utf8_lossy(&output.stderr));
    LARGE.assert_is(&std::fs::read(&file).unwrap());
}

#[tokio::test]
async fn our_own_client_goes_on_through_redirects() {
    let stores = Stores::new(Metadata::Sqlite, Blobs::S3).await;
    let s3 = stores.endpoint().strip_prefix("http://").unwrap();
    let breaking = Flow {
        fault: Some(Fault::CutAfter(100_000)),
        ..Flow::default()
    };
    let proxy = Proxy::start(s3.parse().unwrap(), Flow::default(), breaking).await;
    let server = TestServer::setup()
        .stores(&stores)
        .config(WITH_KEY)
        .environment("LONGHAUL_BLOBS__REDIRECT_MIN_SIZE", "0")
        .environment(
            "LONGHAUL_BLOBS__REDIRECT_ENDPOINT",
            &format!("http://{}", proxy.address()),
        )
        .start()
        .await;
    let put = Request::put(PATH).bearer(KEY).body(LARGE.bytes());
    server.request(put).await.expect(201);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("downloaded");
    let output = run(Command::new(program())
        .args(["download", "--json", "--retry-delay", "10ms", "--key", KEY])
        .arg("--output")
        .arg(&file)
        .arg(server.url(PATH)))
    .await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    LARGE.assert_is(&std::fs::read(&file).unwrap());
    let events: Vec<Value> = told
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.last().unwrap()["verified"], true, "{told}");
    let retries = events.iter().filter(|event| event["event"] == "retrying");
    assert!(
        retries.count() >= 3,
        "100 kB at most pass at a time: {told}"
    );
}

#[tokio::test]
async fn a_link_ends_and_the_next_one_is_good() {
    let stores = Stores::new(Metadata::Sqlite, Blobs::S3).await;
    let port = stores.endpoint().rsplit(':').next().unwrap();
    let public = format!("http://localhost:{port}");
    let server = redirecting(&[
        ("LONGHAUL_BLOBS__REDIRECT_LIFETIME", "1s"),
        ("LONGHAUL_BLOBS__REDIRECT_ENDPOINT", &public),
    ])
    .await;
    let first = link(&server.request(Request::get(PATH)).await.expect(307));
    assert!(first.starts_with(&public), "{first}");
    eventually("the link ends", async || {
        (follow(&first, &[]).await.status() == 403).then_some(())
    })
    .await;

    // A link of one second may expire before it is followed, on a busy machine.
    eventually("a new link is good", async || {
        let next = link(&server.request(Request::get(PATH)).await.expect(307));
        (follow(&next, &[]).await.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_link_cannot_be_good_for_longer_than_a_week() {
    let stores = Stores::new(Metadata::Sqlite, Blobs::S3).await;
    let (status, said) = TestServer::setup()
        .stores(&stores)
        .environment("LONGHAUL_BLOBS__REDIRECT_LIFETIME", "8 days")
        .refuse()
        .await;
    assert!(!status.success());
    assert!(said.contains("redirect_lifetime"), "{said}");
    assert!(said.contains("7 days"), "{said}");
}
