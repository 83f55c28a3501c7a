//! Failures of the engine, and the wait for those that pass.

use std::time::Duration;

use domain::metadata_store::MetadataError;
use tokio::time::Instant;

use crate::failures::{Kind, is_cut_off};

/// First and longest pause before a change or a read is repeated on another connection.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Converts an error of the engine.
pub(super) fn failure(doing: &'static str) -> impl FnOnce(sqlx::Error) -> MetadataError {
    move |error| {
        let code = error.as_database_error().and_then(|error| error.code());
        let kind = match code.as_deref() {
            Some(code) => kind_of_code(code),
            None if is_cut_off(&error) => Kind::Surroundings,
            None => Kind::Own,
        };
        kind.error(doing, error)
    }
}

/// Classifies an error code, whose first two characters are its class
/// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn kind_of_code(code: &str) -> Kind {
    match (code.get(..2).unwrap_or_default(), code) {
        // `disk_full`; program limit exceeded.
        (_, "53100") | ("54", _) => Kind::Full,
        // A file of the engine itself is missing.
        (_, "58P01" | "58P02") => Kind::Own,
        // Failed connections, credentials, rollbacks by the engine, resources, operator
        // intervention, system errors; a database that does not exist yet, a standby, a timeout of
        // a session or a lock.
        ("08" | "28" | "40" | "53" | "57" | "58", _)
        | (_, "3D000" | "25006" | "25P03" | "25P04" | "55006" | "55P03") => Kind::Surroundings,
        _ => Kind::Own,
    }
}

/// Time left to wait for the engine, and the next pause. An iterator of pauses alone would not
/// count the time that the attempts take.
pub(super) struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    /// Starts a wait of at most `time`.
    pub(super) fn new(time: Duration) -> Self {
        Self {
            until: Instant::now() + time,
            pause: PAUSES.0,
        }
    }

    /// Pauses after a failure that may pass.
    ///
    /// # Errors
    /// Returns `error` if it does not pass, or no time is left.
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
