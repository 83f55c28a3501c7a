//! Scan of a directory as the tree of a pack, with the reasons if it cannot be one.
//!
//! Every name is an [`EntryPath`], no two are the same file on a file system that ignores case or
//! normalization, and all files are plain. Faults are collected, so that the user can correct all
//! at once. The files that macOS adds to directories are left out, and so is the `.longhaul`
//! directory of a pulled tree. Trees consist of files, so directories without any are left out,
//! too, and named.

use std::collections::HashMap;
use std::fs::FileType;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use archive::{Collision, EntryPath, Limits, Tree, TreeBuilder, TreeError, is_litter};

use super::files::{Found, Hashed, entries, hash_all};
use super::work::Work;
use super::{Error, STATE_DIRECTORY};

/// Depth of the deepest directory that can have a file: a path has at most 1,024 bytes.
const DEEPEST: usize = 512;

/// Name that is published only by mistake; other names with a dot are ordinary.
const REPOSITORY: &str = ".git";

/// Names of files and directories to leave out: `*` is any text, `?` any character.
#[derive(Debug, Clone, Default)]
pub(super) struct Ignored(Vec<Vec<char>>);

impl Ignored {
    pub(super) fn new(globs: &[String]) -> Self {
        Self(globs.iter().map(|glob| glob.chars().collect()).collect())
    }

    fn contains(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        self.0.iter().any(|glob| matches(glob, &name))
    }
}

/// Matches by backtracking: the last `*` takes one more character if the rest does not match.
fn matches(glob: &[char], name: &[char]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut star = None;
    while read < name.len() {
        match glob.get(at) {
            Some('*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(&c) if c == '?' || c == name[read] => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((star_at, taken)) = star else {
                    return false;
                };
                star = Some((star_at, taken + 1));
                (at, read) = (star_at + 1, taken + 1);
            }
        }
    }
    glob[at..].iter().all(|c| *c == '*')
}

/// Files of a directory that a pack can have, not read yet.
#[derive(Debug)]
pub(super) struct Listing {
    directory: PathBuf,
    /// Files in the order of their paths.
    files: Vec<(EntryPath<'static>, Found)>,
    total_size: u64,
    /// Directories without files, which are left out, each without those below it.
    pub(super) without_files: Vec<String>,
}

/// Directory as a tree, with the path of each file.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) tree: Tree,
    /// In the order of the tree.
    pub(super) files: Vec<Found>,
    /// In the order of the tree.
    pub(super) hashed: Vec<Hashed>,
}

