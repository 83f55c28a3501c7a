//! The rows of the benchmark: each is one kind of work, done by every peer that supports it.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use tests::Dice;

use crate::client::{self, Exchange, Outcome};
use crate::packs;
use crate::peers::{Kind, Peer};
use crate::report::{Cells, Line, Work};
use crate::resumable::{self, Plan, Requests};
use crate::slow;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// Number of small files that the clients request.
const SMALL_FILES: u64 = 256;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// Downloads of 1 GiB, one after the other
    Full1,
    /// Downloads of 1 GiB over 8 connections
    Full8,
    /// Random ranges of 1 MiB over 32 connections
    Range32,
    /// Files of 64 KiB over 64 connections
    Small64,
    /// `If-None-Match` that matches, over 64 connections
    NotModified64,
    /// Uploads of 1 GiB in one request, one after the other
    Upload1,
    /// Uploads of 100 KiB over 16 connections
    UploadSmall16,
    /// 1,000 slow transfers at once, half up and half down: memory
    Slow1000,
    /// Zips of 10,000 files, which Longhaul generates as it sends, one after the other
    Archive1,
    /// Random ranges of 1 MiB of that zip over 32 connections
    ArchiveRange32,
    /// Resumable uploads: 1 GiB in one append
    Resumable1,
    /// Resumable uploads: 8 at once of 256 MiB, each in one append
    Resumable8,
    /// Resumable uploads: 1 GiB in appends of 8 MiB
    ResumableParts,
    /// Resumable uploads: 100 KiB with the creation, over 16 connections
    ResumableSmall16,
}

impl Row {
    fn title(self) -> &'static str {
        match self {
            Self::Full1 => "1 GiB, 1 connection",
            Self::Full8 => "1 GiB, 8 connections",
            Self::Range32 => "1 MiB ranges, 32 connections",
            Self::Small64 => "64 KiB files, 64 connections",
            Self::NotModified64 => "304, 64 connections",
            Self::Upload1 => "upload 1 GiB, one request",
            Self::UploadSmall16 => "upload 100 KiB, 16 connections",
            Self::Slow1000 => "1,000 slow transfers",
            Self::Archive1 => "zip of 10,000 files, 1 connection",
            Self::ArchiveRange32 => "1 MiB ranges of it, 32 connections",
            Self::Resumable1 => "resumable 1 GiB, one append",
            Self::Resumable8 => "resumable 256 MiB, 8 at once",
            Self::ResumableParts => "resumable 1 GiB, appends of 8 MiB",
            Self::ResumableSmall16 => "resumable 100 KiB, 16 connections",
        }
    }

    fn is_upload(self) -> bool {
        matches!(self, Self::Upload1 | Self::UploadSmall16)
    }

    /// Reports whether the peer supports the row.
    pub(crate) fn is_for(self, kind: Kind) -> bool {
        let is_resumable = self.plan(false).is_some();
        match kind {
            Kind::Longhaul => true,
            Kind::Nginx => !is_resumable,
            Kind::Bare => self.is_upload(),
            Kind::LonghaulIetf | Kind::TusServer | Kind::Rustus => is_resumable,
        }
    }

    /// Returns the uploads of a row about resumable uploads; `None` for other rows.
    pub(crate) fn plan(self, quick: bool) -> Option<Plan> {
        let some = |uploads, length, requests| Plan {
            uploads,
            length: if quick { length / 8 } else { length },
            requests,
            connections: self.connections(),
        };
        match self {
            Self::Resumable1 => Some(some(1, GIB, Requests::Appends(GIB))),
            Self::Resumable8 => Some(some(8, 256 * MIB, Requests::Appends(GIB))),
            Self::ResumableParts => Some(some(1, GIB, Requests::Appends(8 * MIB))),
            Self::ResumableSmall16 => Some(Plan {
                length: 100 * KIB,
                ..some(self.requests(quick), 0, Requests::Creation)
            }),
            Self::Full1
            | Self::Full8
            | Self::Range32
            | Self::Small64
            | Self::NotModified64
            | Self::Upload1
            | Self::UploadSmall16
            | Self::Slow1000
            | Self::Archive1
            | Self::ArchiveRange32 => None,
        }
    }

    fn connections(self) -> usize {
        match self {
            Self::Full1
            | Self::Upload1
            | Self::Archive1
            | Self::Resumable1
            | Self::ResumableParts => 1,
            Self::Full8 | Self::Resumable8 => 8,
            Self::UploadSmall16 | Self::ResumableSmall16 => 16,
            Self::Range32 | Self::ArchiveRange32 => 32,
            Self::Small64 | Self::NotModified64 => 64,
            Self::Slow1000 => 1000,
        }
    }

    /// Returns the number of requests in one turn.
    fn requests(self, quick: bool) -> u64 {
        let requests = match self {
            Self::Full1 => 4,
            Self::Full8 => 16,
            Self::Range32 | Self::ArchiveRange32 => 5_000,
            Self::Archive1 => 20,
            Self::Small64 => 80_000,
            Self::NotModified64 => 200_000,
            Self::Upload1 => 2,
            Self::UploadSmall16 | Self::ResumableSmall16 => 2_000,
            Self::Slow1000 => 1_000,
            Self::Resumable1 | Self::ResumableParts => 1,
            Self::Resumable8 => 8,
        };
        if quick && self != Self::Slow1000 {
            (requests / 10).max(1)
        } else {
            requests
        }
    }
}

