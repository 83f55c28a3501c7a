//! What becomes of a request's bytes, and of its upload, once the body has ended.

use protocol::digest::Stated;
use protocol::upload::{Admission, Complete, End, Overrun};

use super::completion::mismatch;
use crate::Error;
use crate::digest::Digests;
use crate::ingest::{Ending, Ingested};

/// What a body's end means.
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
