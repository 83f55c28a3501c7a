//! Rules of resumable uploads that all dialects share.
//!
//! An upload is a sequence of bytes that only grows. A request that appends goes through three
//! steps, none of which touches a byte:
//!
//! 1. [`Open::create`] or [`Open::admit`] checks the request's fields against the upload and the
//!    [`Limits`], and yields an [`Admission`]: the offset of its body, the maximum number of bytes,
//!    and the meaning of its end.
//! 2. While bytes arrive, [`Admission::cap`] is the bound; [`Admission::overrun`] returns the rule
//!    that a byte beyond it breaks.
//! 3. At the regular end of the body, [`Admission::end`] decides whether the upload is complete. A
//!    body that was cut has no regular end: its bytes count, and the upload stays open.
//!
//! A rule about a body's length is checked as soon as the length is known. A length declared by the
//! framing is refused before a byte is read. Without one, nothing is assumed, and the same rule is
//! checked at the end.

use std::time::Duration;

use crate::rejection::Rejection;

/// Meaning of the end of a request's body for the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The end of the body is the end of the upload: `Upload-Complete: ?1`, `Upload-Incomplete:
    /// ?0`, a plain body.
    WithThisBody,
    /// More requests will follow, whatever the offset: `Upload-Complete: ?0`.
    Later,
    /// The upload is complete as soon as its offset reaches its length: tus, and appends of interop
    /// 4 to 6 without the field.
    AtLength,
}

/// Consequence of a body that runs past the upload's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overrun {
    /// Bytes up to the length are kept and the upload stays usable (interop 3 to 6).
    KeepToLength,
    /// The upload is invalid from then on (interop 7 and later, the RFC).
    Invalidate,
    /// The request appends nothing (tus).
    Discard,
}

/// Decision of a completed upload about an append that may repeat the completing one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repeated {
    /// Repeat the stored final answer.
    Answered,
    /// Repeat the stored final answer if the body, of unknown length, is empty; otherwise refuse.
    IfEmpty(Rejection),
}

/// Answer of a completed upload to a repetition of the completing append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Every append to a completed upload is refused (interop 3 to 7).
    Refused,
    /// An empty append at the upload's end receives the stored final answer again (interop 8 and
    /// later, the RFC, tus).
    Answered,
}

/// Bounds of an upload, announced in `Upload-Limit` and `Tus-Max-Size`. Sizes are in bytes; `None`
/// is no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Maximum number of bytes of a representation.
    pub max_size: Option<u64>,
    /// Minimum number of bytes of a representation.
    pub min_size: Option<u64>,
    /// Maximum number of bytes of one request's body.
    pub max_append_size: Option<u64>,
    /// Minimum number of bytes of a body that neither creates nor completes the upload.
    pub min_append_size: Option<u64>,
    /// Time for which an upload is kept after its last progress.
    pub max_age: Option<Duration>,
}

/// Facts of a request that creates an upload, for the rules. Sizes are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Create {
    /// Meaning of the end of this request's body.
    pub completion: Completion,
    /// Length of the representation, if the request declares one.
    pub length: Option<u64>,
    /// Length of the body, if its framing states one (`Content-Length`).
    pub body_length: Option<u64>,
    /// Consequence of surplus bytes.
    pub overrun: Overrun,
}

/// Facts of a request that appends to an upload, for the rules. Sizes and offsets are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Append {
    /// Offset of the body's first byte.
    pub offset: u64,
    /// Meaning of the end of this request's body.
    pub completion: Completion,
    /// Length of the representation, if the request declares one.
    pub length: Option<u64>,
    /// Length of the body, if its framing states one (`Content-Length`).
    pub body_length: Option<u64>,
    /// Consequence of surplus bytes.
    pub overrun: Overrun,
    /// Expectation of the dialect about completed uploads.
    pub repeat: Repeat,
}

/// An upload that can grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Durable offset. `offset <= length` if the length is known.
    pub offset: u64,
    /// Length of the representation, once a request has stated it.
    pub length: Option<u64>,
}

/// An upload that has all its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complete {
    /// The representation's length in bytes.
    pub length: u64,
}

/// Rule that bounds a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    Length,
    MaxSize,
    MaxAppendSize,
}

