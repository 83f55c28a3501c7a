//! Log of the running program: events on standard error.

mod directives;
mod json;
mod sink;

use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::panic::PanicHookInfo;
use std::time::Duration;

use anyhow::Context as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use self::directives::Directives;
use self::json::JsonLines;
use self::sink::Sink;

/// Time for the reader of standard error to take the last lines at the program's end.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Level and format of the log.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Least severe level to write: `error`, `warn`, `info`, `debug` or `trace`; `off` writes
    /// nothing. Parts can differ: `info,edge=debug`. `SIGHUP` reloads it.
    pub level: Directives,
    /// Format of an event.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            level: Directives::default(),
            format: Format::Auto,
        }
    }
}

/// Format of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text for people on a terminal, else JSON.
    Auto,
    /// Text for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Log of this process.
pub struct Log {
    sink: Sink,
    set_filter: Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Log {
    /// Starts to write events and panics to standard error. Standard output is for the results of
    /// commands.
    ///
    /// # Errors
    ///
    /// The log has been started before, or the system refuses a thread.
    pub fn begin(config: &Config) -> anyhow::Result<Self> {
        let is_human = match config.format {
            Format::Auto => stderr().is_terminal(),
            Format::Human => true,
            Format::Json => false,
        };
        let notice = if is_human { human_notice } else { json::notice };
        let sink = Sink::start(stderr(), notice).context("failed to start the log's thread")?;
        let events = tracing_subscriber::fmt()
            .with_env_filter(config.level.filter())
            .with_writer({
                let sink = sink.clone();
                move || sink.clone()
            });
        let (begun, set_filter): (_, Box<dyn Fn(_) -> _ + Send + Sync>) = if is_human {
            let events = events
                .with_ansi(stderr().is_terminal())
                .with_filter_reloading();
            let filter = events.reload_handle();
            (
                events.finish().try_init(),
                Box::new(move |new| filter.reload(new)),
            )
        } else {
            let events = events
                .fmt_fields(JsonFields::new())
                .event_format(JsonLines)
                .with_filter_reloading();
            let filter = events.reload_handle();
            (
                events.finish().try_init(),
                Box::new(move |new| filter.reload(new)),
            )
        };
        begun.context("failed to begin the log")?;
        std::panic::set_hook(Box::new(tell_of_panic));
        doubt(&config.level);
        Ok(Self { sink, set_filter })
    }

    /// Changes the levels from now on.
    ///
    /// # Errors
    ///
    /// The log is gone.
    pub fn set_level(&self, level: &Directives) -> anyhow::Result<()> {
        (self.set_filter)(level.filter()).context("failed to change the level of the log")?;
        doubt(level);
        Ok(())
    }

    /// Waits for the last lines to be written, for at most a second.
    pub fn end(&self) {
        self.sink.settle(LAST_LINES);
    }
}

fn doubt(level: &Directives) {
    for doubt in level.doubts() {
        tracing::warn!("{doubt}");
    }
}

/// Logs a panic instead of Rust's own message, whose write may block.
fn tell_of_panic(panic: &PanicHookInfo<'_>) {
    let reason = panic.payload_as_str().unwrap_or("no reason is given");
    let place = panic.location().map(ToString::to_string);
    let thread = std::thread::current();
    tracing::error!(
        reason,
        place,
        thread = thread.name(),
        "a part of the program has panicked: this is a fault of Longhaul, please report it"
    );
}

fn human_notice(lost: u64) -> String {
    format!("{lost} lines of the log were lost here: standard error could not be written\n")
}
