//! Liveness and readiness of this server.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::supervisor::Failure;
use crate::{BlobStore, MetadataStore, Supervisor};

/// Time that a store has to pass its check. Probes commonly give up after five seconds, so the
/// answer should come earlier.
const LIMIT: Duration = Duration::from_secs(3);

/// Liveness and readiness of this server. It is alive while the tasks that it needs run. It is
/// ready while its stores work and it is not about to end.
#[derive(Debug, Clone)]
pub struct Health {
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
    supervisor: Supervisor,
    draining: Arc<AtomicBool>,
    /// Permits for one check of each store at a time, so that frequent probes do not pile up checks
    /// of a store that hangs.
    turns: [Arc<Semaphore>; 2],
}

/// Reason not to send requests to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The server is about to end.
    #[error("the server is about to end")]
    Draining,
    /// These stores failed their check, or did not answer in time.
    #[error("not working: {}", .0.join(", "))]
    Stores(Vec<&'static str>),
}

impl Health {
    /// Creates the health of a server that uses these stores, and whose tasks `supervisor` watches.
    pub fn new(
        blobs: Arc<dyn BlobStore>,
        metadata: Arc<dyn MetadataStore>,
        supervisor: Supervisor,
    ) -> Self {
        Self {
            blobs,
            metadata,
            supervisor,
            draining: Arc::default(),
            turns: [(); 2].map(|()| Arc::new(Semaphore::new(1))),
        }
    }

    /// Makes the server not ready from now on, since it is about to end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Fails if a task that the server needs has ended. Stores are not checked: a new process would
    /// not repair them.
    ///
    /// # Errors
    ///
    /// The first failure.
    pub fn live(&self) -> Result<(), Failure> {
        self.supervisor.check()
    }

    /// Checks both stores at the same time, each for up to three seconds.
    ///
    /// # Errors
    ///
    /// The server is about to end, or a store failed its check; the reason is in the log.
    ///
    /// # Cancel safety
    ///
    /// A check under way goes on, and the next one waits for its end.
    pub async fn ready(&self) -> Result<(), NotReady> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(NotReady::Draining);
        }
        let (blobs, metadata) = (Arc::clone(&self.blobs), Arc::clone(&self.metadata));
        let [of_blobs, of_metadata] = &self.turns;
        let (blobs, metadata) = tokio::join!(
            works("blob store", of_blobs, async move { blobs.check().await }),
            works("metadata store", of_metadata, async move {
                metadata.check().await
            }),
        );
        let failed: Vec<_> = [blobs, metadata]
            .into_iter()
            .filter_map(Result::err)
            .collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(NotReady::Stores(failed))
        }
    }
}

/// Runs the check of a store, up to the time limit. The error is the store's name.
async fn works<E: Error + Send + Sync + 'static>(
    store: &'static str,
    turn: &Arc<Semaphore>,
    check: impl Future<Output = Result<(), E>> + Send + 'static,
) -> Result<(), &'static str> {
    let checked = async {
        let turn = Arc::clone(turn).acquire_owned().await?;
        let check = tokio::spawn(async move {
            let _until_it_ends = turn;
            check.await
        });
        Ok::<(), Box<dyn Error + Send + Sync>>(check.await??)
    };
    let outcome = timeout(LIMIT, checked)
        .await
        .unwrap_or_else(|elapsed| Err(elapsed.into()));
    outcome.map_err(|error| {
        let error: &(dyn Error + 'static) = &*error;
        tracing::warn!(store, error, "a store failed its check");
        store
    })
}
