//! Longhaul test support.
