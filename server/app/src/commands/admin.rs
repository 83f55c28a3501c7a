//! Asking a running server on its admin listener.

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
    Ok(format!("http://{}", address.connect_address()))
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
