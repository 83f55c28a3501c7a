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

/// How long a store may take to pass its check. Probes commonly give up after five seconds; the answer should come before.
const LIMIT: Duration = Duration::from_secs(3);

/// Tells whether this server lives: the tasks that it needs run; and whether it should be sent requests: its stores work, and it is
/// not about to end.
#[derive(Debug, Clone)]
pub struct Health {
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
    supervisor: Supervisor,
    draining: Arc<AtomicBool>,
    /// One check of each store at a time: those of a store that hangs do not pile up, however often is asked.
    turns: [Arc<Semaphore>; 2],
}

/// Why a server should be sent no requests.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It is about to end.
    #[error("the server is about to end")]
    Draining,
    /// These stores failed their check, or did not answer in time.
    #[error("not working: {}", .0.join(", "))]
    Stores(Vec<&'static str>),
}

impl Health {
    /// Of a server that works with these stores, and whose tasks `supervisor` watches over.
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

    /// From now on the server is not ready, since it is about to end.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Tells whether every task that the server needs runs. It looks at no store: a new process would not mend those.
    ///
    /// # Errors
    ///
    /// The first task that does not.
    pub fn live(&self) -> Result<(), Failure> {
        self.supervisor.check()
    }

    /// Asks both stores at once, and gives each three seconds.
    ///
    /// # Errors
    ///
    /// The server is about to end, or a store does not work; why it does not is in the log.
    ///
    /// # Cancel safety
    ///
    /// A check that was begun runs on, and the next one waits for its end.
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

/// Whether a store passes its check in time; its name where it does not.
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
