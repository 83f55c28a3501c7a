//! The changes that can be made, for every engine. Each reads what it decides by, under a
//! [`Lock`](crate::engine::Lock), then writes.

pub(crate) mod drafts;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod leases;
pub(crate) mod uploads;
pub(crate) mod versions;
