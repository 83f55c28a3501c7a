//! Step from one version to the next: exchanges the files of a directory, and keeps the directory
//! itself.
//!
//! So a volume, a bind mount, and processes in the directory see the new version, and nothing
//! beside the directory need be writable. Each file takes its place by a rename: readers see the
//! old file or the new one, never a part. During the step the *directory* is between two versions,
//! and `.longhaul/exchange.json` exists for just that time.
//!
//! That file is a journal, durable before any file is touched and removed when all are durable. It
//! lists all operations, and each can be repeated; so a run that finds it finishes the step
//! ([`Exchange::unfinished`]) without the server. An operation is done if its file is no longer
//! staged.
//!
//! 1. Files of the user in the way are set aside, if the user allowed it.
//! 2. Files of the old version are removed whose names the new one needs.
//! 3. The new files take their places.
//! 4. The other files of the old version are removed, each if it is unchanged since the plan, and
//!    then empty directories.
//! 5. The record of the directory's version is replaced.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use super::apply::sync;
use super::holding;
use super::plan::{Plan, Put, Removal, ancestors, divide, folded};
use super::staging::{Staging, sync_directory};
use super::survey::{is_absence, stamp_at};
use super::{Error, Named};

/// `format` of the journal.
const FORMAT: &str = "longhaul-exchange/1";

/// Exchange to make or to finish.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    staging: &'a Staging,
    journal: Journal,
    /// Subdirectories that exist and are no links.
    passed: HashSet<String>,
}

/// Operations of an exchange.
#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    format: String,
    /// The pack and its version, for people who find the file.
    version: String,
    aside: Vec<String>,
    first: Vec<Removal>,
    puts: Vec<Put>,
    last: Vec<Removal>,
    directories: Vec<String>,
}

impl<'a> Exchange<'a> {
    /// Prepares a plan. All of its files and the new record must be staged.
    pub(super) fn new(staging: &'a Staging, plan: &Plan, version: String) -> Self {
        let (first, last) = divide(plan.removals.clone(), &plan.puts);
        Self {
            staging,
            journal: Journal {
                format: FORMAT.to_owned(),
                version,
                aside: plan.in_the_way.clone(),
                first,
                puts: plan.puts.clone(),
                last,
                directories: plan.directories.clone(),
            },
            passed: HashSet::new(),
        }
    }

