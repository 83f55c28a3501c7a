//! `Range`: which bytes of a representation are asked for (RFC 9110 §14).

use std::ops::Range;

use http::header::{HeaderMap, HeaderValue, RANGE};

use crate::fields;

/// Most ranges of one request. More look like an attack (§17.15), and the field is ignored.
pub const MAX_RANGES: usize = 64;

/// One range of a request: positions count from 0, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// From a first position to a last one, both included.
    Closed { first: u64, last: u64 },
    /// From a first position to the end.
    Open { first: u64 },
    /// So many last bytes.
    Suffix { length: u64 },
}

/// The ranges of a request, before the representation's length is known: at least one, at most [`MAX_RANGES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Spec>);

/// What a set of ranges means for a representation of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// Answer 200 with everything.
    Whole,
    /// Answer 206 with these bytes.
    Satisfiable(Satisfiable),
    /// Answer 416 with [`unsatisfied`].
    Unsatisfiable,
}

/// Ranges of one representation: at least one, none empty, none past the end, none overlapping another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Satisfiable {
    ranges: Vec<Range<u64>>,
    complete_length: u64,
}

impl RangeSet {
    /// Reads `Range`. `None` means that the request is for the whole: the field is absent, malformed, in another unit than bytes,
    /// or has too many ranges (§14.2). It counts for `GET` only.
    pub fn read(fields: &HeaderMap) -> Option<Self> {
        Self::parse(fields::single(fields, &RANGE)?)
    }

    /// Reads the field's value, such as `bytes=0-499, 1000-, -500`.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, set) = value.split_once('=')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let specs: Vec<Spec> = fields::list_elements(set)
            .take(MAX_RANGES + 1)
            .map(Spec::parse)
            .collect::<Option<_>>()?;
        (1..=MAX_RANGES)
            .contains(&specs.len())
            .then_some(Self(specs))
    }

    /// Applies the ranges to a representation of `length` bytes.
    ///
    /// Ranges that overlap become one, at the place of the first of them (§15.3.7.2); so no byte is sent twice, however often it is
    /// asked for. Others keep the order of the request.
    pub fn resolve(&self, length: u64) -> Resolved {
        if length == 0 {
            // §14.1.2: a suffix of nothing is satisfiable and is all of it, but no Content-Range can say so.
            let wants_suffix = |spec: &Spec| matches!(spec, Spec::Suffix { length: 1.. });
            return match self.0.iter().any(wants_suffix) {
                true => Resolved::Whole,
                false => Resolved::Unsatisfiable,
            };
        }
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for spec in &self.0 {
            if let Some(range) = spec.within(length) {
                insert(&mut ranges, range);
            }
        }
        if ranges.is_empty() {
            return Resolved::Unsatisfiable;
        }
        Resolved::Satisfiable(Satisfiable {
            ranges,
            complete_length: length,
        })
    }
}

/// Adds a range, united with all that overlap it, at the place of the first of those.
fn insert(ranges: &mut Vec<Range<u64>>, mut range: Range<u64>) {
    let overlaps = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
    let mut place = ranges.len();
    // Those already there do not overlap each other, so one pass finds all: a union with one cannot reach another that the new
    // range itself does not.
    let mut at = 0;
    while let Some(own) = ranges.get(at) {
        if overlaps(own, &range) {
            range = own.start.min(range.start)..own.end.max(range.end);
            place = place.min(at);
            ranges.remove(at);
        } else {
            at += 1;
        }
    }
    ranges.insert(place, range);
}

impl Spec {
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-')?;
        match (first, last) {
            ("", length) => fields::digits(length).map(|length| Self::Suffix { length }),
            (first, "") => fields::digits(first).map(|first| Self::Open { first }),
            (first, last) => {
                let (first, last) = (fields::digits(first)?, fields::digits(last)?);
                // §14.1.1: an int-range with its last position before its first is invalid.
                (first <= last).then_some(Self::Closed { first, last })
            }
        }
    }

    /// The bytes of a representation of `length > 0` bytes; `None` if there are none.
    fn within(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Closed { first, last } => first..last.saturating_add(1).min(length),
            Self::Open { first } => first..length,
            // §14.1.2: a suffix longer than the whole is the whole.
            Self::Suffix { length: suffix } => length.saturating_sub(suffix)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

impl Satisfiable {
    /// The ranges, in the order to send them.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// The length of the whole representation in bytes.
    pub fn complete_length(&self) -> u64 {
        self.complete_length
    }

    /// The one range, if there is just one: such an answer is not multipart.
    pub fn single(&self) -> Option<Range<u64>> {
        match self.ranges.as_slice() {
            [range] => Some(range.clone()),
            _ => None,
        }
    }
}

/// `Content-Range` of a part: `bytes 0-499/1234` (§14.4). The range must not be empty.
pub fn content_range(range: &Range<u64>, complete_length: u64) -> HeaderValue {
    let value = content_range_text(range, complete_length);
    HeaderValue::try_from(value).expect("digits are visible ASCII")
}

pub(crate) fn content_range_text(range: &Range<u64>, complete_length: u64) -> String {
    let last = range.end.saturating_sub(1);
    format!("bytes {}-{last}/{complete_length}", range.start)
}

/// `Content-Range` of a 416: `bytes */1234` (§14.4).
pub fn unsatisfied(complete_length: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{complete_length}")).expect("digits are visible ASCII")
}
