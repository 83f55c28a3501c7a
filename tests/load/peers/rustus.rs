//! rustus from crates.io, built once into `target/peers`.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

const VERSION: &str = "0.5.10";

/// Starts rustus with the same syncing as Longhaul. Returns its process and the port.
pub(crate) fn start(directory: &Path, root: &Path) -> anyhow::Result<(Child, u16)> {
    let program = install(root)?;
    // Free now, and no other program on this machine looks for a port.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new(program)
        .args([
            "--host",
            "127.0.0.1",
            "--url",
            "/files",
            "--force-fsync",
            "true",
        ])
        .args(["--workers", "2", "--max-body-size", "2147483648"])
        .args(["--port", &port.to_string()])
        .arg("--data-dir")
        .arg(directory.join("data"))
        .arg("--info-dir")
        .arg(directory.join("info"))
        .args(["--log-level", "ERROR"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .context("failed to start rustus")?;
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok((child, port));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("rustus does not listen");
}

fn install(root: &Path) -> anyhow::Result<PathBuf> {
    let program = root.join("bin/rustus");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .args(["install", "rustus", "--version", VERSION, "--locked"])
            .arg("--root")
            .arg(root)
            .status()
            .context("failed to run cargo")?;
        ensure!(
            status.success(),
            "rustus {VERSION} cannot be built; name other peers with `--peer`"
        );
    }
    Ok(program)
}
