//! Tests with a recorder: each call counts once, with its outcome, whatever becomes of it.

mod blob_store;
mod contract;
mod metadata_store;
mod requests;
mod s3;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use axum::Router;
use futures::FutureExt as _;
use futures::future::{BoxFuture, poll_immediate};
use metrics::{Label, LocalRecorderGuard, Unit};
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio_util::sync::CancellationToken;
use transport::{ListenConfig, Listener, Memory};

pub(crate) use self::metadata_store::{Stub, stub};
use crate::operation::{ErrorKind, Failure, Names};
use crate::table::{self, Kind, METRICS};

/// Everything that this thread records, until dropped.
struct Recorded {
    snapshotter: Snapshotter,
    _recording: LocalRecorderGuard<'static>,
}

/// A series, as the exposition format writes it, and its value.
type Value = (String, DebugValue);

impl Recorded {
    fn begin() -> Self {
        let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
        Self {
            snapshotter: recorder.snapshotter(),
            _recording: metrics::set_default_local_recorder(recorder),
        }
    }

    /// Returns every series with the change since the last time. Each fits the table.
    fn values(&self) -> Vec<Value> {
        let snapshot = self.snapshotter.snapshot().into_vec();
        let mut values: Vec<_> = snapshot
            .into_iter()
            .map(|(key, _, _, value)| {
                let key = key.key();
                let labels: Vec<&Label> = key.labels().collect();
                let metric = METRICS.iter().find(|metric| metric.name == key.name());
                let metric = metric.unwrap_or_else(|| panic!("{} is in no table", key.name()));
                let names: Vec<&str> = labels.iter().map(|label| label.key()).collect();
                assert_eq!(names, metric.labels, "{}", metric.name);
                let fits = match value {
                    DebugValue::Counter(_) => matches!(metric.kind, Kind::Counter(_)),
                    DebugValue::Gauge(_) => matches!(metric.kind, Kind::Gauge(_)),
                    DebugValue::Histogram(_) => metric.kind == Kind::Durations,
                };
                assert!(fits, "{} is of another kind", metric.name);
                let labels = labels
                    .iter()
                    .map(|label| format!("{}={}", label.key(), label.value()));
                let labels: Vec<String> = labels.collect();
                (format!("{}{{{}}}", key.name(), labels.join(",")), value)
            })
            .collect();
        values.sort_by(|one, other| one.0.cmp(&other.0));
        values
    }

    /// Returns a line for each series that has changed since the last time; of a histogram, the
    /// number of values.
    fn changes(&self) -> Vec<String> {
        let numbers = self.values().into_iter().map(|(series, value)| {
            let change = match value {
                DebugValue::Counter(change) => change as f64,
                DebugValue::Gauge(change) => *change,
                DebugValue::Histogram(values) => values.len() as f64,
            };
            (series, change)
        });
        numbers
            .filter(|(_, change)| *change != 0.0)
            .map(|(series, change)| format!("{series} {change}"))
            .collect()
    }

    /// Returns the values of the histograms since the last time, in seconds.
    fn seconds(&self) -> Vec<f64> {
        let values = self.values().into_iter().filter_map(|(_, value)| {
            if let DebugValue::Histogram(values) = value {
                Some(values.into_iter().map(|value| *value))
            } else {
                None
            }
        });
        values.flatten().collect()
    }

    /// Returns the operations that have this metric, used or not.
    fn operations(&self, metric: &str) -> BTreeSet<String> {
        let prefix = format!("{metric}{{operation=");
        let names = self.values().into_iter().filter_map(|(series, _)| {
            let rest = series.strip_prefix(&prefix)?;
            Some(rest.trim_end_matches('}').to_owned())
        });
        names.collect()
    }
}

/// The name of an operation, and a call of it that returns the kind of its error.
type Call<'a> = (&'static str, BoxFuture<'a, Option<ErrorKind>>);

fn call<'a, T, E: Failure>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>> + Send + 'a,
) -> Call<'a> {
    let kind = work.map(|result| result.err().map(|error| error.kind()));
    (name, kind.boxed())
}

/// Checks that each call is recorded once, as a success or with the kind of its error.
async fn counts_once(
    recorded: &Recorded,
    names: &Names,
    calls: Vec<Call<'_>>,
    kind: Option<ErrorKind>,
) {
    for (name, call) in calls {
        assert_eq!(call.await, kind, "{name}");
        let outcome = kind.map_or("ok", |_| "error");
        let mut expected = vec![format!(
            "{}{{operation={name},outcome={outcome}}} 1",
            names.duration
        )];
        expected.extend(kind.map(|kind| {
            let kind = kind.label();
            format!("{}{{operation={name},kind={kind}}} 1", names.errors)
        }));
        expected.sort();
        assert_eq!(recorded.changes(), expected);
    }
}

/// Checks that each call, none of which ends, is in flight until dropped, and recorded as cancelled.
async fn counts_when_dropped(recorded: &Recorded, names: &Names, calls: Vec<Call<'_>>) {
    for (name, mut call) in calls {
        assert_eq!(poll_immediate(&mut call).await, None, "{name}");
        let in_flight = format!("{}{{operation={name}}}", names.in_flight);
        assert_eq!(recorded.changes(), [format!("{in_flight} 1")]);
        drop(call);
        let cancelled = format!("{}{{operation={name},outcome=cancelled}} 1", names.duration);
        assert_eq!(recorded.changes(), [cancelled, format!("{in_flight} -1")]);
    }
}

/// Serves `router` until the runtime ends, and returns its address.
fn serve(router: Router) -> SocketAddr {
    let listen = ListenConfig {
        address: "127.0.0.1:0".parse().unwrap(),
        tls: None,
    };
    let listener = Listener::bind(&listen).unwrap();
    let address = listener.address();
    let shutdown = CancellationToken::new();
    tokio::spawn(transport::serve(
        vec![listener],
        transport::Config::default(),
        Memory::default(),
        router,
        shutdown,
    ));
    address
}

#[test]
fn names_follow_the_conventions() {
    let mut names = BTreeSet::new();
    for metric in METRICS {
        let name = metric.name;
        assert!(names.insert(name), "{name} is there twice");
        assert!(name.starts_with("longhaul_"), "{name}");
        let unit = match metric.kind {
            Kind::Counter(unit) | Kind::Gauge(unit) => unit,
            Kind::Durations => Unit::Seconds,
        };
        let is_counter = matches!(metric.kind, Kind::Counter(_));
        let total = name.strip_suffix("_total");
        assert_eq!(total.is_some(), is_counter, "{name}");
        let has_unit = |unit| total.unwrap_or(name).ends_with(unit);
        assert_eq!(has_unit("_seconds"), unit == Unit::Seconds, "{name}");
        assert_eq!(has_unit("_bytes"), unit == Unit::Bytes, "{name}");
    }
}

#[test]
fn every_metric_is_described() {
    let recorded = Recorded::begin();
    table::describe();
    for metric in METRICS {
        match metric.kind {
            Kind::Counter(_) => metrics::counter!(metric.name).increment(1),
            Kind::Gauge(_) => metrics::gauge!(metric.name).increment(1),
            Kind::Durations => metrics::histogram!(metric.name).record(1),
        }
    }
    let described = recorded.snapshotter.snapshot().into_vec();
    assert_eq!(described.len(), METRICS.len());
    for (metric, (key, unit, help, _)) in METRICS.iter().zip(described) {
        assert_eq!(key.key().name(), metric.name);
        assert_eq!(help.as_deref(), Some(metric.help));
        assert!(unit.is_some(), "{}", metric.name);
    }
}
