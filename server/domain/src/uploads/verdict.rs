//! Decisions on a request's bytes, and on its upload, once the body has ended.

use protocol::digest::Stated;
use protocol::upload::{Admission, Complete, End, Overrun};

use super::completion::mismatch;
use crate::Error;
use crate::digest::Digests;
use crate::ingest::{Ending, Ingested};
use crate::metadata_store::Hold;

/// Meaning of a body's end.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The upload has all its bytes, which are now verified and published.
    Complete(Complete),
    /// The bytes are kept, and more will follow.
    Partial,
    /// The bytes are kept, but the request fails.
    Kept(Error),
    /// No byte of the body is kept.
    Discarded(Error),
    /// The upload can never be complete.
    Invalid(Error),
}

/// A body that has ended, with its expectations.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    /// The rules by which it was admitted.
    pub(super) admission: Admission,
    /// The result of receiving it.
    pub(super) ingested: &'a Ingested,
    /// Length of the upload including the body, in bytes.
    pub(super) offset: u64,
    /// Digests of the received bytes.
    pub(super) digests: &'a Digests,
    /// Digests of the body that the request's header section states.
    pub(super) stated: &'a [Stated],
    /// True if its upload is only a part of others, which is never complete.
    pub(super) is_part: bool,
}

impl Ended<'_> {
    /// Decides what the body's end means.
    pub(super) fn verdict(&self) -> Verdict {
        // Bytes under a digest of their own count only once it has been verified, which needs the
        // entire body.
        let verifies = self.digests.runs_for_body();
        let failure = match &self.ingested.ending {
            Ending::Clean if verifies => self.mismatch(),
            Ending::Clean => None,
            Ending::Fault(fault) => Some(fault.clone().into()),
            Ending::Overtaken => Some(Error::Superseded),
            Ending::Draining => Some(Error::Draining),
            Ending::Overrun => return self.overrun(),
            Ending::Unstored => Some(Error::Corrupt {
                what: "the hand-over to the store".to_owned(),
            }),
        };
        let failure = match failure {
            Some(error) if verifies => return Verdict::Discarded(error),
            Some(error) if self.is_part => return Verdict::Kept(error),
            None if self.is_part => return Verdict::Partial,
            failure => failure,
        };
        // If reaching the length completes the upload, the way in which the request ends does not
        // matter: its client learns of the completion by the offset alone.
        let end = match &failure {
            Some(_) if !self.admission.is_reached(self.offset) => Ok(End::Partial),
            Some(_) | None => self.admission.end(self.ingested.received),
        };
        match (end, failure) {
            (Ok(End::Complete(complete)), _) => Verdict::Complete(complete),
            (_, Some(failure)) => Verdict::Kept(failure),
            (Ok(End::Partial), None) => Verdict::Partial,
            (Err(rejection), None) => Verdict::Kept(rejection.into()),
        }
    }

    /// Decides on a body that exceeded its bound.
    fn overrun(&self) -> Verdict {
        let error = self.admission.overrun().into();
        if self.admission.overrun_invalidates() {
            return Verdict::Invalid(error);
        }
        match self.digests.runs_for_body() || self.admission.surplus == Overrun::Discard {
            true => Verdict::Discarded(error),
            false => Verdict::Kept(error),
        }
    }

    /// Returns the error of the first stated digest of the body that does not match.
    fn mismatch(&self) -> Option<Error> {
        self.stated
            .iter()
            .chain(&self.ingested.stated.content)
            .find(|stated| !self.digests.agree(stated))
            .map(|wrong| mismatch(wrong).into())
    }
}

/// Work that follows a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aftermath {
    /// True if a complete upload is an archive to be unpacked.
    pub(super) unpacks: bool,
    /// True if a complete upload is read back for verification.
    pub(super) reads_back: bool,
    /// See [`Request`](super::intake::Request).
    pub(super) begins_as_reported: bool,
}

