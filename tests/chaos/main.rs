//! Three nodes on one PostgreSQL and one S3 server that are killed, stopped and restarted while
//! clients upload and download: `cargo run -p tests --bin chaos -- --seconds 300`.
//!
//! Every request goes to a random node. No byte may be lost or mixed up, every upload must
//! complete, and no node may answer with less than an acknowledged offset. The seed repeats the
//! random choices of a run, as far as the timing of the machine allows.

mod call;
#[path = "../it/dialect.rs"]
mod dialect;
mod downloads;
mod files;
mod fleet;
mod packs;
mod report;
mod uploads;
mod way;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tests::Dice;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::files::Files;
use self::fleet::Fleet;
use self::report::Figures;

/// Kill nodes under clients, and compare every byte
#[derive(Debug, Parser)]
struct Arguments {
    /// Seconds during which uploads begin and nodes are killed; uploads in progress are finished
    /// afterwards
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Number of nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Number of clients that upload at the same time
    #[arg(long, default_value_t = 8)]
    uploaders: u64,
    /// Seed of the random choices [default: a new one for each run]
    #[arg(long, env = "CHAOS_SEED")]
    seed: Option<u64>,
}

/// State shared by all tasks of a run.
#[derive(Debug)]
struct Run {
    fleet: Fleet,
    files: Files,
    figures: Figures,
    /// Time from which on nothing new begins.
    end: Instant,
}

impl Run {
    fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }
}

/// Description of a broken promise; it ends the run.
type Broken = String;

#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the program's purpose"
)]
#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| {
        let clock = std::time::UNIX_EPOCH.elapsed().expect("it is after 1970");
        u64::from(clock.subsec_nanos())
    });
    println!("CHAOS_SEED={seed}");
    let began = Instant::now();
    match chaos(&arguments, seed).await {
        Ok(run) => {
            println!("{}", run.figures.table(began.elapsed()));
            ExitCode::SUCCESS
        }
        Err(broken) => {
            eprintln!("{broken}\nCHAOS_SEED={seed} repeats what was thrown.");
            ExitCode::FAILURE
        }
    }
}

async fn chaos(arguments: &Arguments, seed: u64) -> Result<Arc<Run>, Broken> {
    let run = Arc::new(Run {
        fleet: Fleet::start(arguments.nodes).await,
        files: Files::default(),
        figures: Figures::default(),
        end: Instant::now() + Duration::from_secs(arguments.seconds),
    });
    let mut dice = (0..).map(|number| Dice::new(seed.wrapping_add(number << 32)));
    let mut throw = || dice.next().expect("the numbers never end");

    let mut clients = JoinSet::new();
    for number in 0..arguments.uploaders {
        clients.spawn(uploads::client(Arc::clone(&run), number, throw()));
    }
    for _ in 0..2 {
        clients.spawn(downloads::client(Arc::clone(&run), throw()));
    }
    clients.spawn(packs::client(Arc::clone(&run), throw()));
    let trouble = tokio::spawn({
        let (run, dice) = (Arc::clone(&run), throw());
        async move { run.fleet.trouble(&run, dice).await }
    });
    while let Some(client) = clients.join_next().await {
        // The panic message is already on standard error.
        let outcome = client.map_err(|panic| format!("a client gave up: {panic}"));
        if let Err(broken) = outcome.and_then(|outcome| outcome) {
            trouble.abort();
            return Err(format!("{}\n{broken}", run.fleet.logs().await));
        }
    }
    trouble
        .await
        .map_err(|panic| format!("the nodes could not be restarted: {panic}"))?;
    files::compare_all(&run, &mut throw()).await?;
    Ok(run)
}
