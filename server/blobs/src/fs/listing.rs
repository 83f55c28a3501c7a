//! Listing files in the order of their keys, in bounded memory.
//!
//! Whatever else lies in the directories is left alone.

use std::collections::BinaryHeap;
use std::fs::{self, FileType};
use std::io::{self, ErrorKind};
use std::path::Path;

use domain::BlobKey;
use domain::blob_store::BlobEntry;

/// The directory that a published blob is in. Directories in the order of their names hold keys in the order of theirs.
pub(super) fn shard_of(key: &BlobKey) -> &str {
    let key = key.as_str();
    // Keys are ASCII.
    key.get(..2).unwrap_or(key)
}

/// Up to `limit` blobs of one directory, those after `after`.
pub(super) fn flat(
    directory: &Path,
    after: Option<&BlobKey>,
    limit: usize,
) -> io::Result<Vec<BlobEntry>> {
    let mut entries = Vec::new();
    for key in smallest(directory, limit, FileType::is_file, |key: &BlobKey| {
        after.is_none_or(|after| key > after)
    })? {
        match fs::metadata(directory.join(key.as_str())).and_then(|found| found.modified()) {
            Ok(modified) => entries.push(BlobEntry {
                key,
                modified_at: modified.into(),
            }),
            // It went away in the meantime.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

/// Up to `limit` blobs of the directories in `directory`, those after `after`.
pub(super) fn sharded(
    directory: &Path,
    after: Option<&BlobKey>,
    limit: usize,
) -> io::Result<Vec<BlobEntry>> {
    let mut entries = Vec::new();
    for shard in shards(directory, after.map(shard_of))? {
        if entries.len() >= limit {
            break;
        }
        entries.extend(flat(&directory.join(shard), after, limit - entries.len())?);
    }
    Ok(entries)
}

/// The names of the directories that published blobs are in, those from `first` on.
pub(super) fn shards(directory: &Path, first: Option<&str>) -> io::Result<Vec<String>> {
    let names = smallest(directory, usize::MAX, FileType::is_dir, |name: &BlobKey| {
        name.as_str().len() <= 2 && first.is_none_or(|first| name.as_str() >= first)
    })?;
    Ok(names.iter().map(ToString::to_string).collect())
}

/// The `limit` smallest names in a directory that are of a kind and that are wanted, in order.
fn smallest(
    directory: &Path,
    limit: usize,
    is_kind: impl Fn(&FileType) -> bool,
    is_wanted: impl Fn(&BlobKey) -> bool,
) -> io::Result<Vec<BlobKey>> {
    let mut names = BinaryHeap::new();
    if limit == 0 {
        return Ok(Vec::new());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Some(name) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<BlobKey>().ok())
        else {
            continue;
        };
        let is_late = || names.len() >= limit && names.peek().is_some_and(|last| name >= *last);
        if !is_wanted(&name) || is_late() || !is_kind(&entry.file_type()?) {
            continue;
        }
        names.push(name);
        if names.len() > limit {
            names.pop();
        }
    }
    Ok(names.into_sorted_vec())
}
