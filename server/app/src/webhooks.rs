//! Webhooks: events sent to the operator's services, and questions to them before an upload begins.

mod courier;
mod gate;
mod post;
mod signature;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use domain::Clock;
use domain::courier::Courier;
use domain::event::EventKind;
use domain::gatekeeper::Gatekeeper;
use domain::webhooks::Schedule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use self::post::Post;
pub use self::signature::{InvalidSecret, Secret};

/// Webhooks to the operator's services, signed by Standard Webhooks.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// URL to which each event is sent by `POST`: `https`, or `http` on this machine. Without a
    /// URL, no events are recorded.
    pub url: Option<Url>,
    /// Signing secrets: `whsec_` and 24 to 64 random bytes in Base64, as `echo whsec_$(openssl rand
    /// -base64 32)` makes them. Every secret signs every message. To rotate: add the new one,
    /// change the receivers, remove the old one.
    pub secrets: Vec<Secret>,
    /// Events to send: `upload.completed`, `version.published`.
    pub events: Vec<EventKind>,
    /// Timeout of one attempt to send an event.
    #[serde(with = "settings::Time")]
    pub timeout: Duration,
    /// Number of attempts before an event is given up. `longhaul events` shows and replays such
    /// events.
    pub attempts: NonZeroU32,
    /// Delay before the first retry of an event; each further delay is four times as long.
    #[serde(with = "settings::Time")]
    pub first_retry: Duration,
    /// Maximum delay between two attempts, even if the receiver asks for a longer one.
    #[serde(with = "settings::Time")]
    pub longest_retry: Duration,
    /// Time for which an event is kept after it was given up.
    #[serde(with = "settings::Time")]
    pub keep_dead: Duration,
    /// Send in cleartext to other machines, too. Anyone on the path can read the messages, though
    /// not change them.
    pub allow_cleartext: bool,
    /// Service that is asked before an upload begins.
    pub pre_create: PreCreate,
}

/// Service that is asked before an upload begins.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PreCreate {
    /// URL that is asked by `POST`, signed like events. An answer of 2xx lets the upload begin, and
    /// may change its `path`, `media_type` or `filename` in a JSON object; 4xx refuses the upload.
    pub url: Option<Url>,
    /// Timeout of an answer.
    #[serde(with = "settings::Time")]
    pub timeout: Duration,
    /// Outcome for an upload if the service gives no such answer.
    pub on_failure: OnFailure,
}

/// Outcome for an upload if the service does not say whether it may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The client has to try again later.
    Refuse,
    /// The upload begins as the client requested it.
    Allow,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            secrets: Vec::new(),
            events: EventKind::ALL.to_vec(),
            timeout: Duration::from_secs(15),
            // With the delays between them, 11 attempts take three days and a quarter.
            attempts: const { NonZeroU32::new(11).unwrap() },
            first_retry: Duration::from_secs(5),
            longest_retry: Duration::from_hours(24),
            keep_dead: Duration::from_hours(30 * 24),
            allow_cleartext: false,
            pre_create: PreCreate::default(),
        }
    }
}

impl Default for PreCreate {
    fn default() -> Self {
        Self {
            url: None,
            timeout: Duration::from_secs(2),
            on_failure: OnFailure::Refuse,
        }
    }
}

/// Contradiction between settings of webhooks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// Unsafe URL.
    #[error(
        "nothing is sent to {url}: it must be https, or http on this machine (`allow_cleartext = true` lifts that), without a user; \
         for example `https://hooks.example.org/longhaul`"
    )]
    Url {
        /// The setting's full path.
        setting: &'static str,
        /// Value of the setting, without a password.
        url: Url,
    },
    /// Missing secrets: no message is sent unsigned.
    #[error(
        "`webhooks.secrets` are missing, and nothing is sent unsigned; `echo whsec_$(openssl rand -base64 32)` makes one"
    )]
    NoSecret {
        /// The full path of the setting that needs one.
        setting: &'static str,
    },
}

impl Conflict {
    /// The full path of the setting that cannot be used.
    pub fn setting(&self) -> &'static str {
        match self {
            Self::Url { setting, .. } | Self::NoSecret { setting } => setting,
        }
    }
}