/// Permission for one request's body to be appended to an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The offset of the body's first byte.
    pub start: u64,
    /// Number of the body's first bytes that the upload already has; they must be equal
    /// (replay-tolerant append).
    pub overlap: u64,
    /// Length of the upload, including this request's declaration.
    pub length: Option<u64>,
    /// Maximum number of bytes of the body, overlap included.
    pub cap: u64,
    /// Consequence of a body that exceeds the length.
    pub surplus: Overrun,
    bound: Bound,
    completion: Completion,
    min_size: u64,
    min_append_size: u64,
}

/// State of an upload after the regular end of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// More bytes, or at least another request, must follow.
    Partial,
    /// The upload has all its bytes.
    Complete(Complete),
}

impl Open {
    /// Admits the body of a request that creates an upload.
    ///
    /// # Errors
    /// [`Rejection::InconsistentLength`], [`Rejection::TooLarge`], [`Rejection::TooSmall`] or
    /// [`Rejection::AppendTooLarge`], if the request's fields already show the fault.
    pub fn create(request: &Create, limits: &Limits) -> Result<Admission, Rejection> {
        let fresh = Self {
            offset: 0,
            length: None,
        };
        fresh.bounded(
            Body {
                start: 0,
                completion: request.completion,
                declared: request.length,
                length: request.body_length,
                overrun: request.overrun,
            },
            limits,
        )
    }

    /// Admits the body of an append. With `replay_tolerant`, an offset below the durable one is no
    /// conflict: the overlapping bytes are compared instead of stored.
    ///
    /// # Errors
    /// [`Rejection::OffsetMismatch`] first, then as for [`Open::create`], and
    /// [`Rejection::AppendTooSmall`].
    pub fn admit(
        &self,
        append: &Append,
        limits: &Limits,
        replay_tolerant: bool,
    ) -> Result<Admission, Rejection> {
        let replayed = replay_tolerant && append.offset < self.offset;
        if append.offset != self.offset && !replayed {
            return Err(Rejection::OffsetMismatch {
                expected: self.offset,
                provided: append.offset,
            });
        }
        let mut admission = self.bounded(
            Body {
                start: append.offset,
                completion: append.completion,
                declared: append.length,
                length: append.body_length,
                overrun: append.overrun,
            },
            limits,
        )?;
        // The minimum applies only to a request that states that it is not the last; tus never
        // does, and cannot announce a minimum.
        if let (Some(limit), Completion::Later) = (limits.min_append_size, append.completion) {
            if append.body_length.is_some_and(|body| body < limit) {
                return Err(Rejection::AppendTooSmall { limit });
            }
            admission.min_append_size = limit;
        }
        Ok(admission)
    }

    fn bounded(&self, body: Body, limits: &Limits) -> Result<Admission, Rejection> {
        let implied = match (body.completion, body.length) {
            (Completion::WithThisBody, Some(bytes)) => Some(
                body.start
                    .checked_add(bytes)
                    .ok_or(Rejection::InconsistentLength)?,
            ),
            _ => None,
        };
        let length = agreed([self.length, body.declared, implied])?;
        if length.is_some_and(|length| length < self.offset) {
            return Err(Rejection::InconsistentLength);
        }
        let min_size = limits.min_size.unwrap_or(0);
        if let Some(length) = length {
            if let Some(limit) = limits.max_size.filter(|limit| length > *limit) {
                return Err(Rejection::TooLarge { limit });
            }
            if length < min_size {
                return Err(Rejection::TooSmall { limit: min_size });
            }
        }

        let overlap = self.offset - body.start;
        let (cap, bound) = [(length, Bound::Length), (limits.max_size, Bound::MaxSize)]
            .into_iter()
            .filter_map(|(end, bound)| Some((end?.saturating_sub(body.start), bound)))
            .chain(
                limits
                    .max_append_size
                    .map(|bytes| (bytes, Bound::MaxAppendSize)),
            )
            .min_by_key(|(cap, _)| *cap)
            .unwrap_or((u64::MAX - body.start, Bound::MaxSize));
        let admission = Admission {
            start: body.start,
            overlap,
            length,
            cap,
            surplus: body.overrun,
            bound,
            completion: body.completion,
            min_size,
            min_append_size: 0,
        };
        match body.length {
            // A declared length beyond the bound is refused before a byte is read, and costs
            // nothing.
            Some(bytes) if bytes > cap && bound != Bound::Length => Err(admission.overrun()),
            Some(bytes) if bytes > cap && body.overrun == Overrun::Discard => {
                Err(admission.overrun())
            }
            _ => Ok(admission),
        }
    }
}

