//! What operators and their machines ask, on a listener of its own. Nothing here asks for a credential.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use axum::extract::{FromRef, State};
use axum::routing::get;
use axum::{Json, Router};
use domain::Health;
use domain::health::NotReady;
use domain::webhooks::DeadLetters;
use protocol::problem::Problem;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::problem::{self, Failure, own};
use crate::serve;

/// The admin listener. It asks for no credential: let only this machine or a private network reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address and port of `/livez`, `/readyz` and `/events/dead`, in cleartext, or `off`. Each server on a machine needs its own.
    pub listen: AdminAddress,
}

/// Where the admin listener is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AdminAddress {
    /// Nowhere.
    Off,
    /// At this address and port; port 0 takes a free one.
    At(SocketAddr),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: AdminAddress::At(SocketAddr::from((Ipv4Addr::LOCALHOST, 9090))),
        }
    }
}

impl AdminAddress {
    /// The address, unless there is none.
    pub fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

impl std::str::FromStr for AdminAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            text => text
                .parse()
                .map(Self::At)
                .map_err(|_| "expected an address and port, such as 127.0.0.1:9090, or `off`"),
        }
    }
}

impl TryFrom<String> for AdminAddress {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AdminAddress> for String {
    fn from(address: AdminAddress) -> Self {
        match address {
            AdminAddress::Off => "off".to_owned(),
            AdminAddress::At(address) => address.to_string(),
        }
    }
}

/// What the handlers work with.
#[derive(Debug, Clone, FromRef)]
pub struct Admin {
    /// Whether the server should be sent requests.
    pub health: Health,
    /// The events that were given up.
    pub dead_letters: DeadLetters,
}

/// How the listener is served: few connections, and nothing on it is worth waiting for at the end.
pub fn transport() -> serve::Config {
    serve::Config {
        max_connections: 64,
        drain_grace: Duration::from_secs(1),
        ..serve::Config::default()
    }
}

/// The service that answers every request on the listener.
pub fn service(admin: Admin) -> Router {
    let router = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .merge(super::events::router())
        .fallback(no_such_resource)
        .method_not_allowed_fallback(problem::no_such_method)
        .with_state(admin);
    super::told(router)
}

/// The process answers, which is all that is asked.
async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

async fn ready(State(health): State<Health>) -> Result<Json<Value>, Failure> {
    health.ready().await?;
    Ok(Json(json!({ "status": "ready" })))
}

impl From<NotReady> for Failure {
    fn from(not_ready: NotReady) -> Self {
        let mut detail = not_ready.to_string();
        detail[..1].make_ascii_uppercase();
        let problem = Problem::new(own::NOT_READY).detailed(format!("{detail}."));
        match not_ready {
            NotReady::Draining => problem.into(),
            NotReady::Stores(stores) => problem.with("stores", stores).into(),
        }
    }
}

async fn no_such_resource() -> Failure {
    Problem::new(own::NOT_FOUND)
        .detailed("This is the admin listener: /livez, /readyz, /events/dead.")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in ["off", "127.0.0.1:9090", "[::]:0"] {
            let address: AdminAddress = text.parse().unwrap();
            assert_eq!(String::from(address), text);
        }
        for text in ["", "on", "9090", "localhost:9090", "OFF"] {
            assert!(text.parse::<AdminAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn its_transport_is_one_that_can_be_served() {
        transport().check().unwrap();
    }
}
