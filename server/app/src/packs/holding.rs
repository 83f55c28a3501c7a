//! What a directory holds: the version that a pull left there, as far as it is still what it was.
//!
//! Below `.longhaul/` a pulled tree has its catalogue, the catalogue's signature where one was checked, and
//! `pull.json`: where all came from, and when each file was modified. Since it is part of the tree, it changes in the
//! same step as the tree does.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use archive::{Catalogue, PackName, Sha256Digest, Tree};
use serde::{Deserialize, Serialize};

use super::catalogue;
use super::files::{Found, Stamp, entries, hash_all, is_litter};
use super::work::Work;
use super::{Error, STATE_DIRECTORY};

/// The largest file of state that is read, in bytes.
const LARGEST: u64 = 512 << 20;
/// The `format` of the state.
const FORMAT: &str = "longhaul-pull/1";

const STATE: &str = "pull.json";
const CATALOGUE: &str = "catalogue.json";
const SIGNATURE: &str = "catalogue.sig";

/// The state as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    format: String,
    /// The pack's URL.
    pub(super) url: String,
    pub(super) pack: String,
    pub(super) catalogue: Sha256Text,
    pub(super) asked: Option<Answer>,
    /// When each file of the catalogue was modified, in seconds and nanoseconds.
    pub(super) modified: Vec<(i64, i64)>,
}

/// The answer that told which version it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) etag: String,
}

/// A digest in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Sha256Text(pub(super) Sha256Digest);

impl Serialize for Sha256Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A version that a directory has.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) state: State,
    pub(super) catalogue: Arc<Catalogue>,
    /// The catalogue as it came.
    pub(super) bytes: Vec<u8>,
    pub(super) signature: Option<Vec<u8>>,
}

/// What stands in a directory.
#[derive(Debug)]
pub(super) enum Holding {
    /// Nothing, not even the directory.
    Nothing,
    /// Files of which nothing is known.
    Strangers,
    Version(Box<Held>),
}

impl Holding {
    /// Looks at a directory.
    pub(super) fn of(directory: &Path) -> Result<Self, Error> {
        let has_files = match entries(directory) {
            Ok(entries) => entries
                .iter()
                .any(|entry| !is_litter(&entry.file_name().to_string_lossy())),
            Err(_) if !directory.exists() => false,
            Err(error) => return Err(error),
        };
        if !has_files {
            return Ok(Self::Nothing);
        }
        Ok(Held::read(directory).map_or(Self::Strangers, |held| Self::Version(Box::new(held))))
    }
}

impl Held {
    /// The state, unless it is missing or damaged: then the files are looked at instead.
    fn read(directory: &Path) -> Option<Self> {
        let directory = directory.join(STATE_DIRECTORY);
        let state: State = serde_json::from_slice(&contents(&directory.join(STATE)).ok()?).ok()?;
        if state.format != FORMAT {
            return None;
        }
        let bytes = contents(&directory.join(CATALOGUE)).ok()?;
        let pack = PackName::parse(&state.pack).ok()?;
        let catalogue = catalogue::read(&bytes, state.catalogue.0, &pack).ok()?;
        if state.modified.len() != catalogue.tree().len() as usize {
            return None;
        }
        Some(Self {
            state,
            catalogue: Arc::new(catalogue),
            bytes,
            signature: contents(&directory.join(SIGNATURE)).ok(),
        })
    }

    /// The position of the file at this path, if it looks as it was left.
    fn known(&self, path: &str, found: &Found) -> Option<u32> {
        let position = self.catalogue.tree().position(path)?;
        (self.stamp(position) == found.stamp).then_some(position)
    }

    fn stamp(&self, position: u32) -> Stamp {
        Stamp {
            size: self.catalogue.tree().size(position),
            modified: self.state.modified[position as usize],
        }
    }
}

