//! `longhaul config`: what can be set.

use crate::config::{Config, Flags};

/// Print every setting with its default and what it means, as TOML
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul config > longhaul.toml                 a file to begin with
  longhaul config --effective --config longhaul.toml
                                                  what a server started the same way would use")]
pub struct Args {
    /// Print the values that the file, the environment and the flags add up to; secrets are blanked out
    #[arg(long)]
    effective: bool,
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let text = if self.effective {
            Config::effective(&self.flags)?
        } else {
            Config::defaults()
        };
        super::print(&text)
    }
}
