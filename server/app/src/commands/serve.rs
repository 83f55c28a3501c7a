//! `longhaul serve`: run the server.

mod listening;
mod reloading;

use std::net::TcpListener;
use std::sync::Arc;

use anyhow::Context as _;
use domain::supervisor::Failure;
use domain::{Health, MetadataStore, Supervisor, Uploads};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use transport::{ConfigError, Drained, Listener, Memory};

use self::reloading::Reloading;
use crate::config::{Config, Flags};
use crate::service_manager;
use crate::telemetry::Log;
use crate::wiring::Server;

/// Run the server
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul serve                                  on 127.0.0.1:8080, for everyone on this machine
  longhaul serve --listen :80 --data /srv/longhaul --config longhaul.toml
  LONGHAUL_LOG__LEVEL=debug longhaul serve        any setting can come from the environment
  kill -HUP PID                                   takes up changed keys, certificates and log level

`longhaul config` lists all settings, `longhaul config --check` finds mistakes in yours.")]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    /// Reads the configuration, starts the log and serves.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        // The environment changes here, so no other thread may run yet.
        let passed = service_manager::sockets()?;
        let config = Config::load(&self.flags)?;
        config.check_reach(&listening::addresses(&config, &passed)?)?;
        let log = Log::begin(&config.log)?;
        let runtime = super::runtime()?;
        let served = runtime.block_on(run(config, passed, self.flags, &log));
        if served.is_err() {
            // A task that hangs must not keep the process: all acknowledged bytes are durable.
            runtime.shutdown_background();
        }
        log.end();
        served
    }
}

/// Serves until a signal stops the process, on the `passed` sockets or on the addresses of the
/// configuration.
///
/// # Errors
///
/// The server cannot start with this configuration, or a task that it needs has ended.
async fn run(
    config: Config,
    passed: Vec<TcpListener>,
    flags: Flags,
    log: &Log,
) -> anyhow::Result<()> {
    raise_file_limit();
    let mut signals = Signals::listen()?;
    // A file-size limit then fails the write, which is answered, instead of ending the process.
    let _file_size_limit = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()))?;
    let server = Server::open(&config).await?;
    for doubt in config.doubts(&flags) {
        tracing::warn!("{doubt}");
    }
    let listeners = listening::listen(&config, passed)?;
    let admin = listening::listen_for_admin(&config)?;
    announce(
        &config,
        &listeners,
        &admin,
        server.api.authenticator.is_open(),
    );
    let mut reloading = Reloading {
        flags,
        log,
        authenticator: server.api.authenticator.clone(),
        certificates: listeners.iter().filter_map(Listener::certificate).collect(),
        served: listeners.iter().map(Listener::address).collect(),
        config: config.clone(),
    };
    let work = Work::begin(server, listeners, admin, &config);
    let supervisor = work.supervisor.clone();
    service_manager::ready();
    loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop => break,
                Told::Reload => reloading.reload().await,
            },
            failure = supervisor.failure() => return Err(end_at_once(failure)),
        }
    }
    service_manager::stopping();
    let drained = tokio::select! {
        drained = work.end(&config) => drained?,
        () = signals.stop() => anyhow::bail!("told to stop twice: stopped at once"),
        failure = supervisor.failure() => return Err(end_at_once(failure)),
    };
    tracing::info!(connections_cut = drained.cut, "stopped");
    Ok(())
}

/// Logs a failed task and returns the error that ends the process: a new process resumes all
/// acknowledged work, a server without one of its tasks cannot.
fn end_at_once(failure: Failure) -> anyhow::Error {
    tracing::error!(
        task = failure.task,
        panicked = failure.panicked,
        "a task that the server needs has ended: the process ends, to be started again"
    );
    anyhow::Error::new(failure).context("stopped at once, since the server cannot do without")
}

/// Tasks of a server, each with its stop signal.
struct Work {
    supervisor: Supervisor,
    health: Health,
    uploads: Uploads,
    metadata: Arc<dyn MetadataStore>,
    serving: Task<Served>,
    janitor: Task,
    webhooks: Option<Task>,
    staying: Task,
    admin: Option<Task<Served>>,
    /// Tasks that run until their runtime ends.
    heeding: JoinHandle<()>,
}

/// Outcome of serving on some listeners.
type Served = Result<Drained, ConfigError>;

/// Task with a stop signal; it ends some time after the signal.
struct Task<T = ()> {
    stop: CancellationToken,
    ended: JoinHandle<T>,
}