/// The last progress that a request records, before its verdict is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastRecord {
    /// Length of the upload, if known.
    pub(super) length: Option<u64>,
    /// Effect on the request's claim.
    pub(super) hold: Hold,
}

impl LastRecord {
    /// Decides what to record before `verdict` is carried out, for an upload of `length`. `None` if
    /// the verdict records the end itself, or nothing is kept.
    pub(super) fn before(
        verdict: &Verdict,
        length: Option<u64>,
        aftermath: Aftermath,
    ) -> Option<Self> {
        match verdict {
            // The length tells other nodes how long to wait.
            Verdict::Complete(complete) if aftermath.unpacks => Some(Self {
                length: Some(complete.length),
                hold: Hold::Keep,
            }),
            Verdict::Complete(_) if aftermath.reads_back => Some(Self {
                length,
                hold: Hold::Keep,
            }),
            Verdict::Complete(_) => None,
            Verdict::Partial if aftermath.begins_as_reported => Some(Self {
                length,
                hold: Hold::Settle,
            }),
            Verdict::Partial | Verdict::Kept(_) => Some(Self {
                length,
                hold: Hold::Release,
            }),
            Verdict::Discarded(_) | Verdict::Invalid(_) => None,
        }
    }

    /// Adapts the record to a newer request that has already arrived: the reported offset is kept,
    /// because its client resumes from there.
    pub(super) fn overtaken(self) -> Self {
        match self.hold {
            Hold::Settle => Self {
                hold: Hold::Release,
                ..self
            },
            Hold::Keep | Hold::Release => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Aftermath = Aftermath {
        unpacks: false,
        reads_back: false,
        begins_as_reported: false,
    };

    fn last(verdict: &Verdict, aftermath: Aftermath) -> Option<(Option<u64>, Hold)> {
        let last = LastRecord::before(verdict, None, aftermath)?;
        Some((last.length, last.hold))
    }

    #[test]
    fn completion_is_recorded_beforehand_only_where_it_takes_a_while() {
        let complete = Verdict::Complete(Complete { length: 7 });
        let reported = Aftermath {
            begins_as_reported: true,
            ..FILE
        };
        let read_back = Aftermath {
            reads_back: true,
            ..FILE
        };
        let archive = Aftermath {
            unpacks: true,
            ..FILE
        };
        assert_eq!(last(&complete, FILE), None);
        assert_eq!(last(&complete, reported), None);
        assert_eq!(last(&complete, read_back), Some((None, Hold::Keep)));
        assert_eq!(last(&complete, archive), Some((Some(7), Hold::Keep)));
    }

    #[test]
    fn what_is_kept_is_recorded_and_the_upload_released() {
        let reported = Aftermath {
            begins_as_reported: true,
            ..FILE
        };
        let kept = Verdict::Kept(Error::ClientGone);
        let release = Some((None, Hold::Release));
        assert_eq!(last(&Verdict::Partial, FILE), release);
        assert_eq!(last(&kept, FILE), release);
        // The client does not know of this progress, and may still resume at the reported offset.
        assert_eq!(last(&kept, reported), release);
        assert_eq!(
            last(&Verdict::Partial, reported),
            Some((None, Hold::Settle))
        );
    }

    #[test]
    fn nothing_is_recorded_of_what_is_not_kept() {
        for verdict in [
            Verdict::Discarded(Error::ClientGone),
            Verdict::Invalid(Error::ClientGone),
        ] {
            assert_eq!(last(&verdict, FILE), None);
        }
    }

    #[test]
    fn an_overtaken_request_settles_nothing() {
        for (hold, expected) in [
            (Hold::Settle, Hold::Release),
            (Hold::Release, Hold::Release),
            (Hold::Keep, Hold::Keep),
        ] {
            let length = Some(7);
            let last = LastRecord { length, hold };
            let hold = expected;
            assert_eq!(last.overtaken(), LastRecord { length, hold });
        }
    }
}
