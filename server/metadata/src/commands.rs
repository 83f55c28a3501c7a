//! The changes that can be made, for every engine. Each reads what it decides by, under a lock, then
//! writes.
//!
//! Locks are taken in the order of [`Lock`](crate::engine::Lock), and those on blobs at one time:
//! thus no two changes wait for each other.

pub(crate) mod drafts;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod leases;
pub(crate) mod uploads;
pub(crate) mod versions;
