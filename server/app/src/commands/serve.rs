//! `longhaul serve`: the server.

use anyhow::Context as _;
use domain::access::Gate;
use edge::serve::{ListenConfig, Listener};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Flags};
use crate::telemetry;
use crate::wiring::Server;

/// Run the server
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul serve                                  on 127.0.0.1:8080, for everyone on this machine
  longhaul serve --listen 0.0.0.0:80 --data /srv/longhaul --config longhaul.toml
  LONGHAUL_LOG__LEVEL=debug longhaul serve        any setting can come from the environment

`longhaul config` lists all settings.")]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    /// Reads the configuration, begins the log and serves.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.flags)?;
        telemetry::init(&config.log)?;
        super::block_on(run(config))
    }
}

/// Serves until the process is told to stop.
///
/// # Errors
///
/// The server cannot be started with this configuration.
pub async fn run(config: Config) -> anyhow::Result<()> {
    check_access(&config)?;
    raise_file_limit();
    let mut stop = StopSignals::listen()?;
    // A file-size limit then fails the write, which is answered, instead of ending the process.
    let _file_size_limit = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    let server = Server::open(&config).await?;
    let listener = Listener::bind(&ListenConfig {
        address: config.listen,
        tls: config.tls.listener(),
    })
    .await?;
    let scheme = if config.tls.listener().is_some() {
        "https"
    } else {
        "http"
    };
    let url = format!("{scheme}://{}", listener.address());
    tracing::info!(url, data = %config.data.display(), "listening");

    let shutdown = CancellationToken::new();
    let janitor = tokio::spawn(server.janitor.run(shutdown.clone()));
    let serving = tokio::spawn(edge::serve::serve(
        vec![listener],
        config.http.clone(),
        edge::routes::service(server.api),
        shutdown.clone(),
    ));
    stop.received().await;
    tracing::info!("stopping: uploads are made durable, clients will resume");
    shutdown.cancel();
    let draining = async {
        server.uploads.drain().await;
        serving.await
    };
    let drained = tokio::select! {
        drained = draining => drained??,
        () = stop.received() => anyhow::bail!("told to stop twice: stopped at once"),
    };
    janitor.await?;
    server.metadata.close().await;
    tracing::info!(connections_cut = drained.cut, "stopped");
    Ok(())
}

/// Each connection is a descriptor, and so is each blob that is read or written: the usual soft limit of 1,024 is soon reached.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, current = limit.current, "the limit of open files stays as it is");
    }
}

/// Without keys, only loopback is served, unless the operator says otherwise.
fn check_access(config: &Config) -> anyhow::Result<()> {
    let open = Gate::new(&config.access).is_open();
    if !open {
        return Ok(());
    }
    anyhow::ensure!(
        config.access.open || config.listen.ip().is_loopback(),
        "refusing to serve {} to everyone: no API key is configured. Make one with `longhaul hash-key` and put it \
         under [access], or say --open if everyone may read, write and delete",
        config.listen
    );
    tracing::warn!(
        address = %config.listen,
        "OPEN: no API key is configured, everyone who reaches this address may read, write and delete"
    );
    Ok(())
}

/// SIGTERM and SIGINT. From the moment that they are listened to, they do not end the process by themselves.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?,
        })
    }

    /// Waits for the next one.
    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
