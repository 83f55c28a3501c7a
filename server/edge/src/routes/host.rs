//! Refuses requests that were sent to foreign host names.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use protocol::problem::Problem;

use crate::api::Api;
use crate::hosts::Hosts;
use crate::problem::{Failure, kinds};

/// Refuses requests for foreign host names, on a server that is open because only this machine
/// reaches it.
pub(super) async fn check(
    State(api): State<Api>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let stranger = api.local_hosts().and_then(|hosts| hosts.stranger(&request));
    match stranger {
        None => Ok(next.run(request).await),
        Some(name) => Err(Problem::new(kinds::MISDIRECTED)
            .detailed(format!(
                "The request is for the host {name}. This server asks for no key, so it answers to this machine's names \
                 only, such as localhost or 127.0.0.1. To serve {name} as well, set public_url = \"http://{name}\", give \
                 out keys (access.keys), or start the server with --open if everyone may do everything."
            ))
            .into()),
    }
}

/// Refuses requests for foreign host names, on the admin listener.
pub(super) async fn check_admin(
    State(hosts): State<Arc<Hosts>>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    match hosts.stranger(&request) {
        None => Ok(next.run(request).await),
        Some(name) => Err(Problem::new(kinds::MISDIRECTED)
            .detailed(format!(
                "The request is for the host {name}, and the admin listener answers to addresses, localhost and names \
                 without a dot only. Ask it by its address, or list the name without its port in the setting \
                 admin.hosts, such as hosts = [\"longhaul.example.org\"]."
            ))
            .into()),
    }
}
