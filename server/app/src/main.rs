//! The `longhaul` program.

use std::process::ExitCode;

use app::cli::Cli;
use clap::Parser as _;

/// The static program of the container image: musl's own allocator takes one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
