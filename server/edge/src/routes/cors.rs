//! Pages of other origins (the Fetch standard's CORS protocol).
//!
//! Every origin is allowed: requests carry their credential in a field or in the URL, never in a cookie, so a foreign page can do
//! nothing that its own server could not. Only a real preflight is answered here: an `OPTIONS` without
//! `Access-Control-Request-Method` asks for an upload target's limits, and Photos sends it before its first upload.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use protocol::fields::name::{CORS_ALLOWED, CORS_EXPOSED};

const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// A day, in seconds; browsers have lower bounds of their own.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// Answers preflights, and lets every page read every answer.
pub(crate) async fn allow(request: Request, next: Next) -> Response {
    let fields = request.headers();
    if !fields.contains_key(ORIGIN) {
        return next.run(request).await;
    }
    let preflight =
        request.method() == Method::OPTIONS && fields.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if preflight {
        let mut response = StatusCode::NO_CONTENT.into_response();
        response.headers_mut().extend(HeaderMap::from_iter([
            (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (ACCESS_CONTROL_ALLOW_HEADERS, list(&CORS_ALLOWED)),
            (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ]));
        response
    } else {
        let mut response = next.run(request).await;
        response
            .headers_mut()
            .insert(ACCESS_CONTROL_EXPOSE_HEADERS, list(&CORS_EXPOSED));
        response
    };
    response
        .headers_mut()
        .insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn list(names: &[HeaderName]) -> HeaderValue {
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    HeaderValue::from_str(&names.join(", ")).expect("names of fields are a field value")
}
