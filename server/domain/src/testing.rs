//! Contract suites that every adapter of a port must pass, and doubles for tests.

pub mod blob_store;
pub mod faulty_store;
pub mod memory_metadata_store;
pub mod metadata_store;

pub use faulty_store::FaultyStore;
