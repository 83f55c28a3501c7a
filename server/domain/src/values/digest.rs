//! The digest that names a representation: SHA-256, computed as bytes arrive and resumable across
//! restarts.

use bytes::Bytes;
use protocol::digest::{Algorithm, Stated};

use digest::Digest as _;
use digest::common::hazmat::SerializableState;

pub use archive::Sha256Digest;

/// A running SHA-256.
#[derive(Debug, Clone, Default)]
pub struct Hasher(sha2::Sha256);

impl Hasher {
    /// Starts an empty digest.
    pub fn new() -> Self {
        Self::default()
    }

    /// Resumes from `state`; returns `None` if the bytes are not a state of this algorithm.
    pub fn resume(state: &HashState) -> Option<Self> {
        let state = state.0.as_slice().try_into().ok()?;
        sha2::Sha256::deserialize(&state).ok().map(Self)
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the state that [`Hasher::resume`] needs to continue from here.
    pub fn state(&self) -> HashState {
        HashState(self.0.serialize().to_vec())
    }

    /// Returns the digest of all bytes.
    pub fn finish(self) -> Sha256Digest {
        Sha256Digest::from_bytes(self.0.finalize().into())
    }
}

/// A running SHA-256 as it is stored beside an upload's offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashState(Vec<u8>);

impl HashState {
    /// Wraps a stored state.
    pub fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Returns the bytes to store.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The digests computed while a body arrives: the digest of the entire upload, and those that a
/// request states for its own body.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    whole: Hasher,
    body: Vec<Running>,
}

#[derive(Debug, Clone)]
enum Running {
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
    Sha1(sha1::Sha1),
    Md5(md5::Md5),
    Crc32(crc32fast::Hasher),
}

impl Digests {
    /// Continues `whole`, and starts one digest of the body for each algorithm.
    pub(crate) fn new(whole: Hasher, algorithms: impl IntoIterator<Item = Algorithm>) -> Self {
        let mut body: Vec<Running> = Vec::new();
        for algorithm in algorithms {
            if body.iter().all(|running| running.algorithm() != algorithm) {
                body.push(Running::new(algorithm));
            }
        }
        Self { whole, body }
    }

    /// Adds bytes that are new to the upload.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.whole.update(bytes);
        self.repeat(bytes);
    }

    /// Adds bytes of the body that the upload already has.
    pub(crate) fn repeat(&mut self, bytes: &[u8]) {
        for running in &mut self.body {
            running.update(bytes);
        }
    }

    /// Returns true if hashing `bytes` takes longer than handing them to another thread.
    pub(crate) fn is_worth_a_thread(bytes: &Bytes) -> bool {
        /// Hashing this many bytes takes about 40 microseconds, twice as long as the hand-over.
        const BYTES: usize = 64 * 1024;
        bytes.len() >= BYTES
    }

    /// Adds `bytes`, on another thread if that is faster.
    pub(crate) async fn updated(mut self, bytes: Bytes) -> Self {
        if Self::is_worth_a_thread(&bytes) {
            return self.updated_elsewhere(bytes).await;
        }
        self.update(&bytes);
        self
    }

    /// Adds `bytes` on another thread.
    pub(crate) async fn updated_elsewhere(mut self, bytes: Bytes) -> Self {
        let work = tokio::task::spawn_blocking(move || {
            self.update(&bytes);
            self
        });
        work.await.expect("hashing does not panic")
    }

    /// Returns true if digests of the body itself are computed.
    pub(crate) fn runs_for_body(&self) -> bool {
        !self.body.is_empty()
    }

    /// Returns true if the body's bytes so far have the stated digest; false for an algorithm that
    /// is not computed.
    pub(crate) fn agree(&self, stated: &Stated) -> bool {
        self.body
            .iter()
            .filter(|running| running.algorithm() == stated.algorithm)
            .any(|running| running.value() == stated.value)
    }

    /// Returns the state of the upload's digest.
    pub(crate) fn whole_state(&self) -> HashState {
        self.whole.state()
    }

    /// Returns the upload's digest alone.
    pub(crate) fn into_whole(self) -> Hasher {
        self.whole
    }
}

impl Running {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::default()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::default()),
            Algorithm::Sha1 => Self::Sha1(sha1::Sha1::default()),
            Algorithm::Md5 => Self::Md5(md5::Md5::default()),
            Algorithm::Crc32 => Self::Crc32(crc32fast::Hasher::new()),
        }
    }

    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
            Self::Sha1(_) => Algorithm::Sha1,
            Self::Md5(_) => Algorithm::Md5,
            Self::Crc32(_) => Algorithm::Crc32,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(running) => running.update(bytes),
            Self::Sha512(running) => running.update(bytes),
            Self::Sha1(running) => running.update(bytes),
            Self::Md5(running) => running.update(bytes),
            Self::Crc32(running) => running.update(bytes),
        }
    }

    fn value(&self) -> Vec<u8> {
        match self.clone() {
            Self::Sha256(running) => running.finalize().to_vec(),
            Self::Sha512(running) => running.finalize().to_vec(),
            Self::Sha1(running) => running.finalize().to_vec(),
            Self::Md5(running) => running.finalize().to_vec(),
            Self::Crc32(running) => running.finalize().to_be_bytes().to_vec(),
        }
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
    fn a_body_has_the_digests_that_run_for_it() {
        let check = |algorithm, value: &[u8]| {
            let mut digests = Digests::new(Hasher::new(), [algorithm, algorithm]);
            digests.repeat(b"a");
            digests.update(b"bc");
            let stated = |value: &[u8]| Stated {
                field: "Content-Digest",
                algorithm,
                value: value.to_vec(),
            };
            assert!(digests.agree(&stated(value)));
            assert!(!digests.agree(&stated(&vec![0; value.len()])));
            assert_eq!(digests.into_whole().finish(), Sha256Digest::of(b"bc"));
        };
        check(Algorithm::Crc32, &0x3524_41c2_u32.to_be_bytes());
        check(Algorithm::Sha256, Sha256Digest::of(b"abc").as_bytes());
        check(Algorithm::Sha1, &sha1::Sha1::digest(b"abc"));
        check(Algorithm::Sha512, &sha2::Sha512::digest(b"abc"));
        check(Algorithm::Md5, &md5::Md5::digest(b"abc"));
    }

    #[test]
    fn a_foreign_state_is_refused() {
        assert!(Hasher::resume(&HashState::from_bytes(vec![1, 2, 3])).is_none());
    }
}
