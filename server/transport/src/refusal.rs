//! Refusals that the transport itself answers with: small problem documents (RFC 9457).

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::json;
use uuid::Uuid;

use crate::date;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Refuses `CONNECT`: no resource here is a tunnel (RFC 9110 §9.3.6, §15.6.2).
pub(crate) fn connect() -> Response {
    // What follows on an HTTP/1 connection was meant for the tunnel.
    closing(response(
        StatusCode::NOT_IMPLEMENTED,
        "this server is no proxy",
    ))
}

/// Refuses a request without exactly one `Host` (RFC 9112 §3.2).
pub(crate) fn host() -> Response {
    closing(response(
        StatusCode::BAD_REQUEST,
        "a request needs exactly one Host field",
    ))
}

/// Refuses a body in transfer codings that are not decoded here, whatever the resource.
///
/// `chunked`, once and last, is the only coding that is supported. Content that would be stored or
/// judged while still coded is refused: another coding with `501` (RFC 9112 §6.1), `chunked` twice,
/// with parameters or before another coding with `400` (§6.1, §6.3, §7.1). hyper has already
/// refused a request whose last coding is not `chunked`, and any coding in HTTP/1.0, since nobody
/// can know where such a body ends.
pub(crate) fn transfer_coding(fields: &HeaderMap) -> Option<Response> {
    let lines = fields.get_all(header::TRANSFER_ENCODING).iter();
    let codings: Vec<&[u8]> = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|coding| !coding.is_empty())
        .collect();
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let (last, before) = codings.split_last()?;
    let foreign = before.iter().find(|coding| {
        let name = coding
            .split(|byte| *byte == b';')
            .next()
            .unwrap_or_default();
        !is_chunked(name.trim_ascii())
    });
    if !is_chunked(last) || (foreign.is_none() && !before.is_empty()) {
        return Some(closing(response(
            StatusCode::BAD_REQUEST,
            "Transfer-Encoding must end with chunked, have it once and without parameters",
        )));
    }
    foreign.map(|coding| {
        closing(response(
            StatusCode::NOT_IMPLEMENTED,
            &format!(
                "the transfer coding {} is not supported: send the body as it is, or with \
                 Transfer-Encoding: chunked alone",
                coding.escape_ascii(),
            ),
        ))
    })
}

/// Returns the handler's response, or a refusal if it is not a final one.
pub(crate) fn unless_final(answer: Response) -> Response {
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

/// Returns a whole HTTP/1.1 response that closes the connection, for a head that could not be read.
pub(crate) fn raw(status: StatusCode) -> Bytes {
    let detail = match status {
        StatusCode::REQUEST_TIMEOUT => "the head of the request did not arrive in time",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the head of the request is too large",
        StatusCode::URI_TOO_LONG => "the request's target is too long",
        _ => {
            "the head of the request is not valid HTTP/1.1: look at its request line, \
             Content-Length and Transfer-Encoding"
        }
    };
    let body = document(status, detail);
    let head = format!(
        "HTTP/1.1 {} {}\r\n\
         content-type: application/problem+json\r\n\
         cache-control: no-store\r\n\
         content-length: {}\r\n\
         connection: close\r\n\
         date: {}\r\n\r\n",
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
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_once_and_last_is_the_only_transfer_coding() {
        for (lines, expected) in [
            (&[][..], None),
            (&["chunked"], None),
            (&["CHUNKED"], None),
            (&[" , chunked ,"], None),
            (&["gzip, chunked"], Some(501)),
            (&["gzip,chunked"], Some(501)),
            (&["gzip", "chunked"], Some(501)),
            (&["identity, chunked"], Some(501)),
            (&["x-foo;a=b, chunked"], Some(501)),
            (&["chunked, br, chunked"], Some(501)),
            (&["xchunked, chunked"], Some(501)),
            (&["chunked, chunked"], Some(400)),
            (&["chunked", "Chunked"], Some(400)),
            (&["chunked;q=1, chunked"], Some(400)),
            (&["chunked;q=1"], Some(400)),
            (&["chunked, gzip"], Some(400)),
        ] {
            let mut fields = HeaderMap::new();
            for line in lines {
                fields.append(header::TRANSFER_ENCODING, HeaderValue::from_static(line));
            }
            let status = transfer_coding(&fields).map(|response| response.status().as_u16());
            assert_eq!(status, expected, "{lines:?}");
        }
    }
}
