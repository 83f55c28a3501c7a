//! Longhaul: domain.