fn contents(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(LARGEST)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Writes the state into a tree that was built at `directory`.
pub(super) fn write(
    directory: &Path,
    bytes: &[u8],
    signature: Option<&[u8]>,
    state: &State,
) -> Result<(), Error> {
    let directory = directory.join(STATE_DIRECTORY);
    fs::create_dir_all(&directory).map_err(Error::local("create", &directory))?;
    let state = serde_json::to_vec(state).expect("the state is text and numbers");
    for (name, bytes) in [
        (CATALOGUE, Some(bytes)),
        (SIGNATURE, signature),
        (STATE, Some(&state)),
    ] {
        if let Some(bytes) = bytes {
            let path = directory.join(name);
            fs::write(&path, bytes).map_err(Error::local("write", &path))?;
        }
    }
    Ok(())
}

impl State {
    pub(super) fn new(
        url: String,
        catalogue: &Catalogue,
        asked: Option<Answer>,
        modified: Vec<(i64, i64)>,
    ) -> Self {
        Self {
            format: FORMAT.to_owned(),
            url,
            pack: catalogue.pack().to_string(),
            catalogue: Sha256Text(catalogue.digest()),
            asked,
            modified,
        }
    }
}

/// Replaces the times in the state of a directory, durably.
pub(super) fn replace_state(directory: &Path, state: &State) -> Result<(), Error> {
    let path = directory.join(STATE_DIRECTORY).join(STATE);
    let new = path.with_extension("new");
    let write = || {
        let mut file = fs::File::create(&new)?;
        serde_json::to_writer(io::BufWriter::new(&mut file), state)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    write().map_err(Error::local("write", &path))
}

/// Local files by what is in them.
#[derive(Debug, Default)]
pub(super) struct Local(HashMap<Sha256Digest, Vec<Found>>);

impl Local {
    /// The files with this content, at least one of them.
    pub(super) fn with(&self, sha256: &Sha256Digest) -> Option<&[Found]> {
        self.0.get(sha256).map(Vec::as_slice)
    }

    pub(super) fn digests(&self) -> impl Iterator<Item = Sha256Digest> {
        self.0.keys().copied()
    }

    /// How many files of the tree are not in the directory as they should be.
    pub(super) fn lacks(&self, directory: &Path, tree: &Tree) -> u32 {
        let by_path = self.by_path();
        let is_right = |entry: &archive::Entry<'_>| {
            by_path
                .get(&*directory.join(entry.path))
                .is_some_and(|(sha256, file)| {
                    *sha256 == entry.sha256 && file.executable == entry.executable
                })
        };
        let right = tree.entries().filter(is_right).count();
        tree.len() - u32::try_from(right).expect("no more than all")
    }

    /// When each file of a tree that is there was modified.
    pub(super) fn modified(&self, directory: &Path, tree: &Tree) -> Vec<(i64, i64)> {
        let by_path = self.by_path();
        let modified = |entry: archive::Entry<'_>| {
            by_path
                .get(&*directory.join(entry.path))
                .map_or((0, 0), |(_, file)| file.stamp.modified)
        };
        tree.entries().map(modified).collect()
    }

    fn by_path(&self) -> HashMap<&Path, (Sha256Digest, &Found)> {
        let all = self
            .0
            .iter()
            .flat_map(|(sha256, files)| files.iter().map(move |file| (*sha256, file)));
        all.map(|(sha256, file)| (&*file.path, (sha256, file)))
            .collect()
    }

    fn add(&mut self, sha256: Sha256Digest, file: Found) {
        self.0.entry(sha256).or_default().push(file);
    }
}

/// The files of a directory, some of them known by what a pull left.
#[derive(Debug)]
pub(super) struct Survey {
    known: Vec<(Sha256Digest, Found)>,
    unknown: Vec<Found>,
    /// Known files that lack nothing, not even a permission.
    intact: u32,
    /// The files that were left there.
    left: Option<u32>,
}

impl Survey {
    /// Finds all plain files. Those that look as they were left are known; without `held` none is.
    pub(super) fn of(directory: &Path, held: Option<&Held>) -> Result<Self, Error> {
        let mut survey = Self {
            known: Vec::new(),
            unknown: Vec::new(),
            intact: 0,
            left: held.map(|held| held.catalogue.tree().len()),
        };
        if directory.exists() {
            survey.look_into(directory, "", held)?;
        }
        Ok(survey)
    }

