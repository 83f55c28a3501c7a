//! Use cases of Longhaul, independent of any protocol, and the ports that they need.
//!
//! - *Values* ([`mod@file`], [`upload`], [`pack`], [`event`], …) are recorded and passed on. They
//!   depend on neither ports nor services.
//! - *Ports* ([`BlobStore`], [`MetadataStore`], …) name values only, and document the contract of
//!   an adapter; the crate `testing` holds the suites that check it.
//! - *Services* ([`Uploads`], [`Files`], [`Packs`], …) use both. Services that act for a client are
//!   reached only through [`Authorized`].

mod ports;
mod values;

pub use ports::{blob_store, clock, courier, event_store, gatekeeper, metadata_store, pack_store};
pub use values::{body, digest, event, file, ids, pack, timestamp, upload};

pub mod access;
mod buffers;
mod claims;
pub mod cleanup;
pub mod error;
pub mod files;
pub mod health;
mod ingest;
pub mod leases;
pub mod outbox;
pub mod packs;
pub mod supervisor;
pub mod uploads;
pub mod webhooks;

pub use access::Authorized;
pub use blob_store::{Blob, BlobStore, StagedBlob};
pub use clock::Clock;
pub use error::Error;
pub use event_store::EventStore;
pub use file::{File, FilePath};
pub use files::Files;
pub use health::Health;
pub use ids::{BlobKey, DraftId, NodeId, UploadId};
pub use leases::Leases;
pub use metadata_store::MetadataStore;
pub use outbox::Outbox;
pub use pack_store::PackStore;
pub use packs::Packs;
pub use supervisor::Supervisor;
pub use timestamp::Timestamp;
pub use uploads::Uploads;
