//! `longhaul download`: download a file from the server.

use std::path::PathBuf;

use anyhow::bail;
use reqwest::Url;

use crate::transfer::{self, Options, download::Job};

/// Download a file, and resume a broken download
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul download http://127.0.0.1:8080/files/2026/video.mov
                                                  as ./video.mov, or what the server calls it
  longhaul download https://files.example.org/files/clip.mov -o /tmp/ --limit-rate 2MiB
  LONGHAUL_KEY=lh_… longhaul download https://files.example.org/files/clip.mov -o clip.mov --json

Until it is whole and its SHA-256 is the server's, the file is called NAME.part; NAME.part.json \
beside it tells what it is part of. A broken connection is made again and the download goes on; so \
does one that is started again after it was interrupted, as long as the file on the server is the \
same. A server that is not there is waited for, for some minutes; --retries 0 does not wait. A pack is \
many files: `longhaul pull`.

With --json, each line on standard output is an object with an `event`: started, progress, \
retrying, restarted, done (file, url, etag, sha256, verified, bytes) or error (message, status, \
resumable).")]
pub struct Args {
    /// The file's URL
    #[arg(value_parser = super::url::http_url)]
    url: Url,
    /// File to write, or an existing directory
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    options: Options,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        if super::url::pack(&self.url).is_some() {
            bail!(
                "{0} is a pack, many files: use `longhaul pull {0} DIRECTORY`",
                self.url
            );
        }
        let job = Job {
            url: self.url,
            output: self.output,
            force: self.force,
        };
        super::block_on(async { Ok(transfer::download::run(job, &self.options).await?) })
    }
}
