//! Sockets from a service manager such as systemd, and notifications to it: `sd_listen_fds(3)`,
//! `sd_notify(3)`.

use std::net::TcpListener;

use anyhow::Context as _;
use listenfd::ListenFd;
use sd_notify::NotifyState;

/// Returns the listening sockets that were passed (`LISTEN_FDS`, if `LISTEN_PID` is this process or
/// absent); usually none.
///
/// Removes the variables from the environment, so call it before other threads start.
///
/// # Errors
///
/// A passed descriptor is not a TCP socket.
pub fn sockets() -> anyhow::Result<Vec<TcpListener>> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let socket = passed.take_tcp_listener(index).context(
            "a socket that was passed (LISTEN_FDS) cannot be served; pass TCP sockets only",
        )?;
        sockets.extend(socket);
    }
    Ok(sockets)
}

/// Notifies the service manager that requests are served.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Notifies the service manager that the process is about to end.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Without `NOTIFY_SOCKET`, this does nothing.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "failed to tell the service manager");
    }
}
