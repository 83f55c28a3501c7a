//! Finds paths that cannot be in one tree together.
//!
//! Two paths collide if their folded keys are equal (one file on a volume that ignores case or
//! normalization), or if one's key is a directory of the other's. Keys are stored as the first 16
//! bytes of their SHA-256, so a million paths of any length take about 30 MB during the check, and
//! a chosen collision of hashes is infeasible.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use sha2::{Digest as _, Sha256};

use crate::entry_path::EntryPath;

/// Paths inserted so far.
#[derive(Debug, Default)]
pub(crate) struct Collisions {
    /// Number of each file, or [`DIRECTORY`].
    names: HashMap<[u8; 16], u32>,
    files: u32,
}

/// Marks a directory in place of a file's number.
const DIRECTORY: u32 = u32::MAX;

/// Kind of a path's collision with an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Collision {
    #[error("it is the same path as another, or differs only in case or normalization")]
    SamePath,
    #[error("it is a file and a directory at once")]
    FileAndDirectory,
}

impl Collisions {
    /// Adds a file's path unless it collides with an earlier one. Returns the number of the file;
    /// files count from 0.
    pub(crate) fn insert(&mut self, path: &EntryPath<'_>) -> Result<u32, Collision> {
        let key = path.folded();
        let number = self.files;
        match self.names.entry(short_hash(&key)) {
            Entry::Occupied(known) => {
                return Err(match *known.get() {
                    DIRECTORY => Collision::FileAndDirectory,
                    _ => Collision::SamePath,
                });
            }
            Entry::Vacant(free) => free.insert(number),
        };
        self.files += 1;
        // From the deepest directory up: the parents of a known directory are known.
        let mut rest = &*key;
        while let Some((directory, _)) = rest.rsplit_once('/') {
            match self.names.entry(short_hash(directory)) {
                Entry::Occupied(known) => match *known.get() {
                    DIRECTORY => break,
                    _ => return Err(Collision::FileAndDirectory),
                },
                Entry::Vacant(free) => free.insert(DIRECTORY),
            };
            rest = directory;
        }
        Ok(number)
    }

    /// Returns the number of the file at `path`.
    pub(crate) fn file(&self, path: &EntryPath<'_>) -> Option<u32> {
        let number = *self.names.get(&short_hash(&path.folded()))?;
        (number != DIRECTORY).then_some(number)
    }

    /// Returns the number of directories that contain files.
    pub(crate) fn directories(&self) -> usize {
        self.names.len() - self.files as usize
    }

    /// Returns the approximate memory of the paths, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.names.capacity() * (size_of::<([u8; 16], u32)>() + 1)
    }
}

fn short_hash(key: &str) -> [u8; 16] {
    let hash = Sha256::digest(key.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str], expected: Result<(), Collision>) {
        let insert_all = |paths: Vec<&&str>| {
            let mut seen = Collisions::default();
            paths
                .into_iter()
                .try_for_each(|path| seen.insert(&EntryPath::parse(*path).unwrap()).map(drop))
        };
        assert_eq!(insert_all(paths.iter().collect()), expected, "{paths:?}");
        assert_eq!(
            insert_all(paths.iter().rev().collect()),
            expected,
            "{paths:?}, backwards"
        );
    }

    #[test]
    fn distinct_paths_stand_together() {
        check(&["a/b", "a/c", "a-b", "b", "A/d", "c/a/b"], Ok(()));
    }

    #[test]
    fn equal_keys_collide() {
        check(&["a/b", "a/b"], Err(Collision::SamePath));
        check(&["x", "a/B", "A/b"], Err(Collision::SamePath));
        check(&["stra\u{df}e", "STRASSE"], Err(Collision::SamePath));
    }

    #[test]
    fn a_file_is_no_directory() {
        check(&["a", "a/b"], Err(Collision::FileAndDirectory));
        check(
            &["A/x", "a-b", "q/a", "a/X/c/d"],
            Err(Collision::FileAndDirectory),
        );
    }
}
