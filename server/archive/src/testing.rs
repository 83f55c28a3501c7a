//! Builders for this crate's own tests.

use crate::catalogue::{Catalogue, Content};
use crate::entry_path::EntryPath;
use crate::pack_name::PackName;
use crate::sha256_digest::Sha256Digest;
use crate::tree::{Limits, Tree};

/// Makes the tree of these files: path, content, executable.
pub(crate) fn tree_of<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8], bool)>) -> Tree {
    let entries = files.into_iter().map(|(path, content, executable)| {
        (
            EntryPath::parse(path).unwrap(),
            content.len() as u64,
            Sha256Digest::of(content),
            executable,
        )
    });
    Tree::try_from_entries(entries, Limits::default()).unwrap()
}

/// Makes a version of a pack `p` with these files.
pub(crate) fn catalogue_of<'a>(
    version: u64,
    files: impl IntoIterator<Item = (&'a str, &'a [u8], bool)>,
) -> Catalogue {
    let files: Vec<_> = files.into_iter().collect();
    let contents: std::collections::HashMap<_, _> = files
        .iter()
        .map(|(_, content, _)| {
            let known = Content {
                size: content.len() as u64,
                crc32: crc32fast::hash(content),
            };
            (Sha256Digest::of(content), known)
        })
        .collect();
    Catalogue::publish(
        PackName::parse("p").unwrap(),
        version,
        tree_of(files),
        |sha256| contents.get(sha256).copied(),
    )
    .unwrap()
}
