//! The whole API on one screen.

pub mod admin;
mod cors;
mod events;
mod files;
mod packs;
mod page;
mod uploads;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRef, MatchedPath};
use axum::middleware;
use axum::response::Response;
use domain::access::Gate;
use domain::{Clock, Files, Packs, Uploads};
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode};
use tower::{Service, ServiceExt};
use tower_http::trace::TraceLayer;
use tracing::Span;

use crate::problem::{self, X_REQUEST_ID};

/// What handlers work with.
#[derive(Debug, Clone, FromRef)]
pub struct Api {
    /// Lets principals in.
    pub gate: Gate,
    /// The uploads.
    pub uploads: Uploads,
    /// The files.
    pub files: Files,
    /// The packs.
    pub packs: Packs,
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
    /// Whether pages of other machines are refused: the server is open to everyone, but meant for this machine.
    pub local_pages_only: bool,
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
pub fn service(
    api: Api,
) -> impl Service<
    Request<Body>,
    Response = Response,
    Error = Infallible,
    Future = impl Future<Output = Result<Response, Infallible>> + Send,
> + Clone
+ Send
+ 'static {
    ServiceExt::<Request<Body>>::map_response(router(api), |mut response: Response| {
        // RFC 9110 §8.6: a 204 has no Content-Length. The router gives every answer one.
        if response.status() == StatusCode::NO_CONTENT {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        response
    })
}

fn router(api: Api) -> Router {
    let place = Arc::clone(&api.place);
    let router = Router::new()
        .merge(files::router())
        .merge(uploads::router())
        .merge(packs::router())
        .fallback(problem::no_such_resource)
        .method_not_allowed_fallback(problem::no_such_method)
        .with_state(api)
        .layer(middleware::from_fn_with_state(place, cors::allow));
    told(router)
}

/// A router whose requests are named in the log, and whose failures are told as documents.
fn told(router: Router) -> Router {
    router
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_failure(()),
        )
        .layer(middleware::from_fn(problem::tell))
}

/// What all log lines of a request have in common. The route stands for the path, which in an upload's case is a capability.
fn span(request: &Request<Body>) -> Span {
    let id = request.headers().get(X_REQUEST_ID);
    let route = request.extensions().get::<MatchedPath>();
    tracing::info_span!(
        "request",
        request_id = id.and_then(|id| id.to_str().ok()),
        method = %request.method(),
        route = route.map(MatchedPath::as_str),
    )
}
