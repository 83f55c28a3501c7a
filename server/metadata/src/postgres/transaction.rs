//! A change as a transaction, which is run again where the engine ended it to untangle it from
//! others, or went away.

use std::time::Duration;

use domain::metadata_store::MetadataError;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use super::PostgresEngine;
use super::session::Session;
use crate::engine::{Command, Scope};
use crate::failures::{Kind, Overtaken, is_cut_off};

/// Most attempts of a change. Locks are taken in one order, so that more than one is rare.
const ATTEMPTS: u32 = 10;

/// First and longest pause before a change or a read is made again over another connection.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A failed attempt.
#[derive(Debug)]
enum Failure {
    /// Nothing was changed, or to change it once more makes no difference.
    Repeatable(MetadataError),
    /// It may have been made.
    Ambiguous(MetadataError),
}

impl Failure {
    fn is_of_surroundings(&self) -> bool {
        let (Self::Repeatable(error) | Self::Ambiguous(error)) = self;
        matches!(error, MetadataError::Unreachable { .. }) && !was_overtaken(error)
    }
}

impl PostgresEngine {
    /// Makes a change, and returns its answer once that is durable. Where the engine goes away
    /// meanwhile, as when it is restarted, the change is made again once it is back, within the
    /// time that a connection is waited for.
    ///
    /// # Errors
    /// As the command's, and where it could not be committed. A connection that breaks while a
    /// transaction is committed leaves open whether it was: that is [`MetadataError::Unreachable`].
    ///
    /// # Cancel safety
    /// May be dropped anywhere: a transaction that was not committed is rolled back; a statement
    /// that was sent may have its effect.
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
            // Another one may lead to an engine that can do it: the new primary, after a failover.
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
                // Where this fails, the connection is broken, which ends the transaction as well.
                let _ = transaction.rollback().await;
                Err(Failure::Repeatable(error))
            }
        }
    }
}

/// The time that the engine is waited for.
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Starts to wait, for so long at most.
    pub(super) fn new(time: Duration) -> Self {
        Self {
            until: Instant::now() + time,
            pause: PAUSES.0,
        }
    }

    /// Rests for a while after what may pass.
    ///
    /// # Errors
    /// The same, if it does not pass or there is no more time.
    pub(super) async fn rest_after(&mut self, error: MetadataError) -> Result<(), MetadataError> {
        let passes = matches!(error, MetadataError::Unreachable { .. });
        if !passes || Instant::now() + self.pause > self.until {
            return Err(error);
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (2 * self.pause).min(PAUSES.1);
        Ok(())
    }
}

/// Tells whether a transaction failed only because of those beside it.
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

/// Makes a failure of the engine.
pub(super) fn failure(doing: &'static str) -> impl FnOnce(sqlx::Error) -> MetadataError {
    move |error| {
        let code = error.as_database_error().and_then(|error| error.code());
        let kind = match code.as_deref() {
            Some(code) => kind_of_code(code),
            None if is_cut_off(&error) => Kind::Surroundings,
            None => Kind::Own,
        };
        kind.told(doing, error)
    }
}

/// Classifies an error code, whose first two characters are its class
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn kind_of_code(code: &str) -> Kind {
    match (code.get(..2).unwrap_or_default(), code) {
        // `disk_full`; program limit exceeded.
        (_, "53100") | ("54", _) => Kind::Full,
        // What is missing is the engine's own file.
        (_, "58P01" | "58P02") => Kind::Own,
        // Failed connections, credentials, rollbacks by the engine, resources, what an operator
        // does, the engine's system; a database that is not there yet, a standby, a session or a
        // lock that took too long.
        ("08" | "28" | "40" | "53" | "57" | "58", _)
        | (_, "3D000" | "25006" | "25P03" | "25P04" | "55006" | "55P03") => Kind::Surroundings,
        _ => Kind::Own,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_surrounds_the_engine_is_no_fault_of_the_request() {
        for (codes, kind) in [
            (&["53100", "54000"][..], Kind::Full),
            // admin_shutdown, cannot_connect_now, query_canceled, too_many_connections,
            // out_of_memory
            (
                &["57P01", "57P03", "57014", "53300", "53200"],
                Kind::Surroundings,
            ),
            // connection_failure, read_only_sql_transaction, serialization_failure,
            // lock_not_available, io_error
            (
                &["08006", "25006", "40001", "55P03", "58030"],
                Kind::Surroundings,
            ),
            // unique_violation, undefined_table, data_corrupted, undefined_file
            (&["23505", "42P01", "XX001", "58P01"], Kind::Own),
        ] {
            for code in codes {
                assert_eq!(kind_of_code(code), kind, "{code}");
            }
        }
    }
}
