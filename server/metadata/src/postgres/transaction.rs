//! Changes as transactions. A transaction is repeated if the engine aborts it because of others, or
//! goes away.

use domain::metadata_store::MetadataError;
use sqlx::{Connection as _, PgConnection};

use super::PostgresEngine;
use super::failures::{Patience, failure};
use super::session::Session;
use crate::engine::{Command, Scope};
use crate::failures::Overtaken;

/// Maximum number of attempts of a change. Locks are taken in one order, so that a second attempt
/// is rare.
const ATTEMPTS: u32 = 10;

/// A failed attempt.
#[derive(Debug)]
enum Failure {
    /// Nothing was changed, or repeating the change makes no difference.
    Repeatable(MetadataError),
    /// The change may have been made.
    Ambiguous(MetadataError),
}

impl Failure {
    fn is_of_surroundings(&self) -> bool {
        let (Self::Repeatable(error) | Self::Ambiguous(error)) = self;
        matches!(error, MetadataError::Unreachable { .. }) && !was_overtaken(error)
    }
}

impl PostgresEngine {
    /// Makes a change, and returns its answer once the change is durable. If the engine goes away
    /// meanwhile, as in a restart, the change is repeated once the engine is back, within the time
    /// to wait for a connection.
    ///
    /// # Errors
    /// The errors of the command and of its commit. If a connection breaks during a commit, the
    /// outcome is unknown: [`MetadataError::Unreachable`].
    ///
    /// # Cancel safety
    /// Dropping the future rolls back an uncommitted transaction. A statement that was sent may
    /// take effect.
    pub(super) async fn run<C: Command>(&self, command: &C) -> Result<C::Answer, MetadataError> {
        let mut attempts = 1;
        let mut patience = Patience::new(self.acquire_timeout);
        loop {
            match self.attempt(command).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Repeatable(error)) if was_overtaken(&error) => {
                    if attempts == ATTEMPTS {
                        return Err(error);
                    }
                    tracing::debug!(attempts, doing = C::DOING, "overtaken, trying again");
                    attempts += 1;
                }
                Err(Failure::Repeatable(error)) => patience.rest_after(error).await?,
                Err(Failure::Ambiguous(error)) => return Err(error),
            }
        }
    }

    async fn attempt<C: Command>(&self, command: &C) -> Result<C::Answer, Failure> {
        let failure = || failure(C::DOING);
        let connection = self.pool.acquire().await.map_err(failure());
        let mut connection = connection.map_err(Failure::Repeatable)?;
        let attempt = Self::attempt_on(&mut connection, command).await;
        if let Err(failure) = &attempt
            && failure.is_of_surroundings()
        {
            // A new connection may lead to a working engine: the new primary, after a failover.
            connection.close_on_drop();
        }
        attempt
    }

    async fn attempt_on<C: Command>(
        connection: &mut PgConnection,
        command: &C,
    ) -> Result<C::Answer, Failure> {
        let failure = || failure(C::DOING);
        if C::SCOPE == Scope::Statements {
            let answer = command.run(&mut Session::new(connection, C::DOING)).await;
            return answer.map_err(Failure::Repeatable);
        }
        let transaction = connection.begin().await.map_err(failure());
        let mut transaction = transaction.map_err(Failure::Repeatable)?;
        let mut session = Session::new(&mut transaction, C::DOING);
        match command.run(&mut session).await {
            Ok(answer) => {
                let committed = transaction.commit().await.map_err(failure());
                committed.map_err(Failure::Ambiguous).map(|()| answer)
            }
            Err(error) => {
                // If this fails, the connection is broken, which ends the transaction as well.
                let _ = transaction.rollback().await;
                Err(Failure::Repeatable(error))
            }
        }
    }
}

/// Returns true if a transaction failed only because of concurrent ones.
fn was_overtaken(error: &MetadataError) -> bool {
    /// `serialization_failure`, `deadlock_detected`
    const CODES: [&str; 2] = ["40001", "40P01"];
    let (MetadataError::Failed { source, .. } | MetadataError::Unreachable { source, .. }) = error
    else {
        return false;
    };
    let ended_by_engine = || {
        source
            .downcast_ref::<sqlx::Error>()
            .and_then(sqlx::Error::as_database_error)
            .and_then(|error| error.code())
            .is_some_and(|code| CODES.contains(&&*code))
    };
    source.is::<Overtaken>() || ended_by_engine()
}
