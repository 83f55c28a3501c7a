//! An S3 server for the tests of one program, with a bucket for each: versitygw on a directory.
//!
//! The first test that asks starts it, on a free port of loopback. A shell watches over it that waits for the end of its standard
//! input, which is when the program of the tests ends, in whatever way; then it ends the server and removes the directory.
//!
//! Whoever includes this file needs `tempfile` and nothing else.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The key id that the server knows.
pub(crate) const ACCESS_KEY: &str = "tests";
/// The secret that belongs to [`ACCESS_KEY`].
pub(crate) const SECRET_KEY: &str = "secret-of-tests";
/// The region that requests are signed for.
pub(crate) const REGION: &str = "us-east-1";

/// The server of this program; waits, at most half a minute, until it listens.
///
/// # Panics
/// versitygw is not installed, or does not start.
pub(crate) fn s3_server() -> &'static S3Server {
    static SERVER: OnceLock<S3Server> = OnceLock::new();
    SERVER.get_or_init(S3Server::start)
}

/// A running S3 server. Buckets are addressed by path.
#[derive(Debug)]
pub(crate) struct S3Server {
    endpoint: String,
    /// Holds a directory for each bucket; the access log is the file `requests` beside it.
    pub(crate) buckets: PathBuf,
    /// Holds the other end of its standard input.
    _watch: Child,
}

/// Starts the program $1 on the directory $2, says which process it is, and ends it when standard input ends.
const WATCH: &str = r#"
"$1" --port 127.0.0.1:0 --quiet --access-log "$2/requests" posix "$2/buckets" >"$2/log" 2>&1 &
echo $!
cat >/dev/null
kill -KILL $!
wait
rm -rf "$2"
"#;

impl S3Server {
    fn start() -> Self {
        let directory = tempfile::Builder::new()
            .prefix("s3-")
            .tempdir()
            .expect("there is a temporary directory")
            // What removes it in the end is the watch.
            .keep();
        let buckets = directory.join("buckets");
        std::fs::create_dir(&buckets).expect("the directory is new");
        let mut watch = Command::new("sh")
            .args(["-c", WATCH, "watch"])
            .arg(program())
            .arg(&directory)
            .env("ROOT_ACCESS_KEY", ACCESS_KEY)
            .env("ROOT_SECRET_KEY", SECRET_KEY)
            .env("VGW_REGION", REGION)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // So that what is typed to end the tests does not end it first.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let mut told = String::new();
        let stdout = watch.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut told)
            .expect("the shell speaks text");
        let port = port(told.trim()).unwrap_or_else(|| {
            let log = std::fs::read_to_string(directory.join("log"));
            panic!("versitygw does not listen: {}", log.unwrap_or_default())
        });
        Self {
            endpoint: format!("http://127.0.0.1:{port}"),
            buckets,
            _watch: watch,
        }
    }

    /// Where it is, as a URL without a path.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The name of a new and empty bucket.
    pub(crate) fn fresh_bucket(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bucket-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        // A bucket of this server is a directory.
        std::fs::create_dir(self.buckets.join(&name)).expect("names are used once");
        name
    }
}

/// Where versitygw is: where `tests/run` installs it, else in `PATH`.
fn program() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join("tests/.cache/bin"))
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join("versitygw"))
        .find(|program| program.is_file())
        .expect("versitygw is not installed; run `tests/s3/install`, as tests/run does")
}

/// The port that `process` chose to listen on; nothing if it has none after half a minute.
fn port(process: &str) -> Option<u16> {
    let process = Path::new("/proc").join(process);
    (0..3000).find_map(|_| {
        let port = listening(&process);
        if port.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        port
    })
}

/// The port of the one listening socket of `process`, a directory in `/proc`.
fn listening(process: &Path) -> Option<u16> {
    let descriptors = process.join("fd").read_dir().ok()?;
    let open: Vec<String> = descriptors
        .filter_map(|entry| entry.ok()?.path().read_link().ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    // proc_net(5): the second column is the local address in hexadecimal, the fourth the state (0A is LISTEN), the tenth the inode.
    let sockets = std::fs::read_to_string(process.join("net/tcp")).ok()?;
    sockets.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let inode = format!("socket:[{}]", columns.get(9)?);
        let (_, port) = columns.get(1)?.split_once(':')?;
        (columns.get(3) == Some(&"0A") && open.contains(&inode))
            .then(|| u16::from_str_radix(port, 16).ok())?
    })
}
