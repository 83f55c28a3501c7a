//! Failure of a transfer.

use std::fmt;
use std::io;
use std::path::PathBuf;

use domain::digest::Sha256Digest;
use reqwest::StatusCode;
use serde::Deserialize;

/// Failure of a transfer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Stopped by a signal.
    #[error("interrupted; {how_to_go_on}")]
    Interrupted {
        /// Advice for getting the rest.
        how_to_go_on: String,
    },
    /// Too many attempts in a row moved nothing.
    #[error(
        "gave up after {attempts} attempts without progress; {how_to_go_on}; the last one failed: {reason}"
    )]
    GaveUp {
        /// Number of attempts.
        attempts: u32,
        /// Reason of the last failure.
        reason: String,
        /// Advice for getting the rest.
        how_to_go_on: String,
    },
    /// The server refuses the request.
    #[error("the server refused: {0}")]
    Refused(Refusal),
    /// The address has no server for the request, now or later.
    #[error("cannot reach {server}: {reason}")]
    Unreachable {
        /// Scheme, host and port.
        server: String,
        /// Reason and advice.
        reason: String,
    },
    /// The file system has no room for the rest.
    #[error("{} needs {} and its file system has {} left: make room, or choose another place", path.display(), super::words::size(*needs), super::words::size(*has))]
    NoRoom {
        /// The destination.
        path: PathBuf,
        /// In bytes.
        needs: u64,
        /// In bytes.
        has: u64,
    },
    /// The server's answer breaks the protocol.
    #[error("the server's answer makes no sense: {0}")]
    Nonsense(String),
    /// The server does not announce resumable uploads.
    #[error(
        "{url} takes no resumable uploads: no Longhaul server answers there, or the path is wrong; a right one is http://127.0.0.1:8080/files/NAME"
    )]
    NotResumable {
        /// The target.
        url: String,
    },
    /// The file is larger than the server's limit.
    #[error("the file has {size} bytes, and the server takes no more than {limit}")]
    TooLarge {
        /// The file's size.
        size: u64,
        /// The server's limit.
        limit: u64,
    },
    /// The two copies have different digests.
    #[error("{} is damaged: its SHA-256 is {local} here and {remote} on the server; {consequence}", path.display())]
    Mismatch {
        /// The local file.
        path: PathBuf,
        /// Hash of the local file.
        local: Sha256Digest,
        /// Hash of the server's file.
        remote: Sha256Digest,
        /// Consequence for the two copies.
        consequence: &'static str,
    },
    /// The file changed during the transfer.
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
        /// Type of the file.
        path: PathBuf,
        /// True for a directory, for which there is another command.
        is_directory: bool,
    },
    /// The destination exists.
    #[error("{} exists; --force replaces it", path.display())]
    Exists {
        /// The local file.
        path: PathBuf,
    },
    /// Another process runs the same transfer.
    #[error("another process holds {}: the same transfer seems to be running", path.display())]
    Busy {
        /// The locked file.
        path: PathBuf,
    },
    /// Error of the local file system.
    #[error("failed to {doing} {}", path.display())]
    Local {
        /// The attempted operation.
        doing: &'static str,
        /// Path of the operation.
        path: PathBuf,
        /// Error of the system.
        source: io::Error,
    },
    /// The connection cannot be configured so.
    #[error("failed to set up the connection: {0}")]
    Setup(String),
}

impl Error {
    /// Returns true if the same command may succeed later and resume.
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

    /// Returns true if a signal stopped the transfer.
    pub fn is_interruption(&self) -> bool {
        matches!(self, Self::Interrupted { .. })
    }

    /// Returns the status of the server's refusal, if it refused.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused(refusal) => Some(refusal.status.as_u16()),
            _ => None,
        }
    }
}

/// Answer that refuses, with the server's problem document, if it has one (RFC 9457).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The answer's status.
    pub status: StatusCode,
    /// True if the answer is a web page, which a Longhaul server never sends.
    pub is_page: bool,
    /// The problem document.
    pub problem: Option<Problem>,
}

/// Members of a problem document for people.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Problem {
    /// URI of the kind of problem.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Short title of the kind of problem.
    #[serde(default)]
    pub title: String,
    /// Explanation of this occurrence.
    #[serde(default)]
    pub detail: String,
    /// Id of the request in the server's log.
    #[serde(default)]
    pub request_id: String,
}

impl Refusal {
    /// Returns true if the received bytes do not match the stated digest.
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

/// Returns the server's text with control characters, which would drive a terminal, as spaces.
pub(crate) fn printable(words: &str) -> String {
    words
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Failure of one attempt, by what to do next.
#[derive(Debug)]
pub(crate) enum Setback {
    /// Temporary failure: a broken connection, a busy server.
    Passing {
        /// Reason, for people.
        reason: String,
        /// Wait that `Retry-After` requests.
        after: Option<std::time::Duration>,
    },
    /// The transferred bytes are of no use any more.
    StartAnew {
        /// Reason, for people.
        reason: String,
    },
    /// Permanent failure.
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
