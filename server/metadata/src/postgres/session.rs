//! Statements in PostgreSQL, on the connection of a change or through the pool.

use std::time::Duration;

use domain::FilePath;
use domain::metadata_store::MetadataError;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::{Arguments as _, Executor, PgConnection, PgPool, Postgres};

use super::failures::{Patience, failure};
use super::locks;
use crate::engine::{Change, FromRow, Lock, Reader, Statement, Transaction};
use crate::values::{Column, Value};

/// A connection on which a command runs, within a transaction if its scope asks for one.
pub(super) struct Session<'c> {
    connection: &'c mut PgConnection,
    doing: &'static str,
}

impl<'c> Session<'c> {
    pub(super) fn new(connection: &'c mut PgConnection, doing: &'static str) -> Self {
        Self { connection, doing }
    }

    async fn execute(
        &mut self,
        text: &'static str,
        values: &[Value<'_>],
    ) -> Result<u64, MetadataError> {
        let arguments = arguments(values).map_err(failure(self.doing))?;
        sqlx::query_with(text, arguments)
            .execute(&mut *self.connection)
            .await
            .map(|result| result.rows_affected())
            .map_err(failure(self.doing))
    }
}

impl Reader for Session<'_> {
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

impl Transaction for Session<'_> {
    /// A connection prepares a text once, so a text must have the same number of parameters
    /// wherever it runs, unused ones included.
    async fn run(
        &mut self,
        change: impl Into<Change> + Send,
        values: &[Value<'_>],
    ) -> Result<u64, MetadataError> {
        match change.into() {
            Change::One(statement) => self.execute(statement.postgres, values).await,
            Change::Several(script) => {
                let mut affected = 0;
                for (text, parameters) in script.postgres {
                    affected += self.execute(text, &values[..*parameters]).await?;
                }
                Ok(affected)
            }
        }
    }

    async fn lock(&mut self, lock: Lock<'_>) -> Result<(), MetadataError> {
        let locked = locks::lock(self.connection, lock).await;
        locked.map_err(failure(self.doing))
    }

    /// Does nothing: no file is cached.
    async fn written(&mut self, _: &FilePath) -> Result<(), MetadataError> {
        Ok(())
    }

    /// Does nothing: no file is cached.
    fn deleted(&mut self, _: &FilePath) {}
}

/// Reads single statements, each on any connection of the pool. Repeats a statement while the
/// engine is away, as changes are repeated.
#[derive(Debug)]
pub(crate) struct PoolReader {
    pub(super) pool: PgPool,
    /// Longest wait for a connection.
    pub(super) acquire_timeout: Duration,
    pub(super) doing: &'static str,
}

impl PoolReader {
    async fn patiently<T, F>(&self, read: impl Fn() -> F + Send + Sync) -> Result<T, MetadataError>
    where
        F: Future<Output = sqlx::Result<T>> + Send,
    {
        let mut patience = Patience::new(self.acquire_timeout);
        loop {
            match read().await.map_err(failure(self.doing)) {
                Ok(read) => return Ok(read),
                Err(error) => patience.rest_after(error).await?,
            }
        }
    }
}

impl Reader for PoolReader {
    fn doing(&self) -> &'static str {
        self.doing
    }

    async fn row<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> Result<Option<R>, MetadataError> {
        self.patiently(|| row(&self.pool, statement, values)).await
    }

    async fn rows<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> Result<Vec<R>, MetadataError> {
        self.patiently(|| rows(&self.pool, statement, values)).await
    }
}

async fn row<R: FromRow>(
    executor: impl Executor<'_, Database = Postgres>,
    statement: Statement,
    values: &[Value<'_>],
) -> sqlx::Result<Option<R>> {
    sqlx::query_as_with(statement.postgres, arguments(values)?)
        .fetch_optional(executor)
        .await
}

async fn rows<R: FromRow>(
    executor: impl Executor<'_, Database = Postgres>,
    statement: Statement,
    values: &[Value<'_>],
) -> sqlx::Result<Vec<R>> {
    sqlx::query_as_with(statement.postgres, arguments(values)?)
        .fetch_all(executor)
        .await
}

/// Encodes the parameters of a statement.
fn arguments(values: &[Value<'_>]) -> sqlx::Result<PgArguments> {
    let mut arguments = PgArguments::default();
    for value in values {
        add(&mut arguments, value).map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn add(arguments: &mut PgArguments, value: &Value<'_>) -> Result<(), BoxDynError> {
    match value {
        Value::Bool(value) => arguments.add(*value),
        Value::Int(value) => arguments.add(*value),
        Value::Text(value) => arguments.add(value.as_deref()),
        Value::Bytes(value) => arguments.add(value.as_deref()),
        Value::List(column) => add_array(arguments, column),
        Value::Table(columns) => columns
            .iter()
            .try_for_each(|column| add_array(arguments, column)),
    }
}

fn add_array(arguments: &mut PgArguments, column: &Column<'_>) -> Result<(), BoxDynError> {
    match column {
        Column::Ints(values) => arguments.add(values),
        Column::Texts(values) => arguments.add(values),
        Column::Digests(values) => {
            let bytes = values
                .iter()
                .map(|digest| digest.map(|digest| digest.as_bytes().as_slice()));
            arguments.add(bytes.collect::<Vec<_>>())
        }
    }
}
