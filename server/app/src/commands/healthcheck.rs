//! `longhaul healthcheck`: ask the server of this configuration whether it is ready.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use super::admin;
use crate::config::{Config, Flags};

/// Timeout of the request: longer than the server's own wait for its stores.
const LIMIT: Duration = Duration::from_secs(5);

/// Ask the running server whether it is ready, for containers without curl
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul healthcheck                            asks /readyz on 127.0.0.1:8079
  longhaul healthcheck --config longhaul.toml     asks where a server started the same way answers

Exits with 0 if the server is ready, with 1 and the reason if it is not.")]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.flags)?;
        super::block_on(ask(&format!("{}/readyz", admin::url(&config)?)))
    }
}

/// Fails with the detail of the server's problem document, if the answer has one.
async fn ask(url: &str) -> anyhow::Result<()> {
    let answer = admin::client(LIMIT)?
        .get(url)
        .send()
        .await
        .context("the server does not answer")?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let problem: Value = answer.json().await.unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("It does not say why.");
    anyhow::bail!("the server is not ready ({status} from {url}): {detail}")
}