/// Lets every peer that supports `row` take `repeat` turns.
pub(crate) fn measure(
    row: Row,
    peers: &mut [Peer],
    quick: bool,
    repeat: u32,
) -> anyhow::Result<Line> {
    let peers: Vec<&Peer> = peers.iter().filter(|peer| row.is_for(peer.kind)).collect();
    let mut turns: Vec<(Kind, Vec<Cells>)> = Vec::new();
    let ours = peers.iter().find(|peer| peer.kind == Kind::Longhaul);
    for peer in &peers {
        match (row, ours) {
            (Row::Archive1 | Row::ArchiveRange32, Some(ours)) => packs::prepare(peer, ours)?,
            (Row::Archive1 | Row::ArchiveRange32, None) => bail!("the archive is Longhaul's own"),
            (row, _) => prepare(row, peer)?,
        }
        turns.push((peer.kind, Vec::new()));
    }
    for turn in 0..repeat {
        for (peer, (_, cells)) in peers.iter().zip(&mut turns) {
            // Syncs first, so that this peer does not wait for the unwritten data of another.
            rustix::fs::sync();
            let what = || format!("{} at {}", peer.kind.name(), row.title());
            cells.push(take_turn(row, peer, quick, u64::from(turn)).with_context(what)?);
        }
    }
    Ok(Line {
        title: row.title(),
        turns,
    })
}

/// Uploads the files that the row downloads, which warms the page cache.
fn prepare(row: Row, peer: &Peer) -> anyhow::Result<()> {
    // Replaces the file of an earlier row.
    let put = |name: &str, length: u64| {
        peer.once(peer.put(name, length)).or_else(|_| {
            peer.once(peer.delete(name))?;
            peer.once(peer.put(name, length))
        })
    };
    match row {
        Row::Full1 | Row::Full8 | Row::Range32 | Row::Slow1000 => {
            put("large", GIB)?;
            peer.once(peer.get("large", "", 200))
        }
        Row::Small64 | Row::NotModified64 => {
            for number in 0..SMALL_FILES {
                put(&format!("small-{number}"), 64 * KIB)?;
            }
            Ok(())
        }
        Row::Upload1
        | Row::UploadSmall16
        | Row::Archive1
        | Row::ArchiveRange32
        | Row::Resumable1
        | Row::Resumable8
        | Row::ResumableParts
        | Row::ResumableSmall16 => Ok(()),
    }
}

fn take_turn(row: Row, peer: &Peer, quick: bool, turn: u64) -> anyhow::Result<Cells> {
    if row == Row::Slow1000 {
        return Ok(Cells::memory(slow::run(peer, row.connections())?));
    }
    if let Some(plan) = row.plan(quick) {
        let (outcome, cpu) = resumable::take_turn(peer, plan)?;
        return Ok(cells(row, outcome, cpu));
    }
    let requests = row.requests(quick);
    let mut exchanges = exchanges(row, peer, turn)?;
    let mut left = requests;
    let mut work = || {
        left = left.checked_sub(1)?;
        Some(exchanges(requests - 1 - left))
    };
    let cpu = peer.cpu_time();
    let outcome = client::run(peer.address, row.connections(), &mut work)?;
    let cpu = peer.cpu_time().saturating_sub(cpu);
    if row.is_upload() {
        for number in 0..requests {
            peer.once(peer.delete(&upload_name(turn, number)))?;
        }
    }
    Ok(cells(row, outcome, cpu))
}

