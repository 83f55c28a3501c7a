//! The real program, as a child process on a directory of its own.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, prlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;

use crate::process::Resident;
use crate::stores::is_meant_for_others;
use crate::{
    Authority, Client, Cut, PATIENCE, Process, Request, Response, Stores, Version, within,
};

/// How a server is started.
#[derive(Debug, Default)]
pub struct Setup {
    config: String,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    data: Option<PathBuf>,
    stores: Option<Stores>,
    listen: Option<String>,
    admin: Option<String>,
    socket: Option<TcpListener>,
    tls: bool,
    outlives_file_limit: bool,
}

/// A running server; killed, and its directory removed, when dropped. A test that panics shows its log.
#[derive(Debug)]
pub struct TestServer {
    setup: Setup,
    directory: TempDir,
    authority: Option<Authority>,
    child: Child,
    address: SocketAddr,
    log: Log,
}

/// Everything that the program has written to its standard error, over all its lives.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Setup {
    /// Adds configuration, as TOML.
    pub fn config(mut self, toml: &str) -> Self {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    /// Adds a command line argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets an environment variable.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Keeps the data somewhere else than in the server's own directory.
    pub fn data(mut self, directory: &Path) -> Self {
        self.data = Some(directory.to_owned());
        self
    }

    /// Keeps things in `stores`, as a node beside others; else in new ones of the kinds that this run is about.
    pub fn stores(mut self, stores: &Stores) -> Self {
        self.stores = Some(stores.clone());
        self
    }

    /// Listens somewhere else than on loopback.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// Has its admin listener somewhere else than on a free port of loopback, or `off`.
    pub fn admin(mut self, address: &str) -> Self {
        self.admin = Some(address.to_owned());
        self
    }

    /// Passes a listening socket to the program, as systemd does (`sd_listen_fds(3)`); it takes the place of `listen`.
    pub fn socket(mut self, socket: TcpListener) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Serves TLS with a certificate made for the test.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Makes a write beyond [`TestServer::limit_file_size`] an error, where it would end the program (`SIGXFSZ`).
    pub fn outlive_file_limit(mut self) -> Self {
        self.outlives_file_limit = true;
        self
    }

    /// Starts the program and waits until it listens.
    pub async fn start(mut self) -> TestServer {
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        let authority = self.tls.then(|| Authority::create(directory.path()));
        if let Some(authority) = &authority {
            let section = format!(
                "[tls]\ncert = {:?}\nkey = {:?}\n",
                authority.certificate(),
                authority.key()
            );
            self.config.push_str(&section);
        }
        self.choose_stores().await;
        let log = Log::default();
        let (child, address) = launch(&self, directory.path(), "127.0.0.1:0", &log).await;
        TestServer {
            setup: self,
            directory,
            authority,
            child,
            address,
            log,
        }
    }

    /// Runs the program when it is expected to give up by itself; the status and what it said.
    pub async fn refuse(mut self) -> (ExitStatus, String) {
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        self.choose_stores().await;
        let log = Log::default();
        let heard = log.clone();
        // Dropped with the thread that hears, at the end of what the program says.
        let (hearing, heard_all) = tokio::sync::oneshot::channel::<()>();
        let mut child = spawn(&self, directory.path(), "127.0.0.1:0", move |line| {
            let _while_hearing = &hearing;
            heard.add(line);
        });
        let status = ended(&mut child, PATIENCE, &log).await;
        // Nothing is ever sent: the error is the end.
        let _ = within(PATIENCE, "the end of the log", heard_all).await;
        (status, log.text())
    }

    async fn choose_stores(&mut self) {
        if self.stores.is_none() {
            self.stores = Some(Stores::fresh().await);
        }
    }

    fn chosen_stores(&self) -> &Stores {
        self.stores.as_ref().expect("chosen before it is started")
    }
}

impl TestServer {
    /// Starts a server as it comes: on loopback, open, all defaults.
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    /// To start a server that is not as it comes.
    pub fn setup() -> Setup {
        Setup::default()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its admin listener is.
    pub fn admin(&self) -> SocketAddr {
        let log = self.log.text();
        let said = |line| said_address(line, "listening for admin");
        log.lines()
            .rev()
            .find_map(said)
            .expect("it says so before it says where it listens")
    }

    /// A URL of it, for real clients.
    pub fn url(&self, target: &str) -> String {
        match self.authority {
            Some(_) => format!("https://localhost:{}{target}", self.address.port()),
            None => format!("http://{}{target}", self.address),
        }
    }

    /// The certificate, where it serves TLS.
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("set up with tls()")
    }

    /// Where its data lies.
    pub fn data(&self) -> PathBuf {
        data_directory(&self.setup, self.directory.path())
    }