    /// Returns the exchange that another run began.
    pub(super) fn unfinished(staging: &'a Staging) -> Result<Option<Self>, Error> {
        let path = staging.journal();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::local("read", path)(error)),
        };
        let fail = |what: String| Error::local("read", &path)(io::Error::other(what));
        let journal: Journal =
            serde_json::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
        if journal.format != FORMAT {
            let other = &journal.format;
            return Err(fail(format!("it is of another program version ({other})")));
        }
        Ok(Some(Self {
            staging,
            journal,
            passed: HashSet::new(),
        }))
    }

    /// Returns the version that the directory will have.
    pub(super) fn version(&self) -> &str {
        &self.journal.version
    }

    /// Makes the exchange, or finishes it.
    ///
    /// # Errors
    ///
    /// Before any file is touched: [`Error::InTheWay`], [`Error::Mounted`], a directory without
    /// write permission. After other errors the journal stays, and the next run resumes.
    pub(super) fn run(mut self, force: bool) -> Result<(), Error> {
        self.check(force)?;
        self.write_journal()?;
        self.apply()
    }

    fn at(&self, path: &str) -> PathBuf {
        self.staging.target().join(path)
    }

    /// Checks in advance for obstacles that would stop the exchange half way.
    fn check(&mut self, force: bool) -> Result<(), Error> {
        let found = self.found_in_the_way()?;
        if !found.is_empty() {
            if !force {
                return Err(Error::InTheWay {
                    directory: self.staging.target().to_owned(),
                    paths: Named(found.into_iter().collect()),
                });
            }
            self.journal.aside.extend(found);
        }
        self.check_mounts()?;
        self.check_permissions()
    }

    /// Returns the paths that became occupied since the plan was made.
    fn found_in_the_way(&self) -> Result<BTreeSet<String>, Error> {
        let journal = &self.journal;
        let mut aside = HashSet::new();
        for (number, path) in journal.aside.iter().enumerate() {
            // A file that is set aside already is not moved a second time.
            if self.staging.aside(number)?.symlink_metadata().is_err() {
                aside.insert(&**path);
            }
        }
        let making_room: HashSet<&str> = journal
            .directories
            .iter()
            .map(|path| &**path)
            .chain(journal.first.iter().map(|removal| &*removal.path))
            .collect();
        let names: HashSet<_> = journal
            .first
            .iter()
            .map(|removal| folded(&removal.path))
            .collect();
        let goes = |path: &str| aside.contains(path) || making_room.contains(path);
        let mut found = BTreeSet::new();
        let mut passed = HashSet::new();
        for put in &journal.puts {
            if fs::symlink_metadata(self.staging.staged(put.position)).is_err() {
                // The file is in its place already.
                continue;
            }
            let mut is_free = false;
            for above in ancestors(&put.path) {
                if !passed.insert(above) {
                    break;
                }
                match self.at(above).symlink_metadata() {
                    Ok(metadata) if metadata.is_dir() => {}
                    Ok(_) if goes(above) => is_free = true,
                    Ok(_) => {
                        is_free = true;
                        found.insert(above.to_owned());
                    }
                    Err(error) if is_absence(&error) => is_free = true,
                    Err(error) => return Err(Error::local("read", self.at(above))(error)),
                }
            }
            let is_known = is_free
                || !put.is_new
                || goes(&put.path)
                || ancestors(&put.path).any(|above| goes(above) || found.contains(above))
                || names.contains(&folded(&put.path));
            if !is_known && stamp_at(&self.at(&put.path))?.is_some() {
                found.insert(put.path.clone());
            }
        }
        Ok(found)
    }

    /// Refuses mount points: they can be neither renamed nor replaced, and the files below them are
    /// not the pack's.
    fn check_mounts(&self) -> Result<(), Error> {
        let mounts = mounts_below(self.staging.target());
        if mounts.is_empty() {
            return Ok(());
        }
        let journal = &self.journal;
        let files: HashSet<&str> = journal
            .puts
            .iter()
            .map(|put| &*put.path)
            .chain(journal.first.iter().map(|removal| &*removal.path))
            .chain(journal.last.iter().map(|removal| &*removal.path))
            .collect();
        let is_touched = |mount: &String| {
            let is_at_or_below = |path: &String| {
                let rest = mount.strip_prefix(path.as_str());
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            files.contains(&**mount) || journal.aside.iter().any(is_at_or_below)
        };
        let touched: Vec<String> = mounts.into_iter().filter(is_touched).collect();
        if touched.is_empty() {
            return Ok(());
        }
        Err(Error::Mounted(Named(touched)))
    }

    /// Checks the write permission of all directories with changes.
    fn check_permissions(&self) -> Result<(), Error> {
        let journal = &self.journal;
        let removals = journal.first.iter().chain(&journal.last);
        let paths = (journal.aside.iter().map(|path| &**path))
            .chain(journal.puts.iter().map(|put| &*put.path))
            .chain(removals.map(|removal| &*removal.path));
        let directories: BTreeSet<&str> = paths
            .map(|path| path.rsplit_once('/').map_or("", |(above, _)| above))
            .collect();
        for directory in directories {
            let path = self.at(directory);
            if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                // The exchange creates the directory, or clears its path first.
                continue;
            }
            match access(&path, Access::WRITE_OK | Access::EXEC_OK) {
                Ok(()) => {}
                Err(error) => return Err(Error::local("change files in", path)(error.into())),
            }
        }
        Ok(())
    }

    fn write_journal(&self) -> Result<(), Error> {
        // All staged files are durable before the journal refers to them.
        sync(self.staging.target())?;
        let path = self.staging.journal();
        let new = path.with_extension("new");
        let write = || {
            let file = File::create(&new)?;
            let mut writer = io::BufWriter::new(file);
            serde_json::to_writer(&mut writer, &self.journal)?;
            writer.into_inner()?.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(Error::local("write", &path))?;
        sync_directory(self.staging.place())
    }

    fn apply(&mut self) -> Result<(), Error> {
        for (number, path) in self.journal.aside.iter().enumerate() {
            self.set_aside(number, path)?;
        }
        self.remove(&self.journal.first)?;
        self.remove_directories()?;
        for put in std::mem::take(&mut self.journal.puts) {
            self.put(&put)?;
        }
        self.remove(&self.journal.last)?;
        self.remove_directories()?;
        holding::take(&self.staging.record(), self.staging.place())?;
        sync(self.staging.target())?;
        let journal = self.staging.journal();
        fs::remove_file(&journal).map_err(Error::local("remove", &journal))?;
        sync_directory(self.staging.place())
    }

    fn set_aside(&self, number: usize, path: &str) -> Result<(), Error> {
        let to = self.staging.aside(number)?;
        if to.symlink_metadata().is_ok() {
            return Ok(());
        }
        let from = self.at(path);
        match fs::rename(&from, &to) {
            Err(error) if !is_absence(&error) => Err(Error::local("set aside", from)(error)),
            _ => Ok(()),
        }
    }

    fn remove(&self, removals: &[Removal]) -> Result<(), Error> {
        for Removal { path, stamp } in removals {
            let path = self.at(path);
            let is_plain = path.symlink_metadata().is_ok_and(|found| found.is_file());
            if is_plain && stamp_at(&path)? == Some(*stamp) && self.is_ours(&path) {
                fs::remove_file(&path).map_err(Error::local("remove", path))?;
            }
        }
        Ok(())
    }

    /// Returns true if a path does not leave the directory over a link.
    fn is_ours(&self, path: &Path) -> bool {
        let root = self.staging.target();
        let above = path.ancestors().skip(1).take_while(|above| *above != root);
        let is_directory =
            |above: &Path| above.symlink_metadata().is_ok_and(|found| found.is_dir());
        above.into_iter().all(is_directory)
    }

    /// Removes empty directories. Those with files of the user stay.
    fn remove_directories(&self) -> Result<(), Error> {
        for path in &self.journal.directories {
            remove_if_empty(&self.at(path))?;
        }
        Ok(())
    }

    fn put(&mut self, put: &Put) -> Result<(), Error> {
        let from = self.staging.staged(put.position);
        if from.symlink_metadata().is_err() {
            return Ok(());
        }
        self.make_way(&put.path)?;
        let to = self.at(&put.path);
        match fs::rename(&from, &to) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(&from, &to),
            Err(error) => Err(Error::local("replace", to)(error)),
        }
    }

    /// Creates the directories above a file.
    fn make_way(&mut self, path: &str) -> Result<(), Error> {
        let missing: Vec<&str> = ancestors(path)
            .take_while(|above| !self.passed.contains(*above))
            .collect();
        for above in missing.into_iter().rev() {
            let directory = self.at(above);
            match fs::create_dir(&directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let found = directory.symlink_metadata();
                    if !found.is_ok_and(|found| found.is_dir()) {
                        return Err(Error::InTheWay {
                            directory: self.staging.target().to_owned(),
                            paths: Named(vec![above.to_owned()]),
                        });
                    }
                }
                Err(error) => return Err(Error::local("create", directory)(error)),
            }
            self.passed.insert(above.to_owned());
        }
        Ok(())
    }
}

