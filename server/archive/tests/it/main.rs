//! What users of this crate rely on, seen from outside.

mod interop;
mod large;
mod naive;
mod slices;
mod support;