    /// Everything in its stores that holds bytes, published or not.
    pub fn blobs(&self) -> Vec<PathBuf> {
        self.setup.chosen_stores().blobs(&self.data())
    }

    /// Takes away the place that its bytes are kept in, so that the blob store does not work.
    pub fn take_blobs_away(&self) {
        let (place, away) = self.place_of_blobs();
        std::fs::rename(place, away).expect("it was there");
    }

    /// Gives back what was taken away.
    pub fn give_blobs_back(&self) {
        let (place, away) = self.place_of_blobs();
        std::fs::rename(away, place).expect("it was taken away");
    }

    fn place_of_blobs(&self) -> (PathBuf, PathBuf) {
        let place = self.setup.chosen_stores().blobs_directory(&self.data());
        let away = place.with_extension("away");
        (place, away)
    }

    /// Opens a connection.
    pub async fn client(&self, version: Version) -> Client {
        match &self.authority {
            Some(authority) => Client::open_tls(self.address, version, authority).await,
            None => Client::open(self.address, version).await,
        }
    }

    /// One request on a connection of its own over HTTP/1.1, answered in full.
    #[track_caller]
    pub fn request(&self, request: Request) -> impl Future<Output = Response> + '_ {
        let caller = std::panic::Location::caller();
        async move {
            match self.try_request(&request).await {
                Ok(response) => response,
                Err(cut) => panic!(
                    "{caller}: {} {} was cut: {cut:#?}",
                    request.method, request.target
                ),
            }
        }
    }

    /// One request on a connection of its own over HTTP/1.1, which may be cut.
    pub async fn try_request(&self, request: &Request) -> Result<Response, Cut> {
        self.client(Version::Http1).await.exchange(request).await
    }

    /// The process, for what only the system knows of it.
    pub fn process(&self) -> Process {
        Process::of(&self.child)
    }

    /// Kills the program as a crash would: `SIGKILL`, no goodbye. Returns once it is gone.
    pub async fn kill(&mut self) {
        self.process().signal(Signal::KILL);
        ended(&mut self.child, PATIENCE, &self.log).await;
    }

    /// Asks the program to end (`SIGTERM`) without waiting for it.
    pub fn terminate(&self) {
        self.process().signal(Signal::TERM);
    }

    /// How the program ended, which it must do within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        ended(&mut self.child, limit, &self.log).await
    }

    /// Starts the program again on the same data and the same port; it must have ended.
    pub async fn restart(&mut self) {
        let over = self.child.try_wait().expect("our own child can be asked");
        assert!(over.is_some(), "restart() comes after kill() or ended()");
        let listen = self.address.to_string();
        let (child, address) = launch(&self.setup, self.directory.path(), &listen, &self.log).await;
        assert_eq!(address, self.address, "the same port again");
        self.child = child;
    }

    /// Changes its configuration and tells it to read it again (`SIGHUP`).
    pub fn reconfigure(&mut self, toml: &str) {
        assert!(
            !self.setup.config.is_empty(),
            "started without a file, it has none to read"
        );
        self.setup.config = toml.to_owned();
        std::fs::write(config_file(self.directory.path()), toml)
            .expect("the test directory is writable");
        self.process().signal(Signal::HUP);
    }

    /// Its resident memory.
    pub fn resident(&self) -> Resident {
        self.process().resident()
    }

    /// Lets no file of the running program grow beyond `bytes` from now on, or any size with `None`.
    pub fn limit_file_size(&self, bytes: Option<u64>) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(Some(pid), Resource::Fsize, limit).expect("a parent may limit its child");
    }

    /// Lets the running program have no more than so many files open from now on.
    pub fn limit_open_files(&self, files: u64) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let limit = Rlimit {
            current: Some(files),
            maximum: Some(files),
        };
        prlimit(Some(pid), Resource::Nofile, limit).expect("a parent may limit its child");
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        self.log.text()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.process().signal(Signal::KILL);
        // Nothing is left to do about a child that cannot be waited for.
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.log.show();
        }
    }
}

impl Log {
    fn add(&self, line: &str) {
        let mut lines = self.0.lock().expect("nobody panics with the lock");
        lines.push(line.to_owned());
    }

    fn text(&self) -> String {
        let lines = self.0.lock().expect("nobody panics with the lock");
        lines.join("\n")
    }

    #[expect(
        clippy::print_stderr,
        reason = "the test harness shows it beside the failure"
    )]
    fn show(&self) {
        eprintln!("--- the server's log ---\n{}\n---", self.text());
    }
}

/// Where the program is: `LONGHAUL_BIN`, else beside the running test, where cargo puts both.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("LONGHAUL_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows where it is");
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("longhaul"))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!(
            "no longhaul beside {}: run `cargo build -p app` first, or set LONGHAUL_BIN",
            test.display()
        )
    })
}

