//! The metrics of the program in one table: names, labels, units.
//!
//! Names are those of Prometheus: the unit is part of the name, counters end with `_total`. Labels
//! are bounded: operations, kinds, route templates; never a path, an identifier or a tenant.

use metrics::Unit;

use crate::operation::Names;

/// A metric that the program records.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [&'static str],
    /// Text for operators, one sentence without a full stop.
    pub help: &'static str,
}

/// Kind of a metric, with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter(Unit),
    Gauge(Unit),
    /// Distribution of durations, in seconds.
    Durations,
}

pub(crate) const BLOB_STORE: Names = Names {
    duration: "longhaul_blob_store_operation_duration_seconds",
    in_flight: "longhaul_blob_store_operations_in_flight",
    errors: "longhaul_blob_store_errors_total",
};
pub(crate) const READ_BYTES: &str = "longhaul_blob_store_read_bytes_total";
pub(crate) const WRITTEN_BYTES: &str = "longhaul_blob_store_written_bytes_total";

pub(crate) const METADATA_STORE: Names = Names {
    duration: "longhaul_metadata_store_operation_duration_seconds",
    in_flight: "longhaul_metadata_store_operations_in_flight",
    errors: "longhaul_metadata_store_errors_total",
};
pub(crate) const ASKS: &str = "longhaul_metadata_store_asks_total";

pub(crate) const REQUEST_DURATION: &str = "longhaul_http_request_duration_seconds";
pub(crate) const REQUESTS_IN_FLIGHT: &str = "longhaul_http_requests_in_flight";
pub(crate) const RECEIVED_BYTES: &str = "longhaul_http_received_bytes_total";
pub(crate) const SENT_BYTES: &str = "longhaul_http_sent_bytes_total";

const COUNT: Kind = Kind::Counter(Unit::Count);
const BYTES: Kind = Kind::Counter(Unit::Bytes);
const NUMBER: Kind = Kind::Gauge(Unit::Count);

/// Every metric.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    metric(REQUEST_DURATION, Kind::Durations, &["route", "method", "status", "outcome"],
        "Time from a request to the end of its answer, or to the end of either"),
    metric(REQUESTS_IN_FLIGHT, NUMBER, &["route", "method"],
        "Requests whose answer has not ended"),
    metric(RECEIVED_BYTES, BYTES, &["route", "method"],
        "Content of requests that handlers have read"),
    metric(SENT_BYTES, BYTES, &["route", "method"],
        "Content of answers that connections have taken"),

    metric("longhaul_connections", NUMBER, &[], "Open connections"),
    metric("longhaul_http2_streams", NUMBER, &[], "Open streams of HTTP/2"),
    metric("longhaul_http2_floods_total", COUNT, &[],
        "Connections cut because their frames cost more than they carry"),
    metric("longhaul_http2_refused_streams_total", COUNT, &[],
        "Streams refused for want of memory"),
    metric("longhaul_stalled_peers_total", COUNT, &[],
        "Peers cut off because they did not take their answer"),
    metric("longhaul_memory_held_bytes", Kind::Gauge(Unit::Bytes), &[],
        "Memory held for peers"),
    metric("longhaul_memory_waits_total", COUNT, &[], "Answers that waited for memory"),

    metric(BLOB_STORE.duration, Kind::Durations, &["operation", "outcome"],
        "Time that a call of the blob store took; of a read, the time that its reader waited"),
    metric(BLOB_STORE.in_flight, NUMBER, &["operation"], "Calls of the blob store that go on"),
    metric(BLOB_STORE.errors, COUNT, &["operation", "kind"], "Errors of the blob store"),
    metric(READ_BYTES, BYTES, &[], "Bytes that the blob store gave to readers"),
    metric(WRITTEN_BYTES, BYTES, &[], "Bytes that the blob store took from writers"),
    metric("longhaul_s3_requests_total", COUNT, &["operation"],
        "Requests sent to the S3 server, repeated attempts included"),

    metric(METADATA_STORE.duration, Kind::Durations, &["operation", "outcome"],
        "Time that a call of the metadata store took"),
    metric(METADATA_STORE.in_flight, NUMBER, &["operation"],
        "Calls of the metadata store that go on"),
    metric(METADATA_STORE.errors, COUNT, &["operation", "kind"], "Errors of the metadata store"),
    metric(ASKS, COUNT, &[], "Requests heard from nodes to let go of an upload"),
];

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric {
        name,
        kind,
        labels,
        help,
    }
}

/// Describes every metric to the recorder.
pub fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter(unit) => metrics::describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge(unit) => metrics::describe_gauge!(metric.name, unit, metric.help),
            Kind::Durations => {
                metrics::describe_histogram!(metric.name, Unit::Seconds, metric.help);
            }
        }
    }
}
