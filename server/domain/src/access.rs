//! Authentication and authorization. A service is reached only through [`Authorized`], whose
//! methods check the principal first.

use std::fmt::{self, Debug};
use std::sync::Arc;

use arc_swap::ArcSwap;
use archive::PackName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use thiserror::Error;

use crate::digest::Sha256Digest;
use crate::{Error, FilePath};

/// API keys of the server, and open access.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// API keys. Each has all permissions of the operator. If there is one, every request needs
    /// one. `SIGHUP` reloads them.
    pub keys: Vec<ApiKey>,
    /// Serve everyone without a key, on any address; refused together with keys. Without keys and
    /// `open`, the server listens on loopback addresses only.
    pub open: bool,
}

/// API key in the configuration: only its hash, so that the configuration reveals no key.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApiKey {
    /// Name of its user, for logs.
    pub name: Arc<str>,
    /// SHA-256 of the key, 64 hexadecimal digits; `longhaul hash-key` makes both.
    #[serde(with = "hex_digest")]
    #[schemars(with = "String")]
    pub sha256: Sha256Digest,
}

impl Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Reasons to reject a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denied {
    /// A credential is required, and the request has none.
    #[error("a credential is needed")]
    Missing,
    /// The credential is not valid on this server.
    #[error("the credential is not valid")]
    Invalid,
}

/// Credential of a request.
#[derive(Clone, Copy)]
pub enum Credential<'a> {
    /// No credential.
    None,
    /// A bearer token (RFC 6750).
    Bearer(&'a str),
    /// An authentication scheme that the server does not support.
    Unknown,
}

impl Debug for Credential<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Bearer(_) => "Bearer",
            Self::Unknown => "Unknown",
        })
    }
}

/// Authenticates principals. Clones share the same rules.
#[derive(Debug, Clone)]
pub struct Authenticator {
    rules: Arc<ArcSwap<Rules>>,
}

#[derive(Debug)]
struct Rules {
    keys: Box<[ApiKey]>,
    /// True if the operator declared that a server without keys serves everyone who reaches it.
    is_meant_open: bool,
}

impl Rules {
    fn new(config: &Config) -> Self {
        Self {
            keys: config.keys.clone().into(),
            is_meant_open: config.open,
        }
    }
}

impl Authenticator {
    /// Builds the authenticator that `config` describes. With a key, every request needs one, even
    /// if `config` is open; without keys the server is open.
    pub fn new(config: &Config) -> Self {
        Self {
            rules: Arc::new(ArcSwap::from_pointee(Rules::new(config))),
        }
    }

    /// Replaces the rules with `config`. A principal that was admitted before stays admitted until
    /// its request ends.
    pub fn change(&self, config: &Config) {
        self.rules.store(Arc::new(Rules::new(config)));
    }

    /// Returns true if every request is admitted.
    pub fn is_open(&self) -> bool {
        self.rules.load().keys.is_empty()
    }

    /// Returns true if every request is admitted only because nobody but this machine should reach
    /// the server: there is no key, and the operator did not declare it open.
    pub fn is_local_only(&self) -> bool {
        let rules = self.rules.load();
        rules.keys.is_empty() && !rules.is_meant_open
    }

    /// Returns the principal that presents this credential.
    ///
    /// # Errors
    /// [`Denied`], unless the server is open.
    pub fn admit(&self, credential: Credential<'_>) -> Result<Principal, Denied> {
        let rules = self.rules.load();
        if rules.keys.is_empty() {
            return Ok(Principal(Identity::Anyone));
        }
        let Credential::Bearer(token) = credential else {
            return Err(match credential {
                Credential::None => Denied::Missing,
                Credential::Bearer(_) | Credential::Unknown => Denied::Invalid,
            });
        };
        let presented: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        let mut found = None;
        for key in &rules.keys {
            let same: Choice = key.sha256.as_bytes().ct_eq(&presented);
            if bool::from(same) {
                found = Some(Arc::clone(&key.name));
            }
        }
        found
            .map(|name| Principal(Identity::Operator(name)))
            .ok_or(Denied::Invalid)
    }

    /// Returns the principal that presents this credential to an upload resource, whose URL is
    /// itself a capability: a credential is optional, but must be valid if present.
    ///
    /// # Errors
    /// [`Denied::Invalid`].
    pub fn admit_holder(&self, credential: Credential<'_>) -> Result<Principal, Denied> {
        match self.admit(credential) {
            Err(Denied::Missing) => Ok(Principal(Identity::Holder)),
            admitted => admitted,
        }
    }
}

/// An authenticated principal.
#[derive(Debug, Clone)]
pub struct Principal(Identity);

