//! Staging area of a directory's next version: `.longhaul/`, which also has the record of the
//! current one.
//!
//! It is in the directory because the user lets us write there, and because it is on the same file
//! system, however the directory is mounted. Beside the record it has
//!
//! - `staging/`: the archive that is being fetched, and in `next/` the new files by their
//!   positions. None of them is needed, and it is removed when the pull is done;
//! - `exchange.json`: the journal of an exchange under way (see [`exchange`](super::exchange)).
//!
//! One process at a time works on a directory: it locks `.longhaul/` itself.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::{Error, STATE_DIRECTORY};
use crate::transfer;

/// Number of staged files in one subdirectory.
const PER_DIRECTORY: u32 = 4096;

/// Staging area of a directory, locked by this process.
#[derive(Debug)]
pub(super) struct Staging {
    /// Directory for the version.
    target: PathBuf,
    /// True if the directory did not exist before.
    is_new: bool,
    place: PathBuf,
    /// Lock, held while the file is open.
    _lock: File,
}

impl Staging {
    /// Creates or opens the staging area in `target`, which is created if it does not exist.
    ///
    /// # Errors
    ///
    /// [`transfer::Error::Busy`] if another process works on the same directory.
    pub(super) fn open(target: &Path) -> Result<Self, Error> {
        let is_new = !target.exists();
        if is_new {
            fs::create_dir_all(target).map_err(Error::local("create", target))?;
        }
        let target = target
            .canonicalize()
            .map_err(Error::local("find", target))?;
        if !target.is_dir() {
            return Err(Error::NoDirectory(target));
        }
        let place = target.join(STATE_DIRECTORY);
        Ok(Self {
            _lock: lock(&place)?,
            target,
            is_new,
            place,
        })
    }

    /// Returns the directory for the version, without links.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.place.join("exchange.json")
    }

    /// Returns the directory of the new record.
    pub(super) fn record(&self) -> PathBuf {
        self.staging().join("record")
    }

    /// Returns the path of the new file at this position of the tree.
    pub(super) fn staged(&self, position: u32) -> PathBuf {
        let (directory, name) = (position / PER_DIRECTORY, position % PER_DIRECTORY);
        self.next()
            .join(directory.to_string())
            .join(name.to_string())
    }

    /// Returns the path to which a file of the user is set aside.
    pub(super) fn aside(&self, number: usize) -> Result<PathBuf, Error> {
        let aside = self.staging().join("aside");
        fs::create_dir_all(&aside).map_err(Error::local("create", &aside))?;
        Ok(aside.join(number.to_string()))
    }

    /// Returns the path of the download of this name, and removes those of other names.
    pub(super) fn archive(&self, name: &str) -> Result<PathBuf, Error> {
        let archives = self.staging().join("archives");
        fs::create_dir_all(&archives).map_err(Error::local("create", &archives))?;
        for entry in super::files::entries(&archives)? {
            if !entry.file_name().to_string_lossy().starts_with(name) {
                fs::remove_file(entry.path()).map_err(Error::local("remove", entry.path()))?;
            }
        }
        Ok(archives.join(name))
    }

    /// Removes the staged files of an earlier run.
    pub(super) fn clear(&self) -> Result<(), Error> {
        let staging = self.staging();
        for tree in [self.next(), self.record(), staging.join("aside")] {
            remove_tree(&tree)?;
        }
        Ok(())
    }

    /// Removes `staging/` after a pull.
    pub(super) fn remove(&self) -> Result<(), Error> {
        remove_tree(&self.staging())
    }

    fn staging(&self) -> PathBuf {
        self.place.join("staging")
    }

    fn next(&self) -> PathBuf {
        self.staging().join("next")
    }
}

impl Drop for Staging {
    /// Removes the empty directories of a pull that did nothing.
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.staging().join("archives"));
        let _ = fs::remove_dir(self.staging());
        if fs::remove_dir(&self.place).is_ok() && self.is_new {
            let _ = fs::remove_dir(&self.target);
        }
    }
}

fn remove_tree(tree: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::local("remove", tree)(error))
        }
        _ => Ok(()),
    }
}

/// Creates or opens the area, and locks it.
fn lock(place: &Path) -> Result<File, Error> {
    loop {
        match fs::create_dir(place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::local("create", place)(error)),
        }
        match place.symlink_metadata() {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Error::NoDirectory(place.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::local("read", place)(error)),
        }
        let directory = match File::open(place) {
            Ok(directory) => directory,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::local("open", place)(error)),
        };
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Transfer(transfer::Error::Busy {
                    path: place.to_owned(),
                }));
            }
            Err(TryLockError::Error(error)) => return Err(Error::local("lock", place)(error)),
        }
        // Its last owner may have removed it just now.
        let locked = directory.metadata().map_err(Error::local("read", place))?;
        if fs::metadata(place)
            .is_ok_and(|named| (named.dev(), named.ino()) == (locked.dev(), locked.ino()))
        {
            return Ok(directory);
        }
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(Error::local("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_that_came_to_nothing_leaves_nothing() {
        let above = tempfile::tempdir().unwrap();
        let target = above.path().join("maps");
        let staging = Staging::open(&target).unwrap();
        staging.archive("one.zip").unwrap();
        drop(staging);
        assert!(!target.exists());
        // Existing files stay, and so do downloads that can resume.
        fs::create_dir(&target).unwrap();
        drop(Staging::open(&target).unwrap());
        assert_eq!(super::super::files::entries(&target).unwrap().len(), 0);
        let staging = Staging::open(&target).unwrap();
        let archive = staging.archive("one.zip").unwrap();
        fs::write(&archive, "1").unwrap();
        drop(staging);
        assert!(archive.exists());
    }

    #[test]
    fn a_directory_has_one_holder() {
        let target = tempfile::tempdir().unwrap();
        let staging = Staging::open(target.path()).unwrap();
        let error = Staging::open(target.path()).unwrap_err();
        assert!(
            matches!(error, Error::Transfer(transfer::Error::Busy { .. })),
            "{error}"
        );
        drop(staging);
        Staging::open(target.path()).unwrap();
    }

    #[test]
    fn what_is_no_directory_is_not_pulled_into() {
        let above = tempfile::tempdir().unwrap();
        let file = above.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Staging::open(&file).unwrap_err();
        assert!(matches!(error, Error::NoDirectory(_)), "{error}");
        // A link would lead staged files elsewhere.
        let place = above.path().join(STATE_DIRECTORY);
        std::os::unix::fs::symlink("/tmp", place).unwrap();
        let error = Staging::open(above.path()).unwrap_err();
        assert!(matches!(error, Error::NoDirectory(_)), "{error}");
    }

    #[test]
    fn downloads_of_another_need_are_removed() {
        let target = tempfile::tempdir().unwrap();
        let staging = Staging::open(target.path()).unwrap();
        let first = staging.archive("one.zip").unwrap();
        fs::write(&first, "1").unwrap();
        fs::write(first.with_extension("zip.part"), "1").unwrap();
        assert_eq!(staging.archive("one.zip").unwrap(), first);
        assert!(first.exists());
        staging.archive("two.zip").unwrap();
        assert!(!first.exists() && !first.with_extension("zip.part").exists());
    }
}
