//! Measures the throughput of each store against the disk that the temporary
//! directory is on. `cargo bench -p metadata`.
//!
//! SQLite's writing is compared with a transaction for each change, its reading with a store that
//! keeps no file rows in memory. PostgreSQL is the server that the tests start. The columns are
//! callers at once, operations a second, the time that 99 of 100 took at most, and processor time
//! of one in this process (Linux only).

#![expect(clippy::print_stdout, reason = "it prints a table")]

use std::future::Future;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use testing::postgres::fresh_schema;

use bytesize::ByteSize;
use domain::file::WriteCondition;
use domain::metadata_store::{Guarded, Hold, Inserted, Written};
use domain::upload::Upload;
use domain::{MetadataStore, Timestamp};
use metadata::{Config, PostgresConfig, SqliteConfig};
use testing::metadata_store::{completed, file, progress, upload};
use tokio::time::Instant;

const LATER: Timestamp = Timestamp::from_millis(1_900_000_000_000);

async fn opened(config: SqliteConfig, directory: &Path) -> Arc<dyn MetadataStore> {
    let store = metadata::open(&Config::Sqlite(config), directory).await;
    store.expect("the database opens").metadata
}

async fn opened_in_postgres() -> Arc<dyn MetadataStore> {
    let config = PostgresConfig {
        connections: 64.try_into().expect("not zero"),
        ..PostgresConfig::new(fresh_schema().await)
    };
    let store = metadata::open(&Config::Postgres(config), "/nowhere".as_ref()).await;
    store.expect("the database opens").metadata
}

struct Figures {
    per_second: f64,
    p99: Duration,
    processor: Duration,
}

/// Measures `callers` callers that each do `count` operations.
async fn measure<F, R>(callers: usize, count: usize, operation: F) -> Figures
where
    F: Fn(usize, usize) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send,
{
    let (start, spent) = (Instant::now(), processor_time());
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let operation = operation.clone();
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(count);
                for n in 0..count {
                    let start = Instant::now();
                    operation(caller, n).await;
                    times.push(start.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no operation panics"));
    }
    let (elapsed, spent) = (start.elapsed(), processor_time() - spent);
    times.sort_unstable();
    let total = u32::try_from(times.len()).expect("a sane number");
    Figures {
        per_second: f64::from(total) / elapsed.as_secs_f64(),
        p99: times[times.len() * 99 / 100],
        processor: spent / total,
    }
}

/// Returns the processor time of this process, in hundredths of a second; none where that is
/// unknown.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Behind the program's name, which is in parentheses: fields 14 and 15 of proc(5), user and
    // system time.
    let fields = stat.rsplit(')').next().unwrap_or_default().split(' ');
    let ticks: u64 = fields.skip(12).take(2).flat_map(str::parse::<u64>).sum();
    Duration::from_millis(10 * ticks)
}

fn row(what: &str, callers: usize, figures: &Figures) {
    let Figures {
        per_second,
        p99,
        processor,
    } = figures;
    println!("{what:<44} {callers:>7} {per_second:>10.0} {p99:>12.2?} {processor:>12.2?}");
}

/// Writing in SQLite, with up to `batch` changes a transaction.
async fn writing_in_sqlite(what: &str, batch: usize, callers: usize, count: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let config = SqliteConfig {
        batch: NonZeroUsize::new(batch).expect("not zero"),
        ..SqliteConfig::default()
    };
    let store = opened(config, directory.path()).await;
    writing(&store, what, callers, count).await;
    store.close().await;
}

/// The life of an upload, step by step.
async fn writing(store: &Arc<dyn MetadataStore>, what: &str, callers: usize, count: usize) {
    let uploads: Arc<Vec<Vec<Upload>>> = Arc::new(
        (0..callers)
            .map(|caller| {
                (0..count)
                    .map(|n| upload(&format!("directory-{caller}/IMG_{n:06}.HEIC")))
                    .collect()
            })
            .collect(),
    );

    let given = (Arc::clone(store), Arc::clone(&uploads));
    let figures = measure(callers, count, move |caller, n| {
        let (store, uploads) = given.clone();
        async move {
            let inserted = store.insert_upload(&uploads[caller][n]).await;
            assert!(matches!(inserted, Ok(Inserted::New)));
        }
    });
    row(&format!("insert_upload, {what}"), callers, &figures.await);

    let given = (Arc::clone(store), Arc::clone(&uploads));
    let figures = measure(callers, count, move |caller, n| {
        let (store, uploads) = given.clone();
        async move {
            let id = &uploads[caller][n].id;
            let step = progress(5, Some(5));
            let recorded = store.record_progress(id, 0, &step, LATER, Hold::Keep);
            assert!(matches!(recorded.await, Ok(Guarded::Done)));
        }
    });
    row(&format!("record_progress, {what}"), callers, &figures.await);

    let given = (Arc::clone(store), Arc::clone(&uploads));
    let figures = measure(callers, count, move |caller, n| {
        let (store, uploads) = given.clone();
        async move {
            let outcome = completed("hello", LATER);
            let written = store.complete_upload(&uploads[caller][n], &outcome, LATER, None);
            assert!(matches!(written.await, Ok(Written::Created)));
        }
    });
    row(&format!("complete_upload, {what}"), callers, &figures.await);
}

/// Reading from SQLite, with a cache of this size.
async fn reading_from_sqlite(what: &str, file_cache: ByteSize, callers: usize, count: usize) {
    let directory = tempfile::tempdir().expect("a directory");
    let config = SqliteConfig {
        file_cache,
        ..SqliteConfig::default()
    };
    let store = opened(config, directory.path()).await;
    reading(&store, what, callers, count).await;
    store.close().await;
}

/// Looking up files by path, of which there are 1,000.
async fn reading(store: &Arc<dyn MetadataStore>, what: &str, callers: usize, count: usize) {
    const FILES: usize = 1000;
    let mut paths = Vec::new();
    for n in 0..FILES {
        let file = file(&format!("directory/IMG_{n:06}.HEIC"), "hello", LATER);
        paths.push(file.path.clone());
        let written = store
            .put_file(&file, &WriteCondition::default(), None)
            .await;
        assert!(matches!(written, Ok(Written::Created)));
    }
    let given = (Arc::clone(store), Arc::new(paths));
    let figures = measure(callers, count, move |caller, n| {
        let (store, paths) = given.clone();
        async move {
            let path = &paths[(caller * 7919 + n * 31) % FILES];
            assert!(matches!(store.file(path).await, Ok(Some(_))));
        }
    });
    row(&format!("file, {what}"), callers, &figures.await);
}

#[tokio::main]
async fn main() {
    println!(
        "{:<44} {:>7} {:>10} {:>12} {:>12}",
        "operation", "callers", "per second", "p99", "processor"
    );
    for callers in [1, 16, 64] {
        let count = (12_800 / callers).min(1000);
        writing_in_sqlite("group commit", 256, callers, count).await;
        writing_in_sqlite("a transaction each", 1, callers, count / 4).await;
        let store = opened_in_postgres().await;
        writing(&store, "PostgreSQL", callers, count / 4).await;
        store.close().await;
    }
    for callers in [1, 16, 64] {
        let none = ByteSize::b(0);
        reading_from_sqlite("no rows in memory", none, callers, 32_000 / callers).await;
        let cache = ByteSize::mib(64);
        reading_from_sqlite("rows in memory", cache, callers, 640_000 / callers).await;
        let store = opened_in_postgres().await;
        reading(&store, "PostgreSQL", callers, 8000 / callers).await;
        store.close().await;
    }
}
