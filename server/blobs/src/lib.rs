//! Longhaul: blobs.
