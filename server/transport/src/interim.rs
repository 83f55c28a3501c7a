//! Interim responses (RFC 9110 §15.2) and exchanges that end without an answer.
//!
//! hyper and axum know no interim responses: a handler returns one response, the final one. So the
//! transport puts an [`Interim`] into the extensions of every request; what a handler sends through
//! it reaches the client at once, before the request's body is read. Where an interim response is
//! impossible (an HTTP/1.0 peer, a proxy known to break on them, a final response already begun)
//! sending returns an error value that may be ignored.
//!
//! A handler that wants its client to resume rather than to give up ends the exchange with
//! [`Cut::response`].

pub(crate) mod h1;
pub(crate) mod h2;

use axum::{body::Body, response::Response};
use http::{HeaderMap, StatusCode, header};

/// A sender of interim responses to the client of one request; found in the request's extensions.
///
/// Clones send on behalf of the same request. A clone that outlives it is harmless: its sends fail
/// with [`InterimError::Closed`] and never touch a later request of the connection.
#[derive(Debug, Clone)]
pub struct Interim(Channel);

#[derive(Debug, Clone)]
enum Channel {
    H1(h1::Sender),
    H2(h2::Sender),
    /// No interim response can be sent on this exchange, for this reason.
    Shut(InterimError),
}

/// The reason why an interim response was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InterimError {
    /// Only 102 to 199 may be sent: 100 belongs to the transport and 101 would end HTTP on the
    /// connection.
    #[error("{0} is no interim status that a handler may send")]
    Status(StatusCode),
    /// The peer speaks HTTP/1.0, which has no interim responses (RFC 9110 §15.2).
    #[error("the peer speaks HTTP/1.0")]
    Unsupported,
    /// Interim responses are off by configuration, for every peer or for this one.
    #[error("interim responses are switched off for this peer")]
    Disabled,
    /// The final response has begun, or the stream or connection is gone.
    #[error("the exchange is past interim responses")]
    Closed,
    /// The peer does not read, and the queue of interim responses is full.
    #[error("too many interim responses are waiting for the peer to read")]
    Full,
}

impl Interim {
    /// Returns a sender that refuses everything, as for a peer to which interim responses are
    /// switched off.
    #[must_use]
    pub fn disabled() -> Self {
        Self(Channel::Shut(InterimError::Disabled))
    }

    /// Queues one interim response with a status of 102 to 199.
    ///
    /// Never blocks. `Ok` means that the response leaves before the final one unless the connection
    /// dies. Fields that belong to a connection or frame content are left out.
    ///
    /// # Errors
    ///
    /// Every [`InterimError`]; the exchange goes on after each of them.
    pub fn send(&self, status: StatusCode, mut fields: HeaderMap) -> Result<(), InterimError> {
        if !matches!(status.as_u16(), 102..=199) {
            return Err(InterimError::Status(status));
        }
        match &self.0 {
            Channel::Shut(reason) => Err(*reason),
            Channel::H1(sender) => {
                remove_framing(&mut fields);
                sender.send(status, &fields)
            }
            Channel::H2(sender) => {
                remove_framing(&mut fields);
                sender.send(status, fields)
            }
        }
    }

    pub(crate) fn shut(reason: InterimError) -> Self {
        Self(Channel::Shut(reason))
    }
}

impl From<h1::Sender> for Interim {
    fn from(sender: h1::Sender) -> Self {
        Self(Channel::H1(sender))
    }
}

impl From<h2::Sender> for Interim {
    fn from(sender: h2::Sender) -> Self {
        Self(Channel::H2(sender))
    }
}

/// Marker of a response that must not be sent: the transport cuts the exchange instead, as if the
/// network had failed.
///
/// HTTP/1 closes the connection, HTTP/2 resets the stream and leaves its siblings alone; interim
/// responses sent before still arrive. Clients of resumable uploads resume after a cut and give up
/// after a 5xx.
#[derive(Debug, Clone, Copy)]
pub struct Cut(());

impl Cut {
    /// Returns the response for a handler that wants the exchange cut.
    ///
    /// Middleware sees a `503` without a body; the marker is in the extensions.
    #[must_use]
    pub fn response() -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response.extensions_mut().insert(Self(()));
        response
    }

    /// Returns true if `response` asks for a cut.
    #[must_use]
    pub fn is_wanted<B>(response: &http::Response<B>) -> bool {
        response.extensions().get::<Self>().is_some()
    }
}

/// Removes fields that frame content (RFC 9110 §8.6: no `Content-Length` in a 1xx) or belong to one
/// connection (§7.6.1).
fn remove_framing(fields: &mut HeaderMap) {
    fields.remove(header::CONTENT_LENGTH);
    remove_connection_fields(fields);
}

/// Removes the fields that describe a connection rather than a message (RFC 9110 §7.6.1, RFC 9113
/// §8.2.2).
pub(crate) fn remove_connection_fields(fields: &mut HeaderMap) {
    for value in fields
        .get_all(header::CONNECTION)
        .iter()
        .cloned()
        .collect::<Vec<_>>()
    {
        for name in value.to_str().unwrap_or_default().split(',') {
            fields.remove(name.trim());
        }
    }
    for name in [
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "transfer-encoding",
        "upgrade",
    ] {
        fields.remove(name);
    }
}
