//! The figures of a run.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counters of a run.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    uploads: AtomicU64,
    uploaded: AtomicU64,
    sent: AtomicU64,
    downloads: AtomicU64,
    resumed_downloads: AtomicU64,
    versions: AtomicU64,
    kills: AtomicU64,
    stops: AtomicU64,
    restarts: AtomicU64,
    refusals: AtomicU64,
    moves: AtomicU64,
    takeovers: Mutex<Vec<Duration>>,
}

impl Figures {
    /// Counts a completed and verified upload of `length` bytes, for which the client sent `sent`
    /// bytes.
    pub(crate) fn upload_is_complete(&self, length: u64, sent: u64) {
        add(&self.uploads, 1);
        add(&self.uploaded, length);
        add(&self.sent, sent);
    }

    pub(crate) fn download_is_whole(&self) {
        add(&self.downloads, 1);
    }

    pub(crate) fn download_was_resumed(&self) {
        add(&self.resumed_downloads, 1);
    }

    pub(crate) fn version_is_published(&self) {
        add(&self.versions, 1);
    }

    pub(crate) fn node_was_killed(&self) {
        add(&self.kills, 1);
    }

    pub(crate) fn node_was_stopped(&self) {
        add(&self.stops, 1);
    }

    pub(crate) fn postgres_was_restarted(&self) {
        add(&self.restarts, 1);
    }

    /// Counts a refusal: a node answered with 5xx.
    pub(crate) fn request_was_refused(&self) {
        add(&self.refusals, 1);
    }

    /// Counts an upload that continued at another node.
    pub(crate) fn upload_moved(&self) {
        add(&self.moves, 1);
    }

    /// Counts a takeover: within `time`, a node answered a request for an upload that another node
    /// was still receiving.
    pub(crate) fn upload_was_taken_over(&self, time: Duration) {
        let takeovers = self.takeovers.lock();
        takeovers.unwrap_or_else(PoisonError::into_inner).push(time);
    }

    /// Renders all figures as a table for people.
    pub(crate) fn table(&self, elapsed: Duration) -> String {
        let takeovers = self.takeovers.lock();
        let mut times = takeovers.unwrap_or_else(PoisonError::into_inner).clone();
        times.sort_unstable();
        let (uploaded, sent) = (load(&self.uploaded), load(&self.sent));
        let rows = [
            ("seconds", elapsed.as_secs().to_string()),
            ("uploads, all compared", load(&self.uploads).to_string()),
            ("bytes uploaded", uploaded.to_string()),
            (
                "bytes sent again",
                sent.saturating_sub(uploaded).to_string(),
            ),
            ("downloads, all compared", load(&self.downloads).to_string()),
            (
                "downloads resumed elsewhere",
                load(&self.resumed_downloads).to_string(),
            ),
            ("pack versions", load(&self.versions).to_string()),
            ("nodes killed", load(&self.kills).to_string()),
            ("nodes stopped for a minute", load(&self.stops).to_string()),
            ("PostgreSQL restarted", load(&self.restarts).to_string()),
            ("answers of 5xx", load(&self.refusals).to_string()),
            ("uploads that moved on", load(&self.moves).to_string()),
            ("take-overs from a working node", times.len().to_string()),
            ("take-over time, p50", percentile(&times, 50)),
            ("take-over time, p99", percentile(&times, 99)),
        ];
        let mut table = String::new();
        for (name, value) in rows {
            writeln!(table, "{name:<32} {value:>14}").expect("a string takes everything");
        }
        table
    }
}

fn add(figure: &AtomicU64, more: u64) {
    figure.fetch_add(more, Ordering::Relaxed);
}

fn load(figure: &AtomicU64) -> u64 {
    figure.load(Ordering::Relaxed)
}

/// Returns the smallest of the sorted `times` that at least `percent` percent of them do not
/// exceed.
fn percentile(times: &[Duration], percent: usize) -> String {
    let rank = (times.len() * percent).div_ceil(100).max(1);
    match times.get(rank - 1) {
        Some(time) => format!("{} ms", time.as_millis()),
        None => "-".to_owned(),
    }
}
