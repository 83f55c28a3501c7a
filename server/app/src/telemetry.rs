//! What the program tells about itself while it runs: events on standard error.

mod json;

use std::io::{IsTerminal as _, stderr};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::JsonFields;

use self::json::JsonLines;

/// What is written to the log, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The least severe level that is written: `error`, `warn`, `info`, `debug` or `trace`. Parts can differ:
    /// `info,edge=debug`.
    pub level: String,
    /// How an event is written.
    pub format: Format,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: Format::Auto,
        }
    }
}

/// How an event is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text for people on a terminal, else JSON.
    Auto,
    /// Text for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What libraries say at levels that it does not deserve; `log.level` can bring it back.
///
/// PostgreSQL notices at every start that the table of migrations is there. The S3 client warns of each object that was uploaded in
/// parts, whose checksum it cannot compare.
const HUSHED: &str = "sqlx::postgres::notice=warn,aws_sdk_s3::http_response_checksum=error";

/// Begins to write events. They go to standard error, since standard output belongs to what a command makes.
///
/// # Errors
///
/// The level cannot be read, or events are being written already.
pub fn init(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(format!("{HUSHED},{}", config.level))
        .with_context(|| format!("the setting `log.level` does not fit: `{}`", config.level))?;
    let is_human = match config.format {
        Format::Auto => stderr().is_terminal(),
        Format::Human => true,
        Format::Json => false,
    };
    let events = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    let begun = if is_human {
        events.with_ansi(stderr().is_terminal()).try_init()
    } else {
        let events = events.fmt_fields(JsonFields::new());
        events.event_format(JsonLines).try_init()
    };
    begun
        .map_err(|source| anyhow::anyhow!(source))
        .context("failed to begin the log")
}
