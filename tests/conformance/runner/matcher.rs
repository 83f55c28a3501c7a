//! Expectations of a vector for one value: `40`, `?1`, `(integer 0..100)`, `(absent) | (list
//! no-store)`.
//!
//! Integers and booleans are compared as structured field items (RFC 9651): parameters do not
//! matter, and neither `"40"` nor `40.0` equals `40`. Any other literal is compared character by
//! character.

use sfv::{BareItem, Dictionary, Item, ListEntry, Parser};

use crate::template::{Template, Unset, Variables};

/// Alternatives, of which one must match.
#[derive(Debug, Clone)]
pub(crate) struct Matcher {
    alternatives: Vec<One>,
    source: Template,
}

#[derive(Debug, Clone)]
enum One {
    Any,
    Absent,
    Empty,
    Not(Template),
    Integer(Option<(Template, Template)>),
    Dictionary(Vec<Member>),
    List(Template),
    Media(String),
    Date,
    Literal(Template),
}

/// A dictionary member with an integer value, written `key`, or `key?` if it is optional.
#[derive(Debug, Clone)]
struct Member {
    key: String,
    required: bool,
}

impl Matcher {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let alternatives = text
            .split(" | ")
            .map(|one| One::parse(one.trim()))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            alternatives,
            source: Template::parse(text)?,
        })
    }

    /// Matches a value; the error describes the difference in words.
    pub(crate) fn check(
        &self,
        value: Option<&str>,
        variables: &Variables,
    ) -> Result<Result<(), String>, Unset> {
        for one in &self.alternatives {
            if one.holds(value, variables)? {
                return Ok(Ok(()));
            }
        }
        Ok(Err(difference(&self.source.expand(variables)?, value)))
    }
}

/// Compares a value with a literal; the error describes the difference in words.
pub(crate) fn equal(expected: &str, value: Option<&str>) -> Result<(), String> {
    if value.is_some_and(|value| same(value, expected)) {
        Ok(())
    } else {
        Err(difference(expected, value))
    }
}

fn difference(expected: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("expected {expected}, found {value:?}"),
        None => format!("expected {expected}, found nothing"),
    }
}

impl One {
    fn parse(text: &str) -> Result<Self, String> {
        let Some(inside) = text
            .strip_prefix('(')
            .and_then(|text| text.strip_suffix(')'))
        else {
            return Template::parse(text).map(Self::Literal);
        };
        let (word, argument) = inside.split_once(' ').unwrap_or((inside, ""));
        match (word, argument) {
            ("any", "") => Ok(Self::Any),
            ("absent", "") => Ok(Self::Absent),
            ("empty", "") => Ok(Self::Empty),
            ("date", "") => Ok(Self::Date),
            ("integer", "") => Ok(Self::Integer(None)),
            ("integer", range) => {
                let (least, most) = range
                    .split_once("..")
                    .ok_or_else(|| format!("{range:?} is no range"))?;
                Ok(Self::Integer(Some((
                    Template::parse(least)?,
                    Template::parse(most)?,
                ))))
            }
            ("not", value) => Template::parse(value).map(Self::Not),
            ("list", member) if !member.is_empty() => Template::parse(member).map(Self::List),
            ("media", name) if !name.is_empty() => Ok(Self::Media(name.to_owned())),
            ("dictionary", members) => Ok(Self::Dictionary(
                members.split_whitespace().map(Member::parse).collect(),
            )),
            _ => Err(format!("no matcher is called {text:?}")),
        }
    }

    fn holds(&self, value: Option<&str>, variables: &Variables) -> Result<bool, Unset> {
        let Some(value) = value else {
            return Ok(matches!(self, Self::Absent | Self::Not(_)));
        };
        Ok(match self {
            Self::Any => true,
            Self::Absent => false,
            Self::Empty => value.is_empty(),
            Self::Not(other) => !same(value, &other.expand(variables)?),
            Self::Integer(None) => integer(value).is_some(),
            Self::Integer(Some((least, most))) => {
                let (least, most) = (least.position(variables)?, most.position(variables)?);
                integer(value)
                    .and_then(|found| u64::try_from(found).ok())
                    .is_some_and(|found| (least..=most).contains(&found))
            }
            Self::Dictionary(members) => has_members(value, members),
            Self::List(member) => {
                let member = member.expand(variables)?;
                value
                    .split(',')
                    .any(|found| found.trim().eq_ignore_ascii_case(&member))
            }
            Self::Media(name) => value
                .split(';')
                .next()
                .is_some_and(|found| found.trim().eq_ignore_ascii_case(name)),
            Self::Date => is_http_date(value),
            Self::Literal(expected) => same(value, &expected.expand(variables)?),
        })
    }
}