impl Listing {
    /// Finds the files of `directory`.
    ///
    /// # Errors
    ///
    /// [`Error::Unfit`] names all entries that a pack cannot have.
    pub(super) fn of(directory: &Path, ignored: &Ignored) -> Result<Self, Error> {
        let mut finder = Finder {
            ignored,
            files: Vec::new(),
            without_files: Vec::new(),
            problems: Vec::new(),
        };
        finder.look_into(directory, "", 0)?;
        let Finder {
            mut files,
            without_files,
            mut problems,
            ..
        } = finder;
        files.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        problems.extend(collisions(&files));
        if !problems.is_empty() {
            return Err(Error::Unfit {
                directory: directory.to_owned(),
                problems,
            });
        }
        if files.is_empty() {
            return Err(Error::NoFiles(directory.to_owned()));
        }
        Ok(Self {
            directory: directory.to_owned(),
            total_size: files.iter().map(|(_, file)| file.stamp.size).sum(),
            files,
            without_files,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// Returns the size in bytes.
    pub(super) fn total_size(&self) -> u64 {
        self.total_size
    }

    /// Reads and hashes all files.
    pub(super) fn hash(self, work: &Work) -> Result<Scan, Error> {
        let (paths, files): (Vec<_>, Vec<_>) = self.files.into_iter().unzip();
        let hashed = hash_all(&files, work)?;
        let all = paths.into_iter().zip(&files).zip(&hashed);
        let tree = Tree::try_from_entries(
            all.map(|((path, file), hashed)| {
                (path, file.stamp.size, hashed.sha256, file.executable)
            }),
            Limits::default(),
        );
        let tree = tree.map_err(|error| Error::Unfit {
            directory: self.directory,
            problems: vec![error.to_string()],
        })?;
        Ok(Scan {
            tree,
            files,
            hashed,
        })
    }
}

struct Finder<'a> {
    ignored: &'a Ignored,
    files: Vec<(EntryPath<'static>, Found)>,
    without_files: Vec<String>,
    problems: Vec<String>,
}

impl Finder<'_> {
    /// `prefix` is the path so far, with a slash at its end unless it is empty.
    fn look_into(&mut self, directory: &Path, prefix: &str, depth: usize) -> Result<(), Error> {
        for entry in entries(directory)? {
            let path = entry.path();
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                self.problem(&path, "its name is not UTF-8: rename it");
                continue;
            };
            let is_ours = prefix.is_empty() && name == STATE_DIRECTORY;
            if is_ours || is_litter(&name) || self.ignored.contains(&name) {
                continue;
            }
            let kind = entry.file_type().map_err(Error::local("read", &path))?;
            let below = format!("{prefix}{name}");
            if kind.is_dir() {
                if depth == DEEPEST {
                    self.problem(&path, "it lies too deep");
                    continue;
                }
                if name == REPOSITORY {
                    self.problem(&path, "it has the history of a Git repository, which few mean to publish: leave it out with --ignore '.git'");
                    continue;
                }
                // An invalid directory is named once, and not for each of its files.
                match EntryPath::normalize(below.as_str()) {
                    Ok(_) => self.look_below(&path, below, depth)?,
                    Err(error) => self.problem(&path, &advice(&error.to_string(), &name)),
                }
            } else if kind.is_file() {
                match EntryPath::normalize(below) {
                    Ok(below) => {
                        let metadata = entry.metadata().map_err(Error::local("read", &path))?;
                        self.files.push((below, Found::new(path, &metadata)));
                    }
                    Err(error) => self.problem(&path, &advice(&error.to_string(), &name)),
                }
            } else {
                self.problem(&path, special(kind));
            }
        }
        Ok(())
    }

    fn look_below(&mut self, path: &Path, below: String, depth: usize) -> Result<(), Error> {
        let (files, named) = (self.files.len(), self.without_files.len());
        let problems = self.problems.len();
        self.look_into(path, &format!("{below}/"), depth + 1)?;
        if self.files.len() == files && self.problems.len() == problems {
            self.without_files.truncate(named);
            self.without_files.push(below);
        }
        Ok(())
    }

    fn problem(&mut self, path: &Path, what: &str) {
        self.problems.push(format!("{}: {what}", path.display()));
    }
}

fn advice(rule: &str, name: &str) -> String {
    format!("{rule}: rename it, or leave it out with --ignore '{name}'")
}

fn special(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "it is a symbolic link, and packs have plain files only: put the file itself there, or leave it out with --ignore"
    } else if kind.is_fifo() || kind.is_socket() {
        "it is a pipe or socket: leave it out with --ignore"
    } else {
        "it is a device: leave it out with --ignore"
    }
}

