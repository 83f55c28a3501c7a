//! S3 server for the tests of one program, with a place for each test: a bucket, or a prefix of
//! one.
//!
//! `TESTS_S3` selects the server: `versitygw` (the default), `seaweedfs`, `minio` or `garage`. The
//! first test that needs it starts it on free ports of loopback, by `start.sh`, a shell that
//! watches over it until the program of the tests ends.
//!
//! A program that includes this file needs `tempfile` and nothing else.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Key id that the server knows. Garage takes none of another form.
pub(crate) const ACCESS_KEY: &str = "GK31c2f218a2e44f485b94239e";
/// Secret that belongs to [`ACCESS_KEY`].
pub(crate) const SECRET_KEY: &str =
    "b892c0665f0ada8a4755dae98baa3b133590e11dae3bcc1f9d769d67f16c3835";
/// Region that requests are signed for.
pub(crate) const REGION: &str = "us-east-1";

/// The one bucket of a server whose buckets are costly, with a prefix for each place.
const BUCKET: &str = "tests";

/// S3 servers that tests can run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Versitygw,
    Seaweedfs,
    Minio,
    Garage,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Versitygw, Self::Seaweedfs, Self::Minio, Self::Garage];

    /// Returns the server of this run.
    ///
    /// # Panics
    /// `TESTS_S3` has another value.
    fn of_this_run() -> Self {
        let Some(said) = std::env::var_os("TESTS_S3") else {
            return Self::Versitygw;
        };
        let kind = Self::ALL.into_iter().find(|kind| said == *kind.name());
        kind.unwrap_or_else(|| {
            panic!("TESTS_S3 is versitygw, seaweedfs, minio or garage, not {said:?}")
        })
    }

    /// Returns the name in `TESTS_S3` and `start.sh`.
    fn name(self) -> &'static str {
        match self {
            Self::Versitygw => "versitygw",
            Self::Seaweedfs => "seaweedfs",
            Self::Minio => "minio",
            Self::Garage => "garage",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Seaweedfs => "weed",
            kind => kind.name(),
        }
    }
}

/// Returns the server of this program. Waits, at most a minute, until it serves.
///
/// # Panics
/// It is not installed, or does not start.
pub(crate) fn s3_server() -> &'static S3Server {
    static SERVER: OnceLock<S3Server> = OnceLock::new();
    SERVER.get_or_init(S3Server::start)
}

/// Running S3 server. Buckets are addressed by path.
#[derive(Debug)]
pub(crate) struct S3Server {
    pub(crate) kind: Kind,
    endpoint: String,
    /// Directory of all its files.
    directory: PathBuf,
    /// Holds the other end of its standard input.
    _watch: Child,
}

/// Bucket, or a part of one, that no other test uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) bucket: String,
    pub(crate) prefix: String,
}

