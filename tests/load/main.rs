//! Benchmark of the server beside others on this machine: `cargo run --release -p tests --bin
//! load`.
//!
//! The release program, nginx, and a bare loop that copies sockets into files and syncs them run
//! side by side, each pinned to the first core; the client has the second core for itself. The
//! peers take turns, several times over, and the table shows medians. The contents are in the page
//! cache and the client discards bodies without copying them, so the client is not the limit.

mod affinity;
mod bare;
mod client;
mod packs;
mod peers;
mod report;
mod resumable;
mod rows;
mod s3;
mod slow;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;

use peers::{Kind, Peer};
use rows::Row;

/// Measure throughput, latency and CPU beside nginx and a bare synced loop
#[derive(Debug, Parser)]
struct Arguments {
    /// Rows to measure [default: all but the resumable ones, which are measured beside other peers]
    rows: Vec<Row>,
    /// Measure the publication of a pack and the first bytes of a difference, instead of rows
    #[arg(long)]
    packs: bool,
    /// Measure transfers through PostgreSQL and S3 beside the AWS command line, instead of rows
    #[arg(long)]
    s3: bool,
    /// Do a tenth of the work, once
    #[arg(long)]
    quick: bool,
    /// Number of turns of each peer
    #[arg(long, default_value_t = 5)]
    repeat: u32,
    /// Peers to measure [default: all that support some of the rows]
    #[arg(long = "peer", value_name = "PEER")]
    peers: Vec<Kind>,
    /// Directory of the data, on a disk that really syncs [default: below the target directory]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    // The bare loop is this program as well, in a child process so that its CPU time can be
    // measured separately.
    if let Some(directory) = bare::asked_for() {
        return bare::serve(&directory);
    }
    let arguments = Arguments::parse();
    let repeat = if arguments.quick {
        1
    } else {
        arguments.repeat.max(1)
    };
    if arguments.packs {
        peers::build_longhaul()?;
        report::print(&packs::report(repeat)?);
        return Ok(());
    }
    if arguments.s3 {
        peers::build_longhaul()?;
        let parent = arguments.dir.unwrap_or(target()?.join("load"));
        std::fs::create_dir_all(&parent)?;
        report::print(&s3::report(repeat, &parent)?);
        return Ok(());
    }
    let rows = match arguments.rows.is_empty() {
        true => all(|row: &Row| row.plan(arguments.quick).is_none()),
        false => arguments.rows,
    };
    let kinds = match arguments.peers.is_empty() {
        true => all(|kind| rows.iter().any(|row| row.is_for(*kind))),
        false => arguments.peers,
    };

    let parent = match arguments.dir {
        Some(directory) => directory,
        None => target()?.join("load"),
    };
    std::fs::create_dir_all(&parent)
        .with_context(|| format!("failed to create {}", parent.display()))?;
    let directory = tempfile::Builder::new()
        .prefix("load-")
        .tempdir_in(&parent)?;

    if kinds.contains(&Kind::Longhaul) || kinds.contains(&Kind::LonghaulIetf) {
        peers::build_longhaul()?;
    }
    let mut running = Vec::new();
    for kind in kinds {
        running.push(Peer::start(
            kind,
            directory.path(),
            &target()?.join("peers"),
        )?);
    }
    affinity::take_client_core();

    let mut table = report::Table::new();
    for row in rows {
        table.add(rows::measure(row, &mut running, arguments.quick, repeat)?);
    }
    report::print(&table.to_string());
    Ok(())
}

fn all<T: clap::ValueEnum>(wanted: impl Fn(&T) -> bool) -> Vec<T> {
    let all = T::value_variants().iter().cloned();
    all.filter(wanted).collect()
}

/// Returns the target directory; this program is in `target/release`.
fn target() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("failed to find this program")?;
    let target = program.ancestors().nth(2);
    Ok(target
        .context("this program lies in no target directory")?
        .to_owned())
}
