//! Life of the process: its start, the failures that it survives, the configuration that it
//! reloads.

use std::fs::File;
use std::future::ready;
use std::io::{PipeReader, Read as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use rustix::process::Signal;
use tests::server::program;
use tests::{
    Blobs, Client, Content, Metadata, PATIENCE, Process, Request, TestServer, Version, eventually,
    skip, within,
};

use crate::access::{KEY, WITH_KEY};
use crate::dialect::Dialect;
use crate::full_disk::SmallDisk;
use crate::resume::begin;
use crate::uploads::assert_file;

/// State of standard error.
#[derive(Debug, Clone, Copy)]
enum Log {
    /// The reader is gone: each write fails.
    Gone,
    /// The disk is full: each write fails.
    Full,
    /// The reader does not read: writes block for ever.
    Stuck,
}

/// A server whose log cannot be read, so that it is reachable only by its socket.
struct Unheard {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    _data: tempfile::TempDir,
    _stuck: Option<PipeReader>,
}

impl Unheard {
    fn start(log: Log) -> Self {
        let (stderr, stuck): (Stdio, _) = match log {
            Log::Full => (File::create("/dev/full").unwrap().into(), None),
            Log::Gone => (std::io::pipe().unwrap().1.into(), None),
            Log::Stuck => {
                let (reader, writer) = std::io::pipe().unwrap();
                (writer.into(), Some(reader))
            }
        };
        let data = tempfile::tempdir().unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        // Stays free unless another program gets it, and the kernel reuses it last.
        let admin = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let address = socket.local_addr().unwrap();
        let passed = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$0\" \"$@\"";
        let child = Command::new("sh")
            .args(["-c", passed])
            .arg(program())
            .env_clear()
            // At this level every request logs many lines.
            .env("LONGHAUL_LOG__LEVEL", "trace")
            .args(["serve", "--admin", &admin.to_string(), "--data"])
            .arg(data.path())
            .stdin(OwnedFd::from(socket))
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        Self {
            child,
            address,
            admin,
            _data: data,
            _stuck: stuck,
        }
    }

    async fn request(&self, request: &Request) -> u16 {
        let mut client = Client::open(self.address, Version::Http1).await;
        client.exchange(request).await.unwrap().status()
    }

    async fn asked(&self, path: &str) -> u16 {
        let mut client = Client::open(self.admin, Version::Http1).await;
        client.exchange(&Request::get(path)).await.unwrap().status()
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        // Both fail only if the program has ended, as it should.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn ended(child: &mut Child) -> ExitStatus {
    eventually("it ends", || ready(child.try_wait().unwrap())).await
}

#[tokio::test]
async fn a_log_that_cannot_be_written_stops_nothing() {
    for log in [Log::Gone, Log::Full, Log::Stuck] {
        let mut server = Unheard::start(log);
        let requests = (0..200).map(|number| {
            let (path, server) = (format!("/files/{number}"), &server);
            async move {
                let put = Request::put(&path).body("hello");
                assert_eq!(server.request(&put).await, 201, "{log:?}");
                assert_eq!(server.request(&Request::get(&path)).await, 200, "{log:?}");
            }
        });
        let all = futures::future::join_all(requests);
        within(PATIENCE, "every request is answered", all).await;
        for path in ["/livez", "/readyz"] {
            assert_eq!(server.asked(path).await, 200, "{log:?} {path}");
        }
        Process::of(&server.child).signal(Signal::TERM);
        let status = ended(&mut server.child).await;
        assert!(status.success(), "{log:?}: {status}");
    }
}

/// Holds for failures as well, which the program would report.
#[tokio::test]
async fn a_program_that_nobody_listens_to_ends_all_the_same() {
    let (reader, writer) = std::io::pipe().unwrap();
    let filled = writer.try_clone().unwrap();
    rustix::io::ioctl_fionbio(&filled, true).unwrap();
    while rustix::io::write(&filled, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&filled, false).unwrap();
    let mut child = Command::new(program())
        .env_clear()
        .args(["serve", "--config", "/no/such/file"])
        .stderr(writer)
        .spawn()
        .unwrap();
    let status = ended(&mut child).await;
    assert_eq!(status.code(), Some(1));
    drop(reader);
}

fn longhaul(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.env_clear().args(arguments);
    command
}

fn standard_error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    for arguments in [
        ["config"].as_slice(),
        &["config", "--effective"],
        &["hash-key", "laptop"],
        &["--help"],
    ] {
        let output = longhaul(arguments)
            .stdout(std::io::pipe().unwrap().1)
            .stderr(Stdio::piped())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert_eq!(standard_error(&output), "", "{arguments:?}");
    }
}

const OTHER_KEY: &str = "another-test-key";
const WITH_OTHER_KEY: &str = r#"
[access]
keys = [{ name = "other", sha256 = "b620d22023a45e2df6fcaf075d1d1a1a90351f82b043031e878f25652c10da48" }]
"#;

/// Waits until the log contains `text` at least `times` times.
async fn logged(server: &TestServer, text: &str, times: usize) {
    eventually(text, async || {
        (server.log().matches(text).count() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_takes_up_keys_and_level_without_dropping_anyone() {
    let mut server = TestServer::setup().config(WITH_KEY).start().await;
    let list = |key: &str| Request::get("/files").bearer(key);
    let content = Content::new(97, 300_000);
    let put = Request::put("/files/a")
        .bearer(KEY)
        .announcing(content.length());
    let mut uploading = server.client(Version::Http1).await;
    uploading.begin(&put).await.unwrap();
    uploading.send(&content.slice(0..100_000)).await.unwrap();
    uploading.drained().await;
    let mut idle = server.client(Version::Http1).await;
    idle.exchange(&list(KEY)).await.unwrap().expect(200);

    let other = format!("{WITH_OTHER_KEY}\n[log]\nlevel = \"debug\"\n[http]\ndrain_delay = \"1h\"");
    server.reconfigure(&other);
    logged(&server, "the configuration was read again", 1).await;
    assert!(
        server.log().contains("access.keys, log.level"),
        "{}",
        server.log()
    );
    // A setting that cannot change at run time is named, and keeps its value.
    logged(&server, "taken up at the next start", 1).await;
    assert!(
        server.log().contains("\"http.drain_delay\""),
        "{}",
        server.log()
    );
    // The same connection with another key.
    idle.exchange(&list(KEY)).await.unwrap().expect(401);
    idle.exchange(&list(OTHER_KEY)).await.unwrap().expect(200);
    // A request that was admitted before continues.
    uploading.send(&content.from(100_000)).await.unwrap();
    uploading.response().await.unwrap().expect(201);
    let get = Request::get("/files/a").bearer(OTHER_KEY);
    content.assert_is(&server.request(get).await.expect(200).body);

    for (number, wrong) in [
        "[access]\nkeys = []\nopne = true",
        "listen = ",
        "[log]\nlevel = \"loud\"",
        "[tls]\ncert = \"/no/such/file\"",
    ]
    .iter()
    .enumerate()
    {
        server.reconfigure(wrong);
        logged(&server, "all stays as it is", number + 1).await;
        server.request(list(OTHER_KEY)).await.expect(200);
        server.request(Request::get("/files")).await.expect(401);
    }
    server.terminate();
    assert!(server.ended(PATIENCE).await.success());
}

#[tokio::test]
async fn a_first_key_closes_an_open_server_and_the_last_does_not_open_one_to_others() {
    let mut server = TestServer::setup()
        .config("[log]\nlevel = \"info\"")
        .start()
        .await;
    server.request(Request::get("/files")).await.expect(200);
    server.reconfigure(WITH_KEY);
    logged(&server, "the configuration was read again", 1).await;
    server.request(Request::get("/files")).await.expect(401);

    let mut public = TestServer::setup()
        .listen("0.0.0.0:0")
        .config(WITH_KEY)
        .start()
        .await;
    public.reconfigure("[access]\nkeys = []");
    logged(&public, "all stays as it is", 1).await;
    public.request(Request::get("/files")).await.expect(401);
    public
        .request(Request::get("/files").bearer(KEY))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_new_certificate_is_taken_up_at_once_and_a_broken_one_is_not() {
    let server = TestServer::setup().tls().start().await;
    let mut connected = server.client(Version::Http1).await;
    let (certificate, key) = (server.authority().certificate(), server.authority().key());
    let fresh = tempfile::tempdir().unwrap();
    let renewed = tests::Authority::create(fresh.path());
    std::fs::copy(renewed.certificate(), certificate).unwrap();
    std::fs::copy(renewed.key(), key).unwrap();
    server.process().signal(Signal::HUP);
    logged(&server, "new certificate loaded", 1).await;
    let mut client = Client::open_tls(server.address(), Version::Http1, &renewed).await;
    let list = Request::get("/files");
    client.exchange(&list).await.unwrap().expect(200);
    connected.exchange(&list).await.unwrap().expect(200);

    std::fs::write(certificate, "no certificate").unwrap();
    server.process().signal(Signal::HUP);
    logged(&server, "keeping the old one", 1).await;
    let mut client = Client::open_tls(server.address(), Version::Http1, &renewed).await;
    client.exchange(&list).await.unwrap().expect(200);
}

#[tokio::test]
async fn variables_of_kubernetes_and_of_others_stop_no_start() {
    let server = TestServer::setup()
        .environment("LONGHAUL_API_SERVICE_HOST", "10.0.0.2")
        .environment("LONGHAUL_API_PORT_8080_TCP", "tcp://10.0.0.2:8080")
        .environment("LONGHAUL_SERVER_PORT", "tcp://10.0.0.3:80")
        .environment("LONGHAUL_BIN", "target/debug/longhaul")
        .start()
        .await;
    let log = server.log();
    assert!(log.contains("LONGHAUL_BIN is no setting"), "{log}");
    assert!(
        !log.contains("SERVICE_HOST") && !log.contains("PORT"),
        "{log}"
    );

    for (variable, meant) in [
        ("LONGHAUL_ACCESS_KEYS", "LONGHAUL_ACCESS__KEYS"),
        ("LONGHAUL_ACCESS__KEY", "`access.keys`"),
        ("LONGHAUL_LISTNE", "LONGHAUL_LISTEN"),
    ] {
        let setup = TestServer::setup().environment(variable, "[]");
        let (status, said) = setup.refuse().await;
        assert_eq!(status.code(), Some(1));
        assert!(said.contains(&format!("did you mean {meant}?")), "{said}");
    }
}

/// Returns the listening addresses in the server's log.
fn addresses(server: &TestServer) -> Vec<SocketAddr> {
    let log = server.log();
    let events = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events
        .filter(|event| event["message"] == "listening")
        .map(|event| {
            event["url"].as_str().unwrap()["http://".len()..]
                .parse()
                .unwrap()
        })
        .collect()
}

#[tokio::test]
async fn an_address_to_listen_on_is_written_in_many_ways() {
    let has_ipv6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if !has_ipv6 {
        skip(
            "an_address_to_listen_on_is_written_in_many_ways",
            "there is no IPv6: the IPv4 part is tested alone",
        );
    }
    let list = Request::get("/files").bearer(KEY);
    for (written, is_both) in [("localhost:0", true), (":0", true), ("0", false)] {
        let server = TestServer::setup()
            .config(WITH_KEY)
            .listen(written)
            .start()
            .await;
        let port = addresses(&server)[0].port();
        for ip in ["127.0.0.1", "::1"] {
            let address = SocketAddr::new(ip.parse().unwrap(), port);
            let expected = ip == "127.0.0.1" || (is_both && has_ipv6);
            let connected = tokio::net::TcpStream::connect(address).await.is_ok();
            assert_eq!(connected, expected, "{written} {ip}");
            if expected {
                let mut client = Client::open(address, Version::Http1).await;
                client.exchange(&list).await.unwrap().expect(200);
            }
        }
    }
    // The file and the environment configure it as well.
    for setup in [
        TestServer::setup().config("[admin]\nlisten = 0"),
        TestServer::setup().environment("LONGHAUL_HTTP__KEEP_ALIVE_TIMEOUT", "90s"),
    ] {
        setup
            .start()
            .await
            .request(Request::get("/files"))
            .await
            .expect(200);
    }
}

#[tokio::test]
async fn a_start_that_fails_says_what_to_do() {
    let first = TestServer::start().await;
    let taken = first.address().to_string();
    let (_, said) = TestServer::setup().listen(&taken).refuse().await;
    assert!(said.contains(&format!("{taken} is in use")), "{said}");
    assert!(said.contains("--listen ADDR"), "{said}");
    let (_, said) = TestServer::setup()
        .listen("192.0.2.1:1")
        .config(WITH_KEY)
        .refuse()
        .await;
    assert!(
        said.contains("does not have the address 192.0.2.1"),
        "{said}"
    );

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (data, expected) in [
        (file.clone(), "file is no directory"),
        (file.join("below"), "a part of the path"),
    ] {
        let (status, said) = TestServer::setup().data(&data).refuse().await;
        assert_eq!(status.code(), Some(1));
        assert!(
            said.contains(expected) && said.contains("--data DIR"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn two_servers_do_not_share_a_data_directory() {
    let first = TestServer::start().await;
    if Blobs::of_this_run() != Blobs::Fs {
        skip(
            "two_servers_do_not_share_a_data_directory",
            "the bytes are not in it",
        );
        return;
    }
    let (status, said) = TestServer::setup().data(&first.data()).refuse().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("another server uses the data directory"),
        "{said}"
    );
    assert!(said.contains("--data DIR"), "{said}");
}

#[tokio::test]
async fn a_full_disk_at_the_start_is_told() {
    let test = "a_full_disk_at_the_start_is_told";
    // Only SQLite writes at the start.
    let writes = Metadata::of_this_run() == Metadata::Sqlite;
    let Some(disk) = SmallDisk::mount(1).filter(|_| writes && Blobs::of_this_run() == Blobs::Fs)
    else {
        skip(
            test,
            "mounting a small file system is not allowed, or nothing is written to it at the start",
        );
        return;
    };
    // Fills the disk.
    let mut filler = File::create(disk.path().join("filler")).unwrap();
    std::io::copy(&mut std::io::repeat(0).take(8 << 20), &mut filler).unwrap_err();
    let data = disk.path().join("data");
    let (status, said) = TestServer::setup().data(&data).refuse().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        said.contains("no space left for the data directory"),
        "{said}"
    );
}

#[test]
fn a_configuration_is_checked_without_serving() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("longhaul.toml");
    let check = |toml: &str| {
        std::fs::write(&file, toml).unwrap();
        let file = file.to_str().unwrap();
        longhaul(&["config", "--check", "--config", file])
            .output()
            .unwrap()
    };
    let right = check("[uploads]\nmax_size = \"1 GB\"");
    assert!(right.status.success(), "{right:?}");
    assert!(
        String::from_utf8_lossy(&right.stdout).contains("is right"),
        "{right:?}"
    );
    let doubted = check("[log]\nlevel = \"info,edg=debug\"");
    assert!(doubted.status.success());
    let said = String::from_utf8_lossy(&doubted.stdout).into_owned();
    assert!(said.contains("did you mean `edge`?"), "{said}");

    for (wrong, expected) in [
        ("listen = \":8080\"", "no API key is configured"),
        (
            "[tls]\ncert = \"/no/cert.pem\"\nkey = \"/no/key.pem\"",
            "/no/cert.pem",
        ),
        ("[packs]\nsigning_key = \"/no/key.pem\"", "/no/key.pem"),
        ("[log]\nlevel = \"loud\"", "`loud` is no level"),
        ("[uploads]\nmax_size = \"large\"", "a size such as"),
    ] {
        let checked = check(wrong);
        let said = standard_error(&checked);
        assert_eq!(checked.status.code(), Some(1), "{wrong}");
        assert!(said.contains(expected), "{said}");
        // Each cause is reported once.
        let causes: Vec<_> = said.trim().split(": ").collect();
        let mut once = causes.clone();
        once.dedup();
        assert_eq!(causes, once, "{said}");
    }
}

#[tokio::test]
async fn a_key_is_asked_for_wherever_there_are_keys() {
    for setup in [
        TestServer::setup().config(WITH_KEY).argument("--open"),
        TestServer::setup()
            .config(WITH_KEY)
            .environment("LONGHAUL_ACCESS__OPEN", "true"),
        TestServer::setup().config(&format!("{WITH_KEY}open = true")),
        TestServer::setup()
            .config(WITH_KEY)
            .environment("LONGHAUL_ACCESS__KEYS", "[]"),
        TestServer::setup()
            .config(WITH_KEY)
            .environment("LONGHAUL_ACCESS__KEYS", ""),
    ] {
        let (status, said) = setup.refuse().await;
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("`access.keys` ("), "{said}");
    }
}

#[tokio::test]
async fn the_admin_listener_is_not_for_others_unless_that_is_said() {
    let (status, said) = TestServer::setup().admin("0.0.0.0:0").refuse().await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("open = true"), "{said}");
    let server = TestServer::setup()
        .admin("0.0.0.0:0")
        .config("[admin]\nopen = true")
        .start()
        .await;
    let mut client = Client::open(
        ([127, 0, 0, 1], server.admin().port()).into(),
        Version::Http1,
    )
    .await;
    client
        .exchange(&Request::get("/livez"))
        .await
        .unwrap()
        .expect(200);
}

/// A reload does not affect an upload in progress.
#[tokio::test]
async fn reading_the_configuration_again_cuts_no_upload() {
    let mut server = TestServer::setup()
        .config("[log]\nlevel = \"info\"")
        .start()
        .await;
    let content = Content::new(98, 300_000);
    let mut client = server.client(Version::Http1).await;
    begin(&mut client, Dialect::Interop6, "/files/a", content.length()).await;
    client.send(&content.slice(0..100_000)).await.unwrap();
    client.drained().await;
    for times in 1..=3 {
        server.reconfigure("[log]\nlevel = \"debug\"");
        logged(&server, "the configuration was read again", times).await;
    }
    client.send(&content.from(100_000)).await.unwrap();
    client.response().await.unwrap().expect(201);
    assert_file(&server, "/files/a", content).await;
}
