//! A real proxy, with the configuration of `deploy/proxy`, in front of real servers.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tests::{Client, Request, Response, TestServer, Version, eventually, skip};

/// The supported proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Haproxy,
    Caddy,
    Envoy,
    Nginx,
}

impl Kind {
    /// Returns the HTTP versions of the clients. nginx speaks HTTP/2 over TLS only.
    pub(crate) fn versions(self) -> &'static [Version] {
        match self {
            Self::Nginx => &[Version::Http1],
            Self::Haproxy | Self::Caddy | Self::Envoy => &Version::ALL,
        }
    }

    /// Returns the path of the configuration in `deploy/proxy`.
    pub(crate) fn file(self) -> PathBuf {
        let name = match self {
            Self::Haproxy => "haproxy.cfg",
            Self::Caddy => "Caddyfile",
            Self::Envoy => "envoy.yaml",
            Self::Nginx => "nginx.conf",
        };
        deploy("proxy").join(name)
    }
}

/// A running proxy, killed when dropped. Prints its log if the test panics.
#[derive(Debug)]
pub(crate) struct Front {
    kind: Kind,
    address: SocketAddr,
    child: Child,
    directory: TempDir,
}

impl Front {
    /// Starts the proxy before two nodes, which may be one server twice, and waits until both
    /// answer through it.
    ///
    /// Returns `None`, and reports the skip, if the proxy cannot be installed.
    pub(crate) async fn start(test: &str, kind: Kind, nodes: [&TestServer; 2]) -> Option<Self> {
        if kind == Kind::Envoy && !is_installed(test, "envoy") {
            return None;
        }
        // Another program may take the free port before the proxy binds it.
        for _ in 0..5 {
            let mut front = Self::spawn(kind, nodes);
            if front.answers().await {
                return Some(front);
            }
        }
        panic!("{kind:?} does not start");
    }

