//! Longhaul: protocol.
