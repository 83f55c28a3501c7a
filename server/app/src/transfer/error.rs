//! Why a transfer ended before its end.

use std::fmt;
use std::io;
use std::path::PathBuf;

use domain::digest::Sha256Digest;
use reqwest::StatusCode;
use serde::Deserialize;

/// Why a transfer ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Stopped by a signal.
    #[error("interrupted; {how_to_go_on}")]
    Interrupted {
        /// What to do to have the rest.
        how_to_go_on: String,
    },
    /// Too many attempts in a row moved nothing.
    #[error(
        "gave up after {attempts} attempts without progress; {how_to_go_on}; the last one failed: {reason}"
    )]
    GaveUp {
        /// How many.
        attempts: u32,
        /// What was wrong with the last.
        reason: String,
        /// What to do to have the rest.
        how_to_go_on: String,
    },
    /// The server does not do this.
    #[error("the server refused: {0}")]
    Refused(Refusal),
    /// The address leads to no server that could take the request, now or later.
    #[error("cannot reach {server}: {reason}")]
    Unreachable {
        /// Scheme, host and port.
        server: String,
        /// What is wrong, and what to do about it.
        reason: String,
    },
    /// There is not enough room for what is to come.
    #[error("{} needs {} and its file system has {} left: make room, or choose another place", path.display(), super::words::size(*needs), super::words::size(*has))]
    NoRoom {
        /// The file to be.
        path: PathBuf,
        /// In bytes.
        needs: u64,
        /// In bytes.
        has: u64,
    },
    /// The server's answer breaks the protocol.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
    /// The server cannot resume uploads, or does not say so.
    #[error(
        "{url} takes no resumable uploads: no Longhaul server answers there, or the path is wrong; a right one is http://127.0.0.1:8080/files/NAME"
    )]
    NotResumable {
        /// The target.
        url: String,
    },
    /// The file is larger than the server takes.
    #[error("the file has {size} bytes, and the server takes no more than {limit}")]
    TooLarge {
        /// The file's size.
        size: u64,
        /// The server's limit.
        limit: u64,
    },
    /// What arrived is not what was sent.
    #[error("{} is damaged: its SHA-256 is {local} here and {remote} on the server; {consequence}", path.display())]
    Mismatch {
        /// The local file.
        path: PathBuf,
        /// Its hash here.
        local: Sha256Digest,
        /// The server's.
        remote: Sha256Digest,
        /// What that means for the two copies.
        consequence: &'static str,
    },
    /// The file changed under the transfer.
    #[error("{} changed while it was read, so nothing came of this run and what there was stays; run the command again when nothing writes to the file", path.display())]
    FileChanged {
        /// The local file.
        path: PathBuf,
    },
    /// Only plain files can be uploaded.
    #[error(
        "{} is {}", path.display(),
        if *is_directory {
            "a directory: `longhaul publish DIRECTORY --pack NAME` publishes its files"
        } else {
            "no plain file, so a broken upload could not go on; write what it gives to a file first"
        }
    )]
    NotAFile {
        /// What is there.
        path: PathBuf,
        /// For these there is another command.
        is_directory: bool,
    },
    /// There is a file where the download should go.
    #[error("{} exists; --force replaces it", path.display())]
    Exists {
        /// The local file.
        path: PathBuf,
    },
    /// Another process works on the same transfer.
    #[error("another process holds {}: the same transfer seems to be running", path.display())]
    Busy {
        /// The locked file.
        path: PathBuf,
    },
    /// The local file system refused.
    #[error("failed to {doing} {}", path.display())]
    Local {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection cannot be made so.
    #[error("failed to set up the connection: {0}")]
    Setup(String),
}

impl Error {
    /// Whether the same command may succeed later and go on where this one ended.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Interrupted { .. } | Self::GaveUp { .. } | Self::Busy { .. } => true,
            Self::Refused(_)
            | Self::Unreachable { .. }
            | Self::NoRoom { .. }
            | Self::Nonsense(_)
            | Self::NotResumable { .. }
            | Self::TooLarge { .. }
            | Self::Mismatch { .. }
            | Self::FileChanged { .. }
            | Self::NotAFile { .. }
            | Self::Exists { .. }
            | Self::Local { .. }
            | Self::Setup(_) => false,
        }
    }

    /// Whether a signal was the reason.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
    }

    /// The status with which the server refused, if it did.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status.as_u16()),
            _ => None,
        }
    }
}

/// An answer that says no, with the server's reason where it gave one (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// The answer is a web page, which no answer of a Longhaul server is.
    pub is_page: bool,
    /// The problem document's words.
    pub problem: Option<Problem>,
}

/// The members of a problem document that people can read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// Names the kind of problem.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// What kind of problem, in a few words.
    #[serde(default)]
    pub title: String,
    /// What is wrong this time.
    #[serde(default)]
    pub detail: String,
    /// Identifies the request in the server's log.
    #[serde(default)]
    pub request_id: String,
}

impl Refusal {
    /// Whether the server got other bytes than the digest that was stated for them.
    pub(crate) fn is_digest_mismatch(&self) -> bool {
        let kind = self.problem.as_ref().map(|problem| &*problem.kind);
        kind.is_some_and(|kind| kind.ends_with("#digest-mismatched-values"))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        let hint = match self.status {
            _ if self.is_page => "; the answer is a web page, so this may be no Longhaul server",
            StatusCode::UNAUTHORIZED => "; give the key with --key or LONGHAUL_KEY",
            _ => "",
        };
        let Some(problem) = &self.problem else {
            return f.write_str(hint);
        };
        for words in [&problem.title, &problem.detail]
            .into_iter()
            .filter(|words| !words.is_empty())
        {
            write!(f, ": {}", printable(words))?;
        }
        if !problem.request_id.is_empty() {
            write!(f, " (request {})", printable(&problem.request_id))?;
        }
        f.write_str(hint)
    }
}

/// The server's words without anything that would drive a terminal.
pub(crate) fn printable(words: &str) -> String {
    words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Why one attempt failed, and so what to do next.
#[derive(Debug)]
pub(crate) enum Setback {
    /// It may work in a moment: a broken connection, a busy server.
    Passing {
        /// For people.
        reason: String,
        /// What `Retry-After` asked for.
        after: Option<std::time::Duration>,
    },
    /// What was transferred so far is of no use any more.
    StartAnew {
        /// For people.
        reason: String,
    },
    /// Trying again is pointless.
    Final(Error),
}

impl Setback {
    pub(crate) fn passing(reason: impl Into<String>) -> Self {
        Self::Passing {
            reason: reason.into(),
            after: None,
        }
    }

    pub(crate) fn start_anew(reason: impl Into<String>) -> Self {
        Self::StartAnew {
            reason: reason.into(),
        }
    }

    pub(crate) fn nonsense(what: impl Into<String>) -> Self {
        Self::Final(Error::Nonsense(what.into()))
    }
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_uses_the_servers_words() {
        let problem = |json: &str| Some(serde_json::from_str(json).unwrap());
        let show = |problem| {
            Refusal {
                status: StatusCode::PAYLOAD_TOO_LARGE,
                is_page: false,
                problem,
            }
            .to_string()
        };
        assert_eq!(show(None), "413 Payload Too Large");
        assert_eq!(
            show(problem(
                r#"{"title": "Too large", "detail": "at most\u001b[31m 5 bytes", "request_id": "r1", "other": 1}"#
            )),
            "413 Payload Too Large: Too large: at most [31m 5 bytes (request r1)"
        );
        assert_eq!(show(problem("{}")), "413 Payload Too Large");
    }
}
