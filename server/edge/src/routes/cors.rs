//! Pages of other origins (the Fetch standard's CORS protocol).
//!
//! Every origin is allowed: requests carry their credential in a field or in the URL, never in a
//! cookie, so a foreign page can do nothing that its own server could not. The exception is a
//! server that is open because only this machine reaches it. A page in a browser on this machine
//! would reach it too, so only pages from this machine are allowed ([`host`](super::host)). Only a
//! real preflight is answered here: an `OPTIONS` without `Access-Control-Request-Method` asks for
//! the limits of an upload target, and Photos sends it before its first upload.

use std::sync::LazyLock;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use protocol::fields::name;

use super::Api;
use crate::problem::{Failure, kinds};

/// Fields that pages may send.
static ALLOWED: LazyLock<HeaderValue> = LazyLock::new(|| list(name::sent_by_clients()));
/// Fields that pages may read.
static EXPOSED: LazyLock<HeaderValue> = LazyLock::new(|| list(name::sent_by_servers()));

fn list(names: impl Iterator<Item = &'static str>) -> HeaderValue {
    let names: Vec<&str> = names.collect();
    HeaderValue::from_str(&names.join(", ")).expect("names of fields are a field value")
}

const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// A day, in seconds; browsers have lower bounds of their own.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// Answers preflights, and lets every page read every answer.
pub(crate) async fn allow(State(api): State<Api>, request: Request, next: Next) -> Response {
    let fields = request.headers();
    let Some(origin) = fields.get(ORIGIN) else {
        return next.run(request).await;
    };
    if api
        .local_hosts()
        .is_some_and(|hosts| !hosts.are_of_page(origin))
    {
        return refusal(origin).into_response();
    }
    let preflight =
        request.method() == Method::OPTIONS && fields.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().extend(HeaderMap::from_iter([
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED.clone()),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ]));
        response
    } else {
        let mut response = next.run(request).await;
        response
            .headers_mut()
            .insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED.clone());
        response
    };
    response
        .headers_mut()
        .insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn refusal(origin: &HeaderValue) -> Failure {
    let origin: String = String::from_utf8_lossy(origin.as_bytes())
        .chars()
        .take(100)
        .collect();
    kinds::FORBIDDEN
        .detailed(format!(
            "Pages of {origin} may not use this server: without keys, only pages of this machine may, such as http://localhost:3000. \
             Set access.keys, and let the page send one."
        ))
        .with("origin", origin)
        .into()
}
