//! Addresses to listen on, as people write them.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use schemars::JsonSchema;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The default port for clients.
const DEFAULT_PORT: u16 = 8080;

/// An address and a port to listen on, of which one may be left out.
///
/// | written | meaning |
/// |---|---|
/// | `127.0.0.1:8080`, `[::1]:8080` | that address |
/// | `localhost:8080`, `localhost` | this machine alone: `127.0.0.1`, and `::1` where there is IPv6 |
/// | `8080` | `127.0.0.1` |
/// | `:8080` | every address of this machine, IPv6 and IPv4 |
/// | `0.0.0.0`, `::1`, `[::1]` | that address with the default port |
///
/// Port 0 takes a free one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String", inline, extend("format" = "address"))]
pub struct ListenAddress {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Everywhere,
    Localhost,
    Ip(IpAddr),
}

/// A text that is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it must be an address of this machine and a port: `127.0.0.1:{port}`, `[::1]:{port}` or `localhost:{port}` for this \
     machine alone, `:{port}` for every address"
)]
pub struct InvalidAddress {
    port: u16,
}

impl Default for ListenAddress {
    fn default() -> Self {
        Self::loopback(DEFAULT_PORT)
    }
}

impl ListenAddress {
    /// Returns `127.0.0.1` with this port.
    #[must_use]
    pub const fn loopback(port: u16) -> Self {
        Self {
            host: Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port,
        }
    }

    /// Parses an address; `default_port` stands in for a port that is left out.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`], which shows examples.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, InvalidAddress> {
        let invalid = InvalidAddress { port: default_port };
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(address.into());
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
            let is_written_so = bare.is_none() || ip.is_ipv6();
            return match is_written_so {
                true => Ok(SocketAddr::new(ip, default_port).into()),
                false => Err(invalid),
            };
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None if text.starts_with(|c: char| c.is_ascii_digit()) => ("127.0.0.1", Some(text)),
            None => (text, None),
        };
        let port = match port {
            // `u16` would parse `+80`, too.
            Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => {
                port.parse().map_err(|_| invalid)?
            }
            Some(_) => return Err(invalid),
            None => default_port,
        };
        let host = match host {
            "" if text.starts_with(':') => Host::Everywhere,
            "127.0.0.1" => return Ok(Self::loopback(port)),
            host if host.eq_ignore_ascii_case("localhost") => Host::Localhost,
            _ => return Err(invalid),
        };
        Ok(Self { host, port })
    }

    /// Returns the port; 0 takes a free one.
    #[must_use]
    pub fn port(self) -> u16 {
        self.port
    }

    /// Returns true if only this machine can reach the listener.
    #[must_use]
    pub fn is_loopback(self) -> bool {
        match self.host {
            Host::Everywhere => false,
            Host::Localhost => true,
            Host::Ip(ip) => ip.is_loopback(),
        }
    }

    /// Returns the address at which this machine reaches the listener.
    #[must_use]
    pub fn connect_address(self) -> SocketAddr {
        let ip = match self.host {
            Host::Everywhere | Host::Localhost => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Host::Ip(IpAddr::V4(ip)) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Host::Ip(IpAddr::V6(ip)) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            Host::Ip(ip) => ip,
        };
        SocketAddr::new(ip, self.port)
    }

    /// Returns true if listeners on these addresses would need the same socket.
    #[must_use]
    pub fn conflicts_with(self, other: Self) -> bool {
        let is_everywhere = |address: Self| match address.host {
            Host::Everywhere => true,
            Host::Localhost => false,
            Host::Ip(ip) => ip.is_unspecified(),
        };
        let same_host = self.connect_address() == other.connect_address()
            || is_everywhere(self)
            || is_everywhere(other);
        self.port != 0 && self.port == other.port && same_host
    }

    /// Returns the sockets to bind, in order.
    pub(crate) fn binds(self) -> Vec<Bind> {
        let bind = |ip, required| Bind {
            address: SocketAddr::new(ip, self.port),
            required,
        };
        let (v4, v6) = (IpAddr::V4, IpAddr::V6);
        match self.host {
            Host::Ip(ip) => vec![bind(ip, Required::Always)],
            Host::Everywhere => vec![
                bind(v6(Ipv6Addr::UNSPECIFIED), Required::IfAvailable),
                bind(v4(Ipv4Addr::UNSPECIFIED), Required::UnlessCovered),
            ],
            Host::Localhost => vec![
                bind(v4(Ipv4Addr::LOCALHOST), Required::Always),
                bind(v6(Ipv6Addr::LOCALHOST), Required::IfAvailable),
            ],
        }
    }
}

