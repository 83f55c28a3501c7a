//! A PostgreSQL server for the tests of one program, with a schema for each.

mod server;

use std::sync::atomic::{AtomicU32, Ordering};

use metadata::{DatabaseUrl, PostgresConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use self::server::postgres_server;

/// How to reach an empty schema of the server's one database.
pub(crate) async fn fresh_schema() -> PostgresConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let server = tokio::task::spawn_blocking(postgres_server).await.unwrap();
    let database = server.url("postgres");
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&database).await.unwrap();
    let create = AssertSqlSafe(format!("create schema {name}"));
    sqlx::raw_sql(create)
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let url = format!("{database}&options[search_path]={name}");
    PostgresConfig::new(url.parse::<DatabaseUrl>().unwrap())
}
