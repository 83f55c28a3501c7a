//! The place beside a directory where its next tree is made, and the step that puts it in place.
//!
//! For `maps` it is `.maps.longhaul`, on the same file system:
//!
//! - `next` is the tree in the making. Nothing in it counts before it is whole and synced.
//! - The step itself exchanges `next` and the directory, so that at every moment one of the two whole trees is there.
//!   Where a file system cannot do that, the directory becomes `old` first, and `next` becomes the directory then.
//! - What is left, whichever tree that is, is removed.
//!
//! After a crash at any point [`Staging::open`] finds one of two things: the directory is there, so whatever else is
//! there is litter; or it is not there and `old` is, so the step was under way, and `old` becomes the directory again.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::Error;
use crate::transfer;

/// The place for one directory, held by one process.
#[derive(Debug)]
pub(super) struct Staging {
    /// The directory that the tree is for.
    target: PathBuf,
    place: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

impl Staging {
    /// Makes or takes the place for `target`, and cleans up after a run that ended too early.
    ///
    /// # Errors
    ///
    /// [`transfer::Error::Busy`] when another process works on the same directory.
    pub(super) fn open(target: &Path) -> Result<Self, Error> {
        let target = resolved(target)?;
        let name = target.file_name().ok_or_else(|| {
            let source =
                io::Error::other("it has no directory above it, where the next tree could be made");
            Error::local("use", &target)(source)
        })?;
        let mut place = std::ffi::OsString::from(".");
        place.push(name);
        place.push(".longhaul");
        let place = target.with_file_name(place);
        let staging = Self {
            _lock: lock(&place)?,
            target,
            place,
        };
        staging.recover()?;
        Ok(staging)
    }

    /// The directory that the tree is for, without links.
    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// Where the tree is made.
    pub(super) fn next(&self) -> PathBuf {
        self.place.join("next")
    }

    /// Where a download of this name goes; those of other names are removed.
    pub(super) fn archive(&self, name: &str) -> Result<PathBuf, Error> {
        for entry in super::files::entries(&self.place)? {
            let is_other = !entry.file_name().to_string_lossy().starts_with(name);
            if is_other && entry.path() != self.next() && entry.path() != self.old() {
                fs::remove_file(entry.path()).map_err(Error::local("remove", entry.path()))?;
            }
        }
        Ok(self.place.join(name))
    }

    fn old(&self) -> PathBuf {
        self.place.join("old")
    }

    /// Brings the directory back if a crash left it aside, and removes trees that are of no use.
    fn recover(&self) -> Result<(), Error> {
        if self.old().exists() && !self.target.exists() {
            fs::rename(self.old(), &self.target)
                .map_err(Error::local("bring back", &self.target))?;
            sync_directory(self.above())?;
        }
        self.remove_trees()
    }

    /// Puts the next tree in the directory's place. It must be whole and synced.
    pub(super) fn swap(&self) -> Result<(), Error> {
        if !self.target.exists() {
            self.put_in_place()?;
        } else if !self.exchange()? {
            self.set_aside()?;
            self.put_in_place()?;
        }
        sync_directory(self.above())?;
        sync_directory(&self.place)
    }

    /// Exchanges the trees in one step; `false` where the file system cannot.
    fn exchange(&self) -> Result<bool, Error> {
        match renameat_with(CWD, self.next(), CWD, &self.target, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => Ok(false),
            Err(error) => Err(Error::local("replace", &self.target)(error.into())),
        }
    }

    fn set_aside(&self) -> Result<(), Error> {
        fs::rename(&self.target, self.old()).map_err(Error::local("set aside", &self.target))
    }

    fn put_in_place(&self) -> Result<(), Error> {
        fs::rename(self.next(), &self.target).map_err(Error::local("create", &self.target))
    }

    /// Removes the place; the command is done.
    pub(super) fn remove(self) -> Result<(), Error> {
        self.remove_trees()?;
        // The lock goes with the directory: whoever waits for it notices that it is another one.
        fs::remove_dir_all(&self.place).map_err(Error::local("remove", &self.place))
    }

    fn remove_trees(&self) -> Result<(), Error> {
        for tree in [self.next(), self.old()] {
            match fs::remove_dir_all(&tree) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::local("remove", tree)(error)),
            }
        }
        Ok(())
    }

    fn above(&self) -> &Path {
        self.place.parent().expect("the place has a name")
    }
}

/// The path without links, of a directory that may not be there yet.
fn resolved(target: &Path) -> Result<PathBuf, Error> {
    match target.canonicalize() {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let path = std::path::absolute(target).map_err(Error::local("find", target))?;
            let above = path.parent().unwrap_or(&path);
            fs::create_dir_all(above).map_err(Error::local("create", above))?;
            let above = above.canonicalize().map_err(Error::local("find", above))?;
            Ok(above.join(path.file_name().unwrap_or_default()))
        }
        Err(error) => Err(Error::local("find", target)(error)),
    }
}

