//! Concatenation: uploads that are parts of another (tus 1.0.0, Concatenation).

use http::HeaderMap;

use crate::fields::{self, name};
use crate::rejection::Rejection;

/// Maximum number of parts of a final upload.
pub const MAX_PARTS: usize = 1000;

/// `Upload-Concat` of a creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concat {
    /// The upload is a part, which is not published by itself.
    Partial,
    /// The upload consists of others and accepts no bytes.
    Final {
        /// URLs of the parts, absolute or relative, in order; at least one, repetitions allowed.
        parts: Vec<String>,
        /// The field's value as the client sent it.
        raw: String,
    },
}

impl Concat {
    /// Reads a value.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] unless the value is `partial`, or `final;` and one to [`MAX_PARTS`]
    /// URLs separated by spaces.
    pub fn parse(raw: &str) -> Result<Self, Rejection> {
        let malformed = |reason: &str| Rejection::malformed("Upload-Concat", reason);
        if raw == "partial" {
            return Ok(Self::Partial);
        }
        let parts: Vec<String> = raw
            .strip_prefix("final;")
            .ok_or_else(|| malformed("must be partial, or final; and the parts' URLs"))?
            .split(' ')
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .take(MAX_PARTS + 1)
            .collect();
        match parts.len() {
            0 => Err(malformed("a final upload has at least one part")),
            1..=MAX_PARTS => Ok(Self::Final {
                parts,
                raw: raw.to_owned(),
            }),
            _ => Err(malformed("too many parts")),
        }
    }

    /// Returns the value as the client sent it.
    pub fn raw(&self) -> &str {
        match self {
            Self::Partial => "partial",
            Self::Final { raw, .. } => raw,
        }
    }

    pub(crate) fn read(fields: &HeaderMap) -> Result<Option<Self>, Rejection> {
        if !fields.contains_key(&name::UPLOAD_CONCAT) {
            return Ok(None);
        }
        fields::single(fields, &name::UPLOAD_CONCAT)
            .ok_or_else(|| {
                Rejection::malformed("Upload-Concat", "must be one line of visible ASCII")
            })
            .and_then(Self::parse)
            .map(Some)
    }
}
