//! Metrics at the seams: decorators of the stores' ports, and a layer around routers.
//!
//! [`blob_store()`], [`metadata_store()`], [`pack_store()`] and [`event_store()`] return a store that does
//! what the given one does and records each call: its duration and outcome, errors by kind, calls in
//! flight, bytes as they flow. [`router`] does the same for requests. The metrics and their labels
//! are in one table ([`METRICS`]).
//!
//! Everything goes through the [`metrics`] facade. Handles are taken from the recorder when a store
//! is wrapped or a series first used, and kept: install the recorder before.
//!
//! Without a recorder, a call of a store costs one allocation and about 500 instructions more (two
//! readings of the clock), a chunk of a stream no allocation and 200 instructions, a request 8
//! allocations and 4,000 instructions (callgrind, x86-64, optimised).

mod blob_store;
mod metadata_store;
mod operation;
mod requests;
mod table;

pub use self::blob_store::blob_store;
pub use self::metadata_store::{event_store, metadata_store, pack_store};
pub use self::requests::router;
pub use self::table::{Kind, METRICS, Metric, describe};

#[cfg(test)]
mod tests;
