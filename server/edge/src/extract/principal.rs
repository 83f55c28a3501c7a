//! Principals of requests. A handler names the service that it needs as an argument, and receives
//! it authorised; if the client is not authorised, the handler is not called.

use axum::extract::{FromRef, FromRequestParts};
use domain::Authorized;
use domain::access::{Authenticator, Credential, Denied, Principal};
use http::header::AUTHORIZATION;
use http::request::Parts;
use protocol::dialect::Dialect;

use crate::problem::{Failure, Voice};

/// A service on behalf of the principal that presented a credential.
#[derive(Debug)]
pub(crate) struct Access<S>(pub(crate) Authorized<S>);

impl<A, S> FromRequestParts<A> for Access<S>
where
    A: Send + Sync,
    Authenticator: FromRef<A>,
    S: FromRef<A>,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &A) -> Result<Self, Failure> {
        let principal = Authenticator::from_ref(state)
            .admit(credential(parts))
            .map_err(|denied| {
                refusal(denied, Dialect::of_creation(&parts.method, &parts.headers))
            })?;
        Ok(Self(known(parts, principal, S::from_ref(state))))
    }
}

/// A service on behalf of a client that knows an upload's URL, which is a capability of its own.
#[derive(Debug)]
pub(crate) struct HolderAccess<S>(pub(crate) Authorized<S>);

impl<A, S> FromRequestParts<A> for HolderAccess<S>
where
    A: Send + Sync,
    Authenticator: FromRef<A>,
    S: FromRef<A>,
{
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &A) -> Result<Self, Failure> {
        let principal = Authenticator::from_ref(state)
            .admit_holder(credential(parts))
            .map_err(|denied| {
                refusal(
                    denied,
                    Dialect::of_upload_request(&parts.method, &parts.headers),
                )
            })?;
        Ok(Self(known(parts, principal, S::from_ref(state))))
    }
}

/// Refuses in the upload protocol of the request: tus requires its version in every answer.
fn refusal(denied: Denied, dialect: Dialect) -> Failure {
    let voice = match dialect {
        Dialect::Plain => Voice::Plain,
        Dialect::Ietf(_) | Dialect::Tus => Voice::of(dialect),
    };
    voice.denied(denied)
}

fn known<S>(parts: &Parts, principal: Principal, service: S) -> Authorized<S> {
    tracing::debug!(principal = principal.name(), method = %parts.method, "admitted");
    Authorized::new(principal, service)
}

fn credential(parts: &Parts) -> Credential<'_> {
    let mut values = parts.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return match parts.headers.contains_key(AUTHORIZATION) {
            true => Credential::Unknown,
            false => Credential::None,
        };
    };
    // RFC 9110 §11.1: the scheme's name has no case. RFC 6750 §2.1: one or more spaces follow.
    let token = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim_matches(' '));
    token.map_or(Credential::Unknown, Credential::Bearer)
}
