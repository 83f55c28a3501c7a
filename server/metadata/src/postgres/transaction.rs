//! A change as a transaction, which is run again where the engine ended it to untangle it from others.

use domain::metadata_store::MetadataError;
use sqlx::PgConnection;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use thiserror::Error;

use super::PostgresStore;
use crate::failures::{NotAsExpected, failed};

/// How often a change is tried at most. Locks are taken in one order, so that more than once is rare.
const ATTEMPTS: u32 = 10;

/// A change to be made in a transaction.
pub(super) trait Command: Sync {
    /// What it tells its caller.
    type Answer: Send;

    /// Completes the sentence "failed to …".
    const DOING: &'static str;

    /// Makes the change. It is run again, in another transaction, if the first was overtaken.
    fn run(
        &self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<Self::Answer, MetadataError>> + Send;
}

impl PostgresStore {
    /// Makes a change, and returns its answer once that is durable.
    ///
    /// # Errors
    /// As the command's, and where it could not be committed. A connection that breaks while it is committed leaves open whether it
    /// was.
    ///
    /// # Cancel safety
    /// May be dropped anywhere: what was not committed is rolled back.
    pub(super) async fn run<C: Command>(&self, command: C) -> Result<C::Answer, MetadataError> {
        let mut attempts = 1;
        loop {
            match self.attempt(&command).await {
                Err(error) if attempts < ATTEMPTS && was_overtaken(&error) => {
                    tracing::debug!(attempts, doing = C::DOING, "overtaken, trying again");
                    attempts += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn attempt<C: Command>(&self, command: &C) -> Result<C::Answer, MetadataError> {
        let mut transaction = self.pool.begin().await.map_err(engine(C::DOING))?;
        match command.run(&mut transaction).await {
            Ok(answer) => {
                transaction.commit().await.map_err(engine(C::DOING))?;
                Ok(answer)
            }
            Err(error) => {
                // Where this fails, the connection is broken, which ends the transaction as well.
                let _ = transaction.rollback().await;
                Err(error)
            }
        }
    }
}

/// Another transaction changed what this one had gone by; a new one will see it.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct Overtaken(pub(super) &'static str);

/// Whether a transaction failed for no other reason than those beside it.
fn was_overtaken(error: &MetadataError) -> bool {
    /// `serialization_failure`, `deadlock_detected`
    const CODES: [&str; 2] = ["40001", "40P01"];
    let MetadataError::Failed { source, .. } = error else {
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

/// A failure of the engine.
pub(super) fn engine(doing: &'static str) -> impl FnOnce(sqlx::Error) -> MetadataError {
    move |error| {
        if is_full(&error) {
            MetadataError::Full
        } else {
            failed(doing, error)
        }
    }
}

/// Whether there is no room left (`disk_full`), or a bound of the engine is reached (class 54, program limit exceeded).
fn is_full(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.is_some_and(|code| code == "53100" || code.starts_with("54"))
}

/// A statement with its parameters. A connection prepares a text once: it must have the same list of parameters wherever it is run,
/// those that it does not use included.
pub(super) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Runs a statement and returns how many rows it changed.
pub(super) async fn affected(
    connection: &mut PgConnection,
    statement: Query<'_>,
    doing: &'static str,
) -> Result<u64, MetadataError> {
    statement
        .execute(connection)
        .await
        .map(|result| result.rows_affected())
        .map_err(engine(doing))
}

/// Runs a statement that must change so many rows.
pub(super) async fn exactly(
    expected: u64,
    connection: &mut PgConnection,
    statement: Query<'_>,
    doing: &'static str,
) -> Result<(), MetadataError> {
    let affected = affected(connection, statement, doing).await?;
    if affected == expected {
        Ok(())
    } else {
        Err(failed(doing, NotAsExpected { expected, affected }))
    }
}
