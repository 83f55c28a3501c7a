//! iOS on a network that breaks anywhere: in the head of a request, in its body, in the answer. In
//! the end the bytes on the server must equal those of the app.

use std::io;

use futures::future::join_all;
use tests::url_session::{Line, Release};
use tests::{Client, Content, Dice, Fault, Flow, Proxy, Request, TestServer, Version};

use crate::uploads::assert_file;

/// Minimum number of connections that each release loses.
const LOSSES: u32 = 1000;
/// Number of phones at the same time, each on its own network.
const PHONES: u64 = 4;
/// Approximate length of the longest head of a request or an answer.
const HEAD: u64 = 700;
const MAX_BYTES: u64 = 200_000;

/// Totals over all uploads of a phone.
#[derive(Debug, Default)]
struct Story {
    uploads: u32,
    losses: u32,
    restarts: u32,
}

#[tokio::test]
async fn ios_17_is_cut_a_thousand_times() {
    cut_again_and_again(Release::Ios17).await;
}

#[tokio::test]
async fn ios_18_0_is_cut_a_thousand_times() {
    cut_again_and_again(Release::Ios18).await;
}

#[tokio::test]
async fn ios_18_1_and_later_is_cut_a_thousand_times() {
    cut_again_and_again(Release::Ios26).await;
}

#[tokio::test]
async fn ios_begins_again_when_its_upload_is_gone() {
    for release in Release::ALL {
        let server = TestServer::start().await;
        // Stands for a server that has lost all data.
        let emptied = TestServer::start().await;
        let content = Content::new(130, 50_000);
        let breaking = Flow {
            fault: Some(Fault::CutAfter(30_000)),
            ..Flow::default()
        };
        let proxy = Proxy::start(server.address(), breaking, Flow::default()).await;
        let mut connections = 0;
        let connect = async || {
            connections += 1;
            let address = match connections {
                1 => proxy.address(),
                _ => emptied.address(),
            };
            Ok(Line {
                client: Client::try_open(address, Version::Http1).await?,
                is_slow: true,
            })
        };
        let request = app_request("PUT", "/files/a");
        let delivered = release.upload(&request, &content.bytes(), connect).await;
        delivered.response.expect(201);
        assert_eq!((delivered.losses, delivered.restarts), (1, 1));
        assert_file(&emptied, "/files/a", content).await;
    }
}

#[expect(clippy::print_stderr, reason = "the seed repeats a failed run")]
async fn cut_again_and_again(release: Release) {
    let server = TestServer::start().await;
    let phones = (0..PHONES).map(|seed| phone(&server, release, seed));
    for (seed, story) in join_all(phones).await.into_iter().enumerate() {
        eprintln!("{release:?}, seed {seed}: {story:?}");
        // Otherwise it has resumed nothing.
        assert!(story.restarts < story.losses / 2, "{story:?}");
    }
}

/// Uploads until it has lost its share of connections.
async fn phone(server: &TestServer, release: Release, seed: u64) -> Story {
    let proxy = Proxy::start(server.address(), Flow::default(), Flow::default()).await;
    let mut dice = Dice::new(seed);
    let mut story = Story::default();
    while u64::from(story.losses) * PHONES < u64::from(LOSSES) {
        let content = Content::new(
            seed << 32 | u64::from(story.uploads),
            dice.within(0..MAX_BYTES),
        );
        story.uploads += 1;
        let path = format!("/files/{seed}/{}", story.uploads);
        let request = match dice.within(0..2) {
            0 => app_request("PUT", &path),
            _ => app_request("POST", "/files"),
        };
        let mut left = dice.within(0..8);
        let mut lines = Vec::new();
        let connect = async || {
            let version = Version::ALL[usize::from(dice.within(0..2) == 1)];
            let is_slow = dice.within(0..4) > 0;
            let breaks = left > 0 && dice.within(0..4) > 0;
            let (up, down) = match breaks {
                true => breaking(&mut dice, content.length()),
                false => (Flow::default(), Flow::default()),
            };
            left -= u64::from(breaks);
            proxy.set(up, down);
            lines.push((version, is_slow, up.fault, down.fault));
            let client = Client::try_open(proxy.address(), version).await?;
            io::Result::Ok(Line { client, is_slow })
        };
        let delivered = release.upload(&request, &content.bytes(), connect).await;
        let response = &delivered.response;
        let what = || format!("{release:?}, seed {seed}, upload {}", story.uploads);
        assert!(
            matches!(response.status(), 200 | 201 | 204),
            "{}: {lines:?} {delivered:#?}",
            what()
        );
        story.losses += delivered.losses;
        story.restarts += delivered.restarts;
        let file = response.field("content-location");
        if request.method == "PUT" {
            assert_eq!(file, path, "{}", what());
        }
        assert_file(server, file, content).await;
    }
    story
}

/// Chooses the faults of one connection: mostly it is cut, sometimes it falls silent.
fn breaking(dice: &mut Dice, length: u64) -> (Flow, Flow) {
    let up = match dice.within(0..4) {
        0 => Some(dice.within(0..HEAD)),
        1 | 2 => Some(dice.within(0..HEAD + length)),
        _ => None,
    };
    let after = up.unwrap_or_else(|| dice.within(0..HEAD));
    let fault = match dice.within(0..20) {
        0 => Fault::SilentAfter(after),
        _ => Fault::CutAfter(after),
    };
    let broken = Flow {
        fault: Some(fault),
        ..Flow::default()
    };
    match up {
        Some(_) => (broken, Flow::default()),
        None => (Flow::default(), broken),
    }
}

/// Builds a request of an app, with the fields that `URLSession` adds.
fn app_request(method: &str, target: &str) -> Request {
    Request::new(method, target)
        .field("Accept", "*/*")
        .field("Accept-Language", "en-GB,en;q=0.9")
        .field("Accept-Encoding", "gzip, deflate")
        .field(
            "User-Agent",
            "Camera/1 CFNetwork/3826.500.131 Darwin/24.5.0",
        )
        .field("Content-Type", "image/heic")
        .field("X-Album", "Summer")
}
