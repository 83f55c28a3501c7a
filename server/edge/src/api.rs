//! Services that handlers use.

use std::sync::Arc;

use axum::extract::FromRef;
use domain::access::Authenticator;
use domain::{Clock, Files, Packs, Uploads};

use crate::hosts::Hosts;

/// Services that handlers use.
#[derive(Debug, Clone, FromRef)]
pub struct Api {
    /// Authenticates principals.
    pub authenticator: Authenticator,
    /// Uploads.
    pub uploads: Uploads,
    /// Files.
    pub files: Files,
    /// Packs.
    pub packs: Packs,
    /// Clock that dates answers.
    pub clock: Arc<dyn Clock>,
    /// Names of this server.
    pub place: Arc<Place>,
}

/// Names under which clients reach the server.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// URL of the server, without a slash at the end. If unset, answers name resources by their
    /// paths, which no proxy can make wrong.
    pub public_url: Option<String>,
    /// Host names that a server accepts while it is open to all clients on this machine.
    pub hosts: Hosts,
}

impl Api {
    /// Returns the URL of a path of this server.
    pub(crate) fn absolute(&self, path: &str) -> String {
        match &self.place.public_url {
            Some(url) => format!("{url}{path}"),
            None => path.to_owned(),
        }
    }

    /// Returns the only host names to accept, if the server is open because only this machine
    /// reaches it.
    pub(crate) fn local_hosts(&self) -> Option<&Hosts> {
        self.authenticator
            .is_local_only()
            .then_some(&self.place.hosts)
    }
}
