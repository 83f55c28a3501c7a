//! One request to one node. Every step is bounded in time, because nodes vanish and fall silent.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tests::{Client, Cut, Dice, Request, Response, Version};
use tokio::time::timeout;

/// Longest time that a client waits for any step before it gives up the connection.
pub(crate) const SILENCE: Duration = Duration::from_secs(8);

/// Waits 100 to 400 ms, after a lost connection or an answer that asks to come back later.
pub(crate) async fn back_off(dice: &mut Dice) {
    tokio::time::sleep(Duration::from_millis(dice.within(100..400))).await;
}

/// Chooses a version of HTTP.
pub(crate) fn version(dice: &mut Dice) -> Version {
    match dice.within(0..2) {
        0 => Version::Http1,
        _ => Version::Http2,
    }
}

/// Connects to `node`.
pub(crate) async fn connect(node: SocketAddr, version: Version) -> Result<Client, Cut> {
    bounded(Client::try_open(node, version)).await
}

/// Sends a request with its body and reads the answer.
pub(crate) async fn call(
    node: SocketAddr,
    version: Version,
    request: &Request,
) -> Result<Response, Cut> {
    let mut client = connect(node, version).await?;
    answered(client.exchange(request)).await
}

/// Awaits the answer of `exchange`; one that takes longer than `SILENCE` counts as cut.
pub(crate) async fn answered(
    exchange: impl Future<Output = Result<Response, Cut>>,
) -> Result<Response, Cut> {
    match timeout(SILENCE, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(lost("silence")),
    }
}

/// Awaits `step`; one that fails or takes longer than `SILENCE` counts as cut.
pub(crate) async fn bounded<T>(step: impl Future<Output = io::Result<T>>) -> Result<T, Cut> {
    match timeout(SILENCE, step).await {
        Ok(outcome) => outcome.map_err(|error| lost(&error.to_string())),
        Err(_) => Err(lost("silence")),
    }
}

fn lost(how: &str) -> Cut {
    Cut {
        interim: Vec::new(),
        partial: None,
        how: how.to_owned(),
    }
}