/// Statements of a request about its body.
struct Body {
    start: u64,
    completion: Completion,
    declared: Option<u64>,
    length: Option<u64>,
    overrun: Overrun,
}

/// Returns the length on which all statements agree.
fn agreed(statements: [Option<u64>; 3]) -> Result<Option<u64>, Rejection> {
    let mut stated = statements.into_iter().flatten();
    let first = stated.next();
    if stated.all(|other| Some(other) == first) {
        Ok(first)
    } else {
        Err(Rejection::InconsistentLength)
    }
}

impl Complete {
    /// Decides whether an append to a completed upload receives the stored final answer again.
    ///
    /// # Errors
    /// [`Rejection::OffsetMismatch`] or [`Rejection::Completed`].
    pub fn admit(&self, append: &Append) -> Result<Repeated, Rejection> {
        if append.repeat == Repeat::Refused {
            return Err(Rejection::Completed);
        }
        if append.offset != self.length {
            return Err(Rejection::OffsetMismatch {
                expected: self.length,
                provided: append.offset,
            });
        }
        let surplus = match append.overrun {
            Overrun::Discard => Rejection::OverLength {
                length: self.length,
            },
            Overrun::KeepToLength | Overrun::Invalidate => Rejection::Completed,
        };
        match (append.completion, append.body_length) {
            (Completion::WithThisBody | Completion::AtLength, Some(0)) => Ok(Repeated::Answered),
            (Completion::WithThisBody | Completion::AtLength, None) => {
                Ok(Repeated::IfEmpty(surplus))
            }
            (Completion::Later, _) | (_, Some(_)) => Err(surplus),
        }
    }
}

impl Admission {
    /// Returns the rule that a byte beyond [`cap`](Self::cap) breaks.
    pub fn overrun(&self) -> Rejection {
        let end = self.start.saturating_add(self.cap);
        match self.bound {
            Bound::Length => Rejection::OverLength { length: end },
            Bound::MaxSize => Rejection::TooLarge { limit: end },
            Bound::MaxAppendSize => Rejection::AppendTooLarge { limit: self.cap },
        }
    }

    /// Returns true if an overrun of this body invalidates the upload.
    pub fn overrun_invalidates(&self) -> bool {
        self.bound == Bound::Length && self.surplus == Overrun::Invalidate
    }

    /// Returns true if the upload is complete by reaching `offset`, whatever else happens to the
    /// request.
    pub fn is_reached(&self, offset: u64) -> bool {
        self.completion == Completion::AtLength && self.length == Some(offset)
    }

