//! Progress of a copy: a bar on a terminal, periodic lines elsewhere.

use std::io::{IsTerminal as _, stderr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use metadata::copying::Totals;
use tokio::time::Instant;

use crate::transfer::write_line;

/// Time between two lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Counts of blobs by outcome.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Copied {
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    /// Blobs that an earlier run had copied.
    pub(super) were_there: u64,
}

/// Progress of a copy. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    bar: ProgressBar,
    totals: Totals,
    begun: Instant,
    /// Time of the last line, without a terminal.
    last_line: Option<Arc<Mutex<Instant>>>,
}

impl Progress {
    pub(super) fn begin(totals: Totals) -> Self {
        let is_terminal = stderr().is_terminal();
        let target = match is_terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(totals.bytes), target).with_message("bytes");
        bar.set_style(style(
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
        ));
        if is_terminal {
            bar.enable_steady_tick(Duration::from_millis(200));
        }
        let begun = Instant::now();
        Self {
            bar,
            totals,
            begun,
            last_line: (!is_terminal).then(|| Arc::new(Mutex::new(begun))),
        }
    }

    /// Counts bytes that were read, and written if the target lacked them.
    pub(super) fn moved(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.line(|| {
            let (done, all) = (self.bar.position(), self.totals.bytes);
            format!("{} of {} of the bytes", ByteSize(done), ByteSize(all))
        });
    }

    /// Counts bytes that the target has or does not need.
    pub(super) fn skipped(&self, bytes: u64) {
        self.bar.inc(bytes);
        // The rate counts only bytes that are read.
        self.bar.reset_eta();
    }

    /// Shows that the bytes are copied and the facts begin.
    pub(super) fn facts(&self) {
        self.bar.set_position(0);
        self.bar.set_length(self.totals.rows);
        self.bar.set_message("facts");
        self.bar
            .set_style(style("{msg} {wide_bar} {human_pos}/{human_len} {eta} left"));
        self.bar.reset_eta();
    }

    /// Counts copied rows.
    pub(super) fn rows(&self, rows: u64) {
        self.bar.inc(rows);
        let all = self.totals.rows;
        self.line(|| format!("{} of {all} rows of the facts", self.bar.position()));
    }

    /// Prints the summary.
    pub(super) fn end(&self, copied: &Copied) {
        self.bar.finish_and_clear();
        let Copied {
            blobs,
            bytes,
            were_there,
        } = copied;
        self.say(&format!(
            "copied {blobs} blobs ({}) in {}; {were_there} were there already",
            ByteSize(*bytes),
            humantime::format_duration(Duration::from_secs(self.begun.elapsed().as_secs())),
        ));
    }

    pub(super) fn say(&self, text: &str) {
        write_line(stderr(), text);
    }

    fn line(&self, text: impl FnOnce() -> String) {
        let Some(last) = &self.last_line else {
            return;
        };
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= LINE_INTERVAL {
            *last = Instant::now();
            self.say(&text());
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are well formed")
}
