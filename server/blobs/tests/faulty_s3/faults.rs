//! Plan of the requests that fail.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// Failure of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `500`, without effect.
    Internal,
    /// `503 SlowDown`, without effect.
    SlowDown,
    /// The connection is reset, without effect.
    ResetBefore,
    /// The request takes effect, and the connection is reset before the answer.
    ResetAfter,
    /// `200` with an error in the body, without effect. For completing and copying; otherwise as
    /// `Internal`.
    OkWithError,
    /// `409 ExistingObjectIsDirectory`, without effect. For requests that write a name; otherwise
    /// as `Internal`.
    IsDirectory,
    /// No effect and no answer.
    StallsBefore,
    /// The request takes effect, without an answer.
    StallsAfter,
    /// Half of the answer's body comes, then the connection is reset.
    BreaksOff,
    /// The connection is reset, and the request takes effect when the server catches up: see
    /// [`FaultyS3::catch_up`](super::FaultyS3::catch_up).
    Late,
    /// The same for completing a multipart upload, which is gone already.
    Hides,
}

const FAULTS: [Fault; 8] = [
    Fault::Internal,
    Fault::SlowDown,
    Fault::ResetBefore,
    Fault::ResetAfter,
    Fault::OkWithError,
    Fault::StallsBefore,
    Fault::StallsAfter,
    Fault::BreaksOff,
];

/// Moment at which a request pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Before it takes effect.
    Before,
    /// After it has taken effect, before its answer.
    After,
    /// While completing a multipart upload, and in no other request: the upload is gone, and the
    /// object is not there yet.
    Completing,
}

/// Fate of a request.
#[derive(Debug, Default)]
pub(super) struct Fate {
    pub(super) fault: Option<Fault>,
    /// Moment of the pause, and the signal that ends it.
    pub(super) pause: Option<(Pause, watch::Receiver<bool>)>,
}

/// Plan of faults and pauses.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Planned>,
    random: Option<Random>,
    pauses: HashMap<String, Pausing>,
}

#[derive(Debug)]
struct Planned {
    operation: &'static str,
    in_requests: u64,
    fault: Fault,
}

#[derive(Debug)]
struct Random {
    one_in: u64,
    state: u64,
}

#[derive(Debug)]
struct Pausing {
    in_requests: u64,
    moment: Pause,
    goes_on: watch::Sender<bool>,
    reached: Arc<Notify>,
}

impl Faults {
    pub(super) fn plan(&mut self, operation: &'static str, nth: u64, fault: Fault) {
        self.planned.push(Planned {
            operation,
            in_requests: nth,
            fault,
        });
    }

    pub(super) fn is_as_planned(&self) -> bool {
        self.planned.iter().all(|planned| planned.in_requests == 0)
    }

    pub(super) fn at_random(&mut self, one_in: Option<u64>, seed: u64) {
        self.random = one_in.map(|one_in| Random {
            one_in,
            state: seed,
        });
    }

    pub(super) fn pause(&mut self, who: &str, requests: u64, moment: Pause) {
        let pausing = Pausing {
            in_requests: requests,
            moment,
            goes_on: watch::Sender::new(false),
            reached: Arc::default(),
        };
        self.pauses.insert(who.to_owned(), pausing);
    }

    pub(super) fn go_on(&mut self, who: &str) {
        if let Some(pausing) = self.pauses.remove(who) {
            pausing.goes_on.send_replace(true);
        }
    }

    pub(super) fn reached(&self, who: &str) -> Arc<Notify> {
        let pausing = self.pauses.get(who).expect("it was told to pause");
        Arc::clone(&pausing.reached)
    }

    /// Returns the fate of the next request of `who` for `operation`.
    pub(super) fn next(&mut self, who: &str, operation: &str) -> Fate {
        let mut fault = None;
        for planned in &mut self.planned {
            if planned.operation == operation && planned.in_requests > 0 {
                planned.in_requests -= 1;
                if planned.in_requests == 0 {
                    fault = Some(planned.fault);
                }
            }
        }
        if let Some(random) = &mut self.random
            && next_random(&mut random.state).is_multiple_of(random.one_in)
        {
            let kinds = FAULTS.len() as u64;
            let chosen =
                usize::try_from(next_random(&mut random.state) % kinds).expect("there are few");
            fault = fault.or(Some(FAULTS[chosen]));
        }
        let pause = self.pauses.get_mut(who).and_then(|pausing| {
            let completes = operation == "CompleteMultipartUpload";
            if pausing.moment == Pause::Completing && !completes {
                return None;
            }
            if pausing.in_requests > 0 {
                pausing.in_requests -= 1;
                return None;
            }
            // Wakes the task that waits, or the next one that will.
            pausing.reached.notify_one();
            Some((pausing.moment, pausing.goes_on.subscribe()))
        });
        Fate { fault, pause }
    }
}

/// Returns the next number of `SplitMix64`, whose state this is.
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
