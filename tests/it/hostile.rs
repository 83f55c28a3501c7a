//! Peers that do not read their responses: the memory that they take is bounded, and other clients
//! are served meanwhile.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tests::frames::{self, Frames, LARGEST_WINDOW};
use tests::stores::Blobs;
use tests::{Client, Content, Request, TestServer, Version};
use tokio::time::sleep;

/// Memory budget; all connections together may use half of it.
const LITTLE: &str = "[memory]\ntotal = \"64 MiB\"\nper_connection = \"4 MiB\"";
const HALF: u64 = 32 * MIB;
const MIB: u64 = 1024 * 1024;

/// Allowance for differences between runs: the allocator, the stores, the transfers of a healthy
/// client.
const SLACK: u64 = 40 * MIB;

/// Memory of a connection beyond its part of the budget: a chunk, the first 64 KiB of its streams,
/// a buffer each way.
const OWN: u64 = 256 * 1024;

/// Starts a server with little memory and a large file.
async fn server_with(content: Content) -> TestServer {
    // This process and its child hold both ends of many connections.
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let mut setup = TestServer::setup().config(LITTLE);
    if Blobs::of_this_run() == Blobs::S3 {
        setup = setup.environment("LONGHAUL_BLOBS__MAX_PAUSED_READS", "16");
    }
    let server = setup.start().await;
    let put = Request::put("/files/large").body(content.bytes());
    server.request(put).await.expect(201);
    // Excludes memory that a first download leaves allocated.
    healthy(&server, content).await;
    server
}

/// Downloads and uploads as a healthy client, over each version of HTTP.
async fn healthy(server: &TestServer, content: Content) {
    for version in Version::ALL {
        let mut client = server.client(version).await;
        let whole = client.exchange(&Request::get("/files/large")).await;
        content.assert_is(&whole.unwrap().expect(200).body);
        let put = Request::put("/files/small").body(vec![7; 100_000]);
        client.exchange(&put).await.unwrap();
    }
}

/// Runs an attack and checks that the peak of memory stays below `most` while others are served,
/// and that the memory is returned once the attackers are gone.
async fn check<T>(server: &TestServer, content: Content, attack: impl AsyncFn() -> T, most: u64) {
    let before = server.resident().total;
    server.process().forget_peak();
    let attackers = attack().await;
    for _ in 0..3 {
        healthy(server, content).await;
    }
    let grown = server.process().peak().saturating_sub(before);
    assert!(grown < most, "{} MiB more", grown / MIB);
    drop(attackers);
    let mut stays = u64::MAX;
    for _ in 0..300 {
        stays = server.resident().total.saturating_sub(before);
        if stays < HALF {
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
    panic!("{} MiB stay", stays / MIB);
}

/// Requests the file on 100 streams of each of `connections`.
async fn ask(server: &TestServer, connections: usize, window: u32) -> Vec<Frames> {
    let asking: Vec<u8> = (0..100)
        .flat_map(|number| frames::get(2 * number + 1, "/files/large"))
        .collect();
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut client = Frames::open(server.address(), window).await;
        client.send(&asking).await;
        open.push(client);
    }
    open
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded() {
    let content = Content::new(80, 8 * MIB);
    let server = server_with(content).await;
    let attack = async || ask(&server, 40, LARGEST_WINDOW).await;
    // 4,000 streams: one chunk for each would be 250 MiB.
    check(&server, content, attack, HALF + 40 * OWN + SLACK).await;
}

#[tokio::test]
async fn nothing_is_read_for_windows_that_stay_closed() {
    let content = Content::new(81, 8 * MIB);
    let server = server_with(content).await;
    let attack = async || ask(&server, 40, 0).await;
    check(&server, content, attack, HALF + 40 * OWN + SLACK).await;
}

#[tokio::test]
async fn windows_that_open_by_single_bytes_are_bounded() {
    let content = Content::new(82, 8 * MIB);
    let server = server_with(content).await;
    let attack = async || {
        let mut open = ask(&server, 40, 0).await;
        for byte in 1..4 {
            for client in &mut open {
                client.send(&frames::initial_window(byte)).await;
                for number in 0..100 {
                    client.send(&frames::open_window(2 * number + 1, 1)).await;
                }
            }
        }
        open
    };
    check(&server, content, attack, HALF + 40 * OWN + SLACK).await;
}

#[tokio::test]
async fn windows_that_are_taken_back_are_bounded() {
    let content = Content::new(83, 8 * MIB);
    let server = server_with(content).await;
    let attack = async || {
        let mut open = ask(&server, 40, LARGEST_WINDOW).await;
        for client in &mut open {
            client.send(&frames::initial_window(0)).await;
        }
        open
    };
    check(&server, content, attack, HALF + 40 * OWN + SLACK).await;
}

#[tokio::test]
async fn answers_over_http1_that_nobody_reads_are_bounded() {
    let content = Content::new(84, 8 * MIB);
    let server = server_with(content).await;
    let attack = async || {
        let mut open = Vec::new();
        for _ in 0..400 {
            let Client::Http1(mut connection) = server.client(Version::Http1).await else {
                unreachable!("this version was requested")
            };
            let request = Request::get("/files/large");
            connection.begin(&request).await.unwrap();
            open.push(connection);
        }
        open
    };
    check(&server, content, attack, HALF + 400 * OWN + SLACK).await;
}

#[tokio::test]
async fn requests_that_are_opened_and_reset_end_the_connection() {
    let content = Content::new(85, MIB);
    let server = server_with(content).await;
    let mut client = Frames::open(server.address(), LARGEST_WINDOW).await;
    for batch in 0..100 {
        let streams = (batch * 100..(batch + 1) * 100).map(|number| 2 * number + 1);
        let bytes: Vec<u8> = streams
            .flat_map(|stream| [frames::put(stream, "/files/x"), frames::reset(stream)].concat())
            .collect();
        client.send(&bytes).await;
    }
    client.ended().await;
    healthy(&server, content).await;
}
