//! Paths inside packs and archives.
//!
//! A path comes from an untrusted source (a catalogue, a zip, a tar) and becomes a file name on
//! devices with different file systems. [`EntryPath`] is checked once and is then safe everywhere:
//! relative, without a way up or out, in Unicode's NFC, and with the same meaning on case-sensitive
//! and case-insensitive volumes as long as [`folded`](EntryPath::folded) keys are distinct (see
//! [`crate::collisions`]).

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Maximum length of a path, in bytes of UTF-8.
pub const MAX_PATH_BYTES: usize = 1024;

/// Maximum length of a path's segment, in bytes of UTF-8: within the limits of APFS, ext4 and NTFS.
pub const MAX_SEGMENT_BYTES: usize = 255;

/// Top-level directory that archives reserve.
pub const RESERVED_DIRECTORY: &str = ".longhaul";

/// A relative path of `/`-separated names that is safe to create below a directory.
///
/// Paths are compared, ordered and hashed by their bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath<'a>(Cow<'a, str>);

/// Reasons for which a text is not an [`EntryPath`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryPathError {
    #[error("the path is empty")]
    Empty,
    #[error("the path is longer than {MAX_PATH_BYTES} bytes")]
    PathTooLong,
    #[error("the path is absolute")]
    Absolute,
    #[error("the path has an empty segment")]
    EmptySegment,
    #[error("the path has a segment of more than {MAX_SEGMENT_BYTES} bytes")]
    SegmentTooLong,
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    #[error("the path has a segment that begins with a space, or ends with a dot or a space")]
    DotOrSpaceAtEdge,
    #[error("the name begins with a dot")]
    LeadingDot,
    #[error("the path is one that macOS adds to directories (`.DS_Store`, `._*`, `__MACOSX`)")]
    Litter,
    #[error("the path has a drive letter")]
    DriveLetter,
    #[error("the path has a backslash")]
    Backslash,
    #[error("the path has a control character")]
    ControlCharacter,
    #[error("the path is not in Unicode normalization form C")]
    NotNormalized,
    #[error("the path lies in the reserved directory `{RESERVED_DIRECTORY}`")]
    Reserved,
}

impl<'a> EntryPath<'a> {
    /// Checks a path that is already in NFC.
    pub fn parse(path: impl Into<Cow<'a, str>>) -> Result<Self, EntryPathError> {
        let path = path.into();
        check(&path)?;
        if !is_nfc(&path) {
            return Err(EntryPathError::NotNormalized);
        }
        Ok(Self(path))
    }

    /// Normalizes a path to NFC and checks it.
    ///
    /// Use this for names from other tools: those of macOS write decomposed names into archives.
    pub fn normalize(path: impl Into<Cow<'a, str>>) -> Result<Self, EntryPathError> {
        let path = path.into();
        // Normalization costs time and memory in proportion to the text; composition shortens text
        // to a third at most.
        if path.len() > 3 * MAX_PATH_BYTES {
            return Err(EntryPathError::PathTooLong);
        }
        if is_nfc(&path) {
            Self::parse(path)
        } else {
            Self::parse(path.nfc().collect::<String>())
        }
    }

    /// Wraps a path of a published catalogue, which was checked at publication.
    pub(crate) fn published(path: impl Into<Cow<'a, str>>) -> Self {
        Self(path.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn into_owned(self) -> EntryPath<'static> {
        EntryPath(Cow::Owned(self.0.into_owned()))
    }

    /// Returns the key that paths share if they are the same file on a volume that ignores case and
    /// normalization.
    ///
    /// The key is that of canonical caseless matching (Unicode, definition D145) with full case
    /// folding. Folding neither adds nor removes a `/`, so the key's segments are those of the
    /// path.
    pub fn folded(&self) -> Cow<'_, str> {
        folded(&self.0)
    }
}

impl fmt::Debug for EntryPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for EntryPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl AsRef<str> for EntryPath<'_> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl<'de> Deserialize<'de> for EntryPath<'static> {
    /// Reads a path in any normalization form.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        Self::normalize(path).map_err(D::Error::custom)
    }
}