/// One socket of a [`ListenAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) address: SocketAddr,
    pub(crate) required: Required,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Required {
    Always,
    /// Optional on a machine that does not have it, as `::1` without IPv6.
    IfAvailable,
    /// Optional if an earlier socket serves it: most systems serve IPv4 on `[::]`, too.
    UnlessCovered,
}

impl Required {
    /// Returns true if the listener cannot do without the socket that fails so; `others` tells that
    /// an earlier socket is bound.
    pub(crate) fn is_required(self, failure: &io::Error, others: bool) -> bool {
        match self {
            Self::Always => true,
            Self::IfAvailable => matches!(
                failure.kind(),
                ErrorKind::AddrInUse | ErrorKind::PermissionDenied
            ),
            Self::UnlessCovered => !(others && failure.kind() == ErrorKind::AddrInUse),
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: Host::Ip(address.ip()),
            port: address.port(),
        }
    }
}

impl std::str::FromStr for ListenAddress {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text, DEFAULT_PORT)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host {
            Host::Everywhere => write!(f, ":{}", self.port),
            Host::Localhost => write!(f, "localhost:{}", self.port),
            Host::Ip(ip) => SocketAddr::new(ip, self.port).fmt(f),
        }
    }
}

impl Serialize for ListenAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ListenAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_port(deserializer, |text| text.parse::<Self>())
    }
}

/// Deserializes text, or a port number as its text: `listen = 8080`.
pub fn text_or_port<'de, D, T, E>(
    deserializer: D,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    E: fmt::Display,
{
    struct TextOrPort<F>(F);

    impl<T, E: fmt::Display, F: Fn(&str) -> Result<T, E>> Visitor<'_> for TextOrPort<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address and a port")
        }

        fn visit_str<D: serde::de::Error>(self, text: &str) -> Result<T, D> {
            (self.0)(text).map_err(D::custom)
        }

        fn visit_i64<D: serde::de::Error>(self, port: i64) -> Result<T, D> {
            self.visit_str(&port.to_string())
        }
    }

    deserializer.deserialize_any(TextOrPort(read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_people_write_it() {
        for (text, read, is_loopback) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("[::1]:80", "[::1]:80", true),
            ("192.0.2.1:80", "192.0.2.1:80", false),
            ("localhost:80", "localhost:80", true),
            ("LOCALHOST", "localhost:8080", true),
            ("80", "127.0.0.1:80", true),
            ("0", "127.0.0.1:0", true),
            (":80", ":80", false),
            ("0.0.0.0", "0.0.0.0:8080", false),
            ("127.0.0.2", "127.0.0.2:8080", true),
            ("::", "[::]:8080", false),
            ("::1", "[::1]:8080", true),
            ("[::1]", "[::1]:8080", true),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), read, "{text}");
            assert_eq!(address.is_loopback(), is_loopback, "{text}");
            assert_eq!(read.parse::<ListenAddress>().unwrap(), address, "{read}");
        }
    }

    #[test]
    fn what_names_no_place_is_refused_with_examples() {
        for text in [
            "",
            ":",
            "nowhere",
            "example.org:80",
            "65536",
            "-1",
            ":+80",
            "127.0.0.1:",
            "[127.0.0.1]",
            "localhost:",
            "http://127.0.0.1:80",
            "1.2.3",
            "127.0.0.1 :80",
            "[::1",
            ":80:80",
        ] {
            let refused = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(refused.contains("`127.0.0.1:8080`"), "{text}: {refused}");
        }
    }

    #[test]
    fn two_places_meet_where_they_would_want_the_same_socket() {
        for (one, other, meet) in [
            ("8080", "8080", true),
            (":8080", "8080", true),
            ("localhost:8080", "127.0.0.1:8080", true),
            ("0.0.0.0:8080", "192.0.2.1:8080", true),
            ("192.0.2.1:8080", "192.0.2.2:8080", false),
            ("8080", "8081", false),
            ("0", "0", false),
        ] {
            let [one, other]: [ListenAddress; 2] = [one, other].map(|text| text.parse().unwrap());
            assert_eq!(one.conflicts_with(other), meet, "{one} {other}");
            assert_eq!(other.conflicts_with(one), meet, "{other} {one}");
        }
    }

    #[test]
    fn a_listener_everywhere_is_reached_on_loopback() {
        for (text, connect_address) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            (":80", "127.0.0.1:80"),
            ("localhost:80", "127.0.0.1:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            let address: ListenAddress = text.parse().unwrap();
            assert_eq!(address.connect_address().to_string(), connect_address);
        }
    }
}
