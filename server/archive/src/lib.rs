//! Longhaul: archive.
