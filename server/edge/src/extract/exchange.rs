//! Connection that a request came by.

use std::convert::Infallible;
use std::net::IpAddr;

use axum::extract::FromRequestParts;
use domain::{Authorized, Uploads};
use http::request::Parts;
use transport::{Interim, Peer};

/// Connection that a request came by.
pub(crate) struct Exchange {
    peer: Option<IpAddr>,
    /// Sends interim responses.
    pub(crate) interim: Interim,
}

impl Exchange {
    /// Returns the uploads for requests that take the places of this peer.
    pub(crate) fn uploads(&self, uploads: Authorized<Uploads>) -> Authorized<Uploads> {
        match self.peer {
            Some(peer) => uploads.for_peer(peer),
            None => uploads,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Exchange {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let extensions = &parts.extensions;
        let interim = extensions.get::<Interim>().cloned();
        Ok(Self {
            peer: extensions.get::<Peer>().map(|peer| peer.address.ip()),
            interim: interim.unwrap_or_else(Interim::disabled),
        })
    }
}
