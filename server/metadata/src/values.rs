//! Parameters of statements, the same for every engine.

use std::borrow::Cow;
use std::time::Duration;

use archive::Sha256Digest;
use domain::{BlobKey, Timestamp};
use serde::{Serialize, Serializer};

/// A parameter of a statement.
#[derive(Debug, Clone)]
pub(crate) enum Value<'q> {
    Bool(bool),
    Int(Option<i64>),
    Text(Option<Cow<'q, str>>),
    Bytes(Option<Cow<'q, [u8]>>),
    /// A list: a JSON array in SQLite, an array in PostgreSQL.
    List(&'q Column<'q>),
    /// Rows: a JSON array of arrays in SQLite; in PostgreSQL one array for each column, each of
    /// them a parameter.
    Table(&'q [Column<'q>]),
}

/// Values of a list, or of a column of a table.
#[derive(Debug, Clone)]
pub(crate) enum Column<'q> {
    Ints(Vec<Option<i64>>),
    Texts(Vec<Option<&'q str>>),
    /// Digests: hexadecimal text in SQLite.
    Digests(Vec<Option<&'q Sha256Digest>>),
}

/// Lists the parameters of a statement.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        &[$($crate::values::Value::from($value)),*]
    };
}
pub(crate) use values;

/// Implements `From` for [`Value`].
macro_rules! into_value {
    ($($from:ty => |$value:ident| $into:expr),* $(,)?) => {
        $(impl<'q> From<$from> for Value<'q> {
            fn from($value: $from) -> Self {
                $into
            }
        })*
    };
}

into_value!(
    bool => |value| Self::Bool(value),
    i64 => |value| Self::Int(Some(value)),
    Option<i64> => |value| Self::Int(value),
    Timestamp => |value| Self::Int(Some(value.as_millis())),
    Option<Timestamp> => |value| Self::Int(value.map(Timestamp::as_millis)),
    &'q str => |value| Self::Text(Some(value.into())),
    Option<&'q str> => |value| Self::Text(value.map(Cow::Borrowed)),
    String => |value| Self::Text(Some(value.into())),
    Option<String> => |value| Self::Text(value.map(Cow::Owned)),
    &'q BlobKey => |value| Self::Text(Some(value.as_str().into())),
    &'q [u8] => |value| Self::Bytes(Some(value.into())),
    &'q Sha256Digest => |value| Self::Bytes(Some(value.as_bytes().as_slice().into())),
    &'q Column<'q> => |value| Self::List(value),
    &'q [Column<'q>] => |value| Self::Table(value),
);

impl<'q> Column<'q> {
    /// Collects texts without nulls.
    pub(crate) fn texts(texts: impl IntoIterator<Item = &'q str>) -> Self {
        Self::Texts(texts.into_iter().map(Some).collect())
    }

    /// Collects digests without nulls.
    pub(crate) fn digests(digests: impl IntoIterator<Item = &'q Sha256Digest>) -> Self {
        Self::Digests(digests.into_iter().map(Some).collect())
    }

    fn len(&self) -> usize {
        match self {
            Self::Ints(values) => values.len(),
            Self::Texts(values) => values.len(),
            Self::Digests(values) => values.len(),
        }
    }
}

/// Value at an index of a column, as JSON.
struct Cell<'a>(&'a Column<'a>, usize);

impl Serialize for Cell<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(column, index) = *self;
        match column {
            Column::Ints(values) => values[index].serialize(serializer),
            Column::Texts(values) => values[index].serialize(serializer),
            Column::Digests(values) => match values[index] {
                Some(digest) => serializer.collect_str(digest),
                None => serializer.serialize_none(),
            },
        }
    }
}

impl Serialize for Column<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq((0..self.len()).map(|index| Cell(self, index)))
    }
}

/// Columns of equal length, as JSON row by row.
pub(crate) struct Rows<'a>(pub(crate) &'a [Column<'a>]);

impl Serialize for Rows<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let length = self.0.first().map_or(0, Column::len);
        serializer.collect_seq((0..length).map(|index| Line(self.0, index)))
    }
}

struct Line<'a>(&'a [Column<'a>], usize);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|column| Cell(column, self.1)))
    }
}

/// Converts a limit to a parameter.
pub(crate) fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Converts a time to whole milliseconds. Cuts extreme values, so that the sum with a moment does
/// not overflow.
pub(crate) fn millis(time: Duration) -> i64 {
    const MAX: u128 = i32::MAX as u128;
    i64::try_from(time.as_millis().min(MAX)).unwrap_or(i64::MAX)
}

/// Converts the number of a version to look up. Numbers beyond the maximum of a column become the
/// maximum, which no version has.
pub(crate) fn sought(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns true if text has a NUL, which PostgreSQL cannot store. No row has such text.
pub(crate) fn has_nul(text: &str) -> bool {
    text.contains('\0')
}

/// Cuts text at its first NUL. No row has a NUL, so the same rows sort after both texts.
pub(crate) fn before_nul(text: &str) -> &str {
    text.split('\0').next().unwrap_or_default()
}

/// Range of the paths that begin with a prefix and sort after one of them: from `from` on, and
/// below `end` if there is one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PathRange {
    pub(crate) from: String,
    pub(crate) end: Option<String>,
}

impl PathRange {
    pub(crate) fn new(prefix: &str, after: Option<&str>) -> Self {
        let from = match after {
            // The least greater path: no path has a control character.
            Some(after) if after >= prefix => format!("{after}\u{1}"),
            Some(_) | None => prefix.to_owned(),
        };
        Self {
            from,
            end: prefix_end(prefix),
        }
    }
}

/// Returns the least text greater than all texts that begin with `prefix`, if there is one.
fn prefix_end(prefix: &str) -> Option<String> {
    let mut end = prefix.to_owned();
    while let Some(last) = end.pop() {
        // UTF-8 sorts in the order of code points. A range of chars skips the surrogates.
        if let Some(next) = (last..=char::MAX).nth(1) {
            end.push(next);
            return Some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_text() {
        let check = |prefix, end: Option<&str>| assert_eq!(prefix_end(prefix).as_deref(), end);
        check("", None);
        check("a", Some("b"));
        check("a/", Some("a0"));
        check("é", Some("ê"));
        check("\u{d7ff}", Some("\u{e000}"));
        check("a\u{10ffff}", Some("b"));
        check("\u{10ffff}\u{10ffff}", None);
    }
}
