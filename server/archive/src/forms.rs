//! Form of each entry's bytes in a zip: raw or deflated.
//!
//! The bytes of an archive depend on these forms, and deflating the same content next year may give
//! other bytes, since encoders change. So the form of every entry is decided once, at publication,
//! and recorded permanently in a table beside the catalogue. The table contains the SHA-256 of each
//! deflated form, and the SHA-256 of the table is part of the archive's entity tag (see
//! [`crate::plan`]). A node that had to deflate again could detect a different result, and can
//! never serve it under the old tag.

use std::fmt;

use crate::sha256_digest::Sha256Digest;
use crate::tree::Tree;

/// Form of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The content itself.
    Raw,
    /// A raw deflate stream (RFC 1951) of the content.
    Deflated(Deflated),
}

/// A deflate stream by its size and digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deflated {
    /// Size in bytes.
    pub size: u64,
    pub sha256: Sha256Digest,
}

/// Forms of all entries of one version.
#[derive(PartialEq, Eq)]
pub struct Forms {
    /// For each position, the index of its form in `deflated`, or [`RAW`].
    indices: Box<[u32]>,
    deflated: Box<[Deflated]>,
    digest: Sha256Digest,
}

/// Reasons for which a table of forms is not made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormsError {
    #[error("the bytes are no table of forms of this catalogue")]
    Malformed,
    #[error("a deflated form at position {position} does not save the 3 % that it must")]
    SavesTooLittle { position: u32 },
}

/// Returns true if deflating saves at least the worthwhile 3 %.
pub fn deflating_pays(size: u64, deflated_size: u64) -> bool {
    u128::from(deflated_size) * 100 <= u128::from(size) * 97 && deflated_size < size
}

impl Forms {
    /// Records the forms of a tree's files. Calls `form_of` for each in order.
    pub fn new(
        tree: &Tree,
        mut form_of: impl FnMut(&Sha256Digest) -> Form,
    ) -> Result<Self, FormsError> {
        let mut indices = Vec::with_capacity(tree.len() as usize);
        let mut deflated = Vec::new();
        for (position, entry) in (0..).zip(tree.entries()) {
            match form_of(&entry.sha256) {
                Form::Raw => indices.push(RAW),
                Form::Deflated(form) => {
                    if !deflating_pays(entry.size, form.size) {
                        return Err(FormsError::SavesTooLittle { position });
                    }
                    indices.push(u32::try_from(deflated.len()).expect("no more than entries"));
                    deflated.push(form);
                }
            }
        }
        let zero = Sha256Digest::from_bytes([0; 32]);
        let mut forms = Self {
            indices: indices.into(),
            deflated: deflated.into(),
            digest: zero,
        };
        forms.digest = Sha256Digest::of(&forms.encode());
        Ok(forms)
    }

    /// Returns a table with every file in raw form.
    pub fn raw(tree: &Tree) -> Self {
        Self::new(tree, |_| Form::Raw).expect("raw forms are always right")
    }

    /// Reads the bytes that [`encode`](Self::encode) wrote for the same tree.
    pub fn decode(encoded: &[u8], tree: &Tree) -> Result<Self, FormsError> {
        let mut rest = encoded.strip_prefix(MAGIC).ok_or(FormsError::Malformed)?;
        let mut is_malformed = false;
        let forms = Self::new(tree, |_| {
            take_form(&mut rest).unwrap_or_else(|| {
                is_malformed = true;
                Form::Raw
            })
        })?;
        if is_malformed || !rest.is_empty() {
            Err(FormsError::Malformed)
        } else {
            Ok(forms)
        }
    }

