//! A database locked by another process, such as a backup or a user at a command line.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use tests::{Metadata, Request, TestServer, skip};

use crate::dialect::Dialect;

/// A process that holds the lock until it is dropped.
struct Lock(Child);

impl Lock {
    /// Takes the lock; `None` without Python.
    fn take(server: &TestServer) -> Option<Self> {
        const HOLD: &str = "
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('begin immediate')
print('locked', flush=True)
sys.stdin.read()";
        let mut child = Command::new("python3")
            .args(["-c", HOLD])
            .arg(server.data().join("metadata.sqlite"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let said = child.stdout.take().unwrap();
        let mut line = String::new();
        BufReader::new(said).read_line(&mut line).unwrap();
        assert_eq!(line, "locked\n");
        Some(Self(child))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The process may have ended, which releases the lock as well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_locked_database_passes() {
    const TEST: &str = "a_locked_database_passes";
    if Metadata::of_this_run() != Metadata::Sqlite {
        return skip(TEST, "the database is no file");
    }
    let server = TestServer::start().await;
    let dialect = Dialect::Interop6;
    let create = dialect.create(Request::put("/files/half").body("hel"), false);
    let created = server.request(create).await.expect(201);
    let upload = created.field("location");
    let Some(lock) = Lock::take(&server) else {
        return skip(TEST, "there is no python3");
    };
    let append = dialect.append(upload, 3, true).body("lo");
    let (put, create, delete, cut) = tokio::join!(
        server.request(Request::put("/files/a").body("hello")),
        server.request(dialect.create(Request::post("/files").body("hello"), true)),
        server.request(Request::delete("/files/nothing")),
        server.try_request(&append),
    );
    for answer in [put, create, delete] {
        let answer = answer.expect(503);
        assert!(answer.optional("retry-after").is_some(), "{answer:?}");
        answer.problem();
    }
    cut.expect_err("a client of an upload resumes after a cut and gives up after a 5xx");
    drop(lock);

    assert_eq!(server.request(dialect.head(upload)).await.offset(), 3);
    server.request(append).await.expect(201);
    server
        .request(Request::put("/files/a").body("hello"))
        .await
        .expect(201);
}
