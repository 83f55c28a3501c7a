//! `Range`: the requested bytes of a representation (RFC 9110 §14).

use std::ops::Range;

use http::header::{HeaderMap, HeaderValue, RANGE};

use crate::fields;

/// Maximum number of ranges in a request. A field with more resembles an attack (§17.15) and is
/// ignored.
pub const MAX_RANGES: usize = 64;

/// One range of a request. Positions count from 0, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// From a first position to a last one, both included.
    Closed { first: u64, last: u64 },
    /// From a first position to the end.
    Open { first: u64 },
    /// The last `length` bytes.
    Suffix { length: u64 },
}

/// Ranges of a request, before the representation's length is known: one to [`MAX_RANGES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeSet(Vec<Spec>);

/// Ranges applied to a representation of known length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// Answer 200 with everything.
    Whole,
    /// Answer 206 with these bytes.
    Satisfiable(Satisfiable),
    /// Answer 416 with [`unsatisfied`].
    Unsatisfiable,
}

/// Ranges of one representation: at least one, none empty, none past the end, none overlapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Satisfiable {
    ranges: Vec<Range<u64>>,
    complete_length: u64,
}

impl RangeSet {
    /// Reads `Range`. `None` requests the complete representation: the field is absent, malformed,
    /// in another unit than bytes, or has too many ranges (§14.2). The field applies to `GET` only.
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
    /// An empty representation is always served completely, as §14.2 allows: proxies that fetch
    /// slices send a range with every request, and no `Content-Range` can describe a part of
    /// nothing.
    ///
    /// Overlapping ranges become one, at the place of the first (§15.3.7.2), so no byte is sent
    /// twice. Other ranges keep the order of the request.
    pub fn resolve(&self, length: u64) -> Resolved {
        if length == 0 {
            return Resolved::Whole;
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

/// Adds a range, merged with all overlapping ones, at the place of the first of those.
fn insert(ranges: &mut Vec<Range<u64>>, mut range: Range<u64>) {
    let overlaps = |a: &Range<u64>, b: &Range<u64>| a.start < b.end && b.start < a.end;
    let mut place = ranges.len();
    // Present ranges do not overlap, so one pass finds all: the merge with one cannot reach another
    // that the new range itself does not.
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

    /// Returns the range in a representation of `length > 0` bytes; `None` if it is empty.
    fn within(self, length: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::Closed { first, last } => first..last.saturating_add(1).min(length),
            Self::Open { first } => first..length,
            // §14.1.2: a suffix longer than the representation is the complete representation.
            Self::Suffix { length: suffix } => length.saturating_sub(suffix)..length,
        };
        (range.start < range.end).then_some(range)
    }
}

impl Satisfiable {
    /// Returns the ranges in the order of sending.
    pub fn ranges(&self) -> &[Range<u64>] {
        &self.ranges
    }

    /// Returns the length of the complete representation in bytes.
    pub fn complete_length(&self) -> u64 {
        self.complete_length
    }

    /// Returns the only range, if there is just one: such an answer is not multipart.
    pub fn single(&self) -> Option<Range<u64>> {
        match self.ranges.as_slice() {
            [range] => Some(range.clone()),
            _ => None,
        }
    }
}

/// Writes `Content-Range` of a part: `bytes 0-499/1234` (§14.4). The range must not be empty.
pub fn content_range(range: &Range<u64>, complete_length: u64) -> HeaderValue {
    let value = content_range_text(range, complete_length);
    HeaderValue::try_from(value).expect("digits are visible ASCII")
}

pub(crate) fn content_range_text(range: &Range<u64>, complete_length: u64) -> String {
    let last = range.end.saturating_sub(1);
    format!("bytes {}-{last}/{complete_length}", range.start)
}

/// Writes `Content-Range` of a 416: `bytes */1234` (§14.4).
pub fn unsatisfied(complete_length: u64) -> HeaderValue {
    HeaderValue::try_from(format!("bytes */{complete_length}")).expect("digits are visible ASCII")
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "a list of one range is what is meant"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(value: &str, length: u64, expected: &[Range<u64>]) {
        let set = RangeSet::parse(value).expect("a set of ranges");
        match set.resolve(length) {
            Resolved::Satisfiable(satisfiable) => {
                assert_eq!(satisfiable.ranges(), expected, "{value}");
                assert_eq!(satisfiable.complete_length(), length);
            }
            other => panic!("{value}: {other:?}"),
        }
    }

    #[test]
    fn ranges_lie_within_the_representation() {
        check("bytes=0-499", 1000, &[0..500]);
        check("BYTES=0-0", 1000, &[0..1]);
        check("bytes=500-", 1000, &[500..1000]);
        check("bytes=999-5000", 1000, &[999..1000]);
        check("bytes=-1", 1000, &[999..1000]);
        check("bytes=-5000", 1000, &[0..1000]);
        check("bytes=0-99999999999999999999999", 1000, &[0..1000]);
        check("bytes=-99999999999999999999999", 1000, &[0..1000]);
        check("bytes=0-18446744073709551615", 1000, &[0..1000]);
        check("bytes=0-", 1, &[0..1]);
    }

    #[test]
    fn many_ranges_keep_their_order_and_overlaps_unite() {
        check("bytes= 0-0 ,, 5-6 ,-1", 10, &[0..1, 5..7, 9..10]);
        check("bytes=5-6,0-0", 10, &[5..7, 0..1]);
        check("bytes=0-4,2-8", 10, &[0..9]);
        check("bytes=0-4,5-9", 10, &[0..5, 5..10]);
        check("bytes=8-9,0-1,1-8", 10, &[0..10]);
        check("bytes=0-,0-,-10", 10, &[0..10]);
        check("bytes=2-3,20-30", 10, &[2..4]);
    }

    #[test]
    fn what_lies_outside_is_not_satisfiable() {
        for (value, length) in [
            ("bytes=10-", 10),
            ("bytes=10-20,30-40", 10),
            ("bytes=-0", 10),
            ("bytes=99999999999999999999999-", 10),
        ] {
            let set = RangeSet::parse(value).unwrap();
            assert_eq!(set.resolve(length), Resolved::Unsatisfiable, "{value}");
        }
    }

    #[test]
    fn of_nothing_every_range_is_the_whole() {
        for value in [
            "bytes=0-",
            "bytes=0-0",
            "bytes=0-1048575",
            "bytes=7-8",
            "bytes=-5",
            "bytes=-0",
            "bytes=0-0,5-,-1",
        ] {
            let set = RangeSet::parse(value).unwrap();
            assert_eq!(set.resolve(0), Resolved::Whole, "{value}");
        }
    }

    #[test]
    fn what_is_no_set_of_byte_ranges_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes= ,",
            "bytes=-",
            "bytes=1",
            "bytes=a-b",
            "bytes=2-1",
            "bytes=0-0,2-1",
            "bytes=+1-2",
            "bytes=1 - 2",
            "bytes =1-2",
            "bytes=1-2-3",
            "bytes=--5",
            "bytes=0x0-0x1",
            "items=0-1",
            "0-1",
        ] {
            assert_eq!(RangeSet::parse(value), None, "{value}");
        }
        let many = |count: usize| {
            let ranges: Vec<String> = (0..count).map(|at| format!("{at}-{at}")).collect();
            RangeSet::parse(&format!("bytes={}", ranges.join(",")))
        };
        assert!(many(MAX_RANGES).is_some());
        assert_eq!(many(MAX_RANGES + 1), None);
    }

