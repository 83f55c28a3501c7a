//! What every blob store must do.
