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

use std::future::Future;
use std::io::Write as _;

use anyhow::Context as _;

/// Where `longhaul serve` listens unless told otherwise.
const LOCAL_SERVER: &str = "http://127.0.0.1:8080";

/// Runs a command's future on a runtime of its own.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime
        .context("failed to start the runtime")?
        .block_on(future)
}

/// Writes what a command makes to standard output.
fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .context("failed to write to standard output")
}
