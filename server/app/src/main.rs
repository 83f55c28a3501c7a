//! The `longhaul` program.

use std::process::ExitCode;

use app::cli::Cli;
use clap::Parser as _;

fn main() -> ExitCode {
    Cli::parse().run()
}
