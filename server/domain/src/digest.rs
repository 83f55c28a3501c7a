//! The digest that names a representation: SHA-256, computed as bytes arrive and resumable across restarts.

use std::fmt::{self, Debug, Display};

use digest::Digest;
use digest::common::hazmat::SerializableState;

/// A SHA-256 value.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256Digest([u8; 32]);

impl Sha256Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The digest with this value.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Display for Sha256Digest {
    /// Lower-case hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

/// A running SHA-256.
#[derive(Debug, Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// One that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that goes on where `state` was taken; `None` when the state is not one of ours.
    pub fn resume(state: &HashState) -> Option<Self> {
        let state = state.0.as_slice().try_into().ok()?;
        sha2::Sha256::deserialize(&state).ok().map(Self)
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// What [`Hasher::resume`] needs to go on from here.
    pub fn state(&self) -> HashState {
        HashState(self.0.serialize().to_vec())
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Sha256Digest {
        Sha256Digest(self.0.finalize().into())
    }
}

/// A running SHA-256 as it is stored beside an upload's offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashState(Vec<u8>);

impl HashState {
    /// The state as it was stored.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_state_goes_on() {
        let mut first = Hasher::new();
        first.update(b"the first part, then ");
        let mut second = Hasher::resume(&first.state()).unwrap();
        second.update(b"the second");
        assert_eq!(
            second.finish(),
            Sha256Digest::of(b"the first part, then the second")
        );
    }

    #[test]
    fn a_foreign_state_is_refused() {
        assert!(Hasher::resume(&HashState::from_bytes(vec![1, 2, 3])).is_none());
    }
}
