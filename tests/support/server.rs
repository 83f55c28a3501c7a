//! The real program, as a child process with its own directory.

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

/// Options for the start of a server.
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

/// A running server. When dropped, it is killed and its directory removed; its log is printed if
/// the test panics.
#[derive(Debug)]
pub struct TestServer {
    setup: Setup,
    directory: TempDir,
    authority: Option<Authority>,
    child: Child,
    address: SocketAddr,
    log: Log,
}

/// Lines that the program has written to its standard error, over all restarts.
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

    /// Keeps the data in `directory` instead of the server's own directory.
    pub fn data(mut self, directory: &Path) -> Self {
        self.data = Some(directory.to_owned());
        self
    }

    /// Keeps facts and bytes in `stores`, as a node beside others; otherwise in new stores of the
    /// kinds that this run tests.
    pub fn stores(mut self, stores: &Stores) -> Self {
        self.stores = Some(stores.clone());
        self
    }

    /// Listens on `address` instead of loopback.
    pub fn listen(mut self, address: &str) -> Self {
        self.listen = Some(address.to_owned());
        self
    }

    /// Sets the address of the admin listener, or `off`, instead of a free port of loopback.
    pub fn admin(mut self, address: &str) -> Self {
        self.admin = Some(address.to_owned());
        self
    }

    /// Passes a listening socket to the program, as systemd does (`sd_listen_fds(3)`); it replaces
    /// `listen`.
    pub fn socket(mut self, socket: TcpListener) -> Self {
        self.socket = Some(socket);
        self
    }

    /// Serves TLS with a certificate made for the test.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Makes a write beyond [`TestServer::limit_file_size`] an error; otherwise it ends the program
    /// (`SIGXFSZ`).
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

    /// Runs the program, which must end by itself. Returns the status and the standard error.
    pub async fn refuse(mut self) -> (ExitStatus, String) {
        let directory = tempfile::tempdir().expect("there is a temporary directory");
        self.choose_stores().await;
        let log = Log::default();
        let heard = log.clone();
        // Dropped with the reading thread, at the end of the program's output.
        let (hearing, heard_all) = tokio::sync::oneshot::channel::<()>();
        let mut child = spawn(&self, directory.path(), "127.0.0.1:0", move |line| {
            let _while_hearing = &hearing;
            heard.add(line);
        });
        let status = ended(&mut child, PATIENCE, &log).await;
        // Nothing is ever sent: the error marks the end.
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
    /// Starts a server with all defaults: on loopback, without access control.
    pub async fn start() -> Self {
        Setup::default().start().await
    }

    /// Returns the options of a server, to be changed before the start.
    pub fn setup() -> Setup {
        Setup::default()
    }

    /// Returns the address of the listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        let log = self.log.text();
        let said = |line| said_address(line, "listening for admin");
        log.lines()
            .rev()
            .find_map(said)
            .expect("the admin address is logged before the other one")
    }

    /// Returns the URL of `target`, for real clients.
    pub fn url(&self, target: &str) -> String {
        match self.authority {
            Some(_) => format!("https://localhost:{}{target}", self.address.port()),
            None => format!("http://{}{target}", self.address),
        }
    }

    /// Returns the certificate of a server with TLS.
    pub fn authority(&self) -> &Authority {
        self.authority.as_ref().expect("set up with tls()")
    }

    /// Returns the data directory.
    pub fn data(&self) -> PathBuf {
        data_directory(&self.setup, self.directory.path())
    }

    /// Returns all files with bytes in its stores, published or not.
    pub fn blobs(&self) -> Vec<PathBuf> {
        self.setup.chosen_stores().blobs(&self.data())
    }

    /// Moves the directory of the bytes away, so that the blob store fails.
    pub fn take_blobs_away(&self) {
        let (place, away) = self.place_of_blobs();
        std::fs::rename(place, away).expect("it was there");
    }

    /// Moves the directory of the bytes back.
    pub fn give_blobs_back(&self) {
        let (place, away) = self.place_of_blobs();
        std::fs::rename(away, place).expect("it was taken away");
    }

    fn place_of_blobs(&self) -> (PathBuf, PathBuf) {
        let place = self.setup.chosen_stores().blobs_directory(&self.data());
        let away = place.with_extension("away");
        (place, away)
    }

    /// Opens a connection to the server.
    pub async fn client(&self, version: Version) -> Client {
        match &self.authority {
            Some(authority) => Client::open_tls(self.address, version, authority).await,
            None => Client::open(self.address, version).await,
        }
    }

    /// Sends one request on a new connection over HTTP/1.1. Returns the response, which must be
    /// complete.
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

    /// Sends one request on a new connection over HTTP/1.1, which may be cut.
    pub async fn try_request(&self, request: &Request) -> Result<Response, Cut> {
        self.client(Version::Http1).await.exchange(request).await
    }

    /// Returns the process, for information of the operating system.
    pub fn process(&self) -> Process {
        Process::of(&self.child)
    }

    /// Kills the program with `SIGKILL`, like a crash. Returns once it is gone.
    pub async fn kill(&mut self) {
        self.process().signal(Signal::KILL);
        ended(&mut self.child, PATIENCE, &self.log).await;
    }

    /// Asks the program to end (`SIGTERM`), without waiting.
    pub fn terminate(&self) {
        self.process().signal(Signal::TERM);
    }

    /// Waits until the program has ended, at most `limit`. Returns its status.
    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        ended(&mut self.child, limit, &self.log).await
    }

    /// Starts the program again on the same data and the same port; it must have ended.
    pub async fn restart(&mut self) {
        let over = self.child.try_wait().expect("a parent can query its child");
        assert!(over.is_some(), "restart() comes after kill() or ended()");
        let listen = self.address.to_string();
        let (child, address) = launch(&self.setup, self.directory.path(), &listen, &self.log).await;
        assert_eq!(address, self.address, "the same port again");
        self.child = child;
    }

    /// Replaces the configuration and makes the program reload it (`SIGHUP`).
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

    /// Returns the resident memory.
    pub fn resident(&self) -> Resident {
        self.process().resident()
    }

    /// Limits the size of the files that the running program writes to `bytes` from now on; `None`
    /// removes the limit.
    pub fn limit_file_size(&self, bytes: Option<u64>) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(Some(pid), Resource::Fsize, limit).expect("a parent may limit its child");
    }

    /// Limits the number of open files of the running program from now on.
    pub fn limit_open_files(&self, files: u64) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let limit = Rlimit {
            current: Some(files),
            maximum: Some(files),
        };
        prlimit(Some(pid), Resource::Nofile, limit).expect("a parent may limit its child");
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        self.log.text()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.process().signal(Signal::KILL);
        // A child that cannot be waited for needs no further care.
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.log.show();
        }
    }
}

