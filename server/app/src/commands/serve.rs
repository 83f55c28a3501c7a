//! `longhaul serve`: the server.

use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use domain::access::Gate;
use edge::serve::{ListenConfig, Listener};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Flags};
use crate::wiring::Server;
use crate::{supervisor, telemetry};

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
        let passed = supervisor::sockets()?;
        super::block_on(run(config, passed))
    }
}

/// Serves until the process is told to stop: on the sockets that were `passed`, or where the configuration says.
///
/// # Errors
///
/// The server cannot be started with this configuration.
pub async fn run(config: Config, passed: Vec<TcpListener>) -> anyhow::Result<()> {
    check_access(&config, &addresses(&config, &passed)?)?;
    raise_file_limit();
    let mut stop = StopSignals::listen()?;
    // A file-size limit then fails the write, which is answered, instead of ending the process.
    let _file_size_limit = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    let server = Server::open(&config).await?;
    let listeners = listen(&config, passed).await?;
    let admin_listener = listen_for_admin(&config).await?;
    announce(&config, &listeners, admin_listener.as_ref());

    let shutdown = CancellationToken::new();
    let over = CancellationToken::new();
    let janitor = tokio::spawn(server.janitor.run(shutdown.clone()));
    let departed = CancellationToken::new();
    let staying = tokio::spawn({
        let (leases, departed) = (server.leases.clone(), departed.clone());
        async move { leases.stay(departed).await }
    });
    let heeding = tokio::spawn({
        let uploads = server.uploads.clone();
        async move { uploads.heed().await }
    });
    let webhooks = server.webhooks;
    // They go on until the last upload is complete.
    let delivered = CancellationToken::new();
    let webhooks = webhooks.map(|webhooks| tokio::spawn(webhooks.run(delivered.clone())));
    let health = server.admin.health.clone();
    let admin = tokio::spawn(edge::serve::serve(
        admin_listener.into_iter().collect(),
        edge::routes::admin::transport(),
        edge::routes::admin::service(server.admin),
        over.clone(),
    ));
    let serving = tokio::spawn(edge::serve::serve(
        listeners,
        config.http.clone(),
        edge::routes::service(server.api),
        shutdown.clone(),
    ));
    supervisor::ready();
    stop.received().await;
    supervisor::stopping();
    health.drain();
    let draining = async {
        if !config.http.drain_delay.is_zero() {
            let delay = config.http.drain_delay;
            tracing::info!(?delay, "no longer ready: load balancers may notice");
            tokio::time::sleep(delay).await;
        }
        tracing::info!("stopping: uploads are made durable, clients will resume");
        shutdown.cancel();
        server.uploads.drain().await;
        serving.await
    };
    let drained = tokio::select! {
        drained = draining => drained??,
        () = stop.received() => anyhow::bail!("told to stop twice: stopped at once"),
    };
    janitor.await?;
    heeding.abort();
    delivered.cancel();
    if let Some(webhooks) = webhooks {
        webhooks.await?;
    }
    departed.cancel();
    staying.await?;
    // Whatever is asked there may need the stores.
    over.cancel();
    admin.await??;
    server.metadata.close().await;
    tracing::info!(connections_cut = drained.cut, "stopped");
    Ok(())
}

/// Where clients will be served.
fn addresses(config: &Config, passed: &[TcpListener]) -> anyhow::Result<Vec<SocketAddr>> {
    if passed.is_empty() {
        return Ok(vec![config.listen]);
    }
    passed
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<_, _>>()
        .context("failed to read the address of a socket that was passed")
}

async fn listen(config: &Config, passed: Vec<TcpListener>) -> anyhow::Result<Vec<Listener>> {
    let tls = config.tls.listener();
    if passed.is_empty() {
        let address = config.listen;
        return Ok(vec![Listener::bind(&ListenConfig { address, tls }).await?]);
    }
    let listeners = passed
        .into_iter()
        .map(|socket| Listener::from_std(socket, tls.as_ref()));
    Ok(listeners.collect::<Result<_, _>>()?)
}

async fn listen_for_admin(config: &Config) -> anyhow::Result<Option<Listener>> {
    let Some(address) = config.admin.listen.address() else {
        return Ok(None);
    };
    let listener = Listener::bind(&ListenConfig { address, tls: None }).await;
    listener.map(Some).context(
        "failed to start the admin listener. Another server on this machine may have its port: give this one another \
         with --admin ADDR (setting `admin.listen`, variable LONGHAUL_ADMIN__LISTEN), or switch it off with --admin off",
    )
}

/// Says where the server is reached; where clients are served, last, since what started the server may wait for that.
fn announce(config: &Config, listeners: &[Listener], admin: Option<&Listener>) {
    if let Some(admin) = admin {
        let url = format!("http://{}", admin.address());
        tracing::info!(url, "listening for admin");
    }
    for listener in listeners {
        let scheme = if listener.is_secure() {
            "https"
        } else {
            "http"
        };
        let url = format!("{scheme}://{}", listener.address());
        tracing::info!(url, data = %config.data.display(), "listening");
    }
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
fn check_access(config: &Config, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let open = Gate::new(&config.access).is_open();
    if !open {
        return Ok(());
    }
    for address in addresses {
        anyhow::ensure!(
            config.access.open || address.ip().is_loopback(),
            "refusing to serve {address} to everyone: no API key is configured. Make one with `longhaul hash-key` and put it \
             under [access], or say --open if everyone may read, write and delete"
        );
        tracing::warn!(
            %address,
            "OPEN: no API key is configured, everyone who reaches this address may read, write and delete"
        );
    }
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
