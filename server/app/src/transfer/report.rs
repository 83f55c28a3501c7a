//! Progress for the user: a bar on a terminal, lines elsewhere, or events for scripts.

use std::fmt;
use std::io::{IsTerminal as _, stderr, stdout};
use std::time::Duration;

use domain::digest::Sha256Digest;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use super::connection::chain;
use super::error::Error;
use super::patience::Patience;
use super::words;

/// Minimum time between two progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum time between two lines of progress.
const LINES_INTERVAL: Duration = Duration::from_secs(15);

/// Event, as `--json` writes it.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Started {
        direction: Direction,
        file: &'a str,
        url: &'a str,
        size: Option<u64>,
        offset: u64,
    },
    Progress {
        bytes: u64,
        size: Option<u64>,
        bytes_per_second: u64,
    },
    Retrying {
        reason: &'a str,
        attempt: u32,
        retries: u32,
        wait_seconds: f64,
    },
    Restarted {
        reason: &'a str,
    },
    Done {
        file: &'a str,
        url: &'a str,
        etag: Option<&'a str>,
        sha256: String,
        verified: bool,
        bytes: u64,
    },
    Error {
        message: String,
        status: Option<u16>,
        resumable: bool,
    },
}

/// Direction of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    Upload,
    Download,
}

/// Successful end of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) file: String,
    pub(crate) url: String,
    pub(crate) etag: Option<String>,
    pub(crate) sha256: Sha256Digest,
    /// True if the server stated the same SHA-256.
    pub(crate) verified: bool,
    pub(crate) bytes: u64,
}

/// Reporter of progress, in one of three forms.
#[derive(Debug)]
pub(crate) struct Report {
    audience: Audience,
    direction: Direction,
    begun: Instant,
    /// Number of bytes that an earlier run had moved.
    begun_at: u64,
    retries: u32,
    restarts: u32,
}

#[derive(Debug)]
enum Audience {
    Terminal(ProgressBar),
    /// Periodic lines, since standard error is not a terminal.
    Lines {
        /// Name of the file.
        name: String,
        last: Instant,
    },
    Script {
        last: Option<(Instant, u64)>,
    },
}

impl Audience {
    fn people() -> Self {
        if stderr().is_terminal() {
            Self::Terminal(ProgressBar::hidden())
        } else {
            Self::lines()
        }
    }

    fn lines() -> Self {
        Self::Lines {
            name: String::new(),
            last: Instant::now(),
        }
    }
}

impl Report {
    pub(crate) fn new(direction: Direction, json: bool) -> Self {
        let audience = if json {
            Audience::Script { last: None }
        } else {
            Audience::people()
        };
        Self {
            audience,
            direction,
            begun: Instant::now(),
            begun_at: 0,
            retries: 0,
            restarts: 0,
        }
    }

    /// Returns a report for a command of several steps, which prints its end itself. With `json`,
    /// progress is lines on standard error: standard output is for that end alone.
    pub(crate) fn of_steps(direction: Direction, json: bool) -> Self {
        let audience = if json {
            Audience::lines()
        } else {
            Audience::people()
        };
        Self {
            audience,
            ..Self::new(direction, false)
        }
    }

    /// Ends a step; the next one begins with [`started`](Self::started).
    pub(crate) fn step_done(&self) {
        if let Audience::Terminal(bar) = &self.audience {
            bar.finish_and_clear();
        }
    }

    /// Reports that the transfer of `file` begins at `offset`.
    pub(crate) fn started(&mut self, file: &str, url: &str, size: Option<u64>, offset: u64) {
        (self.begun, self.begun_at) = (Instant::now(), offset);
        let direction = self.direction;
        match &mut self.audience {
            Audience::Terminal(bar) => {
                *bar = size
                    .map_or_else(ProgressBar::no_length, ProgressBar::new)
                    .with_message(file.to_owned());
                bar.set_style(style(size.is_some()));
                bar.reset_eta();
                bar.set_position(offset);
                bar.enable_steady_tick(Duration::from_millis(200));
            }
            Audience::Lines { name, last } => {
                file.clone_into(name);
                *last = Instant::now();
            }
            Audience::Script { .. } => write_event(&Event::Started {
                direction,
                file,
                url,
                size,
                offset,
            }),
        }
    }

    /// Reports that `bytes` of `size` have moved.
    pub(crate) fn progress(&mut self, bytes: u64, size: Option<u64>) {
        match &mut self.audience {
            Audience::Terminal(bar) => bar.set_position(bytes),
            Audience::Lines { name, last } => {
                if last.elapsed() >= LINES_INTERVAL {
                    *last = Instant::now();
                    let moved = bytes.saturating_sub(self.begun_at);
                    let rate = per_second(moved, self.begun.elapsed());
                    write_line(stderr(), &progress_line(name, bytes, size, rate));
                }
            }
            Audience::Script { last } => {
                let now = Instant::now();
                let (since, at) = last.unwrap_or((self.begun, self.begun_at));
                let elapsed = now - since;
                if elapsed >= PROGRESS_INTERVAL {
                    *last = Some((now, bytes));
                    let moved = bytes.saturating_sub(at);
                    write_event(&Event::Progress {
                        bytes,
                        size,
                        bytes_per_second: per_second(moved, elapsed),
                    });
                }
            }
        }
    }

    /// Reports a failed attempt; the next one comes after `wait`.
    pub(crate) fn retrying(&mut self, reason: &str, patience: &Patience, wait: Duration) {
        self.retries += 1;
        match &self.audience {
            Audience::Terminal(_) | Audience::Lines { .. } => {
                let left = wait.saturating_add(patience.left());
                self.say(&format!(
                    "{reason}; trying again in {}, and for {} in all (Ctrl-C to stop)",
                    words::elapsed(wait),
                    words::estimate(left),
                ));
            }
            Audience::Script { .. } => write_event(&Event::Retrying {
                reason,
                attempt: patience.fruitless(),
                retries: patience.retries(),
                wait_seconds: wait.as_secs_f64(),
            }),
        }
    }