    fn look_into(
        &mut self,
        directory: &Path,
        prefix: &str,
        held: Option<&Held>,
    ) -> Result<(), Error> {
        for entry in entries(directory)? {
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::local("read", &path))?;
            let name = entry.file_name();
            if prefix.is_empty() && name == STATE_DIRECTORY {
                continue;
            }
            let below = format!("{prefix}{}", name.to_string_lossy());
            if kind.is_dir() {
                self.look_into(&path, &format!("{below}/"), held)?;
            } else if kind.is_file() {
                let metadata = entry.metadata().map_err(Error::local("read", &path))?;
                let found = Found::new(path, &metadata);
                match held.and_then(|held| Some((held, held.known(&below, &found)?))) {
                    Some((held, position)) => {
                        let entry = held.catalogue.tree().entry(position);
                        self.intact += u32::from(found.executable == entry.executable);
                        self.known.push((entry.sha256, found));
                    }
                    None => self.unknown.push(found),
                }
            }
        }
        Ok(())
    }

    /// Whether all that was left there still is.
    pub(super) fn is_intact(&self) -> bool {
        self.left == Some(self.intact)
    }

    /// Bytes that must be read to know everything.
    pub(super) fn to_read(&self) -> u64 {
        self.unknown.iter().map(|file| file.stamp.size).sum()
    }

    /// Reads what is not known.
    pub(super) fn finish(self, work: &Work) -> Result<Local, Error> {
        let hashed = hash_all(&self.unknown, work)?;
        let mut local = Local::default();
        for (sha256, file) in self.known {
            local.add(sha256, file);
        }
        for (file, hashed) in self.unknown.into_iter().zip(hashed) {
            local.add(hashed.sha256, file);
        }
        Ok(local)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use archive::{Content, EntryPath, Limits};
    use tempfile::TempDir;

    use super::*;

    const FILES: [(&str, &str); 3] = [("a", "one"), ("b/c", "two"), ("d", "one")];

    /// A directory as a pull leaves it.
    fn pulled() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        let entries = FILES.map(|(path, content)| {
            let on_disk = directory.path().join(path);
            fs::create_dir_all(on_disk.parent().unwrap()).unwrap();
            fs::write(on_disk, content).unwrap();
            let sha256 = Sha256Digest::of(content.as_bytes());
            (EntryPath::parse(path).unwrap(), 3, sha256, false)
        });
        let tree = Tree::try_from_entries(entries, Limits::default()).unwrap();
        let content_of = |_: &Sha256Digest| Some(Content { size: 3, crc32: 0 });
        let pack = PackName::parse("maps").unwrap();
        let catalogue = Catalogue::publish(pack, 5, tree, content_of).unwrap();
        let bytes: Vec<u8> = catalogue.encode().flatten().collect();
        let modified = FILES.map(|(path, _)| {
            Stamp::of(&fs::metadata(directory.path().join(path)).unwrap()).modified
        });
        let url = "http://h/packs/maps".to_owned();
        let state = State::new(url, &catalogue, None, modified.into());
        write(directory.path(), &bytes, Some(&[7; 64]), &state).unwrap();
        directory
    }

    fn held(directory: &TempDir) -> Held {
        match Holding::of(directory.path()).unwrap() {
            Holding::Version(held) => *held,
            other => panic!("{other:?}"),
        }
    }

    fn survey(directory: &TempDir) -> Survey {
        Survey::of(directory.path(), Some(&held(directory))).unwrap()
    }

    #[test]
    fn what_a_pull_left_is_known_without_reading() {
        let directory = pulled();
        let held = held(&directory);
        assert_eq!(
            (held.catalogue.version(), held.signature.unwrap()),
            (5, vec![7; 64])
        );
        let survey = survey(&directory);
        assert!(survey.is_intact());
        assert_eq!(survey.to_read(), 0);
        // Strangers are looked at, but do not make it another version.
        fs::write(directory.path().join("stranger"), "12345").unwrap();
        let survey = self::survey(&directory);
        assert!(survey.is_intact());
        assert_eq!(survey.to_read(), 5);
    }

    #[test]
    fn what_was_edited_or_lost_is_missed() {
        fn check(damage: impl FnOnce(&Path), lacks: u32, contents: usize) {
            let directory = pulled();
            damage(directory.path());
            let survey = survey(&directory);
            assert!(!survey.is_intact());
            let local = survey.finish(&Work::default()).unwrap();
            let held = held(&directory);
            assert_eq!(local.lacks(directory.path(), held.catalogue.tree()), lacks);
            assert_eq!(local.digests().count(), contents);
        }
        check(|root| fs::remove_file(root.join("a")).unwrap(), 1, 2);
        check(|root| fs::remove_file(root.join("b/c")).unwrap(), 1, 1);
        check(|root| fs::write(root.join("b/c"), "TWO!").unwrap(), 1, 2);
        check(
            |root| fs::rename(root.join("a"), root.join("e")).unwrap(),
            1,
            2,
        );
        check(
            |root| fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o755)).unwrap(),
            1,
            2,
        );
        // Touched, and not changed.
        check(
            |root| {
                let file = fs::File::options()
                    .write(true)
                    .open(root.join("a"))
                    .unwrap();
                file.set_modified(std::time::UNIX_EPOCH).unwrap();
            },
            0,
            2,
        );
    }

    #[test]
    fn new_times_are_noted() {
        let directory = pulled();
        let file = fs::File::options()
            .write(true)
            .open(directory.path().join("a"))
            .unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
        let held = held(&directory);
        let local = survey(&directory).finish(&Work::default()).unwrap();
        let mut state = held.state.clone();
        state.modified = local.modified(directory.path(), held.catalogue.tree());
        assert_eq!(state.modified[0], (0, 0));
        replace_state(directory.path(), &state).unwrap();
        assert!(survey(&directory).is_intact());
    }

    #[test]
    fn damage_of_the_state_makes_strangers_of_the_files() {
        fn check(name: &str, damage: impl FnOnce(String) -> String) {
            let directory = pulled();
            let path = directory.path().join(STATE_DIRECTORY).join(name);
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, damage(text)).unwrap();
            let holding = Holding::of(directory.path()).unwrap();
            assert!(matches!(holding, Holding::Strangers), "{name}: {holding:?}");
        }
        check(STATE, |text| text[1..].to_owned());
        check(STATE, |text| text.replace(FORMAT, "longhaul-pull/2"));
        check(STATE, |text| {
            text.replace("\"modified\":[[", "\"modified\":[[1,2],[")
        });
        check(CATALOGUE, |text| text.replace("b/c", "b/d"));
        check(CATALOGUE, |_| String::new());
    }

    #[test]
    fn an_empty_or_missing_directory_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(
            Holding::of(directory.path()).unwrap(),
            Holding::Nothing
        ));
        let missing = directory.path().join("missing");
        assert!(matches!(Holding::of(&missing).unwrap(), Holding::Nothing));
        fs::write(directory.path().join(".DS_Store"), "").unwrap();
        assert!(matches!(
            Holding::of(directory.path()).unwrap(),
            Holding::Nothing
        ));
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(matches!(
            Holding::of(directory.path()).unwrap(),
            Holding::Strangers
        ));
    }
}
