//! Version that a pull left in a directory, and the files that have not changed since.
//!
//! Below `.longhaul/` a pulled directory has its catalogue, the catalogue's signature if one was
//! checked, and `pull.json`: the source, and the modification time of each file. An exchange
//! replaces this record last; until then its journal marks the record as outdated.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use archive::{Catalogue, PackName, Sha256Digest};
use serde::{Deserialize, Serialize};

use super::catalogue;
use super::files::{Found, Stamp, entries};
use super::{Error, STATE_DIRECTORY};

/// Maximum size of a state file, in bytes.
const LARGEST: u64 = 512 << 20;
/// `format` of the state.
const FORMAT: &str = "longhaul-pull/1";

const STATE: &str = "pull.json";
const CATALOGUE: &str = "catalogue.json";
const SIGNATURE: &str = "catalogue.sig";

/// State in its written form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    format: String,
    /// The pack's URL.
    pub(super) url: String,
    pub(super) pack: String,
    pub(super) catalogue: Sha256Text,
    pub(super) asked: Option<Answer>,
    /// Modification time of each file of the catalogue, in seconds and nanoseconds.
    pub(super) modified: Vec<(i64, i64)>,
}

/// Answer that named the version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) url: String,
    pub(super) etag: String,
}

/// Digest in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct Sha256Text(pub(super) Sha256Digest);

impl Serialize for Sha256Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Version of a directory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) state: State,
    pub(super) catalogue: Arc<Catalogue>,
    /// Bytes of the catalogue.
    pub(super) bytes: Vec<u8>,
    pub(super) signature: Option<Vec<u8>>,
}

/// Content of a directory.
#[derive(Debug)]
pub(super) enum Holding {
    Nothing,
    /// Files that no pull left.
    Strangers,
    Version(Box<Held>),
}

impl Holding {
    /// Reads a directory's record.
    pub(super) fn of(directory: &Path) -> Result<Self, Error> {
        if let Some(held) = Held::read(directory) {
            return Ok(Self::Version(Box::new(held)));
        }
        let is_strange = |entry: &fs::DirEntry| {
            let name = entry.file_name();
            name != STATE_DIRECTORY && !archive::is_litter(&name.to_string_lossy())
        };
        if entries(directory)?.iter().any(is_strange) {
            Ok(Self::Strangers)
        } else {
            Ok(Self::Nothing)
        }
    }
}

impl Held {
    /// Returns the state; none if it is missing or damaged, in which case the files themselves are
    /// read.
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
            signature: contents(&directory.join(SIGNATURE))
                .ok()
                .filter(|signature| !signature.is_empty()),
        })
    }

    /// Returns the digest of the file at this path, if its size and time are those that the pull
    /// left.
    pub(super) fn known(&self, path: &str, found: &Found) -> Option<Sha256Digest> {
        let tree = self.catalogue.tree();
        let position = tree.position(path)?;
        (self.stamp(position) == found.stamp).then(|| tree.sha256(position))
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

/// Writes a record in `directory`, durably.
pub(super) fn write(
    directory: &Path,
    bytes: &[u8],
    signature: Option<&[u8]>,
    state: &State,
) -> Result<(), Error> {
    fs::create_dir_all(directory).map_err(Error::local("create", directory))?;
    let state = serde_json::to_vec(state).expect("the state is text and numbers");
    for (name, bytes) in [
        (CATALOGUE, bytes),
        // An empty signature replaces the one of another catalogue.
        (SIGNATURE, signature.unwrap_or_default()),
        (STATE, &state),
    ] {
        let path = directory.join(name);
        let write = || {
            let mut file = fs::File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(Error::local("write", &path))?;
    }
    Ok(())
}

/// Moves a record to its place. A partial move can be repeated.
pub(super) fn take(from: &Path, to: &Path) -> Result<(), Error> {
    for name in [CATALOGUE, SIGNATURE, STATE] {
        match fs::rename(from.join(name), to.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::local("replace", to.join(name))(error));
            }
            _ => {}
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

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::super::fixture::{Files, held, plain, pull};
    use super::*;

    fn files() -> Files {
        plain([("a", "one"), ("b/c", "two"), ("d", "one")])
    }

    fn pulled() -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        pull(directory.path(), &files(), false).unwrap();
        directory
    }

    #[test]
    fn what_a_pull_left_is_known_without_reading() {
        let directory = pulled();
        let held = held(directory.path()).unwrap();
        assert_eq!(held.catalogue.version(), 2);
        assert_eq!(held.signature.as_deref(), Some(&[7; 64][..]));
        let path = directory.path().join("b/c");
        let found = Found::new(path.clone(), &fs::metadata(&path).unwrap());
        assert_eq!(held.known("b/c", &found), Some(Sha256Digest::of(b"two")));
        fs::write(&path, "longer").unwrap();
        let found = Found::new(path.clone(), &fs::metadata(&path).unwrap());
        assert_eq!(held.known("b/c", &found), None);
    }

    #[test]
    fn damage_of_the_record_makes_strangers_of_the_files() {
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
    fn a_directory_with_nothing_of_anybody_holds_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let of = || Holding::of(directory.path()).unwrap();
        assert!(matches!(of(), Holding::Nothing));
        fs::write(directory.path().join(".DS_Store"), "").unwrap();
        fs::create_dir(directory.path().join(STATE_DIRECTORY)).unwrap();
        assert!(matches!(of(), Holding::Nothing));
        fs::write(directory.path().join("file"), "").unwrap();
        assert!(matches!(of(), Holding::Strangers));
    }
}