    fn spawn(kind: Kind, nodes: [&TestServer; 2]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut command = match kind {
            Kind::Haproxy => haproxy(address, nodes),
            Kind::Caddy => caddy(address, nodes, directory.path()),
            Kind::Envoy => envoy(address, nodes, directory.path()),
            Kind::Nginx => nginx(address, nodes, directory.path()),
        };
        let log = File::create(directory.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run installs it"));
        Self {
            kind,
            address,
            child,
            directory,
        }
    }

    /// Waits until requests arrive at a node; `false` if the proxy ends instead.
    async fn answers(&mut self) -> bool {
        let address = self.address;
        eventually("the proxy answers", || {
            let over = self.child.try_wait().unwrap().is_some();
            async move {
                if over {
                    return Some(false);
                }
                let mut client = Client::try_open(address, Version::Http1).await.ok()?;
                let listing = client.exchange(&Request::get("/files")).await.ok()?;
                (listing.status() == 200).then_some(true)
            }
        })
        .await
    }

    /// Returns the address of the listener.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens a connection to the proxy.
    pub(crate) async fn client(&self, version: Version) -> Client {
        Client::open(self.address, version).await
    }

    /// Sends one request on a new connection.
    pub(crate) async fn request(&self, version: Version, request: Request) -> Response {
        let mut client = self.client(version).await;
        match client.exchange(&request).await {
            Ok(response) => response,
            Err(cut) => panic!("{:?} cut {request:?}: {cut:#?}", self.kind),
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // A proxy that has already ended is no error.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log"));
            show(self.kind, &log.unwrap_or_default());
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "the test harness shows it beside the failure"
)]
fn show(kind: Kind, log: &str) {
    eprintln!("--- what {kind:?} said ---\n{log}\n---");
}

fn haproxy(address: SocketAddr, [first, second]: [&TestServer; 2]) -> Command {
    let mut command = program("haproxy");
    command
        .args(["-db", "-f"])
        .arg(Kind::Haproxy.file())
        .env("LONGHAUL_LISTEN", address.to_string())
        .env("LONGHAUL_1", first.address().to_string())
        .env("LONGHAUL_2", second.address().to_string())
        .env("LONGHAUL_1_ADMIN_PORT", first.admin().port().to_string())
        .env("LONGHAUL_2_ADMIN_PORT", second.admin().port().to_string());
    command
}

fn caddy(address: SocketAddr, [first, second]: [&TestServer; 2], directory: &Path) -> Command {
    assert_eq!(first.admin(), second.admin(), "Caddy asks one port");
    let nodes = format!("{} {}", first.address(), second.address());
    let mut command = program("caddy");
    command
        .args(["run", "--adapter", "caddyfile", "--config"])
        .arg(Kind::Caddy.file())
        .env("LONGHAUL_SITE", format!("http://:{}", address.port()))
        .env("LONGHAUL_NODES", nodes)
        .env("LONGHAUL_ADMIN_PORT", first.admin().port().to_string())
        .env("HOME", directory)
        .env("XDG_CONFIG_HOME", directory)
        .env("XDG_DATA_HOME", directory);
    command
}

fn envoy(address: SocketAddr, nodes: [&TestServer; 2], directory: &Path) -> Command {
    let mut text = std::fs::read_to_string(Kind::Envoy.file()).unwrap();
    let place = |ip: &str, port: u16| format!("{{ address: {ip}, port_value: {port} }}");
    let listens = place("127.0.0.1", address.port());
    put(&mut text, &place("0.0.0.0", 80), &listens);
    for (name, node) in ["longhaul-1", "longhaul-2"].iter().zip(nodes) {
        put(
            &mut text,
            &place(name, 8080),
            &place("127.0.0.1", node.address().port()),
        );
        // The first one left belongs to this node.
        let admin = format!("{{ port_value: {} }}", node.admin().port());
        text = text.replacen("{ port_value: 8079 }", &admin, 1);
    }
    let file = directory.join("envoy.yaml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(installed("envoy"));
    command
        .args(["--disable-hot-restart", "--concurrency", "1"])
        .args(["--log-level", "warning", "--config-path"])
        .arg(file);
    command
}

fn nginx(address: SocketAddr, nodes: [&TestServer; 2], directory: &Path) -> Command {
    let file = nginx_file(address, nodes.map(TestServer::address), directory);
    let global = format!(
        "daemon off; master_process off; pid {}/pid;",
        directory.display()
    );
    let mut command = program("nginx");
    command
        .args(["-e", "stderr", "-g", &global, "-c"])
        .arg(file);
    command
}

/// Returns nginx's configuration with these addresses, and with temporary files that need no
/// privilege.
pub(crate) fn nginx_file(address: SocketAddr, nodes: [SocketAddr; 2], directory: &Path) -> PathBuf {
    let mut text = std::fs::read_to_string(Kind::Nginx.file()).unwrap();
    put(&mut text, "listen 80;", &format!("listen {address};"));
    for (name, node) in ["longhaul-1", "longhaul-2"].iter().zip(nodes) {
        put(
            &mut text,
            &format!("server {name}:8080;"),
            &format!("server {node};"),
        );
    }
    let mut http = "http {\n".to_owned();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let path = directory.join(kind);
        http.push_str(&format!("{kind}_temp_path {};\n", path.display()));
    }
    put(&mut text, "http {\n", &http);
    let file = directory.join("nginx.conf");
    std::fs::write(&file, text).unwrap();
    file
}

/// Replaces the only occurrence of `old`.
fn put(text: &mut String, old: &str, new: &str) {
    assert_eq!(
        text.matches(old).count(),
        1,
        "{old:?} must occur exactly once"
    );
    *text = text.replace(old, new);
}

/// Returns a command for a program of Debian, some of which are outside the path of ordinary users.
pub(crate) fn program(name: &str) -> Command {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/sbin");
    let mut command = Command::new(name);
    command
        .env("PATH", path)
        // The test must not depend on the settings of the user who runs it.
        .env_remove("LONGHAUL_KEYS")
        .env_remove("LONGHAUL_PUBLISH");
    command
}

/// Returns the path of a file or directory in `deploy/`.
pub(crate) fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(name)
}

/// Returns the path of a program that `tests/deploy/install` installs.
pub(crate) fn installed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(".cache/deploy/bin")
        .join(name)
}

/// Reports whether the program is installed; reports a skip if it cannot be.
pub(crate) fn is_installed(test: &str, name: &str) -> bool {
    let is_there = installed(name).exists();
    if !is_there && std::env::var_os("TESTS_WITHOUT_REGISTRIES").is_some() {
        skip(test, "TESTS_WITHOUT_REGISTRIES is set");
        return false;
    }
    assert!(is_there, "no {name}: tests/deploy/install brings it");
    true
}