fn config_file(directory: &Path) -> PathBuf {
    directory.join("longhaul.toml")
}

fn data_directory(setup: &Setup, directory: &Path) -> PathBuf {
    let own = || directory.join("data");
    setup.data.clone().unwrap_or_else(own)
}

/// Starts the program and hands each line that it logs to `hear`.
fn spawn(
    setup: &Setup,
    directory: &Path,
    listen: &str,
    mut hear: impl FnMut(&str) + Send + 'static,
) -> Child {
    let mut before = String::new();
    if setup.outlives_file_limit {
        // An ignored signal stays ignored in the program that the shell becomes.
        before.push_str(r#"trap "" XFSZ; "#);
    }
    let mut stdin = Stdio::null();
    if let Some(socket) = &setup.socket {
        // Passed sockets begin at descriptor 3; this one comes in as the standard input.
        before.push_str("exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; ");
        let socket = socket.try_clone().expect("a descriptor can be doubled");
        stdin = OwnedFd::from(socket).into();
    }
    let mut command = Command::new("sh");
    if before.is_empty() {
        command = Command::new(program());
    } else {
        command
            .args(["-c", &format!(r#"{before}exec "$0" "$@""#)])
            .arg(program());
    }
    command
        // Settings of whoever runs the tests are not settings of the test.
        .env_clear()
        .envs(std::env::vars_os().filter(|(name, _)| !is_meant_for_others(name)))
        .envs(setup.chosen_stores().environment())
        .arg("serve")
        .args(["--listen", setup.listen.as_deref().unwrap_or(listen)])
        .args(["--admin", setup.admin.as_deref().unwrap_or("127.0.0.1:0")])
        .arg("--data")
        .arg(data_directory(setup, directory))
        .args(&setup.arguments)
        .envs(setup.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(directory)
        .stdin(stdin)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    if !setup.config.is_empty() {
        let file = config_file(directory);
        std::fs::write(&file, &setup.config).expect("the test directory is writable");
        command.arg("--config").arg(file);
    }
    let mut child = command.spawn().expect("the program can be started");
    let stderr = child.stderr.take().expect("it is piped");
    std::thread::spawn(move || each_line(stderr, &mut hear));
    child
}

fn each_line(stderr: ChildStderr, hear: &mut impl FnMut(&str)) {
    for line in BufReader::new(stderr).split(b'\n') {
        match line {
            Ok(line) => hear(&String::from_utf8_lossy(&line)),
            Err(_) => return,
        }
    }
}

/// Starts the program and waits until it says where it listens.
async fn launch(setup: &Setup, directory: &Path, listen: &str, log: &Log) -> (Child, SocketAddr) {
    let (tell, mut told) = watch::channel(None);
    let heard = log.clone();
    let mut child = spawn(setup, directory, listen, move |line| {
        heard.add(line);
        if let Some(address) = said_address(line, "listening") {
            tell.send_if_modified(|known| {
                let is_first = known.is_none();
                known.get_or_insert(address);
                is_first
            });
        }
    });
    // The sender is dropped when the program closes its standard error, which means that it gave up.
    let address = within(
        PATIENCE,
        "the program listens",
        told.wait_for(Option::is_some),
    )
    .await;
    let Ok(address) = address.map(|address| address.expect("waited for")) else {
        let status = ended(&mut child, PATIENCE, log).await;
        panic!("the program gave up ({status}):\n{}", log.text());
    };
    (child, address)
}

/// The address in the URL of a log line that says `message`.
fn said_address(line: &str, message: &str) -> Option<SocketAddr> {
    let event: Value = serde_json::from_str(line).ok()?;
    let fields = event.get("fields").unwrap_or(&event);
    if fields.get("message")? != message {
        return None;
    }
    let url = fields.get("url")?.as_str()?;
    let (_, authority) = url.split_once("://")?;
    authority.trim_end_matches('/').parse().ok()
}

async fn ended(child: &mut Child, limit: Duration, log: &Log) -> ExitStatus {
    let end = async {
        loop {
            if let Some(status) = child.try_wait().expect("our own child can be asked") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(limit, end).await {
        Ok(status) => status,
        Err(_) => panic!(
            "the program has not ended within {limit:?}:\n{}",
            log.text()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_line_tells_where_the_program_listens() {
        let line =
            r#"{"level":"INFO","fields":{"message":"listening","url":"http://127.0.0.1:41233"}}"#;
        assert_eq!(
            said_address(line, "listening"),
            Some(([127, 0, 0, 1], 41233).into())
        );
        assert_eq!(said_address(line, "listening for admin"), None);
        assert_eq!(said_address("thread main panicked", "listening"), None);
    }
}
