//! A PostgreSQL server for the tests of one program.
//!
//! The first test that needs the server starts it, in a temporary directory that also holds its
//! socket. A shell watches over the server. The shell's standard input ends when the test program
//! ends, in whatever way; then the shell stops the server and removes the directory.
//!
//! A program that includes this file needs `tempfile` and nothing else.

use std::ffi::OsStr;
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Returns the server of this program; the first call starts it.
///
/// # Panics
/// Panics if PostgreSQL is not installed or does not start.
pub(crate) fn postgres_server() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(PostgresServer::start)
}

/// A running PostgreSQL server.
#[derive(Debug)]
pub(crate) struct PostgresServer {
    /// Directory with the socket, and with the data in `data`.
    pub(crate) directory: PathBuf,
    /// Shell that stops the server. The other end of its standard input is held here.
    _watch: Child,
}

/// Shell script that starts the server in the directory $2 with `pg_ctl`, $1, and prints `started`.
/// At the end of standard input it stops the server and removes the directory.
const WATCH: &str = r#"
"$1" start -D "$2/data" -o "-k '$2' -c listen_addresses= -c max_connections=500" -l "$2/log" >"$2/start" && echo started
cat >/dev/null
"$1" stop -D "$2/data" -m immediate >"$2/stop"
rm -rf "$2"
"#;

impl PostgresServer {
    fn start() -> Self {
        let programs = programs();
        let directory = tempfile::Builder::new()
            .prefix("pg-")
            .tempdir()
            .expect("there is a temporary directory")
            // The shell removes the directory in the end.
            .keep();
        let user = User::of_server();
        user.give(&directory);
        let made = user
            .command(&programs.join("initdb"), &directory)
            .arg("--pgdata")
            .arg(directory.join("data"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8"])
            .args(["--locale=C", "--no-sync"])
            .output()
            .expect("initdb can be started");
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
            // In its own process group, the shell does not receive the Ctrl-C that ends the tests.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let mut told = String::new();
        let stdout = watch.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut told)
            .expect("the shell speaks text");
        let log = || std::fs::read_to_string(directory.join("log"));
        assert_eq!(told, "started\n", "PostgreSQL does not start: {:?}", log());
        Self {
            directory,
            _watch: watch,
        }
    }

    /// Returns the URL of a database, for the superuser `postgres`. The database `postgres` exists
    /// from the start.
    pub(crate) fn url(&self, database: &str) -> String {
        let directory = self.directory.display();
        format!("postgres:///{database}?host={directory}&user=postgres")
    }
}

/// User that runs the server: PostgreSQL refuses to run as root.
pub(crate) struct User {
    ids: Option<(u32, u32)>,
}

impl User {
    pub(crate) fn of_server() -> Self {
        let id = |arguments: &[&str]| -> u32 {
            let found = Command::new("id").args(arguments).output();
            let found = found.expect("there is id(1)");
            assert!(
                found.status.success(),
                "there is no user postgres; on Debian, apt-get install postgresql makes it"
            );
            let told = String::from_utf8_lossy(&found.stdout);
            told.trim().parse().expect("id(1) tells a number")
        };
        let is_root = id(&["-u"]) == 0;
        let ids = is_root.then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])));
        Self { ids }
    }

    fn give(&self, directory: &Path) {
        if let Some((user, group)) = self.ids {
            chown(directory, Some(user), Some(group)).expect("root may give");
        }
    }

    /// Returns a command that runs as this user in `directory`.
    pub(crate) fn command(&self, program: &Path, directory: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(directory);
        if let Some((user, group)) = self.ids {
            command.uid(user).gid(group);
        }
        command
    }
}

/// Returns the directory of PostgreSQL's programs. Debian keeps those of a server outside `PATH`,
/// in a directory for each version.
pub(crate) fn programs() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let debian = versions("/usr/lib/postgresql".as_ref()).unwrap_or_default();
    std::env::split_paths(&path)
        .chain(debian.into_iter().map(|version| version.join("bin")))
        // If `initdb` is a link, `postgres` is beside its target.
        .filter_map(|directory| directory.join("initdb").canonicalize().ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_owned))
        .find(|directory| directory.join("postgres").exists())
        .expect("PostgreSQL is not installed; on Debian, apt-get install postgresql")
}

/// Returns the entries of `directory`, which are named by versions, newest first.
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
