//! SQLite as a source or a target.

use std::path::Path;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{AssertSqlSafe, ConnectOptions, QueryBuilder, Row as _, Sqlite, SqliteConnection};

use super::table::{Column, Kind, Row, Table, Value, names, statements};
use crate::SqliteConfig;

/// Longest time that a statement waits for a lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct SqliteDatabase(SqliteConnection);

impl SqliteDatabase {
    pub(super) async fn connect(config: &SqliteConfig, data_dir: &Path) -> sqlx::Result<Self> {
        SqliteConnectOptions::new()
            .filename(data_dir.join(&config.file))
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .disable_statement_logging()
            .connect()
            .await
            .map(Self)
    }

    statements!();

    /// Returns a table's columns in the order of their names.
    pub(super) async fn columns(&mut self, table: &Table) -> sqlx::Result<Vec<Column>> {
        let columns: Vec<(String, String)> =
            sqlx::query_as("select name, type from pragma_table_info($1) order by name")
                .bind(table.name)
                .fetch_all(&mut self.0)
                .await?;
        columns
            .into_iter()
            .map(|(name, declared)| {
                let kind = match declared.to_ascii_lowercase().as_str() {
                    "integer" => Kind::Integer,
                    "text" => Kind::Text,
                    "blob" => Kind::Bytes,
                    _ => {
                        return Err(sqlx::Error::TypeNotFound {
                            type_name: declared,
                        });
                    }
                };
                Ok(Column { name, kind })
            })
            .collect()
    }

    pub(super) async fn insert(
        &mut self,
        table: &Table,
        columns: &[Column],
        rows: Vec<Row>,
    ) -> sqlx::Result<()> {
        let head = format!("insert into {} ({}) ", table.name, names(columns));
        let mut query = QueryBuilder::<Sqlite>::new(head);
        query.push_values(rows, |mut row, values| {
            for value in values {
                match value {
                    Value::Null => row.push("null"),
                    Value::Integer(number) => row.push_bind(number),
                    Value::Text(text) => row.push_bind(text),
                    Value::Bytes(bytes) => row.push_bind(bytes),
                };
            }
        });
        query.build().execute(&mut self.0).await.map(drop)
    }
}

fn values(row: &SqliteRow, kinds: &[Kind]) -> sqlx::Result<Row> {
    kinds
        .iter()
        .enumerate()
        .map(|(index, kind)| {
            Ok(match kind {
                Kind::Integer | Kind::Boolean => Value::of(row.try_get(index)?, Value::Integer),
                Kind::Text => Value::of(row.try_get(index)?, Value::Text),
                Kind::Bytes => Value::of(row.try_get(index)?, Value::Bytes),
            })
        })
        .collect()
}
