//! Contract suites that every adapter of a port must pass, and doubles for tests.

pub mod blob_store;
pub mod clock;
pub mod event_store;
pub mod faulty_metadata_store;
pub mod faulty_store;
pub mod memory_metadata_store;
pub mod metadata_store;
pub mod pack_store;

pub use clock::ManualClock;
pub use faulty_metadata_store::FaultyMetadataStore;
pub use faulty_store::FaultyStore;
pub use memory_metadata_store::MemoryMetadataStore;
