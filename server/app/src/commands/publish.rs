//! `longhaul publish`: publish a directory as a version of a pack.

use std::path::PathBuf;

use archive::PackName;
use reqwest::Url;

use crate::packs::{self, PackAddress, Publish};
use crate::transfer::Options;

/// Publish a directory as the next version of a pack; upload only what the server lacks
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul publish ./maps --pack maps
  longhaul publish ./maps --pack maps --ignore .git --ignore '*.tmp'
  LONGHAUL_KEY=lh_… longhaul publish ./maps --pack maps --server https://files.example.org --json

The directory is read and hashed, and compared with the pack's latest version. Contents that the \
server has, of whatever pack and under whatever name, are not sent; the others go as one archive, \
which is made while it is sent and never written to disk. The version appears at once when all is \
there. A broken connection is made again and the upload goes on; so does a run that was \
interrupted, when the same command is started again. A file that changes between being hashed and \
being sent is named, and nothing is published.

Files must be plain and have names that are safe on every device: no links, no names that begin \
with a dot, no two that differ only in case. What is wrong is listed, with what to do about it. \
.DS_Store, ._* and __MACOSX are left out, and so is the .longhaul of a pulled directory.

With --json, standard output is one object with an `event`: published or unchanged (directory, \
url, pack, version, previous, files, size, added, changed, moved, removed, unchanged, contents, \
sent, seconds) or error (message, status, resumable). Sizes are bytes.")]
pub struct Args {
    /// Directory to publish
    directory: PathBuf,
    /// Name of the pack; its first version creates it
    #[arg(long, value_name = "NAME", value_parser = PackName::parse)]
    pack: PackName,
    /// URL of the server
    #[arg(long, value_name = "URL", default_value = super::LOCAL_SERVER, value_parser = super::url::server_url)]
    server: Url,
    /// Leave out files and directories of this name; `*` is any text, `?` any character; repeatable
    #[arg(long, value_name = "GLOB")]
    ignore: Vec<String>,
    /// Publish a new version even if nothing changed
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    options: Options,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let job = Publish {
            address: PackAddress::new(&self.server, self.pack).map_err(anyhow::Error::msg)?,
            directory: self.directory,
            ignore: self.ignore,
            force: self.force,
        };
        super::block_on(async { Ok(packs::publish(job, &self.options).await?) })
    }
}
