//! The command line, and the exit code of each outcome.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::commands::{
    NobodyReads, config, copy, download, events, hash_key, healthcheck, publish, pull, serve,
    upload,
};
use crate::copying::StillServing;
use crate::{packs, transfer};

/// A server for resumable transfers, and a client for it
#[derive(Debug, Parser)]
#[command(
    name = "longhaul",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(after_help = "\
Try it:
  longhaul serve --data ./data
  longhaul upload video.mov http://127.0.0.1:8080/files/
  longhaul download http://127.0.0.1:8080/files/video.mov
  longhaul publish ./maps --pack maps
  longhaul pull http://127.0.0.1:8080/packs/maps ./copy

`longhaul help COMMAND` shows examples for each command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 75 failed for now (the same command goes on), 130 interrupted.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Args),
    Config(config::Args),
    Upload(upload::Args),
    Download(download::Args),
    Publish(publish::Args),
    Pull(pull::Args),
    Copy(copy::Args),
    HashKey(hash_key::Args),
    Healthcheck(healthcheck::Args),
    Events(events::Args),
}

impl Cli {
    /// Runs the command and says on standard error why it failed, if it did.
    pub fn run(self) -> ExitCode {
        match self.command.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is::<NobodyReads>() => ExitCode::SUCCESS,
            Err(error) => {
                report(format!("error: {error:#}"));
                exit_code(&error)
            }
        }
    }
}

/// Writes `text` to standard error. A reader that takes nothing for [`LAST_WORDS`] loses it: the
/// program must end.
fn report(text: String) {
    let (told, wait) = mpsc::channel();
    thread::spawn(move || {
        // Nobody is left to be told when standard error is closed.
        let _ = writeln!(std::io::stderr(), "{text}");
        let _ = told.send(());
    });
    // An error is the end of the wait as well.
    let _ = wait.recv_timeout(LAST_WORDS);
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Serve(args) => args.run(),
            Self::Config(args) => args.run(),
            Self::Upload(args) => args.run(),
            Self::Download(args) => args.run(),
            Self::Publish(args) => args.run(),
            Self::Pull(args) => args.run(),
            Self::Copy(args) => args.run(),
            Self::HashKey(args) => args.run(),
            Self::Healthcheck(args) => args.run(),
            Self::Events(args) => args.run(),
        }
    }
}

/// Time for the reader of standard error to take the last message.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The customary code for a failure that may pass (`EX_TEMPFAIL` of sysexits.h).
const FAILED_FOR_NOW: u8 = 75;
/// Exit code that shells report for a program that SIGINT ended.
const INTERRUPTED: u8 = 130;

fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<StillServing>() {
        return ExitCode::from(FAILED_FOR_NOW);
    }
    let (interrupted, may_pass) = match (
        error.downcast_ref::<transfer::Error>(),
        error.downcast_ref::<packs::Error>(),
    ) {
        (Some(error), _) => (error.is_interruption(), error.may_pass()),
        (None, Some(error)) => (error.is_interruption(), error.may_pass()),
        (None, None) => (false, false),
    };
    match (interrupted, may_pass) {
        (true, _) => ExitCode::from(INTERRUPTED),
        (false, true) => ExitCode::from(FAILED_FOR_NOW),
        (false, false) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_teaches_by_example() {
        for command in Cli::command().get_subcommands() {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            assert!(
                help.starts_with("Examples:\n  longhaul "),
                "{} shows no examples",
                command.get_name()
            );
        }
    }
}
