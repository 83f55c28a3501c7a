//! Unmodified clients upload over a network that breaks again and again, and resume on their own.
//! `tests/interop/install`, which `tests/run` calls, installs them from their registries.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tests::{Content, Fault, Flow, Proxy, Request, TestServer, skip, within};
use tokio::process::Command;

use crate::uploads::assert_file;

/// Longest run of a client on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
/// Bytes that pass on one connection before it is cut.
const PASSES: u64 = 700_000;
const LENGTH: u64 = 4_000_000;

/// A file to upload, and a route to the server on which every connection breaks.
struct Road {
    server: TestServer,
    proxy: Proxy,
    directory: tempfile::TempDir,
    content: Content,
}

impl Road {
    async fn new(seed: u64) -> Self {
        let server = TestServer::start().await;
        let breaking = Flow {
            fault: Some(Fault::CutAfter(PASSES)),
            ..Flow::default()
        };
        let proxy = Proxy::start(server.address(), breaking, Flow::default()).await;
        let directory = tempfile::tempdir().unwrap();
        let content = Content::new(seed, LENGTH);
        std::fs::write(directory.path().join("content"), content.bytes()).unwrap();
        Self {
            server,
            proxy,
            directory,
            content,
        }
    }

    /// Runs a client's script with the URL of `target`, the file and one more argument. Returns the
    /// last line of its output.
    async fn run(&self, mut command: Command, target: &str, last: impl Into<OsString>) -> Value {
        command
            .arg(format!("http://{}{target}", self.proxy.address()))
            .arg(self.directory.path().join("content"))
            .arg(last.into())
            .kill_on_drop(true);
        let output = within(PATIENCE, "the client ends", command.output()).await;
        let output = output.unwrap_or_else(|error| panic!("{command:?} cannot be run: {error}"));
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}\n{said}\n{errors}");
        let line = said.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|_| panic!("{command:?}\n{said}\n{errors}"))
    }

    /// Checks that the upload is complete and that its file equals the content, by bytes and by
    /// SHA-256.
    async fn assert_arrived(&self, said: &Value) {
        let upload = said["upload"].as_str().unwrap();
        let head = self.server.request(Request::head(upload)).await;
        assert_eq!(head.offset(), LENGTH, "{said} {head:?}");
        assert_file(&self.server, head.field("content-location"), self.content).await;
    }
}

/// Checks that the client was interrupted at least `times` times and resumed from the arrived
/// bytes.
#[track_caller]
fn assert_interrupted(said: &Value, times: u64) {
    assert!(
        said["interruptions"].as_u64().unwrap() >= times,
        "the network did not break: {said}"
    );
}

fn script(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "interop", name]
        .iter()
        .collect()
}

fn node(name: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(script(name));
    command
}

/// Reports whether a client is installed. A missing client is a failure, unless
/// `TESTS_WITHOUT_REGISTRIES` says that the registries cannot be reached.
fn is_installed(test: &str, path: &str) -> bool {
    let installed = [env!("CARGO_MANIFEST_DIR"), path]
        .iter()
        .collect::<PathBuf>()
        .exists();
    if !installed && std::env::var_os("TESTS_WITHOUT_REGISTRIES").is_some() {
        skip(test, "TESTS_WITHOUT_REGISTRIES is set");
        return false;
    }
    assert!(installed, "no {path}: tests/interop/install brings it");
    true
}

const JAVA: &str = ".cache/java/dependency";
const TUS_JS: &str = "interop/node_modules/tus-js-client";
const PYTHON: &str = ".cache/python/bin/python";

/// Uploads by tus-js-client with `options`, which must be interrupted at least `times` times.
async fn tus_js(road: &Road, options: Value, times: u64) {
    let mut options = options;
    options["name"] = json!("holiday.mov");
    let said = road
        .run(node("tus-js.mjs"), "/files", options.to_string())
        .await;
    assert_interrupted(&said, times);
    road.assert_arrived(&said).await;
}

#[tokio::test]
async fn tus_js_client_resumes_in_each_protocol() {
    if !is_installed("tus_js_client_resumes_in_each_protocol", TUS_JS) {
        return;
    }
    let road = Road::new(140).await;
    for protocol in ["tus-v1", "ietf-draft-03", "ietf-draft-05"] {
        tus_js(&road, json!({"protocol": protocol}), 5).await;
        let chunked = json!({"protocol": protocol, "chunkSize": 1_500_000});
        tus_js(&road, chunked, 4).await;
        let at_once =
            json!({"protocol": protocol, "chunkSize": 300_000, "uploadDataDuringCreation": true});
        tus_js(&road, at_once, 3).await;
    }
}

#[tokio::test]
async fn tus_js_client_resumes_with_the_extensions_of_tus() {
    if !is_installed("tus_js_client_resumes_with_the_extensions_of_tus", TUS_JS) {
        return;
    }
    let road = Road::new(141).await;
    tus_js(&road, json!({"overridePatchMethod": true}), 5).await;
    tus_js(&road, json!({"parallelUploads": 3}), 3).await;
    let streamed = json!({"input": "file"});
    tus_js(&road, streamed, 5).await;
    // The length is unknown only if there is no file to ask.
    let deferred = json!({"input": "stream", "uploadLengthDeferred": true, "chunkSize": 300_000});
    tus_js(&road, deferred, 3).await;
}

