//! Names that the server generates, and the source of their randomness.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;
use std::sync::Arc;

use archive::Sha256Digest;
use thiserror::Error;

/// A source of randomness.
pub trait Randomness: Debug + Send + Sync + 'static {
    /// Returns 128 bits that nobody can guess.
    fn bits(&self) -> u128;
}

/// The operating system's random source.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandomness;

impl Randomness for SystemRandomness {
    /// # Panics
    /// If the operating system has no random source; nothing could be kept safe there.
    fn bits(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
        u128::from_be_bytes(bytes)
    }
}

/// A text that is not an identifier of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an identifier")]
pub struct InvalidId;

/// Defines a name of 128 random bits, written as 32 lower-case hexadecimal digits.
macro_rules! random_name {
    ($(#[$document:meta])* $name:ident) => {
        $(#[$document])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(u128);

        impl $name {
            /// Generates a new name.
            pub fn random(randomness: &dyn Randomness) -> Self {
                Self(randomness.bits())
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl Debug for $name {
            /// Shows the first digits only: the full name is a capability and does not belong in a
            /// log.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:08x}…)"), self.0 >> 96)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let canonical = text.len() == 32
                    && text
                        .bytes()
                        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                if !canonical {
                    return Err(InvalidId);
                }
                u128::from_str_radix(text, 16)
                    .map(Self)
                    .map_err(|_| InvalidId)
            }
        }
    };
}

random_name! {
    /// The name of an upload resource: 128 random bits, written as 32 lower-case hexadecimal
    /// digits. Knowing the name is permission to use the upload.
    UploadId
}

random_name! {
    /// The name of a draft of a pack: 128 random bits, written as 32 lower-case hexadecimal digits.
    DraftId
}

random_name! {
    /// The name of a process that uses the stores: 128 random bits, written as 32 lower-case
    /// hexadecimal digits. No process has the name of an earlier one.
    NodeId
}

random_name! {
    /// The name of an event: 128 random bits, written as 32 lower-case hexadecimal digits. Every
    /// delivery of the event has the same name.
    EventId
}

impl DraftId {
    /// Derives the draft behind an upload of an entire tree: always the same one, so that a
    /// repeated request finds it.
    pub(crate) fn of_upload(upload: &UploadId) -> Self {
        let digest = Sha256Digest::of(format!("draft of upload {upload}").as_bytes());
        let half = digest
            .as_bytes()
            .first_chunk()
            .expect("32 bytes are 16 and more");
        Self(u128::from_be_bytes(*half))
    }
}

/// The name of a blob in the blob store: 1 to 64 of `a-z`, `0-9`, `-`. Never used twice for
/// different bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobKey(Arc<str>);

impl BlobKey {
    /// Generates a new key.
    pub fn random(randomness: &dyn Randomness) -> Self {
        Self(format!("{:032x}", randomness.bits()).into())
    }

    /// Returns the key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for BlobKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let valid = (1..=64).contains(&text.len())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-'));
        valid.then(|| Self(text.into())).ok_or(InvalidId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_id_reads_back() {
        let id = UploadId::random(&SystemRandomness);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(UploadId(7).to_string().len(), 32);
    }

    #[test]
    fn only_the_canonical_text_is_an_id() {
        for text in [
            "",
            "7",
            "../../etc/passwd",
            &"G".repeat(32),
            &"A".repeat(32),
            &"a".repeat(33),
        ] {
            assert!(text.parse::<UploadId>().is_err(), "{text}");
        }
        for text in ["", "a/b", "..", "A", &"a".repeat(65)] {
            assert!(text.parse::<BlobKey>().is_err(), "{text}");
        }
    }
}
