//! Lists of files in the order of their keys, in bounded memory.
//!
//! Other files in the directories are left alone.

use std::collections::BinaryHeap;
use std::fs::{self, FileType};
use std::io::{self, ErrorKind};
use std::path::Path;

use domain::BlobKey;
use domain::blob_store::BlobEntry;

/// Returns the directory of a published blob. The order of directories by name is the order of the
/// keys in them.
pub(super) fn shard_of(key: &BlobKey) -> &str {
    let key = key.as_str();
    // Keys are ASCII.
    key.get(..2).unwrap_or(key)
}

/// Lists up to `limit` blobs of one directory after `after`.
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
            // It was removed meanwhile.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

/// Lists up to `limit` blobs of the directories in `directory` after `after`.
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

/// Lists the directories of published blobs from the name `first` on.
pub(super) fn shards(directory: &Path, first: Option<&str>) -> io::Result<Vec<String>> {
    let names = smallest(directory, usize::MAX, FileType::is_dir, |name: &BlobKey| {
        name.as_str().len() <= 2 && first.is_none_or(|first| name.as_str() >= first)
    })?;
    Ok(names.iter().map(ToString::to_string).collect())
}

/// Returns the `limit` smallest names of a kind in a directory that are wanted, in order.
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
