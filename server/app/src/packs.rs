//! Client for packs: publishes a directory as a version, and pulls a version into a directory.
//!
//! [`publish()`] scans a directory, asks the server for the contents that it lacks, and sends them
//! as one archive that exists only while it is read. [`pull()`] finds the contents that a directory
//! lacks, fetches them as one archive, and exchanges the files that differ. `plan` describes the
//! treatment of files that are not the pack's, and `exchange` the states that a reader or a crash
//! can see.

mod address;
mod api;
mod apply;
mod catalogue;
mod content;
mod exchange;
mod files;
#[cfg(test)]
mod fixture;
mod holding;
mod plan;
mod publish;
mod pull;
mod scan;
mod staging;
mod survey;
mod work;

use std::fmt::Write as _;
use std::path::PathBuf;

use archive::{CatalogueError, UnpackError};

use crate::transfer;
pub use address::PackAddress;
pub use publish::{Publish, publish};
pub use pull::{PublicKey, Pull, pull};

/// Directory at the top of a pulled tree with the record of its version.
const STATE_DIRECTORY: &str = archive::RESERVED_DIRECTORY;

/// Failure of publishing or pulling a pack.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Failure of the server or the connection.
    #[error(transparent)]
    Transfer(#[from] transfer::Error),
    /// The directory has entries that a pack cannot have.
    #[error("{} cannot be published as it is:{}", directory.display(), list(problems))]
    Unfit {
        /// The scanned directory.
        directory: PathBuf,
        /// Faults, each with advice.
        problems: Vec<String>,
    },
    /// The directory has no files.
    #[error("{} has no files, so there is nothing to publish", .0.display())]
    NoFiles(PathBuf),
    /// The draft does not exist any more.
    #[error("the server no longer has the draft; run the command again to begin with a new one")]
    DraftGone,
    /// The server lost contents again and again.
    #[error(
        "the server still lacks {contents} contents after {rounds} rounds; run the command again"
    )]
    StillMissing {
        /// Number of missing contents.
        contents: u64,
        /// Number of attempts.
        rounds: u32,
    },
    /// The directory has files that no pull left.
    #[error("{} has files that no pull put there: choose another directory, or give --force to pull into this one (its files stay, but for those that stand in the way)", .0.display())]
    NotAPack(PathBuf),
    /// A file of the user is at a path of the version.
    #[error("{paths}: in the way of the version's files in {}, and not put there by a pull, so nothing was changed: move it away, or give --force to replace it", directory.display())]
    InTheWay {
        /// The directory.
        directory: PathBuf,
        /// Paths below it.
        paths: Named,
    },
    /// A mount point is at the path of a file of the version.
    #[error(
        "{0}: something is mounted there, and the version has a file in its place, so nothing was changed: unmount it first"
    )]
    Mounted(Named),
    /// The directory's path is a file.
    #[error("{} is no directory, so nothing can be pulled into it: name another, or remove it", .0.display())]
    NoDirectory(PathBuf),
    /// A dry run cannot finish an interrupted exchange.
    #[error("an earlier pull into {} was cut while it put files in place: pull without --dry-run to finish it", .0.display())]
    Unfinished(PathBuf),
    /// The directory has another pack.
    #[error("{} is of the pack {held}, not {asked}: choose another directory, or give --force", directory.display())]
    OtherPack {
        /// The directory.
        directory: PathBuf,
        /// Pack of the directory.
        held: String,
        /// Requested pack.
        asked: String,
    },
    /// The signature is not of this key.
    #[error("the catalogue is not signed by the key of --public-key; nothing was changed")]
    BadSignature,
    /// The received data does not match the catalogue.
    #[error("the server's catalogue cannot be used: {0}")]
    BadCatalogue(String),
    /// The received data is not an archive.
    #[error("the archive that came is damaged ({0}); run the command again to fetch it anew")]
    BadArchive(#[from] UnpackError),
    /// A received file does not match the catalogue.
    #[error("`{path}` came damaged: {what}; run the command again to fetch it anew")]
    BadEntry {
        /// Path in the archive.
        path: String,
        /// Difference.
        what: &'static str,
    },
}

impl Error {
    /// Returns true if the same command may succeed later and resume.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Transfer(error) => error.may_pass(),
            Self::DraftGone
            | Self::StillMissing { .. }
            | Self::BadArchive(_)
            | Self::BadEntry { .. } => true,
            Self::Unfit { .. }
            | Self::NoFiles(_)
            | Self::NotAPack(_)
            | Self::InTheWay { .. }
            | Self::Mounted(_)
            | Self::NoDirectory(_)
            | Self::Unfinished(_)
            | Self::OtherPack { .. }
            | Self::BadSignature
            | Self::BadCatalogue(_) => false,
        }
    }

    /// Returns true if a signal stopped the command.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Transfer(error) if error.is_interruption())
    }

    /// Returns true if the system denies access to a file.
    fn is_denied(&self) -> bool {
        match self {
            Self::Transfer(transfer::Error::Local { source, .. }) => {
                source.kind() == std::io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }

    /// Returns true if the fetched archive is damaged.
    fn is_damage(&self) -> bool {
        matches!(self, Self::BadArchive(_) | Self::BadEntry { .. })
    }

    fn local(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| {
            Self::Transfer(transfer::Error::Local {
                doing,
                path,
                source,
            })
        }
    }

    fn changed(path: impl Into<PathBuf>) -> Self {
        Self::Transfer(transfer::Error::FileChanged { path: path.into() })
    }
}

impl From<CatalogueError> for Error {
    fn from(error: CatalogueError) -> Self {
        Self::BadCatalogue(transfer::chain(&error))
    }
}

/// Paths for a sentence, the first of them by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named(pub Vec<String>);

impl Named {
    /// Names the first of `count` paths.
    fn of(first: &[String], count: usize) -> String {
        const MAX: usize = 3;
        let names = first
            .iter()
            .take(MAX)
            .map(|path| transfer::printable(path))
            .collect::<Vec<_>>()
            .join(", ");
        match count.saturating_sub(MAX) {
            0 => names,
            more => format!("{names} and {more} more"),
        }
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&Self::of(&self.0, self.0.len()))
    }
}

/// Formats a count with its noun: `1 file`, `2 files`.
fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// Formats lines below a heading, at most ten of them.
fn list(problems: &[String]) -> String {
    const MAX: usize = 10;
    let mut text = String::new();
    for problem in problems.iter().take(MAX) {
        let _ = write!(text, "\n  {problem}");
    }
    if problems.len() > MAX {
        let _ = write!(text, "\n  and {} more", problems.len() - MAX);
    }
    text
}

/// Prints the end of a command for scripts: one object on one line.
fn tell_script(ending: &impl serde::Serialize) {
    let line = serde_json::to_string(ending).expect("endings are made of text and numbers");
    transfer::write_line(std::io::stdout(), &line);
}

/// Failure, as `--json` writes it.
#[derive(Debug, serde::Serialize)]
struct Failure {
    event: &'static str,
    message: String,
    status: Option<u16>,
    resumable: bool,
}

impl Failure {
    fn of(error: &Error) -> Self {
        Self {
            event: "error",
            message: transfer::chain(error),
            status: match error {
                Error::Transfer(error) => error.status(),
                _ => None,
            },
            resumable: error.may_pass(),
        }
    }
}

/// Runs a command until it ends or a signal stops it.
async fn interruptible<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        ended = work => ended,
        // The next run finds unfinished work, or repeats it.
        () = transfer::interruption() => Err(Error::Transfer(transfer::Error::Interrupted {
            how_to_go_on: "run the same command again to go on".to_owned(),
        })),
    }
}