    #[test]
    fn a_field_that_comes_twice_is_ignored() {
        let line = HeaderValue::from_static("bytes=0-1");
        let mut fields = HeaderMap::from_iter([(RANGE, line.clone())]);
        assert!(RangeSet::read(&fields).is_some());
        fields.append(RANGE, line);
        assert_eq!(RangeSet::read(&fields), None);
    }

    #[test]
    fn content_range_counts_its_last_byte() {
        assert_eq!(content_range(&(0..500), 1234), "bytes 0-499/1234");
        assert_eq!(unsatisfied(1234), "bytes */1234");
    }

    fn spec() -> impl Strategy<Value = Spec> {
        let number = 0..40u64;
        prop_oneof![
            (number.clone(), number.clone()).prop_map(|(a, b)| Spec::Closed {
                first: a.min(b),
                last: a.max(b),
            }),
            number.clone().prop_map(|first| Spec::Open { first }),
            number.prop_map(|length| Spec::Suffix { length }),
        ]
    }

    /// Returns for each position whether a range contains it.
    fn naive(specs: &[Spec], length: u64) -> Vec<bool> {
        (0..length)
            .map(|at| {
                specs.iter().any(|spec| match *spec {
                    Spec::Closed { first, last } => first <= at && at <= last,
                    Spec::Open { first } => first <= at,
                    Spec::Suffix { length: suffix } => length - at <= suffix,
                })
            })
            .collect()
    }

    proptest! {
        #[test]
        fn exactly_the_bytes_asked_for_are_sent_once(
            specs in prop::collection::vec(spec(), 1..12),
            length in 1..30u64,
        ) {
            let mut sent = vec![0; usize::try_from(length).unwrap()];
            if let Resolved::Satisfiable(satisfiable) = RangeSet(specs.clone()).resolve(length) {
                for range in satisfiable.ranges() {
                    prop_assert!(range.start < range.end && range.end <= length);
                    for at in range.clone() {
                        sent[usize::try_from(at).unwrap()] += 1;
                    }
                }
            }
            let asked: Vec<i32> = naive(&specs, length).into_iter().map(i32::from).collect();
            prop_assert_eq!(sent, asked);
        }

        #[test]
        fn ranges_that_do_not_overlap_keep_the_requests_order(
            places in prop::sample::subsequence((0..20u64).collect::<Vec<_>>(), 1..10),
            seed in any::<u64>(),
        ) {
            let mut places = places;
            let turn = usize::try_from(seed % places.len() as u64).unwrap();
            places.rotate_left(turn);
            let specs = places.iter().map(|at| Spec::Closed { first: *at, last: *at }).collect();
            let Resolved::Satisfiable(satisfiable) = RangeSet(specs).resolve(20) else {
                panic!("all of them lie within");
            };
            let sent: Vec<u64> = satisfiable.ranges().iter().map(|range| range.start).collect();
            prop_assert_eq!(sent, places);
        }
    }
}