    /// Reports that the transfer begins anew.
    pub(crate) fn restarted(&mut self, reason: &str) {
        self.restarts += 1;
        self.begun_at = 0;
        if !matches!(self.audience, Audience::Script { .. }) {
            self.say(&format!("{reason}; starting anew"));
        }
        match &mut self.audience {
            Audience::Terminal(bar) => bar.set_position(0),
            Audience::Lines { .. } => {}
            Audience::Script { last } => {
                *last = None;
                write_event(&Event::Restarted { reason });
            }
        }
    }

    /// Reports a message that matters now, on a terminal or not.
    pub(crate) fn say(&self, text: &str) {
        match &self.audience {
            Audience::Terminal(bar) if !bar.is_hidden() && !bar.is_finished() => bar.println(text),
            Audience::Terminal(_) | Audience::Lines { .. } => write_line(stderr(), text),
            Audience::Script { .. } => {}
        }
    }

    /// Reports a message for people alone.
    pub(crate) fn note(&self, text: &str) {
        if let Audience::Terminal(bar) = &self.audience {
            bar.println(text);
        }
    }

    /// Reports the success of the transfer.
    pub(crate) fn done(&self, outcome: &Outcome) {
        match &self.audience {
            Audience::Terminal(bar) => {
                bar.finish_and_clear();
                write_line(stderr(), &self.summary(outcome));
            }
            Audience::Lines { .. } => write_line(stderr(), &self.summary(outcome)),
            Audience::Script { .. } => write_event(&Event::Done {
                file: &outcome.file,
                url: &outcome.url,
                etag: outcome.etag.as_deref(),
                sha256: outcome.sha256.to_string(),
                verified: outcome.verified,
                bytes: outcome.bytes,
            }),
        }
    }

    /// Reports the failure of the transfer to scripts; the command itself prints the message for
    /// people.
    pub(crate) fn failed(&self, error: &Error) {
        match &self.audience {
            Audience::Terminal(bar) => bar.abandon(),
            Audience::Lines { .. } => {}
            Audience::Script { .. } => write_event(&Event::Error {
                message: chain(error),
                status: error.status(),
                resumable: error.may_pass(),
            }),
        }
    }

    fn summary(&self, outcome: &Outcome) -> String {
        let elapsed = self.begun.elapsed();
        let rate = per_second(outcome.bytes.saturating_sub(self.begun_at), elapsed);
        let (verb, from, to) = match self.direction {
            Direction::Upload => ("uploaded", &outcome.file, &outcome.url),
            Direction::Download => ("downloaded", &outcome.url, &outcome.file),
        };
        let checked = if outcome.verified {
            "SHA-256 verified"
        } else {
            "SHA-256 not told by the server"
        };
        let mut line = format!(
            "{verb} {from} to {to}: {} in {}, {}/s, {checked}",
            words::size(outcome.bytes),
            words::elapsed(elapsed),
            words::size(rate),
        );
        for (count, one, more) in [
            (self.retries, "retry", "retries"),
            (self.restarts, "new start", "new starts"),
        ] {
            match count {
                0 => {}
                1 => line.push_str(&format!(", 1 {one}")),
                _ => line.push_str(&format!(", {count} {more}")),
            }
        }
        line
    }
}

fn style(has_size: bool) -> ProgressStyle {
    let template = if has_size {
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {left}"
    } else {
        "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}"
    };
    ProgressStyle::with_template(template)
        .expect("the templates are well formed")
        .with_key("left", |state: &ProgressState, to: &mut dyn fmt::Write| {
            // No rate is known before the first bytes have moved.
            if !state.eta().is_zero() {
                let _ = write!(to, "{} left", words::estimate(state.eta()));
            }
        })
}

/// Formats the progress for a log.
fn progress_line(name: &str, bytes: u64, size: Option<u64>, rate: u64) -> String {
    let moved = words::size(bytes);
    let rate_text = words::size(rate);
    match size {
        Some(size) => {
            let left = size.saturating_sub(bytes).checked_div(rate);
            let left = left.map_or_else(String::new, |seconds| {
                format!(", {} left", words::estimate(Duration::from_secs(seconds)))
            });
            format!(
                "{name}: {moved} of {}, {rate_text}/s{left}",
                words::size(size)
            )
        }
        None => format!("{name}: {moved}, {rate_text}/s"),
    }
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

fn write_event(event: &Event<'_>) {
    let line = serde_json::to_string(event).expect("events are made of text and numbers");
    write_line(stdout(), &line);
}

/// Writes a line in one call. If the reader has closed the other end, the transfer goes on.
pub(crate) fn write_line(mut to: impl std::io::Write, line: &str) {
    let _ = to
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| to.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_progress_says_how_long_it_takes_where_that_is_known() {
        assert_eq!(
            progress_line("a.mov", 1 << 20, Some(1 << 30), 1 << 20),
            "a.mov: 1.0 MiB of 1.0 GiB, 1.0 MiB/s, about 17 min left"
        );
        assert_eq!(
            progress_line("a.mov", 0, Some(1 << 50), 1),
            "a.mov: 0 B of 1.0 PiB, 1 B/s, more than a day left"
        );
        assert_eq!(
            progress_line("a.mov", 0, Some(9), 0),
            "a.mov: 0 B of 9 B, 0 B/s"
        );
        assert_eq!(progress_line("a.mov", 5, None, 5), "a.mov: 5 B, 5 B/s");
    }
}
