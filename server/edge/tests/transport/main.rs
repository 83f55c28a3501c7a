//! The transport as its clients see it: real sockets, raw bytes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod answers;
mod bodies;
mod ends;
mod floods;
mod interim;
mod limits;
mod shutdown;
mod support;
mod tls;
