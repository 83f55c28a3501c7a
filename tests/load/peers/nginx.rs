//! nginx with its own configuration and directory, tuned favourably: large buffers for fast
//! uploads, and small ones for slow transfers, which occupy memory for long.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

/// Starts nginx. Returns its master process and the port.
pub(crate) fn start(directory: &Path) -> anyhow::Result<(Child, u16)> {
    // Free now, and no other program on this machine looks for a port.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let config = directory.join("nginx.conf");
    std::fs::create_dir_all(directory.join("files"))?;
    std::fs::write(&config, configuration(directory, port))?;
    let child = Command::new("nginx")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg("-c")
        .arg(&config)
        .arg("-e")
        .arg(directory.join("error.log"))
        .stdin(Stdio::null())
        .spawn()
        .context("failed to start nginx; Debian has it in the package nginx-light")?;
    for _ in 0..500 {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok((child, port));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!(
        "nginx does not listen; see {}",
        directory.join("error.log").display()
    );
}

fn configuration(directory: &Path, port: u16) -> String {
    let directory = directory.display();
    // Only root may set a user, and the workers need access to the data.
    let user = if rustix::process::geteuid().is_root() {
        "user root;"
    } else {
        ""
    };
    format!(
        "{user}
daemon off;
worker_processes 2;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    client_body_buffer_size 1m;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {directory};
        dav_methods PUT DELETE;
        create_full_put_path on;
        location /files/slow- {{
            client_body_buffer_size 16k;
        }}
    }}
}}
"
    )
}
