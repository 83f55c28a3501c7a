//! Asking a running server on its admin listener.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Client, redirect};

use crate::config::Config;

/// Where this machine reaches the admin listener of a server with this configuration: the URL without a slash at the end.
pub(super) fn url(config: &Config) -> anyhow::Result<String> {
    let address =
        config.admin.listen.address().context(
            "the admin listener is off (`admin.listen`), so there is nothing to be asked",
        )?;
    Ok(format!("http://{}", reachable(address)))
}

/// Speaks to the listener, and gives each request so long.
pub(super) fn client(limit: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .timeout(limit)
        .no_proxy()
        .redirect(redirect::Policy::none())
        // The admin listener speaks cleartext, and the system may have no certificates at all.
        .tls_certs_only([])
        .build()
}

/// Where this machine reaches a listener at `address`: one that listens everywhere also listens on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_everywhere_is_asked_on_loopback() {
        for (listens, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9090", "[::1]:9090"),
            ("192.0.2.1:9090", "192.0.2.1:9090"),
        ] {
            let listens = listens.parse().unwrap();
            assert_eq!(reachable(listens).to_string(), asked);
        }
    }
}
