//! Makes the new files of a directory from local files and the fetched archive.
//!
//! 1. The archive is unpacked; each file must be a requested one, with the size and SHA-256 of the
//!    catalogue.
//! 2. A file whose content has a local name that will be removed is linked, so that it has one name
//!    in the end. A content that stays, is needed more often, or with another permission, is copied
//!    and verified.
//!
//! All of it happens in the staging area, so it may stop at any point.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use archive::{Catalogue, Need, Sha256Digest, UnpackEvent, UnpackLimits, Unpacker};
use bytes::Bytes;
use domain::digest::Hasher;

use super::Error;
use super::files::{Found, Stamp};
use super::plan::{Plan, Put};
use super::staging::Staging;
use super::survey::Survey;
use super::work::Work;

/// Size of one read, in bytes.
const PIECE: usize = 256 * 1024;

/// Inputs of the new files.
#[derive(Debug)]
pub(super) struct Recipe<'a> {
    pub(super) target: &'a Catalogue,
    pub(super) plan: &'a Plan,
    pub(super) survey: &'a Survey,
    /// Files in the archive; of equal files the first.
    pub(super) need: &'a Need,
    /// None if no content is needed.
    pub(super) archive: Option<&'a Path>,
}

/// Makes the files of the plan in `staging`, and returns the stamp of each.
pub(super) fn build(
    recipe: &Recipe<'_>,
    staging: &Staging,
    work: &Work,
) -> Result<Vec<(u32, Stamp)>, Error> {
    let mut builder = Builder {
        recipe,
        staging,
        work,
        sources: sources(recipe),
        linked: HashSet::new(),
    };
    builder.make_directories()?;
    if let Some(archive) = recipe.archive {
        builder.unpack(archive)?;
    }
    for put in &recipe.plan.puts {
        if !recipe.need.contains(put.position) {
            builder.take_local(put.position)?;
        }
    }
    builder.stamps()
}

/// Local file with a needed content.
struct Source<'a> {
    found: &'a Found,
    /// True if its name will be removed and no new file is linked to it yet.
    is_free: bool,
}

/// Returns the local files by their digests.
fn sources<'a>(recipe: &Recipe<'a>) -> HashMap<Sha256Digest, Vec<Source<'a>>> {
    let Plan { puts, removals, .. } = recipe.plan;
    let removed = removals.iter().map(|removal| &*removal.path);
    let leaving: HashSet<&str> = puts.iter().map(|put| &*put.path).chain(removed).collect();
    let mut sources: HashMap<_, Vec<_>> = HashMap::new();
    for (path, local) in recipe.survey.files() {
        if let Some(sha256) = local.sha256 {
            sources.entry(sha256).or_default().push(Source {
                found: &local.found,
                is_free: leaving.contains(path),
            });
        }
    }
    sources
}

struct Builder<'a> {
    recipe: &'a Recipe<'a>,
    staging: &'a Staging,
    work: &'a Work,
    sources: HashMap<Sha256Digest, Vec<Source<'a>>>,
    /// Local files that have a second name by now, by device and inode: the user may have linked
    /// some of them.
    linked: HashSet<(u64, u64)>,
}

