//! One request to one node, with a bound on everything, since nodes vanish and fall silent.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tests::{Client, Cut, Dice, Request, Response, Version};
use tokio::time::timeout;

/// How long a client waits for anything before it gives a connection up.
pub(crate) const SILENCE: Duration = Duration::from_secs(8);

/// How long a client waits after it has lost a connection, or was told to come back.
pub(crate) async fn back_off(dice: &mut Dice) {
    tokio::time::sleep(Duration::from_millis(dice.within(100..400))).await;
}

/// A version of HTTP.
pub(crate) fn version(dice: &mut Dice) -> Version {
    match dice.within(0..2) {
        0 => Version::Http1,
        _ => Version::Http2,
    }
}

/// Connects.
pub(crate) async fn connect(node: SocketAddr, version: Version) -> Result<Client, Cut> {
    bounded(Client::try_open(node, version)).await
}

/// Sends a whole request and reads its answer.
pub(crate) async fn call(
    node: SocketAddr,
    version: Version,
    request: &Request,
) -> Result<Response, Cut> {
    let mut client = connect(node, version).await?;
    answered(client.exchange(request)).await
}

/// What `exchange` says, if it says it in time.
pub(crate) async fn answered(
    exchange: impl Future<Output = Result<Response, Cut>>,
) -> Result<Response, Cut> {
    match timeout(SILENCE, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(lost("silence")),
    }
}

/// What `step` comes to, if it comes in time.
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
