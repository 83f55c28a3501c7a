//! Pages of other origins (the Fetch standard's CORS protocol).
//!
//! Every origin is allowed: requests carry their credential in a field or in the URL, never in a cookie, so a foreign page can do
//! nothing that its own server could not. The exception is a server that is open because only this machine reaches it: a page that
//! somebody on this machine looks at would reach it too, so only pages from this machine are let in. Only a real preflight is answered here: an `OPTIONS` without
//! `Access-Control-Request-Method` asks for an upload target's limits, and Photos sends it before its first upload.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use domain::Error;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use protocol::fields::name::{CORS_ALLOWED, CORS_EXPOSED};

use super::Place;
use crate::problem::Failure;

const METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
/// A day, in seconds; browsers have lower bounds of their own.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// Answers preflights, and lets every page read every answer.
pub(crate) async fn allow(
    State(place): State<Arc<Place>>,
    request: Request,
    next: Next,
) -> Response {
    let fields = request.headers();
    let Some(origin) = fields.get(ORIGIN) else {
        return next.run(request).await;
    };
    if place.local_pages_only && !is_local(origin) {
        return Failure::from(Error::Forbidden).into_response();
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

/// Whether a page comes from this machine: its host is `localhost` or a loopback address.
fn is_local(origin: &HeaderValue) -> bool {
    let host = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.parse::<Uri>().ok())
        .and_then(|origin| origin.host().map(str::to_owned));
    host.is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost"
            || host.ends_with(".localhost")
            || address.is_ok_and(|address| address.is_loopback())
    })
}

fn list(names: &[HeaderName]) -> HeaderValue {
    let names: Vec<&str> = names.iter().map(HeaderName::as_str).collect();
    HeaderValue::from_str(&names.join(", ")).expect("names of fields are a field value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_this_machine_are_known() {
        for (origin, local) in [
            ("http://localhost:3000", true),
            ("http://app.localhost", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("https://example.org", false),
            ("https://localhost.example.org", false),
            ("http://127.0.0.1.example.org", false),
            ("null", false),
        ] {
            assert_eq!(
                is_local(&HeaderValue::from_static(origin)),
                local,
                "{origin}"
            );
        }
    }
}
