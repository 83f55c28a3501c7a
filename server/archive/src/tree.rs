//! Directory trees as sorted lists of files, which clients hold or publish.
//!
//! A tree is stored as columns and one arena of paths: 44 bytes a file and its path, so that a
//! million files fit in memory. Positions, which count from 0 in the order of paths, identify files
//! in needs and layouts.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use crate::collisions::{Collision, Collisions};
use crate::entry_path::EntryPath;
use crate::sha256_digest::Sha256Digest;

/// Maximum size of a file or a tree: the largest integer that every JSON reader represents exactly,
/// 2^53 − 1.
pub const MAX_SIZE: u64 = (1 << 53) - 1;

/// Limits of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Number of files.
    pub entries: u32,
    /// Sum of all sizes, in bytes; values above [`MAX_SIZE`] count as that.
    pub total_size: u64,
    /// Sum of the lengths of all paths, in bytes of UTF-8; always less than 4 GiB.
    pub path_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1 << 20,
            total_size: MAX_SIZE,
            path_bytes: u32::MAX.into(),
        }
    }
}

/// Files in the order of their paths' bytes. No path is repeated, and none is a directory of
/// another.
#[derive(Clone)]
pub struct Tree {
    /// All paths, concatenated.
    paths: Box<str>,
    /// End of each path in `paths`.
    path_ends: Box<[u32]>,
    sizes: Box<[u64]>,
    digests: Box<[Sha256Digest]>,
    /// One bit for each file.
    executables: Box<[u64]>,
    total_size: u64,
    /// All positions in the order of digests, then of positions; computed on first use.
    by_content: OnceLock<Box<[u32]>>,
}

/// One file of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// A valid [`EntryPath`].
    pub path: &'a str,
    /// Size in bytes.
    pub size: u64,
    pub sha256: Sha256Digest,
    pub executable: bool,
}

/// Reasons for which files make no tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("more than {limit} files")]
    TooManyEntries { limit: u32 },
    #[error("more than {limit} directories")]
    TooManyDirectories { limit: u32 },
    #[error("the paths are longer than {limit} bytes together")]
    PathsTooLong { limit: u64 },
    #[error("the files are larger than {limit} bytes together")]
    TooLarge { limit: u64 },
    #[error("`{path}` cannot be in the tree: {collision}")]
    Collision {
        path: EntryPath<'static>,
        collision: Collision,
    },
}

impl Tree {
    /// Makes a tree of files in any order.
    pub fn try_from_entries<'a>(
        entries: impl IntoIterator<Item = (EntryPath<'a>, u64, Sha256Digest, bool)>,
        limits: Limits,
    ) -> Result<Self, TreeError> {
        let mut builder = TreeBuilder::new(limits);
        for (path, size, sha256, executable) in entries {
            builder.push(&path, size, sha256, executable)?;
        }
        Ok(builder.finish())
    }

    /// Number of files.
    pub fn len(&self) -> u32 {
        u32::try_from(self.sizes.len()).expect("the builder counts files in a u32")
    }

    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Returns the sum of all sizes, in bytes.
    pub fn total_size(&self) -> u64 {
        self.total_size
    }