fn check(path: &str) -> Result<(), EntryPathError> {
    if path.is_empty() {
        return Err(EntryPathError::Empty);
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(EntryPathError::PathTooLong);
    }
    if path.starts_with('/') {
        return Err(EntryPathError::Absolute);
    }
    path.split('/').try_for_each(check_segment)?;
    // Readers of archives skip these, so a tree with them could never be published.
    if is_litter(path) {
        return Err(EntryPathError::Litter);
    }
    // Compare folded keys: on a volume that ignores case, `.Longhaul` is the same directory.
    if path
        .split('/')
        .next()
        .is_some_and(|first| folded(first) == RESERVED_DIRECTORY)
    {
        return Err(EntryPathError::Reserved);
    }
    Ok(())
}

/// Returns true for files that macOS adds to directories and archives: window positions, resource
/// forks and icons of folders. Trees never contain them, and readers of directories and archives
/// skip them.
pub fn is_litter(path: &str) -> bool {
    let mut segments = path.split('/').peekable();
    segments.peek() == Some(&"__MACOSX")
        || segments.any(|name| name == ".DS_Store" || name == "Icon\r" || name.starts_with("._"))
}

/// Checks one segment; the rule applies to pack names, too. A segment may begin with a dot:
/// `.well-known`.
pub(crate) fn check_segment(segment: &str) -> Result<(), EntryPathError> {
    let bytes = segment.as_bytes();
    if bytes.is_empty() {
        return Err(EntryPathError::EmptySegment);
    }
    if bytes.len() > MAX_SEGMENT_BYTES {
        return Err(EntryPathError::SegmentTooLong);
    }
    if segment == "." || segment == ".." {
        return Err(EntryPathError::DotSegment);
    }
    if segment.starts_with(' ') || segment.ends_with(['.', ' ']) {
        return Err(EntryPathError::DotOrSpaceAtEdge);
    }
    // In any segment: code that joins a path segment by segment would leave the directory at `C:`.
    if bytes.len() >= 2 && bytes[0].is_ascii_alphabetic() && bytes[1] == b':' {
        return Err(EntryPathError::DriveLetter);
    }
    if segment.contains('\\') {
        return Err(EntryPathError::Backslash);
    }
    if segment.chars().any(char::is_control) {
        return Err(EntryPathError::ControlCharacter);
    }
    Ok(())
}

pub(crate) fn is_nfc(text: &str) -> bool {
    text.is_ascii()
        || match is_nfc_quick(text.chars()) {
            IsNormalized::Yes => true,
            IsNormalized::No => false,
            IsNormalized::Maybe => text.chars().eq(text.nfc()),
        }
}

