//! Changes of leases, and the check of whether changes are possible.

use domain::NodeId;
use domain::metadata_store::{Lease, MetadataError};

use crate::engine::{Command, Scope, Transaction};
use crate::rows::lease;
use crate::sql;
use crate::values::{limited, values};

/// See [`lease`](domain::MetadataStore::lease).
#[derive(Debug)]
pub(crate) struct TakeLease {
    pub(crate) name: String,
    pub(crate) node: NodeId,
    pub(crate) millis: i64,
}

impl Command for TakeLease {
    type Answer = Option<Lease>;
    const DOING: &'static str = "take a lease";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> Result<Option<Lease>, MetadataError> {
        let values = values![self.name.as_str(), self.node.to_string(), self.millis];
        let taken: Option<(i64,)> = transaction.row(sql::LEASE, values).await?;
        Ok(taken.map(|(expires_at,)| lease(expires_at, self.millis)))
    }
}

/// See [`release_lease`](domain::MetadataStore::release_lease).
#[derive(Debug)]
pub(crate) struct ReleaseLease {
    pub(crate) name: String,
    pub(crate) node: NodeId,
}

impl Command for ReleaseLease {
    type Answer = ();
    const DOING: &'static str = "give a lease back";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        let values = values![self.name.as_str(), self.node.to_string()];
        let released = transaction.run(sql::RELEASE_LEASE, values).await;
        released.map(drop)
    }
}

/// See [`forget_leases`](domain::MetadataStore::forget_leases).
#[derive(Debug)]
pub(crate) struct ForgetLeases {
    pub(crate) limit: usize,
}

impl Command for ForgetLeases {
    type Answer = u64;
    const DOING: &'static str = "forget old leases";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<u64, MetadataError> {
        let values = values![limited(self.limit)];
        transaction.run(sql::FORGET_LEASES, values).await
    }
}

/// See [`check`](domain::MetadataStore::check).
#[derive(Debug)]
pub(crate) struct Check;

impl Command for Check {
    type Answer = ();
    const DOING: &'static str = "write to the database";
    const SCOPE: Scope = Scope::Statements;

    async fn run<T: Transaction>(&self, transaction: &mut T) -> Result<(), MetadataError> {
        let touched = transaction.one::<(i64,)>(sql::TOUCH, values![]).await;
        touched.map(drop)
    }
}
