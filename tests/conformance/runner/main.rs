//! Conformance runner for resumable uploads.

fn main() {}
