//! Resumable uploads of the IETF drafts and the final form: translates request fields to the shared
//! rules, and results to answers.
//!
//! `ietf/dialect.rs` has the differences between versions as data; this file reads and writes by
//! them.

mod dialect;
mod limit;

use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

pub use dialect::Version;
use dialect::{Completeness, FinalLocation, Lifetime, RefusalSays, Row, Stray, Unsaid};

use crate::answer::{Answer, Deadline, Standing};
use crate::digest::{self, StatedDigests};
use crate::fields::{self, name};
use crate::media_type;
use crate::problem::{ProblemType, types};
use crate::rejection::Rejection;
use crate::request::{AppendRequest, BodyUse, CreateRequest};
use crate::upload::{Append, Completion, Create, Limits};
use crate::{NO_STORE, disposition};

/// Version of the protocol that a request states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// The version field is absent.
    Unsaid,
    /// A supported version.
    Known(Version),
    /// Another version, or no version at all.
    Unknown,
}

impl Spoken {
    /// Reads `Upload-Draft-Interop-Version`. The field names one version: there is no negotiation,
    /// so a list is no version.
    pub fn read(fields: &HeaderMap) -> Self {
        if !fields.contains_key(&name::UPLOAD_DRAFT_INTEROP_VERSION) {
            return Self::Unsaid;
        }
        fields::integer(fields, &name::UPLOAD_DRAFT_INTEROP_VERSION)
            .and_then(Version::of_interop)
            .map_or(Self::Unknown, Self::Known)
    }
}

impl Version {
    /// Returns true if the request states that its body completes the upload; `None` if it does not
    /// say.
    pub fn completes(self, fields: &HeaderMap) -> Option<bool> {
        match self.row().completeness {
            Completeness::Incomplete => {
                fields::boolean(fields, &name::UPLOAD_INCOMPLETE).map(|incomplete| !incomplete)
            }
            Completeness::Complete => fields::boolean(fields, &name::UPLOAD_COMPLETE),
        }
    }

    pub(crate) fn read_create(
        self,
        fields: &HeaderMap,
        body_length: Option<u64>,
    ) -> Result<CreateRequest, Rejection> {
        let row = self.row();
        let Some(completes) = self.completes(fields) else {
            return Err(Rejection::malformed(
                row.completeness_name(),
                "must be ?0 or ?1",
            ));
        };
        let offset = fields::integer(fields, &name::UPLOAD_OFFSET);
        if row.creation_offset == Stray::Refused && offset.is_some_and(|offset| offset != 0) {
            return Err(Rejection::malformed(
                "Upload-Offset",
                "a request that makes an upload begins at 0",
            ));
        }
        Ok(CreateRequest {
            create: Create {
                completion: match completes {
                    true => Completion::WithThisBody,
                    false => Completion::Later,
                },
                length: row.length(fields),
                body_length,
                overrun: row.overrun,
            },
            body: BodyUse::Appended,
            digests: match completes {
                true => whole(StatedDigests::read(fields)?)?,
                false => StatedDigests::read(fields)?,
            },
            media_type: media_type::declared(fields),
            file_name: disposition::file_name(fields),
            tus: None,
        })
    }

    pub(crate) fn read_append(
        self,
        fields: &HeaderMap,
        body_length: Option<u64>,
    ) -> Result<AppendRequest, Rejection> {
        let row = self.row();
        if row.partial_upload && !media_type::is(fields, media_type::PARTIAL_UPLOAD) {
            return Err(Rejection::MediaType {
                expected: media_type::PARTIAL_UPLOAD,
            });
        }
        let Some(offset) = fields::integer(fields, &name::UPLOAD_OFFSET) else {
            return Err(Rejection::malformed(
                "Upload-Offset",
                "must be a non-negative integer",
            ));
        };
        let completion = match (self.completes(fields), row.unsaid) {
            (Some(true), _) | (None, Unsaid::Completes) => Completion::WithThisBody,
            (Some(false), _) => Completion::Later,
            (None, Unsaid::AtLength) => Completion::AtLength,
            (None, Unsaid::Malformed) => {
                return Err(Rejection::malformed(
                    row.completeness_name(),
                    "must be ?0 or ?1",
                ));
            }
        };
        Ok(AppendRequest {
            append: Append {
                offset,
                completion,
                length: row.length(fields),
                body_length,
                overrun: row.overrun,
                repeat: row.repeat,
            },
            digests: StatedDigests::read(fields)?,
        })
    }

    /// Refuses a retrieval with upload fields up to interop 6 (Offset Retrieval).
    pub(crate) fn check_retrieval(self, fields: &HeaderMap) -> Result<(), Rejection> {
        let row = self.row();
        self.refuse_stray(fields, &[("Upload-Offset", name::UPLOAD_OFFSET)])?;
        match row.length {
            true => self.refuse_stray(fields, &[("Upload-Length", name::UPLOAD_LENGTH)]),
            false => Ok(()),
        }
    }