    /// Returns the state of the upload after the regular end of a body of `received` bytes (overlap
    /// included).
    ///
    /// # Errors
    /// [`Rejection::InconsistentLength`] if the body's end contradicts the known length,
    /// [`Rejection::TooSmall`] if the representation is below the minimum size,
    /// [`Rejection::AppendTooSmall`] if the body is. The bytes count in all cases; the upload stays
    /// open.
    pub fn end(&self, received: u64) -> Result<End, Rejection> {
        if received < self.min_append_size {
            return Err(Rejection::AppendTooSmall {
                limit: self.min_append_size,
            });
        }
        if received < self.overlap {
            // A completing body that ends within its overlap states a length below the durable
            // offset.
            return match self.completion {
                Completion::WithThisBody => Err(Rejection::InconsistentLength),
                Completion::Later | Completion::AtLength => Ok(End::Partial),
            };
        }
        let total = self.start.saturating_add(received);
        let completes = match self.completion {
            Completion::WithThisBody => true,
            Completion::Later => false,
            Completion::AtLength => self.length == Some(total),
        };
        if !completes {
            return Ok(End::Partial);
        }
        if self.length.is_some_and(|length| length != total) {
            return Err(Rejection::InconsistentLength);
        }
        if total < self.min_size {
            return Err(Rejection::TooSmall {
                limit: self.min_size,
            });
        }
        Ok(End::Complete(Complete { length: total }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NO_LIMITS: Limits = Limits {
        max_size: None,
        min_size: None,
        max_append_size: None,
        min_append_size: None,
        max_age: None,
    };

    fn create(completion: Completion, length: Option<u64>, body: Option<u64>) -> Create {
        Create {
            completion,
            length,
            body_length: body,
            overrun: Overrun::KeepToLength,
        }
    }

    fn append(offset: u64, completion: Completion, body: Option<u64>) -> Append {
        Append {
            offset,
            completion,
            length: None,
            body_length: body,
            overrun: Overrun::KeepToLength,
            repeat: Repeat::Answered,
        }
    }

    #[test]
    fn a_declared_length_is_kept() {
        let request = create(Completion::Later, Some(10), Some(4));
        let admission = Open::create(&request, &NO_LIMITS).unwrap();
        assert_eq!(admission.length, Some(10));
        assert_eq!(admission.end(4), Ok(End::Partial));
        assert_eq!(admission.cap, 10);
    }

    #[test]
    fn a_completing_body_fixes_the_length() {
        let request = create(Completion::WithThisBody, None, Some(7));
        let admission = Open::create(&request, &NO_LIMITS).unwrap();
        assert_eq!(admission.length, Some(7));
        assert_eq!(admission.end(7), Ok(End::Complete(Complete { length: 7 })));
        assert_eq!(admission.end(6), Err(Rejection::InconsistentLength));
    }

    #[test]
    fn lengths_that_disagree_are_refused() {
        let request = create(Completion::WithThisBody, Some(8), Some(7));
        assert_eq!(
            Open::create(&request, &NO_LIMITS),
            Err(Rejection::InconsistentLength)
        );
        let open = Open {
            offset: 4,
            length: Some(9),
        };
        let request = append(4, Completion::WithThisBody, Some(4));
        assert_eq!(
            open.admit(&request, &NO_LIMITS, false),
            Err(Rejection::InconsistentLength)
        );
    }

    #[test]
    fn reaching_the_length_completes_only_where_the_dialect_says_so() {
        let open = Open {
            offset: 4,
            length: Some(9),
        };
        let later = append(4, Completion::Later, Some(5));
        let admission = open.admit(&later, &NO_LIMITS, false).unwrap();
        assert_eq!(admission.end(5), Ok(End::Partial));
        let at_length = append(4, Completion::AtLength, Some(5));
        let admission = open.admit(&at_length, &NO_LIMITS, false).unwrap();
        assert_eq!(admission.end(5), Ok(End::Complete(Complete { length: 9 })));
    }

    #[test]
    fn an_offset_off_the_durable_one_is_a_conflict_or_a_replay() {
        let open = Open {
            offset: 4,
            length: None,
        };
        let early = append(1, Completion::Later, Some(6));
        assert_eq!(
            open.admit(&early, &NO_LIMITS, false),
            Err(Rejection::OffsetMismatch {
                expected: 4,
                provided: 1
            })
        );
        let admission = open.admit(&early, &NO_LIMITS, true).unwrap();
        assert_eq!((admission.start, admission.overlap), (1, 3));
        let late = append(5, Completion::Later, Some(6));
        assert!(open.admit(&late, &NO_LIMITS, true).is_err());
    }

    #[test]
    fn limits_bound_declared_and_undeclared_bodies() {
        let limits = Limits {
            max_size: Some(100),
            max_append_size: Some(40),
            min_append_size: Some(5),
            ..NO_LIMITS
        };
        let too_long = create(Completion::Later, Some(101), None);
        assert_eq!(
            Open::create(&too_long, &limits),
            Err(Rejection::TooLarge { limit: 100 })
        );
        let big_body = create(Completion::Later, Some(100), Some(41));
        assert_eq!(
            Open::create(&big_body, &limits),
            Err(Rejection::AppendTooLarge { limit: 40 })
        );
        let open = Open {
            offset: 80,
            length: None,
        };
        let admission = open
            .admit(&append(80, Completion::Later, None), &limits, false)
            .unwrap();
        assert_eq!(admission.cap, 20);
        assert_eq!(admission.overrun(), Rejection::TooLarge { limit: 100 });
        assert_eq!(
            open.admit(&append(80, Completion::Later, Some(4)), &limits, false),
            Err(Rejection::AppendTooSmall { limit: 5 })
        );
        assert!(
            open.admit(
                &append(80, Completion::WithThisBody, Some(4)),
                &limits,
                false
            )
            .is_ok()
        );
    }

    #[test]
    fn a_completed_upload_answers_an_empty_repeat() {
        let complete = Complete { length: 9 };
        let repeat = append(9, Completion::WithThisBody, Some(0));
        assert_eq!(complete.admit(&repeat), Ok(Repeated::Answered));
        let more = append(9, Completion::WithThisBody, Some(1));
        assert_eq!(complete.admit(&more), Err(Rejection::Completed));
        let elsewhere = append(3, Completion::WithThisBody, Some(6));
        assert!(matches!(
            complete.admit(&elsewhere),
            Err(Rejection::OffsetMismatch { expected: 9, .. })
        ));
    }

    #[test]
    fn a_body_of_unknown_length_is_judged_by_what_comes() {
        let complete = Complete { length: 9 };
        for completion in [Completion::WithThisBody, Completion::AtLength] {
            let chunked = append(9, completion, None);
            let if_empty = Ok(Repeated::IfEmpty(Rejection::Completed));
            assert_eq!(complete.admit(&chunked), if_empty);
            let tus = Append {
                overrun: Overrun::Discard,
                ..chunked
            };
            let over = Rejection::OverLength { length: 9 };
            assert_eq!(complete.admit(&tus), Ok(Repeated::IfEmpty(over)));
            let refused = Append {
                repeat: Repeat::Refused,
                ..chunked
            };
            assert_eq!(complete.admit(&refused), Err(Rejection::Completed));
        }
        let later = append(9, Completion::Later, None);
        assert_eq!(complete.admit(&later), Err(Rejection::Completed));

        let limits = Limits {
            min_append_size: Some(5),
            ..NO_LIMITS
        };
        let open = Open {
            offset: 3,
            length: None,
        };
        let too_small = Err(Rejection::AppendTooSmall { limit: 5 });
        let later = append(3, Completion::Later, None);
        let admission = open.admit(&later, &limits, false).unwrap();
        assert_eq!(
            (admission.end(0), admission.end(4)),
            (too_small.clone(), too_small)
        );
        assert_eq!(admission.end(5), Ok(End::Partial));
        let last = append(3, Completion::WithThisBody, None);
        let admission = open.admit(&last, &limits, false).unwrap();
        assert_eq!(admission.end(0), Ok(End::Complete(Complete { length: 3 })));
    }

    #[derive(Debug, Clone)]
    struct Body {
        completion: Completion,
        declared: Option<u64>,
        bytes: u64,
        framed: bool,
    }

    fn body() -> impl Strategy<Value = Body> {
        let completion = prop_oneof![
            Just(Completion::WithThisBody),
            Just(Completion::Later),
            Just(Completion::AtLength),
        ];
        (
            completion,
            prop::option::of(0..30u64),
            0..30u64,
            any::<bool>(),
        )
            .prop_map(|(completion, declared, bytes, framed)| Body {
                completion,
                declared,
                bytes,
                framed,
            })
    }

    proptest! {
        #[test]
        fn an_upload_never_outgrows_its_bounds_nor_changes_its_length(
            bodies in prop::collection::vec(body(), 1..8),
            max_size in prop::option::of(0..60u64),
            max_append_size in prop::option::of(0..30u64),
        ) {
            let limits = Limits { max_size, max_append_size, ..NO_LIMITS };
            let mut open = Open { offset: 0, length: None };
            for (at, body) in bodies.into_iter().enumerate() {
                let body_length = body.framed.then_some(body.bytes);
                let admitted = match at {
                    0 => Open::create(
                        &Create {
                            completion: body.completion,
                            length: body.declared,
                            body_length,
                            overrun: Overrun::KeepToLength,
                        },
                        &limits,
                    ),
                    _ => open.admit(
                        &Append {
                            length: body.declared,
                            ..append(open.offset, body.completion, body_length)
                        },
                        &limits,
                        false,
                    ),
                };
                let Ok(admission) = admitted else { continue };
                prop_assert_eq!(admission.start, open.offset);
                prop_assert!(open.length.is_none() || admission.length == open.length);
                open.length = admission.length;

                let kept = body.bytes.min(admission.cap);
                open.offset += kept;
                prop_assert!(max_size.is_none_or(|most| open.offset <= most));
                prop_assert!(max_append_size.is_none_or(|most| kept <= most));
                prop_assert!(open.length.is_none_or(|length| open.offset <= length));
                if kept < body.bytes {
                    continue;
                }
                if let Ok(End::Complete(complete)) = admission.end(kept) {
                    prop_assert_eq!(complete.length, open.offset);
                    prop_assert!(open.length.is_none_or(|length| length == complete.length));
                    break;
                }
            }
        }
    }
}
