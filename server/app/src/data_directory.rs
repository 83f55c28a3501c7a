//! The data directory, and the advice for one that cannot be used.

use std::error::Error;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};

/// Ways to choose another data directory.
const OTHERWISE: &str =
    "choose another directory with --data DIR (setting `data`, variable LONGHAUL_DATA)";

/// Creates the directory for its owner alone, if it does not exist.
///
/// # Errors
///
/// It cannot be created, or the path is not a directory; the message says what to do.
pub(crate) fn make(data: &Path) -> anyhow::Result<()> {
    if let Ok(found) = fs::metadata(data) {
        anyhow::ensure!(
            found.is_dir(),
            "{} is no directory, so nothing can be kept in it: {OTHERWISE}",
            data.display()
        );
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.map_err(|error| match advice(&error, data) {
        Some(advice) => anyhow!(advice),
        None => anyhow::Error::new(error).context(format!(
            "cannot make the data directory {}: {OTHERWISE}",
            data.display()
        )),
    })
}

/// Returns the message for a data directory that another process uses.
fn in_use(data: &Path) -> anyhow::Error {
    anyhow!(
        "another server uses the data directory {}: stop it, or {OTHERWISE}",
        data.display()
    )
}

fn advice(error: &io::Error, data: &Path) -> Option<String> {
    let data_shown = data.display();
    Some(match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => full(data),
        ErrorKind::PermissionDenied => format!(
            "this user may not write in the data directory {data_shown}: give it the directory, for example with \
             `chown -R USER {data_shown}`, or {OTHERWISE}"
        ),
        ErrorKind::ReadOnlyFilesystem => {
            format!("the data directory {data_shown} is on a read-only file system: {OTHERWISE}")
        }
        ErrorKind::NotADirectory => {
            format!("a part of the path {data_shown} is no directory: {OTHERWISE}")
        }
        _ => return None,
    })
}

fn full(data: &Path) -> String {
    format!(
        "there is no space left for the data directory {}: make some, or {OTHERWISE}",
        data.display()
    )
}

/// Adds advice to the errors of opening a store.
pub(crate) trait Opened<T> {
    /// Adds `what` to an error, and advice if the data directory is the cause.
    fn or_advise(self, what: &'static str, data: &Path) -> anyhow::Result<T>;
}

impl<T> Opened<T> for Result<T, blobs::OpenError> {
    fn or_advise(self, what: &'static str, data: &Path) -> anyhow::Result<T> {
        let opened = self.map_err(|error| {
            let advice = match &error {
                blobs::OpenError::InUse { .. } => return in_use(data),
                blobs::OpenError::Failed { source, .. } => advice(source, data),
                _ => None,
            };
            with_advice(error, advice)
        });
        opened.context(what)
    }
}

impl<T> Opened<T> for Result<T, metadata::OpenError> {
    fn or_advise(self, what: &'static str, data: &Path) -> anyhow::Result<T> {
        let opened = self.map_err(|error| {
            let advice = match &error {
                metadata::OpenError::InUse { .. } => return in_use(data),
                metadata::OpenError::Lock { source, .. }
                | metadata::OpenError::File { source, .. } => advice(source, data),
                // SQLite reports a full disk with a code of its own, not with an error of the
                // system.
                error => anyhow::Chain::new(error)
                    .any(|cause| cause.to_string().contains("database or disk is full"))
                    .then(|| full(data)),
            };
            with_advice(error, advice)
        });
        opened.context(what)
    }
}

fn with_advice<E>(error: E, advice: Option<String>) -> anyhow::Error
where
    E: Error + Send + Sync + 'static,
{
    match advice {
        Some(advice) => anyhow::Error::new(error).context(advice),
        None => error.into(),
    }
}
