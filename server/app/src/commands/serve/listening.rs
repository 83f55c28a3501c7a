//! Sockets of a server, and the advice for an address that cannot be bound.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use anyhow::Context as _;
use transport::{ListenAddress, ListenError, Listener};

use crate::config::Config;

/// Returns the addresses on which clients will be served.
pub(super) fn addresses(
    config: &Config,
    passed: &[TcpListener],
) -> anyhow::Result<Vec<ListenAddress>> {
    if passed.is_empty() {
        return Ok(vec![config.listen]);
    }
    let address = |socket: &TcpListener| socket.local_addr().map(ListenAddress::from);
    let addresses: Result<_, _> = passed.iter().map(address).collect();
    addresses.context("failed to read the address of a socket that was passed")
}

/// Returns the sockets for clients: the `passed` ones, or new ones on the addresses of the
/// configuration.
pub(super) fn listen(config: &Config, passed: Vec<TcpListener>) -> anyhow::Result<Vec<Listener>> {
    let tls = config.tls.listener();
    if passed.is_empty() {
        let listeners = Listener::bind_all(config.listen, tls.as_ref());
        return listeners.map_err(|error| {
            advise(error, "choose another with --listen ADDR (setting `listen`, variable LONGHAUL_LISTEN), for example --listen 8090")
        });
    }
    let listeners = passed
        .into_iter()
        .map(|socket| Listener::from_std(socket, tls.as_ref()));
    Ok(listeners.collect::<Result<_, _>>()?)
}

/// Returns the sockets of the admin listener; none if it is off.
pub(super) fn listen_for_admin(config: &Config) -> anyhow::Result<Vec<Listener>> {
    let Some(address) = config.admin.listen.address() else {
        return Ok(Vec::new());
    };
    Listener::bind_all(address, None).map_err(|error| {
        advise(
            error,
            "give the admin listener another with --admin ADDR (setting `admin.listen`, variable LONGHAUL_ADMIN__LISTEN), \
             for example --admin 8089, or switch it off with --admin off",
        )
    })
}

/// Adds advice to the error of an address that cannot be bound; `otherwise` is the flag or setting
/// that chooses another address.
fn advise(error: ListenError, otherwise: &str) -> anyhow::Error {
    let ListenError::Bind { address, source } = &error else {
        return error.into();
    };
    let advice = match source.kind() {
        ErrorKind::AddrInUse => in_use(*address),
        ErrorKind::PermissionDenied => format!(
            "this user may not listen on port {}: let systemd pass the socket (deploy/systemd), or take a port of 1024 or more",
            address.port()
        ),
        ErrorKind::AddrNotAvailable => {
            format!("this machine does not have the address {}", address.ip())
        }
        _ => return anyhow::Error::new(error).context(format!("cannot serve; {otherwise}")),
    };
    anyhow::anyhow!("{advice}; {otherwise}")
}

fn in_use(address: SocketAddr) -> String {
    format!("{address} is in use: another program, or another Longhaul, listens there. Stop it")
}