impl Builder<'_> {
    fn path(&self, position: u32) -> PathBuf {
        self.staging.staged(position)
    }

    fn make_directories(&self) -> Result<(), Error> {
        let mut last = PathBuf::new();
        for put in &self.recipe.plan.puts {
            let path = self.path(put.position);
            let above = path.parent().expect("a staged file is in a directory");
            if above != last {
                fs::create_dir_all(above).map_err(Error::local("create", above))?;
                last = above.to_owned();
            }
        }
        Ok(())
    }

    fn unpack(&self, archive: &Path) -> Result<(), Error> {
        let mut unpacking = Unpacking {
            builder: self,
            unpacker: Unpacker::new(UnpackLimits {
                entries: self.recipe.need.len().saturating_add(1),
                entry_size: u64::MAX,
                // The catalogue has the size of each file.
                total_size: u64::MAX,
                path_bytes: u64::MAX,
                ratio: u64::MAX,
            }),
            current: None,
            came: 0,
        };
        let mut file = File::open(archive).map_err(Error::local("read", archive))?;
        loop {
            let mut piece = vec![0; PIECE];
            let read = file
                .read(&mut piece)
                .map_err(Error::local("read", archive))?;
            if read == 0 {
                unpacking.unpacker.finish();
                return unpacking.take_events();
            }
            piece.truncate(read);
            unpacking.unpacker.feed(Bytes::from(piece));
            unpacking.take_events()?;
        }
    }

    /// Creates a file with the permission of the catalogue.
    fn create(&self, position: u32) -> Result<File, Error> {
        let mode = if self.recipe.target.tree().executable(position) {
            0o777
        } else {
            0o666
        };
        let path = self.path(position);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(Error::local("create", path))
    }

    /// Makes a file whose content is local or was just unpacked for another file.
    fn take_local(&mut self, position: u32) -> Result<(), Error> {
        let tree = self.recipe.target.tree();
        let sha256 = tree.sha256(position);
        let first = tree.positions_with(&sha256)[0];
        if self.recipe.need.contains(first) {
            return self.copy(&self.path(first), position);
        }
        let sources = self.sources.get_mut(&sha256);
        let Some(sources) = sources.filter(|sources| !sources.is_empty()) else {
            return Err(self.bad(position, "it is neither here nor in the archive"));
        };
        let is_fit = |source: &&mut Source<'_>| {
            source.is_free && source.found.executable == tree.executable(position)
        };
        if let Some(source) = sources.iter_mut().find(is_fit) {
            source.is_free = false;
            let found = source.found;
            if self.link(found, position)? {
                return self.work.advance(found.stamp.size);
            }
            return self.copy(&found.path, position);
        }
        let found = sources[0].found;
        self.copy(&found.path, position)
    }

    /// Links a local file to its new name; returns `false` if it has one already, or cannot have
    /// two.
    fn link(&mut self, source: &Found, position: u32) -> Result<bool, Error> {
        let path = self.path(position);
        let metadata =
            fs::symlink_metadata(&source.path).map_err(Error::local("read", &source.path))?;
        source.check(&metadata)?;
        if !self.linked.insert((metadata.dev(), metadata.ino())) {
            return Ok(false);
        }
        if fs::hard_link(&source.path, &path).is_err() {
            return Ok(false);
        }
        // It may have been replaced meanwhile.
        source.check(&fs::symlink_metadata(&path).map_err(Error::local("read", &path))?)?;
        Ok(true)
    }

    /// Copies a file; file systems that can share its bytes do so.
    fn copy(&self, from: &Path, position: u32) -> Result<(), Error> {
        let mut source = File::open(from).map_err(Error::local("read", from))?;
        let mut file = self.create(position)?;
        io::copy(&mut source, &mut file).map_err(Error::local("copy", from))?;
        let entry = self.recipe.target.tree().entry(position);
        if self.hash(&self.path(position))? != entry.sha256 {
            return Err(Error::changed(from));
        }
        Ok(())
    }

    fn hash(&self, path: &Path) -> Result<Sha256Digest, Error> {
        let mut file = File::open(path).map_err(Error::local("read", path))?;
        let mut hasher = Hasher::new();
        let mut piece = vec![0; PIECE];
        loop {
            let read = file.read(&mut piece).map_err(Error::local("read", path))?;
            if read == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&piece[..read]);
            self.work.advance(read as u64)?;
        }
    }

    fn stamps(&self) -> Result<Vec<(u32, Stamp)>, Error> {
        let stamp = |put: &Put| {
            let path = self.path(put.position);
            let metadata = fs::symlink_metadata(&path).map_err(Error::local("read", path))?;
            Ok((put.position, Stamp::of(&metadata)))
        };
        self.recipe.plan.puts.iter().map(stamp).collect()
    }
}

struct Unpacking<'a> {
    builder: &'a Builder<'a>,
    unpacker: Unpacker,
    current: Option<Current>,
    came: u32,
}

/// File that is being unpacked.
struct Current {
    position: u32,
    file: File,
    hasher: Hasher,
    left: u64,
}

