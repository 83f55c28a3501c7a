//! `longhaul copy`: copies an installation from one configuration to another.
//!
//! Bytes are copied before facts: the target has facts only when it has all their bytes. An
//! interrupted run has copied blobs, which the next run finds, and no facts. Published blobs never
//! change, so they can be copied while the source still serves; for the facts and open uploads it
//! must be stopped.

mod bytes;
mod progress;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use domain::BlobStore;
use metadata::Stores;
use metadata::copying::Database;
use thiserror::Error;

use self::bytes::{BytesCopier, PublishedSource};
use self::progress::Progress;
use crate::config::Config;
use crate::data_directory::{self, Opened as _};

/// Source and target of a copy.
#[derive(Debug)]
pub(crate) struct Job {
    /// Configuration of the installation to copy.
    pub(crate) from: PathBuf,
    /// Configuration of the new installation.
    pub(crate) to: PathBuf,
    /// Number of blobs copied at the same time.
    pub(crate) jobs: usize,
    /// Read blobs again that an earlier run copied, and compare them with their digests.
    pub(crate) verify: bool,
}

/// The source still serves, so only blobs were copied.
#[derive(Debug, Error)]
#[error(
    "the blobs are copied, but the source still serves ({reason}): stop it, then run the same command again, which copies \
     what is new since and the facts"
)]
pub(crate) struct StillServing {
    reason: String,
}

/// Access to the source.
enum Source {
    /// No other process uses the source.
    Stopped {
        blobs: Arc<dyn BlobStore>,
        stores: Stores,
    },
    /// A server uses the source.
    Serving { reason: String },
}

/// Copies the installation, or only its blobs while the source serves.
///
/// # Errors
/// [`StillServing`], and failures to open, read or write a store.
pub(crate) async fn copy(job: Job) -> anyhow::Result<()> {
    let from = Config::of_file(&job.from).context("the source's configuration")?;
    let to = Config::of_file(&job.to).context("the target's configuration")?;
    let target = open(&to).await.context("failed to open the target")?;
    let mut there = Database::connect(&to.metadata, &to.data).await?;
    there.check_empty().await?;
    let serving = there.serving().await?;
    ensure!(
        serving == 0,
        "{} at the target: stop it before something is written there",
        servers(serving)
    );
    let source = open_source(&from)
        .await
        .context("failed to open the source")?;
    let mut here = Database::connect(&from.metadata, &from.data).await?;
    let source = match here.serving().await? {
        0 => source,
        serving => Source::Serving {
            reason: servers(serving),
        },
    };

    let totals = here.totals().await?;
    let progress = Progress::begin(totals);
    let copier = BytesCopier {
        target: Arc::clone(&target.0),
        progress: progress.clone(),
        verify: job.verify,
        jobs: job.jobs,
    };
    let published = match &source {
        Source::Stopped { blobs, .. } => PublishedSource::Store(Arc::clone(blobs)),
        Source::Serving { .. } => {
            PublishedSource::Serving(blobs::Published::of(&from.blobs, &from.data).await?)
        }
    };
    let copied = copier.copy_published(&mut here, published).await?;
    match source {
        Source::Serving { reason } => {
            progress.end(&copied);
            Err(StillServing { reason }.into())
        }
        Source::Stopped { blobs, stores } => {
            copier.copy_staged(&mut here, &*blobs).await?;
            progress.facts();
            let told = progress.clone();
            there
                .fill(&mut here, &mut |rows| told.rows(rows))
                .await
                .context("failed to copy the facts")?;
            drop((here, there));
            stores.metadata.close().await;
            target.1.metadata.close().await;
            progress.end(&copied);
            progress.say(&format!(
                "all of it is copied and verified: start the servers with {}, and keep the source until you have seen them work",
                job.to.display()
            ));
            Ok(())
        }
    }
}

fn servers(count: u64) -> String {
    match count {
        1 => "a server is running, or was killed some seconds ago".to_owned(),
        _ => format!("{count} servers are running, or were killed some seconds ago"),
    }
}

async fn open(config: &Config) -> anyhow::Result<(Arc<dyn BlobStore>, Stores)> {
    let data = &config.data;
    // The stores create their own directories, except that of a database.
    data_directory::make(data)?;
    let blobs = blobs::open(&config.blobs, data).await;
    let blobs = blobs.or_advise("failed to open the blob store", data)?;
    let stores = metadata::open(&config.metadata, data).await;
    let stores = stores.or_advise("failed to open the metadata store", data)?;
    Ok((blobs, stores))
}

async fn open_source(config: &Config) -> anyhow::Result<Source> {
    let serving = |reason: String| Ok(Source::Serving { reason });
    let blobs = match blobs::open(&config.blobs, &config.data).await {
        Err(error @ blobs::OpenError::InUse { .. }) => return serving(error.to_string()),
        blobs => blobs?,
    };
    let stores = match metadata::open(&config.metadata, &config.data).await {
        Err(error @ metadata::OpenError::InUse { .. }) => return serving(error.to_string()),
        stores => stores?,
    };
    Ok(Source::Stopped { blobs, stores })
}
