//! Metadata that a client sends with a file (tus 1.0.0, Creation).

use std::collections::HashSet;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;

use crate::fields::{self, name};
use crate::rejection::Rejection;
use crate::{disposition, media_type};

/// `Upload-Metadata`: verbatim and as pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    raw: String,
    pairs: Vec<(String, Vec<u8>)>,
}

/// Base64 with optional padding: some encoders omit it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Metadata {
    /// Reads the value: pairs separated by commas, key and base64 value by one space. The space may
    /// be missing before an empty value. White space around pairs and empty pairs are ignored.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] if a key is empty or repeated, or a value is not base64.
    pub fn parse(raw: &str) -> Result<Self, Rejection> {
        let malformed = |reason: String| Rejection::malformed("Upload-Metadata", reason);
        let mut keys = HashSet::new();
        let mut pairs = Vec::new();
        for pair in raw
            .split(',')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
            if !keys.insert(key) {
                return Err(malformed(format!("the key {key} comes twice")));
            }
            let value = BASE64
                .decode(value)
                .map_err(|_| malformed(format!("the value of {key} is not base64")))?;
            pairs.push((key.to_owned(), value));
        }
        Ok(Self {
            raw: raw.to_owned(),
            pairs,
        })
    }

    /// Reads the field of a request; `None` without pairs.
    pub(crate) fn read(fields: &HeaderMap) -> Result<Option<Self>, Rejection> {
        if !fields.contains_key(&name::UPLOAD_METADATA) {
            return Ok(None);
        }
        let raw = fields::single(fields, &name::UPLOAD_METADATA).ok_or_else(|| {
            Rejection::malformed("Upload-Metadata", "must be one line of visible ASCII")
        })?;
        let metadata = Self::parse(raw)?;
        Ok((!metadata.pairs.is_empty()).then_some(metadata))
    }

    /// Returns the value as the client sent it.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// Returns the value of a key.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.pairs
            .iter()
            .find(|(own, _)| own == key)
            .map(|(_, value)| value.as_slice())
    }

    fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.value(key)?).ok()
    }

    /// Returns the file's name, under one of the keys that clients use: one path segment,
    /// sanitised.
    pub fn file_name(&self) -> Option<String> {
        ["filename", "name"]
            .into_iter()
            .find_map(|key| disposition::sanitised(self.text(key)?))
    }

    /// Returns the file's media type, under one of the keys that clients use.
    pub fn media_type(&self) -> Option<String> {
        ["filetype", "contentType", "type"]
            .into_iter()
            .find_map(|key| media_type::parse(self.text(key)?))
    }
}