/// Returns the files whose names collide with an earlier one.
fn collisions(files: &[(EntryPath<'static>, Found)]) -> Vec<String> {
    let nothing = archive::Sha256Digest::from_bytes([0; 32]);
    let mut builder = TreeBuilder::new(Limits::default());
    let mut problems = Vec::new();
    let mut first_with = HashMap::new();
    for (path, file) in files {
        match builder.push(path, 0, nothing, false) {
            Ok(()) => {}
            Err(TreeError::Collision { collision, .. }) => {
                // Folded only now: the usual tree has no collision.
                if first_with.is_empty() {
                    first_with = keys(files);
                }
                problems.push(collision_problem(path, file, collision, &first_with));
            }
            Err(error) => {
                problems.push(error.to_string());
                break;
            }
        }
    }
    problems
}

/// Returns the first path with each folded key, of files and of the directories above them.
fn keys(files: &[(EntryPath<'static>, Found)]) -> HashMap<String, PathBuf> {
    let mut keys = HashMap::new();
    for (path, file) in files {
        let folded = path.folded();
        for above in file.path.ancestors().zip(prefixes(&folded)) {
            keys.entry(above.1.to_owned())
                .or_insert_with(|| above.0.to_owned());
        }
    }
    keys
}

/// Returns the path, its directory, and so on upwards.
fn prefixes(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| {
        path.rsplit_once('/').map(|(above, _)| above)
    })
}

fn collision_problem(
    path: &EntryPath<'_>,
    file: &Found,
    collision: Collision,
    first_with: &HashMap<String, PathBuf>,
) -> String {
    let folded = path.folded();
    let other = prefixes(&folded)
        .filter_map(|prefix| first_with.get(prefix))
        .find(|other| !file.path.starts_with(other))
        .map_or_else(
            || "another file".to_owned(),
            |other| other.display().to_string(),
        );
    match collision {
        Collision::SamePath => format!(
            "{}: many devices cannot tell it from {other}: rename one of them",
            file.path.display()
        ),
        Collision::FileAndDirectory => format!(
            "{}: on many devices {other} is the same name, a file's and a directory's: rename one of them",
            file.path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use archive::Sha256Digest;

    use super::*;

    fn write(directory: &Path, path: &str, content: &str) {
        let path = directory.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn scan(directory: &Path, ignored: &[&str]) -> Result<Scan, Error> {
        let globs: Vec<String> = ignored.iter().map(|glob| (*glob).to_owned()).collect();
        Listing::of(directory, &Ignored::new(&globs))?.hash(&Work::default())
    }

    #[test]
    fn a_directory_is_a_tree() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "b/c.txt", "three");
        write(root, "b.txt", "two");
        write(root, "cafe\u{301}.txt", "decomposed");
        write(root, "run", "#!");
        write(root, ".DS_Store", "litter");
        write(root, "b/._c.txt", "litter");
        write(root, ".longhaul/pull.json", "ours");
        write(root, "Icon\r", "litter");
        write(root, ".well-known/assetlinks.json", "x");
        write(root, ".nojekyll", "");
        write(root, "only litter/.DS_Store", "litter");
        std::fs::create_dir_all(root.join("empty/below")).unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(root.join("run"), executable).unwrap();

        let listing = Listing::of(root, &Ignored::default()).unwrap();
        assert_eq!(listing.without_files, ["empty", "only litter"]);
        let scan = scan(root, &[]).unwrap();
        let paths: Vec<&str> = scan.tree.entries().map(|entry| entry.path).collect();
        let expected = [
            ".nojekyll",
            ".well-known/assetlinks.json",
            "b.txt",
            "b/c.txt",
            "caf\u{e9}.txt",
            "run",
        ];
        assert_eq!(paths, expected);
        assert_eq!(scan.tree.sha256(3), Sha256Digest::of(b"three"));
        assert_eq!(scan.hashed[3].crc32, crc32fast::hash(b"three"));
        assert_eq!(scan.files[4].path, root.join("cafe\u{301}.txt"));
        let executables: Vec<bool> = scan.tree.entries().map(|entry| entry.executable).collect();
        assert_eq!(executables, [false, false, false, false, false, true]);
    }

    #[test]
    fn everything_that_no_pack_has_is_named_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "good.txt", "1");
        write(root, " git/config", "2");
        write(root, " git/index", "3");
        write(root, "back\\slash", "4");
        write(root, ".git/config", "5");
        symlink("good.txt", root.join("link")).unwrap();

        let error = scan(root, &[]).unwrap_err().to_string();
        assert_eq!(
            error.matches(" git").count(),
            2,
            "once, with its advice: {error}"
        );
        assert!(error.contains("--ignore ' git'"), "{error}");
        assert!(
            error.contains("back\\slash: the path has a backslash"),
            "{error}"
        );
        assert!(error.contains("link: it is a symbolic link"), "{error}");
        assert!(error.contains("--ignore '.git'"), "{error}");
        let left = scan(root, &["?git", "back*", "l?nk"]).unwrap();
        assert_eq!(left.tree.len(), 1);
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn names_that_are_one_file_elsewhere_are_told_together() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        write(root, "a/Readme", "1");
        write(root, "a/README", "2");
        write(root, "Maps", "3");
        write(root, "maps/world", "4");
        if std::fs::read_dir(root).unwrap().count() < 3 {
            eprintln!("skipped: this file system ignores case");
            return;
        }
        let error = scan(root, &[]).unwrap_err().to_string();
        let path = |path: &str| root.join(path).display().to_string();
        assert!(
            error.contains(&format!(
                "{}: many devices cannot tell it from {}",
                path("a/Readme"),
                path("a/README")
            )),
            "{error}"
        );
        assert!(
            error.contains(&format!(
                "{}: on many devices {} is the same name",
                path("maps/world"),
                path("Maps")
            )),
            "{error}"
        );
    }

    #[test]
    fn an_empty_directory_is_no_version() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("empty")).unwrap();
        assert!(matches!(
            scan(directory.path(), &[]),
            Err(Error::NoFiles(_))
        ));
    }

    #[test]
    fn globs_match_whole_names() {
        fn check(glob: &str, name: &str, expected: bool) {
            assert_eq!(
                Ignored::new(&[glob.to_owned()]).contains(name),
                expected,
                "{glob} {name}"
            );
        }
        check("*.tmp", "a.tmp", true);
        check("*.tmp", ".tmp", true);
        check("*.tmp", "a.tmp.txt", false);
        check("a*b*c", "aXbXbXc", true);
        check("a*b*c", "aXbXbX", false);
        check("?", "é", true);
        check("?", "", false);
        check("*", "", true);
        check("", "", true);
        check("", "a", false);
        check("a**", "a", true);
    }
}
