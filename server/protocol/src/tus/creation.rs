//! Creation, Creation With Upload and the deferred length (tus 1.0.0, Creation).

use std::collections::HashSet;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderValue};

use super::{Concat, OFFSET_OCTET_STREAM, number};
use crate::answer::Standing;
use crate::digest::StatedDigests;
use crate::fields::{self, name};
use crate::rejection::Rejection;
use crate::request::{BodyUse, CreateRequest};
use crate::upload::{Completion, Create, Overrun};
use crate::{disposition, media_type};

/// What only a creation by tus has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Creation {
    /// `Upload-Metadata`, if there is any.
    pub metadata: Option<Metadata>,
    /// `Upload-Concat`.
    pub concat: Option<Concat>,
}

/// `Upload-Metadata`: what the client says of the file, word for word and as pairs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    raw: String,
    pairs: Vec<(String, Vec<u8>)>,
}

/// Padding is the client's choice: some encoders leave it out, and nothing hangs on it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Metadata {
    /// Reads the value: pairs by commas, key and base64 value by one space; a value may be empty, and then the space left out.
    /// White space around a pair and empty pairs are not minded.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] if a key is empty or comes twice, or a value is not base64.
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

    /// The value as the client sent it.
    pub fn raw(&self) -> &str {
        &self.raw
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.pairs
            .iter()
            .find(|(own, _)| own == key)
            .map(|(_, value)| value.as_slice())
    }

    fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.value(key)?).ok()
    }

    /// The file's name, under the keys that clients use: one path segment, sanitised.
    pub fn file_name(&self) -> Option<String> {
        ["filename", "name"]
            .into_iter()
            .find_map(|key| disposition::sanitised(self.text(key)?))
    }

    /// The file's media type, under the keys that clients use.
    pub fn media_type(&self) -> Option<String> {
        ["filetype", "contentType", "type"]
            .into_iter()
            .find_map(|key| media_type::parse(self.text(key)?))
    }
}

pub(super) fn read(
    fields: &HeaderMap,
    body_length: Option<u64>,
) -> Result<CreateRequest, Rejection> {
    let tus = Creation {
        metadata: read_metadata(fields)?,
        concat: Concat::read(fields)?,
    };
    let length = length(fields, tus.concat.as_ref())?;
    // A body of another type is not part of the upload, and a final upload's bytes come from its parts.
    let body = match tus.concat {
        Some(Concat::Final { .. }) => BodyUse::Ignored,
        _ if media_type::is(fields, OFFSET_OCTET_STREAM) => BodyUse::Appended,
        _ => BodyUse::Ignored,
    };
    let (body_length, digests) = match body {
        BodyUse::Appended => (body_length, StatedDigests::read(fields)?),
        BodyUse::Ignored => (Some(0), StatedDigests::read_representation(fields)?),
    };
    let metadata = tus.metadata.as_ref();
    Ok(CreateRequest {
        create: Create {
            completion: Completion::AtLength,
            length,
            body_length,
            overrun: Overrun::Discard,
        },
        body,
        digests,
        media_type: metadata.and_then(Metadata::media_type),
        file_name: disposition::file_name(fields).or_else(|| metadata?.file_name()),
        tus: Some(tus),
    })
}

fn read_metadata(fields: &HeaderMap) -> Result<Option<Metadata>, Rejection> {
    if !fields.contains_key(&name::UPLOAD_METADATA) {
        return Ok(None);
    }
    let raw = fields::single(fields, &name::UPLOAD_METADATA).ok_or_else(|| {
        Rejection::malformed("Upload-Metadata", "must be one line of visible ASCII")
    })?;
    let metadata = Metadata::parse(raw)?;
    Ok((!metadata.pairs.is_empty()).then_some(metadata))
}

/// The length that the creation declares: exactly one of `Upload-Length` and `Upload-Defer-Length: 1`, neither for a final upload.
fn length(fields: &HeaderMap, concat: Option<&Concat>) -> Result<Option<u64>, Rejection> {
    let declared = number(fields, "Upload-Length", &name::UPLOAD_LENGTH)?;
    let deferred = match fields::single(fields, &name::UPLOAD_DEFER_LENGTH) {
        Some("1") => true,
        None if !fields.contains_key(&name::UPLOAD_DEFER_LENGTH) => false,
        _ => {
            return Err(Rejection::malformed(
                "Upload-Defer-Length",
                "its only value is 1",
            ));
        }
    };
    match (declared, deferred, concat) {
        (None, false, Some(Concat::Final { .. })) => Ok(None),
        (Some(_), _, Some(Concat::Final { .. })) => Err(Rejection::malformed(
            "Upload-Length",
            "the length of a final upload is that of its parts",
        )),
        (_, true, Some(Concat::Final { .. })) => Err(Rejection::malformed(
            "Upload-Defer-Length",
            "the length of a final upload is that of its parts",
        )),
        (Some(_), true, _) => Err(Rejection::malformed(
            "Upload-Defer-Length",
            "Upload-Length already tells the length",
        )),
        (None, false, _) => Err(Rejection::malformed(
            "Upload-Length",
            "is required, or else Upload-Defer-Length",
        )),
        (length, _, _) => Ok(length),
    }
}

/// Tells length and metadata, as a retrieval must.
pub(super) fn tell(fields: &mut HeaderMap, standing: &Standing<'_>) {
    match standing.length {
        Some(length) => fields.insert(name::UPLOAD_LENGTH, HeaderValue::from(length)),
        None => fields.insert(name::UPLOAD_DEFER_LENGTH, HeaderValue::from_static("1")),
    };
    // The text was read from a field, so it can be one again.
    if let Some(Ok(metadata)) = standing
        .tus
        .and_then(|echo| echo.metadata)
        .map(HeaderValue::from_str)
    {
        fields.insert(name::UPLOAD_METADATA, metadata);
    }
}
