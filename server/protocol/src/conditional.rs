//! Conditional requests: entity tags, and the order in which preconditions are evaluated (RFC 9110
//! §8.8.3 and §13).

use std::fmt::{self, Display};
use std::time::SystemTime;

use http::Method;
use http::header::{
    HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE,
    IF_UNMODIFIED_SINCE,
};

use crate::{date, fields};

/// Maximum number of tags in a list; a longer list matches nothing.
const MAX_TAGS: usize = 1000;

/// An entity tag (RFC 9110 §8.8.3).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EntityTag {
    weak: bool,
    /// Text between the quotes; valid characters only.
    opaque: String,
}

impl EntityTag {
    /// Returns the strong tag with an opaque part; `None` if a character is invalid in tags.
    pub fn strong(opaque: impl Into<String>) -> Option<Self> {
        let opaque = opaque.into();
        opaque.bytes().all(is_etagc).then_some(Self {
            weak: false,
            opaque,
        })
    }

    /// Reads one tag: `"opaque"` or `W/"opaque"`.
    pub fn parse(text: &str) -> Option<Self> {
        let (weak, quoted) = match text.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let opaque = quoted.strip_prefix('"')?.strip_suffix('"')?;
        opaque.bytes().all(is_etagc).then(|| Self {
            weak,
            opaque: opaque.to_owned(),
        })
    }

    /// Returns true if the tag is weak.
    pub fn is_weak(&self) -> bool {
        self.weak
    }

    /// Returns the text between the quotes.
    pub fn opaque(&self) -> &str {
        &self.opaque
    }

    /// Compares strongly: both tags are strong, and equal (§8.8.3.2).
    pub fn strongly_equals(&self, other: &Self) -> bool {
        !self.weak && !other.weak && self.opaque == other.opaque
    }

    /// Compares weakly: the tags are equal, weak or not (§8.8.3.2).
    pub fn weakly_equals(&self, other: &Self) -> bool {
        self.opaque == other.opaque
    }

    /// Returns the value of `ETag`.
    pub fn to_value(&self) -> HeaderValue {
        // A tag can contain obs-text, so the value is not always ASCII.
        HeaderValue::from_bytes(self.to_string().as_bytes())
            .expect("a tag has no control characters")
    }
}

impl Display for EntityTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weakness = if self.weak { "W/" } else { "" };
        write!(f, "{weakness}\"{}\"", self.opaque)
    }
}

/// Returns true for etagc (§8.8.3): visible characters except the quote, and obs-text.
fn is_etagc(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x7e | 0x80..=0xff)
}

/// Value of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TagList {
    /// `*`: any representation.
    Any,
    /// These tags. An empty list, the result for a malformed field, matches nothing.
    Tags(Vec<EntityTag>),
}

impl TagList {
    /// Reads a list. A field with a malformed part names no representation, so that a precondition
    /// never holds by a misunderstanding.
    pub fn parse(value: &str) -> Self {
        if value.trim() == "*" {
            return Self::Any;
        }
        let tags: Option<Vec<_>> = tag_elements(value)
            .take(MAX_TAGS + 1)
            .collect::<Option<_>>();
        Self::Tags(
            tags.filter(|tags| tags.len() <= MAX_TAGS)
                .unwrap_or_default(),
        )
    }

    fn read(fields: &HeaderMap, name: &HeaderName) -> Option<Self> {
        if !fields.contains_key(name) {
            return None;
        }
        let value = fields::combined(fields, name).unwrap_or_default();
        Some(Self::parse(&String::from_utf8_lossy(&value)))
    }

    /// Returns true if the list names `tag`, weak or not (§8.8.3.2).
    pub fn names(&self, tag: &EntityTag) -> bool {
        self.contains(|own| own.weakly_equals(tag))
    }

    fn contains(&self, matches: impl Fn(&EntityTag) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Tags(tags) => tags.iter().any(matches),
        }
    }
}

/// Splits a list of tags. A comma between quotes belongs to the tag, and a backslash is no escape.
fn tag_elements(value: &str) -> impl Iterator<Item = Option<EntityTag>> {
    let mut quoted = false;
    value
        .split(move |own| {
            quoted ^= own == '"';
            own == ',' && !quoted
        })
        .map(|element| element.trim_matches([' ', '\t']))
        .filter(|element| !element.is_empty())
        .map(EntityTag::parse)
}

/// Validators of the current state of a representation.
#[derive(Debug, Clone, Copy)]
pub struct Validators<'a> {
    /// `ETag`.
    pub tag: &'a EntityTag,
    /// `Last-Modified`, and its strength.
    pub last_modified: Option<Modified>,
}

