//! Every vector, in every version and over both transports, must pass in full: not even a `may`
//! remains.

use std::time::Duration;

use tests::{TestServer, within};
use tokio::process::Command;

use crate::access::{KEY, WITH_KEY};

/// Every version by name, so that a version that is no longer offered is a failure.
const VERSIONS: &str = "3,4,5,6,7,8,9,10,rfc,tus,plain";
/// Limits that are small enough for the vectors to reach.
const LIMITS: &str = r#"
[uploads]
max_size = "1 MiB"
max_append_size = "512 KiB"
min_append_size = "10 B"
"#;
/// Longest time for all cases together, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

async fn judge(server: &TestServer, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longhaul-conformance"));
    command
        .arg(server.url("/files"))
        .args(["--only", VERSIONS, "--fail-on", "may", "--vectors"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/conformance"))
        .args(arguments)
        .kill_on_drop(true);
    let output = within(PATIENCE, "the verdicts", command.output()).await;
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn the_server_as_it_comes_conforms() {
    judge(&TestServer::start().await, &[]).await;
}

#[tokio::test]
async fn a_server_with_limits_conforms() {
    let server = TestServer::setup().config(LIMITS).start().await;
    judge(&server, &[]).await;
}

#[tokio::test]
async fn a_server_with_tls_and_a_key_conforms() {
    let server = TestServer::setup().config(WITH_KEY).tls().start().await;
    let key = format!("Authorization: Bearer {KEY}");
    judge(&server, &["--insecure", "--header", &key]).await;
}
