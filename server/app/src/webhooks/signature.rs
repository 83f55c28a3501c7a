//! Signatures of webhooks by the specification of Standard Webhooks (version `v1`): HMAC-SHA-256
//! over `id.timestamp.payload`.

use std::fmt::{self, Debug};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use standardwebhooks::Webhook;

/// Prefix of a secret's text.
const PREFIX: &str = "whsec_";
/// Allowed number of bytes of a secret.
const SIZES: std::ops::RangeInclusive<usize> = 24..=64;

/// Secret that the server shares with its receiver: `whsec_` and 24 to 64 bytes in Base64.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", inline, extend("format" = "webhook-secret"))]
pub struct Secret(Vec<u8>);

/// Error for a text that is not a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret is `whsec_` and 24 to 64 random bytes in Base64")]
pub struct InvalidSecret;

impl TryFrom<String> for Secret {
    type Error = InvalidSecret;

    fn try_from(text: String) -> Result<Self, InvalidSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(InvalidSecret)?;
        let key = STANDARD.decode(encoded).map_err(|_| InvalidSecret)?;
        match SIZES.contains(&key.len()) {
            true => Ok(Self(key)),
            false => Err(InvalidSecret),
        }
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        format!("{PREFIX}{}", STANDARD.encode(secret.0))
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Returns the value of `webhook-timestamp`: whole seconds since 1970-01-01 00:00 UTC.
pub(super) fn seconds(at: Timestamp) -> i64 {
    at.as_millis().div_euclid(1000)
}

/// Returns the value of `webhook-signature`: a signature by each of the secrets, so that a receiver
/// needs only one of them.
pub(super) fn sign(secrets: &[Secret], id: &str, seconds: i64, payload: &str) -> String {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|Secret(key)| {
            let webhook = Webhook::from_bytes(key.clone()).expect("any bytes are a key");
            let signature = webhook.sign(id, seconds, payload.as_bytes());
            signature.expect("the payload is UTF-8")
        })
        .collect();
    signatures.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification and of its libraries.
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECONDS: i64 = 1_614_265_330;
    const PAYLOAD: &str = r#"{"test": 2432232314}"#;
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn secret(text: &str) -> Result<Secret, InvalidSecret> {
        Secret::try_from(text.to_owned())
    }

    #[test]
    fn the_example_is_signed_as_published() {
        let secrets = [secret(SECRET).unwrap()];
        assert_eq!(sign(&secrets, ID, SECONDS, PAYLOAD), SIGNATURE);
    }

    #[test]
    fn every_secret_signs() {
        let new = secret(&format!("whsec_{}", STANDARD.encode([7; 32]))).unwrap();
        let secrets = [new.clone(), secret(SECRET).unwrap()];
        let signatures = sign(&secrets, ID, SECONDS, PAYLOAD);
        let (first, second) = signatures.split_once(' ').unwrap();
        assert_eq!(first, sign(&[new], ID, SECONDS, PAYLOAD));
        assert_eq!(second, SIGNATURE);
    }

    #[test]
    fn a_secret_reads_back_and_is_not_shown() {
        let own = secret(SECRET).unwrap();
        assert!(!format!("{own:?}").contains("MfKQ"));
        assert_eq!(String::from(own), SECRET);
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        for text in [
            "",
            "whsec_",
            "secret",
            &SECRET[6..],
            &short,
            &long,
            "whsec_?",
        ] {
            assert_eq!(secret(text), Err(InvalidSecret), "{text}");
        }
    }
}