/// A modification date as a validator. Fractions of a second do not count: dates have none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Modified {
    /// Time of the representation's creation.
    pub at: SystemTime,
    /// Representations of the resource with the same date.
    pub date: DateOf,
}

/// The representations that a modification date stands for.
///
/// One rule holds for all dates: bytes of two representations are never joined, and a changed one
/// is never taken for unchanged, whatever happened within a second. A server that cannot decide
/// states [`DateOf::Several`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateOf {
    /// Only this representation, now and before: the date is a strong validator (RFC 9110
    /// §8.8.2.2).
    This,
    /// One state of the resource in several codings: sufficient for a cache, which knows its
    /// coding, but ranges of different codings must not be joined.
    Codings,
    /// Perhaps an earlier state as well: a client with this date may have other bytes.
    Several,
}

impl Modified {
    /// Returns true if the representation may differ from the one that a client received or
    /// validated at `date`.
    fn may_differ_since(self, date: SystemTime) -> bool {
        let Some(at) = date::whole_seconds(self.at) else {
            return true;
        };
        match self.date {
            DateOf::This | DateOf::Codings => at > date,
            DateOf::Several => at >= date,
        }
    }

    /// Returns true if `date` identifies this representation alone.
    fn is_strongly(self, date: SystemTime) -> bool {
        self.date == DateOf::This && date::whole_seconds(self.at) == Some(date)
    }
}

/// Preconditions of a request, except `If-Range`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// `If-Match`.
    pub if_match: Option<TagList>,
    /// `If-None-Match`.
    pub if_none_match: Option<TagList>,
    /// `If-Modified-Since`, if it is a date.
    pub if_modified_since: Option<SystemTime>,
    /// `If-Unmodified-Since`, if it is a date.
    pub if_unmodified_since: Option<SystemTime>,
}

/// Consequence of preconditions for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Perform the request.
    Proceed,
    /// Answer 304.
    NotModified,
    /// Answer 412.
    Failed,
}

impl Preconditions {
    /// Reads the fields. Ignores invalid dates (§13.1.3, §13.1.4).
    pub fn read(fields: &HeaderMap) -> Self {
        Self {
            if_match: TagList::read(fields, &IF_MATCH),
            if_none_match: TagList::read(fields, &IF_NONE_MATCH),
            if_modified_since: date::read(fields, &IF_MODIFIED_SINCE),
            if_unmodified_since: date::read(fields, &IF_UNMODIFIED_SINCE),
        }
    }

    /// Returns true if there are no preconditions.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns true if a method that changes the current representation, or its absence, may be
    /// performed.
    pub fn allow_writing(&self, current: Option<Validators<'_>>) -> bool {
        self.evaluate(&Method::PUT, current) == Verdict::Proceed
    }

    /// Evaluates the preconditions in the order of §13.2.2, against the current representation or
    /// its absence.
    ///
    /// Applies only to requests that would otherwise succeed (§13.2.1), with methods that select or
    /// change a representation.
    pub fn evaluate(&self, method: &Method, current: Option<Validators<'_>>) -> Verdict {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let last_modified = current.and_then(|current| current.last_modified);

        // Steps 1 and 2: the state for which the request was made.
        if let Some(list) = &self.if_match {
            // §13.1.1: strong comparison.
            let holds = current
                .is_some_and(|current| list.contains(|tag| tag.strongly_equals(current.tag)));
            if !holds {
                return Verdict::Failed;
            }
        } else if let (Some(date), Some(last_modified)) = (self.if_unmodified_since, last_modified)
            // §13.1.4: ignored without a modification date.
            && last_modified.may_differ_since(date)
        {
            return Verdict::Failed;
        }

        // Steps 3 and 4: the state that the client already has.
        if let Some(list) = &self.if_none_match {
            // §13.1.2: weak comparison.
            let matched =
                current.is_some_and(|current| list.contains(|tag| tag.weakly_equals(current.tag)));
            return match (matched, reads) {
                (false, _) => Verdict::Proceed,
                (true, true) => Verdict::NotModified,
                (true, false) => Verdict::Failed,
            };
        }
        match (self.if_modified_since, last_modified) {
            // §13.1.3: only for GET and HEAD, and ignored without a modification date.
            (Some(date), Some(last_modified)) if reads && !last_modified.may_differ_since(date) => {
                Verdict::NotModified
            }
            _ => Verdict::Proceed,
        }
    }
}

