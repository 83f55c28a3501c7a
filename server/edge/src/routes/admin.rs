//! Requests of operators and their machines, on a listener of its own. No request needs a
//! credential.

mod events;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRef, State};
use axum::routing::get;
use axum::{Json, Router, middleware};
use domain::Health;
use domain::health::NotReady;
use domain::webhooks::DeadLetters;
use protocol::problem::Problem;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use super::host;
use crate::hosts::Hosts;
use crate::problem::{self, Failure, Missing, kinds};
use transport::{InvalidAddress, ListenAddress};

/// Default port for operators, one below the port for clients.
const DEFAULT_PORT: u16 = 8079;

/// Admin listener. It requires no credential: let only this machine or a private network reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port of `/livez`, `/readyz` and `/events/dead`, in cleartext, or `off`. Each
    /// server on a machine needs its own.
    pub listen: AdminAddress,
    /// Answer every client that reaches the listener, without a credential. Required if `listen` is
    /// not a loopback address; set it only on a private network.
    pub open: bool,
    /// Host names of `/events/dead`, without a port, such as `longhaul.example.org`. Addresses,
    /// `localhost` and names without a dot always work; `/livez` and `/readyz` accept every name.
    /// Other names are refused, because a web page could point its own name to this listener.
    pub hosts: Vec<String>,
}

/// Address of the admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String", inline, extend("format" = "address"))]
pub enum AdminAddress {
    /// Nowhere.
    Off,
    /// There.
    At(ListenAddress),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: AdminAddress::At(ListenAddress::loopback(DEFAULT_PORT)),
            open: false,
            hosts: Vec::new(),
        }
    }
}

impl AdminAddress {
    /// Returns the address, unless the listener is off.
    pub fn address(self) -> Option<ListenAddress> {
        match self {
            Self::Off => None,
            Self::At(address) => Some(address),
        }
    }
}

/// Error for a text that is neither an address nor `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}; or `off`")]
pub struct InvalidAdminAddress(InvalidAddress);

impl std::str::FromStr for AdminAddress {
    type Err = InvalidAdminAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            text => ListenAddress::parse(text, DEFAULT_PORT)
                .map(Self::At)
                .map_err(InvalidAdminAddress),
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Serialize for AdminAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AdminAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        transport::text_or_port(deserializer, str::parse)
    }
}

/// Services that the handlers use.
#[derive(Debug, Clone, FromRef)]
pub struct Admin {
    /// State of the server and its stores.
    pub health: Health,
    /// Dead events.
    pub dead_letters: DeadLetters,
    /// Host names that give access to more than the state.
    pub hosts: Arc<Hosts>,
}

/// Returns the settings of the listener: few connections, and no request is worth waiting for at
/// shutdown.
pub fn transport() -> transport::Config {
    transport::Config {
        max_connections: 64,
        drain_grace: Duration::from_secs(1),
        ..transport::Config::default()
    }
}

/// Returns the routes of the listener.
pub fn router(admin: Admin) -> Router {
    let hosts = Arc::clone(&admin.hosts);
    // An orchestrator probes these under its own name for the server.
    let probes = Router::new()
        .route("/livez", get(live))
        .route("/readyz", get(ready));
    let router = events::router()
        .fallback(no_such_resource)
        .layer(middleware::from_fn_with_state(hosts, host::check_admin))
        .merge(probes)
        .method_not_allowed_fallback(problem::no_such_method)
        .with_state(admin);
    super::told(router)
}

/// Answers that the process lives: every task that it needs runs.
async fn live(State(health): State<Health>) -> Result<Json<Value>, Failure> {
    health.live().map_err(|ended| {
        let detail = format!("The process is about to end, since {ended}.");
        Problem::new(kinds::NOT_LIVE).detailed(detail)
    })?;
    Ok(Json(json!({ "status": "live" })))
}

async fn ready(State(health): State<Health>) -> Result<Json<Value>, Failure> {
    health.ready().await?;
    Ok(Json(json!({ "status": "ready" })))
}

impl From<NotReady> for Failure {
    fn from(not_ready: NotReady) -> Self {
        let detail = format!("{}.", kinds::capitalised(&not_ready.to_string()));
        let problem = Problem::new(kinds::NOT_READY).detailed(detail);
        match not_ready {
            NotReady::Draining => problem.into(),
            NotReady::Stores(stores) => problem.with("stores", stores).into(),
        }
    }
}

async fn no_such_resource() -> Failure {
    Missing::AdminPath.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for (text, read) in [
            ("off", "off"),
            ("127.0.0.1:81", "127.0.0.1:81"),
            ("[::]:0", "[::]:0"),
            ("81", "127.0.0.1:81"),
            (":81", ":81"),
            ("localhost", "localhost:8079"),
        ] {
            let address: AdminAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), read);
        }
        for text in ["", "on", "OFF", "nowhere:81"] {
            let refused = text.parse::<AdminAddress>().unwrap_err().to_string();
            assert!(refused.ends_with("or `off`"), "{text}: {refused}");
        }
    }

    #[test]
    fn its_transport_is_one_that_can_be_served() {
        transport().check().unwrap();
    }
}
