//! What the user sees: a bar on a terminal, one line elsewhere, or events for scripts.

use std::io::{IsTerminal as _, stderr, stdout};
use std::time::Duration;

use bytesize::ByteSize;
use domain::digest::Sha256Digest;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::time::Instant;

use super::connection::chain;
use super::error::Error;

/// Least time between two progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// One thing that happened, as `--json` writes it.
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

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Direction {
    Upload,
    Download,
}

/// How a transfer ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) file: String,
    pub(crate) url: String,
    pub(crate) etag: Option<String>,
    pub(crate) sha256: Sha256Digest,
    /// Whether the server told the same SHA-256.
    pub(crate) verified: bool,
    pub(crate) bytes: u64,
}

/// Tells what happens, in one of three ways.
#[derive(Debug)]
pub(crate) struct Report {
    audience: Audience,
    direction: Direction,
    begun: Instant,
    /// Bytes that an earlier run had moved already.
    begun_at: u64,
    retries: u32,
    restarts: u32,
}

#[derive(Debug)]
enum Audience {
    Terminal(ProgressBar),
    /// Standard error is not a terminal: only the ending is told.
    Line,
    Script {
        last: Option<(Instant, u64)>,
    },
}

impl Report {
    pub(crate) fn new(direction: Direction, json: bool) -> Self {
        let audience = if json {
            Audience::Script { last: None }
        } else if stderr().is_terminal() {
            Audience::Terminal(ProgressBar::hidden())
        } else {
            Audience::Line
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

    /// For a command of several steps, which tells its end itself: bars on a terminal, and nothing elsewhere.
    pub(crate) fn of_steps(direction: Direction, json: bool) -> Self {
        let audience = if !json && stderr().is_terminal() {
            Audience::Terminal(ProgressBar::hidden())
        } else {
            Audience::Line
        };
        Self {
            audience,
            ..Self::new(direction, false)
        }
    }

    /// A step is done; the next one begins with [`started`](Self::started).
    pub(crate) fn step_done(&self) {
        if let Audience::Terminal(bar) = &self.audience {
            bar.finish_and_clear();
        }
    }

    /// The transfer of `file` begins at `offset`.
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
            Audience::Line => {}
            Audience::Script { .. } => write_event(&Event::Started {
                direction,
                file,
                url,
                size,
                offset,
            }),
        }
    }

    /// `bytes` of `size` have moved.
    pub(crate) fn progress(&mut self, bytes: u64, size: Option<u64>) {
        match &mut self.audience {
            Audience::Terminal(bar) => bar.set_position(bytes),
            Audience::Line => {}
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

    /// An attempt failed; the next one comes after `wait`.
    pub(crate) fn retrying(&mut self, reason: &str, attempt: u32, retries: u32, wait: Duration) {
        self.retries += 1;
        match &self.audience {
            Audience::Terminal(bar) => bar.println(format!(
                "{reason}; trying again in {} ({attempt} of {retries})",
                humantime::format_duration(rounded(wait))
            )),
            Audience::Line => {}
            Audience::Script { .. } => {
                write_event(&Event::Retrying {
                    reason,
                    attempt,
                    retries,
                    wait_seconds: wait.as_secs_f64(),
                });
            }
        }
    }

    /// What was moved so far is of no use; the transfer begins anew.
    pub(crate) fn restarted(&mut self, reason: &str) {
        self.restarts += 1;
        self.begun_at = 0;
        match &mut self.audience {
            Audience::Terminal(bar) => {
                bar.println(format!("{reason}; starting anew"));
                bar.set_position(0);
            }
            Audience::Line => {}
            Audience::Script { last } => {
                *last = None;
                write_event(&Event::Restarted { reason });
            }
        }
    }

    /// Something that only a person wants to know.
    pub(crate) fn note(&self, text: &str) {
        if let Audience::Terminal(bar) = &self.audience {
            bar.println(text);
        }
    }

    /// The transfer is done.
    pub(crate) fn done(&self, outcome: &Outcome) {
        match &self.audience {
            Audience::Terminal(bar) => {
                bar.finish_and_clear();
                write_line(stderr(), &self.summary(outcome));
            }
            Audience::Line => write_line(stderr(), &self.summary(outcome)),
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

    /// The transfer ended without success; the message for people comes from the command itself.
    pub(crate) fn failed(&self, error: &Error) {
        match &self.audience {
            Audience::Terminal(bar) => bar.abandon(),
            Audience::Line => {}
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
            ByteSize(outcome.bytes),
            humantime::format_duration(rounded(elapsed)),
            ByteSize(rate),
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
        "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left"
    } else {
        "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}"
    };
    ProgressStyle::with_template(template).expect("the templates are well formed")
}

fn per_second(bytes: u64, elapsed: Duration) -> u64 {
    let millis = elapsed.as_millis().max(1);
    u64::try_from(u128::from(bytes) * 1000 / millis).unwrap_or(u64::MAX)
}

/// As exact as people want it.
fn rounded(time: Duration) -> Duration {
    let unit = if time < Duration::from_secs(10) {
        100
    } else {
        1000
    };
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / unit * unit)
}

fn write_event(event: &Event<'_>) {
    let line = serde_json::to_string(event).expect("events are made of text and numbers");
    write_line(stdout(), &line);
}

/// One whole line at once. Whoever closed the other end does not want to know, and the transfer goes on.
pub(crate) fn write_line(mut to: impl std::io::Write, line: &str) {
    let _ = to
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| to.flush());
}
