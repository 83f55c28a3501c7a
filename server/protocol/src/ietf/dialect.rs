//! Differences between the versions of the IETF protocol: one row of a table each.
//!
//! The facts and choices are those of the compatibility matrix. The RFC form is the newest text
//! without a version field.

use http::StatusCode;

use crate::problem::{ProblemType, types};
use crate::upload::{Overrun, Repeat};

/// A version of the protocol that a client can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Draft -01 (iOS 17).
    Interop3,
    /// Draft -02.
    Interop4,
    /// Draft -03 (iOS 18.0).
    Interop5,
    /// Drafts -04 and -05 (iOS 18.1 and later).
    Interop6,
    /// Drafts -06 to -08.
    Interop7,
    /// Drafts -09 to -11.
    Interop8,
    /// Draft -12.
    Interop9,
    /// Draft -13 and later.
    Interop10,
    /// The final form, which sends no version.
    Rfc,
}

/// Field that states whether the upload is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Completeness {
    /// `Upload-Incomplete`, true while more is to come.
    Incomplete,
    /// `Upload-Complete`, true at the end.
    Complete,
}

/// Meaning of an append that does not state whether it completes the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsaid {
    /// The append completes the upload.
    Completes,
    /// The append completes the upload if it reaches the known length.
    AtLength,
    /// The field is required.
    Malformed,
}

/// The key of `Upload-Limit` for the upload's remaining life, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    Expires,
    MaxAge,
}

/// Treatment of protocol fields in requests without a meaning for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stray {
    /// Answer 400.
    Refused,
    /// Ignore the fields.
    Ignored,
}

/// Resource that `Location` of the final answer names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FinalLocation {
    /// The upload resource.
    Upload,
    /// The `Location` of the target resource's answer.
    Target,
}

/// Value of the completeness field of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RefusalSays {
    /// The state of the upload.
    Standing,
    /// Always incomplete: the refusal is the protocol's own and not the target's.
    Incomplete,
}

/// Differences of one version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Value of `Upload-Draft-Interop-Version`, echoed in every answer.
    pub(super) interop: Option<u16>,
    pub(super) completeness: Completeness,
    /// True if `Upload-Length` is read and sent.
    pub(super) length: bool,
    /// True if `Upload-Limit` is sent with interim responses, partial creations and offsets.
    pub(super) limits: bool,
    pub(super) lifetime: Lifetime,
    /// True if interim responses after the first report progress.
    pub(super) progress: bool,
    /// True if an append must have the type `application/partial-upload`.
    pub(super) partial_upload: bool,
    pub(super) unsaid: Unsaid,
    /// `Upload-Offset` other than 0 on a creation.
    pub(super) creation_offset: Stray,
    /// Upload fields on an offset retrieval or a cancellation.
    pub(super) stray: Stray,
    /// Status of an append that did not complete the upload.
    pub(super) appended: StatusCode,
    pub(super) final_location: FinalLocation,
    pub(super) refusal_says: RefusalSays,
    pub(super) overrun: Overrun,
    pub(super) repeat: Repeat,
    pub(super) mismatch: ProblemType,
    pub(super) completed: ProblemType,
    pub(super) inconsistent: ProblemType,
    /// Problem type of an upload that is gone.
    pub(super) gone: ProblemType,
}

const INTEROP_3: Row = Row {
    interop: Some(3),
    completeness: Completeness::Incomplete,
    length: false,
    limits: false,
    lifetime: Lifetime::Expires,
    progress: false,
    partial_upload: false,
    unsaid: Unsaid::Completes,
    creation_offset: Stray::Refused,
    stray: Stray::Refused,
    appended: StatusCode::CREATED,
    final_location: FinalLocation::Upload,
    refusal_says: RefusalSays::Standing,
    overrun: Overrun::KeepToLength,
    repeat: Repeat::Refused,
    mismatch: types::OFFSET_MISMATCH,
    completed: types::UPLOAD_COMPLETED,
    inconsistent: types::INCONSISTENT_LENGTH,
    gone: types::UPLOAD_NOT_FOUND,
};

const INTEROP_4: Row = Row {
    interop: Some(4),
    completeness: Completeness::Complete,
    unsaid: Unsaid::AtLength,
    ..INTEROP_3
};

const INTEROP_5: Row = Row {
    interop: Some(5),
    progress: true,
    ..INTEROP_4
};

const INTEROP_6: Row = Row {
    interop: Some(6),
    length: true,
    limits: true,
    partial_upload: true,
    mismatch: types::MISMATCHING_UPLOAD_OFFSET,
    completed: types::COMPLETED_UPLOAD,
    ..INTEROP_5
};

const INTEROP_7: Row = Row {
    interop: Some(7),
    lifetime: Lifetime::MaxAge,
    unsaid: Unsaid::Malformed,
    creation_offset: Stray::Ignored,
    stray: Stray::Ignored,
    appended: StatusCode::NO_CONTENT,
    final_location: FinalLocation::Target,
    refusal_says: RefusalSays::Incomplete,
    overrun: Overrun::Invalidate,
    inconsistent: types::INCONSISTENT_UPLOAD_LENGTH,
    gone: types::UPLOAD_GONE,
    ..INTEROP_6
};

const INTEROP_8: Row = Row {
    interop: Some(8),
    repeat: Repeat::Answered,
    completed: types::INCONSISTENT_UPLOAD_LENGTH,
    ..INTEROP_7
};

const INTEROP_9: Row = Row {
    interop: Some(9),
    ..INTEROP_8
};

const INTEROP_10: Row = Row {
    interop: Some(10),
    creation_offset: Stray::Refused,
    ..INTEROP_9
};

const RFC: Row = Row {
    interop: None,
    ..INTEROP_9
};

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 9] = [
        Self::Interop3,
        Self::Interop4,
        Self::Interop5,
        Self::Interop6,
        Self::Interop7,
        Self::Interop8,
        Self::Interop9,
        Self::Interop10,
        Self::Rfc,
    ];

    /// Returns the version with this value of `Upload-Draft-Interop-Version`.
    pub fn of_interop(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|version| {
            version
                .interop()
                .is_some_and(|own| u64::from(own) == number)
        })
    }

    /// Returns the value of `Upload-Draft-Interop-Version`; the RFC form has none.
    pub fn interop(self) -> Option<u16> {
        self.row().interop
    }

    pub(super) fn row(self) -> &'static Row {
        match self {
            Self::Interop3 => &INTEROP_3,
            Self::Interop4 => &INTEROP_4,
            Self::Interop5 => &INTEROP_5,
            Self::Interop6 => &INTEROP_6,
            Self::Interop7 => &INTEROP_7,
            Self::Interop8 => &INTEROP_8,
            Self::Interop9 => &INTEROP_9,
            Self::Interop10 => &INTEROP_10,
            Self::Rfc => &RFC,
        }
    }
}
