//! Stores of the servers under test: the combination of metadata and blob stores that a run of the
//! tests uses.
//!
//! `TESTS_METADATA` is `sqlite` (the default) or `postgres`, and `TESTS_BLOBS` is `fs` (the
//! default) or `s3`. PostgreSQL and the S3 server, which `TESTS_S3` chooses, are real: the first
//! test that needs one starts it for its test program. Every server under test has its own database
//! and its own bucket, or prefix of one, unless it is a node beside others.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use self::postgres_server::postgres_server;
use self::s3_server::s3_server;

#[path = "../../server/testing/src/postgres/server.rs"]
mod postgres_server;
#[path = "../../server/blobs/tests/s3_server/mod.rs"]
mod s3_server;

/// Kind of the metadata store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// A file in the data directory.
    Sqlite,
    /// A PostgreSQL server.
    Postgres,
}

/// Kind of the blob store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blobs {
    /// The data directory.
    Fs,
    /// An S3 server.
    S3,
}

impl Metadata {
    /// Returns the kind that this run tests.
    pub fn of_this_run() -> Self {
        choice(
            "TESTS_METADATA",
            [("sqlite", Self::Sqlite), ("postgres", Self::Postgres)],
        )
    }
}

impl Blobs {
    /// Returns the kind that this run tests.
    pub fn of_this_run() -> Self {
        choice("TESTS_BLOBS", [("fs", Self::Fs), ("s3", Self::S3)])
    }
}

/// Returns the choice that `variable` names, or the first if it is unset.
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

/// Stores of one server, or of several nodes of one service. Their contents are removed with the
/// last handle.
#[derive(Debug, Clone)]
pub struct Stores {
    database: Option<Arc<Database>>,
    bucket: Option<Arc<Bucket>>,
}

impl Stores {
    /// Creates empty stores of the kinds that this run tests.
    pub async fn fresh() -> Self {
        Self::new(Metadata::of_this_run(), Blobs::of_this_run()).await
    }

    /// Creates empty stores that any number of servers may share.
    pub async fn for_nodes() -> Self {
        Self::new(Metadata::Postgres, Blobs::S3).await
    }

    /// Creates empty stores of these kinds.
    pub async fn new(metadata: Metadata, blobs: Blobs) -> Self {
        // The first test to get here waits until a server has started.
        let made = tokio::task::spawn_blocking(move || Self {
            database: (metadata == Metadata::Postgres).then(|| Arc::new(Database::fresh())),
            bucket: (blobs == Blobs::S3).then(|| Arc::new(Bucket::fresh())),
        });
        made.await.expect("the task is not cancelled")
    }

    /// Returns the environment variables that configure these stores.
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

    /// Returns the same settings as configuration, without the credentials, which are
    /// [`Stores::credentials`].
    pub fn config(&self) -> String {
        let settings = self.environment().into_iter().filter_map(|(name, value)| {
            let setting = name.strip_prefix("LONGHAUL_")?;
            let setting = setting.to_ascii_lowercase().replace("__", ".");
            // The only setting that is not a string.
            let value = match value.as_str() {
                "true" => value,
                _ => format!("{value:?}"),
            };
            Some(format!("{setting} = {value}\n"))
        });
        settings.collect()
    }

    /// Returns the environment variables with the credentials.
    pub fn credentials(&self) -> Vec<(&'static str, String)> {
        let mut variables = self.environment();
        variables.retain(|(name, _)| name.starts_with("AWS_"));
        variables
    }

    /// Returns the name of the bucket.
    ///
    /// # Panics
    ///
    /// Panics if the bytes are in a directory.
    pub fn bucket(&self) -> &str {
        let bucket = self.bucket.as_ref().expect("bytes are in S3");
        &bucket.place.bucket
    }

    /// Returns the URL of the S3 server.
    pub fn endpoint(&self) -> &'static str {
        s3_server().endpoint()
    }

    /// Returns the region of the S3 server.
    pub fn region(&self) -> &'static str {
        s3_server::REGION
    }

    /// Returns the number of requests to the S3 server so far, by operation.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        let log = s3_server().buckets().with_file_name("requests");
        let log = std::fs::read_to_string(log).expect("the S3 server writes it");
        let mut requests = BTreeMap::new();
        // Each line has the format of S3's server access logs: the operation is the word after the
        // id of the request.
        for line in log.lines() {
            let operation = line.split(' ').find_map(|word| word.strip_prefix("s3_"));
            if let Some(operation) = operation {
                *requests.entry(operation.to_owned()).or_default() += 1;
            }
        }
        requests
    }

    /// Returns the directory of the bytes, in the file system or below the S3 server.
    ///
    /// # Panics
    ///
    /// Panics if the S3 server does not keep them as files.
    pub(crate) fn blobs_directory(&self, data: &Path) -> PathBuf {
        match &self.bucket {
            Some(bucket) => bucket.directory(),
            None => data.join("blobs"),
        }
    }

    /// Returns all files with bytes, published or not; `data` is the server's directory.
    pub(crate) fn blobs(&self, data: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.blobs_directory(data)];
        while let Some(directory) = directories.pop() {
            // A directory may be removed meanwhile.
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

/// Reports whether the directory is the rest of a multipart upload in versitygw that was aborted
/// while a part arrived. The missing attribute shows that versitygw no longer knows the object: it
/// neither serves the part nor lists the upload.
fn is_out_of_reach(directory: &Path) -> bool {
    let mut attributes = [0; 1024];
    directory
        .parent()
        .is_some_and(|above| above.ends_with(".sgwtmp/multipart"))
        && rustix::fs::listxattr(directory, &mut attributes[..]) == Ok(0)
}

/// A database in the PostgreSQL server of this test program.
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
        // Only frees the disk early: the databases go with the server.
        let _ = psql(&format!("drop database {} with (force)", self.name));
    }
}

/// Executes one statement in the server. The error is psql's output.
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

/// Modes of stopping a PostgreSQL server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends transactions and connections, then the server.
    Fast,
    /// Ends the server at once, as in a crash; it recovers at the next start.
    Immediate,
}

/// Restarts the PostgreSQL server of this test program, for all its users. Returns once the server
/// accepts connections again.
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
    let status = restarted.expect("the task is not cancelled");
    assert!(
        status.expect("the command can be started").success(),
        "{mode}"
    );
}

/// A bucket in the S3 server of this test program.
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
        // Only frees the disk early: the buckets go with the server.
        if s3_server().kind == s3_server::Kind::Versitygw {
            let _ = std::fs::remove_dir_all(self.directory());
        }
    }
}

/// Reports whether an environment variable of the user must not reach a server under test.
pub(crate) fn is_meant_for_others(variable: &OsString) -> bool {
    let variable = variable.to_string_lossy();
    ["LONGHAUL_", "AWS_", "PG"]
        .iter()
        .any(|prefix| variable.starts_with(prefix))
}