    /// Refuses a cancellation with upload fields up to interop 6 (Upload Cancellation).
    pub(crate) fn check_cancellation(self, fields: &HeaderMap) -> Result<(), Rejection> {
        self.refuse_stray(fields, &[("Upload-Offset", name::UPLOAD_OFFSET)])
    }

    fn refuse_stray(
        self,
        fields: &HeaderMap,
        meaningless: &[(&'static str, HeaderName)],
    ) -> Result<(), Rejection> {
        let row = self.row();
        let completeness = (row.completeness_name(), row.completeness_field());
        match meaningless
            .iter()
            .chain([&completeness])
            .find(|(_, name)| fields.contains_key(name))
        {
            Some((field, _)) if row.stray == Stray::Refused => {
                Err(Rejection::malformed(field, "has no meaning here"))
            }
            _ => Ok(()),
        }
    }

    /// Writes the first interim response, with the URL of the upload resource.
    pub(crate) fn announcement(self, standing: &Standing<'_>) -> HeaderMap {
        let mut fields = self.own_fields();
        fields.insert(LOCATION, standing.location.clone());
        self.tell_limits(&mut fields, standing);
        fields
    }

    /// Writes a later interim response, which never has `Location`.
    pub(crate) fn progress(self, offset: u64) -> Option<HeaderMap> {
        let mut fields = self.row().progress.then(|| self.own_fields())?;
        fields.insert(name::UPLOAD_OFFSET, HeaderValue::from(offset));
        Some(fields)
    }

    pub(crate) fn created(self, standing: &Standing<'_>) -> Answer {
        let mut fields = self.standing_fields(standing);
        fields.insert(LOCATION, standing.location.clone());
        self.tell_limits(&mut fields, standing);
        Answer {
            status: StatusCode::CREATED,
            fields,
        }
    }

    pub(crate) fn appended(self, standing: &Standing<'_>) -> Answer {
        Answer {
            status: self.row().appended,
            fields: self.standing_fields(standing),
        }
    }

    pub(crate) fn finished(self, standing: &Standing<'_>, target: Answer) -> Answer {
        let Answer { status, mut fields } = target;
        for (name, value) in self.standing_fields(standing) {
            fields.insert(name.expect("each field comes once"), value);
        }
        match self.row().final_location {
            FinalLocation::Upload => {
                fields.insert(LOCATION, standing.location.clone());
            }
            FinalLocation::Target => {}
        }
        Answer { status, fields }
    }

    pub(crate) fn retrieved(self, method: &Method, standing: &Standing<'_>) -> Answer {
        let mut fields = self.standing_fields(standing);
        if let (true, Some(length)) = (self.row().length, standing.length) {
            fields.insert(name::UPLOAD_LENGTH, HeaderValue::from(length));
        }
        self.tell_limits(&mut fields, standing);
        Answer {
            status: match *method {
                Method::GET => StatusCode::OK,
                _ => StatusCode::NO_CONTENT,
            },
            fields,
        }
    }

    pub(crate) fn cancelled(self) -> Answer {
        Answer {
            status: StatusCode::NO_CONTENT,
            fields: self.refusal_fields(),
        }
    }

    /// Returns the fields of an answer to a request that breaks a rule of the protocol.
    pub(crate) fn rejection_fields(self, standing: Option<&Standing<'_>>) -> HeaderMap {
        let row = self.row();
        let mut fields = self.refusal_fields();
        if let Some(standing) = standing {
            fields.insert(name::UPLOAD_OFFSET, HeaderValue::from(standing.offset));
        }
        let complete = match row.refusal_says {
            RefusalSays::Standing => standing.map(|standing| standing.complete),
            RefusalSays::Incomplete => Some(false),
        };
        if let Some(complete) = complete {
            fields.insert(row.completeness_field(), row.completeness_value(complete));
        }
        fields
    }

    /// Returns the fields of every refusal.
    pub(crate) fn refusal_fields(self) -> HeaderMap {
        let mut fields = self.own_fields();
        fields.insert(CACHE_CONTROL, NO_STORE);
        fields
    }

    /// Returns the problem type of a rejection in this version.
    pub(crate) fn problem_type(self, rejection: &Rejection) -> ProblemType {
        let row = self.row();
        match rejection {
            Rejection::Malformed { field, .. } => digest::malformed(field),
            Rejection::MediaType { .. } => types::UNSUPPORTED_MEDIA_TYPE,
            Rejection::Coding { .. } => types::UNSUPPORTED_CODING,
            Rejection::TusVersion => types::TUS_VERSION,
            Rejection::OffsetMismatch { .. } => row.mismatch,
            Rejection::OverlapMismatch { .. } => types::OVERLAP_MISMATCH,
            Rejection::InconsistentLength | Rejection::OverLength { .. } => row.inconsistent,
            Rejection::Completed => row.completed,
            Rejection::TooLarge { .. } => types::UPLOAD_TOO_LARGE,
            Rejection::TooSmall { .. } => types::UPLOAD_TOO_SMALL,
            Rejection::AppendTooLarge { .. } => types::APPEND_TOO_LARGE,
            Rejection::AppendTooSmall { .. } => types::APPEND_TOO_SMALL,
            Rejection::FinalUpload => types::FINAL_UPLOAD,
            Rejection::KeyReused => types::KEY_REUSED,
            Rejection::DigestAlgorithm { .. } => types::DIGEST_UNSUPPORTED_ALGORITHMS,
            Rejection::DigestMismatch { .. } => types::DIGEST_MISMATCHED_VALUES,
        }
    }

    /// Returns the problem type of an upload that is gone.
    pub(crate) fn gone(self) -> ProblemType {
        self.row().gone
    }

    /// Writes `Upload-Limit` of this version.
    pub(crate) fn upload_limit(self, limits: &Limits, deadline: Option<Deadline>) -> HeaderValue {
        let lifetime = deadline.map_or(limits.max_age, |deadline| Some(deadline.remaining));
        limit::write(limits, lifetime, &[self.row().lifetime])
    }

    /// Returns the fields of every answer in this version.
    pub(crate) fn own_fields(self) -> HeaderMap {
        self.row()
            .interop
            .map(|version| {
                (
                    name::UPLOAD_DRAFT_INTEROP_VERSION,
                    HeaderValue::from(version),
                )
            })
            .into_iter()
            .collect()
    }

    fn standing_fields(self, standing: &Standing<'_>) -> HeaderMap {
        let row = self.row();
        let mut fields = self.own_fields();
        fields.insert(name::UPLOAD_OFFSET, HeaderValue::from(standing.offset));
        fields.insert(
            row.completeness_field(),
            row.completeness_value(standing.complete),
        );
        fields.insert(CACHE_CONTROL, NO_STORE);
        fields
    }

    fn tell_limits(self, fields: &mut HeaderMap, standing: &Standing<'_>) {
        if self.row().limits {
            fields.insert(
                name::UPLOAD_LIMIT,
                self.upload_limit(standing.limits, standing.deadline),
            );
        }
    }
}

impl Row {
    fn completeness_field(&self) -> HeaderName {
        match self.completeness {
            Completeness::Incomplete => name::UPLOAD_INCOMPLETE,
            Completeness::Complete => name::UPLOAD_COMPLETE,
        }
    }

    fn completeness_name(&self) -> &'static str {
        match self.completeness {
            Completeness::Incomplete => "Upload-Incomplete",
            Completeness::Complete => "Upload-Complete",
        }
    }

    fn completeness_value(&self, complete: bool) -> HeaderValue {
        fields::write_boolean(match self.completeness {
            Completeness::Incomplete => !complete,
            Completeness::Complete => complete,
        })
    }

    fn length(&self, fields: &HeaderMap) -> Option<u64> {
        self.length
            .then(|| fields::integer(fields, &name::UPLOAD_LENGTH))
            .flatten()
    }
}

/// Turns digests of a body that is the complete representation into digests of the representation.
/// These can still be verified after the body is cut and resumed; a digest of the body would forbid
/// keeping the bytes before the cut.
fn whole(stated: StatedDigests) -> Result<StatedDigests, Rejection> {
    let mut representation = stated.representation;
    let mut content = Vec::new();
    for stated in stated.content {
        let same = representation
            .iter()
            .find(|other| other.algorithm == stated.algorithm);
        match same {
            Some(other) if other.value == stated.value => {}
            Some(_) => {
                return Err(Rejection::malformed(
                    stated.field,
                    "is not that of the whole",
                ));
            }
            None if stated.algorithm.key().is_some() => representation.push(stated),
            // A checksum that `Repr-Digest` cannot state remains one of the body.
            None => content.push(stated),
        }
    }
    Ok(StatedDigests {
        content,
        representation,
        trailing: stated.trailing,
    })
}

/// Returns the fields of an upload target's answer to `OPTIONS`, for every version at once: a
/// version ignores unknown members.
pub(crate) fn discovery(limits: &Limits) -> HeaderMap {
    HeaderMap::from_iter([
        (
            name::UPLOAD_LIMIT,
            limit::write(
                limits,
                limits.max_age,
                &[Lifetime::Expires, Lifetime::MaxAge],
            ),
        ),
        (
            name::ACCEPT_PATCH,
            HeaderValue::from_static(media_type::PARTIAL_UPLOAD),
        ),
    ])
}
