//! What the specifications of uploads and downloads say, as pure rules: headers and numbers in, decisions out.
//!
//! Nothing here knows a clock, a socket, a file or an async runtime.

pub mod rejection;
pub mod upload;
