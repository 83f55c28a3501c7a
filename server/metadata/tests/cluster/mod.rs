//! A PostgreSQL server for the tests of one program, with a schema for each.
//!
//! The first test that asks starts it, in a temporary directory, on a socket there. A shell watches over it that waits for the end
//! of its standard input, which is when the program of the tests ends, in whatever way; then it stops the server and removes the
//! directory.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use metadata::{DatabaseUrl, PostgresConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// How to reach an empty schema of the server's one database.
pub(crate) async fn fresh_schema() -> PostgresConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cluster = tokio::task::spawn_blocking(cluster).await.unwrap();
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&cluster.url()).await.unwrap();
    let create = AssertSqlSafe(format!("create schema {name}"));
    sqlx::raw_sql(create)
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let url = format!("{}&options[search_path]={name}", cluster.url());
    PostgresConfig::new(url.parse::<DatabaseUrl>().unwrap())
}

fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::start)
}

struct Cluster {
    directory: PathBuf,
    /// Holds the other end of its standard input.
    _watch: Child,
}

/// Starts the server by `pg_ctl`, $1, in the directory $2, says so, and stops it when standard input ends.
const WATCH: &str = r#"
"$1" start -D "$2/data" -o "-k '$2' -c listen_addresses= -c max_connections=200" -l "$2/log" >"$2/start" && echo started
cat >/dev/null
"$1" stop -D "$2/data" -m immediate >"$2/stop"
rm -rf "$2"
"#;

impl Cluster {
    fn start() -> Self {
        let programs = programs();
        let directory = tempfile::Builder::new().prefix("pg-").tempdir().unwrap();
        // What removes it in the end is the watch.
        let directory = directory.keep();
        let user = Server::new();
        user.give(&directory);
        let made = user
            .command(&programs.join("initdb"), &directory)
            .arg("--pgdata")
            .arg(directory.join("data"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync"])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        let mut watch = user
            .command("sh".as_ref(), &directory)
            .args(["-c", WATCH, "watch"])
            .arg(programs.join("pg_ctl"))
            .arg(&directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // So that what is typed to end the tests does not end it first.
            .process_group(0)
            .spawn()
            .unwrap();
        let mut told = String::new();
        let stdout = watch.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut told).unwrap();
        let log = || std::fs::read_to_string(directory.join("log"));
        assert_eq!(told, "started\n", "PostgreSQL does not start: {:?}", log());
        Self {
            directory,
            _watch: watch,
        }
    }

    fn url(&self) -> String {
        let directory = self.directory.to_str().unwrap();
        format!("postgres:///postgres?host={directory}&user=postgres")
    }
}

/// The user that the server runs as: PostgreSQL refuses to be root.
struct Server {
    ids: Option<(u32, u32)>,
}

impl Server {
    fn new() -> Self {
        let id = |arguments: &[&str]| -> u32 {
            let found = Command::new("id").args(arguments).output().unwrap();
            assert!(
                found.status.success(),
                "there is no user postgres; on Debian, apt-get install postgresql makes it"
            );
            String::from_utf8(found.stdout)
                .unwrap()
                .trim()
                .parse()
                .unwrap()
        };
        let is_root = id(&["-u"]) == 0;
        let ids = is_root.then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])));
        Self { ids }
    }

    fn give(&self, directory: &Path) {
        if let Some((user, group)) = self.ids {
            chown(directory, Some(user), Some(group)).unwrap();
        }
    }

    fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory);
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        command
    }
}

/// Where the programs of PostgreSQL are. Debian has those of a server outside of `PATH`, in a directory for each version.
fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = versions("/usr/lib/postgresql".as_ref()).unwrap_or_default();
    std::env::split_paths(&path)
        .chain(debian.into_iter().map(|version| version.join("bin")))
        // A link to `initdb` alone has `postgres` beside what it leads to.
        .filter_map(|directory| directory.join("initdb").canonicalize().ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_owned))
        .find(|directory| directory.join("postgres").exists())
        .expect("PostgreSQL is not installed; on Debian, apt-get install postgresql")
}

/// Directories named by versions, the newest first.
fn versions(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut versions = Vec::new();
    for entry in directory.read_dir()? {
        versions.push(entry?.path());
    }
    let number =
        |path: &PathBuf| -> Option<u32> { path.file_name().and_then(OsStr::to_str)?.parse().ok() };
    versions.sort_by_key(|version| std::cmp::Reverse(number(version)));
    Ok(versions)
}