#[tokio::test]
async fn tus_js_client_goes_on_in_another_process() {
    if !is_installed("tus_js_client_goes_on_in_another_process", TUS_JS) {
        return;
    }
    let road = Road::new(142).await;
    for protocol in ["tus-v1", "ietf-draft-03", "ietf-draft-05"] {
        let mut options = json!({
            "name": "holiday.mov",
            "protocol": protocol,
            "chunkSize": 500_000,
            "store": road.directory.path().join(protocol),
            "leaveAt": 2_000_000,
        });
        let first = road
            .run(node("tus-js.mjs"), "/files", options.to_string())
            .await;
        options["leaveAt"] = Value::Null;
        let second = road
            .run(node("tus-js.mjs"), "/files", options.to_string())
            .await;
        assert_eq!(second["resumed"], true, "{second}");
        assert_eq!(first["upload"], second["upload"], "it is the same upload");
        road.assert_arrived(&second).await;
    }
}

#[tokio::test]
async fn tuspy_resumes() {
    if !is_installed("tuspy_resumes", PYTHON) {
        return;
    }
    let road = Road::new(143).await;
    // A request with a checksum is kept completely or not at all, so it has to pass in one piece.
    for (options, times) in [
        (json!({"name": "a.mov"}), 5),
        (json!({"name": "b.mov", "chunk_size": 1_500_000}), 4),
        (
            json!({"name": "c.mov", "chunk_size": 300_000, "upload_checksum": true}),
            0,
        ),
    ] {
        let mut python = Command::new(
            [env!("CARGO_MANIFEST_DIR"), PYTHON]
                .iter()
                .collect::<PathBuf>(),
        );
        python.arg(script("tuspy-upload.py"));
        let said = road.run(python, "/files", options.to_string()).await;
        assert_interrupted(&said, times);
        road.assert_arrived(&said).await;
    }
}

#[tokio::test]
async fn node_resumes() {
    let road = Road::new(144).await;
    for version in ["1", "2"] {
        let target = format!("/files/node-{version}");
        let said = road.run(node("node-http.mjs"), &target, version).await;
        assert_interrupted(&said, 5);
        assert_eq!(said["status"], 201, "{said}");
        road.assert_arrived(&said).await;
        assert_file(&road.server, &target, road.content).await;
    }
}

#[tokio::test]
async fn curl_resumes() {
    let road = Road::new(145).await;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let target = format!("/files/curl{version}");
        let said = road
            .run(Command::new(script("curl-upload")), &target, version)
            .await;
        assert_interrupted(&said, 5);
        assert_eq!(said["status"], 201, "{said}");
        road.assert_arrived(&said).await;
        assert_file(&road.server, &target, road.content).await;
    }
}

#[tokio::test]
async fn tus_js_client_terminates_what_is_complete() {
    if !is_installed("tus_js_client_terminates_what_is_complete", TUS_JS) {
        return;
    }
    let road = Road::new(133).await;
    let options = json!({ "name": "a", "chunkSize": 500_000, "terminate": true });
    let said = road
        .run(node("tus-js.mjs"), "/files", options.to_string())
        .await;
    let head = Request::head(said["upload"].as_str().unwrap()).field("Tus-Resumable", "1.0.0");
    road.server.request(head).await.expect(410);
    let files = road
        .server
        .request(Request::get("/files"))
        .await
        .expect(200)
        .json();
    let file = files["files"][0]["url"].as_str().unwrap();
    assert_file(&road.server, file, road.content).await;
}

/// The last request of the client carries no bytes and no length, if the file is empty or a
/// multiple of the request size.
#[tokio::test]
async fn tus_java_client_ends_files_with_nothing() {
    if !is_installed("tus_java_client_ends_files_with_nothing", JAVA) {
        return;
    }
    let server = TestServer::start().await;
    let directory = tempfile::tempdir().unwrap();
    let libraries = format!("{}/{JAVA}/*", env!("CARGO_MANIFEST_DIR"));
    for length in [0, 4_096, 5_000] {
        let content = Content::new(134, length);
        let file = directory.path().join("content");
        std::fs::write(&file, content.bytes()).unwrap();
        let mut command = Command::new("java");
        command
            .args(["-cp", &libraries])
            .arg(script("java/TusJava.java"))
            .arg(server.url("/files"))
            .arg(&file)
            .arg("2048")
            .kill_on_drop(true);
        let output = within(PATIENCE, "the client ends", command.output())
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{length} bytes: {said}\n{errors}");
        let upload = said
            .trim()
            .strip_prefix(&server.url(""))
            .unwrap_or(said.trim());
        let head = server.request(Request::head(upload)).await;
        assert_eq!(head.offset(), length);
        assert_file(&server, head.field("content-location"), content).await;
    }
}
