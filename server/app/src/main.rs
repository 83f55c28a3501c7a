//! The `longhaul` program.

use std::process::ExitCode;

use app::cli::Cli;
use clap::Parser as _;

/// Returns freed memory to the system within seconds, by threads of its own. glibc's allocator keeps
/// much of it: after 4,000 answers that nobody read, 119 MiB and more stayed resident, here 57
/// (measured).
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Serves the static program of the container image: musl's own allocator takes one lock for all threads.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Cli::parse().run()
}
