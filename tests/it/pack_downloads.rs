//! Downloads of archives over bad networks, from servers that crash, and of versions that are
//! published and retired meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tests::pack::{Files, sha256};
use tests::{
    Client, Content, Cut, Dice, Fault, Flow, Proxy, Request, Response, TestServer, Version,
    eventually, within,
};
use tokio::process::Command;
use tokio::sync::watch;

const SINCE: &str = "/packs/pack/versions/2/since/1.zip";

/// Starts a server with two versions that differ much: many small files, most of which compress,
/// and one of `large` bytes that does not.
async fn serving(large: u64) -> TestServer {
    let server = TestServer::start().await;
    let mut files = Files::new([("stays", &b"the same"[..])]);
    server.publish("pack", &files).await;
    for number in 0..1500_u32 {
        let bytes = match number % 3 {
            0 => Content::new(number.into(), u64::from(number) * 2).bytes(),
            _ => format!("line {number}\n")
                .repeat(number as usize / 5)
                .into(),
        };
        files
            .0
            .insert(format!("{:02}/{number}", number % 50), bytes);
    }
    files
        .0
        .insert("20/large".to_owned(), Content::new(70, large).bytes());
    server.publish("pack", &files).await;
    server
}

/// A download that continues at the cut as long as the entity tag stays the same.
#[derive(Default)]
struct Download {
    etag: Option<String>,
    bytes: BytesMut,
}

impl Download {
    fn request(&self) -> Request {
        let request = Request::get(SINCE);
        match &self.etag {
            None => request,
            Some(etag) => request
                .field("Range", format!("bytes={}-", self.bytes.len()))
                .field("If-Range", etag),
        }
    }

    /// Adds received bytes; returns whether the download is complete.
    fn take(&mut self, outcome: Result<Response, Cut>) -> bool {
        let (whole, head, bytes) = match outcome {
            Ok(Response { head, body, .. }) => (true, head, body),
            Err(Cut { partial: None, .. }) => return false,
            Err(Cut {
                partial: Some((head, bytes)),
                ..
            }) => (false, head, bytes),
        };
        match &self.etag {
            None => {
                assert_eq!(head.status, 200);
                self.etag = Some(head.field("etag").to_owned());
            }
            Some(etag) => {
                assert_eq!(head.status, 206, "the archive is the same: {head:?}");
                assert_eq!(head.field("etag"), etag);
                let from = format!("bytes {}-", self.bytes.len());
                assert!(head.field("content-range").starts_with(&from), "{head:?}");
            }
        }
        self.bytes.extend_from_slice(&bytes);
        whole
    }
}

fn cut_after(bytes: u64) -> Flow {
    Flow {
        fault: Some(Fault::CutAfter(bytes)),
        ..Flow::default()
    }
}

#[tokio::test]
async fn a_download_cut_a_hundred_times_is_exact() {
    const CUTS: u32 = 100;
    let mut server = serving(6_000_000).await;
    let whole = server.bytes(SINCE).await;
    let proxy = Proxy::start(server.address(), Flow::default(), Flow::default()).await;
    let mut dice = Dice::new(71);
    let mut download = Download::default();
    // Three quarters arrive in a hundred pieces; of some connections not even the head passes.
    let most = 3 * whole.len() as u64 / u64::from(2 * CUTS);
    for cut in 0..CUTS {
        if cut % 10 == 5 {
            server.kill().await;
            server.restart().await;
        }
        proxy.set(Flow::default(), cut_after(dice.within(0..most)));
        let version = Version::ALL[cut as usize % 2];
        // Over HTTP/2 the proxy may cut before the connection is established.
        let Ok(mut client) = Client::try_open(proxy.address(), version).await else {
            continue;
        };
        let ended = download.take(client.exchange(&download.request()).await);
        assert!(!ended, "cut {cut} cuts");
    }
    assert!(
        download.bytes.len() > whole.len() / 4,
        "more than a quarter arrives in pieces"
    );
    proxy.set(Flow::default(), Flow::default());
    let mut client = Client::open(proxy.address(), Version::Http1).await;
    assert!(download.take(client.exchange(&download.request()).await));
    assert_eq!(sha256(&download.bytes), sha256(&whole));
}

#[tokio::test]
async fn a_server_killed_within_a_download_leaves_what_came_exact() {
    // More than sockets buffer, so that a client that does not read blocks the server.
    let mut server = serving(48_000_000).await;
    let whole = server.bytes(SINCE).await;
    let mut download = Download::default();
    for version in [Version::Http1, Version::Http2, Version::Http1] {
        let mut client = server.client(version).await;
        client.begin(&download.request()).await.unwrap();
        assert!(client.interim().await.is_none(), "the head has come");
        server.kill().await;
        let ended = download.take(client.response().await);
        assert!(
            !ended,
            "the server was killed before it had sent everything"
        );
        server.restart().await;
    }
    let rest = server.try_request(&download.request()).await;
    assert!(download.take(rest));
    assert_eq!(sha256(&download.bytes), sha256(&whole));
}

