//! Values: data that is recorded and passed on. They depend on neither ports nor services.

pub mod body;
pub mod digest;
pub mod event;
pub mod file;
pub mod ids;
pub mod pack;
pub mod timestamp;
pub mod upload;
