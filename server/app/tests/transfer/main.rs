//! `longhaul upload` and `longhaul download` against a server that misbehaves.
//!
//! Every test runs the real program and looks at what a user sees: bytes, events, exit codes, files
//! that stay.

#![expect(
    clippy::unwrap_used,
    reason = "these are tests; helpers stand outside the test functions"
)]

mod download;
mod secure;
mod server;
mod upload;
mod words;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// A user's machine: a directory to work in, and one for the program's state.
struct Machine {
    directory: TempDir,
}

/// Result of a run.
#[derive(Debug)]
struct Run {
    code: Option<i32>,
    events: Vec<Value>,
    stdout: String,
    stderr: String,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("work")).unwrap();
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("work").join(name)
    }

    fn write(&self, name: &str, content: &[u8]) {
        std::fs::write(self.path(name), content).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The names of all files in the working directory.
    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The records that uploads left.
    fn records(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("state/longhaul/uploads"))
            .map_or(0, Iterator::count)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul"));
        command
            .args(arguments)
            .args(["--retry-delay", "10ms"])
            .current_dir(self.path(""));
        command
            .env("XDG_STATE_HOME", self.directory.path().join("state"))
            .env_remove("LONGHAUL_KEY");
        for variable in [
            "http_proxy",
            "https_proxy",
            "all_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
        ] {
            command.env_remove(variable);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end, which must come within a minute.
    async fn run(&self, arguments: &[&str]) -> Run {
        let child = self.command(arguments).spawn().unwrap();
        finish(child).await
    }

    async fn json(&self, arguments: &[&str]) -> Run {
        self.run(&[arguments, &["--json"]].concat()).await
    }
}

async fn finish(child: std::process::Child) -> Run {
    let id = child.id();
    let ending = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    let Ok(output) = tokio::time::timeout(Duration::from_secs(60), ending).await else {
        signal(id, "KILL");
        panic!("the program does not end");
    };
    let output = output.unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    Run {
        code: output.status.code(),
        events: stdout
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        stdout,
    }
}

fn signal(id: u32, name: &str) {
    assert!(
        Command::new("kill")
            .args([&format!("-{name}"), &id.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

impl Run {
    #[track_caller]
    fn succeeded(&self) -> &Self {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self
    }

    #[track_caller]
    fn failed_with(&self, code: i32, message: &str) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        assert!(
            self.stderr.contains(message),
            "{message:?} is not in {}",
            self.stderr
        );
        self
    }

    fn events(&self, name: &str) -> Vec<&Value> {
        self.events
            .iter()
            .filter(|event| event["event"] == name)
            .collect()
    }

    /// The only event of this name.
    #[track_caller]
    fn event(&self, name: &str) -> &Value {
        let events = self.events(name);
        assert_eq!(events.len(), 1, "{name}: {self:#?}");
        events[0]
    }
}

/// Bytes that repeat nowhere.
fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes: Vec<u8> = (0..size.div_ceil(8))
        .flat_map(|_| random.next().to_le_bytes())
        .collect();
    bytes.truncate(size);
    bytes
}

/// Numbers that look random and are the same in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }
}

/// Waits until `path` has at least `size` bytes.
async fn grows_to(path: &Path, size: u64) {
    until(|| std::fs::metadata(path).is_ok_and(|metadata| metadata.len() >= size)).await;
}

/// Waits until something is so, at most half a minute.
async fn until(condition: impl Fn() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("what is waited for does not happen");
}