impl S3Server {
    fn start() -> Self {
        let kind = Kind::of_this_run();
        let directory = tempfile::Builder::new()
            .prefix("s3-")
            .tempdir()
            .expect("there is a temporary directory")
            // The watching shell removes it in the end.
            .keep();
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|above| above.join("server/blobs/tests/s3_server/start.sh"))
            .find(|script| script.is_file())
            .expect("it lies beside this file");
        // versitygw takes any port, and its process shows which.
        let port = match kind {
            Kind::Versitygw => 0,
            Kind::Seaweedfs | Kind::Minio | Kind::Garage => free_ports(),
        };
        let mut watch = Command::new("sh")
            .arg(script)
            .args([kind.name(), &program(kind.program()).to_string_lossy()])
            .arg(&directory)
            .arg(port.to_string())
            .env("KEY", ACCESS_KEY)
            .env("SECRET", SECRET_KEY)
            .env("REGION", REGION)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // So that a key that ends the tests does not end the server first.
            .process_group(0)
            .spawn()
            .expect("there is a shell");
        let mut told = String::new();
        let stdout = watch.stdout.take().expect("it is piped");
        BufReader::new(stdout)
            .read_line(&mut told)
            .expect("the shell speaks text");
        let port = match kind {
            Kind::Versitygw => listening_port(told.trim()),
            Kind::Seaweedfs | Kind::Minio | Kind::Garage => Some(port),
        };
        let server = Self {
            kind,
            endpoint: format!("http://127.0.0.1:{}", port.unwrap_or(0)),
            directory,
            _watch: watch,
        };
        let serves = port.is_some() && (kind == Kind::Versitygw || server.makes_bucket());
        let log = std::fs::read_to_string(server.directory.join("log"));
        assert!(
            serves,
            "{kind:?} does not serve: {}",
            log.unwrap_or_default()
        );
        server
    }

    /// Creates the one bucket, if it is missing. Returns `false` if that failed for a minute.
    fn makes_bucket(&self) -> bool {
        (0..300).any(|_| {
            let status = Command::new("curl")
                .args(["--silent", "--output", "/dev/null", "--write-out", "%{http_code}"])
                .args(["--request", "PUT", "--max-time", "5"])
                .args(["--aws-sigv4", &format!("aws:amz:{REGION}:s3")])
                .args(["--user", &format!("{ACCESS_KEY}:{SECRET_KEY}")])
                // Digest of nothing.
                .args(["--header", "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"])
                .arg(format!("{}/{BUCKET}", self.endpoint))
                .output()
                .expect("curl is installed")
                .stdout;
            // Garage's bucket was created on the command line, and belongs to the key.
            let is_there = matches!(&*status, b"200" | b"204" | b"409");
            if !is_there {
                std::thread::sleep(Duration::from_millis(200));
            }
            is_there
        })
    }

    /// Returns its URL without a path.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Returns the directory with a directory for each bucket. The access log is the file
    /// `requests` beside it.
    ///
    /// # Panics
    /// The server has no such directory.
    pub(crate) fn buckets(&self) -> PathBuf {
        assert_eq!(self.kind, Kind::Versitygw, "no other keeps files");
        self.directory.join("buckets")
    }

    /// Returns a new and empty place.
    pub(crate) fn fresh(&self) -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        match self.kind {
            Kind::Versitygw => {
                let bucket = format!("bucket-{count}");
                // A bucket of this server is a directory.
                std::fs::create_dir(self.buckets().join(&bucket)).expect("names are used once");
                Place {
                    bucket,
                    // Not at the top, as in a bucket with other users.
                    prefix: "some/prefix/".to_owned(),
                }
            }
            Kind::Seaweedfs | Kind::Minio | Kind::Garage => Place {
                bucket: BUCKET.to_owned(),
                prefix: format!("place-{count}/"),
            },
        }
    }
}

/// Returns the path of a program that `tests/s3/install` has installed, or its name in `PATH`.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join("tests/.cache/bin"))
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| {
            panic!("{name} is not installed; run `tests/s3/install`, as tests/run does")
        })
}

/// Returns the first of four free ports; the ports by 10,000 above them, where SeaweedFS listens as
/// well, are free too. All are below the ports that systems give out.
fn free_ports() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let begin = u16::try_from(std::process::id() % 1000).expect("it is less");
    let candidates = (0..1000).map(|nth| 15_000 + (begin + nth) % 1000 * 6);
    let mut free = candidates
        .filter(|first| (*first..first + 4).all(|port| is_free(port) && is_free(port + 10_000)));
    free.next().expect("some of a thousand are free")
}

/// Returns the port on which `process` listens, or `None` if it has none after half a minute.
fn listening_port(process: &str) -> Option<u16> {
    let process = Path::new("/proc").join(process);
    (0..3000).find_map(|_| {
        let port = listening(&process);
        if port.is_none() {
            std::thread::sleep(Duration::from_millis(10));
        }
        port
    })
}

/// Returns the port of the one listening socket of `process`, a directory in `/proc`.
fn listening(process: &Path) -> Option<u16> {
    let descriptors = process.join("fd").read_dir().ok()?;
    let open: Vec<String> = descriptors
        .filter_map(|entry| entry.ok()?.path().read_link().ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    // proc_net(5): the second column is the local address in hexadecimal, the fourth the state (0A
    // is LISTEN), the tenth the inode.
    let sockets = std::fs::read_to_string(process.join("net/tcp")).ok()?;
    sockets.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_ascii_whitespace().collect();
        let inode = format!("socket:[{}]", columns.get(9)?);
        let (_, port) = columns.get(1)?.split_once(':')?;
        (columns.get(3) == Some(&"0A") && open.contains(&inode))
            .then(|| u16::from_str_radix(port, 16).ok())?
    })
}
