//! Format of one JSON object a line: the event's time, level, fields and target, and the spans
//! around it.
//!
//! tracing-subscriber's own format leaves out the causes of an error, which an operator needs most.

use std::error::Error;
use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formatter of events. Spans must keep their fields as
/// [`JsonFields`](tracing_subscriber::fmt::format::JsonFields).
#[derive(Debug)]
pub(super) struct JsonLines;

/// Formats the line that reports the number of lost lines.
pub(super) fn notice(lost: u64) -> String {
    let mut timestamp = String::new();
    // Writing to a String cannot fail.
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let line = serde_json::json!({
        "timestamp": timestamp,
        "level": "WARN",
        "lost": lost,
        "message": "lines of the log were lost here: standard error could not be written",
        "target": "app::telemetry",
    });
    format!("{line}\n")
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'a str,
    #[serde(flatten)]
    fields: Fields,
    target: &'a str,
    /// Spans, from the outermost.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Value>,
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // Events of the `log` crate have their target in their fields.
        let normalized = event.normalized_metadata();
        let metadata = normalized.as_ref().unwrap_or_else(|| event.metadata());
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = context.event_scope().into_iter().flatten();
        let mut spans: Vec<Value> = spans
            .map(|span| {
                let extensions = span.extensions();
                let fields = extensions.get::<FormattedFields<N>>();
                let fields = fields.and_then(|fields| serde_json::from_str(fields).ok());
                let mut fields: Map<String, Value> = fields.unwrap_or_default();
                fields.insert("name".to_owned(), span.name().into());
                fields.into()
            })
            .collect();
        spans.reverse();
        let line = Line {
            timestamp,
            level: metadata.level().as_str(),
            fields,
            target: metadata.target(),
            spans,
        };
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// Fields of an event. The causes of an error field `E` are in `E.sources`, the nearest first.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, field: &Field, value: impl Into<Value>) {
        if !field.name().starts_with("log.") {
            self.0.insert(field.name().to_owned(), value.into());
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.insert(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        self.insert(field, value.to_string());
        let sources = std::iter::successors(value.source(), |&error| error.source());
        let sources: Vec<Value> = sources.map(|error| error.to_string().into()).collect();
        if !sources.is_empty() {
            self.0
                .insert(format!("{}.sources", field.name()), sources.into());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use serde_json::json;
    use tracing_subscriber::fmt::MakeWriter;
    use tracing_subscriber::fmt::format::JsonFields;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Written {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("failed to {0}")]
    struct Outer(&'static str, #[source] io::Error);

    /// Returns the lines that the events of `work` produce, without their times.
    fn lines(work: impl FnOnce()) -> Vec<Value> {
        let written = Written::default();
        let events = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .with_writer(written.clone())
            .finish();
        tracing::subscriber::with_default(events, work);
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| {
                let mut line: Map<String, Value> = serde_json::from_str(line).unwrap();
                let timestamp = line.remove("timestamp").unwrap();
                humantime::parse_rfc3339(timestamp.as_str().unwrap()).unwrap();
                line.into()
            })
            .collect()
    }

    #[test]
    fn an_error_comes_with_its_causes_and_its_spans() {
        let target = module_path!();
        let written = lines(|| {
            tracing::info!(count = 3, ready = true, ratio = 0.5, path = %"a\"b", "alone");
            let _outer = tracing::info_span!("request", request_id = 7).entered();
            let _inner = tracing::info_span!("step").entered();
            let error = Outer("sync", io::Error::other("no room"));
            tracing::warn!(error = &error as &dyn Error, "cut");
        });
        let expected = json!([
            {
                "level": "INFO", "target": target, "message": "alone",
                "count": 3, "ready": true, "ratio": 0.5, "path": "a\"b",
            },
            {
                "level": "WARN", "target": target, "message": "cut",
                "error": "failed to sync", "error.sources": ["no room"],
                "spans": [{"name": "request", "request_id": 7}, {"name": "step"}],
            },
        ]);
        assert_eq!(Value::from(written), expected);
    }
}
