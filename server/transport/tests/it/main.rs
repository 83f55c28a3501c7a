//! The transport as its clients see it: real sockets, raw bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod bodies;
mod codings;
mod ends;
mod floods;
mod interim;
mod limits;
mod places;
mod shutdown;
mod support;
mod tls;