/// Decides by `If-Range` whether `Range` applies (step 5 of §13.2.2, §13.1.5).
///
/// `Range` applies if `If-Range` is absent, or exactly the current validator: the tag by strong
/// comparison, or the modification date to the second if it is a strong validator
/// ([`DateOf::This`]). Otherwise the request is for the complete representation.
pub fn range_applies(fields: &HeaderMap, current: Validators<'_>) -> bool {
    if !fields.contains_key(IF_RANGE) {
        return true;
    }
    let Some(value) = fields::combined(fields, &IF_RANGE) else {
        return false;
    };
    match EntityTag::parse(&String::from_utf8_lossy(&value)) {
        Some(tag) => tag.strongly_equals(current.tag),
        None => date::read(fields, &IF_RANGE)
            .zip(current.last_modified)
            .is_some_and(|(date, last_modified)| last_modified.is_strongly(date)),
    }
}

/// Returns true if `If-Range` is the strong tag of the representation, as in a request that resumes
/// an old download by tag.
pub fn resumes_by_tag(fields: &HeaderMap, tag: &EntityTag) -> bool {
    fields::combined(fields, &IF_RANGE)
        .and_then(|value| EntityTag::parse(&String::from_utf8_lossy(&value)))
        .is_some_and(|stated| stated.strongly_equals(tag))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn fields(lines: &[(HeaderName, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn with_date<T>(date: DateOf, of: impl Fn(Validators<'_>) -> T) -> T {
        of(Validators {
            tag: &EntityTag::strong("a").unwrap(),
            last_modified: Some(Modified {
                // Dates have no half seconds, so they never count.
                at: SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_500),
                date,
            }),
        })
    }

    fn with_validators<T>(of: impl Fn(Validators<'_>) -> T) -> T {
        with_date(DateOf::This, of)
    }

    /// Checks the verdict on GET and on PUT.
    #[track_caller]
    fn check(lines: &[(HeaderName, &str)], get: Verdict, put: Verdict) {
        let preconditions = Preconditions::read(&fields(lines));
        with_validators(|current| {
            assert_eq!(preconditions.evaluate(&Method::GET, Some(current)), get);
            assert_eq!(preconditions.evaluate(&Method::HEAD, Some(current)), get);
            assert_eq!(preconditions.evaluate(&Method::PUT, Some(current)), put);
            assert_eq!(preconditions.evaluate(&Method::DELETE, Some(current)), put);
        });
    }

    use Verdict::{Failed, NotModified, Proceed};

    #[test]
    fn if_match_compares_strongly() {
        check(&[], Proceed, Proceed);
        check(&[(IF_MATCH, "*")], Proceed, Proceed);
        check(&[(IF_MATCH, "\"a\"")], Proceed, Proceed);
        check(&[(IF_MATCH, "\"b\" , \"a\"")], Proceed, Proceed);
        check(
            &[(IF_MATCH, "\"b\""), (IF_MATCH, "\"a\"")],
            Proceed,
            Proceed,
        );
        for other in [
            "W/\"a\"",
            "\"b\"",
            "a",
            "\"A\"",
            "\"a\", b",
            "",
            "*, \"a\"",
            "\"x,\"a\"",
        ] {
            check(&[(IF_MATCH, other)], Failed, Failed);
        }
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for same in ["*", "\"a\"", "W/\"a\"", "\"b,\",,\"a\""] {
            check(&[(IF_NONE_MATCH, same)], NotModified, Failed);
        }
        for other in ["\"b\"", "a", "\"\""] {
            check(&[(IF_NONE_MATCH, other)], Proceed, Proceed);
        }
    }

    #[test]
    fn dates_are_compared_by_the_second() {
        check(&[(IF_MODIFIED_SINCE, BEFORE)], Proceed, Proceed);
        check(&[(IF_MODIFIED_SINCE, MODIFIED)], NotModified, Proceed);
        check(&[(IF_MODIFIED_SINCE, AFTER)], NotModified, Proceed);
        check(&[(IF_UNMODIFIED_SINCE, BEFORE)], Failed, Failed);
        check(&[(IF_UNMODIFIED_SINCE, MODIFIED)], Proceed, Proceed);
        for bad in ["yesterday", ""] {
            check(&[(IF_MODIFIED_SINCE, bad)], Proceed, Proceed);
            check(&[(IF_UNMODIFIED_SINCE, bad)], Proceed, Proceed);
        }
        let twice = [(IF_MODIFIED_SINCE, AFTER), (IF_MODIFIED_SINCE, AFTER)];
        check(&twice, Proceed, Proceed);
    }

    #[test]
    fn tags_count_before_dates() {
        check(
            &[(IF_MATCH, "\"a\""), (IF_UNMODIFIED_SINCE, BEFORE)],
            Proceed,
            Proceed,
        );
        check(
            &[(IF_NONE_MATCH, "\"b\""), (IF_MODIFIED_SINCE, AFTER)],
            Proceed,
            Proceed,
        );
        check(
            &[(IF_NONE_MATCH, "\"a\""), (IF_MODIFIED_SINCE, BEFORE)],
            NotModified,
            Failed,
        );
        check(
            &[(IF_MATCH, "\"b\""), (IF_NONE_MATCH, "\"a\"")],
            Failed,
            Failed,
        );
        check(
            &[(IF_MATCH, "\"a\""), (IF_NONE_MATCH, "\"a\"")],
            NotModified,
            Failed,
        );
        check(
            &[(IF_UNMODIFIED_SINCE, AFTER), (IF_MODIFIED_SINCE, AFTER)],
            NotModified,
            Proceed,
        );
    }

    #[test]
    fn what_does_not_exist_matches_nothing() {
        let verdict = |name, value| {
            Preconditions::read(&fields(&[(name, value)])).evaluate(&Method::PUT, None)
        };
        assert_eq!(verdict(IF_MATCH, "*"), Failed);
        assert_eq!(verdict(IF_MATCH, "\"a\""), Failed);
        assert_eq!(verdict(IF_NONE_MATCH, "*"), Proceed);
        assert_eq!(verdict(IF_UNMODIFIED_SINCE, BEFORE), Proceed);
    }

    #[test]
    fn too_many_tags_match_nothing() {
        let list = |count| TagList::parse(&vec!["\"a\""; count].join(","));
        assert_eq!(
            list(MAX_TAGS),
            TagList::Tags(vec![EntityTag::strong("a").unwrap(); MAX_TAGS])
        );
        assert_eq!(list(MAX_TAGS + 1), TagList::Tags(vec![]));
    }

    #[test]
    fn if_range_is_exact() {
        let applies = |value| {
            with_validators(|current| range_applies(&fields(&[(IF_RANGE, value)]), current))
        };
        assert!(with_validators(|current| range_applies(
            &HeaderMap::new(),
            current
        )));
        assert!(applies("\"a\""));
        assert!(applies(MODIFIED));
        for other in [
            "W/\"a\"",
            "\"b\"",
            "a",
            "*",
            BEFORE,
            AFTER,
            "",
            "\"a\", \"a\"",
        ] {
            assert!(!applies(other), "{other}");
        }
        let tag = EntityTag::strong("a").unwrap();
        assert!(resumes_by_tag(&fields(&[(IF_RANGE, "\"a\"")]), &tag));
        assert!(!resumes_by_tag(&fields(&[(IF_RANGE, MODIFIED)]), &tag));
        assert!(!resumes_by_tag(&HeaderMap::new(), &tag));
    }

    #[test]
    fn a_date_counts_for_no_more_than_it_names() {
        let verdict = |date, name, value, method| {
            let stated = Preconditions::read(&fields(&[(name, value)]));
            with_date(date, |current| stated.evaluate(&method, Some(current)))
        };
        let applies = |date| {
            let fields = fields(&[(IF_RANGE, MODIFIED)]);
            with_date(date, |current| range_applies(&fields, current))
        };
        assert!(applies(DateOf::This) && !applies(DateOf::Codings) && !applies(DateOf::Several));
        for (date, same, unchanged) in [
            (DateOf::This, NotModified, Proceed),
            (DateOf::Codings, NotModified, Proceed),
            (DateOf::Several, Proceed, Failed),
        ] {
            assert_eq!(
                verdict(date, IF_MODIFIED_SINCE, MODIFIED, Method::GET),
                same
            );
            assert_eq!(
                verdict(date, IF_MODIFIED_SINCE, AFTER, Method::GET),
                NotModified
            );
            for method in [Method::GET, Method::PUT, Method::DELETE] {
                assert_eq!(
                    verdict(date, IF_UNMODIFIED_SINCE, MODIFIED, method),
                    unchanged
                );
            }
            assert_eq!(
                verdict(date, IF_UNMODIFIED_SINCE, AFTER, Method::PUT),
                Proceed
            );
            assert_eq!(
                verdict(date, IF_UNMODIFIED_SINCE, BEFORE, Method::PUT),
                Failed
            );
        }
    }

    #[test]
    fn tags_are_read_and_written() {
        for text in ["\"a\"", "W/\"a\"", "\"\"", "\"a\\b,c\"", "\"ä\""] {
            let tag = EntityTag::parse(text).unwrap();
            assert_eq!(tag.to_value().as_bytes(), text.as_bytes());
        }
        for bad in [
            "", "a", "\"", "w/\"a\"", "\"a", "\"a b\"", "\"a\"b\"", "W/ \"a\"",
        ] {
            assert_eq!(EntityTag::parse(bad), None, "{bad}");
        }
        assert_eq!(EntityTag::strong("a\"b"), None);
    }
}
