//! Longhaul: app.
