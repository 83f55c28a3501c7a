//! Files of a directory: identified by size and time, read and hashed on all cores.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::num::NonZero;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use archive::Sha256Digest;
use domain::digest::Hasher;
use serde::{Deserialize, Serialize};

use super::Error;
use super::work::Work;

/// Size of one read, in bytes.
const PIECE: usize = 256 * 1024;
/// Maximum number of threads; more would only make the disk seek.
const MAX_THREADS: usize = 16;

/// Identity of a file: its size in bytes and its modification time in seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) modified: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// Plain file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
    pub(super) executable: bool,
}

impl Found {
    pub(super) fn new(path: PathBuf, metadata: &Metadata) -> Self {
        Self {
            path,
            stamp: Stamp::of(metadata),
            executable: metadata.mode() & 0o100 != 0,
        }
    }

    /// Opens the file, and fails if it has changed.
    pub(super) fn open(&self) -> Result<File, Error> {
        let fail = |source| Error::local("read", &self.path)(source);
        let file = File::open(&self.path).map_err(fail)?;
        self.check(&file.metadata().map_err(fail)?)?;
        Ok(file)
    }

    pub(super) fn check(&self, now: &Metadata) -> Result<(), Error> {
        if now.is_file() && Stamp::of(now) == self.stamp {
            Ok(())
        } else {
            Err(Error::changed(&self.path))
        }
    }
}

/// Hashes of a file's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashed {
    pub(super) sha256: Sha256Digest,
    pub(super) crc32: u32,
}

/// Hashes files on as many threads as there are cores, and gives the results in the same order.
pub(super) fn hash_all(files: &[Found], work: &Work) -> Result<Vec<Hashed>, Error> {
    let next = AtomicUsize::new(0);
    let threads = std::thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MAX_THREADS)
        .min(files.len().max(1));
    let hash_some = || {
        let mut hashed = Vec::new();
        let mut buffer = vec![0; PIECE];
        while let Some((index, file)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            files.get(index).map(|file| (index, file))
        } {
            let content = hash(file, &mut buffer, work).inspect_err(|_| {
                // The other threads finish their current file.
                next.store(files.len(), Ordering::Relaxed);
            })?;
            hashed.push((index, content));
        }
        Ok(hashed)
    };
    let parts: Vec<Result<Vec<(usize, Hashed)>, Error>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(hash_some)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        running.into_iter().map(join).collect()
    });
    let mut all = Vec::with_capacity(files.len());
    for part in parts {
        all.extend(part?);
    }
    all.sort_unstable_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, hashed)| hashed).collect())
}

fn hash(found: &Found, buffer: &mut [u8], work: &Work) -> Result<Hashed, Error> {
    let mut file = found.open()?;
    let mut sha256 = Hasher::new();
    let mut crc32 = crc32fast::Hasher::new();
    loop {
        let read = file
            .read(buffer)
            .map_err(Error::local("read", &found.path))?;
        if read == 0 {
            break;
        }
        sha256.update(&buffer[..read]);
        crc32.update(&buffer[..read]);
        work.advance(read as u64)?;
    }
    let metadata = file.metadata().map_err(Error::local("read", &found.path))?;
    found.check(&metadata)?;
    Ok(Hashed {
        sha256: sha256.finish(),
        crc32: crc32.finalize(),
    })
}

/// Returns the entries of a directory in the order of their names.
pub(super) fn entries(directory: &Path) -> Result<Vec<std::fs::DirEntry>, Error> {
    let fail = || Error::local("read the directory", directory);
    let mut entries = std::fs::read_dir(directory)
        .map_err(fail())?
        .collect::<Result<Vec<_>, _>>()
        .map_err(fail())?;
    entries.sort_unstable_by_key(std::fs::DirEntry::file_name);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &Path) -> Found {
        Found::new(path.to_owned(), &std::fs::metadata(path).unwrap())
    }

    #[test]
    fn many_files_are_hashed_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let files: Vec<Found> = (0..100)
            .map(|number: u32| {
                let path = directory.path().join(number.to_string());
                std::fs::write(&path, number.to_string().repeat(1000)).unwrap();
                found(&path)
            })
            .collect();
        let hashed = hash_all(&files, &Work::default()).unwrap();
        assert_eq!(hashed.len(), 100);
        for (number, hashed) in hashed.iter().enumerate() {
            let content = number.to_string().repeat(1000);
            assert_eq!(hashed.sha256, Sha256Digest::of(content.as_bytes()));
            assert_eq!(hashed.crc32, crc32fast::hash(content.as_bytes()));
        }
        assert!(hash_all(&[], &Work::default()).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_changed_since_it_was_found_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("changing");
        std::fs::write(&path, "one").unwrap();
        let before = found(&path);
        std::fs::write(&path, "other").unwrap();
        let error = hash_all(&[before], &Work::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("changing changed while it was read"),
            "{error}"
        );
    }

    #[test]
    fn unwanted_work_stops() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "one").unwrap();
        let work = Work::default();
        work.stop();
        assert!(hash_all(&[found(&path)], &work).is_err());
    }
}
