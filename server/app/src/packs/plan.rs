//! Plan of a pull, decided before any file is touched.
//!
//! The directory of a pull has two kinds of files. Files of the pack are those that an earlier pull
//! left; the new version adds, replaces and removes them. All others are the user's, and stay:
//!
//! - A changed file of the pack is restored, and named. If the new version has no such file, the
//!   changed one stays: its content is the user's.
//! - A directory is removed with its last file of the pack, unless it has other entries.
//! - If an entry of the user is at the path of a file or directory of the version, it is *in the
//!   way*: the pull does nothing, unless the user allows it to be replaced.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use archive::{EntryPath, Tree};
use serde::{Deserialize, Serialize};

use super::files::Stamp;
use super::survey::{Survey, Thing};

/// Operations of a pull.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Files to put, in the order of the tree.
    pub(super) puts: Vec<Put>,
    /// Files of the old version to remove.
    pub(super) removals: Vec<Removal>,
    /// Directories to remove once they are empty, the deepest first.
    pub(super) directories: Vec<String>,
    /// Entries of the user at paths of the version.
    pub(super) in_the_way: Vec<String>,
    /// Entries of the user at other paths.
    pub(super) unknown: Vec<String>,
    /// Changed files of the pack, which are restored.
    pub(super) replaced: Vec<String>,
    /// Files of the held version that are missing or damaged.
    pub(super) healed: u32,
}

/// File to put.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Put {
    pub(super) path: String,
    /// Position in the tree.
    pub(super) position: u32,
    /// True if the path is free; an entry that appears there meanwhile is the user's.
    pub(super) is_new: bool,
}

/// File to remove, if it is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Removal {
    pub(super) path: String,
    pub(super) stamp: Stamp,
}

impl Plan {
    /// Compares the directory with the target. `held` is the version that an earlier pull left.
    pub(super) fn new(held: Option<&Tree>, target: &Tree, survey: &Survey) -> Self {
        let mut planner = Planner {
            held,
            target,
            survey,
            in_the_way: BTreeSet::new(),
            directories: BTreeSet::new(),
            plan: Self::default(),
        };
        planner.remove();
        planner.put();
        planner.leave();
        let mut plan = planner.plan;
        plan.in_the_way = planner.in_the_way.into_iter().collect();
        plan.directories = planner.directories.into_iter().rev().collect();
        plan
    }

    /// Returns true if all files are right.
    pub(super) fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removals.is_empty() && self.in_the_way.is_empty()
    }
}

struct Planner<'a> {
    held: Option<&'a Tree>,
    target: &'a Tree,
    survey: &'a Survey,
    in_the_way: BTreeSet<String>,
    directories: BTreeSet<String>,
    plan: Plan,
}