impl Unpacking<'_> {
    fn take_events(&mut self) -> Result<(), Error> {
        while let Some(event) = self.unpacker.next_event()? {
            match event {
                UnpackEvent::Entry { path, .. } => self.begin(path.as_str())?,
                UnpackEvent::Data(bytes) => self.write(&bytes)?,
                UnpackEvent::EndOfEntry { .. } => self.end()?,
                // Permissions come from the catalogue.
                UnpackEvent::Executable { .. } | UnpackEvent::Pause => {}
                UnpackEvent::Copy { path, .. } => {
                    return Err(Error::BadEntry {
                        path: path.as_str().to_owned(),
                        what: "it is a link, which no archive of a server has",
                    });
                }
                UnpackEvent::End => {
                    if self.came < self.builder.recipe.need.len() {
                        return Err(Error::BadEntry {
                            path: "the archive".to_owned(),
                            what: "some of its files are missing",
                        });
                    }
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, path: &str) -> Result<(), Error> {
        let recipe = self.builder.recipe;
        let position = recipe
            .target
            .tree()
            .position(path)
            .filter(|position| recipe.need.contains(*position));
        let Some(position) = position else {
            return Err(Error::BadEntry {
                path: path.to_owned(),
                what: "nobody asked for it",
            });
        };
        self.current = Some(Current {
            position,
            file: self.builder.create(position)?,
            hasher: Hasher::new(),
            left: recipe.target.tree().size(position),
        });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let current = self.current.as_mut().expect("data follow an entry");
        let Some(left) = current.left.checked_sub(bytes.len() as u64) else {
            return Err(self
                .builder
                .bad(current.position, "it is longer than it should be"));
        };
        current.left = left;
        current.hasher.update(bytes);
        let position = current.position;
        current
            .file
            .write_all(bytes)
            .map_err(|source| Error::local("write", self.builder.path(position))(source))?;
        self.builder.work.advance(bytes.len() as u64)
    }

    fn end(&mut self) -> Result<(), Error> {
        let current = self.current.take().expect("an entry ends after it began");
        let expected = self.builder.recipe.target.tree().sha256(current.position);
        if current.hasher.finish() != expected {
            let what = "its SHA-256 is not the catalogue's";
            return Err(self.builder.bad(current.position, what));
        }
        self.came += 1;
        Ok(())
    }
}

impl Builder<'_> {
    fn bad(&self, position: u32, what: &'static str) -> Error {
        Error::BadEntry {
            path: self.recipe.target.tree().path(position).to_owned(),
            what,
        }
    }
}

/// Makes a tree durable.
pub(super) fn sync(directory: &Path) -> Result<(), Error> {
    #[cfg(target_os = "linux")]
    {
        // One call syncs all files, instead of tens of thousands of calls.
        let fail = |source: io::Error| Error::local("sync", directory)(source);
        let file = File::open(directory).map_err(fail)?;
        rustix::fs::syncfs(&file).map_err(|error| fail(error.into()))
    }
    #[cfg(not(target_os = "linux"))]
    {
        for entry in super::files::entries(directory)? {
            let path = entry.path();
            if path.is_dir() {
                sync(&path)?;
            } else {
                let synced = File::open(&path).and_then(|file| file.sync_all());
                synced.map_err(Error::local("sync", &path))?;
            }
        }
        super::staging::sync_directory(directory)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;

    use archive::lacking_digests;
    use tempfile::TempDir;

    use super::super::fixture::{Files, catalogue, plain, pull, survey, zip};
    use super::*;

    const NEW: [(&str, (&str, bool)); 8] = [
        ("copy/a", ("copied and moved", false)),
        ("copy/b", ("copied and moved", false)),
        ("edited", ("after", false)),
        ("here/deep/stays", ("stays", false)),
        ("new/twin", ("after", true)),
        ("new/zero", ("", false)),
        ("permission", ("becomes executable", true)),
        ("run", ("#!", true)),
    ];

    /// Directory with an old version, and the inputs of the new one.
    struct Setting {
        directory: TempDir,
        staging: Staging,
        target: Arc<Catalogue>,
        survey: Survey,
        plan: Plan,
        need: Need,
        zip: Vec<u8>,
    }

    impl Setting {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let mut old = plain([
                ("edited", "before"),
                ("gone", "leaves"),
                ("here/deep/stays", "stays"),
                ("permission", "becomes executable"),
                ("source", "copied and moved"),
            ]);
            old.insert("run", ("#!", true));
            pull(directory.path(), &old, false).unwrap();
            let target = catalogue(&NEW.into(), 2);
            let held = super::super::fixture::held(directory.path()).unwrap();
            let survey = survey(directory.path(), Some(&held), target.tree());
            let need = lacking_digests(target.tree(), &survey.digests());
            Self {
                plan: Plan::new(Some(held.catalogue.tree()), target.tree(), &survey),
                staging: Staging::open(directory.path()).unwrap(),
                zip: zip(&NEW.into(), &target, &need),
                directory,
                survey,
                target,
                need,
            }
        }

        fn build(&self, zip: &[u8]) -> Result<Vec<(u32, Stamp)>, Error> {
            self.staging.clear().unwrap();
            let archive = self.staging.archive("archive.zip").unwrap();
            fs::write(&archive, zip).unwrap();
            let recipe = Recipe {
                target: &self.target,
                plan: &self.plan,
                survey: &self.survey,
                need: &self.need,
                archive: Some(&archive),
            };
            build(&recipe, &self.staging, &Work::default())
        }
    }

    #[test]
    fn files_are_made_of_what_is_here_and_what_came() {
        let setting = Setting::new();
        let path = |position| setting.target.tree().path(position);
        let needed: Vec<_> = setting.need.positions().map(path).collect();
        assert_eq!(needed, ["edited", "new/zero"]);
        let stamps: BTreeMap<_, _> = setting.build(&setting.zip).unwrap().into_iter().collect();
        let made: Vec<_> = stamps.keys().map(|position| path(*position)).collect();
        let expected = [
            "copy/a",
            "copy/b",
            "edited",
            "new/twin",
            "new/zero",
            "permission",
        ];
        assert_eq!(made, expected);
        let source = setting.directory.path().join("source");
        let source = fs::metadata(source).unwrap().ino();
        let mut linked = 0;
        for (position, stamp) in stamps {
            let staged = setting.staging.staged(position);
            let metadata = fs::metadata(&staged).unwrap();
            let (content, executable) = Files::from(NEW)[path(position)];
            assert_eq!(fs::read_to_string(staged).unwrap(), content);
            assert_eq!(metadata.permissions().mode() & 0o100 != 0, executable);
            assert_eq!(Stamp::of(&metadata), stamp);
            linked += u32::from(metadata.ino() == source);
        }
        assert_eq!(linked, 1, "no byte of what moves is copied");
    }

    #[test]
    fn an_archive_that_ends_early_is_damage() {
        let setting = Setting::new();
        for cut in (0..setting.zip.len()).step_by(13) {
            let error = setting.build(&setting.zip[..cut]).unwrap_err();
            assert!(error.is_damage(), "cut at {cut}: {error}");
        }
        setting.build(&setting.zip).unwrap();
    }

    #[test]
    fn damage_in_any_byte_of_a_content_is_noticed() {
        let setting = Setting::new();
        let mut contents = setting.zip.windows(5);
        let at = contents.position(|bytes| bytes == b"after").unwrap();
        for byte in at..at + 5 {
            let mut zip = setting.zip.clone();
            zip[byte] ^= 1;
            let error = setting.build(&zip).unwrap_err();
            assert!(error.is_damage(), "{error}");
        }
    }

    #[test]
    fn an_archive_of_something_else_is_refused() {
        let setting = Setting::new();
        let mut files: Files = NEW.into();
        let refuse = |files: &Files, need: &Need, why: &str| {
            let zip = zip(files, &catalogue(files, 2), need);
            let error = setting.build(&zip).unwrap_err();
            assert!(
                error.is_damage() && error.to_string().contains(why),
                "{error}"
            );
        };
        let all = Need::all(setting.target.tree().len());
        refuse(&files, &all, "`copy/a` came damaged: nobody asked for it");
        let half = Need::from_positions([2], setting.target.tree().len()).unwrap();
        refuse(&files, &half, "some of its files are missing");
        files.insert("edited", ("AFTER", false));
        files.insert("new/twin", ("AFTER", true));
        refuse(&files, &setting.need, "its SHA-256 is not the catalogue's");
        files.insert("edited", ("after all", false));
        refuse(&files, &setting.need, "it is longer than it should be");
    }

    #[test]
    fn a_file_that_is_edited_meanwhile_is_not_taken() {
        let setting = Setting::new();
        fs::write(setting.directory.path().join("source"), "edited now").unwrap();
        let error = setting.build(&setting.zip).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("source changed while it was read"),
            "{error}"
        );
    }
}
