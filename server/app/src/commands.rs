//! Commands of `longhaul`, one file each, with its arguments and its run.

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

/// Default address of `longhaul serve`.
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

/// The reader of standard output, such as `head`, has closed it. The command ends without an error
/// message.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output")]
pub(crate) struct NobodyReads;

/// Writes a command's result to standard output.
///
/// # Errors
///
/// [`NobodyReads`] if the reader has closed standard output, otherwise the failed write.
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
