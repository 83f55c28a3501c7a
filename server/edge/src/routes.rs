//! The whole API on one screen.

pub mod admin;
mod cors;
mod files;
mod host;
mod packs;
mod page;
mod uploads;

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::MatchedPath;
use axum::middleware;
use axum::response::Response;
use http::header::CONTENT_LENGTH;
use http::{Request, StatusCode};
use protocol::fields::name::X_REQUEST_ID;
use tower::{Service, ServiceExt};
use tower_http::trace::TraceLayer;
use tracing::Span;

use crate::api::Api;
use crate::extract::{FILES, PACKS, query};
use crate::problem;

/// Returns the service that answers every request with `router`.
pub fn service(
    router: Router,
) -> impl Service<
    Request<Body>,
    Response = Response,
    Error = Infallible,
    Future = impl Future<Output = Result<Response, Infallible>> + Send,
> + Clone
+ Send
+ 'static {
    let router = ServiceExt::<Request<Body>>::map_request(router, without_final_slash);
    ServiceExt::<Request<Body>>::map_response(router, |mut response: Response| {
        // RFC 9110 §8.6: a 204 has no Content-Length. The router gives every answer one.
        if response.status() == StatusCode::NO_CONTENT {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        response
    })
}

/// Removes one slash at the end of a path, as in `/files/`, with which clients of tus are
/// configured. The slash stays in the path of a file, where it has a meaning: no file has such a
/// name.
fn without_final_slash(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri();
    let Some(path) = uri.path().strip_suffix('/') else {
        return request;
    };
    if path.is_empty() || names_a_file(uri.path()) {
        return request;
    }
    let resource = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = resource.parse().ok();
    if let Ok(uri) = parts.try_into() {
        *request.uri_mut() = uri;
    }
    request
}

/// Returns whether the path goes on below `/files/`, of the server or of a version.
fn names_a_file(path: &str) -> bool {
    let in_version = path
        .strip_prefix(PACKS)
        .and_then(|path| path.split('/').nth(3));
    in_version == Some("files")
        || path
            .strip_prefix(FILES)
            .is_some_and(|name| !name.is_empty())
}

/// Returns the routes of the API. A path that ends with a slash needs [`service`] around them.
pub fn router(api: Api) -> Router {
    let whole = api.clone();
    let router = Router::new()
        .merge(files::router())
        .merge(uploads::router())
        .merge(packs::router())
        .route_layer(middleware::from_fn(query::check))
        .fallback(problem::no_such_resource)
        .method_not_allowed_fallback(problem::no_such_method)
        .with_state(api)
        .layer(middleware::from_fn_with_state(whole.clone(), cors::allow))
        .layer(middleware::from_fn_with_state(whole, host::check));
    told(router)
}

/// Returns a router that names requests in the log, and answers failures with documents.
fn told(router: Router) -> Router {
    router
        .layer(
            TraceLayer::new_for_http()
                .make_span_with(span)
                .on_failure(()),
        )
        .layer(middleware::from_fn(problem::finish))
}

/// Opens the span that all log lines of a request share. It has the route instead of the path,
/// since the path of an upload is a capability.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slash_at_the_end_of_a_path_is_passed_over() {
        for (path, expected) in [
            ("/files/", "/files"),
            ("/files/?limit=1", "/files?limit=1"),
            ("/uploads/", "/uploads"),
            ("/uploads/0123/", "/uploads/0123"),
            ("/packs/", "/packs"),
            ("/packs/p/", "/packs/p"),
            ("/packs/p/versions/1/", "/packs/p/versions/1"),
            ("/packs/p/versions/1/files/", "/packs/p/versions/1/files/"),
            ("/packs/files/", "/packs/files"),
            ("/packs/p/versions/files/", "/packs/p/versions/files"),
            ("/", "/"),
            ("/files", "/files"),
            // No file has such a name, and the file without the slash must not be found instead.
            ("/files/a/", "/files/a/"),
            ("/files//", "/files//"),
            (
                "/packs/p/versions/1/files/a/",
                "/packs/p/versions/1/files/a/",
            ),
            (
                "https://example.org/files/?a",
                "https://example.org/files?a",
            ),
        ] {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            assert_eq!(without_final_slash(request).uri(), expected, "{path}");
        }
    }
}
