//! Longhaul: metadata.
