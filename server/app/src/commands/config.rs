//! `longhaul config`: print the settings, and check a configuration.

use std::path::Path;

use crate::config::{Config, Flags};
use crate::wiring;

/// Print every setting with its default and explanation, as TOML
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul config > longhaul.toml                 a file to begin with
  longhaul config --effective --config longhaul.toml
                                                  what a server started the same way would use
  longhaul config --check --config longhaul.toml  whether such a server would start with it")]
pub struct Args {
    /// Print the values in force: defaults, file, environment and flags together; secrets are
    /// blanked out
    #[arg(long)]
    effective: bool,
    /// Check the file, the environment and the flags, and the files that they name, without serving
    #[arg(long, conflicts_with = "effective")]
    check: bool,
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if self.check {
            return check(&self.flags);
        }
        let text = if self.effective {
            Config::effective(&self.flags)?
        } else {
            Config::defaults()
        };
        super::print(&text)
    }
}

/// Prints warnings, and fails if a server with this configuration would not start.
fn check(flags: &Flags) -> anyhow::Result<()> {
    let config = Config::load(flags)?;
    config.check_reach(&[config.listen])?;
    if let Some(tls) = config.tls.listener() {
        tls.check()?;
    }
    if let Some(file) = &config.packs.signing_key {
        wiring::read_signing_key(file)?;
    }
    let mut doubts = config.doubts(flags);
    doubts.extend(config.log.level.doubts());
    for doubt in doubts {
        super::print(&format!("warning: {doubt}\n"))?;
    }
    let name = flags.config.as_deref().map(Path::display);
    let of = name.map_or_else(String::new, |name| format!(" in {name}"));
    super::print(&format!("the configuration{of} is right\n"))
}
