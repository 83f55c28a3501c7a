//! Contract suites that every adapter of a port passes, and doubles for tests.
//!
//! Only for tests: crates name this one in `dev-dependencies` and nowhere else. A unit test of
//! `domain` cannot use it, because the doubles implement the ports of the library, not those of the
//! library that is compiled for its unit tests.

pub mod blob_store;
pub mod clock;
pub mod event_store;
pub mod faults;
pub mod faulty_metadata_store;
pub mod faulty_store;
mod memory_blob_store;
pub mod memory_metadata_store;
pub mod metadata_store;
pub mod pack_store;
pub mod postgres;

pub use clock::ManualClock;
pub use faulty_metadata_store::FaultyMetadataStore;
pub use faulty_store::FaultyStore;
pub use memory_blob_store::MemoryBlobStore;
pub use memory_metadata_store::MemoryMetadataStore;
