//! What servers keep things in: the combination of stores that a run of the tests is about.
//!
//! `TESTS_METADATA` is `sqlite` (as it is if nothing is said) or `postgres`, and `TESTS_BLOBS` is `fs` or `s3`.
//! PostgreSQL and the S3 server, which `TESTS_S3` chooses, are real: the first test that needs one starts it for its program. Every
//! server under test has a database and a bucket, or a prefix of one, of its own there, unless it is a node beside others.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use self::postgres_server::postgres_server;
use self::s3_server::s3_server;

#[path = "../../server/metadata/tests/cluster/server.rs"]
mod postgres_server;
#[path = "../../server/blobs/tests/s3_server/mod.rs"]
mod s3_server;

/// Where facts are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// In a file of the data directory.
    Sqlite,
    /// In a PostgreSQL server.
    Postgres,
}

/// Where bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blobs {
    /// In the data directory.
    Fs,
    /// In an S3 server.
    S3,
}

impl Metadata {
    /// What this run is about.
    pub fn of_this_run() -> Self {
        choice(
            "TESTS_METADATA",
            [("sqlite", Self::Sqlite), ("postgres", Self::Postgres)],
        )
    }
}

impl Blobs {
    /// What this run is about.
    pub fn of_this_run() -> Self {
        choice("TESTS_BLOBS", [("fs", Self::Fs), ("s3", Self::S3)])
    }
}

/// What `variable` names; the first where it says nothing.
fn choice<T: Copy>(variable: &str, choices: [(&str, T); 2]) -> T {
    let Some(said) = std::env::var_os(variable) else {
        return choices[0].1;
    };
    let chosen = choices.iter().find(|(name, _)| said == *name);
    let Some((_, chosen)) = chosen else {
        let [(one, _), (other, _)] = choices;
        panic!("{variable} is {one} or {other}, not {said:?}");
    };
    *chosen
}

/// The stores of one server, or of several that are one service; what is in them goes with the last of them.
#[derive(Debug, Clone)]
pub struct Stores {
    database: Option<Arc<Database>>,
    bucket: Option<Arc<Bucket>>,
}

impl Stores {
    /// New and empty ones, of the kinds that this run is about.
    pub async fn fresh() -> Self {
        Self::new(Metadata::of_this_run(), Blobs::of_this_run()).await
    }

    /// New and empty ones that any number of servers may have together.
    pub async fn for_nodes() -> Self {
        Self::new(Metadata::Postgres, Blobs::S3).await
    }

    /// New and empty ones of these kinds.
    pub async fn new(metadata: Metadata, blobs: Blobs) -> Self {
        // The first one waits for a server to start.
        let made = tokio::task::spawn_blocking(move || Self {
            database: (metadata == Metadata::Postgres).then(|| Arc::new(Database::fresh())),
            bucket: (blobs == Blobs::S3).then(|| Arc::new(Bucket::fresh())),
        });
        made.await.expect("nothing stops it")
    }

    /// Environment variables that tell the program where they are.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let database = self.database.iter().flat_map(|database| {
            [
                ("LONGHAUL_METADATA__TYPE", "postgres".to_owned()),
                ("LONGHAUL_METADATA__URL", database.url()),
            ]
        });
        let bucket = self.bucket.iter().flat_map(|bucket| {
            [
                ("LONGHAUL_BLOBS__TYPE", "s3".to_owned()),
                ("LONGHAUL_BLOBS__BUCKET", bucket.place.bucket.clone()),
                ("LONGHAUL_BLOBS__PREFIX", bucket.place.prefix.clone()),
                (
                    "LONGHAUL_BLOBS__ENDPOINT",
                    s3_server().endpoint().to_owned(),
                ),
                ("LONGHAUL_BLOBS__REGION", s3_server::REGION.to_owned()),
                ("LONGHAUL_BLOBS__PATH_STYLE", "true".to_owned()),
                ("AWS_ACCESS_KEY_ID", s3_server::ACCESS_KEY.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", s3_server::SECRET_KEY.to_owned()),
            ]
        });
        database.chain(bucket).collect()
    }

    /// The same as configuration, but for the credentials, which are [`Stores::credentials`].
    pub fn config(&self) -> String {
        let settings = self.environment().into_iter().filter_map(|(name, value)| {
            let setting = name.strip_prefix("LONGHAUL_")?;
            let setting = setting.to_ascii_lowercase().replace("__", ".");
            // The one setting that is no text.
            let value = match value.as_str() {
                "true" => value,
                _ => format!("{value:?}"),
            };
            Some(format!("{setting} = {value}\n"))
        });
        settings.collect()
    }

    /// Environment variables that open them.
    pub fn credentials(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.environment();
        variables.retain(|(name, _)| name.starts_with("AWS_"));
        variables
    }

    /// The bucket.
    ///
    /// # Panics
    /// Bytes are in a directory.
    pub fn bucket(&self) -> &str {
        let bucket = self.bucket.as_ref().expect("bytes are in S3");
        &bucket.place.bucket
    }

    /// The S3 server's URL.
    pub fn endpoint(&self) -> &'static str {
        s3_server().endpoint()
    }

    /// The S3 server's region.
    pub fn region(&self) -> &'static str {
        s3_server::REGION
    }

    /// How often the S3 server was asked for what so far, by the name of the operation.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        let log = s3_server().buckets().with_file_name("requests");
        let log = std::fs::read_to_string(log).expect("the S3 server writes it");
        let mut requests = BTreeMap::new();
        // A line is one of S3's server access logs: the operation is the word after the request's own name.
        for line in log.lines() {
            let operation = line.split(' ').find_map(|word| word.strip_prefix("s3_"));
            if let Some(operation) = operation {
                *requests.entry(operation.to_owned()).or_default() += 1;
            }
        }
        requests
    }

    /// Where bytes lie, whoever keeps them there.
    ///
    /// # Panics
    /// They are in an S3 server that does not keep them as files.
    pub(crate) fn blobs_directory(&self, data: &Path) -> PathBuf {
        match &self.bucket {
            Some(bucket) => bucket.directory(),
            None => data.join("blobs"),
        }
    }

    /// Everything that holds bytes, published or not; `data` is the server's directory.
    pub(crate) fn blobs(&self, data: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.blobs_directory(data)];
        while let Some(directory) = directories.pop() {
            // A directory may go while it is looked at.
            let entries = directory.read_dir().into_iter().flatten().flatten();
            for entry in entries {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && is_out_of_reach(&entry.path()) => {}
                    Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                    _ => found.push(entry.path()),
                }
            }
        }
        found.sort();
        found
    }
}

