//! Leases: work that one node does at a time, and the nodes that are alive.
//!
//! A lease is a name in the metadata store that one node owns until a time on the store's clock,
//! and longer if the node renews it in time. A node that cannot renew its lease counts it as lost
//! before another node can take it. For this it uses its own monotonic clock, independently of the
//! time on the store's clock.
//!
//! Each grant of a lease also reports the time of the store, which the node's clock follows: so
//! nodes agree on what has expired.
//!
//! A store that only one process uses grants no leases: that node does all work, and no other
//! checks whether it is alive.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::FollowingClock;
use crate::metadata_store::node_lease;
use crate::{Error, MetadataStore, NodeId};

/// Lifetime of a lease that is not renewed.
pub const LIFETIME: Duration = Duration::from_secs(5);

/// Time between two renewals, and between two attempts to renew.
pub const RENEWAL: Duration = Duration::from_secs(1);

/// Name of the janitor's lease.
pub const JANITOR: &str = "janitor";

/// Name of the lease for delivering events.
pub const WEBHOOKS: &str = "webhooks";

/// Leases of a node.
#[derive(Debug, Clone)]
pub struct Leases {
    metadata: Arc<dyn MetadataStore>,
    node: NodeId,
    clock: Arc<FollowingClock>,
}

impl Leases {
    /// Creates the leases that `node` takes in this store, whose time `clock` follows.
    pub fn new(metadata: Arc<dyn MetadataStore>, node: NodeId, clock: Arc<FollowingClock>) -> Self {
        Self {
            metadata,
            node,
            clock,
        }
    }

    /// Returns the node that takes these leases.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Returns the clock that follows the store's time.
    pub fn clock(&self) -> &FollowingClock {
        &self.clock
    }

    /// Runs `work` while this node holds the lease `name`, then releases the lease. Returns `None`
    /// if another node holds the lease, or if the lease is lost before the work ends; the work is
    /// then dropped.
    ///
    /// # Errors
    /// The metadata store's error, before the work has begun.
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

    /// Takes or renews the lease that shows other nodes that this one is alive.
    ///
    /// # Errors
    /// The metadata store's error.
    pub async fn appear(&self) -> Result<(), Error> {
        match self.metadata.is_shared() {
            true => self.take(&node_lease(self.node)).await.map(drop),
            false => Ok(()),
        }
    }

    /// Shows other nodes that this one is alive, until `stop`. If the store is out of reach for
    /// longer than a lease lasts, other nodes take over what this node holds, until it renews its
    /// lease again.
    ///
    /// # Cancel safety
    /// May be dropped anywhere: other nodes notice when the lease expires.
    pub async fn stay(&self, stop: CancellationToken) {
        if !self.metadata.is_shared() {
            // No other node needs to know; only the wait is the same.
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

    /// Renews a lease, which lasts until `lasts`, again and again. Returns once another node owns
    /// the lease, or the lease has expired.
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

    /// Takes or renews a lease. Returns the earliest time at which the lease expires, by this
    /// process's clock; `None` if another node owns the lease.
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
