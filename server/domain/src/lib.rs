//! What Longhaul does, apart from how it is spoken to and where it keeps things: use cases, and the ports that they need.
//!
//! Services ([`Uploads`], [`Files`]) are reached only through [`Authorized`]. Ports ([`BlobStore`], [`MetadataStore`]) say in
//! their documents what an adapter must promise; `testing` (feature `testing`) holds the suites that check it.

pub mod access;
pub mod blob_store;
mod buffers;
pub mod cleanup;
pub mod clock;
pub mod digest;
pub mod error;
pub mod event_store;
pub mod events;
pub mod files;
pub mod gatekeeper;
pub mod health;
mod holders;
pub mod ids;
mod ingest;
pub mod leases;
pub mod metadata_store;
pub mod pack_store;
pub mod packs;
pub mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;
pub mod upload;
pub mod uploads;
pub mod webhooks;

pub use access::Authorized;
pub use blob_store::{Blob, BlobStore, StagedBlob};
pub use clock::{Clock, Timestamp};
pub use error::Error;
pub use event_store::EventStore;
pub use events::Outbox;
pub use files::{File, FilePath, Files};
pub use health::Health;
pub use ids::{BlobKey, DraftId, NodeId, UploadId};
pub use leases::Leases;
pub use metadata_store::MetadataStore;
pub use pack_store::PackStore;
pub use packs::Packs;
pub use supervisor::Supervisor;
pub use uploads::Uploads;
