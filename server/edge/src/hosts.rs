//! Host names of a server, checked where requests need no credential.
//!
//! A browser lets a page send requests to the server that the page came from, and identifies that
//! server by the host name in its URL. The owner of a name can point it to this machine once the
//! page is loaded (DNS rebinding). The request then has no `Origin` that would reveal the page, but
//! it still states the name, in `Host` or `:authority`. So a server that is open to everyone on
//! this machine answers only under names that no stranger can point to it:
//!
//! - addresses, because they are not looked up,
//! - `localhost` and the names below it (RFC 6761 §6.3),
//! - names without a dot, which nobody can register,
//! - names in the configuration.
//!
//! A request that states no name at all (HTTP/1.0) does not come from a page.

use std::net::IpAddr;

use axum::extract::Request;
use http::header::HOST;
use http::uri::Authority;
use http::{HeaderValue, Uri};

/// Maximum length of a name that a problem repeats, in bytes.
const MAX_NAME: usize = 100;

/// The names that are accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    names: Vec<String>,
    addresses: Addresses,
}

/// The addresses that are accepted as names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Addresses {
    /// Loopback addresses.
    #[default]
    Loopback,
    All,
}

impl Hosts {
    /// Accepts this machine's own names for itself, and `names`.
    pub fn of_this_machine<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::new(names, Addresses::Loopback)
    }

    /// Accepts every address, this machine's own names for itself, and `names`.
    pub fn of_any_address<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Self {
        Self::new(names, Addresses::All)
    }

    fn new<S: Into<String>>(names: impl IntoIterator<Item = S>, addresses: Addresses) -> Self {
        let plain = |name: S| plain(&name.into()).to_ascii_lowercase();
        Self {
            names: names.into_iter().map(plain).collect(),
            addresses,
        }
    }

    /// Returns the name that a request states, if it is not accepted.
    pub(crate) fn stranger(&self, request: &Request) -> Option<String> {
        let target = request.uri().authority().map(Authority::as_str);
        let fields = request.headers().get_all(HOST).iter();
        target
            .map(str::as_bytes)
            .into_iter()
            .chain(fields.map(HeaderValue::as_bytes))
            .find(|name| !self.include(name))
            .map(|name| name[..name.len().min(MAX_NAME)].escape_ascii().to_string())
    }

    /// Returns whether a request may be sent to this name, which may have a port.
    fn include(&self, authority: &[u8]) -> bool {
        let Some(host) = host(authority) else {
            return false;
        };
        self.are_known(&host) || (!host.is_empty() && !host.contains(['.', '[']))
    }

    /// Returns whether a page of this origin comes from this server or this machine. A page of a
    /// name without a dot may come from another machine.
    pub(crate) fn are_of_page(&self, origin: &HeaderValue) -> bool {
        let origin = Uri::try_from(origin.as_bytes());
        let authority = origin.as_ref().ok().filter(|uri| uri.scheme().is_some());
        authority
            .and_then(Uri::authority)
            .and_then(|authority| host(authority.as_str().as_bytes()))
            .is_some_and(|host| self.are_known(&host))
    }

    fn are_known(&self, host: &str) -> bool {
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            return self.addresses == Addresses::All || address.to_canonical().is_loopback();
        }
        let name = plain(host);
        name == "localhost"
            || name.ends_with(".localhost")
            || self.names.iter().any(|known| known == name)
    }
}

/// Returns the host in lower case, without its port. No client logs in to a server by its name, so
/// `user@` is not part of a name.
fn host(authority: &[u8]) -> Option<String> {
    let authority = Authority::try_from(authority).ok()?;
    let is_plain = !authority.as_str().contains('@');
    is_plain.then(|| authority.host().to_ascii_lowercase())
}

/// Returns a name without the final dot of the root.
fn plain(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_stranger_can_point_here_is_none_of_ours() {
        let hosts = Hosts::of_this_machine(["Files.Example.org"]);
        for (name, included) in [
            ("localhost", true),
            ("LOCALHOST:8080", true),
            ("localhost.", true),
            ("app.localhost:1", true),
            ("127.0.0.1:8080", true),
            ("127.8.9.10", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]", true),
            ("longhaul:8080", true),
            ("files.example.org", true),
            ("files.example.org.:443", true),
            ("attacker.example:8080", false),
            ("localhost.attacker.example", false),
            ("127.0.0.1.nip.io", false),
            ("127.0.0.1.", false),
            ("xlocalhost.example", false),
            ("example.org", false),
            ("evil.files.example.org", false),
            ("attacker.", false),
            ("192.168.1.7:8080", false),
            ("0.0.0.0:8080", false),
            ("[2001:db8::1]", false),
            ("localhost@attacker.example", false),
            ("attacker.example@localhost", false),
            ("localhost:8080:80", false),
            ("local host", false),
            ("", false),
        ] {
            assert_eq!(hosts.include(name.as_bytes()), included, "{name}");
        }
        let admin = Hosts::of_any_address(Vec::<String>::new());
        for (name, included) in [
            ("10.1.2.3:9090", true),
            ("[2001:db8::1]:9090", true),
            ("localhost:9090", true),
            ("longhaul-admin:9090", true),
            ("files.example.org", false),
            ("10.1.2.3.nip.io", false),
        ] {
            assert_eq!(admin.include(name.as_bytes()), included, "{name}");
        }
    }

    #[test]
    fn pages_of_this_machine_are_known() {
        let hosts = Hosts::of_this_machine(["files.example.org"]);
        for (origin, local) in [
            ("http://localhost:3000", true),
            ("HTTP://LOCALHOST", true),
            ("http://app.localhost", true),
            ("http://127.0.0.1:8080", true),
            ("http://[::1]:8080", true),
            ("https://files.example.org", true),
            ("https://example.org", false),
            ("https://localhost.example.org", false),
            ("http://127.0.0.1.example.org", false),
            ("http://intranet", false),
            ("null", false),
            ("localhost", false),
            ("file://", false),
        ] {
            assert_eq!(
                hosts.are_of_page(&HeaderValue::from_static(origin)),
                local,
                "{origin}"
            );
        }
    }
}
