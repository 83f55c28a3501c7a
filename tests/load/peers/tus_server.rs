//! @tus/server from npm, in the version of the conformance peers.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, ensure};

const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conformance/peers");

/// Starts @tus/server, after installing it if necessary. Returns its process and the port.
pub(crate) fn start(directory: &Path) -> anyhow::Result<(Child, u16)> {
    if !Path::new(PEERS).join("node_modules/@tus/server").exists() {
        let status = Command::new("npm")
            .args(["ci", "--no-audit", "--no-fund"])
            .current_dir(PEERS)
            .status()
            .context("failed to run npm")?;
        ensure!(status.success(), "@tus/server cannot be installed");
    }
    let mut child = Command::new("node")
        .arg(Path::new(PEERS).join("tus-server.js"))
        // It stores data in the temporary directory, and `0` means no limit.
        .env("TMPDIR", directory)
        .env("MAX_SIZE", "0")
        .env("PORT", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start node")?;
    let stdout = child.stdout.take().context("standard output is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    let port = line
        .trim()
        .trim_end_matches("/files")
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    Ok((child, port.with_context(|| format!("no port in {line:?}"))?))
}