impl<T: Send + 'static> Task<T> {
    fn spawn<F: Future<Output = T> + Send + 'static>(
        supervisor: &Supervisor,
        name: &'static str,
        work: impl FnOnce(CancellationToken) -> F,
    ) -> Self {
        let stop = CancellationToken::new();
        let ended = supervisor.spawn(name, work(stop.clone()));
        Self { stop, ended }
    }

    async fn end(self) -> anyhow::Result<T> {
        self.stop.cancel();
        Ok(self.ended.await?)
    }
}

impl Work {
    fn begin(
        server: Server,
        listeners: Vec<Listener>,
        admin: Vec<Listener>,
        config: &Config,
    ) -> Self {
        let Server {
            api,
            admin: asked,
            uploads,
            janitor,
            leases,
            webhooks,
            metadata,
            supervisor,
            memory,
        } = server;
        let memory = Memory::new(&memory, &config.memory);
        let health = asked.health.clone();
        let (writing, heeded, http) = (Arc::clone(&metadata), uploads.clone(), config.http.clone());
        // This task ends when the store is closed.
        supervisor.spawn("the writer of the metadata store", async move {
            writing.ended().await;
        });
        Self {
            heeding: supervisor.spawn("the task that hears other nodes", async move {
                heeded.heed().await;
            }),
            janitor: Task::spawn(&supervisor, "the janitor", |stop| janitor.run(stop)),
            webhooks: webhooks.map(|webhooks| {
                Task::spawn(&supervisor, "the delivery of webhooks", |stop| {
                    webhooks.run(stop)
                })
            }),
            staying: Task::spawn(
                &supervisor,
                "the task that renews leases",
                |stop| async move { leases.stay(stop).await },
            ),
            // Without a listener, there is nothing to serve.
            admin: (!admin.is_empty()).then(|| {
                Task::spawn(&supervisor, "the admin listener", |stop| {
                    let service = observe::router(edge::routes::admin::router(asked));
                    let config = edge::routes::admin::transport();
                    transport::serve(admin, config, memory.clone(), service, stop)
                })
            }),
            serving: Task::spawn(&supervisor, "the listener", |stop| {
                let router = observe::router(edge::routes::router(api));
                transport::serve(listeners, http, memory, edge::routes::service(router), stop)
            }),
            supervisor,
            health,
            uploads,
            metadata,
        }
    }

    /// Stops all tasks, each before those that it depends on.
    async fn end(self, config: &Config) -> anyhow::Result<Drained> {
        self.health.drain();
        let delay = config.http.drain_delay;
        if !delay.is_zero() {
            tracing::info!(?delay, "no longer ready: load balancers may notice");
            tokio::time::sleep(delay).await;
        }
        tracing::info!("stopping: uploads are made durable, clients will resume");
        self.supervisor.stop();
        self.serving.stop.cancel();
        self.janitor.stop.cancel();
        self.uploads.drain().await;
        let drained = self.serving.end().await??;
        self.janitor.end().await?;
        self.heeding.abort();
        // The leases are held until the last upload has ended.
        if let Some(webhooks) = self.webhooks {
            webhooks.end().await?;
        }
        self.staying.end().await?;
        // The admin listener stops before the stores close: its answers need them.
        if let Some(admin) = self.admin {
            admin.end().await??;
        }
        self.metadata.close().await;
        Ok(drained)
    }
}

/// Logs the addresses of the listeners. The address for clients comes last, since the program that
/// started the server may wait for that line.
fn announce(config: &Config, listeners: &[Listener], admin: &[Listener], is_open: bool) {
    for address in listeners.iter().map(Listener::address).filter(|_| is_open) {
        tracing::warn!(
            %address,
            "OPEN: no API key is configured, everyone who reaches this address may read, write and delete"
        );
    }
    for admin in admin {
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

/// Raises the soft limit of open files to the hard limit. Every connection and every open blob
/// takes a descriptor, and the usual 1,024 are soon used.
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

/// Meaning of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Stop,
    Reload,
}

/// Streams of SIGTERM, SIGINT and SIGHUP. While they exist, those signals do not end the process by
/// themselves.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let listen =
            |kind, name| signal(kind).with_context(|| format!("failed to listen for {name}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            hangup: listen(SignalKind::hangup(), "SIGHUP")?,
        })
    }

    /// Waits for the next signal.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// Waits for the next signal that stops the server. SIGHUP is ignored: a server that is
    /// stopping needs no new configuration.
    async fn stop(&mut self) {
        while self.next().await == Told::Reload {}
    }
}