/// Makes the place, or takes it, and locks it.
fn lock(place: &Path) -> Result<File, Error> {
    loop {
        match fs::create_dir(place) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::local("create", place)(error)),
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
        // Its holder may have removed it just now.
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
    use tempfile::TempDir;

    use super::*;

    fn tree(path: &Path, content: &str) {
        fs::create_dir_all(path.join("deep")).unwrap();
        fs::write(path.join("deep/file"), content).unwrap();
    }

    fn content(path: &Path) -> String {
        fs::read_to_string(path.join("deep/file")).unwrap()
    }

    /// A directory with the old tree, and its place with the new one.
    fn setting() -> (TempDir, PathBuf, Staging) {
        let above = tempfile::tempdir().unwrap();
        let target = above.path().join("maps");
        tree(&target, "old");
        let staging = Staging::open(&target).unwrap();
        tree(&staging.next(), "new");
        (above, target, staging)
    }

    fn names(above: &TempDir) -> Vec<String> {
        let entries = super::super::files::entries(above.path()).unwrap();
        entries
            .iter()
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect()
    }

    /// What the next run finds and leaves when this one ends here.
    fn recovered(above: &TempDir, target: &Path, staging: Staging) -> String {
        drop(staging);
        let staging = Staging::open(target).unwrap();
        assert!(!staging.next().exists() && !staging.old().exists());
        let content = content(target);
        staging.remove().unwrap();
        assert_eq!(names(above), ["maps"]);
        content
    }

    #[test]
    fn the_new_tree_takes_the_place_of_the_old() {
        let (above, target, staging) = setting();
        staging.swap().unwrap();
        assert_eq!(content(&target), "new");
        staging.remove().unwrap();
        assert_eq!(names(&above), ["maps"]);
    }

    #[test]
    fn a_first_tree_is_simply_put_there() {
        let above = tempfile::tempdir().unwrap();
        let target = above.path().join("not/there/yet");
        let staging = Staging::open(&target).unwrap();
        tree(&staging.next(), "new");
        staging.swap().unwrap();
        staging.remove().unwrap();
        assert_eq!(content(&target), "new");
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn whatever_step_was_the_last_a_whole_tree_is_found() {
        let (above, target, staging) = setting();
        assert_eq!(
            recovered(&above, &target, staging),
            "old",
            "before the step"
        );

        let (above, target, staging) = setting();
        if staging.exchange().unwrap() {
            assert_eq!(recovered(&above, &target, staging), "new", "exchanged");
        } else {
            eprintln!("skipped: this file system cannot exchange");
        }

        let (above, target, staging) = setting();
        staging.set_aside().unwrap();
        assert!(!target.exists());
        assert_eq!(recovered(&above, &target, staging), "old", "set aside");

        let (above, target, staging) = setting();
        staging.set_aside().unwrap();
        staging.put_in_place().unwrap();
        assert_eq!(recovered(&above, &target, staging), "new", "put in place");

        let (above, target, staging) = setting();
        staging.set_aside().unwrap();
        staging.put_in_place().unwrap();
        fs::remove_file(staging.old().join("deep/file")).unwrap();
        assert_eq!(recovered(&above, &target, staging), "new", "half removed");
    }

    #[test]
    fn a_link_to_a_directory_stays_a_link() {
        let above = tempfile::tempdir().unwrap();
        tree(&above.path().join("real"), "old");
        let link = above.path().join("link");
        std::os::unix::fs::symlink("real", &link).unwrap();
        let staging = Staging::open(&link).unwrap();
        tree(&staging.next(), "new");
        staging.swap().unwrap();
        staging.remove().unwrap();
        assert!(link.is_symlink());
        assert_eq!(content(&above.path().join("real")), "new");
    }

    #[test]
    fn a_place_has_one_holder_and_is_made_again() {
        let above = tempfile::tempdir().unwrap();
        let target = above.path().join("maps");
        let staging = Staging::open(&target).unwrap();
        let error = Staging::open(&target).unwrap_err();
        assert!(
            matches!(error, Error::Transfer(transfer::Error::Busy { .. })),
            "{error}"
        );
        staging.remove().unwrap();
        Staging::open(&target).unwrap().remove().unwrap();
    }

    #[test]
    fn downloads_of_another_need_are_removed() {
        let above = tempfile::tempdir().unwrap();
        let staging = Staging::open(&above.path().join("maps")).unwrap();
        let first = staging.archive("one.zip").unwrap();
        fs::write(&first, "1").unwrap();
        fs::write(first.with_extension("zip.part"), "1").unwrap();
        assert_eq!(staging.archive("one.zip").unwrap(), first);
        assert!(first.exists());
        staging.archive("two.zip").unwrap();
        assert!(!first.exists() && !first.with_extension("zip.part").exists());
    }
}