    /// # Panics
    /// Panics if there is no such position, like all functions of a position.
    pub fn entry(&self, position: u32) -> Entry<'_> {
        Entry {
            path: self.path(position),
            size: self.size(position),
            sha256: self.sha256(position),
            executable: self.executable(position),
        }
    }

    pub fn path(&self, position: u32) -> &str {
        &self.paths[self.path_range(position as usize)]
    }

    pub fn path_len(&self, position: u32) -> usize {
        self.path_range(position as usize).len()
    }

    pub fn size(&self, position: u32) -> u64 {
        self.sizes[position as usize]
    }

    pub fn sha256(&self, position: u32) -> Sha256Digest {
        self.digests[position as usize]
    }

    pub fn executable(&self, position: u32) -> bool {
        bit(&self.executables, position as usize)
    }

    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        (0..self.len()).map(|position| self.entry(position))
    }

    /// Returns the sum of the sizes of some files, in bytes.
    pub fn size_of(&self, positions: impl IntoIterator<Item = u32>) -> u64 {
        positions
            .into_iter()
            .map(|position| self.size(position))
            .sum()
    }

    /// Returns the position of the file at `path`.
    pub fn position(&self, path: &str) -> Option<u32> {
        let found = partition_point(0..self.len(), |position| self.path(position) < path);
        (found < self.len() && self.path(found) == path).then_some(found)
    }

    /// Returns the positions of all files with this content, in order.
    ///
    /// The first call sorts the digests, about a tenth of a second for a million files; later ones
    /// are a binary search.
    pub fn positions_with(&self, sha256: &Sha256Digest) -> &[u32] {
        let index = self.by_content.get_or_init(|| self.sort_by_content());
        let start = index.partition_point(|&position| self.digests[position as usize] < *sha256);
        let same =
            index[start..].partition_point(|&position| self.digests[position as usize] == *sha256);
        &index[start..start + same]
    }

    /// Returns the approximate memory of the tree, in bytes.
    pub fn memory(&self) -> usize {
        self.paths.len()
            + self.len() as usize
                * (size_of::<u32>() + size_of::<u64>() + size_of::<Sha256Digest>())
            + size_of_val(&*self.executables)
            + self
                .by_content
                .get()
                .map_or(0, |index| size_of_val(&**index))
    }

    fn path_range(&self, index: usize) -> Range<usize> {
        let start = if index == 0 {
            0
        } else {
            self.path_ends[index - 1] as usize
        };
        start..self.path_ends[index] as usize
    }

    fn sort_by_content(&self) -> Box<[u32]> {
        // Sorting pairs of prefix and position is friendly to caches; complete digests settle rare
        // ties.
        let mut order: Vec<(u64, u32)> = self
            .digests
            .iter()
            .map(Sha256Digest::prefix)
            .zip(0..)
            .collect();
        order.sort_unstable_by(|a, b| match a.0.cmp(&b.0) {
            Ordering::Equal => {
                (&self.digests[a.1 as usize], a.1).cmp(&(&self.digests[b.1 as usize], b.1))
            }
            unequal @ (Ordering::Less | Ordering::Greater) => unequal,
        });
        order.into_iter().map(|(_, position)| position).collect()
    }
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        // The index is omitted: it follows from the rest.
        self.paths == other.paths
            && self.path_ends == other.path_ends
            && self.sizes == other.sizes
            && self.digests == other.digests
            && self.executables == other.executables
    }
}

impl Eq for Tree {}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries()).finish()
    }
}

/// Number of directories that is always allowed; beyond it, the limit is the number of files.
pub(crate) const FEW_DIRECTORIES: u32 = 1 << 16;

/// Builder of a tree. Takes files one by one, in any order, and refuses a file as soon as it
/// conflicts with an earlier one.
#[derive(Debug)]
pub struct TreeBuilder {
    limits: Limits,
    paths: String,
    path_ends: Vec<u32>,
    sizes: Vec<u64>,
    digests: Vec<Sha256Digest>,
    executables: Vec<u64>,
    total_size: u64,
    /// `None` for paths that were checked before.
    collisions: Option<Collisions>,
    is_sorted: bool,
}

