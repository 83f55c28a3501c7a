//! The program is killed at random moments while clients upload. Everything that it acknowledged
//! must survive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tests::{Client, Content, Cut, Dice, Head, Request, Response, TestServer, Version, within};

use crate::dialect::Dialect;
use crate::uploads::assert_file;

/// Pause of a client after it has lost a connection. A client that asks at once ends its own
/// earlier request, of which the server may have read nothing yet.
pub(crate) const BACK_OFF: Duration = Duration::from_millis(100);

/// Number of times that the program is killed. `LONGHAUL_CRASHES` overrides it for a longer run.
const CRASHES: u64 = 10;
/// Number of clients that upload at the same time.
const CLIENTS: u64 = 6;

/// An upload, as its client sees it.
#[derive(Debug)]
struct Attempt {
    dialect: Dialect,
    version: Version,
    path: String,
    content: Content,
    /// URL of the upload resource, once the server has sent it.
    upload: Option<String>,
    /// Greatest offset that the server has reported, in an interim or a final response.
    acknowledged: u64,
    /// Set once the server has answered that the upload is complete.
    completed: bool,
}

impl Attempt {
    /// Chooses an upload by `dice`; `number` is unique to it.
    fn new(number: u64, dice: &mut Dice) -> Self {
        let dialects = u64::try_from(Dialect::ALL.len()).unwrap();
        let versions = u64::try_from(Version::ALL.len()).unwrap();
        Self {
            dialect: Dialect::ALL[usize::try_from(dice.within(0..dialects)).unwrap()],
            version: Version::ALL[usize::try_from(dice.within(0..versions)).unwrap()],
            path: format!("/files/crash/{number}"),
            content: Content::new(1000 + number, dice.within(1..5_000_000)),
            upload: None,
            acknowledged: 0,
            completed: false,
        }
    }

    /// Uploads until everything is sent or the server is gone.
    async fn run(&mut self, server: &TestServer, dice: &mut Dice) -> Result<(), Cut> {
        match dice.within(0..3) {
            0 => self.in_one_request(server, dice).await,
            1 => self.in_parts(server, dice).await,
            _ => self.with_interruptions(server, dice).await,
        }
    }

    async fn in_one_request(&mut self, server: &TestServer, dice: &mut Dice) -> Result<(), Cut> {
        let put = Request::put(&self.path).announcing(self.content.length());
        let mut client = try_client(server, self.version).await?;
        self.stream(&mut client, &self.dialect.create(put, true), 0, dice)
            .await
    }

    async fn in_parts(&mut self, server: &TestServer, dice: &mut Dice) -> Result<(), Cut> {
        self.create(server).await?;
        while !self.completed {
            let offset = self.acknowledged;
            let end = (offset + dice.within(1..800_000)).min(self.content.length());
            let completes = end == self.content.length();
            let append = self
                .append(offset, completes)
                .body(self.content.slice(offset..end));
            let response = try_client(server, self.version)
                .await?
                .exchange(&append)
                .await?;
            self.note(&response);
        }
        Ok(())
    }

    /// Loses its connection on purpose, asks for the offset, and continues.
    async fn with_interruptions(
        &mut self,
        server: &TestServer,
        dice: &mut Dice,
    ) -> Result<(), Cut> {
        self.create(server).await?;
        while !self.completed {
            let mut client = try_client(server, self.version).await?;
            let head = client
                .exchange(&self.dialect.head(self.upload.as_ref().unwrap()))
                .await?;
            let offset = head.offset();
            self.note(&head);
            if self.completed {
                // The last append had arrived completely before its connection was lost.
                return Ok(());
            }
            let append = self
                .append(offset, true)
                .announcing(self.content.length() - offset);
            if dice.within(0..3) == 0 {
                self.stream(&mut client, &append, offset, dice).await?;
            } else {
                client.begin(&append).await.map_err(gone)?;
                let end = (offset + dice.within(1..500_000)).min(self.content.length());
                client
                    .send(&self.content.slice(offset..end))
                    .await
                    .map_err(gone)?;
                client.lose();
                // Every client waits here: a request still on its way would end the successor that
                // is already sending.
                tokio::time::sleep(BACK_OFF).await;
            }
        }
        Ok(())
    }

    async fn create(&mut self, server: &TestServer) -> Result<(), Cut> {
        let create = self.dialect.create(Request::put(&self.path), false);
        let response = try_client(server, self.version)
            .await?
            .exchange(&create)
            .await?;
        self.upload = Some(response.field("location").to_owned());
        Ok(())
    }

    /// Sends everything from `offset` on, piece by piece, and notes each interim response as it
    /// arrives.
    async fn stream(
        &mut self,
        client: &mut Client,
        request: &Request,
        offset: u64,
        dice: &mut Dice,
    ) -> Result<(), Cut> {
        client.begin(request).await.map_err(gone)?;
        let mut sent = offset;
        while sent < self.content.length() {
            let end = (sent + dice.within(1..300_000)).min(self.content.length());
            let outcome = client.send(&self.content.slice(sent..end)).await;
            while let Some(head) = client.interim_so_far().await {
                self.note_interim(&head);
            }
            if outcome.is_err() {
                break;
            }
            sent = end;
        }
        // Fails only on a lost connection, which the response reports.
        let _ = client.finish().await;
        match client.response().await {
            Ok(response) => {
                response
                    .interim
                    .iter()
                    .for_each(|head| self.note_interim(head));
                self.note(&response);
                Ok(())
            }
            Err(cut) => {
                cut.interim.iter().for_each(|head| self.note_interim(head));
                Err(cut)
            }
        }
    }

