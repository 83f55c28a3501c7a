//! The single writer and its group commit.
//!
//! 1. Callers put commands into a bounded queue and wait.
//! 2. The writer takes all waiting commands, up to a bound, and runs them in one transaction.
//! 3. The writer commits, with one sync to disk for all. Meanwhile the next commands arrive.
//! 4. The writer puts changed files into the cache, then answers all callers.
//!
//! If a command fails, the transaction is rolled back and each command of the batch runs again in
//! its own transaction, so that a failure affects no other command. As failures are rare, this is
//! faster than a savepoint for each command, and simpler. It also covers failures that roll back
//! the entire transaction by themselves, such as a full disk. If a commit fails, its entire batch
//! fails.

use std::fmt::Debug;
use std::iter;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use async_trait::async_trait;
use domain::metadata_store::MetadataError;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::session::Transaction;
use crate::cache::FileCache;
use crate::engine::Command;
use crate::failures::{Kind, failed};

/// Number of batches between two checks of the write-ahead log's length.
const LOOK_AT_LOG: u32 = 64;
/// Truncates the log, waiting 50 ms for readers, then restores the timeout to
/// [`BUSY_TIMEOUT`](super::BUSY_TIMEOUT).
const CUT_LOG: [&str; 3] = [
    "pragma busy_timeout = 50",
    "pragma wal_checkpoint(truncate)",
    "pragma busy_timeout = 5000",
];

/// Handle of the writer.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Box<dyn Job>>,
    closing: CancellationToken,
    task: TaskTracker,
}

/// Dependencies of a [`Writer`].
#[derive(Debug)]
pub(super) struct Deps {
    /// Options of the connection, for reconnecting after a failure.
    pub(super) options: SqliteConnectOptions,
    /// The first connection.
    pub(super) connection: SqliteConnection,
    /// The write-ahead log's file.
    pub(super) log: PathBuf,
    /// Length of the write-ahead log at which it is truncated, in bytes.
    pub(super) log_limit: u64,
    /// Cache that receives changed files.
    pub(super) files: Arc<FileCache>,
    /// Maximum number of waiting commands.
    pub(super) queue: NonZeroUsize,
    /// Maximum number of commands in a transaction.
    pub(super) batch: NonZeroUsize,
}

impl Writer {
    /// Starts the writer.
    pub(super) fn start(deps: Deps) -> Self {
        let (queue, commands) = mpsc::channel(deps.queue.get());
        let closing = CancellationToken::new();
        let task = TaskTracker::new();
        let worker = Worker {
            commands,
            closing: closing.clone(),
            options: deps.options,
            connection: Some(deps.connection),
            log: deps.log,
            log_limit: deps.log_limit,
            files: deps.files,
            batch: deps.batch.get(),
        };
        // A separate thread alternates with the engine's thread at less cost than tasks of a shared
        // runtime: a fifth less processor time for each change.
        let (runtime, running) = (Handle::current(), task.token());
        thread::spawn(move || {
            // Dropped however the thread ends.
            let _running = running;
            runtime.block_on(worker.run());
        });
        task.close();
        Self {
            queue,
            closing,
            task,
        }
    }

    /// Runs `command`, and returns its answer once the change is durable.
    ///
    /// # Cancel safety
    /// A queued command runs even if its caller is dropped.
    pub(super) async fn run<C: Command>(&self, command: C) -> Result<C::Answer, MetadataError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending {
            command,
            answer: None,
            reply,
        });
        self.queue
            .send(job)
            .await
            .map_err(|_| failed(C::DOING, Closed))?;
        answer.await.map_err(|_| failed(C::DOING, Closed))?
    }

    /// Runs the queued commands, then ends the writer.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.ended().await;
    }

    /// Waits for the end of the writer, by [`Writer::close`] or by a fault. After it, writes are
    /// impossible.
    pub(super) async fn ended(&self) {
        self.task.wait().await;
    }
}

#[derive(Debug, Error)]
#[error("the store is closed")]
struct Closed;

