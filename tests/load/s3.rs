//! Facts in PostgreSQL and bytes in S3, beside the AWS command line on the same S3 server in the
//! same run.
//!
//! The S3 server, PostgreSQL and Longhaul share the servers' core, and the client has the other.
//! For the AWS command line, the S3 server has that core to itself: the loss of Longhaul against it
//! is the cost of a server in between.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use tests::pack::Files;
use tests::{Content, Request, Stores, TestServer};
use tokio::time::Instant;

use crate::client::{self, Exchange};
use crate::{affinity, packs};

const LARGE: u64 = 1 << 30;
/// Number of files in a difference.
const FILES: u64 = 10_000;
const MEAN_SIZE: u64 = 16 * 1024;
/// Size of each transfer when memory is measured; `TRANSFERS` are the numbers at a time.
const EACH: u64 = 256 << 20;
const TRANSFERS: [usize; 2] = [1, 8];

/// Longhaul and its stores, which the AWS command line uses as well.
struct Bench {
    stores: Stores,
    server: TestServer,
    directory: tempfile::TempDir,
}

/// One measured operation: its duration, and the requests to the S3 server.
struct Measured {
    elapsed: Duration,
    requests: BTreeMap<String, u64>,
}

/// Measures throughput, memory and requests. Returns lines of text for people.
pub(crate) fn report(repeat: u32, directory: &Path) -> anyhow::Result<String> {
    let runtime = packs::runtime()?;
    let mut text = String::new();
    let bench = runtime.block_on(Bench::start(directory))?;
    let large = bench.directory.path().join("large");
    write_file(&large)?;
    let mut uploads = Pairs::default();
    let mut downloads = Pairs::default();
    for turn in 0..repeat.max(1) {
        let name = format!("large-{turn}");
        uploads.ours.push(bench.upload(&name)?);
        uploads.theirs.push(bench.aws_put(&large, &name)?);
        downloads
            .ours
            .push(bench.download(&format!("/files/{name}"))?);
        downloads.theirs.push(bench.aws_get(&name)?);
        bench.forget(&name)?;
    }
    fs::remove_file(&large)?;
    uploads.write(&mut text, "upload of 1 GiB", LARGE)?;
    downloads.write(&mut text, "download of 1 GiB", LARGE)?;

    let archive = runtime.block_on(bench.publish())?;
    let mut archives = Pairs::default();
    for _ in 0..repeat.max(1) {
        archives.ours.push(bench.download(ARCHIVE)?);
        archives.theirs.push(bench.aws_get("archive")?);
    }
    let title = format!("archive of a difference of {FILES} files");
    archives.write(&mut text, &title, archive)?;
    drop(bench);

    for transfers in TRANSFERS {
        let bench = runtime.block_on(Bench::start(directory))?;
        text.push_str(&bench.memory(transfers)?);
    }
    Ok(text)
}

const ARCHIVE: &str = "/packs/diff/versions/2/since/1.zip";

impl Bench {
    async fn start(directory: &Path) -> anyhow::Result<Self> {
        affinity::take_server_core();
        let stores = Stores::for_nodes().await;
        let server = TestServer::setup().stores(&stores).start().await;
        affinity::take_client_core();
        Ok(Self {
            stores,
            server,
            directory: tempfile::tempdir_in(directory)?,
        })
    }

    fn upload(&self, name: &str) -> anyhow::Result<Measured> {
        let put = exchange("PUT", &format!("/files/{name}"), LARGE, 201);
        self.measure(|| self.run([put]))
    }

    fn download(&self, target: &str) -> anyhow::Result<Measured> {
        let get = exchange("GET", target, 0, 200);
        self.measure(|| self.run([get]))
    }

    fn forget(&self, name: &str) -> anyhow::Result<()> {
        self.run([exchange("DELETE", &format!("/files/{name}"), 0, 204)])?;
        self.aws(&["rm", &self.aws_url(name)], Stdio::null())
    }

    fn run<const N: usize>(&self, exchanges: [Exchange; N]) -> anyhow::Result<()> {
        let mut work = exchanges.into_iter();
        client::run(self.server.address(), N, &mut || work.next()).map(drop)
    }

    /// Publishes a pack of two versions without common contents, and stores their difference as an
    /// object. Returns its length.
    async fn publish(&self) -> anyhow::Result<u64> {
        let first = packs::files(FILES, MEAN_SIZE);
        let second: Files = (0..)
            .zip(first.0.iter())
            .map(|(number, (path, content))| {
                let length = u64::try_from(content.len()).unwrap_or_default();
                (path.clone(), Content::new(FILES + number, length).bytes())
            })
            .collect();
        for tree in [&first, &second] {
            let publish = Request::post("/packs/diff/versions").body(tree.zip());
            self.server.request(publish).await.expect(201);
        }
        let archive: Bytes = self.server.bytes(ARCHIVE).await;
        let file = self.directory.path().join("archive");
        fs::write(&file, &archive)?;
        self.aws_put(&file, "archive")?;
        Ok(u64::try_from(archive.len())?)
    }