    fn append(&self, offset: u64, completes: bool) -> Request {
        let upload = self.upload.as_ref().expect("created first");
        self.dialect.append(upload, offset, completes)
    }

    fn note_interim(&mut self, head: &Head) {
        if let Some(upload) = head.optional("location") {
            self.upload = Some(upload.to_owned());
        }
        if head.optional("upload-offset").is_some() {
            self.acknowledged = self.acknowledged.max(head.offset());
        }
    }

    fn note(&mut self, response: &Response) {
        assert!(response.status() < 300, "{self:?}: {response:?}");
        if response.optional("upload-offset").is_some() {
            self.acknowledged = self.acknowledged.max(response.offset());
        }
        if self.dialect.is_complete(&response.head) == Some(true) {
            self.completed = true;
            self.acknowledged = self.content.length();
        }
    }

    /// Describes acknowledged data that is missing after the server was killed and restarted, if
    /// there is any.
    async fn violation(&self, server: &TestServer) -> Option<String> {
        if self.completed {
            let get = server.request(Request::get(&self.path)).await;
            if get.status() != 200 {
                return Some(format!(
                    "completed, but GET answers {}: {self:?}",
                    get.status()
                ));
            }
        }
        let upload = self.upload.as_ref()?;
        let head = server.request(self.dialect.head(upload)).await;
        if head.status() != 204 {
            return Some(format!(
                "created, but HEAD answers {}: {self:?}",
                head.status()
            ));
        }
        let offset = head.offset();
        (offset < self.acknowledged)
            .then(|| format!("{offset} is below the acknowledged offset: {self:?}"))
    }

    /// Completes the upload and compares the content.
    async fn finish(&self, server: &TestServer) {
        let Some(upload) = &self.upload else {
            return;
        };
        let head = server.request(self.dialect.head(upload)).await.expect(204);
        if self.dialect.is_complete(&head.head) != Some(true) {
            let offset = head.offset();
            let append = self.append(offset, true).body(self.content.from(offset));
            server.request(append).await.expect(201);
        }
        assert_file(server, &self.path, self.content).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let crashes = std::env::var_os("LONGHAUL_CRASHES").map_or(CRASHES, |number| {
        number
            .to_str()
            .and_then(|number| number.parse().ok())
            .expect("LONGHAUL_CRASHES is a number")
    });
    let mut server = TestServer::start().await;
    let mut violations = Vec::new();
    let mut acknowledged = 0;
    for crash in 0..crashes {
        // Only the moment of the crash varies; no check depends on its length.
        let moment = Duration::from_millis(Dice::new(crash).within(5..500));
        let process = server.process();
        let killed = AtomicBool::new(false);
        let clients = (0..CLIENTS)
            .map(|client| upload_until_the_crash(&server, crash * CLIENTS + client, &killed));
        let kill = async {
            tokio::time::sleep(moment).await;
            killed.store(true, Ordering::SeqCst);
            process.signal(Signal::KILL);
        };
        let all = async { tokio::join!(futures::future::join_all(clients), kill) };
        let (attempts, ()) = within(tests::PATIENCE, "every client notices the crash", all).await;
        server.kill().await;
        server.restart().await;

        let attempts: Vec<Attempt> = attempts.into_iter().flatten().collect();
        for attempt in &attempts {
            acknowledged += attempt.acknowledged;
            violations.extend(attempt.violation(&server).await);
        }
        for attempt in &attempts {
            attempt.finish(&server).await;
        }
    }
    assert!(
        acknowledged > 0,
        "nothing was acknowledged before any crash, so nothing was tested"
    );
    assert!(
        violations.is_empty(),
        "{} violations:\n{}",
        violations.len(),
        violations.join("\n")
    );
}

/// Uploads one file after another and returns all uploads that were begun.
async fn upload_until_the_crash(
    server: &TestServer,
    seed: u64,
    killed: &AtomicBool,
) -> Vec<Attempt> {
    let mut dice = Dice::new(seed);
    let mut attempts = Vec::new();
    loop {
        let number = seed * 1_000 + u64::try_from(attempts.len()).unwrap();
        let mut attempt = Attempt::new(number, &mut dice);
        let outcome = attempt.run(server, &mut dice).await;
        attempts.push(attempt);
        if let Err(cut) = outcome {
            assert!(
                killed.load(Ordering::SeqCst),
                "cut before the crash: {cut:?}, {:?}",
                attempts.last()
            );
            return attempts;
        }
    }
}

async fn try_client(server: &TestServer, version: Version) -> Result<Client, Cut> {
    Client::try_open(server.address(), version)
        .await
        .map_err(gone)
}

fn gone(error: std::io::Error) -> Cut {
    Cut {
        interim: Vec::new(),
        partial: None,
        how: error.to_string(),
    }
}
