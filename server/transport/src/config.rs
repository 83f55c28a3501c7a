//! Settings of the transport: every limit and timeout, with its unit and its default.

use std::{net::IpAddr, net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// Limits and timeouts of the transport. Times are written as in `75s` or `2m`, sizes as in `32
/// KiB`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Connections served at once, over all listeners of one [`serve`](crate::serve). When all
    /// places are taken, the address that holds the most of them gives one up for an address that
    /// holds fewer: it loses a connection that is idle or has not sent a whole head, and one with a
    /// request only if it has more than its share of the places. The /64 of an IPv6 address counts
    /// as one address. New connections wait while there is no room, an eighth of `max_connections`
    /// at most.
    pub max_connections: usize,
    /// Maximum number of connections of one address, such as 1000. Without it, one address may have
    /// all places that nobody else needs, as a reverse proxy or the clients behind one NAT do.
    pub max_connections_per_peer: Option<usize>,
    /// Reverse proxies in front of this server, as addresses or networks, such as `["10.0.0.5",
    /// "10.1.0.0/16"]`. Their connections are those of many clients: `max_connections_per_peer`
    /// does not apply to them, and their requests are never cut to make room.
    #[serde(deserialize_with = "addresses_or_networks")]
    #[schemars(with = "Vec<settings::Network>")]
    pub proxies: Vec<IpNet>,
    /// Requests that may run on after their client is gone, over all connections: uploads that were
    /// begun and cut, until the bytes that arrived are stored. Beyond it, an address that left such
    /// requests is not served until there are fewer.
    pub max_detached_requests: usize,
    /// Largest head of a request: request line and fields, in bytes. `431` beyond. 8 KiB to 1 MiB.
    #[schemars(with = "settings::Size")]
    pub max_head_size: ByteSize,
    /// Maximum number of fields in a head, and in a trailer section. `431` beyond. HTTP/1 only;
    /// HTTP/2 is bounded by the size.
    pub max_head_fields: usize,
    /// Time from the first byte of a head to its last, and for the HTTP/2 preface. The wait for the
    /// first byte does not count.
    #[serde(with = "settings::Time")]
    pub head_timeout: Duration,
    /// Time for which a connection may stay open without a request, from the last one or from its
    /// start. Proxies keep connections for reuse, most for 60 s: stay above.
    #[serde(with = "settings::Time")]
    pub keep_alive_timeout: Duration,
    /// Time for a TLS handshake.
    #[serde(with = "settings::Time")]
    pub tls_handshake_timeout: Duration,
    /// Time for which a request's body may bring nothing before the exchange is cut. A slow body is
    /// fine as long as bytes arrive.
    #[serde(with = "settings::Time")]
    pub body_idle_timeout: Duration,
    /// Time for which a peer may leave an answer unread, not taking a single byte, before it is cut
    /// off. With less than a quarter of `memory.total` left, it has to take 64 KiB in that time.
    #[serde(with = "settings::Time")]
    pub write_stall_timeout: Duration,
    /// Maximum number of bytes of answers that wait in the kernel for one connection, beyond those
    /// on their way to the peer: the cost there of a peer that does not read. More is no faster. 16
    /// KiB to 16 MiB; Linux and macOS only.
    #[schemars(with = "settings::Size")]
    pub max_unsent: ByteSize,
    /// Time to read on and discard when a handler answered without reading the body, so that the
    /// client sees the answer and not a reset connection.
    #[serde(with = "settings::Time")]
    pub linger_timeout: Duration,
    /// Maximum number of bytes discarded that way.
    #[schemars(with = "settings::Size")]
    pub linger_size: ByteSize,
    /// Time to serve on after the shutdown signal before connections are refused, while `/readyz`
    /// says 503 already. As long as the load balancer in front takes to notice; without one, zero.
    #[serde(with = "settings::Time")]
    pub drain_delay: Duration,
    /// Time for exchanges to end, after the shutdown signal and `drain_delay`, before they are cut.
    #[serde(with = "settings::Time")]
    pub drain_grace: Duration,
    /// Peers that get interim responses.
    pub interim: InterimPolicy,
    /// Proxies that cannot relay interim responses (nginx takes one for the final answer), as
    /// addresses or networks. Used with `interim = "trusted"`.
    #[serde(deserialize_with = "addresses_or_networks")]
    #[schemars(with = "Vec<settings::Network>")]
    pub interim_untrusted_proxies: Vec<IpNet>,
    /// HTTP/2 only.
    pub http2: Http2Config,
}

/// Limits of one HTTP/2 connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http2Config {
    /// Streams open at once, and requests of one connection that are handled at once, those of
    /// reset streams included.
    pub max_streams: u32,
    /// Receive window of each stream at the start: the bytes that a client may send ahead of the
    /// handler. A connection's window is twice that. It is memory that every connection can take,
    /// so it begins small, and grows where that makes an upload faster. 64 KiB or more.
    #[schemars(with = "settings::Size")]
    pub window: ByteSize,
    /// Maximum window of a stream on a path whose delay needs it: one window a round trip is the
    /// most that one upload can carry. At most 512 MiB.
    #[schemars(with = "settings::Size")]
    pub max_window: ByteSize,
    /// Bytes by which the windows of all connections together may grow, which count in
    /// `memory.total`. Beyond it, windows stay as they are.
    #[schemars(with = "settings::Size")]
    pub window_growth: ByteSize,
    /// Largest frame that a client may send. 16 KiB to 16 MiB.
    #[schemars(with = "settings::Size")]
    pub max_frame_size: ByteSize,
}