#[derive(Debug, Clone)]
enum Identity {
    /// The owner of an API key.
    Operator(Arc<str>),
    /// A client of an open server.
    Anyone,
    /// A client that knows the URL of an upload.
    Holder,
}

/// Actions that a principal may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action<'a> {
    /// Read the file under a path.
    Read(&'a FilePath),
    /// Write the file under a path; `None` if the server names it.
    Write(Option<&'a FilePath>),
    /// Delete the file under a path.
    Delete(&'a FilePath),
    /// List files, packs, or the principal's own uploads.
    List,
    /// Read a pack.
    ReadPack(&'a PackName),
    /// Publish a pack, and retire versions of it.
    PublishPack(&'a PackName),
    /// Use an upload through its URL.
    UseUpload,
}

impl Principal {
    /// Returns the principal's name for records and logs; `None` without an API key.
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            Identity::Operator(name) => Some(name),
            Identity::Anyone | Identity::Holder => None,
        }
    }

    /// Allows or forbids the action.
    pub(crate) fn check(&self, action: Action<'_>) -> Result<(), Error> {
        match (&self.0, action) {
            (Identity::Operator(_) | Identity::Anyone, _)
            | (Identity::Holder, Action::UseUpload) => Ok(()),
            (
                Identity::Holder,
                Action::Read(_)
                | Action::Write(_)
                | Action::Delete(_)
                | Action::List
                | Action::ReadPack(_)
                | Action::PublishPack(_),
            ) => Err(Error::Forbidden),
        }
    }
}

/// A service and the principal that uses it. Operations of a service exist on this type alone, and
/// each checks the principal first.
#[derive(Debug, Clone)]
pub struct Authorized<S> {
    pub(crate) principal: Principal,
    pub(crate) service: S,
}

impl<S> Authorized<S> {
    /// Lets `principal` use `service`.
    pub fn new(principal: Principal, service: S) -> Self {
        Self { principal, service }
    }
}

mod hex_digest {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::digest::Sha256Digest;

    pub(super) fn serialize<S: Serializer>(
        digest: &Sha256Digest,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Sha256Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.to_ascii_lowercase()
            .parse()
            .map_err(|_| D::Error::custom("a SHA-256 value has 64 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &[&str], open: bool) -> Config {
        Config {
            keys: keys
                .iter()
                .map(|key| ApiKey {
                    name: format!("holder of {key}").into(),
                    sha256: Sha256Digest::of(key.as_bytes()),
                })
                .collect(),
            open,
        }
    }

    fn authenticator(keys: &[&str]) -> Authenticator {
        Authenticator::new(&config(keys, false))
    }

    #[test]
    fn a_key_lets_in_and_nothing_else_does() {
        let authenticator = authenticator(&["one", "two"]);
        let operator = authenticator.admit(Credential::Bearer("two")).unwrap();
        assert_eq!(operator.name(), Some("holder of two"));
        for (credential, reason) in [
            (Credential::None, Denied::Missing),
            (Credential::Bearer(""), Denied::Invalid),
            (Credential::Bearer("three"), Denied::Invalid),
            (Credential::Unknown, Denied::Invalid),
        ] {
            assert_eq!(authenticator.admit(credential).unwrap_err(), reason);
        }
    }

    #[test]
    fn an_upload_url_needs_no_key_and_gives_nothing_else() {
        let authenticator = authenticator(&["one"]);
        let holder = authenticator.admit_holder(Credential::None).unwrap();
        assert!(holder.check(Action::UseUpload).is_ok());
        assert!(matches!(holder.check(Action::List), Err(Error::Forbidden)));
        assert!(
            authenticator
                .admit_holder(Credential::Bearer("bad"))
                .is_err()
        );
    }

    #[test]
    fn without_keys_everyone_is_let_in() {
        assert!(authenticator(&[]).admit(Credential::None).is_ok());
    }

    #[test]
    fn where_there_is_a_key_one_is_asked_for_whatever_else_is_said() {
        let authenticator = Authenticator::new(&config(&["one"], true));
        assert!(!authenticator.is_open());
        assert_eq!(
            authenticator.admit(Credential::None).unwrap_err(),
            Denied::Missing
        );
    }

    #[test]
    fn other_rules_hold_from_the_next_request_on() {
        let authenticator = authenticator(&[]);
        let api = authenticator.clone();
        assert!(api.is_local_only());
        authenticator.change(&config(&["one"], false));
        assert!(!api.is_open() && !api.is_local_only());
        let admitted = api.admit(Credential::Bearer("one")).unwrap();
        authenticator.change(&config(&["two"], false));
        assert!(api.admit(Credential::Bearer("one")).is_err());
        assert!(admitted.check(Action::List).is_ok());
        authenticator.change(&config(&[], true));
        assert!(api.is_open() && !api.is_local_only());
    }
}
