//! Requests to the admin listener of a running server.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Client, redirect};

use crate::config::Config;

/// Returns the URL, without a slash at the end, of the admin listener of a server with this
/// configuration, as this machine reaches it.
pub(super) fn url(config: &Config) -> anyhow::Result<String> {
    let address =
        config.admin.listen.address().context(
            "the admin listener is off (`admin.listen`), so there is nothing to be asked",
        )?;
    Ok(format!("http://{}", address.connect_address()))
}

/// Returns a client for the listener, with this timeout for each request.
pub(super) fn client(limit: Duration) -> reqwest::Result<Client> {
    Client::builder()
        .timeout(limit)
        .no_proxy()
        .redirect(redirect::Policy::none())
        // The admin listener speaks cleartext, and a container may have no certificates at all.
        .tls_certs_only([])
        .build()
}
