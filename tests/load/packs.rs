//! Packs: an archive generated on demand beside the same archive as a static file, and the cost of
//! publication and of first bytes.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::ensure;
use bytes::Bytes;
use tests::http1::Connection;
use tests::pack::Files;
use tests::{Dice, Request, Response, TestServer};
use tokio::time::Instant;

use crate::affinity;
use crate::peers::{Kind, Peer};

/// Number of files in the pack whose archive is downloaded.
const FILES: u64 = 10_000;
/// Mean size of each in bytes: icons, tiles, levels.
const MEAN_SIZE: u64 = 16 * 1024;

/// Returns the path of the archive at a peer.
pub(crate) fn archive(kind: Kind) -> &'static str {
    match kind {
        Kind::Longhaul => "/packs/load/versions/1/archive.zip",
        _ => "/files/archive.zip",
    }
}

/// Gives a peer the archive: Longhaul gets the files in it, others the same bytes as a file.
pub(crate) fn prepare(peer: &Peer, ours: &Peer) -> anyhow::Result<()> {
    let runtime = runtime()?;
    match peer.kind {
        Kind::Longhaul => runtime.block_on(async {
            let known = ask(peer, Request::head(archive(peer.kind))).await?;
            if known.status() == 404 {
                let publish = Request::post("/packs/load/versions");
                let published = ask(peer, publish.body(files(FILES, MEAN_SIZE).zip())).await?;
                ensure!(published.status() == 201, "publishing: {published:?}");
            }
            Ok(())
        }),
        _ => runtime.block_on(async {
            let bytes = ask(ours, Request::get(archive(ours.kind))).await?.body;
            let put = Request::put(archive(peer.kind)).body(bytes);
            let stored = ask(peer, put).await?;
            ensure!((200..300).contains(&stored.status()), "{stored:?}");
            Ok(())
        }),
    }
}

/// Returns the length of the archive in bytes.
pub(crate) fn archive_length(peer: &Peer) -> anyhow::Result<u64> {
    let head = runtime()?.block_on(ask(peer, Request::head(archive(peer.kind))))?;
    Ok(head.field("content-length").parse()?)
}

async fn ask(peer: &Peer, request: Request) -> anyhow::Result<Response> {
    let mut connection = Connection::try_open(peer.address).await?;
    let answer = connection.exchange(&request).await;
    answer.map_err(|cut| anyhow::anyhow!("{} was cut: {}", request.target, cut.how))
}

pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// Builds `count` files of random bytes, of up to twice the mean size.
pub(crate) fn files(count: u64, mean_size: u64) -> Files {
    let mut dice = Dice::new(count);
    (0..count)
        .map(|number| {
            let size = dice.within(1..2 * mean_size);
            let content = tests::Content::new(number, size).bytes();
            (format!("{:02x}/{number:06}.bin", number % 251), content)
        })
        .collect()
}

/// Measures publication and first bytes. Returns lines of text for people.
pub(crate) fn report(repeat: u32) -> anyhow::Result<String> {
    runtime()?.block_on(async {
        let mut text = String::new();
        writeln!(text, "{}", publishing().await)?;
        writeln!(text, "{}", first_bytes(repeat).await?)?;
        Ok(text)
    })
}

/// Publishes 20,000 small files in one request.
async fn publishing() -> String {
    const SMALL: u64 = 20_000;
    affinity::take_server_core();
    let server = TestServer::start().await;
    affinity::take_client_core();
    let tree = files(SMALL, 4 * 1024);
    let size: usize = tree.0.values().map(Bytes::len).sum();
    let zip = tree.zip();
    let before = server.process().written();
    let begun = Instant::now();
    let answer = server.request(Request::post("/packs/small/versions").body(zip.clone()));
    answer.await.expect(201);
    let elapsed = begun.elapsed();
    let after = server.process().written();
    format!(
        "publish {SMALL} files, {} MB in all, as one zip of {} MB: {:.2} s; {} MB written to disk, {} write calls in all; resident {} MiB at most",
        size / 1_000_000,
        zip.len() / 1_000_000,
        elapsed.as_secs_f64(),
        (after.bytes - before.bytes) / 1_000_000,
        after.calls - before.calls,
        server.process().peak() >> 20,
    )
}

/// Requests a difference of 10,000 files: once directly after a start, then repeatedly.
async fn first_bytes(repeat: u32) -> anyhow::Result<String> {
    const WARM: u32 = 200;
    affinity::take_server_core();
    let mut server = TestServer::start().await;
    affinity::take_client_core();
    let first = files(FILES, 4 * 1024);
    let second: Files = first
        .0
        .keys()
        .map(|path| (path.clone(), Bytes::from(path.repeat(20))))
        .collect();
    for tree in [&first, &second] {
        let publish = Request::post("/packs/diff/versions").body(tree.zip());
        server.request(publish).await.expect(201);
    }
    let ask = Request::get("/packs/diff/versions/2/since/1.zip").field("Range", "bytes=0-65535");
    let mut cold = Vec::new();
    let mut warm = Vec::new();
    for _ in 0..repeat.max(3) {
        server.kill().await;
        affinity::take_server_core();
        server.restart().await;
        affinity::take_client_core();
        let mut connection = Connection::try_open(server.address()).await?;
        cold.push(timed(&mut connection, &ask).await?);
        for _ in 0..WARM {
            warm.push(timed(&mut connection, &ask).await?);
        }
    }
    Ok(format!(
        "first 64 KiB of a difference of {FILES} files: p50 {:.2} ms cold (just started), {:.3} ms warm",
        median(&mut cold).as_secs_f64() * 1e3,
        median(&mut warm).as_secs_f64() * 1e3,
    ))
}

async fn timed(connection: &mut Connection, request: &Request) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let answer = connection.exchange(request).await;
    let elapsed = begun.elapsed();
    let answer = answer.map_err(|cut| anyhow::anyhow!(cut.how))?;
    ensure!(answer.status() == 206, "{answer:?}");
    Ok(elapsed)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
