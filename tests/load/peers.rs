//! The measured servers, and the requests that each understands.

mod nginx;
mod rustus;
mod tus_server;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use tests::process::Resident;
use tests::{Process, TestServer};

use crate::affinity::on_server_core;
use crate::bare;
use crate::client::{self, Exchange};
use crate::packs;

/// Kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Longhaul.
    Longhaul,
    /// nginx from Debian, with `sendfile`, two workers and DAV's `PUT`, which does not sync.
    Nginx,
    /// A loop from the socket to a file, synced before the answer. Uploads only.
    Bare,
    /// Longhaul over the IETF's protocol instead of tus, in rows that allow either.
    LonghaulIetf,
    /// @tus/server from npm. Resumable uploads only.
    TusServer,
    /// rustus from crates.io. Resumable uploads only.
    Rustus,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Longhaul(Box<TestServer>),
    Child(Child),
}

impl Peer {
    /// Starts the server on the servers' core, with its data below `directory`. Anything that has
    /// to be built for it goes to `peers`.
    pub(crate) fn start(kind: Kind, directory: &Path, peers: &Path) -> anyhow::Result<Self> {
        let directory = directory.join(format!("{kind:?}"));
        std::fs::create_dir(&directory)?;
        let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let (running, address) = on_server_core(|| match kind {
            Kind::Longhaul | Kind::LonghaulIetf => start_longhaul(&directory),
            Kind::TusServer => tus_server::start(&directory)
                .map(|(child, port)| (Running::Child(child), loopback(port))),
            Kind::Rustus => rustus::start(&directory, peers)
                .map(|(child, port)| (Running::Child(child), loopback(port))),
            Kind::Nginx => nginx::start(&directory)
                .map(|(child, port)| (Running::Child(child), loopback(port))),
            Kind::Bare => {
                bare::start(&directory).map(|(child, port)| (Running::Child(child), loopback(port)))
            }
        })?;
        Ok(Self {
            kind,
            address,
            running,
        })
    }

    /// Returns a download of the file `name`, with additional fields.
    pub(crate) fn get(&self, name: &str, fields: &str, status: u16) -> Exchange {
        self.exchange("GET", name, fields, 0, status)
    }

    /// Returns an upload in one plain request.
    pub(crate) fn put(&self, name: &str, length: u64) -> Exchange {
        self.exchange(
            "PUT",
            name,
            &format!("Content-Length: {length}\r\n"),
            length,
            201,
        )
    }

    /// Returns a removal of the file `name`.
    pub(crate) fn delete(&self, name: &str) -> Exchange {
        self.exchange("DELETE", name, "", 0, 204)
    }

    /// Returns a download of the archive of [`packs`], with additional fields.
    pub(crate) fn archive(&self, fields: &str, status: u16) -> Exchange {
        exchange("GET", packs::archive(self.kind), fields, 0, status)
    }

    fn exchange(&self, method: &str, name: &str, fields: &str, body: u64, status: u16) -> Exchange {
        exchange(method, &format!("/files/{name}"), fields, body, status)
    }

    /// Performs one exchange outside of any measurement.
    pub(crate) fn once(&self, exchange: Exchange) -> anyhow::Result<()> {
        let mut exchange = Some(exchange);
        client::run(self.address, 1, &mut || exchange.take())
            .with_context(|| format!("{} refused", self.kind.name()))?;
        Ok(())
    }

    /// Returns the CPU time of all its processes so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.process()
            .family()
            .into_iter()
            .map(Process::cpu_time)
            .sum()
    }

    /// Returns the memory of all its processes together.
    pub(crate) fn resident(&self) -> Resident {
        let family = self.process().family().into_iter().map(Process::resident);
        family.fold(Resident::default(), |sum, one| Resident {
            total: sum.total + one.total,
            anonymous: sum.anonymous + one.anonymous,
        })
    }

    fn process(&self) -> Process {
        match &self.running {
            Running::Longhaul(server) => server.process(),
            Running::Child(child) => Process::of(child),
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        match &mut self.running {
            // Ends when its handle is dropped.
            Running::Longhaul(_) => {}
            Running::Child(child) => {
                Process::of(child).signal(rustix::process::Signal::TERM);
                // A child that cannot be waited for is gone.
                let _ = child.wait();
            }
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Longhaul => "longhaul",
            Self::Nginx => "nginx",
            Self::Bare => "bare",
            Self::LonghaulIetf => "longhaul (IETF)",
            Self::TusServer => "@tus/server",
            Self::Rustus => "rustus",
        }
    }
}

fn start_longhaul(directory: &Path) -> anyhow::Result<(Running, SocketAddr)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let server = runtime.block_on(TestServer::setup().data(directory).start());
    let address = server.address();
    Ok((Running::Longhaul(Box::new(server)), address))
}

/// Builds the release program beside this one, unless `LONGHAUL_BIN` names another.
pub(crate) fn build_longhaul() -> anyhow::Result<()> {
    if std::env::var_os("LONGHAUL_BIN").is_some() {
        return Ok(());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "app"])
        .status()
        .context("failed to run cargo")?;
    ensure!(
        status.success(),
        "longhaul cannot be built; `--peer nginx` measures without it"
    );
    Ok(())
}

fn exchange(method: &str, path: &str, fields: &str, body: u64, status: u16) -> Exchange {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    Exchange {
        head: Rc::from(head.into_bytes()),
        body,
        status,
    }
}