    /// Encodes the table for storage: a line that names the format, then for each position a byte
    /// 0, or a byte 1, the deflated size as a big-endian number of 8 bytes, and the digest.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoded =
            Vec::with_capacity(MAGIC.len() + self.indices.len() + self.deflated.len() * 40);
        encoded.extend_from_slice(MAGIC);
        for position in 0..self.len() {
            match self.form(position) {
                Form::Raw => encoded.push(0),
                Form::Deflated(form) => {
                    encoded.push(1);
                    encoded.extend_from_slice(&form.size.to_be_bytes());
                    encoded.extend_from_slice(form.sha256.as_bytes());
                }
            }
        }
        encoded
    }

    /// Returns the number of entries.
    pub fn len(&self) -> u32 {
        u32::try_from(self.indices.len()).expect("no more than entries of a tree")
    }

    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// # Panics
    /// Panics if there is no such position.
    pub fn form(&self, position: u32) -> Form {
        match self.indices[position as usize] {
            RAW => Form::Raw,
            index => Form::Deflated(self.deflated[index as usize]),
        }
    }

    /// Returns the SHA-256 of the encoding.
    pub fn digest(&self) -> Sha256Digest {
        self.digest
    }

    /// Returns the approximate memory of the table, in bytes.
    pub fn memory(&self) -> usize {
        size_of_val(&*self.indices) + size_of_val(&*self.deflated)
    }
}

impl fmt::Debug for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries((0..self.len()).map(|position| self.form(position)))
            .finish()
    }
}

const RAW: u32 = u32::MAX;

const MAGIC: &[u8] = b"longhaul-forms/1\n";

fn take_form(bytes: &mut &[u8]) -> Option<Form> {
    let (kind, rest) = bytes.split_first()?;
    *bytes = rest;
    match kind {
        0 => Some(Form::Raw),
        1 => {
            let (size, rest) = bytes.split_first_chunk()?;
            let (sha256, rest) = rest.split_first_chunk()?;
            *bytes = rest;
            let sha256 = Sha256Digest::from_bytes(*sha256);
            Some(Form::Deflated(Deflated {
                size: u64::from_be_bytes(*size),
                sha256,
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tree_of;

    fn deflated(size: u64) -> Form {
        Form::Deflated(Deflated {
            size,
            sha256: Sha256Digest::of(&size.to_be_bytes()),
        })
    }

    #[test]
    fn three_percent_is_the_line() {
        assert!(deflating_pays(100, 97));
        assert!(!deflating_pays(100, 98));
        assert!(!deflating_pays(0, 0));
        assert!(!deflating_pays(1, 1));
        assert!(deflating_pays(u64::MAX, 1));
        assert!(!deflating_pays(u64::MAX, u64::MAX));
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let long = [7; 200];
        let tree = tree_of([
            ("a", &b"one"[..], false),
            ("b", &long, false),
            ("c", b"", true),
        ]);
        let forms = Forms::new(&tree, |sha256| {
            if *sha256 == Sha256Digest::of(&long) {
                deflated(9)
            } else {
                Form::Raw
            }
        })
        .unwrap();
        assert_eq!(
            [0, 1, 2].map(|position| forms.form(position)),
            [Form::Raw, deflated(9), Form::Raw]
        );

        let encoded = forms.encode();
        let decoded = Forms::decode(&encoded, &tree).unwrap();
        assert_eq!(decoded, forms);
        assert_eq!(decoded.digest(), Sha256Digest::of(&encoded));
        for cut in 0..encoded.len() {
            assert_eq!(
                Forms::decode(&encoded[..cut], &tree),
                Err(FormsError::Malformed),
                "cut at {cut}"
            );
        }
        assert_eq!(
            Forms::decode(&[&encoded[..], &[0]].concat(), &tree),
            Err(FormsError::Malformed)
        );
        let smaller = tree_of([("a", &b"one"[..], false)]);
        assert_eq!(
            Forms::decode(&encoded, &smaller),
            Err(FormsError::Malformed)
        );
    }

    #[test]
    fn forms_that_save_nothing_are_refused() {
        let tree = tree_of([("a", &b"one"[..], false)]);
        assert_eq!(
            Forms::new(&tree, |_| deflated(3)),
            Err(FormsError::SavesTooLittle { position: 0 })
        );
    }
}
