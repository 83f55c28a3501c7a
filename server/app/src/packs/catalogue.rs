//! Catalogues from a server: verified by their digest, and validated as untrusted input.

use std::fmt;

use archive::{Catalogue, Diff, Draft, Limits, PackName, Sha256Digest, Tree, lacking};
use serde::Serialize;

use super::Error;

/// Reads the catalogue of a version of this pack.
///
/// The digest identifies the catalogue, but its paths may still be harmful: its author chose both.
pub(super) fn read(
    bytes: &[u8],
    sha256: Sha256Digest,
    pack: &PackName,
) -> Result<Catalogue, Error> {
    let catalogue = Catalogue::decode(bytes, sha256)?;
    let checked = Draft::parse_json(bytes, Limits::default())
        .map_err(|error| Error::BadCatalogue(crate::transfer::chain(&error)))?;
    if checked.tree != *catalogue.tree() {
        return Err(Error::BadCatalogue(
            "its paths are not in their normal form".to_owned(),
        ));
    }
    if catalogue.pack() != pack {
        let other = catalogue.pack();
        return Err(Error::BadCatalogue(format!("it is of the pack {other}")));
    }
    Ok(catalogue)
}

/// Differences between a tree and the one before, in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Changes {
    pub(super) added: u32,
    pub(super) changed: u32,
    pub(super) moved: u32,
    pub(super) removed: u32,
    pub(super) unchanged: u32,
}

impl Changes {
    pub(super) fn between(old: &Tree, new: &Tree) -> Self {
        let diff = Diff::new(new, Some(old), &lacking(new, old));
        let moved = count(diff.copies.iter().filter(|copy| copy.is_move));
        let replaced = |entry: &archive::Entry<'_>| old.position(entry.path).is_some();
        let common = count(new.entries().filter(replaced));
        Self {
            added: new.len() - common - moved_to_new(&diff, old, new),
            changed: common - diff.unchanged,
            moved,
            removed: count(diff.removals.iter()) - moved,
            unchanged: diff.unchanged,
        }
    }

    /// Returns the changes of a first tree.
    pub(super) fn of_new(tree: &Tree) -> Self {
        Self {
            added: tree.len(),
            changed: 0,
            moved: 0,
            removed: 0,
            unchanged: 0,
        }
    }
}

/// Moves to a new path; a move onto an old path counts as a change of that path.
fn moved_to_new(diff: &Diff, old: &Tree, new: &Tree) -> u32 {
    let moves = diff.copies.iter().filter(|copy| copy.is_move);
    count(moves.filter(|copy| old.position(new.path(copy.to)).is_none()))
}

fn count(items: impl Iterator) -> u32 {
    u32::try_from(items.count()).expect("no more than the files of a tree")
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            added,
            changed,
            moved,
            removed,
            unchanged: _,
        } = self;
        write!(
            f,
            "{added} added, {changed} changed, {moved} moved, {removed} removed"
        )
    }
}

#[cfg(test)]
mod tests {
    use archive::{Content, EntryPath};

    use super::*;

    fn tree(files: &[(&'static str, &str)]) -> Tree {
        let entries = files.iter().map(|(path, content)| {
            let sha256 = Sha256Digest::of(content.as_bytes());
            (
                EntryPath::parse(*path).unwrap(),
                content.len() as u64,
                sha256,
                false,
            )
        });
        Tree::try_from_entries(entries, Limits::default()).unwrap()
    }

    #[test]
    fn changes_are_counted_once() {
        let old = tree(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]);
        let new = tree(&[
            ("a", "1"),
            ("b", "9"),
            ("c", "4"),
            ("f", "5"),
            ("g", "1"),
            ("h", "7"),
        ]);
        // b is new content; d moved onto c; e moved to f; g is a copy of a; h is new.
        let changes = Changes::between(&old, &new);
        assert_eq!(
            changes,
            Changes {
                added: 2,
                changed: 2,
                moved: 2,
                removed: 0,
                unchanged: 1
            }
        );
        let same = Changes {
            added: 0,
            changed: 0,
            moved: 0,
            removed: 0,
            unchanged: 5,
        };
        assert_eq!(Changes::between(&old, &old), same);
        assert_eq!(Changes::between(&new, &tree(&[])).removed, 6);
        assert_eq!(Changes::between(&tree(&[]), &new).added, 6);
    }

    #[test]
    fn a_catalogue_with_paths_that_lead_out_is_refused() {
        let maps = PackName::parse("maps").unwrap();
        let content_of = |_: &Sha256Digest| Some(Content { size: 1, crc32: 0 });
        let good =
            Catalogue::publish(maps.clone(), 1, tree(&[("aa/bb", "1")]), content_of).unwrap();
        let bytes: Vec<u8> = good.encode().flatten().collect();
        let check = |from: &str, to: &str, pack: &PackName| {
            let text = String::from_utf8(bytes.clone()).unwrap().replace(from, to);
            read(text.as_bytes(), Sha256Digest::of(text.as_bytes()), pack)
        };
        assert_eq!(
            check("aa/bb", "aa/cc", &maps).unwrap().tree().path(0),
            "aa/cc"
        );
        for evil in ["../bb", "/a/bb", "cafe\u{301}", ".longhaul/x", "a\\\\b"] {
            let error = check("aa/bb", evil, &maps).unwrap_err();
            assert!(matches!(error, Error::BadCatalogue(_)), "{evil}: {error}");
        }
        let other = PackName::parse("other").unwrap();
        assert!(check("aa", "aa", &other).is_err());
        assert!(read(&bytes, Sha256Digest::of(b""), &maps).is_err());
    }
}