impl TreeBuilder {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: Limits {
                total_size: limits.total_size.min(MAX_SIZE),
                path_bytes: limits.path_bytes.min(u32::MAX.into()),
                ..limits
            },
            paths: String::new(),
            path_ends: Vec::new(),
            sizes: Vec::new(),
            digests: Vec::new(),
            executables: Vec::new(),
            total_size: 0,
            collisions: Some(Collisions::default()),
            is_sorted: true,
        }
    }

    /// Creates a builder for the files of a published catalogue, which was checked at publication.
    pub(crate) fn of_published() -> Self {
        let limits = Limits {
            entries: u32::MAX,
            ..Limits::default()
        };
        Self {
            collisions: None,
            ..Self::new(limits)
        }
    }

    /// Creates a builder for the files of an [`Unpacker`](crate::Unpacker), which has checked them
    /// for conflicts.
    pub fn of_unpacked(limits: Limits) -> Self {
        Self {
            collisions: None,
            ..Self::new(limits)
        }
    }

    /// Adds a file of `size` bytes.
    pub fn push(
        &mut self,
        path: &EntryPath<'_>,
        size: u64,
        sha256: Sha256Digest,
        executable: bool,
    ) -> Result<(), TreeError> {
        let index = self.sizes.len();
        if index >= self.limits.entries as usize {
            return Err(TreeError::TooManyEntries {
                limit: self.limits.entries,
            });
        }
        let limit = self.limits.path_bytes;
        let path_end = u32::try_from(self.paths.len() + path.as_str().len())
            .ok()
            .filter(|end| u64::from(*end) <= limit)
            .ok_or(TreeError::PathsTooLong { limit })?;
        let total_size = self
            .total_size
            .checked_add(size)
            .filter(|total| *total <= self.limits.total_size)
            .ok_or(TreeError::TooLarge {
                limit: self.limits.total_size,
            })?;
        if let Some(collisions) = &mut self.collisions {
            collisions
                .insert(path)
                .map_err(|collision| TreeError::Collision {
                    path: path.clone().into_owned(),
                    collision,
                })?;
            // The directories of a short but deep path take more memory than the path.
            let limit = self.limits.entries.max(FEW_DIRECTORIES);
            if collisions.directories() > limit as usize {
                return Err(TreeError::TooManyDirectories { limit });
            }
        }

        self.is_sorted &= index == 0 || self.path(index - 1) < path.as_str();
        self.paths.push_str(path.as_str());
        self.path_ends.push(path_end);
        self.sizes.push(size);
        self.digests.push(sha256);
        self.executables.resize(index / 64 + 1, 0);
        self.executables[index / 64] |= u64::from(executable) << (index % 64);
        self.total_size = total_size;
        Ok(())
    }

    /// Makes a file executable. Files are numbered from 0 in the order of arrival.
    ///
    /// # Panics
    /// Panics if there is no such file, like [`TreeBuilder::file`].
    pub fn set_executable(&mut self, number: usize) {
        assert!(number < self.len(), "a file that has not come");
        self.executables[number / 64] |= 1 << (number % 64);
    }

    /// Returns the size and digest of a file by its number.
    pub fn file(&self, number: usize) -> (u64, Sha256Digest) {
        (self.sizes[number], self.digests[number])
    }

    /// Returns the approximate memory of the files, in bytes; sorting takes as much again.
    pub fn memory(&self) -> usize {
        self.paths.capacity()
            + self.path_ends.capacity() * size_of::<u32>()
            + self.sizes.capacity() * size_of::<u64>()
            + self.digests.capacity() * size_of::<Sha256Digest>()
            + self.collisions.as_ref().map_or(0, Collisions::memory)
    }

    /// Returns the number of files so far.
    pub fn len(&self) -> usize {
        self.sizes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.sizes.is_empty()
    }

    /// Sorts the files into a tree.
    pub fn finish(self) -> Tree {
        self.finish_with(&mut [])
    }

    /// Sorts the files into a tree, together with a further column unless that is empty.
    pub(crate) fn finish_with(mut self, column: &mut [u32]) -> Tree {
        if !self.is_sorted {
            self.sort(column);
        }
        Tree {
            paths: self.paths.into_boxed_str(),
            path_ends: self.path_ends.into_boxed_slice(),
            sizes: self.sizes.into_boxed_slice(),
            digests: self.digests.into_boxed_slice(),
            executables: self.executables.into_boxed_slice(),
            total_size: self.total_size,
            by_content: OnceLock::new(),
        }
    }

    fn sort(&mut self, column: &mut [u32]) {
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_unstable_by(|&a, &b| self.path(a).cmp(self.path(b)));

        let mut paths = String::with_capacity(self.paths.len());
        let mut path_ends = Vec::with_capacity(self.len());
        for &index in &order {
            paths.push_str(self.path(index));
            path_ends.push(u32::try_from(paths.len()).expect("as long as the unsorted paths"));
        }
        let mut executables = vec![0; self.executables.len()];
        for (to, &from) in order.iter().enumerate() {
            executables[to / 64] |= u64::from(bit(&self.executables, from)) << (to % 64);
        }
        self.paths = paths;
        self.path_ends = path_ends;
        self.executables = executables;
        self.sizes = order.iter().map(|&index| self.sizes[index]).collect();
        self.digests = order.iter().map(|&index| self.digests[index]).collect();
        if !column.is_empty() {
            let sorted: Vec<u32> = order.iter().map(|&index| column[index]).collect();
            column.copy_from_slice(&sorted);
        }
    }

    fn path(&self, index: usize) -> &str {
        let start = if index == 0 {
            0
        } else {
            self.path_ends[index - 1] as usize
        };
        &self.paths[start..self.path_ends[index] as usize]
    }
}