pub(crate) fn folded(text: &str) -> Cow<'_, str> {
    if text.is_ascii() {
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        }
    } else {
        let folded = caseless::default_case_fold_str(&text.nfd().collect::<String>());
        Cow::Owned(folded.nfd().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn refuse(path: &str, why: EntryPathError) {
        assert_eq!(EntryPath::parse(path), Err(why), "{path:?}");
    }

    fn accept(path: &str) {
        assert_eq!(EntryPath::parse(path).unwrap().as_str(), path);
    }

    #[test]
    fn ordinary_names_pass() {
        accept("a");
        accept("a/b.png");
        accept("Größe/日本語/emoji 🎉.txt");
        accept("a..b/c. d");
        accept("xy:z/1:2");
        accept("\"quoted\" & <odd>?*|");
        accept(".well-known/assetlinks.json");
        accept("a/.htaccess");
        accept("..a/...b");
        accept(".DS_Store.txt");
        accept("a/__MACOSX/b");
        accept("a/.longhaul/b");
        accept(&"n".repeat(255));
        accept(&vec!["n".repeat(127); 8].join("/"));
    }

    #[test]
    fn each_rule_refuses() {
        refuse("", EntryPathError::Empty);
        refuse("/etc/passwd", EntryPathError::Absolute);
        refuse("//server/share", EntryPathError::Absolute);
        refuse("a//b", EntryPathError::EmptySegment);
        refuse("a/", EntryPathError::EmptySegment);
        refuse(".", EntryPathError::DotSegment);
        refuse("..", EntryPathError::DotSegment);
        refuse("a/../b", EntryPathError::DotSegment);
        refuse("a/./b", EntryPathError::DotSegment);
        refuse("...", EntryPathError::DotOrSpaceAtEdge);
        refuse("a/.DS_Store", EntryPathError::Litter);
        refuse("._a/b", EntryPathError::Litter);
        refuse("__MACOSX/a", EntryPathError::Litter);
        refuse("Icon\r", EntryPathError::ControlCharacter);
        refuse("a/b.", EntryPathError::DotOrSpaceAtEdge);
        refuse("a / b", EntryPathError::DotOrSpaceAtEdge);
        refuse(" ", EntryPathError::DotOrSpaceAtEdge);
        refuse("C:", EntryPathError::DriveLetter);
        refuse("c:/x", EntryPathError::DriveLetter);
        refuse("a/c:x", EntryPathError::DriveLetter);
        refuse("a\\b", EntryPathError::Backslash);
        refuse("a\0b", EntryPathError::ControlCharacter);
        refuse("a\nb", EntryPathError::ControlCharacter);
        refuse("a\u{7f}", EntryPathError::ControlCharacter);
        refuse("a\u{85}b", EntryPathError::ControlCharacter);
        refuse("e\u{301}", EntryPathError::NotNormalized);
        refuse(&"n".repeat(256), EntryPathError::SegmentTooLong);
        refuse(
            &vec!["n".repeat(128); 8].join("/"),
            EntryPathError::PathTooLong,
        );
        refuse(".longhaul/diff.json", EntryPathError::Reserved);
        refuse(".longhaul", EntryPathError::Reserved);
        refuse(".LongHaul/x", EntryPathError::Reserved);
    }

    #[test]
    fn decomposed_names_are_composed_on_request() {
        let path = EntryPath::normalize("cafe\u{301}/x").unwrap();
        assert_eq!(path.as_str(), "caf\u{e9}/x");
        assert_eq!(EntryPath::normalize(path.as_str()).unwrap(), path);
    }

    #[test]
    fn folding_joins_what_some_volumes_join() {
        fn same(a: &str, b: &str) {
            assert_eq!(
                EntryPath::normalize(a).unwrap().folded(),
                EntryPath::normalize(b).unwrap().folded()
            );
        }
        same("README", "readme");
        same("Straße", "STRASSE");
        same("CAF\u{c9}", "cafe\u{301}");
        same("\u{212a}", "k");
        same("ΣΊΣΥΦΟΣ", "σίσυφος");
        assert_ne!(
            EntryPath::parse("a").unwrap().folded(),
            EntryPath::parse("b").unwrap().folded()
        );
    }

    proptest! {
        #[test]
        fn an_accepted_path_never_escapes(path in any_path()) {
            let Ok(path) = EntryPath::normalize(path) else { return Ok(()) };
            let root = Path::new("/srv/root");
            let joined = root.join(path.as_str());
            prop_assert!(joined.starts_with(root));
            prop_assert!(joined != root);
            let below = joined.strip_prefix(root).unwrap();
            prop_assert!(below.components().all(|part| matches!(part, Component::Normal(_))));
            // Joining segment by segment, as Windows code may, leads to the same path.
            let by_names = path.as_str().split('/').fold(root.to_path_buf(), |at, name| at.join(name));
            prop_assert_eq!(by_names, joined);
            prop_assert!(path.as_str().len() <= MAX_PATH_BYTES);
            prop_assert!(path.as_str().nfc().eq(path.as_str().chars()));
        }

        #[test]
        fn parsing_is_idempotent(path in any_path()) {
            if let Ok(path) = EntryPath::normalize(path) {
                prop_assert_eq!(EntryPath::parse(path.as_str()), Ok(path.clone()));
                prop_assert_eq!(EntryPath::normalize(path.as_str()), Ok(path.clone()));
                prop_assert_eq!(path.folded().matches('/').count(), path.as_str().matches('/').count());
                let folded = folded(&path.folded()).into_owned();
                prop_assert_eq!(folded, path.folded().into_owned());
            }
        }
    }

    /// Generates text that is often almost a path.
    fn any_path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just("/".to_owned()),
            Just("//".to_owned()),
            Just("\\".to_owned()),
            Just("C:".to_owned()),
            Just("\0".to_owned()),
            Just("e\u{301}".to_owned()),
            "[a-zA-Z0-9 ._-]{1,6}",
            "\\PC{0,4}",
            any::<String>(),
        ];
        proptest::collection::vec(
            prop_oneof![3 => piece.clone(), 2 => Just("/".to_owned())],
            0..10,
        )
        .prop_map(|pieces| pieces.concat())
    }
}
