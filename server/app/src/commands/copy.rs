//! `longhaul copy`: move an installation from one configuration to another.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::copying::{self, Job};

/// Move an installation to other stores, such as from one machine to PostgreSQL and S3
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul copy --from longhaul.toml --to cluster.toml
  longhaul copy --from cluster.toml --to longhaul.toml     the way back

Both are configuration files of the server; of each, only data, [blobs] and [metadata] are used, and \
no environment variables. The target must be new: a database without facts, and a directory or \
bucket of its own, which must exist where the server would not make it.

Everything is copied: files, packs with all versions, drafts and open uploads, which clients go on \
with at the new place. What is copied is compared with the digests that were recorded, and all \
facts are read back before they count.

Published files never change, so most of the work can be done while the source still serves: run \
the command, stop the server, run it again. The second run copies what is new, which is quick, and \
then the facts. A run that was interrupted goes on where it was. The source is not changed.

Exit codes: 0 all is copied, 75 the source still serves: stop it and run the command again.")]
pub struct Args {
    /// Configuration of the installation to copy
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// Configuration of the new installation
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Number of blobs to copy at the same time
    #[arg(long, value_name = "N", default_value = "4")]
    jobs: NonZeroUsize,
    /// Read blobs that an earlier run copied, too, and compare them with their digests
    #[arg(long)]
    verify: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        super::block_on(copying::copy(Job {
            from: self.from,
            to: self.to,
            jobs: self.jobs.get(),
            verify: self.verify,
        }))
    }
}
