//! Answers that the transport itself gives: small problem documents (RFC 9457).

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;
use uuid::Uuid;

use super::date;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// `CONNECT`: no resource here is a tunnel (RFC 9110 §9.3.6, §15.6.2).
pub(super) fn connect() -> Response {
    // What follows on an HTTP/1 connection was meant for the tunnel.
    closing(response(
        StatusCode::NOT_IMPLEMENTED,
        "this server is no proxy",
    ))
}

/// A request without exactly one `Host` (RFC 9112 §3.2).
pub(super) fn host() -> Response {
    closing(response(
        StatusCode::BAD_REQUEST,
        "a request needs exactly one Host field",
    ))
}

/// The handler's response, if it is a final one.
pub(super) fn unless_final(answer: Response) -> Response {
    if answer.status().is_informational() {
        tracing::error!(
            status = answer.status().as_u16(),
            "a handler returned an interim response as its final one"
        );
        return response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the server failed to answer",
        );
    }
    answer
}

/// A whole HTTP/1.1 response that closes the connection, for a head that could not be read.
pub(super) fn raw(status: StatusCode) -> Bytes {
    let detail = match status {
        StatusCode::REQUEST_TIMEOUT => "the head of the request did not arrive in time",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the head of the request is too large",
        StatusCode::URI_TOO_LONG => "the request's target is too long",
        _ => "the request is not HTTP/1.1",
    };
    let body = document(status, detail);
    let head = format!(
        "HTTP/1.1 {} {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nconnection: close\r\ndate: {}\r\n\r\n",
        status.as_str(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
        date::now().to_str().unwrap_or_default(),
    );
    [head.into_bytes(), body].concat().into()
}

fn response(status: StatusCode, detail: &str) -> Response {
    let mut response = Response::new(Body::from(document(status, detail)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, PROBLEM_JSON);
    response
}

fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

fn document(status: StatusCode, detail: &str) -> Vec<u8> {
    let request_id = Uuid::new_v4();
    tracing::debug!(status = status.as_u16(), %request_id, detail, "request refused by the transport");
    json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
        "request_id": request_id.to_string(),
    })
    .to_string()
    .into_bytes()
}
