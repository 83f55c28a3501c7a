//! Survey of a directory: its entries, and the digests of its files.
//!
//! Links are never followed. Only files whose content matters are read: a file with the size and
//! time that a pull left is known, and a file without the size of any wanted content is of no use.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use archive::{DigestSet, Entry, Sha256Digest, Tree};
use rustix::fs::{Access, access};

use super::files::{Found, Hashed, Stamp, entries};
use super::holding::Held;
use super::{Error, STATE_DIRECTORY};

/// Entry at a path.
#[derive(Debug)]
pub(super) enum Thing {
    File(Local),
    Directory,
    /// A link, a socket, or any other entry that a pack cannot have.
    Other,
    /// A directory without read permission.
    Closed,
}

/// Plain file, with its digest if known.
#[derive(Debug)]
pub(super) struct Local {
    pub(super) found: Found,
    pub(super) sha256: Option<Sha256Digest>,
}

impl Local {
    pub(super) fn is(&self, entry: &Entry<'_>) -> bool {
        self.sha256 == Some(entry.sha256) && self.found.executable == entry.executable
    }
}

/// All entries below a directory.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Entries by their paths, with `/` between names.
    things: BTreeMap<String, Thing>,
}

impl Survey {
    /// Lists a directory. Files with the size and time that a pull left are known; without `held`
    /// none is.
    pub(super) fn of(directory: &Path, held: Option<&Held>) -> Result<Self, Error> {
        let mut survey = Self::default();
        survey.look_into(directory, "", held)?;
        Ok(survey)
    }

    fn look_into(
        &mut self,
        directory: &Path,
        prefix: &str,
        held: Option<&Held>,
    ) -> Result<(), Error> {
        for entry in entries(directory)? {
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::local("read", &path))?;
            let name = entry.file_name();
            let below = format!("{prefix}{}", name.to_string_lossy());
            if below == STATE_DIRECTORY {
                continue;
            }
            let thing = if kind.is_dir() {
                match self.look_into(&path, &format!("{below}/"), held) {
                    Err(error) if error.is_denied() => Thing::Closed,
                    looked => looked.map(|()| Thing::Directory)?,
                }
            } else if kind.is_file() {
                let metadata = entry.metadata().map_err(Error::local("read", &path))?;
                let found = Found::new(path, &metadata);
                let sha256 = held.and_then(|held| held.known(&below, &found));
                Thing::File(Local { found, sha256 })
            } else {
                Thing::Other
            };
            self.things.insert(below, thing);
        }
        Ok(())
    }

    /// Entry at a path.
    pub(super) fn thing(&self, path: &str) -> Option<&Thing> {
        self.things.get(path)
    }

    /// Returns all entries, in the order of the paths.
    pub(super) fn things(&self) -> impl DoubleEndedIterator<Item = (&str, &Thing)> {
        self.things.iter().map(|(path, thing)| (&**path, thing))
    }

    /// Returns all entries below a directory.
    pub(super) fn below(&self, directory: &str) -> impl Iterator<Item = (&str, &Thing)> {
        let first = format!("{directory}/");
        // The character after the slash.
        let end = format!("{directory}0");
        let below = self.things.range(first..end);
        below.map(|(path, thing)| (&**path, thing))
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &Local)> {
        self.things().filter_map(|(path, thing)| match thing {
            Thing::File(local) => Some((path, local)),
            Thing::Directory | Thing::Other | Thing::Closed => None,
        })
    }

    /// Returns the digests of the known files.
    pub(super) fn digests(&self) -> DigestSet {
        self.files().filter_map(|(_, local)| local.sha256).collect()
    }

    /// Returns the files that must be read for a plan: those that may be right already, and those
    /// that may have a wanted content.
    pub(super) fn unread(&self, held: Option<&Tree>, target: &Tree) -> Vec<(String, Found)> {
        let known = self.digests();
        let wanted: HashSet<u64> = target
            .entries()
            .filter(|entry| !known.contains(&entry.sha256))
            .map(|entry| entry.size)
            .collect();
        let could_be_of = |tree: &Tree, path: &str, size| {
            let position = tree.position(path);
            position.is_some_and(|position| tree.size(position) == size)
        };
        let matters = |path: &str, found: &Found| {
            let size = found.stamp.size;
            held.is_some_and(|held| could_be_of(held, path, size))
                || could_be_of(target, path, size)
                // A file without read permission is of no use.
                || wanted.contains(&size) && access(&found.path, Access::READ_OK).is_ok()
        };
        self.files()
            .filter(|(_, local)| local.sha256.is_none())
            .filter(|(path, local)| matters(path, &local.found))
            .map(|(path, local)| (path.to_owned(), local.found.clone()))
            .collect()
    }

    /// Records the digests of files that were read.
    pub(super) fn know(&mut self, read: Vec<(String, Hashed)>) {
        for (path, hashed) in read {
            if let Some(Thing::File(local)) = self.things.get_mut(&path) {
                local.sha256 = Some(hashed.sha256);
            }
        }
    }

    /// Returns the modification time of each file of a tree; zero for missing ones.
    pub(super) fn modified(&self, tree: &Tree) -> Vec<(i64, i64)> {
        let modified = |entry: Entry<'_>| match self.thing(entry.path) {
            Some(Thing::File(local)) => local.found.stamp.modified,
            _ => (0, 0),
        };
        tree.entries().map(modified).collect()
    }
}

/// Returns the entry at a path, if there is one; links are not followed.
pub(super) fn stamp_at(path: &Path) -> Result<Option<Stamp>, Error> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(Some(Stamp::of(&metadata))),
        Err(error) if is_absence(&error) => Ok(None),
        Err(error) => Err(Error::local("read", path)(error)),
    }
}

/// Returns true if there is no entry, or the path above it is no directory.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