impl Log {
    fn add(&self, line: &str) {
        let mut lines = self.0.lock().expect("no thread panics with the lock held");
        lines.push(line.to_owned());
    }

    fn text(&self) -> String {
        let lines = self.0.lock().expect("no thread panics with the lock held");
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

/// Returns the path of the program: `LONGHAUL_BIN`, or else beside the running test, where cargo
/// puts both.
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

/// Starts the program and passes each line of its log to `hear`.
fn spawn(
    setup: &Setup,
    directory: &Path,
    listen: &str,
    mut hear: impl FnMut(&str) + Send + 'static,
) -> Child {
    let mut before = String::new();
    if setup.outlives_file_limit {
        // An ignored signal stays ignored in the program that replaces the shell.
        before.push_str(r#"trap "" XFSZ; "#);
    }
    let mut stdin = Stdio::null();
    if let Some(socket) = &setup.socket {
        // Passed sockets begin at descriptor 3; this one arrives as standard input.
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
        // The test must not depend on the settings of the user who runs it.
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
    let stderr = child.stderr.take().expect("standard error is piped");
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

/// Starts the program and waits until its log reports the address.
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
    // The sender is dropped when the program closes its standard error, which means that it has
    // failed.
    let address = within(
        PATIENCE,
        "the program listens",
        told.wait_for(Option::is_some),
    )
    .await;
    let Ok(address) = address.map(|address| address.expect("the wait is for an address")) else {
        let status = ended(&mut child, PATIENCE, log).await;
        panic!("the program gave up ({status}):\n{}", log.text());
    };
    (child, address)
}

/// Returns the address in the URL of a log line with this message.
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
            if let Some(status) = child.try_wait().expect("a parent can query its child") {
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
