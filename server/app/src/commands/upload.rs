//! `longhaul upload`: upload a file to the server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use domain::digest::Sha256Digest;
use etcetera::BaseStrategy as _;
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};

use crate::transfer::{self, Options, upload::Job};

/// Upload a file, and resume a broken upload
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul upload video.mov http://127.0.0.1:8080/files
                                                  the server chooses the URL and tells it
  longhaul upload video.mov http://127.0.0.1:8080/files/2026/
                                                  as /files/2026/video.mov
  longhaul upload video.mov http://127.0.0.1:8080/files/clip.mov --limit-rate 2MiB
  LONGHAUL_KEY=lh_… longhaul upload video.mov https://files.example.org/files --json

A broken connection is made again and the upload goes on; so does an upload that is started again \
after it was interrupted, as long as the file is the same. A server that is not there is waited for, \
for some minutes; --retries 0 does not wait.

When all is sent, the file is read once more and its SHA-256 goes along with the request that completes \
the upload. So what appears on the server is the file as it was at one moment: if something writes to \
it meanwhile, nothing appears, what was there stays, and the command says so. --key and --header go to the server of URL only; fields about the target \
(If-…, Content-…) are sent once, at the beginning.

With --json, each line on standard output is an object with an `event`: started, progress, \
retrying, restarted, done (url, etag, sha256, verified, bytes) or error (message, status, \
resumable).")]
pub struct Args {
    /// File to upload
    file: PathBuf,
    /// URL …/files (the server chooses the name), …/files/PATH, or …/ (appends the file's name)
    #[arg(value_parser = super::url::http_url)]
    url: Url,
    /// Method of the request, if the URL does not tell it [default: post for …/files, else put]
    #[arg(long)]
    method: Option<Verb>,
    /// Media type of the file, for example video/quicktime
    #[arg(long, value_name = "TYPE")]
    content_type: Option<HeaderValue>,
    /// Keep the record for resuming in this file instead of the user's state directory
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// Method by which a target takes a file.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Verb {
    Post,
    Put,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (method, target) = target(self.url, self.method, &self.file)?;
        if let Some(pack) = super::url::pack(&target) {
            let (name, server) = (pack.name(), target.origin().ascii_serialization());
            bail!(
                "{target} is a pack, which takes directories: use \
                 `longhaul publish DIRECTORY --pack {name} --server {server}`"
            );
        }
        let record = match self.state {
            Some(path) => path,
            None => record_path(&self.file, &method, &target)?,
        };
        let job = Job {
            file: self.file,
            method,
            target,
            content_type: self.content_type,
            record,
        };
        super::block_on(async { Ok(transfer::upload::run(job, &self.options).await?) })
    }
}

/// Returns the method for the URL.
fn target(mut url: Url, verb: Option<Verb>, file: &Path) -> anyhow::Result<(Method, Url)> {
    if url.path().ends_with('/') {
        let name = file
            .file_name()
            .with_context(|| format!("{} has no file name to append to the URL", file.display()))?;
        let mut segments = url.path_segments_mut().expect("an http URL has a path");
        segments.pop_if_empty().push(&name.to_string_lossy());
    }
    // A proxy may put any path before /files.
    let mut segments = url.path_segments().expect("an http URL has a path");
    let is_collection = segments.any(|segment| segment == "files") && segments.next().is_none();
    let method = match verb {
        Some(Verb::Post) => Method::POST,
        Some(Verb::Put) => Method::PUT,
        None if is_collection => Method::POST,
        None => Method::PUT,
    };
    Ok((method, url))
}

/// Returns the path of the record for this file and target, below the user's state directory.
fn record_path(file: &Path, method: &Method, target: &Url) -> anyhow::Result<PathBuf> {
    let base = etcetera::choose_base_strategy()
        .context("there is no home directory to note in how to go on; see --state")?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    let file = file
        .canonicalize()
        .with_context(|| format!("failed to read {}", file.display()))?;
    let transfer = format!("{}\n{method} {target}", file.display());
    let digest = Sha256Digest::of(transfer.as_bytes()).to_string();
    Ok(state
        .join("longhaul")
        .join("uploads")
        .join(format!("{}.json", &digest[..32])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expected: &str) {
        let (method, target) =
            target(url.parse().unwrap(), None, Path::new("/home/me/a b?.txt")).unwrap();
        assert_eq!(format!("{method} {}", target.path()), expected);
    }

    #[test]
    fn the_url_tells_the_request() {
        check("http://h/files", "POST /files");
        check("http://h/files?x=1", "POST /files");
        check("http://h/base/files", "POST /base/files");
        check("http://h/files/a/b.txt", "PUT /files/a/b.txt");
        check("http://h/files/a/files", "PUT /files/a/files");
        check("http://h/files/", "PUT /files/a%20b%3F.txt");
        check("http://h/files/2026/", "PUT /files/2026/a%20b%3F.txt");
        check("http://h/other", "PUT /other");
        check("http://h", "PUT /a%20b%3F.txt");
    }

    #[test]
    fn a_verb_decides_where_the_url_does_not() {
        let (method, _) = target(
            "http://h/packs/p/versions".parse().unwrap(),
            Some(Verb::Post),
            Path::new("a"),
        )
        .unwrap();
        assert_eq!(method, Method::POST);
        assert!(target("http://h/files/".parse().unwrap(), None, Path::new("..")).is_err());
    }
}
