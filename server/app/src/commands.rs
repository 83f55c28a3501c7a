//! What `longhaul` can be told to do: one file a command, each with its arguments and what it does.

mod admin;
pub mod config;
pub mod copy;
pub mod download;
pub mod events;
pub mod hash_key;
pub mod healthcheck;
pub mod publish;
pub mod pull;
pub mod serve;
pub mod upload;
pub(crate) mod url;

use std::future::Future;
use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;
use tokio::runtime::Runtime;

/// Where `longhaul serve` listens unless told otherwise.
const LOCAL_SERVER: &str = "http://127.0.0.1:8080";

/// Runs a command's future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime()?.block_on(future)
}

fn runtime() -> anyhow::Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.context("failed to start the runtime")
}

/// Whoever read what a command prints has gone, `head` for example: there is nothing left to do, and nobody to be told of it.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output")]
pub(crate) struct NobodyReads;

/// Writes what a command makes to standard output.
///
/// # Errors
///
/// [`NobodyReads`], or that it cannot be written.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    let printed = stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush());
    match printed {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(NobodyReads.into()),
        printed => printed.context("failed to write to standard output"),
    }
}