/// Removes a directory if it is empty.
pub(super) fn remove_if_empty(path: &Path) -> Result<(), Error> {
    match fs::remove_dir(path) {
        Err(error)
            if !is_absence(&error)
                && !matches!(
                    error.kind(),
                    // The directory is a mount point or, on some systems, the working directory of
                    // a process.
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::ResourceBusy
                ) =>
        {
            Err(Error::local("remove", path)(error))
        }
        _ => Ok(()),
    }
}

/// Copies a file to another file system that is mounted in the directory: there a rename puts it in
/// place, too.
fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let mut name = std::ffi::OsString::from(".longhaul-");
    name.push(to.file_name().unwrap_or_default());
    let beside = to.with_file_name(name);
    let copied = fs::copy(from, &beside)
        .and_then(|_| File::open(&beside)?.sync_all())
        .and_then(|()| fs::rename(&beside, to));
    copied.map_err(Error::local("replace", to))?;
    fs::remove_file(from).map_err(Error::local("remove", from))
}

/// Returns the mount points below a directory, relative to it.
#[cfg(target_os = "linux")]
fn mounts_below(directory: &Path) -> Vec<String> {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else {
        return Vec::new();
    };
    let below = |line: &str| {
        let point = unescaped(line.split(' ').nth(4)?);
        let below = Path::new(&point).strip_prefix(directory).ok()?.to_str()?;
        (!below.is_empty()).then(|| below.to_owned())
    };
    mounts.lines().filter_map(below).collect()
}