    fn aws_put(&self, file: &Path, name: &str) -> anyhow::Result<Measured> {
        let file = file.to_str().context("the directory's name is no text")?;
        self.measure(|| self.aws(&["cp", file, &self.aws_url(name)], Stdio::null()))
    }

    fn aws_get(&self, name: &str) -> anyhow::Result<Measured> {
        // A file, because the command line copies to a pipe with one thread.
        let file = self.directory.path().join("got");
        let file = file.to_str().context("the directory's name is no text")?;
        let measured = self.measure(|| self.aws(&["cp", &self.aws_url(name), file], Stdio::null()));
        fs::remove_file(file)?;
        measured
    }

    fn aws_url(&self, name: &str) -> String {
        format!("s3://{}/direct/{name}", self.stores.bucket())
    }

    fn aws(&self, arguments: &[&str], stdout: Stdio) -> anyhow::Result<()> {
        let output = Command::new("aws")
            .args(["--endpoint-url", self.stores.endpoint(), "s3"])
            .args(arguments)
            .arg("--only-show-errors")
            .envs(self.stores.credentials())
            .env("AWS_DEFAULT_REGION", self.stores.region())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .output()
            .context("failed to run the AWS command line (`pip install awscli`)")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "aws s3 {arguments:?}: {said}");
        Ok(())
    }

    fn measure(&self, work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Measured> {
        let before = self.stores.requests();
        let begun = Instant::now();
        work()?;
        let elapsed = begun.elapsed();
        // The log is written after the answer.
        std::thread::sleep(Duration::from_millis(200));
        let mut requests = self.stores.requests();
        for (operation, count) in before {
            if let Some(all) = requests.get_mut(&operation) {
                *all -= count;
            }
        }
        requests.retain(|_, count| *count > 0);
        Ok(Measured { elapsed, requests })
    }

    /// Measures the memory of this many simultaneous transfers, first up and then down.
    fn memory(&self, transfers: usize) -> anyhow::Result<String> {
        let process = self.server.process();
        let names: Vec<String> = (0..transfers).map(|n| format!("/files/{n}")).collect();
        let mut line = format!("{transfers} transfers of 256 MiB at a time: ");
        for (direction, method, body, status) in [("up", "PUT", EACH, 201), ("down", "GET", 0, 200)]
        {
            let before = process.resident().total;
            process.forget_peak();
            let mut work = names
                .iter()
                .map(|name| exchange(method, name, body, status));
            client::run(self.server.address(), transfers, &mut || work.next())?;
            let grown = process.peak().saturating_sub(before);
            let each = grown / u64::try_from(transfers)?;
            write!(line, "{direction} {} MiB each; ", each >> 20)?;
        }
        writeln!(line, "{} MiB at most", process.peak() >> 20)?;
        Ok(line)
    }
}

/// Turns of Longhaul and of the AWS command line.
#[derive(Default)]
struct Pairs {
    ours: Vec<Measured>,
    theirs: Vec<Measured>,
}

impl Pairs {
    fn write(&self, text: &mut String, title: &str, bytes: u64) -> std::fmt::Result {
        let (ours, theirs) = (median(&self.ours), median(&self.theirs));
        let rate = |elapsed: Duration| bytes as f64 / elapsed.as_secs_f64() / 1e6;
        writeln!(
            text,
            "{title}: longhaul {:.0} MB/s, aws {:.0} MB/s, ratio {:.2}",
            rate(ours),
            rate(theirs),
            rate(ours) / rate(theirs),
        )?;
        let requests = |turns: &[Measured]| match turns.last() {
            None => String::new(),
            Some(turn) => {
                let requests = turn.requests.iter();
                let told: Vec<String> = requests.map(|(name, n)| format!("{n} {name}")).collect();
                told.join(", ")
            }
        };
        writeln!(text, "  requests of longhaul: {}", requests(&self.ours))?;
        writeln!(text, "  requests of aws: {}", requests(&self.theirs))
    }
}

fn median(turns: &[Measured]) -> Duration {
    let mut times: Vec<Duration> = turns.iter().map(|turn| turn.elapsed).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

fn write_file(path: &Path) -> io::Result<()> {
    const PIECE: u64 = 1 << 20;
    let content = Content::new(3, LARGE);
    let mut file = File::create(path)?;
    for start in (0..LARGE).step_by(usize::try_from(PIECE).expect("a small number")) {
        io::Write::write_all(&mut file, &content.slice(start..start + PIECE))?;
    }
    Ok(())
}

fn exchange(method: &str, target: &str, body: u64, status: u16) -> Exchange {
    let length = match method {
        "PUT" => format!("Content-Length: {body}\r\n"),
        _ => String::new(),
    };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n");
    Exchange {
        head: head.into_bytes().into(),
        body,
        status,
    }
}
