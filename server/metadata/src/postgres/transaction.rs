//! A change as a transaction, which is run again where the engine ended it to untangle it from others, or went away.

use std::time::Duration;

use domain::metadata_store::MetadataError;
use sqlx::PgConnection;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use thiserror::Error;
use tokio::time::Instant;

use super::PostgresStore;
use crate::failures::{NotAsExpected, failed};

/// How often a change is tried at most. Locks are taken in one order, so that more than once is rare.
const ATTEMPTS: u32 = 10;

/// How long a change or a read rests before it is made again over another connection, first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What a change needs of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// A transaction: what it reads, locks and writes is one.
    Transaction,
    /// Nothing more than each of its statements is by itself, which saves two round trips. To make it twice is to make it once, for
    /// whoever makes it.
    Statements,
}

/// A change to be made.
pub(super) trait Command: Sync {
    /// What it tells its caller.
    type Answer: Send;

    /// Completes the sentence "failed to …".
    const DOING: &'static str;

    /// What it is made in.
    const SCOPE: Scope = Scope::Transaction;

    /// Makes the change. It is run again, in another transaction, if the first was overtaken.
    fn run(
        &self,
        connection: &mut PgConnection,
    ) -> impl Future<Output = Result<Self::Answer, MetadataError>> + Send;
}

/// Why an attempt failed.
#[derive(Debug)]
enum Failure {
    /// Nothing was changed, or to change it once more makes no difference.
    Repeatable(MetadataError),
    /// It may have been made.
    Ambiguous(MetadataError),
}

impl PostgresStore {
    /// Makes a change, and returns its answer once that is durable. Where the engine goes away meanwhile, as when it is restarted, the
    /// change is made again once it is back, within the time that a connection is waited for.
    ///
    /// # Errors
    /// As the command's, and where it could not be committed. A connection that breaks while a transaction is committed leaves open
    /// whether it was: that is [`MetadataError::Unreachable`].
    ///
    /// # Cancel safety
    /// May be dropped anywhere: a transaction that was not committed is rolled back; a statement that was sent may have its effect.
    pub(super) async fn run<C: Command>(&self, command: C) -> Result<C::Answer, MetadataError> {
        let mut attempts = 1;
        let mut patience = self.patience();
        loop {
            match self.attempt(&command).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Repeatable(error)) if was_overtaken(&error) && attempts < ATTEMPTS => {
                    tracing::debug!(attempts, doing = C::DOING, "overtaken, trying again");
                    attempts += 1;
                }
                Err(Failure::Repeatable(error)) => patience.rest_after(error).await?,
                Err(Failure::Ambiguous(error)) => return Err(error),
            }
        }
    }

    async fn attempt<C: Command>(&self, command: &C) -> Result<C::Answer, Failure> {
        let engine = || engine(C::DOING);
        if C::SCOPE == Scope::Statements {
            let connection = self.pool.acquire().await.map_err(engine());
            let mut connection = connection.map_err(Failure::Repeatable)?;
            let answer = command.run(&mut connection).await;
            return answer.map_err(Failure::Repeatable);
        }
        let transaction = self.pool.begin().await.map_err(engine());
        let mut transaction = transaction.map_err(Failure::Repeatable)?;
        match command.run(&mut transaction).await {
            Ok(answer) => {
                let committed = transaction.commit().await.map_err(engine());
                committed.map_err(Failure::Ambiguous).map(|()| answer)
            }
            Err(error) => {
                // Where this fails, the connection is broken, which ends the transaction as well.
                let _ = transaction.rollback().await;
                Err(Failure::Repeatable(error))
            }
        }
    }

    /// Reads; again where the engine goes away meanwhile, as [`PostgresStore::run`].
    ///
    /// # Cancel safety
    /// May be dropped anywhere.
    pub(super) async fn read<T, F>(
        &self,
        doing: &'static str,
        statement: impl Fn() -> F + Sync,
    ) -> Result<T, MetadataError>
    where
        F: Future<Output = Result<T, sqlx::Error>> + Send,
    {
        let mut patience = self.patience();
        loop {
            match statement().await.map_err(engine(doing)) {
                Ok(read) => return Ok(read),
                Err(error) => patience.rest_after(error).await?,
            }
        }
    }

    fn patience(&self) -> Patience {
        Patience {
            until: Instant::now() + self.acquire_timeout,
            pause: PAUSES.0,
        }
    }
}

/// How long the engine is waited for.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Rests for a while after what may pass.
    ///
    /// # Errors
    /// The same, if it does not pass or there is no more time.
    async fn rest_after(&mut self, error: MetadataError) -> Result<(), MetadataError> {
        let passes = matches!(error, MetadataError::Unreachable { .. });
        if !passes || Instant::now() + self.pause > self.until {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (2 * self.pause).min(PAUSES.1);
        Ok(())
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
        } else if is_lost(&error) {
            MetadataError::Unreachable {
                doing,
                source: error.into(),
            }
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

/// Whether the engine went away, is on its way down or up, or has no connection left. Class 08 is of failed connections, class 57P of
/// what an operator does.
fn is_lost(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    let by_code = code.is_some_and(|code| code.starts_with("08") || code.starts_with("57P"));
    by_code || matches!(error, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut)
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
