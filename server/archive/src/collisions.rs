//! Finds paths that cannot stand beside each other in one tree.
//!
//! Two paths collide when their folded keys are equal (one file on a volume that ignores case or normalization), or
//! when one's key is a directory of the other's. Keys are held as the first 16 bytes of their SHA-256, so a million
//! paths of any length cost about 30 MB for as long as the check lasts, and a chosen clash of hashes is out of reach.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use sha2::{Digest as _, Sha256};

use crate::entry_path::EntryPath;

/// The paths seen so far.
#[derive(Debug, Default)]
pub(crate) struct Collisions {
    /// The number of each file, or [`DIRECTORY`].
    names: HashMap<[u8; 16], u32>,
    files: u32,
}

/// Stands for a directory, where files have numbers.
const DIRECTORY: u32 = u32::MAX;

/// How a path collides with an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Collision {
    #[error("it is the same path as another, or differs only in case or normalization")]
    SamePath,
    #[error("it is a file and a directory at once")]
    FileAndDirectory,
}

impl Collisions {
    /// Adds a file's path, unless it collides with one added before. Returns its number: files count from 0.
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
        // From the deepest directory up: above a known one, all are known.
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

    /// The number of the file at this path.
    pub(crate) fn file(&self, path: &EntryPath<'_>) -> Option<u32> {
        let number = *self.names.get(&short_hash(&path.folded()))?;
        (number != DIRECTORY).then_some(number)
    }

    /// The number of directories that the files lie in.
    pub(crate) fn directories(&self) -> usize {
        self.names.len() - self.files as usize
    }

    /// About how much memory they take, in bytes.
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
