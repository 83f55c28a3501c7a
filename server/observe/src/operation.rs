//! Calls of a store's operations: in flight, by duration and outcome, by kind of error.

use std::fmt::{self, Debug};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::blob_store::BlobError;
use domain::metadata_store::MetadataError;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tokio::time::Instant;

/// Decorator of a port: the store, and the operations under which its calls are recorded.
pub(crate) struct Observed<P, O> {
    pub(crate) inner: P,
    pub(crate) operations: Arc<O>,
}

impl<P: Debug, O> Debug for Observed<P, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Names of the metrics that all operations of a store have.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) duration: &'static str,
    pub(crate) in_flight: &'static str,
    pub(crate) errors: &'static str,
}

/// Kind of an error, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    Missing,
    Full,
    Unreachable,
    Refused,
    Inconsistent,
    Failed,
}

impl ErrorKind {
    const COUNT: usize = 6;

    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Full => "full",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Inconsistent => "inconsistent",
            Self::Failed => "failed",
        }
    }
}

/// An error of a port.
pub(crate) trait Failure {
    /// Kinds that the error can have. The counter of each starts at zero before any error, so that
    /// the first error is an increase.
    const KINDS: &'static [ErrorKind];

    fn kind(&self) -> ErrorKind;
}

impl Failure for BlobError {
    const KINDS: &'static [ErrorKind] = &[
        ErrorKind::Missing,
        ErrorKind::Full,
        ErrorKind::Unreachable,
        ErrorKind::Refused,
        ErrorKind::Inconsistent,
        ErrorKind::Failed,
    ];

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing { .. } => ErrorKind::Missing,
            Self::Full => ErrorKind::Full,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Inconsistent { .. } => ErrorKind::Inconsistent,
            Self::Failed { .. } => ErrorKind::Failed,
        }
    }
}

impl Failure for MetadataError {
    const KINDS: &'static [ErrorKind] = &[
        ErrorKind::Full,
        ErrorKind::Unreachable,
        ErrorKind::Inconsistent,
        ErrorKind::Failed,
    ];

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Full => ErrorKind::Full,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Inconsistent { .. } => ErrorKind::Inconsistent,
            Self::Failed { .. } => ErrorKind::Failed,
        }
    }
}

/// Outcome of a call, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Ok,
    Error,
    /// The caller dropped the call before its end.
    Cancelled,
}

impl Outcome {
    const COUNT: usize = 3;

    fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }
}

/// The series of one operation of a store.
#[derive(Debug)]
pub(crate) struct Operation {
    names: &'static Names,
    name: &'static str,
    in_flight: Gauge,
    /// Counters by kind of error; a kind that the port does not have counts nothing.
    errors: [Counter; ErrorKind::COUNT],
    /// Histograms by outcome. Each is many series, so it is registered with its first call.
    durations: [OnceLock<Histogram>; Outcome::COUNT],
}

impl Operation {
    /// Returns the series of an operation whose errors are `E`.
    pub(crate) fn new<E: Failure>(names: &'static Names, name: &'static str) -> Self {
        let mut errors = [const { Counter::noop() }; ErrorKind::COUNT];
        for kind in E::KINDS {
            errors[*kind as usize] =
                counter!(names.errors, "operation" => name, "kind" => kind.label());
        }
        Self {
            names,
            name,
            in_flight: gauge!(names.in_flight, "operation" => name),
            errors,
            durations: Default::default(),
        }
    }

    /// Does `work` as one call.
    pub(crate) async fn observe<T, E: Failure>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut call = self.begin();
        let result = work.await;
        match &result {
            Ok(_) => call.succeed(),
            Err(error) => call.fail(error),
        }
        result
    }

    /// Begins a call.
    pub(crate) fn begin(self: &Arc<Self>) -> Call {
        self.in_flight.increment(1.0);
        Call {
            operation: Arc::clone(self),
            outcome: Outcome::Cancelled,
            spent: Duration::ZERO,
            running_since: Some(Instant::now()),
        }
    }

    fn duration(&self, outcome: Outcome) -> &Histogram {
        self.durations[outcome as usize].get_or_init(
            || histogram!(self.names.duration, "operation" => self.name, "outcome" => outcome.label()),
        )
    }
}

/// A call under way. Its drop records it: as cancelled, unless it has ended.
#[derive(Debug)]
pub(crate) struct Call {
    operation: Arc<Operation>,
    outcome: Outcome,
    /// Time in the store up to the last pause.
    spent: Duration,
    running_since: Option<Instant>,
}

impl Call {
    /// Resumes the measurement of time after [`Call::pause`].
    pub(crate) fn resume(&mut self) {
        self.running_since.get_or_insert_with(Instant::now);
    }

    /// Pauses the measurement of time while nobody waits for the store.
    pub(crate) fn pause(&mut self) {
        self.spent += self
            .running_since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// Ends the call well, unless it failed before.
    pub(crate) fn succeed(&mut self) {
        if self.outcome == Outcome::Cancelled {
            self.outcome = Outcome::Ok;
        }
    }

    /// Ends the call with an error.
    pub(crate) fn fail<E: Failure>(&mut self, error: &E) {
        self.outcome = Outcome::Error;
        self.operation.errors[error.kind() as usize].increment(1);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.pause();
        self.operation.in_flight.decrement(1.0);
        self.operation.duration(self.outcome).record(self.spent);
    }
}
