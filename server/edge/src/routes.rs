//! The whole API on one screen.

mod cors;
mod files;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::extract::FromRef;
use axum::middleware;
use domain::access::Gate;
use domain::{Clock, Files, Uploads};

use crate::problem;

/// What handlers work with.
#[derive(Debug, Clone, FromRef)]
pub struct Api {
    /// Lets principals in.
    pub gate: Gate,
    /// The uploads.
    pub uploads: Uploads,
    /// The files.
    pub files: Files,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// How the server is reached.
    pub place: Arc<Place>,
}

/// How the server is reached.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Its URL without a slash at the end; absent, resources are told by their paths, which no proxy can make wrong.
    pub public_url: Option<String>,
}

impl Api {
    /// The URL of a path of this server.
    pub(crate) fn absolute(&self, path: &str) -> String {
        match &self.place.public_url {
            Some(url) => format!("{url}{path}"),
            None => path.to_owned(),
        }
    }
}

/// The service that answers every request.
pub fn router(api: Api) -> Router {
    Router::new()
        .merge(files::router())
        .merge(uploads::router())
        .fallback(problem::no_such_resource)
        .method_not_allowed_fallback(problem::no_such_method)
        .with_state(api)
        .layer(middleware::from_fn(cors::allow))
        .layer(middleware::from_fn(problem::tell))
}