impl Config {
    /// Checks that the settings do not contradict each other.
    ///
    /// # Errors
    /// See [`Conflict`].
    pub fn check(&self) -> Result<(), Conflict> {
        let urls = [
            ("webhooks.url", &self.url),
            ("webhooks.pre_create.url", &self.pre_create.url),
        ];
        for (setting, url) in urls {
            let Some(url) = url else {
                continue;
            };
            let is_safe = url.scheme() == "https"
                || (url.scheme() == "http" && (self.allow_cleartext || is_here(url)));
            if !is_safe || !url.username().is_empty() || url.password().is_some() {
                let mut url = url.clone();
                // Both calls fail only for a URL without a host, which has no password.
                let _ = url.set_username("").and(url.set_password(None));
                return Err(Conflict::Url { setting, url });
            }
            if self.secrets.is_empty() {
                return Err(Conflict::NoSecret { setting });
            }
        }
        Ok(())
    }

    /// Returns the sender of events, if the settings name a receiver.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn courier(&self, clock: &Arc<dyn Clock>) -> anyhow::Result<Option<Arc<dyn Courier>>> {
        let Some(url) = &self.url else {
            return Ok(None);
        };
        let post = self.post(url, self.timeout, clock)?;
        Ok(Some(Arc::new(courier::Postman::new(post))))
    }

    /// Returns the client of the service that is asked before an upload begins, if there is one.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn gatekeeper(
        &self,
        clock: &Arc<dyn Clock>,
    ) -> anyhow::Result<Option<Arc<dyn Gatekeeper>>> {
        let PreCreate {
            url: Some(url),
            timeout,
            on_failure,
        } = &self.pre_create
        else {
            return Ok(None);
        };
        let post = self.post(url, *timeout, clock)?;
        Ok(Some(Arc::new(gate::Webhook::new(post, *on_failure))))
    }

    /// Returns the schedule of retries.
    pub fn schedule(&self) -> Schedule {
        Schedule {
            attempts: self.attempts,
            first_retry: self.first_retry,
            longest_retry: self.longest_retry,
            keep_dead: self.keep_dead,
        }
    }

    fn post(&self, url: &Url, timeout: Duration, clock: &Arc<dyn Clock>) -> anyhow::Result<Post> {
        Post::new(
            url.clone(),
            self.secrets.clone(),
            timeout,
            Arc::clone(clock),
        )
        .context("failed to set webhooks up")
    }
}

/// Returns true if a URL names this machine.
fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> Config {
        let secret = "secrets = ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw']";
        toml::from_str(&format!("{secret}\n{toml}")).unwrap()
    }

    #[test]
    fn only_encrypted_or_local_urls_are_sent_to() {
        for url in [
            "https://example.org/hook",
            "http://localhost:1/hook",
            "http://127.0.0.1/",
            "http://[::1]/",
        ] {
            assert_eq!(config(&format!("url = '{url}'")).check(), Ok(()), "{url}");
        }
        for url in [
            "http://example.org/",
            "http://10.0.0.1/",
            "ftp://example.org/",
            "https://me:pass@example.org/",
        ] {
            for key in ["url", "pre_create.url"] {
                let conflict = config(&format!("{key} = '{url}'")).check().unwrap_err();
                assert!(matches!(conflict, Conflict::Url { .. }), "{url}");
                assert_eq!(conflict.setting(), format!("webhooks.{key}"));
                assert!(!conflict.to_string().contains("pass"), "{conflict}");
            }
        }
        let cleartext = config("url = 'http://example.org/'\nallow_cleartext = true");
        assert_eq!(cleartext.check(), Ok(()));
    }

    #[test]
    fn nothing_is_sent_unsigned() {
        let unsigned = Config {
            secrets: Vec::new(),
            ..config("pre_create.url = 'https://example.org'")
        };
        let setting = "webhooks.pre_create.url";
        assert_eq!(unsigned.check(), Err(Conflict::NoSecret { setting }));
        assert_eq!(Config::default().check(), Ok(()));
    }
}
