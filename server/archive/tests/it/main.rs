//! Tests of this crate's public interface.

#[cfg(test)]
mod interop;
#[cfg(test)]
mod large;
#[cfg(test)]
mod naive;
#[cfg(test)]
mod slices;
#[cfg(test)]
mod support;
#[cfg(test)]
mod unpacking;
