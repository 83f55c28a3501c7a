//! Reloads the configuration on `SIGHUP`.
//!
//! A new configuration with a mistake changes nothing. Keys, the certificate's files and the log's
//! level change at once; every other changed setting is logged as one that waits for the next
//! start. No connection is dropped, and requests in progress go on.

use std::net::SocketAddr;

use domain::access::Authenticator;
use transport::{Certificate, ListenAddress};

use crate::config::{Config, Flags};
use crate::telemetry::Log;

/// Parts of a running server that can change, and the configuration in force.
pub(super) struct Reloading<'l> {
    pub(super) flags: Flags,
    pub(super) log: &'l Log,
    pub(super) authenticator: Authenticator,
    pub(super) certificates: Vec<Certificate>,
    /// Addresses on which clients are served.
    pub(super) served: Vec<SocketAddr>,
    /// Configuration in force.
    pub(super) config: Config,
}

impl Reloading<'_> {
    /// Reads the configuration again and applies the settings that can change.
    pub(super) async fn reload(&mut self) {
        let new = match self.read() {
            Ok(new) => new,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(
                    error,
                    "SIGHUP: the new configuration is wrong, so all stays as it is"
                );
                return;
            }
        };
        let (mut taken_up, waiting): (Vec<_>, Vec<_>) = self
            .config
            .differences(&new)
            .into_iter()
            .partition(|setting| {
                ["access.keys", "access.open", "log.level"].contains(&setting.as_str())
            });
        if let Err(error) = self.log.set_level(&new.log.level) {
            let error = format!("{error:#}");
            tracing::error!(error, "SIGHUP: the level of the log stays as it is");
        }
        self.authenticator.change(&new.access);
        (self.config.access, self.config.log.level) = (new.access, new.log.level);
        for certificate in &self.certificates {
            if certificate.reload().await {
                taken_up.push("the certificate".to_owned());
            }
        }
        tracing::info!(
            taken_up = list(&taken_up),
            "SIGHUP: the configuration was read again"
        );
        if !waiting.is_empty() {
            tracing::warn!(
                settings = list(&waiting),
                "SIGHUP: these settings have changed and are taken up at the next start"
            );
        }
    }

    fn read(&self) -> anyhow::Result<Config> {
        let new = Config::load(&self.flags)?;
        let served: Vec<_> = self
            .served
            .iter()
            .copied()
            .map(ListenAddress::from)
            .collect();
        new.check_reach(&served)?;
        Ok(new)
    }
}

fn list(settings: &[String]) -> String {
    match settings {
        [] => "nothing has changed".to_owned(),
        settings => settings.join(", "),
    }
}