/// Peers that get interim responses such as 104. `100 Continue` is not affected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InterimPolicy {
    /// Every peer that speaks HTTP/1.1 or later.
    On,
    /// No peer.
    Off,
    /// Every peer but the listed proxies.
    #[default]
    Trusted,
}

/// One address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenConfig {
    /// Address to listen on; port 0 takes a free one.
    pub address: SocketAddr,
    /// TLS; without it, cleartext HTTP/1.1 and HTTP/2 by prior knowledge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
}

/// A listener's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// Interval at which the two files are read again. A new pair is used from then on; a broken
    /// one is logged, and the old pair stays in use.
    #[serde(default = "default_reload_interval", with = "settings::Time")]
    pub reload_interval: Duration,
}

impl TlsConfig {
    /// Returns the configuration for these files, with the default interval.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            reload_interval: default_reload_interval(),
        }
    }
}

fn default_reload_interval() -> Duration {
    Duration::from_secs(30)
}

/// Deserializes `10.0.0.5` as the network `10.0.0.5/32`, and networks as they are.
fn addresses_or_networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let read = |text: String| {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
            D::Error::custom(format!(
                "`{text}` is neither an address nor a network such as 10.0.0.0/8"
            ))
        })
    };
    let texts = Vec::<String>::deserialize(from)?;
    texts.into_iter().map(read).collect()
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_peer: None,
            proxies: Vec::new(),
            max_detached_requests: 200,
            max_head_size: ByteSize::kib(32),
            max_head_fields: 100,
            head_timeout: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(90),
            tls_handshake_timeout: Duration::from_secs(15),
            body_idle_timeout: Duration::from_secs(60),
            write_stall_timeout: Duration::from_secs(60),
            max_unsent: ByteSize::kib(128),
            linger_timeout: Duration::from_secs(2),
            linger_size: ByteSize::mib(1),
            drain_delay: Duration::ZERO,
            drain_grace: Duration::from_secs(30),
            interim: InterimPolicy::default(),
            interim_untrusted_proxies: Vec::new(),
            http2: Http2Config::default(),
        }
    }
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            max_streams: 128,
            window: ByteSize::kib(64),
            max_window: ByteSize::mib(8),
            window_growth: ByteSize::mib(128),
            max_frame_size: ByteSize::kib(32),
        }
    }
}

/// A value of [`Config`] that is out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {rule}")]
pub struct ConfigError {
    field: &'static str,
    rule: &'static str,
}

impl ConfigError {
    /// Returns the field's path below [`Config`].
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.field
    }
}

impl Config {
    /// Checks the ranges of all values.
    ///
    /// # Errors
    ///
    /// The first field out of its range.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |field, value: ByteSize, min: ByteSize, max: ByteSize, rule| {
            if value < min || value > max {
                Err(ConfigError { field, rule })
            } else {
                Ok(())
            }
        };
        within(
            "max_head_size",
            self.max_head_size,
            ByteSize::kib(8),
            ByteSize::mib(1),
            "8 KiB to 1 MiB",
        )?;
        within(
            "max_unsent",
            self.max_unsent,
            ByteSize::kib(16),
            ByteSize::mib(16),
            "16 KiB to 16 MiB",
        )?;
        within(
            "http2.window",
            self.http2.window,
            ByteSize::kib(64),
            ByteSize::mib(512),
            "64 KiB to 512 MiB",
        )?;
        within(
            "http2.max_window",
            self.http2.max_window,
            self.http2.window,
            ByteSize::mib(512),
            "http2.window to 512 MiB",
        )?;
        within(
            "http2.max_frame_size",
            self.http2.max_frame_size,
            ByteSize::kib(16),
            ByteSize::b((1 << 24) - 1),
            "16 KiB to 16 MiB less one byte",
        )?;
        for (field, count) in [
            ("max_connections", self.max_connections),
            (
                "max_connections_per_peer",
                self.max_connections_per_peer.unwrap_or(usize::MAX),
            ),
            ("max_detached_requests", self.max_detached_requests),
            ("max_head_fields", self.max_head_fields),
            ("http2.max_streams", self.http2.max_streams as usize),
        ] {
            if count == 0 {
                return Err(ConfigError {
                    field,
                    rule: "1 or more",
                });
            }
        }
        Ok(())
    }

    /// Returns true if the peer at `address` may be sent interim responses.
    pub(crate) fn allows_interim(&self, address: IpAddr) -> bool {
        match self.interim {
            InterimPolicy::On => true,
            InterimPolicy::Off => false,
            InterimPolicy::Trusted => {
                // An IPv4 peer of a dual-stack socket shows as ::ffff:a.b.c.d.
                let address = address.to_canonical();
                !self
                    .interim_untrusted_proxies
                    .iter()
                    .any(|proxy| proxy.contains(&address))
            }
        }
    }
}
