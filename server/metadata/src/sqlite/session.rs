//! Statements in SQLite, in the writer's transaction or through the pool of readers.

use std::sync::Arc;

use domain::metadata_store::MetadataError;
use domain::{File, FilePath};
use sqlx::error::BoxDynError;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, Executor, Sqlite, SqliteConnection, SqlitePool};

use super::failure;
use crate::cache::Known;
use crate::engine::{self, Change, FromRow, Lock, Statement};
use crate::queries::read_file;
use crate::values::{Rows, Value};

/// A running transaction.
pub(super) struct Transaction<'c> {
    connection: &'c mut SqliteConnection,
    /// Action of the running command: completes the sentence "failed to …".
    pub(super) doing: &'static str,
    /// Changed paths with their files after the commit.
    changes: Vec<(FilePath, Known)>,
}

impl<'c> Transaction<'c> {
    /// Wraps a connection that has begun a transaction.
    pub(super) fn new(connection: &'c mut SqliteConnection) -> Self {
        Self {
            connection,
            doing: "change the database",
            changes: Vec::new(),
        }
    }

    /// Returns the changes of files.
    pub(super) fn into_changes(self) -> Vec<(FilePath, Known)> {
        self.changes
    }
}

impl engine::Reader for Transaction<'_> {
    fn doing(&self) -> &'static str {
        self.doing
    }

    async fn row<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> Result<Option<R>, MetadataError> {
        let row = row(&mut *self.connection, statement, values).await;
        row.map_err(failure(self.doing))
    }

    async fn rows<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<R>, MetadataError> {
        let rows = rows(&mut *self.connection, statement, values).await;
        rows.map_err(failure(self.doing))
    }
}

impl engine::Transaction for Transaction<'_> {
    /// Sends statements that run together as one text: a round trip to the engine's thread costs
    /// four times the engine's work.
    async fn run(
        &mut self,
        change: impl Into<Change> + Send,
        values: &[Value<'_>],
    ) -> Result<u64, MetadataError> {
        let text = match change.into() {
            Change::One(statement) => statement.sqlite,
            Change::Several(script) => script.sqlite,
        };
        let arguments = arguments(values).map_err(failure(self.doing))?;
        sqlx::query_with(text, arguments)
            .execute(&mut *self.connection)
            .await
            .map(|result| result.rows_affected())
            .map_err(failure(self.doing))
    }

    /// Does nothing: there is one writer.
    async fn lock(&mut self, _: Lock<'_>) -> Result<(), MetadataError> {
        Ok(())
    }

    /// Reads the file back, for the cache.
    async fn written(&mut self, path: &FilePath) -> Result<(), MetadataError> {
        let file: Option<File> = read_file(self, path).await?;
        self.changes.push((path.clone(), file.map(Arc::new)));
        Ok(())
    }

    fn deleted(&mut self, path: &FilePath) {
        self.changes.push((path.clone(), None));
    }
}

/// Reads single statements, each on any connection of the pool.
#[derive(Debug)]
pub(crate) struct PoolReader {
    pub(super) pool: SqlitePool,
    pub(super) doing: &'static str,
}

impl engine::Reader for PoolReader {
    fn doing(&self) -> &'static str {
        self.doing
    }

    async fn row<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> Result<Option<R>, MetadataError> {
        let row = row(&self.pool, statement, values).await;
        row.map_err(failure(self.doing))
    }

    async fn rows<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<R>, MetadataError> {
        let rows = rows(&self.pool, statement, values).await;
        rows.map_err(failure(self.doing))
    }
}

async fn row<R: FromRow>(
    executor: impl Executor<'_, Database = Sqlite>,
    statement: Statement,
    values: &[Value<'_>],
) -> sqlx::Result<Option<R>> {
    sqlx::query_as_with(statement.sqlite, arguments(values)?)
        .fetch_optional(executor)
        .await
}

async fn rows<R: FromRow>(
    executor: impl Executor<'_, Database = Sqlite>,
    statement: Statement,
    values: &[Value<'_>],
) -> sqlx::Result<Vec<R>> {
    sqlx::query_as_with(statement.sqlite, arguments(values)?)
        .fetch_all(executor)
        .await
}

/// Encodes the parameters of a statement.
fn arguments(values: &[Value<'_>]) -> sqlx::Result<SqliteArguments> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        add(&mut arguments, value).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn add(arguments: &mut SqliteArguments, value: &Value<'_>) -> Result<(), BoxDynError> {
    match value {
        Value::Bool(value) => arguments.add(*value),
        Value::Int(value) => arguments.add(*value),
        Value::Text(value) => arguments.add(value.as_deref()),
        Value::Bytes(value) => arguments.add(value.as_deref()),
        Value::List(column) => arguments.add(serde_json::to_string(column)?),
        Value::Table(columns) => arguments.add(serde_json::to_string(&Rows(columns))?),
    }
}