/// Whether this is what versitygw keeps of a multipart upload that was aborted while a part arrived. It has forgotten which object
/// that was for, as the missing attribute shows, and gives nobody the part nor counts it among the uploads under way.
fn is_out_of_reach(directory: &Path) -> bool {
    let mut attributes = [0; 1024];
    directory
        .parent()
        .is_some_and(|above| above.ends_with(".sgwtmp/multipart"))
        && rustix::fs::listxattr(directory, &mut attributes[..]) == Ok(0)
}

/// A database in the PostgreSQL server of this program.
#[derive(Debug)]
struct Database {
    name: String,
}

impl Database {
    fn fresh() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("server_{count}");
        psql(&format!("create database {name}")).expect("there is room for a database");
        Self { name }
    }

    fn url(&self) -> String {
        postgres_server().url(&self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // Only to spare the disk until the server goes, with all of them.
        let _ = psql(&format!("drop database {} with (force)", self.name));
    }
}

/// Has the server do one statement; what it complains about.
fn psql(statement: &str) -> Result<(), String> {
    let output = Command::new(postgres_server::programs().join("psql"))
        .args(["--no-psqlrc", "--quiet", "--dbname"])
        .arg(postgres_server().url("postgres"))
        .args(["--command", statement])
        .output()
        .map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// How a PostgreSQL server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// It ends transactions and connections, and then itself.
    Fast,
    /// It is gone at once, as in a crash, and recovers when it starts.
    Immediate,
}

/// Restarts the PostgreSQL server of this program, for all that use it; returns once it accepts connections again.
pub async fn restart_postgres(mode: StopMode) {
    let mode = match mode {
        StopMode::Fast => "fast",
        StopMode::Immediate => "immediate",
    };
    let restart = move || {
        let directory = &postgres_server().directory;
        let pg_ctl = postgres_server::programs().join("pg_ctl");
        let mut command = postgres_server::User::of_server().command(&pg_ctl, directory);
        command
            .args(["restart", "--wait", "--mode", mode, "--pgdata"])
            .arg(directory.join("data"))
            .arg("--log")
            .arg(directory.join("log"))
            .stdout(Stdio::null())
            .status()
    };
    let restarted = tokio::task::spawn_blocking(restart).await;
    let status = restarted.expect("nothing stops it");
    assert!(status.expect("it can be started").success(), "{mode}");
}

/// A bucket in the S3 server of this program.
#[derive(Debug)]
struct Bucket {
    place: s3_server::Place,
}

impl Bucket {
    fn fresh() -> Self {
        Self {
            place: s3_server().fresh(),
        }
    }

    fn directory(&self) -> PathBuf {
        s3_server().buckets().join(&self.place.bucket)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        // Only to spare the disk until the server goes, with all of them.
        if s3_server().kind == s3_server::Kind::Versitygw {
            let _ = std::fs::remove_dir_all(self.directory());
        }
    }
}

/// The variables of whoever runs the tests that are not for a server under test.
pub(crate) fn is_meant_for_others(variable: &OsString) -> bool {
    let variable = variable.to_string_lossy();
    ["LONGHAUL_", "AWS_", "PG"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
}
