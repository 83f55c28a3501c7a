//! A PostgreSQL server for the tests of one program, with a schema for each test.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "these are tests: they fail by panicking"
)]

mod server;

use std::fmt::Debug;
use std::process::Command;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

/// Creates an empty schema in the server's database and returns its URL.
pub async fn fresh_schema<U: FromStr<Err: Debug> + Send + 'static>() -> U {
    let url = tokio::task::spawn_blocking(create_schema).await.unwrap();
    url.parse().unwrap()
}

fn create_schema() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let database = server::postgres_server().url("postgres");
    let created = Command::new(server::programs().join("psql"))
        .args(["--no-psqlrc", "--quiet", "--dbname", &database])
        .arg("--command")
        .arg(format!("create schema {name}"))
        .status();
    assert!(created.unwrap().success(), "psql creates no schema");
    format!("{database}&options[search_path]={name}")
}