/// Returns none: without a table of mounts, the system itself has to refuse.
#[cfg(not(target_os = "linux"))]
fn mounts_below(_directory: &Path) -> Vec<String> {
    Vec::new()
}

/// Decodes the octal escapes of the table of mounts (proc(5)).
#[cfg(target_os = "linux")]
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use tempfile::TempDir;

    use super::super::fixture::{Files, check, held, plain, pull, stage};
    use super::*;

    fn old() -> Files {
        plain([
            ("becomes-dir", "1"),
            ("becomes-file/x", "2"),
            ("edited", "before"),
            ("gone/deep/a", "3"),
            ("gone/b", "4"),
            ("source", "moved"),
            ("stays", "5"),
        ])
    }

    fn new() -> Files {
        plain([
            ("becomes-dir/y", "6"),
            ("becomes-file", "7"),
            ("deep/down/target", "moved"),
            ("edited", "after"),
            ("stays", "5"),
            ("twin", "5"),
        ])
    }

    /// Returns a directory with the old version and a file of the user.
    fn setting() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        pull(directory.path(), &old(), false).unwrap();
        fs::write(directory.path().join("gone/mine"), "mine").unwrap();
        directory
    }

    fn with_mine(mut files: Files) -> Files {
        files.insert("gone/mine", ("mine", false));
        files
    }

    fn prepared<'a>(staging: &'a Staging, files: &Files) -> Exchange<'a> {
        let plan = stage(staging, files).unwrap();
        let mut exchange = Exchange::new(staging, &plan, "maps version 2".to_owned());
        exchange.check(false).unwrap();
        exchange
    }

    #[test]
    fn the_contents_are_exchanged_and_the_directory_stays() {
        let directory = setting();
        let root = directory.path();
        let inode = |path: &str| fs::metadata(root.join(path)).unwrap().ino();
        let (this, stays, source) = (inode(""), inode("stays"), inode("source"));
        pull(root, &new(), false).unwrap();
        check(root, &with_mine(new()));
        assert_eq!((inode(""), inode("stays")), (this, stays));
        assert_eq!(
            inode("deep/down/target"),
            source,
            "no byte of it was copied"
        );
        let links = |path: &str| fs::metadata(root.join(path)).unwrap().nlink();
        assert_eq!(
            (links("stays"), links("twin")),
            (1, 1),
            "an edit of one must not change the other"
        );
        assert!(!root.join("gone/deep").exists());
        // The record knows every file without reading it.
        let held = held(root).unwrap();
        let survey = super::super::survey::Survey::of(root, Some(&held)).unwrap();
        assert!(
            survey
                .unread(Some(held.catalogue.tree()), held.catalogue.tree())
                .is_empty()
        );
        pull(root, &old(), false).unwrap();
        check(root, &with_mine(old()));
    }

    #[test]
    fn whatever_was_done_the_next_run_does_the_rest() {
        // Each number is the count of files in place when the run ended.
        for done in 0..=5 {
            let directory = setting();
            let root = directory.path();
            let staging = Staging::open(root).unwrap();
            let mut exchange = prepared(&staging, &new());
            exchange.write_journal().unwrap();
            if done > 0 {
                exchange.remove(&exchange.journal.first).unwrap();
                exchange.remove_directories().unwrap();
            }
            for put in exchange.journal.puts.clone().iter().take(done) {
                exchange.put(put).unwrap();
            }
            if done == 5 {
                exchange.remove(&exchange.journal.last).unwrap();
                holding::take(&staging.record(), staging.place()).unwrap();
            }
            drop(exchange);
            let rest = Exchange::unfinished(&staging).unwrap().unwrap();
            assert_eq!(rest.version(), "maps version 2");
            rest.run(false).unwrap();
            check(root, &with_mine(new()));
            assert!(
                held(root)
                    .unwrap()
                    .catalogue
                    .tree()
                    .position("twin")
                    .is_some()
            );
            assert!(Exchange::unfinished(&staging).unwrap().is_none());
        }
    }

    #[test]
    fn a_run_that_ends_before_its_journal_changes_nothing() {
        let directory = setting();
        let staging = Staging::open(directory.path()).unwrap();
        drop(prepared(&staging, &new()));
        assert!(Exchange::unfinished(&staging).unwrap().is_none());
        check(directory.path(), &with_mine(old()));
    }

    #[test]
    fn what_came_after_the_plan_is_not_overwritten() {
        let directory = setting();
        let root = directory.path();
        let staging = Staging::open(root).unwrap();
        let plan = stage(&staging, &new()).unwrap();
        fs::write(root.join("twin"), "mine").unwrap();
        symlink("/tmp", root.join("deep")).unwrap();
        let exchange = |version: &str| Exchange::new(&staging, &plan, version.to_owned());
        let error = exchange("v").run(false).unwrap_err();
        assert!(
            error.to_string().starts_with("deep, twin: in the way"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(root.join("twin")).unwrap(), "mine");
        exchange("v").run(true).unwrap();
        check(root, &with_mine(new()));
    }

    #[test]
    fn what_was_changed_after_the_plan_is_not_removed() {
        let directory = setting();
        let root = directory.path();
        let staging = Staging::open(root).unwrap();
        let exchange = prepared(&staging, &new());
        fs::write(root.join("gone/b"), "changed here").unwrap();
        exchange.run(false).unwrap();
        let mut expected = with_mine(new());
        expected.insert("gone/b", ("changed here", false));
        check(root, &expected);
    }

    #[test]
    fn with_leave_what_is_in_the_way_goes_whatever_it_is() {
        let directory = setting();
        let root = directory.path();
        fs::create_dir_all(root.join("twin/full")).unwrap();
        fs::write(root.join("twin/full/mine"), "mine").unwrap();
        symlink(root.join("gone"), root.join("deep")).unwrap();
        let error = pull(root, &new(), false).unwrap_err();
        assert!(
            error.to_string().starts_with("deep, twin: in the way"),
            "{error}"
        );
        pull(root, &new(), true).unwrap();
        check(root, &with_mine(new()));
    }

    #[test]
    fn a_link_to_a_directory_is_followed_once_and_stays() {
        let above = tempfile::tempdir().unwrap();
        fs::create_dir(above.path().join("real")).unwrap();
        let link = above.path().join("link");
        symlink("real", &link).unwrap();
        pull(&link, &old(), false).unwrap();
        assert!(link.is_symlink());
        check(&above.path().join("real"), &old());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_table_of_mounts_is_read_as_it_is_written() {
        assert_eq!(unescaped("/a\\040b\\011\\134"), "/a b\t\\");
        assert_eq!(unescaped("/plain"), "/plain");
        assert!(
            mounts_below(Path::new("/"))
                .iter()
                .any(|path| path == "proc")
        );
    }
}
