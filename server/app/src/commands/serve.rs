//! `longhaul serve`: the server.

use crate::config::{Config, Flags};
use crate::telemetry;

/// Run the server
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul serve                                  on 127.0.0.1:8080, for everyone on this machine
  longhaul serve --listen 0.0.0.0:80 --data /srv/longhaul --config longhaul.toml
  LONGHAUL_LOG__LEVEL=debug longhaul serve        any setting can come from the environment

`longhaul config` lists all settings.")]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    /// Reads the configuration, begins the log and serves.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.flags)?;
        telemetry::init(&config.log)?;
        super::block_on(run(config))
    }
}

/// Serves until the process is told to stop.
///
/// # Errors
///
/// The server cannot be started with this configuration.
pub async fn run(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("serving {} on {} is not wired yet", config.data.display(), config.listen)
}
