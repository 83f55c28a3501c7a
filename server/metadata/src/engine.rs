//! The traits between a fact and the engine that keeps it.
//!
//! A [`Command`] changes facts: it runs statements in a [`Transaction`] of an [`Engine`]. A query
//! reads single statements through a [`Reader`]. Both are written once, for every engine.

use std::fmt::Debug;

use archive::PackName;
use domain::metadata_store::{Ask, Asked, MetadataError};
use domain::{DraftId, File, FilePath, UploadId};
use futures::stream::BoxStream;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;

use crate::failures::{NotAsExpected, failed};
use crate::values::Value;

/// A row that can be read from every engine.
pub(crate) trait FromRow:
    for<'r> sqlx::FromRow<'r, SqliteRow> + for<'r> sqlx::FromRow<'r, PgRow> + Send + Unpin + 'static
{
}

impl<T> FromRow for T where
    T: for<'r> sqlx::FromRow<'r, SqliteRow>
        + for<'r> sqlx::FromRow<'r, PgRow>
        + Send
        + Unpin
        + 'static
{
}

/// A statement: one text if the dialects agree, otherwise a pair.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Statement {
    pub(crate) sqlite: &'static str,
    pub(crate) postgres: &'static str,
}

impl Statement {
    /// Makes a statement that is the same in every dialect.
    pub(crate) const fn same(text: &'static str) -> Self {
        Self {
            sqlite: text,
            postgres: text,
        }
    }
}

/// Statements that run together, with one list of values.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Script {
    /// All statements as one text.
    pub(crate) sqlite: &'static str,
    /// Each statement with the number of values that it takes from the start of the list.
    pub(crate) postgres: &'static [(&'static str, usize)],
}

/// One statement or several that change rows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    One(Statement),
    Several(Script),
}

impl From<Statement> for Change {
    fn from(statement: Statement) -> Self {
        Self::One(statement)
    }
}

impl From<Script> for Change {
    fn from(script: Script) -> Self {
        Self::Several(script)
    }
}

/// Reads rows.
pub(crate) trait Reader: Send {
    /// Completes the sentence "failed to …".
    fn doing(&self) -> &'static str;

    /// Returns the first row, if there is one.
    fn row<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Option<R>, MetadataError>> + Send;

    /// Returns all rows.
    fn rows<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<R>, MetadataError>> + Send;

    /// Returns the first row of a statement that always has one.
    fn one<R: FromRow>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<R, MetadataError>> + Send {
        async move {
            let row = self.row(statement, values).await?;
            row.ok_or_else(|| self.failed(sqlx::Error::RowNotFound))
        }
    }

    /// Returns the only column of all rows.
    fn scalars<T: Send>(
        &mut self,
        statement: Statement,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<Vec<T>, MetadataError>> + Send
    where
        (T,): FromRow,
    {
        async move {
            let rows = self.rows::<(T,)>(statement, values).await?;
            Ok(rows.into_iter().map(|(value,)| value).collect())
        }
    }

    /// Creates an error for a failure other than a full disk.
    fn failed(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> MetadataError {
        failed(self.doing(), source)
    }
}

/// A running transaction: reads and changes rows.
pub(crate) trait Transaction: Reader {
    /// Changes rows, and returns their number.
    fn run(
        &mut self,
        change: impl Into<Change> + Send,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<u64, MetadataError>> + Send;

    /// Prevents other transactions from changing a part of the store until this one ends.
    fn lock(&mut self, lock: Lock<'_>) -> impl Future<Output = Result<(), MetadataError>> + Send;

    /// Notes that this transaction has written the file under `path`.
    fn written(
        &mut self,
        path: &FilePath,
    ) -> impl Future<Output = Result<(), MetadataError>> + Send;

    /// Notes that this transaction has deleted the file under `path`.
    fn deleted(&mut self, path: &FilePath);

    /// Changes exactly `expected` rows, or fails.
    fn exactly(
        &mut self,
        expected: u64,
        change: impl Into<Change> + Send,
        values: &[Value<'_>],
    ) -> impl Future<Output = Result<(), MetadataError>> + Send {
        async move {
            let affected = self.run(change, values).await?;
            if affected == expected {
                Ok(())
            } else {
                Err(self.failed(NotAsExpected { expected, affected }))
            }
        }
    }
}

/// A part of the store that a change locks before it decides. Changes lock parts in the order of
/// these variants, so that no two wait for each other.
///
/// An engine that runs one transaction at a time locks nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lock<'a> {
    /// An upload.
    Upload(&'a UploadId),
    /// A path, with or without a file.
    Path(&'a FilePath),
    /// A draft and its blobs.
    Draft(&'a DraftId),
    /// The number of a pack's next version.
    Pack(&'a PackName),
    /// A version and its blobs.
    Version(&'a PackName, u64),
    /// All recorded blobs among these.
    Blobs(&'a [&'a str]),
    /// The events of a subject.
    Subject(&'a str),
}

/// Guarantees that a command needs from the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// A transaction: reads, locks and writes are one step.
    Transaction,
    /// None beyond those of single statements, which saves two round trips. Running the command
    /// twice has the same effect as running it once. An engine may use a transaction all the same.
    Statements,
}

/// A change to be made in a transaction.
pub(crate) trait Command: Debug + Send + Sync + 'static {
    /// The outcome for the caller.
    type Answer: Debug + Send + 'static;

    /// Completes the sentence "failed to …".
    const DOING: &'static str;

    /// Guarantees that the command needs.
    const SCOPE: Scope = Scope::Transaction;

    /// Makes the change. The engine may roll back the transaction and run the command again in
    /// another.
    fn run<T: Transaction>(
        &self,
        transaction: &mut T,
    ) -> impl Future<Output = Result<Self::Answer, MetadataError>> + Send;
}

/// A database that keeps facts.
pub(crate) trait Engine: Debug + Send + Sync + 'static {
    /// Reads outside of transactions.
    type Reader: Reader;

    /// Returns a reader that runs each statement by itself. `doing` completes the sentence "failed
    /// to …".
    fn reader(&self, doing: &'static str) -> Self::Reader;

    /// Runs a command, and returns its answer once the change is durable.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the change is made.
    fn change<C: Command>(
        &self,
        command: C,
    ) -> impl Future<Output = Result<C::Answer, MetadataError>> + Send;

    /// Returns the file under a path. An engine may keep files in memory.
    fn file(
        &self,
        path: &FilePath,
    ) -> impl Future<Output = Result<Option<File>, MetadataError>> + Send;

    /// See [`is_shared`](domain::MetadataStore::is_shared).
    fn is_shared(&self) -> bool;

    /// See [`ask_to_yield`](domain::MetadataStore::ask_to_yield).
    fn ask_to_yield(&self, ask: Ask) -> impl Future<Output = Result<Asked, MetadataError>> + Send;

    /// See [`asks`](domain::MetadataStore::asks).
    fn asks(&self) -> BoxStream<'static, Ask>;

    /// See [`ended`](domain::MetadataStore::ended).
    fn ended(&self) -> impl Future<Output = ()> + Send;

    /// See [`close`](domain::MetadataStore::close).
    fn close(&self) -> impl Future<Output = ()> + Send;
}
