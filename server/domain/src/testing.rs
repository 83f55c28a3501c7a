//! Contract suites that every adapter of a port must pass, and doubles for tests.

pub mod blob_store;
pub mod metadata_store;
