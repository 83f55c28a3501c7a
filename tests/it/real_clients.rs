//! Unmodified curl and Node.

use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tests::{Content, Fault, Flow, PATIENCE, Proxy, Request, TestServer, within};
use tokio::process::Command;

use crate::uploads::assert_file;

const NODE_SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/it/real_clients/information.mjs"
);

/// Runs a client that is expected to end soon, with any status.
pub(crate) async fn run(command: &mut Command) -> Output {
    let output = within(
        PATIENCE,
        "the client ends",
        command.kill_on_drop(true).output(),
    )
    .await;
    output.unwrap_or_else(|error| {
        panic!("{command:?} cannot be run ({error}); tests/run installs it")
    })
}

pub(crate) fn curl() -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "25"]);
    command
}

/// Returns the position of the first `word` in curl's output.
#[track_caller]
fn position(log: &str, word: &str) -> usize {
    log.find(word)
        .unwrap_or_else(|| panic!("no {word:?} in:\n{log}"))
}

fn write(directory: &Path, content: Content) -> std::path::PathBuf {
    let file = directory.join("content");
    std::fs::write(&file, content.bytes()).unwrap();
    file
}

#[tokio::test]
async fn curl_sees_the_104_before_it_has_sent_its_body() {
    let directory = tempfile::tempdir().unwrap();
    let content = Content::new(120, 400_000);
    let file = write(directory.path(), content);
    let plain = TestServer::start().await;
    let secure = TestServer::setup().tls().start().await;
    for (server, version, status) in [
        (&plain, "--http1.1", "HTTP/1.1 104"),
        (&plain, "--http2-prior-knowledge", "HTTP/2 104"),
        (&secure, "--http1.1", "HTTP/1.1 104"),
        (&secure, "--http2", "HTTP/2 104"),
    ] {
        let mut command = curl();
        command
            .args([
                "--verbose",
                version,
                "--limit-rate",
                "400k",
                "--upload-file",
            ])
            .arg(&file)
            .args(["--header", "Upload-Draft-Interop-Version: 6"])
            .args(["--header", "Upload-Complete: ?1"])
            .args(["--header", "Expect:"])
            .arg(server.url("/files/curl"));
        if std::ptr::eq(server, &raw const secure) {
            command
                .arg("--cacert")
                .arg(server.authority().certificate());
        }
        let output = run(&mut command).await;
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        let interim = position(&log, status);
        let sent = position(&log, "We are completely uploaded and fine");
        assert!(interim < sent, "the 104 came after the body:\n{log}");
        assert!(
            log.to_ascii_lowercase().contains("location: /uploads/"),
            "{log}"
        );
        assert_file(server, "/files/curl", content).await;
    }
}

#[tokio::test]
async fn curl_completes_a_download_that_was_cut() {
    let directory = tempfile::tempdir().unwrap();
    let content = Content::new(121, 2_000_000);
    let server = TestServer::start().await;
    server
        .request(Request::put("/files/a").body(content.bytes()))
        .await
        .expect(201);
    let breaking = Flow {
        fault: Some(Fault::CutAfter(700_000)),
        ..Flow::default()
    };
    let proxy = Proxy::start(server.address(), Flow::default(), breaking).await;

    let file = directory.path().join("downloaded");
    let url = format!("http://{}/files/a", proxy.address());
    let mut cuts = 0;
    loop {
        let output = run(curl()
            .args(["--fail", "--continue-at", "-", "--output"])
            .arg(&file)
            .arg(&url))
        .await;
        if output.status.success() {
            break;
        }
        cuts += 1;
        assert!(cuts < 20, "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(cuts >= 2, "700 kB at most pass at a time");
    content.assert_is(&std::fs::read(&file).unwrap());
}

#[tokio::test]
async fn curl_posts_a_form() {
    let directory = tempfile::tempdir().unwrap();
    let content = Content::new(122, 300_000);
    let file = write(directory.path(), content);
    let server = TestServer::start().await;
    let form = format!(
        "file=@{};filename=holiday.mov;type=video/quicktime",
        file.display()
    );
    let output = run(curl()
        .args(["--fail", "--dump-header", "-", "--form"])
        .arg(form)
        .arg(server.url("/files")))
    .await;
    let answer = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{answer}");
    let location = answer.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("location: ")
            .map(str::to_owned)
    });
    let location = location.unwrap_or_else(|| panic!("no location: {answer}"));
    assert_file(&server, location.trim(), content).await;
}

#[tokio::test]
async fn node_hears_of_the_104_before_it_sends_a_byte() {
    let server = TestServer::start().await;
    for version in ["1", "2"] {
        let url = server.url(&format!("/files/node-{version}"));
        let output = run(Command::new("node").args([NODE_SCRIPT, &url, version])).await;
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        let events: Vec<Value> = said
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(events[0]["interim"], 104, "{said}{errors}");
        assert!(
            events[0]["location"]
                .as_str()
                .unwrap()
                .starts_with("/uploads/"),
            "{said}"
        );
        assert_eq!(events[1]["sent"], 50_000, "{said}");
        let last = events.last().unwrap();
        assert_eq!(last["final"], 201, "{said}{errors}");
        assert_eq!(last["complete"], "?1", "{said}");
        let get = server
            .request(Request::get(format!("/files/node-{version}")))
            .await
            .expect(200);
        assert_eq!(get.body, "x".repeat(50_000));
    }
}
