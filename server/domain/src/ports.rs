//! Ports: traits that stores, clocks and other outside parties implement. They name values only.

pub mod blob_store;
pub mod clock;
pub mod courier;
pub mod event_store;
pub mod gatekeeper;
pub mod metadata_store;
pub mod pack_store;
