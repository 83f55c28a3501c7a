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
    /// The upload has all its bytes: they are to be verified and published.
    Complete(Complete),
    /// The bytes are kept, and more are to come.
    Partial,
    /// The bytes are kept, but the request fails.
    Kept(Error),
    /// Nothing of the body is kept.
    Discarded(Error),
    /// The upload can never be complete.
    Invalid(Error),
}

/// A body that has ended, and what it was to bring.
#[derive(Debug)]
pub(super) struct Ended<'a> {
    /// What it was admitted as.
    pub(super) admission: Admission,
    /// What came of it.
    pub(super) ingested: &'a Ingested,
    /// Bytes that the upload has with it.
    pub(super) offset: u64,
    /// What has seen it.
    pub(super) digests: &'a Digests,
    /// What it must hash to, as the request's header section states.
    pub(super) stated: &'a [Stated],
    /// Whether its upload is only a part of others, which is never complete.
    pub(super) is_part: bool,
}

impl Ended<'_> {
    /// The one decision on all of it.
    pub(super) fn verdict(&self) -> Verdict {
        // Bytes under a digest of their own count only when it has been verified, which takes the whole body.
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
        // Where reaching the length completes the upload, it does so however the request ends: its client is told by the offset
        // alone.
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

    /// The body went on past its bound.
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

    /// What a digest of the body that does not agree is.
    fn mismatch(&self) -> Option<Error> {
        self.stated
            .iter()
            .chain(&self.ingested.stated.content)
            .find(|stated| !self.digests.agree(stated))
            .map(|wrong| mismatch(wrong).into())
    }
}

/// What follows a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Aftermath {
    /// A complete upload is an archive, to be unpacked.
    pub(super) unpacks: bool,
    /// A complete upload is read back to be verified.
    pub(super) reads_back: bool,
    /// As in [`Request`](super::intake::Request).
    pub(super) begins_as_told: bool,
}

/// The last progress that a request records, before its verdict is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastRecord {
    /// Length of the upload, where that is known.
    pub(super) length: Option<u64>,
    /// What becomes of the request's hold.
    pub(super) hold: Hold,
}

impl LastRecord {
    /// Decides what to record before `verdict` is carried out, of an upload of `length`. `None` if
    /// the verdict records the end itself, or nothing is kept.
    pub(super) fn before(
        verdict: &Verdict,
        length: Option<u64>,
        aftermath: Aftermath,
    ) -> Option<Self> {
        match verdict {
            // By the length, other nodes know how long they have to wait.
            Verdict::Complete(complete) if aftermath.unpacks => Some(Self {
                length: Some(complete.length),
                hold: Hold::Keep,
            }),
            Verdict::Complete(_) if aftermath.reads_back => Some(Self {
                length,
                hold: Hold::Keep,
            }),
            Verdict::Complete(_) => None,
            Verdict::Partial if aftermath.begins_as_told => Some(Self {
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

    /// The same if a newer request has already arrived. Its client does not wait for this answer,
    /// and may go on from the offset that it was told: that offset is kept.
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
        begins_as_told: false,
    };

    fn last(verdict: &Verdict, aftermath: Aftermath) -> Option<(Option<u64>, Hold)> {
        let last = LastRecord::before(verdict, None, aftermath)?;
        Some((last.length, last.hold))
    }

    #[test]
    fn completion_is_recorded_beforehand_only_where_it_takes_a_while() {
        let complete = Verdict::Complete(Complete { length: 7 });
        let told = Aftermath {
            begins_as_told: true,
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
        assert_eq!(last(&complete, told), None);
        assert_eq!(last(&complete, read_back), Some((None, Hold::Keep)));
        assert_eq!(last(&complete, archive), Some((Some(7), Hold::Keep)));
    }

    #[test]
    fn what_is_kept_is_recorded_and_the_upload_released() {
        let told = Aftermath {
            begins_as_told: true,
            ..FILE
        };
        let kept = Verdict::Kept(Error::ClientGone);
        let release = Some((None, Hold::Release));
        assert_eq!(last(&Verdict::Partial, FILE), release);
        assert_eq!(last(&kept, FILE), release);
        // Its client does not know of it, and may still go on from where it was told.
        assert_eq!(last(&kept, told), release);
        assert_eq!(last(&Verdict::Partial, told), Some((None, Hold::Settle)));
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
