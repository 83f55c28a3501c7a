//! Changes, for every engine. Each takes its [`Lock`](crate::engine::Lock)s, reads the rows that
//! decide, then writes.

pub(crate) mod drafts;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod leases;
pub(crate) mod uploads;
pub(crate) mod versions;