#[tokio::test]
async fn curl_continues_an_archive_from_a_server_that_dies() {
    let mut server = serving(4_000_000).await;
    let whole = server.bytes(SINCE).await;
    let proxy = Proxy::start(server.address(), Flow::default(), Flow::default()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("archive");
    let mut dice = Dice::new(72);
    let mut cuts = 0;
    loop {
        let most = whole.len() as u64 / 6;
        proxy.set(Flow::default(), cut_after(dice.within(1000..most)));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--max-time", "25"])
            .args(["--continue-at", "-", "--output"])
            .arg(&file)
            .arg(format!("http://{}{SINCE}", proxy.address()))
            .kill_on_drop(true);
        let output = within(Duration::from_secs(30), "curl ends", curl.output()).await;
        if output.unwrap().status.success() {
            break;
        }
        cuts += 1;
        assert!(cuts < 60, "each attempt makes progress");
        if cuts % 3 == 0 {
            server.kill().await;
            server.restart().await;
        }
    }
    assert!(cuts >= 6, "a sixth at most passes at a time");
    assert_eq!(sha256(&std::fs::read(&file).unwrap()), sha256(&whole));
}

/// Number of versions that are published while clients download.
const VERSIONS: u32 = 12;
/// Minimum number of downloads between two publications.
const DOWNLOADS: u32 = 30;
/// Number of versions that exist at the same time.
const KEPT: u32 = 3;
const CLIENTS: u32 = 50;

/// Builds the tree of a version: most of it equals the previous version, and some of it an older
/// one.
fn edition(number: u32) -> Files {
    let mut files = Files::default();
    for file in 0..120_u32 {
        // Every file changes every few versions; every fifth one returns to an earlier content.
        let state = (number + file) / 6;
        let state = if file % 5 == 0 { state % 3 } else { state };
        let size = (file * file * 7) % 30_000;
        let bytes = match file % 2 {
            0 => Content::new(u64::from(1000 * state + file), size.into()).bytes(),
            _ => format!("{file} in {state};")
                .repeat(size as usize / 9)
                .into(),
        };
        files.0.insert(format!("{:02}/{file}", file % 9), bytes);
    }
    let large = Content::new(u64::from(9_000_000 + number), 1_100_000);
    files.0.insert("large".to_owned(), large.bytes());
    files
}

fn digests(files: &Files) -> BTreeSet<String> {
    files.0.values().map(|bytes| sha256(bytes)).collect()
}

/// Archives as clients received them, by entity tag.
#[derive(Default)]
struct Seen {
    whole: BTreeMap<String, Bytes>,
    cut: Vec<(String, Bytes)>,
    downloads: u32,
}

/// An archive that a client requests.
#[derive(Clone, Copy)]
struct Wish {
    version: u32,
    base: Option<u32>,
    extension: &'static str,
}

impl Wish {
    /// Chooses a version around the newest, which may not exist yet, or not any more.
    fn throw(dice: &mut Dice, newest: u32) -> Self {
        let around = |dice: &mut Dice| {
            let offset = u32::try_from(dice.within(0..6)).unwrap();
            (newest + offset).saturating_sub(4).max(1)
        };
        let version = around(dice);
        let base = around(dice);
        Self {
            version,
            base: (base != version && dice.within(0..3) > 0).then_some(base),
            extension: if dice.within(0..2) == 0 { "zip" } else { "tar" },
        }
    }

    fn target(self) -> String {
        let Self {
            version,
            base,
            extension,
        } = self;
        match base {
            None => format!("/packs/pack/versions/{version}/archive.{extension}"),
            Some(base) => format!("/packs/pack/versions/{version}/since/{base}.{extension}"),
        }
    }

    /// Checks that a complete archive holds exactly the published files.
    fn check(self, archive: &Bytes) {
        let found = match self.extension {
            "zip" => Files::from_zip(archive),
            _ => Files::from_tar(archive),
        };
        let tree = edition(self.version);
        let Some(base) = self.base else {
            assert!(found == tree, "{}", self.target());
            return;
        };
        for (path, bytes) in &found.0 {
            assert!(tree.0[path] == *bytes, "{}: {path}", self.target());
        }
        let held = digests(&edition(base));
        let needed: BTreeSet<String> = digests(&tree).difference(&held).cloned().collect();
        assert_eq!(digests(&found), needed, "{}", self.target());
    }
}

/// Downloads one archive after another until everything is published.
async fn download_all(
    server: Arc<TestServer>,
    client: u32,
    newest: watch::Receiver<u32>,
    seen: Arc<Mutex<Seen>>,
) {
    let mut dice = Dice::new(u64::from(80 + client));
    let version = Version::ALL[client as usize % 2];
    let mut connection = server.client(version).await;
    while *newest.borrow() < VERSIONS {
        let wish = Wish::throw(&mut dice, *newest.borrow());
        let outcome = connection.exchange(&Request::get(wish.target())).await;
        match outcome {
            Ok(answer) if answer.status() == 200 => {
                let etag = answer.field("etag").to_owned();
                let first = {
                    let mut seen = seen.lock().unwrap();
                    seen.downloads += 1;
                    let known = seen.whole.insert(etag, answer.body.clone());
                    if let Some(known) = &known {
                        assert!(*known == answer.body, "{} differs", wish.target());
                    }
                    known.is_none()
                };
                if first {
                    wish.check(&answer.body);
                }
            }
            Ok(answer) => {
                answer.expect(404).problem();
            }
            Err(cut) => {
                if let Some((head, bytes)) = cut.partial {
                    assert_eq!(head.status, 200, "{head:?}");
                    let etag = head.field("etag").to_owned();
                    seen.lock().unwrap().cut.push((etag, bytes));
                }
                connection = server.client(version).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_downloaded_while_versions_come_and_go_is_exact() {
    // Nothing is kept for downloads in progress: the harshest setting of a server.
    let server = TestServer::setup()
        .config("[cleanup]\ninterval = '20ms'\ndelete_after = '0s'")
        .start()
        .await;
    let server = Arc::new(server);
    let (tell, newest) = watch::channel(0);
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(download_all(
            Arc::clone(&server),
            client,
            newest.clone(),
            Arc::clone(&seen),
        ));
    }
    for number in 1..=VERSIONS {
        let version = server.publish("pack", &edition(number)).await;
        assert_eq!(version["version"], number);
        if number > KEPT {
            let retired = format!("/packs/pack/versions/{}", number - KEPT);
            server.request(Request::delete(retired)).await.expect(204);
        }
        tell.send(number).unwrap();
        eventually("the clients download", || async {
            let downloads = seen.lock().unwrap().downloads;
            (downloads >= number * DOWNLOADS).then_some(())
        })
        .await;
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }

    let seen = seen.lock().unwrap();
    for (etag, part) in &seen.cut {
        if let Some(whole) = seen.whole.get(etag) {
            assert!(whole.starts_with(part), "what came before a cut is wrong");
        }
    }
    assert!(!server.log().contains("panicked"));
}

#[tokio::test]
async fn a_download_whose_version_is_deleted_meanwhile_is_cut_and_not_wrong() {
    const FILES: u32 = 40;
    let mut server = TestServer::setup()
        .config("[cleanup]\ninterval = '20ms'\ndelete_after = '0s'")
        .start()
        .await;
    server
        .publish("pack", &Files::new([("stays", &b"the same"[..])]))
        .await;
    // Each file is a separate blob, and together they exceed what sockets buffer and the server
    // keeps open.
    let large = |number: u32| Content::new(u64::from(90 + number), 1_300_000).bytes();
    let files = (0..FILES).map(|number| (format!("{number:02}"), large(number)));
    server.publish("pack", &files.collect()).await;
    let targets = ["archive.zip", "archive.tar", "since/1.zip", "since/1.tar"]
        .map(|name| format!("/packs/pack/versions/2/{name}"));
    let mut wholes = Vec::new();
    for target in &targets {
        wholes.push(server.bytes(target).await);
    }
    // The new process has no blob open.
    server.kill().await;
    server.restart().await;
    let mut begun = Vec::new();
    for (target, whole) in targets.iter().zip(&wholes) {
        for version in Version::ALL {
            let mut client = server.client(version).await;
            client.begin(&Request::get(target)).await.unwrap();
            assert!(client.interim().await.is_none(), "the head has come");
            begun.push((client, whole));
        }
    }
    let before = server.blobs().len();
    let retired = Request::delete("/packs/pack/versions/2");
    server.request(retired).await.expect(204);
    eventually("the blobs are deleted", || async {
        (server.blobs().len() + FILES as usize <= before).then_some(())
    })
    .await;
    for (mut client, whole) in begun {
        let cut = client
            .response()
            .await
            .expect_err("most of the body is lost");
        let (head, part) = cut.partial.expect("the answer had begun");
        assert_eq!(head.field("content-length"), whole.len().to_string());
        assert!(part.len() < whole.len() && whole.starts_with(&part));
    }
    for target in &targets {
        server.request(Request::get(target)).await.expect(404);
    }
}