#[derive(Debug, Error)]
#[error("the transaction was not committed")]
struct NotCommitted(#[source] Arc<sqlx::Error>);

/// A queued command with a waiting caller.
#[async_trait]
trait Job: Debug + Send {
    /// Runs the command and keeps its answer. Returns true on success.
    async fn run(&mut self, transaction: &mut Transaction<'_>) -> bool;

    /// Sends the last kept answer to the caller.
    fn answer(self: Box<Self>);

    /// Sends the engine's failure to the caller.
    fn fail(self: Box<Self>, error: Arc<sqlx::Error>);
}

#[derive(Debug)]
struct Pending<C: Command> {
    command: C,
    answer: Option<Result<C::Answer, MetadataError>>,
    reply: oneshot::Sender<Result<C::Answer, MetadataError>>,
}

#[async_trait]
impl<C: Command> Job for Pending<C> {
    async fn run(&mut self, transaction: &mut Transaction<'_>) -> bool {
        transaction.doing = C::DOING;
        let answer = self.command.run(transaction).await;
        self.answer.insert(answer).is_ok()
    }

    fn answer(self: Box<Self>) {
        if let Some(answer) = self.answer {
            // The caller may be gone.
            let _ = self.reply.send(answer);
        }
    }

    fn fail(self: Box<Self>, error: Arc<sqlx::Error>) {
        let kind = super::kind(&error);
        let error = kind.error(C::DOING, NotCommitted(error));
        let _ = self.reply.send(Err(error));
    }
}

/// Reasons for which a batch is not committed.
enum Failure {
    /// A command of the batch failed.
    Command,
    /// The transaction could not begin or commit.
    Engine(sqlx::Error),
}

/// The owner of the connection.
struct Worker {
    commands: mpsc::Receiver<Box<dyn Job>>,
    closing: CancellationToken,
    options: SqliteConnectOptions,
    /// `None` after a failure that leaves the connection in doubt.
    connection: Option<SqliteConnection>,
    log: PathBuf,
    log_limit: u64,
    files: Arc<FileCache>,
    batch: usize,
}

impl Worker {
    async fn run(mut self) {
        let mut jobs = Vec::with_capacity(self.batch);
        let mut batches = 0_u32;
        loop {
            tokio::select! {
                biased;
                // The closed queue refuses new commands but still returns the queued ones.
                () = self.closing.cancelled(), if !self.commands.is_closed() => self.commands.close(),
                // Documented as cancel safe.
                count = self.commands.recv_many(&mut jobs, self.batch) => {
                    if count == 0 {
                        break;
                    }
                    self.commit(&mut jobs).await;
                    batches = batches.wrapping_add(1);
                    if batches.is_multiple_of(LOOK_AT_LOG) {
                        self.cut_log().await;
                    }
                }
            }
        }
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "failed to close the database"
            );
        }
    }

    /// Runs `jobs`, commits, and answers.
    async fn commit(&mut self, jobs: &mut Vec<Box<dyn Job>>) {
        match self.attempt(jobs).await {
            Ok(()) => jobs.drain(..).for_each(Job::answer),
            Err(Failure::Engine(error)) => fail(jobs.drain(..), error),
            Err(Failure::Command) => {
                let mut jobs = jobs.drain(..);
                while let Some(mut job) = jobs.next() {
                    match self.attempt(std::slice::from_mut(&mut job)).await {
                        Ok(()) | Err(Failure::Command) => job.answer(),
                        // Single transactions would wait as long and fail the same way.
                        Err(Failure::Engine(error))
                            if super::kind(&error) == Kind::Surroundings =>
                        {
                            fail(iter::once(job).chain(jobs.by_ref()), error);
                        }
                        Err(Failure::Engine(error)) => fail([job], error),
                    }
                }
            }
        }
    }

    /// Runs `jobs` in one transaction and commits it. Changes nothing unless all succeed.
    async fn attempt(&mut self, jobs: &mut [Box<dyn Job>]) -> Result<(), Failure> {
        // The connection is put back only after a clean end.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await.map_err(Failure::Engine)?,
        };
        execute(&mut connection, "begin immediate")
            .await
            .map_err(Failure::Engine)?;
        let mut transaction = Transaction::new(&mut connection);
        for job in &mut *jobs {
            if !job.run(&mut transaction).await {
                if execute(&mut connection, "rollback").await.is_ok() {
                    self.connection = Some(connection);
                }
                return Err(Failure::Command);
            }
        }
        let changes = transaction.into_changes();
        match execute(&mut connection, "commit").await {
            Ok(()) => {
                self.connection = Some(connection);
                for (path, known) in changes {
                    self.files.put(path, known);
                }
                Ok(())
            }
            Err(error) => {
                for (path, _) in changes {
                    self.files.forget(&path);
                }
                Err(Failure::Engine(error))
            }
        }
    }

    /// Keeps the write-ahead log short. The engine itself copies the growing log into the database,
    /// but restarts the log only at a moment without readers, which may never come under constant
    /// reading. This checkpoint makes new readers read from the database, and waits for current
    /// ones, shortly: behind a long one, such as a backup, the log must grow.
    async fn cut_log(&mut self) {
        let long = std::fs::metadata(&self.log).is_ok_and(|log| log.len() > self.log_limit);
        let Some(connection) = self.connection.as_mut().filter(|_| long) else {
            return;
        };
        for step in CUT_LOG {
            if let Err(error) = execute(connection, step).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to cut the write-ahead log back"
                );
            }
        }
    }
}