impl Member {
    fn parse(word: &str) -> Self {
        match word.strip_suffix('?') {
            Some(key) => Self {
                key: key.to_owned(),
                required: false,
            },
            None => Self {
                key: word.to_owned(),
                required: true,
            },
        }
    }
}

fn item(value: &str) -> Option<BareItem> {
    Parser::new(value)
        .parse::<Item>()
        .ok()
        .map(|item| item.bare_item)
}

/// Parses the value of a structured integer item.
fn integer(value: &str) -> Option<i64> {
    match item(value)? {
        BareItem::Integer(integer) => Some(i64::from(integer)),
        _ => None,
    }
}

fn same(value: &str, expected: &str) -> bool {
    match item(expected) {
        Some(expected @ (BareItem::Integer(_) | BareItem::Boolean(_))) => {
            item(value) == Some(expected)
        }
        _ => value == expected,
    }
}

fn has_members(value: &str, members: &[Member]) -> bool {
    let Ok(dictionary) = Parser::new(value).parse::<Dictionary>() else {
        return false;
    };
    let holds = |member: &Member| match dictionary.get(member.key.as_str()) {
        None => !member.required,
        Some(ListEntry::Item(item)) => matches!(item.bare_item, BareItem::Integer(_)),
        Some(ListEntry::InnerList(_)) => false,
    };
    !dictionary.is_empty() && members.iter().all(holds)
}

/// Reports whether the value has the shape of an IMF-fixdate (RFC 9110 §5.6.7): `Sun, 06 Nov 1994
/// 08:49:37 GMT`.
fn is_http_date(value: &str) -> bool {
    const SHAPE: &[u8] = b"Aaa, 00 Aaa 0000 00:00:00 GMT";
    value.len() == SHAPE.len()
        && value.bytes().zip(SHAPE).all(|(found, shape)| match *shape {
            b'0' => found.is_ascii_digit(),
            b'A' => found.is_ascii_uppercase(),
            b'a' => found.is_ascii_lowercase(),
            other => found == other,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(matcher: &str, value: Option<&str>) -> bool {
        let variables = Variables::from([("offset".to_owned(), "40".to_owned())]);
        Matcher::parse(matcher)
            .unwrap()
            .check(value, &variables)
            .unwrap()
            .is_ok()
    }

    #[test]
    fn integers_and_booleans_are_structured_items() {
        assert!(holds("40", Some("40")));
        assert!(holds("{offset}", Some("40;note=\"x\"")));
        assert!(!holds("40", Some("40.0")));
        assert!(!holds("40", Some("\"40\"")));
        assert!(!holds("40", Some("40, 40")));
        assert!(holds("?1", Some("?1")));
        assert!(!holds("?1", Some("1")));
        assert!(!holds("?1", None));
    }

    #[test]
    fn ranges_include_both_ends() {
        assert!(holds("(integer 0..{offset})", Some("40")));
        assert!(!holds("(integer 0..{offset})", Some("41")));
        assert!(!holds("(integer 0..{offset})", Some("-1")));
        assert!(!holds("(integer)", Some("many")));
    }

    #[test]
    fn absence_satisfies_not_and_absent_only() {
        assert!(holds("(absent)", None));
        assert!(holds("(not ?1)", None));
        assert!(!holds("(any)", None));
        assert!(holds("(absent) | ?0", Some("?0")));
        assert!(!holds("(absent) | ?0", Some("?1")));
    }

    #[test]
    fn dictionaries_need_integer_members() {
        assert!(holds("(dictionary)", Some("min-size=0")));
        assert!(!holds("(dictionary)", Some("107374182400")));
        assert!(!holds("(dictionary)", Some("")));
        assert!(holds(
            "(dictionary max-age max-size?)",
            Some("max-age=60, new-key")
        ));
        assert!(!holds("(dictionary max-age)", Some("max-size=1")));
        assert!(!holds("(dictionary max-age)", Some("max-age=\"60\"")));
    }

    #[test]
    fn lists_media_types_and_dates() {
        assert!(holds("(list no-store)", Some("private, No-Store")));
        assert!(!holds("(list no-store)", Some("no-storeroom")));
        assert!(holds(
            "(media application/problem+json)",
            Some("application/problem+json; charset=utf-8")
        ));
        assert!(holds("(date)", Some("Sun, 06 Nov 1994 08:49:37 GMT")));
        assert!(!holds("(date)", Some("1994-11-06T08:49:37Z")));
    }

    #[test]
    fn a_difference_is_put_into_words() {
        let found = Matcher::parse("{offset}").unwrap().check(
            Some("9"),
            &Variables::from([("offset".to_owned(), "40".to_owned())]),
        );
        assert_eq!(found.unwrap().unwrap_err(), "expected 40, found \"9\"");
    }
}
