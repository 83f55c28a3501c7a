//! HTTP/1.1 and HTTP/2 over sockets and TLS, for any service: listeners, connections and their end.
//!
//! [`serve`] runs one service (an `axum::Router`, say) over any number of [`Listener`]s. HTTP/1.1
//! goes through hyper, HTTP/2 through the `h2` crate directly, because neither hyper nor axum can
//! send interim responses. Each request carries a [`Peer`] and an [`Interim`] in its extensions;
//! [`BodyError::of`] tells the errors of its body apart.
//!
//! A connection is accepted in `server`, gets its place in `places`, and finds its protocol in
//! `connection`. Everything that does not depend on the protocol is written once: the context of a
//! connection (`context`), request bodies (`body`), their handling on streams of their own
//! (`request`), the policy of answers (`answer`), and the memory that peers can make the server
//! hold (`memory`).

mod address;
mod answer;
mod body;
mod config;
mod connection;
mod context;
mod counted_body;
mod date;
mod h1;
mod h2;
mod interim;
mod io;
mod listener;
mod memory;
mod metrics;
mod places;
mod refusal;
mod request;
mod server;
mod stall;
mod tls;

pub use self::{
    address::{InvalidAddress, ListenAddress, text_or_port},
    body::BodyError,
    config::{Config, ConfigError, Http2Config, InterimPolicy, ListenConfig, TlsConfig},
    context::Peer,
    interim::{Cut, Interim, InterimError},
    listener::{ListenError, Listener},
    memory::Memory,
    server::{Drained, serve},
    tls::{Certificate, TlsError},
};