impl Planner<'_> {
    /// Finds the files that only the old version has.
    fn remove(&mut self) {
        let of_target: HashSet<&str> = self
            .target
            .entries()
            .flat_map(|entry| ancestors(entry.path))
            .collect();
        for entry in self.held.into_iter().flat_map(Tree::entries) {
            let Some(Thing::File(local)) = self.survey.thing(entry.path) else {
                continue;
            };
            if self.target.position(entry.path).is_some() || local.sha256 != Some(entry.sha256) {
                continue;
            }
            self.plan.removals.push(Removal {
                path: entry.path.to_owned(),
                stamp: local.found.stamp,
            });
            let emptied = ancestors(entry.path).filter(|above| !of_target.contains(above));
            self.directories.extend(emptied.map(str::to_owned));
        }
    }

    /// Finds the files that are missing or different.
    fn put(&mut self) {
        let (survey, target) = (self.survey, self.target);
        let mut last_above = "";
        for (position, entry) in (0..).zip(target.entries()) {
            let old = self.held.and_then(|held| {
                let position = held.position(entry.path)?;
                Some(held.entry(position))
            });
            let is_new = match survey.thing(entry.path) {
                Some(Thing::File(local)) if local.is(&entry) => continue,
                Some(Thing::File(local)) if local.sha256 == Some(entry.sha256) => false,
                Some(Thing::File(local)) if let Some(old) = old => {
                    if local.sha256 != Some(old.sha256) {
                        self.plan.replaced.push(entry.path.to_owned());
                    }
                    false
                }
                Some(Thing::Other) if old.is_some() => {
                    self.plan.replaced.push(entry.path.to_owned());
                    false
                }
                Some(Thing::Directory) => {
                    self.clear(entry.path);
                    true
                }
                Some(Thing::File(_) | Thing::Other | Thing::Closed) => {
                    self.in_the_way.insert(entry.path.to_owned());
                    true
                }
                None => {
                    let (above, _) = entry.path.rsplit_once('/').unwrap_or_default();
                    if above != last_above {
                        self.check_above(entry.path);
                        last_above = above;
                    }
                    true
                }
            };
            self.plan.healed += u32::from(old == Some(entry));
            self.plan.puts.push(Put {
                path: entry.path.to_owned(),
                position,
                is_new,
            });
        }
    }

    /// Makes room for a file where a directory stands.
    fn clear(&mut self, path: &str) {
        let (dirs, others): (Vec<_>, Vec<_>) = self
            .survey
            .below(path)
            .partition(|(_, thing)| matches!(thing, Thing::Directory));
        if others.iter().all(|(path, _)| self.removes(path)) {
            self.directories.insert(path.to_owned());
            let dirs = dirs.into_iter().map(|(path, _)| path.to_owned());
            self.directories.extend(dirs);
        } else {
            self.in_the_way.insert(path.to_owned());
        }
    }

    /// Makes room for the directories above a file.
    fn check_above(&mut self, path: &str) {
        for above in ancestors(path) {
            let is_passable = match self.survey.thing(above) {
                None | Some(Thing::Directory) => true,
                Some(Thing::File(_)) => self.removes(above),
                Some(Thing::Other | Thing::Closed) => false,
            };
            if !is_passable {
                self.in_the_way.insert(above.to_owned());
            }
        }
    }

    fn removes(&self, path: &str) -> bool {
        let removals = &self.plan.removals;
        removals
            .binary_search_by(|removal| removal.path.as_str().cmp(path))
            .is_ok()
    }

    /// Finds the other entries of the user.
    fn leave(&mut self) {
        let survey = self.survey;
        for (path, thing) in survey.things() {
            let is_known = matches!(thing, Thing::Directory)
                || archive::is_litter(path)
                || self.target.position(path).is_some()
                || self.removes(path)
                || self.in_the_way.contains(path)
                || ancestors(path).any(|above| self.in_the_way.contains(above));
            if !is_known {
                self.plan.unknown.push(path.to_owned());
            }
        }
    }
}

/// Returns the directories above a path, the nearest first.
pub(super) fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    fn above(path: &str) -> Option<&str> {
        path.rsplit_once('/').map(|(above, _)| above)
    }
    std::iter::successors(above(path), |path| above(path))
}

/// Splits removals into those that must come before the puts and those that may come after them.
///
/// Files of the old version are removed last, so that readers miss nothing. But a file must be
/// removed first if a directory takes its name, and the reverse, and if a file system takes both
/// names for one.
pub(super) fn divide(removals: Vec<Removal>, puts: &[Put]) -> (Vec<Removal>, Vec<Removal>) {
    if removals.is_empty() {
        return (removals, Vec::new());
    }
    let files: HashSet<Cow<'_, str>> = puts.iter().map(|put| folded(&put.path)).collect();
    let directories: HashSet<&str> = files.iter().flat_map(|path| ancestors(path)).collect();
    removals.into_iter().partition(|removal| {
        let path = folded(&removal.path);
        files.contains(&path)
            || directories.contains(&*path)
            || ancestors(&path).any(|above| files.contains(above))
    })
}

