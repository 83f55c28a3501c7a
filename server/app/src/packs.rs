//! Packs from the client's side: a directory becomes a version of a pack, and a version becomes a directory.
//!
//! [`publish()`] scans a directory, asks the server which contents it lacks, and sends those as one archive that exists
//! only while it is read. [`pull()`] works the other way round: it finds out which contents a directory lacks, fetches
//! those as one archive, and exchanges the files that differ. What it does with files that are not the pack's is said in
//! `plan`, and what a reader or a crash can see in `exchange`.

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

/// The directory at the top of a pulled tree that says what the tree is.
const STATE_DIRECTORY: &str = archive::RESERVED_DIRECTORY;

/// Why a pack was not published or pulled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server or the connection to it.
    #[error(transparent)]
    Transfer(#[from] transfer::Error),
    /// The directory has things that no pack has.
    #[error("{} cannot be published as it is:{}", directory.display(), list(problems))]
    Unfit {
        /// What was scanned.
        directory: PathBuf,
        /// What is wrong, and what to do about it.
        problems: Vec<String>,
    },
    /// There is nothing to publish.
    #[error("{} has no files, so there is nothing to publish", .0.display())]
    NoFiles(PathBuf),
    /// The draft is not there any more.
    #[error("the server no longer has the draft; run the command again to begin with a new one")]
    DraftGone,
    /// The contents went missing on the server again and again.
    #[error(
        "the server still lacks {contents} contents after {rounds} rounds; run the command again"
    )]
    StillMissing {
        /// How many.
        contents: u64,
        /// How often it was tried.
        rounds: u32,
    },
    /// The directory has files, and no pull left them.
    #[error("{} has files that no pull put there: choose another directory, or give --force to pull into this one (its files stay, but for those that stand in the way)", .0.display())]
    NotAPack(PathBuf),
    /// Something of the user's stands where the version has something else.
    #[error("{paths}: in the way of the version's files in {}, and not put there by a pull, so nothing was changed: move it away, or give --force to replace it", directory.display())]
    InTheWay {
        /// The directory.
        directory: PathBuf,
        /// Below it.
        paths: Named,
    },
    /// Something is mounted where the version has a file.
    #[error(
        "{0}: something is mounted there, and the version has a file in its place, so nothing was changed: unmount it first"
    )]
    Mounted(Named),
    /// A file stands where the directory should.
    #[error("{} is no directory, so nothing can be pulled into it: name another, or remove it", .0.display())]
    NoDirectory(PathBuf),
    /// A dry run that would have to do something.
    #[error("an earlier pull into {} was cut while it put files in place: pull without --dry-run to finish it", .0.display())]
    Unfinished(PathBuf),
    /// The directory is another pack's.
    #[error("{} is of the pack {held}, not {asked}: choose another directory, or give --force", directory.display())]
    OtherPack {
        /// The directory.
        directory: PathBuf,
        /// The pack that it holds.
        held: String,
        /// The pack that was asked for.
        asked: String,
    },
    /// The signature is not by this key.
    #[error("the catalogue is not signed by the key of --public-key; nothing was changed")]
    BadSignature,
    /// What came is not what the catalogue says.
    #[error("the server's catalogue cannot be used: {0}")]
    BadCatalogue(String),
    /// What came is not an archive.
    #[error("the archive that came is damaged ({0}); run the command again to fetch it anew")]
    BadArchive(#[from] UnpackError),
    /// What came is not the file that the catalogue promises.
    #[error("`{path}` came damaged: {what}; run the command again to fetch it anew")]
    BadEntry {
        /// In the archive.
        path: String,
        /// How it differs.
        what: &'static str,
    },
}

impl Error {
    /// Whether the same command may succeed later and go on where this one ended.
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

    /// Whether a signal was the reason.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Transfer(error) if error.is_interruption())
    }

    /// Whether the system does not let us look.
    fn is_denied(&self) -> bool {
        match self {
            Self::Transfer(transfer::Error::Local { source, .. }) => {
                source.kind() == std::io::ErrorKind::PermissionDenied
            }
            _ => false,
        }
    }

    /// Whether what was fetched is of no use.
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

/// Paths in a sentence, the first of them by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named(pub Vec<String>);

impl Named {
    /// The first of `count` paths.
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

/// `1 file`, `2 files`.
fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

/// Lines below a heading, at most ten of them.
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

/// The end of a command for scripts: one object on one line.
fn tell_script(ending: &impl serde::Serialize) {
    let line = serde_json::to_string(ending).expect("endings are made of text and numbers");
    transfer::write_line(std::io::stdout(), &line);
}

/// A failure as `--json` tells it.
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

/// Runs a command until it ends or the user wants it to end.
async fn interruptible<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::select! {
        ended = work => ended,
        // Whatever was under way is found again, or made again, by the next run.
        () = transfer::interruption() => Err(Error::Transfer(transfer::Error::Interrupted {
            how_to_go_on: "run the same command again to go on".to_owned(),
        })),
    }
}