fn fail(jobs: impl IntoIterator<Item = Box<dyn Job>>, error: sqlx::Error) {
    let error = Arc::new(error);
    let cause = &*error as &dyn std::error::Error;
    match super::kind(&error) {
        Kind::Surroundings => tracing::warn!(error = cause, "a transaction has to wait"),
        Kind::Full | Kind::Own => tracing::error!(error = cause, "a transaction failed"),
    }
    for job in jobs {
        job.fail(Arc::clone(&error));
    }
}

/// Runs a statement without rows or parameters.
async fn execute(
    connection: &mut SqliteConnection,
    statement: &'static str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement).execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use bytesize::ByteSize;
    use tempfile::TempDir;
    use tokio::sync::Semaphore;

    use super::*;
    use crate::SqliteConfig;
    use crate::engine::{self, FromRow, Statement};
    use crate::sqlite::{BUSY_TIMEOUT, LOG_LIMIT, writer_options};
    use crate::values::values;

    const QUEUE: usize = 100;

    struct Fresh {
        writer: Arc<Writer>,
        options: SqliteConnectOptions,
        log: PathBuf,
        _directory: TempDir,
    }

    /// Creates a writer for a database of words.
    async fn fresh(log_limit: u64) -> Fresh {
        fresh_with(log_limit, |options| options).await
    }

    async fn fresh_with(
        log_limit: u64,
        change: fn(SqliteConnectOptions) -> SqliteConnectOptions,
    ) -> Fresh {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("test.sqlite");
        let log = directory.path().join("test.sqlite-wal");
        let options = change(writer_options(&SqliteConfig::default(), &file));
        let mut connection = options.connect().await.unwrap();
        for statement in [
            "create table words (word text primary key)",
            "create table pairs (word text references words (word) deferrable initially deferred)",
        ] {
            execute(&mut connection, statement).await.unwrap();
        }
        let writer = Writer::start(Deps {
            options: options.clone(),
            connection,
            log: log.clone(),
            log_limit,
            files: Arc::new(FileCache::new(ByteSize::mib(1))),
            queue: NonZeroUsize::new(QUEUE).unwrap(),
            batch: NonZeroUsize::new(QUEUE).unwrap(),
        });
        Fresh {
            writer: Arc::new(writer),
            options,
            log,
            _directory: directory,
        }
    }

    impl Fresh {
        /// Runs the commands as one batch.
        async fn batch<C: Command>(
            &self,
            commands: impl IntoIterator<Item = C>,
        ) -> Vec<Result<C::Answer, MetadataError>> {
            let hold = self.hold().await;
            let commands: Vec<_> = commands
                .into_iter()
                .map(|command| self.spawn(command))
                .collect();
            self.queued(commands.len()).await;
            hold.released.add_permits(1);
            let mut answers = Vec::new();
            for command in commands {
                answers.push(command.await.unwrap());
            }
            answers
        }

        /// Runs the commands without holding the writer.
        async fn batch_unheld<C: Command>(
            &self,
            commands: impl IntoIterator<Item = C>,
        ) -> Vec<Result<C::Answer, MetadataError>> {
            let commands = commands.into_iter().map(|command| self.writer.run(command));
            futures::future::join_all(commands).await
        }

        /// Keeps the writer busy until it is released.
        async fn hold(&self) -> Arc<Gate> {
            let gate = Arc::new(Gate {
                reached: Semaphore::new(0),
                released: Semaphore::new(0),
            });
            self.spawn(Hold(Arc::clone(&gate)));
            gate.reached.acquire().await.unwrap().forget();
            gate
        }

        /// Waits until `count` commands are queued.
        async fn queued(&self, count: usize) {
            while self.writer.queue.capacity() > QUEUE - count {
                tokio::task::yield_now().await;
            }
        }

        fn spawn<C: Command>(
            &self,
            command: C,
        ) -> tokio::task::JoinHandle<Result<C::Answer, MetadataError>> {
            let writer = Arc::clone(&self.writer);
            tokio::spawn(async move { writer.run(command).await })
        }

        async fn words(&self) -> Vec<String> {
            let mut connection = self.options.connect().await.unwrap();
            sqlx::query_scalar("select word from words order by word")
                .fetch_all(&mut connection)
                .await
                .unwrap()
        }

        async fn ask<T: Debug + Send + Sync + 'static>(&self, question: &'static str) -> T
        where
            (T,): FromRow,
        {
            let (answer,) = self.writer.run(Ask(question, PhantomData)).await.unwrap();
            answer
        }
    }

    #[derive(Debug)]
    struct Gate {
        reached: Semaphore,
        released: Semaphore,
    }

    #[derive(Debug)]
    struct Hold(Arc<Gate>);

    impl Command for Hold {
        type Answer = ();
        const DOING: &'static str = "wait";

        async fn run<T: engine::Transaction>(&self, _: &mut T) -> Result<(), MetadataError> {
            self.0.reached.add_permits(1);
            self.0.released.acquire().await.unwrap().forget();
            Ok(())
        }
    }

    /// Reads one value, on the writer's connection.
    #[derive(Debug)]
    struct Ask<V>(&'static str, PhantomData<V>);

    impl<V: Debug + Send + Sync + 'static> Command for Ask<V>
    where
        (V,): FromRow,
    {
        type Answer = (V,);
        const DOING: &'static str = "ask";

        async fn run<T: engine::Transaction>(
            &self,
            transaction: &mut T,
        ) -> Result<(V,), MetadataError> {
            transaction.one(Statement::same(self.0), values![]).await
        }
    }

    /// Writes a word, then ends as the second field says.
    #[derive(Debug)]
    struct Word(String, Then);

    #[derive(Debug)]
    enum Then {
        Succeed,
        Fail,
        /// Panics, like a fault of the program.
        Panic,
        /// Leaves a row that fails the commit.
        FailAtCommit,
    }

    fn word(text: &str, then: Then) -> Word {
        Word(text.to_owned(), then)
    }

    impl Command for Word {
        type Answer = ();
        const DOING: &'static str = "write a word";

        async fn run<T: engine::Transaction>(
            &self,
            transaction: &mut T,
        ) -> Result<(), MetadataError> {
            let Self(word, then) = self;
            let insert = values![word.as_str()];
            let statement = Statement::same("insert into words values ($1)");
            transaction.run(statement, insert).await?;
            match then {
                Then::Succeed => Ok(()),
                Then::Fail => Err(transaction.failed("it was told to fail")),
                Then::Panic => panic!("it was told to panic"),
                Then::FailAtCommit => {
                    let insert = "insert into pairs values ('no such word')";
                    let insert = Statement::same(insert);
                    transaction.run(insert, values![]).await.map(drop)
                }
            }
        }
    }

    /// A supervisor must notice, as nothing can be written any more.
    #[tokio::test]
    async fn a_panic_ends_the_writer_for_everyone_to_see() {
        let fresh = fresh(LOG_LIMIT).await;
        let watched = Arc::clone(&fresh.writer);
        let ended = tokio::spawn(async move { watched.ended().await });
        let before = fresh.writer.run(word("before", Then::Succeed)).await;
        assert!(before.is_ok() && !ended.is_finished());

        let panicked = fresh.writer.run(word("lost", Then::Panic)).await;
        assert!(panicked.is_err());
        ended.await.unwrap();
        let after = fresh.writer.run(word("after", Then::Succeed)).await;
        assert!(after.is_err());
        assert_eq!(fresh.words().await, ["before"]);
        fresh.writer.close().await;
    }

    fn succeeded(answers: Vec<Result<(), MetadataError>>) -> Vec<bool> {
        answers.iter().map(Result::is_ok).collect()
    }

    #[tokio::test]
    async fn a_failure_touches_no_other() {
        let store = fresh(LOG_LIMIT).await;
        let answers = store
            .batch([
                word("a", Then::Succeed),
                word("b", Then::Fail),
                word("c", Then::Succeed),
                word("a", Then::Succeed),
                word("d", Then::Succeed),
            ])
            .await;
        assert_eq!(succeeded(answers), [true, false, true, false, true]);
        assert_eq!(store.words().await, ["a", "c", "d"]);
    }

    #[tokio::test]
    async fn a_failed_commit_fails_its_batch_and_the_writer_goes_on() {
        let store = fresh(LOG_LIMIT).await;
        for round in ["x", "y"] {
            let answers = store
                .batch([
                    word("a", Then::Succeed),
                    word("b", Then::FailAtCommit),
                    word("c", Then::Succeed),
                ])
                .await;
            for answer in answers {
                let error = answer.unwrap_err();
                assert_eq!(error.to_string(), "failed to write a word");
                let cause = std::error::Error::source(&error).unwrap();
                assert_eq!(cause.to_string(), "the transaction was not committed");
            }
            let answers = store.batch([word(round, Then::Succeed)]).await;
            assert_eq!(succeeded(answers), [true]);
        }
        assert_eq!(store.words().await, ["x", "y"]);
    }

    #[tokio::test]
    async fn each_is_told_when_there_is_no_room() {
        let store = fresh_with(LOG_LIMIT, |options| options.pragma("max_page_count", "20")).await;
        let mut long = Vec::new();
        for n in 0..10 {
            long.push(word(&format!("{n}{}", "x".repeat(10_000)), Then::Succeed));
        }
        let answers = store.batch(long).await;
        let full = |answer: &Result<(), MetadataError>| matches!(answer, Err(MetadataError::Full));
        let written = answers.iter().filter(|answer| answer.is_ok()).count();
        assert!((1..10).contains(&written), "{written}");
        assert!(answers.iter().all(|answer| answer.is_ok() || full(answer)));
        assert_eq!(store.words().await.len(), written);

        // A small change still fits.
        let answers = store.batch([word("x", Then::Succeed)]).await;
        assert_eq!(succeeded(answers), [true]);
    }

    #[tokio::test]
    async fn a_lock_of_another_process_passes() {
        let store = fresh_with(LOG_LIMIT, |options| {
            options.busy_timeout(std::time::Duration::from_millis(10))
        })
        .await;
        let mut other = store.options.connect().await.unwrap();
        execute(&mut other, "begin immediate").await.unwrap();
        let waiting = ["a", "b"].map(|text| word(text, Then::Succeed));
        for answer in store.batch_unheld(waiting).await {
            let error = answer.unwrap_err();
            assert!(
                matches!(error, MetadataError::Unreachable { .. }),
                "{error:?}"
            );
        }
        execute(&mut other, "rollback").await.unwrap();
        let answers = store.batch([word("a", Then::Succeed)]).await;
        assert_eq!(succeeded(answers), [true]);
        assert_eq!(store.words().await, ["a"]);
    }

    #[tokio::test]
    async fn what_is_queued_is_done_before_the_end() {
        let store = fresh(LOG_LIMIT).await;
        let hold = store.hold().await;
        let waiting: Vec<_> = (0..10)
            .map(|n| store.spawn(word(&n.to_string(), Then::Succeed)))
            .collect();
        store.queued(10).await;
        // A dropped caller does not undo its command.
        waiting[7].abort();
        let closing = tokio::spawn({
            let writer = Arc::clone(&store.writer);
            async move { writer.close().await }
        });
        while !store.writer.closing.is_cancelled() {
            tokio::task::yield_now().await;
        }
        hold.released.add_permits(1);
        closing.await.unwrap();
        assert_eq!(store.words().await.len(), 10);

        let late = store.writer.run(word("late", Then::Succeed)).await;
        let error = late.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap();
        assert_eq!(cause.to_string(), "the store is closed");
        store.writer.close().await;
    }

    #[tokio::test]
    async fn a_commit_is_synced() {
        let store = fresh(LOG_LIMIT).await;
        let journal: String = store.ask("pragma journal_mode").await;
        let synchronous: i64 = store.ask("pragma synchronous").await;
        let foreign_keys: i64 = store.ask("pragma foreign_keys").await;
        assert_eq!((journal.as_str(), synchronous, foreign_keys), ("wal", 2, 1));
    }

    #[tokio::test]
    async fn the_log_is_cut_back_once_its_readers_let_it() {
        const LIMIT: u64 = 1 << 20;
        let store = fresh(LIMIT).await;
        let length = || std::fs::metadata(&store.log).unwrap().len();
        let write = async |tag: &str| {
            for n in 0..3 * LOOK_AT_LOG {
                let text = format!("{tag}{n}{}", "x".repeat(10_000));
                store.writer.run(word(&text, Then::Succeed)).await.unwrap();
            }
        };
        write("a").await;
        assert!(length() <= 3 * LIMIT, "{}", length());

        let mut reader = store.options.connect().await.unwrap();
        execute(&mut reader, "begin").await.unwrap();
        let count: i64 = sqlx::query_scalar("select count(*) from words")
            .fetch_one(&mut reader)
            .await
            .unwrap();
        write("b").await;
        assert!(length() > 3 * LIMIT, "{}", length());
        execute(&mut reader, "commit").await.unwrap();
        write("c").await;
        assert!(length() <= 3 * LIMIT, "{}", length());
        assert_eq!(store.words().await.len() as i64, 3 * count);

        let timeout: i64 = store.ask("pragma busy_timeout").await;
        assert_eq!(Ok(timeout), BUSY_TIMEOUT.as_millis().try_into());
    }
}
