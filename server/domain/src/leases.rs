//! What is for one node at a time, and which nodes are alive.
//!
//! A lease is a name in the metadata store that one node has until a moment by the store's clock, and longer if it asks in time.
//! Whoever cannot ask counts its lease as lost earlier than others can have it, by its own steady clock, whatever the time is there.
//!
//! Each lease that is given tells the time of the store as well, which the node's clock follows: so nodes agree on what has expired.
//!
//! A store that one process uses gives no leases: all work is that node's, and nobody asks whether it is alive.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::FollowingClock;
use crate::metadata_store::node_lease;
use crate::{Error, MetadataStore, NodeId};

/// How long a lease lasts if it is not renewed.
pub const LIFETIME: Duration = Duration::from_secs(5);

/// How long its holder waits before it renews it, and before it tries again.
pub const RENEWAL: Duration = Duration::from_secs(1);

/// The name of what the janitor does.
pub const JANITOR: &str = "janitor";

/// The name of delivering events.
pub const WEBHOOKS: &str = "webhooks";

/// The leases of a node.
#[derive(Debug, Clone)]
pub struct Leases {
    metadata: Arc<dyn MetadataStore>,
    node: NodeId,
    clock: Arc<FollowingClock>,
}

impl Leases {
    /// The leases that `node` takes in this store, whose time `clock` follows.
    pub fn new(metadata: Arc<dyn MetadataStore>, node: NodeId, clock: Arc<FollowingClock>) -> Self {
        Self {
            metadata,
            node,
            clock,
        }
    }

    /// Whose they are.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The clock that follows the store's.
    pub fn clock(&self) -> &FollowingClock {
        &self.clock
    }

    /// Does `work` while this node has the lease `name`, then gives it back; `None` where another node has it, or where it was lost
    /// before the work's end, which is dropped then.
    ///
    /// # Errors
    /// The metadata store's, before the work has begun.
    ///
    /// # Cancel safety
    /// May be dropped anywhere, as may the work: the lease expires by itself.
    pub async fn exclusively<T>(
        &self,
        name: &str,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, Error> {
        if !self.metadata.is_shared() {
            return Ok(Some(work.await));
        }
        let Some(lasts) = self.take(name).await? else {
            return Ok(None);
        };
        let done = tokio::select! {
            biased;
            done = work => Some(done),
            () = self.renew(name, lasts) => None,
        };
        self.give_back(name).await;
        Ok(done)
    }

    /// Makes this node known to others as one that is alive, for as long as a lease lasts.
    ///
    /// # Errors
    /// The metadata store's.
    pub async fn appear(&self) -> Result<(), Error> {
        match self.metadata.is_shared() {
            true => self.take(&node_lease(self.node)).await.map(drop),
            false => Ok(()),
        }
    }

    /// Lets other nodes know that this one is alive, until `stop`, and no longer. Where the store is out of reach for longer than a lease lasts,
    /// others take over what this node holds, until it appears again.
    ///
    /// # Cancel safety
    /// May be dropped anywhere: others find out when the lease expires.
    pub async fn stay(&self, stop: CancellationToken) {
        if !self.metadata.is_shared() {
            // Nobody needs to know; the wait is the same.
            return stop.cancelled().await;
        }
        let staying = async {
            loop {
                tokio::time::sleep(RENEWAL).await;
                if let Err(error) = self.appear().await {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "other nodes may think that this one is gone"
                    );
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => self.give_back(&node_lease(self.node)).await,
            () = staying => {}
        }
    }

    /// Renews a lease that lasts for a while, again and again; ends once it is another's, or has lasted for its time.
    async fn renew(&self, name: &str, mut lasts: Instant) {
        loop {
            let again = async {
                tokio::time::sleep(RENEWAL).await;
                self.take(name).await
            };
            match tokio::time::timeout_at(lasts, again).await {
                Ok(Ok(Some(longer))) => lasts = longer,
                Ok(Ok(None)) | Err(_) => return,
                Ok(Err(error)) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    name,
                    "a lease could not be renewed"
                ),
            }
        }
    }

    /// Until when the lease lasts at least, by this process's clock, if it is this node's.
    async fn take(&self, name: &str) -> Result<Option<Instant>, Error> {
        let (asked, asked_at) = (Instant::now(), self.clock.own());
        let lease = self
            .metadata
            .lease(name, self.node, LIFETIME)
            .await
            .map_err(Error::metadata("take a lease"))?;
        let Some(lease) = lease else {
            return Ok(None);
        };
        self.clock.follow(asked_at, lease.given_at);
        Ok(Some(asked + LIFETIME))
    }

    async fn give_back(&self, name: &str) {
        if let Err(error) = self.metadata.release_lease(name, self.node).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                name,
                "a lease is left to expire"
            );
        }
    }
}
