//! Sends one signed message.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use domain::Clock;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response, redirect};
use url::Url;

use super::is_here;
use super::signature::{Secret, seconds, sign};
use crate::transfer::chain;

/// Timeout of connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of bytes read of an answer.
const MAX_ANSWERED: usize = 64 << 10;

/// Sender of signed messages to one URL.
#[derive(Debug)]
pub(super) struct Post {
    client: Client,
    url: Url,
    secrets: Vec<Secret>,
    timeout: Duration,
    clock: Arc<dyn Clock>,
}

impl Post {
    pub(super) fn new(
        url: Url,
        secrets: Vec<Secret>,
        timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> reqwest::Result<Self> {
        let mut builder = Client::builder()
            .user_agent(concat!("longhaul/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // The signature is for one receiver: no redirects.
            .redirect(redirect::Policy::none());
        if is_here(&url) {
            builder = builder.no_proxy();
        }
        if url.scheme() == "http" {
            // `http` needs no certificates, and a container may have none.
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            client: builder.build()?,
            url,
            secrets,
            timeout,
            clock,
        })
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Sends a message, and waits for the head of the answer. The timeout for the whole exchange
    /// starts here.
    ///
    /// # Errors
    /// The failure as text, without the URL.
    pub(super) async fn send(&self, id: &str, payload: &str) -> Result<Response, String> {
        // Receivers refuse messages that are some minutes old, so each attempt has its own time.
        let seconds = seconds(self.clock.now());
        let sent = self
            .client
            .post(self.url.clone())
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", seconds)
            .header(
                "webhook-signature",
                sign(&self.secrets, id, seconds, payload),
            )
            .body(payload.to_owned())
            .send()
            .await;
        sent.map_err(|error| self.explain(error))
    }

    /// Returns the body of an answer; `None` if it is longer than 64 KiB.
    ///
    /// # Errors
    /// The failure as text.
    pub(super) async fn read(&self, answer: &mut Response) -> Result<Option<Vec<u8>>, String> {
        let mut body = Vec::new();
        loop {
            match answer.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWERED => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => return Ok(None),
                Ok(None) => return Ok(Some(body)),
                Err(error) => return Err(self.explain(error)),
            }
        }
    }

    fn explain(&self, error: reqwest::Error) -> String {
        if error.is_timeout() {
            let timeout = humantime::format_duration(self.timeout);
            return format!("there was no answer within {timeout}");
        }
        // The error itself only says that a request failed; its source has the cause.
        let error = error.without_url();
        error.source().map_or_else(|| error.to_string(), chain)
    }
}
