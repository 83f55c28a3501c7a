//! The protocol versions of vectors, and sets of versions as vectors write them: `3..6`, `7..`, `8
//! 9 rfc`.

use std::fmt;

/// A dialect of resumable uploads; the order is that of the columns in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Version {
    /// An IETF draft, by its interop version.
    Interop(u8),
    /// The form of the final RFC: the newest draft without the interop field.
    Rfc,
    Tus,
    /// Ordinary uploads, resumable in no dialect.
    Plain,
}

/// Name of the field that carries the interop version of an IETF draft.
pub(crate) const INTEROP: &str = "Upload-Draft-Interop-Version";

/// Interop version that renamed `Upload-Incomplete` to `Upload-Complete`.
const UPLOAD_COMPLETE_SINCE: u8 = 4;
/// Interop version that introduced `application/partial-upload`.
const PARTIAL_UPLOAD_SINCE: u8 = 6;

impl Version {
    pub(crate) const ALL: [Self; 11] = [
        Self::Interop(3),
        Self::Interop(4),
        Self::Interop(5),
        Self::Interop(6),
        Self::Interop(7),
        Self::Interop(8),
        Self::Interop(9),
        Self::Interop(10),
        Self::Rfc,
        Self::Tus,
        Self::Plain,
    ];

    /// Returns the directory of the vectors.
    pub(crate) fn dialect(self) -> &'static str {
        match self {
            Self::Interop(_) | Self::Rfc => "ietf",
            Self::Tus => "tus",
            Self::Plain => "plain",
        }
    }

    /// Finds a version by its name in the report or in a vector: `interop-6`, `6`, `rfc`, `tus`,
    /// `plain`.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let bare = name.strip_prefix("interop-").unwrap_or(name);
        Self::ALL
            .into_iter()
            .find(|version| version.short() == bare)
    }

    /// Returns the column title in the report.
    pub(crate) fn short(self) -> String {
        match self {
            Self::Interop(number) => number.to_string(),
            Self::Rfc => "rfc".to_owned(),
            Self::Tus => "tus".to_owned(),
            Self::Plain => "plain".to_owned(),
        }
    }

    /// Returns the value of `Upload-Draft-Interop-Version`, if the version has one.
    pub(crate) fn interop(self) -> Option<u8> {
        match self {
            Self::Interop(number) => Some(number),
            Self::Rfc | Self::Tus | Self::Plain => None,
        }
    }

    /// Returns the field that carries the completeness of an upload, with its value for `complete`.
    pub(crate) fn completeness(self, complete: bool) -> (&'static str, &'static str) {
        match self {
            Self::Interop(number) if number < UPLOAD_COMPLETE_SINCE => {
                ("Upload-Incomplete", boolean(!complete))
            }
            Self::Interop(_) | Self::Rfc | Self::Tus | Self::Plain => {
                ("Upload-Complete", boolean(complete))
            }
        }
    }

    /// Reports whether appends carry `Content-Type: application/partial-upload`.
    pub(crate) fn has_partial_upload_type(self) -> bool {
        match self {
            Self::Interop(number) => number >= PARTIAL_UPLOAD_SINCE,
            Self::Rfc => true,
            Self::Tus | Self::Plain => false,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interop(number) => write!(f, "interop-{number}"),
            Self::Rfc => f.write_str("rfc"),
            Self::Tus => f.write_str("tus"),
            Self::Plain => f.write_str("plain"),
        }
    }
}

fn boolean(value: bool) -> &'static str {
    if value { "?1" } else { "?0" }
}

/// A set of versions; every version by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct VersionSet(Option<Vec<Version>>);

impl VersionSet {
    /// Parses words such as `3..6`, `..5`, `7..`, `9`, `rfc`, separated by spaces. Ranges run
    /// through the IETF versions, of which `rfc` is the last.
    pub(crate) fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut versions = Vec::new();
        for word in words {
            match word.split_once("..") {
                None => versions.push(
                    Version::parse(word).ok_or_else(|| format!("no version is called {word:?}"))?,
                ),
                Some((first, last)) => {
                    let first = bound(first, Version::Interop(3))?;
                    let last = bound(last, Version::Rfc)?;
                    versions.extend(
                        Version::ALL
                            .into_iter()
                            .filter(|version| (first..=last).contains(version)),
                    );
                }
            }
        }
        Ok(if versions.is_empty() {
            Self(None)
        } else {
            Self(Some(versions))
        })
    }

    pub(crate) fn of_dialect(dialect: &str) -> Self {
        Self(Some(
            Version::ALL
                .into_iter()
                .filter(|version| version.dialect() == dialect)
                .collect(),
        ))
    }

    pub(crate) fn contains(&self, version: Version) -> bool {
        self.0
            .as_ref()
            .is_none_or(|versions| versions.contains(&version))
    }
}

fn bound(word: &str, open: Version) -> Result<Version, String> {
    if word.is_empty() {
        return Ok(open);
    }
    Version::parse(word).ok_or_else(|| format!("no version is called {word:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let set = VersionSet::parse(text.split_whitespace()).unwrap();
        let members: Vec<String> = Version::ALL
            .into_iter()
            .filter(|version| set.contains(*version))
            .map(Version::short)
            .collect();
        assert_eq!(members, expected, "{text}");
    }

    #[test]
    fn ranges_run_through_the_drafts_and_end_with_the_rfc() {
        check("3..6", &["3", "4", "5", "6"]);
        check("9..", &["9", "10", "rfc"]);
        check("..4", &["3", "4"]);
        check("6 rfc", &["6", "rfc"]);
        check("tus", &["tus"]);
    }

    #[test]
    fn the_empty_set_of_words_means_every_version() {
        check(
            "",
            &[
                "3", "4", "5", "6", "7", "8", "9", "10", "rfc", "tus", "plain",
            ],
        );
    }

    #[test]
    fn an_unknown_version_is_refused() {
        assert!(VersionSet::parse(["2"]).is_err());
        assert!(VersionSet::parse(["6..x"]).is_err());
    }

    #[test]
    fn interop_3_speaks_of_incompleteness() {
        assert_eq!(
            Version::Interop(3).completeness(true),
            ("Upload-Incomplete", "?0")
        );
        assert_eq!(
            Version::Interop(4).completeness(true),
            ("Upload-Complete", "?1")
        );
    }
}
