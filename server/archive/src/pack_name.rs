//! Names of packs.

use std::fmt;

use crate::entry_path::{EntryPathError, check_segment, is_nfc};

/// Name of a pack: one path segment, with the rules of a segment of an
/// [`EntryPath`](crate::EntryPath), but without a leading dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackName(Box<str>);

impl PackName {
    pub fn parse(name: &str) -> Result<Self, EntryPathError> {
        check_segment(name)?;
        if name.starts_with('.') {
            return Err(EntryPathError::LeadingDot);
        }
        if name.contains('/') {
            return Err(EntryPathError::EmptySegment);
        }
        if !is_nfc(name) {
            return Err(EntryPathError::NotNormalized);
        }
        Ok(Self(name.into()))
    }

    /// Wraps a name of a published catalogue, which was checked at publication.
    pub(crate) fn published(name: String) -> Self {
        Self(name.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PackName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pack_names_are_one_segment() {
        assert!(PackName::parse("World maps (v2)").is_ok());
        for name in ["", ".", "..", "a/b", ".a", "a\0", "e\u{301}"] {
            assert!(PackName::parse(name).is_err(), "{name:?}");
        }
    }
}
