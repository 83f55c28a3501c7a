//! Longhaul: edge.

pub mod interim;
pub mod serve;