fn bit(bits: &[u64], index: usize) -> bool {
    bits[index / 64] >> (index % 64) & 1 == 1
}

/// Returns the first position of a range for which `before` is false; it must be true up to there.
pub(crate) fn partition_point(range: Range<u32>, before: impl Fn(u32) -> bool) -> u32 {
    let Range { mut start, mut end } = range;
    while start < end {
        let middle = start + (end - start) / 2;
        if before(middle) {
            start = middle + 1
        } else {
            end = middle
        }
    }
    start
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn tree(paths: &[&str]) -> Result<Tree, TreeError> {
        let entries = paths.iter().map(|path| {
            (
                EntryPath::parse(*path).unwrap(),
                1,
                Sha256Digest::of(path.as_bytes()),
                false,
            )
        });
        Tree::try_from_entries(
            entries,
            Limits {
                entries: 5,
                total_size: 4,
                ..Limits::default()
            },
        )
    }

    #[test]
    fn order_is_by_bytes_of_the_path() {
        let tree = tree(&["b", "a/c", "a-b", "C"]).unwrap();
        let paths: Vec<_> = tree.entries().map(|entry| entry.path).collect();
        assert_eq!(paths, ["C", "a-b", "a/c", "b"]);
    }

    #[test]
    fn what_collides_is_named() {
        let TreeError::Collision { path, collision } = tree(&["a", "b/c", "a/x"]).unwrap_err()
        else {
            panic!()
        };
        assert_eq!(
            (path.as_str(), collision),
            ("a/x", Collision::FileAndDirectory)
        );
    }

    #[test]
    fn limits_hold() {
        assert_eq!(
            tree(&["a", "b", "c", "d", "e"]).unwrap_err(),
            TreeError::TooLarge { limit: 4 }
        );
        let mut builder = TreeBuilder::new(Limits {
            entries: 1,
            total_size: u64::MAX,
            ..Limits::default()
        });
        let push = |builder: &mut TreeBuilder, path: &'static str, size| {
            builder.push(
                &EntryPath::parse(path).unwrap(),
                size,
                Sha256Digest::of(b""),
                false,
            )
        };
        assert_eq!(
            push(&mut builder, "a", u64::MAX),
            Err(TreeError::TooLarge { limit: MAX_SIZE })
        );
        push(&mut builder, "a", MAX_SIZE).unwrap();
        assert_eq!(
            push(&mut builder, "b", 0),
            Err(TreeError::TooManyEntries { limit: 1 })
        );
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_map(
            files in proptest::collection::btree_map("[a-c]{1,3}(/[x-z]{1,2}){0,2}", (0..9_u64, any::<bool>()), 0..40),
            shuffle in any::<u64>(),
        ) {
            // Directories get a suffix, so that none is also a file.
            let files: BTreeMap<String, (u64, bool)> =
                files.into_iter().map(|(path, file)| (path.replace('/', "_/"), file)).collect();
            let mut order: Vec<_> = files.iter().collect();
            order.sort_by_key(|(path, _)| (shuffle ^ Sha256Digest::of(path.as_bytes()).prefix()).reverse_bits());
            let digest = |size: u64| Sha256Digest::of(&size.to_be_bytes());
            let tree = Tree::try_from_entries(
                order.into_iter().map(|(path, (size, executable))| {
                    (EntryPath::parse(path.as_str()).unwrap(), *size, digest(*size), *executable)
                }),
                Limits::default(),
            ).unwrap();

            prop_assert_eq!(tree.len() as usize, files.len());
            prop_assert_eq!(tree.total_size(), files.values().map(|(size, _)| size).sum::<u64>());
            for ((path, (size, executable)), position) in files.iter().zip(0..) {
                let entry = Entry { path, size: *size, sha256: digest(*size), executable: *executable };
                prop_assert_eq!(tree.entry(position), entry);
                prop_assert_eq!(tree.position(path), Some(position));
            }
            prop_assert_eq!(tree.position("b_"), None);
            for size in 0..10 {
                let expected: Vec<u32> =
                    files.values().zip(0..).filter(|((of, _), _)| *of == size).map(|(_, at)| at).collect();
                prop_assert_eq!(tree.positions_with(&digest(size)), &expected[..]);
            }
        }
    }
}
