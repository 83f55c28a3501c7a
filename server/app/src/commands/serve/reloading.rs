//! Reading the configuration again on `SIGHUP`.
//!
//! The rule: all of the new configuration is right, or nothing of it is taken up. Keys, the certificate's files and the log's
//! level change at once; of every other changed setting the log says that it waits for the next start. No connection is
//! dropped: a request that was let in goes on.

use std::net::SocketAddr;

use domain::access::Authenticator;
use transport::{Certificate, ListenAddress};

use crate::config::{Config, Flags};
use crate::telemetry::Log;

/// Everything that can change in a running server, and its last state.
pub(super) struct Reloading<'l> {
    pub(super) flags: Flags,
    pub(super) log: &'l Log,
    pub(super) authenticator: Authenticator,
    pub(super) certificates: Vec<Certificate>,
    /// The addresses on which clients are served.
    pub(super) served: Vec<SocketAddr>,
    /// The configuration in force.
    pub(super) config: Config,
}

impl Reloading<'_> {
    /// Reads the configuration again and takes up what can be.
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
