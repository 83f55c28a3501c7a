//! Longhaul: edge.
