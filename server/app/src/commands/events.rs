//! `longhaul events`: show and replay events whose delivery was given up.

use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;

use super::admin;
use crate::config::{Config, Flags};

/// Timeout of the request for a page.
const LIMIT: Duration = Duration::from_secs(30);
/// Timeout of the request to replay all events.
const REPLAY_LIMIT: Duration = Duration::from_mins(10);
/// Events of a page.
const PAGE: &str = "1000";

/// Show events that could not be delivered, and deliver them again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul events list                            what was given up, one event a line, and why
  longhaul events list --json                     the same with all there is, one JSON object a line
  longhaul events replay 4f0c…                    deliver one of them after all
  longhaul events replay --all                    deliver all of them after all

Asks the running server on its admin listener (`admin.listen`, 127.0.0.1:8079).")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show events whose delivery was given up
    List {
        #[command(flatten)]
        flags: Flags,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Deliver events again whose delivery was given up
    Replay {
        #[command(flatten)]
        flags: Flags,
        /// Id of the event, as `list` shows it
        #[arg(required_unless_present = "all", value_name = "ID")]
        id: Option<String>,
        /// Replay all of them
        #[arg(long, conflicts_with = "id")]
        all: bool,
    },
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.action {
            Action::List { flags, json } => {
                let url = admin::url(&Config::load(&flags)?)?;
                super::block_on(list(&url, json))
            }
            Action::Replay { flags, id, .. } => {
                let url = admin::url(&Config::load(&flags)?)?;
                super::block_on(replay(&url, id.as_deref()))
            }
        }
    }
}

#[derive(Debug, Deserialize)]
struct Page {
    events: Vec<Value>,
    cursor: Option<String>,
}

async fn list(url: &str, json: bool) -> anyhow::Result<()> {
    let client = admin::client(LIMIT)?;
    let mut cursor: Option<String> = None;
    loop {
        let mut asked = url::Url::parse(&format!("{url}/events/dead"))?;
        asked.query_pairs_mut().append_pair("limit", PAGE);
        if let Some(cursor) = &cursor {
            asked.query_pairs_mut().append_pair("cursor", cursor);
        }
        let page = client.get(asked).send().await;
        let page: Page = answered(page).await?.json().await?;
        for event in &page.events {
            let line = if json { event.to_string() } else { line(event) };
            super::print(&format!("{line}\n"))?;
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

/// Formats an event for people, one line.
fn line(event: &Value) -> String {
    let text = |name: &str| event[name].as_str().unwrap_or("?");
    format!(
        "{}  {}  {}  {}  ({} attempts: {})",
        text("id"),
        text("dead_at"),
        text("type"),
        text("subject"),
        event["failures"],
        text("last_error"),
    )
}

#[derive(Debug, Deserialize)]
struct Replayed {
    replayed: u64,
}

/// Replays one event, or all.
async fn replay(url: &str, id: Option<&str>) -> anyhow::Result<()> {
    let mut asked = url::Url::parse(url)?;
    // Escapes the id.
    asked
        .path_segments_mut()
        .map_err(|()| anyhow::anyhow!("{url} has no path"))?
        .extend(["events", "dead"])
        .extend(id)
        .push("replay");
    let sent = admin::client(REPLAY_LIMIT)?.post(asked).send().await;
    let Replayed { replayed } = answered(sent).await?.json().await?;
    let things = if replayed == 1 { "event" } else { "events" };
    super::print(&format!("{replayed} {things} will be delivered again\n"))
}

/// Fails with the detail of the server's problem document, if the answer has one.
async fn answered(sent: reqwest::Result<Response>) -> anyhow::Result<Response> {
    let answer = sent.context("the server does not answer on its admin listener")?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let problem: Value = answer.json().await.unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("It does not say why.");
    anyhow::bail!("the server refused ({status}): {detail}")
}