/// Returns the requests of one turn, by number.
fn exchanges(
    row: Row,
    peer: &Peer,
    turn: u64,
) -> anyhow::Result<Box<dyn FnMut(u64) -> Exchange + '_>> {
    let mut dice = Dice::new(turn);
    Ok(match row {
        Row::Full1 | Row::Full8 => {
            let get = peer.get("large", "", 200);
            Box::new(move |_| get.clone())
        }
        Row::Range32 => Box::new(move |_| {
            let start = dice.within(0..GIB - MIB);
            peer.get(
                "large",
                &format!("Range: bytes={start}-{}\r\n", start + MIB - 1),
                206,
            )
        }),
        Row::Small64 => {
            let gets: Vec<Exchange> = (0..SMALL_FILES)
                .map(|number| peer.get(&format!("small-{number}"), "", 200))
                .collect();
            Box::new(move |_| one_of(&gets, &mut dice))
        }
        Row::NotModified64 => {
            let mut gets = Vec::new();
            for number in 0..SMALL_FILES {
                let name = format!("small-{number}");
                let etag = etag(peer, &name)?;
                gets.push(peer.get(&name, &format!("If-None-Match: {etag}\r\n"), 304));
            }
            Box::new(move |_| one_of(&gets, &mut dice))
        }
        Row::Archive1 => {
            let get = peer.archive("", 200);
            Box::new(move |_| get.clone())
        }
        Row::ArchiveRange32 => {
            let length = packs::archive_length(peer)?;
            Box::new(move |_| {
                let start = dice.within(0..length - MIB);
                let range = format!("Range: bytes={start}-{}\r\n", start + MIB - 1);
                peer.archive(&range, 206)
            })
        }
        Row::Upload1 => Box::new(move |number| peer.put(&upload_name(turn, number), GIB)),
        Row::UploadSmall16 => {
            Box::new(move |number| peer.put(&upload_name(turn, number), 100 * KIB))
        }
        Row::Slow1000
        | Row::Resumable1
        | Row::Resumable8
        | Row::ResumableParts
        | Row::ResumableSmall16 => unreachable!("other functions measure these rows"),
    })
}

fn upload_name(turn: u64, number: u64) -> String {
    format!("upload-{turn}-{number}")
}

fn one_of(exchanges: &[Exchange], dice: &mut Dice) -> Exchange {
    let count = u64::try_from(exchanges.len()).expect("a length fits");
    let index = usize::try_from(dice.within(0..count)).expect("an index fits");
    let Exchange { head, body, status } = &exchanges[index];
    Exchange {
        head: Rc::clone(head),
        body: *body,
        status: *status,
    }
}

fn etag(peer: &Peer, name: &str) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let response = runtime.block_on(async {
        let mut connection = tests::http1::Connection::try_open(peer.address).await?;
        let request = tests::Request::head(format!("/files/{name}"));
        connection
            .exchange(&request)
            .await
            .map_err(|cut| std::io::Error::other(cut.how))
    })?;
    Ok(response.field("etag").to_owned())
}

fn cells(row: Row, mut outcome: Outcome, cpu: Duration) -> Cells {
    outcome.latencies.sort_unstable();
    let at = |percent: usize| {
        let index = (outcome.latencies.len() * percent / 100).min(outcome.latencies.len() - 1);
        outcome.latencies[index]
    };
    let by_bytes = match row {
        Row::Full1
        | Row::Full8
        | Row::Range32
        | Row::Upload1
        | Row::Archive1
        | Row::ArchiveRange32
        | Row::Resumable1
        | Row::Resumable8
        | Row::ResumableParts => true,
        Row::Small64
        | Row::NotModified64
        | Row::UploadSmall16
        | Row::Slow1000
        | Row::ResumableSmall16 => false,
    };
    let work = if by_bytes {
        Work::Bytes(outcome.bytes)
    } else {
        Work::Requests(u64::try_from(outcome.latencies.len()).expect("a length fits"))
    };
    Cells::work(work, outcome.elapsed, at(50), at(99), cpu)
}