/// Folds a path as a file system does that ignores case and normalization.
pub(super) fn folded(path: &str) -> Cow<'_, str> {
    match EntryPath::parse(path) {
        Ok(path) => Cow::Owned(path.folded().into_owned()),
        Err(_) => Cow::Borrowed(path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use tempfile::TempDir;

    use super::super::fixture::{Files, plain, plan, pull};
    use super::*;

    /// Returns a directory into which these files were pulled.
    fn pulled(files: &Files) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        pull(directory.path(), files, false).unwrap();
        directory
    }

    fn old() -> Files {
        plain([("a", "1"), ("dir/b", "2"), ("dir/c", "3"), ("gone/d", "4")])
    }

    fn paths(puts: &[Put]) -> Vec<&str> {
        puts.iter().map(|put| &*put.path).collect()
    }

    fn removed(plan: &Plan) -> Vec<&str> {
        plan.removals.iter().map(|removal| &*removal.path).collect()
    }

    #[test]
    fn nothing_is_done_where_all_is_as_it_should_be() {
        let directory = pulled(&old());
        let plan = plan(directory.path(), &old());
        assert!(plan.is_empty() && plan.unknown.is_empty(), "{plan:?}");
    }

    #[test]
    fn what_was_changed_or_lost_is_put_back_and_told() {
        let check = |damage: &dyn Fn(&Path), puts: &[&str], replaced: &[&str]| {
            let directory = pulled(&old());
            damage(directory.path());
            let plan = plan(directory.path(), &old());
            assert_eq!(paths(&plan.puts), puts);
            assert_eq!(plan.replaced, replaced);
            assert_eq!(plan.healed as usize, puts.len());
        };
        check(
            &|root| fs::remove_file(root.join("a")).unwrap(),
            &["a"],
            &[],
        );
        check(
            &|root| fs::write(root.join("a"), "mine").unwrap(),
            &["a"],
            &["a"],
        );
        check(
            &|root| {
                fs::remove_file(root.join("a")).unwrap();
                symlink("/etc/passwd", root.join("a")).unwrap();
            },
            &["a"],
            &["a"],
        );
        // The file is touched, not changed.
        check(
            &|root| {
                let file = fs::File::options().write(true).open(root.join("a"));
                file.unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            },
            &[],
            &[],
        );
    }

    #[test]
    fn what_is_of_no_pack_stays() {
        let directory = pulled(&old());
        let root = directory.path();
        fs::write(root.join("mine"), "m").unwrap();
        fs::write(root.join("gone/mine"), "m").unwrap();
        fs::write(root.join(".DS_Store"), "m").unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        symlink("mine", root.join("link")).unwrap();
        fs::write(root.join("dir/c"), "changed here").unwrap();

        // The new version has no `dir/c`, but its content is the user's.
        let plan = plan(root, &plain([("a", "new"), ("dir/b", "2")]));
        assert_eq!(paths(&plan.puts), ["a"]);
        assert_eq!(removed(&plan), ["gone/d"]);
        assert_eq!(plan.unknown, ["dir/c", "gone/mine", "link", "mine"]);
        assert_eq!(plan.directories, ["gone"]);
        assert!(plan.in_the_way.is_empty() && plan.replaced.is_empty());
    }

    #[test]
    fn what_stands_where_the_version_has_something_else_is_in_the_way() {
        let check = |place: &dyn Fn(&Path), new: &'static str, in_the_way: &[&str]| {
            let directory = pulled(&old());
            place(directory.path());
            let mut files = old();
            files.remove("gone/d");
            files.insert(new, ("new", false));
            let plan = plan(directory.path(), &files);
            assert_eq!(plan.in_the_way, in_the_way, "{new}");
        };
        let file = |root: &Path| fs::write(root.join("x"), "mine").unwrap();
        let link = |root: &Path| symlink("/", root.join("x")).unwrap();
        let full = |root: &Path| {
            fs::create_dir(root.join("x")).unwrap();
            fs::write(root.join("x/mine"), "mine").unwrap();
        };
        check(&file, "x", &["x"]);
        check(&file, "x/y/z", &["x"]);
        check(&link, "x", &["x"]);
        check(&link, "x/y", &["x"]);
        check(&full, "x", &["x"]);
        check(&full, "x/y", &[]);
        // A directory of the old version becomes a file, and the reverse.
        check(&|_| {}, "gone", &[]);
        check(
            &|root| fs::write(root.join("gone/mine"), "").unwrap(),
            "gone",
            &["gone"],
        );
        check(&|root| fs::create_dir(root.join("x")).unwrap(), "x", &[]);
        // The very same content is no obstacle.
        check(&|root| fs::write(root.join("x"), "new").unwrap(), "x", &[]);
    }

    #[test]
    fn names_that_are_one_to_some_file_systems_are_freed_first() {
        let stamp = Stamp {
            size: 0,
            modified: (0, 0),
        };
        let removals = ["Readme", "dir", "file/below", "other"].map(|path| Removal {
            path: path.to_owned(),
            stamp,
        });
        let puts = ["DIR/new", "FILE", "README"].map(|path| Put {
            path: path.to_owned(),
            position: 0,
            is_new: true,
        });
        let (first, last) = divide(removals.into(), &puts);
        let names = |removals: Vec<Removal>| -> Vec<String> {
            removals.into_iter().map(|removal| removal.path).collect()
        };
        assert_eq!(names(first), ["Readme", "dir", "file/below"]);
        assert_eq!(names(last), ["other"]);
    }

    #[test]
    fn the_directories_above_a_path_come_from_the_inside() {
        assert_eq!(ancestors("a/b/c").collect::<Vec<_>>(), ["a/b", "a"]);
        assert_eq!(ancestors("a").count(), 0);
    }
}
