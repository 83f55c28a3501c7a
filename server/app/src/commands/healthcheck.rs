//! `longhaul healthcheck`: whether the server of this configuration works.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::redirect;
use serde_json::Value;

use crate::config::{Config, Flags};

/// Longer than the server takes to find out that a store does not answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Ask the running server whether it is ready, for containers without curl
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul healthcheck                            asks /readyz on 127.0.0.1:9090
  longhaul healthcheck --config longhaul.toml     asks where a server started the same way answers

Exits with 0 if the server is ready, with 1 and the reason if it is not.")]
pub struct Args {
    #[command(flatten)]
    flags: Flags,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.flags)?;
        let address = config.admin.listen.address().context(
            "the admin listener is off (`admin.listen`), so there is nothing to be asked",
        )?;
        super::block_on(ask(&format!("http://{}/readyz", reachable(address))))
    }
}

/// Fails with the words of the server's problem document where there is one.
async fn ask(url: &str) -> anyhow::Result<()> {
    let client = reqwest::Client::builder()
        .timeout(LIMIT)
        .no_proxy()
        .redirect(redirect::Policy::none())
        // The admin listener speaks cleartext, and the system may have no certificates at all.
        .tls_certs_only([])
        .build()?;
    let answer = client
        .get(url)
        .send()
        .await
        .context("the server does not answer")?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let problem: Value = answer.json().await.unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("It does not say why.");
    anyhow::bail!("the server is not ready ({status} from {url}): {detail}")
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
