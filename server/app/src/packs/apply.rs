//! The next tree, made of what is here and what came.
//!
//! 1. All directories are made.
//! 2. The archive is unpacked; each file must be one that was asked for, with the size and SHA-256 of the catalogue.
//! 3. Files whose content is here are linked: the old tree goes away, so that each keeps one name in the end. A content
//!    that is wanted more often, or with another permission, is copied, and checked on the way.
//! 4. Everything is synced. Only then may the tree be put in place.
//!
//! All of it happens in a directory that counts for nothing yet, so it may end at any point.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use archive::{Catalogue, Need, Sha256Digest, UnpackEvent, UnpackLimits, Unpacker};
use bytes::Bytes;
use domain::digest::Hasher;

use super::Error;
use super::files::{Found, Stamp};
use super::holding::Local;
use super::work::Work;

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

/// What to make a tree of.
#[derive(Debug)]
pub(super) struct Recipe<'a> {
    pub(super) target: &'a Catalogue,
    pub(super) local: &'a Local,
    /// The files that come with the archive; of equal files the first.
    pub(super) need: &'a Need,
    /// None when nothing is needed.
    pub(super) archive: Option<&'a Path>,
}

/// Makes the tree at `directory`, which is not there yet, and tells when each of its files was modified.
pub(super) fn build(
    recipe: &Recipe<'_>,
    directory: &Path,
    work: &Work,
) -> Result<Vec<(i64, i64)>, Error> {
    let mut builder = Builder {
        recipe,
        directory,
        work,
        used: HashMap::new(),
        linked: HashSet::new(),
    };
    builder.make_directories()?;
    if let Some(archive) = recipe.archive {
        builder.unpack(archive)?;
    }
    for position in 0..recipe.target.tree().len() {
        if !recipe.need.contains(position) {
            builder.take_local(position)?;
        }
    }
    builder.modified()
}

struct Builder<'a> {
    recipe: &'a Recipe<'a>,
    directory: &'a Path,
    work: &'a Work,
    /// For each content, how many of the local files were taken.
    used: HashMap<Sha256Digest, usize>,
    /// Local files that have a name in the new tree by now, by device and inode: the user may have linked some.
    linked: HashSet<(u64, u64)>,
}

impl Builder<'_> {
    fn path(&self, position: u32) -> PathBuf {
        self.directory
            .join(self.recipe.target.tree().path(position))
    }

    fn make_directories(&self) -> Result<(), Error> {
        let create = |path: &Path| fs::create_dir_all(path).map_err(Error::local("create", path));
        create(self.directory)?;
        let mut last = "";
        for entry in self.recipe.target.tree().entries() {
            // Files of one directory stand together, but for those of its subdirectories.
            let (above, _) = entry.path.rsplit_once('/').unwrap_or_default();
            if above != last {
                create(&self.directory.join(above))?;
                last = above;
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
                // The catalogue has told how much each file has.
                total_size: u64::MAX,
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

    /// Creates a file with the permission that the catalogue tells.
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

    /// Brings a file into the tree whose content is here or has just come with another.
    fn take_local(&mut self, position: u32) -> Result<(), Error> {
        let tree = self.recipe.target.tree();
        let sha256 = tree.sha256(position);
        let first = tree.positions_with(&sha256)[0];
        if self.recipe.need.contains(first) {
            return self.copy(&self.path(first), position);
        }
        let sources = self
            .recipe
            .local
            .with(&sha256)
            .ok_or_else(|| Error::BadEntry {
                path: tree.path(position).to_owned(),
                what: "it is neither here nor in the archive",
            })?;
        // Each of them can be linked once.
        let used = self.used.entry(sha256).or_default();
        let Some(source) = sources.get(*used) else {
            return self.copy(&sources[0].path, position);
        };
        *used += 1;
        if source.executable == tree.executable(position) && self.link(source, position)? {
            self.work.advance(source.stamp.size)
        } else {
            self.copy(&source.path, position)
        }
    }

    /// Gives a local file its name in the new tree; `false` if it has one, or cannot have two.
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
        // It may have been replaced in between.
        source.check(&fs::symlink_metadata(&path).map_err(Error::local("read", &path))?)?;
        Ok(true)
    }

    /// Copies a file, without moving its bytes where the file system can share them.
    fn copy(&self, from: &Path, position: u32) -> Result<(), Error> {
        let tree = self.recipe.target.tree();
        let path = self.path(position);
        fs::copy(from, &path).map_err(Error::local("copy", from))?;
        let permissions = fs::metadata(&path).map_err(Error::local("read", &path))?;
        let mode = permissions.mode();
        let wanted = if tree.executable(position) {
            // Whoever may read it may run it.
            mode | (mode & 0o444) >> 2
        } else {
            mode & !0o111
        };
        if wanted != mode {
            fs::set_permissions(&path, Permissions::from_mode(wanted))
                .map_err(Error::local("change", &path))?;
        }
        let entry = tree.entry(position);
        if self.hash(&path)? != entry.sha256 {
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

    fn modified(&self) -> Result<Vec<(i64, i64)>, Error> {
        let modified = |position| {
            let path = self.path(position);
            let metadata = fs::symlink_metadata(&path).map_err(Error::local("read", path))?;
            Ok(Stamp::of(&metadata).modified)
        };
        (0..self.recipe.target.tree().len()).map(modified).collect()
    }
}

struct Unpacking<'a> {
    builder: &'a Builder<'a>,
    unpacker: Unpacker,
    current: Option<Current>,
    came: u32,
}

/// The file that is being unpacked.
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
                // Permissions are the catalogue's.
                UnpackEvent::Executable { .. } => {}
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

/// Makes a whole tree durable.
pub(super) fn sync(directory: &Path) -> Result<(), Error> {
    #[cfg(target_os = "linux")]
    {
        // One call for all files, instead of one for each of tens of thousands.
        let fail = |source: std::io::Error| Error::local("sync", directory)(source);
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
    use std::sync::Arc;

    use archive::{
        ArchiveFormat, Content, DigestSet, EntryPath, Forms, Layout, Limits, PackName, Plan,
        Segment, Tree, lacking_digests,
    };
    use tempfile::TempDir;

    use super::super::holding::Survey;
    use super::super::staging::Staging;
    use super::*;

    /// Contents and whether they are executable, by their paths.
    type Files = BTreeMap<&'static str, (&'static str, bool)>;

    const OLD: [(&str, (&str, bool)); 6] = [
        ("edited", ("before", false)),
        ("gone", ("leaves", false)),
        ("here/deep/stays", ("stays", false)),
        ("permission", ("becomes executable", false)),
        ("run", ("#!", true)),
        ("source", ("copied and moved", false)),
    ];
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

    fn catalogue(files: &Files) -> Arc<Catalogue> {
        let entries = files.iter().map(|(path, (content, executable))| {
            let sha256 = Sha256Digest::of(content.as_bytes());
            let path = EntryPath::parse(*path).unwrap();
            (path, content.len() as u64, sha256, *executable)
        });
        let tree = Tree::try_from_entries(entries, Limits::default()).unwrap();
        let content_of = |sha256: &Sha256Digest| {
            let is_it = |content: &&str| Sha256Digest::of(content.as_bytes()) == *sha256;
            let content = files.values().map(|(content, _)| *content).find(is_it)?;
            Some(Content {
                size: content.len() as u64,
                crc32: crc32fast::hash(content.as_bytes()),
            })
        };
        let pack = PackName::parse("maps").unwrap();
        Arc::new(Catalogue::publish(pack, 1, tree, content_of).unwrap())
    }

    fn zip(files: &Files, catalogue: &Arc<Catalogue>, need: &Need) -> Vec<u8> {
        let forms = Arc::new(Forms::raw(catalogue.tree()));
        let plan = Plan::new(Arc::clone(catalogue), forms, None, need.clone()).unwrap();
        let layout = Layout::new(ArchiveFormat::Zip, plan);
        let mut bytes = Vec::new();
        for segment in layout.slice(0..layout.len()) {
            match segment {
                Segment::Literal(literal) => bytes.extend_from_slice(&literal),
                Segment::Blob(slice) => {
                    let content = files[catalogue.tree().path(slice.position)].0;
                    bytes.extend_from_slice(content.as_bytes());
                }
            }
        }
        bytes
    }

    fn write(directory: &Path, files: &Files) {
        for (path, (content, executable)) in files {
            let path = directory.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, content).unwrap();
            let mode = if *executable { 0o755 } else { 0o644 };
            fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        }
    }

    fn read(directory: &Path, prefix: &str, files: &mut BTreeMap<String, (String, bool)>) {
        for entry in super::super::files::entries(directory).unwrap() {
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                read(&entry.path(), &format!("{path}/"), files);
            } else {
                let content = fs::read_to_string(entry.path()).unwrap();
                let executable = entry.metadata().unwrap().mode() & 0o111 != 0;
                files.insert(path, (content, executable));
            }
        }
    }

    #[track_caller]
    fn check(directory: &Path, expected: &Files) {
        let mut files = BTreeMap::new();
        read(directory, "", &mut files);
        let found: Vec<_> = files
            .iter()
            .map(|(path, (content, executable))| (path.as_str(), (content.as_str(), *executable)))
            .collect();
        let expected: Vec<_> = expected.iter().map(|(path, file)| (*path, *file)).collect();
        assert_eq!(found, expected);
    }

    /// A directory with the old tree, and all that leads to the new one.
    struct Setting {
        above: TempDir,
        directory: PathBuf,
        target: Arc<Catalogue>,
        need: Need,
        zip: Vec<u8>,
    }

    impl Setting {
        fn new() -> Self {
            let above = tempfile::tempdir().unwrap();
            let directory = above.path().join("maps");
            write(&directory, &OLD.into());
            let target = catalogue(&NEW.into());
            let local = Self::survey(&directory);
            let need = lacking_digests(target.tree(), &local.digests().collect::<DigestSet>());
            Self {
                zip: zip(&NEW.into(), &target, &need),
                above,
                directory,
                target,
                need,
            }
        }

        fn survey(directory: &Path) -> Local {
            let survey = Survey::of(directory, None).unwrap();
            survey.finish(&Work::default()).unwrap()
        }

        /// Builds with this archive, in the place that the staging gives.
        fn build(&self, staging: &Staging, zip: &[u8]) -> Result<Vec<(i64, i64)>, Error> {
            let archive = self.above.path().join("archive.zip");
            fs::write(&archive, zip).unwrap();
            let local = Self::survey(&self.directory);
            let recipe = Recipe {
                target: &self.target,
                local: &local,
                need: &self.need,
                archive: Some(&archive),
            };
            build(&recipe, &staging.next(), &Work::default())
        }
    }

    #[test]
    fn a_tree_is_made_of_what_is_here_and_what_came() {
        let setting = Setting::new();
        let needed: Vec<_> = setting
            .need
            .positions()
            .map(|position| setting.target.tree().path(position))
            .collect();
        assert_eq!(needed, ["edited", "new/zero"]);
        let inode = |path: &str| fs::metadata(setting.directory.join(path)).unwrap().ino();
        let (stays, source) = (inode("here/deep/stays"), inode("source"));

        let staging = Staging::open(&setting.directory).unwrap();
        let modified = setting.build(&staging, &setting.zip).unwrap();
        check(&setting.directory, &OLD.into());
        check(&staging.next(), &NEW.into());
        sync(&staging.next()).unwrap();
        staging.swap().unwrap();
        staging.remove().unwrap();
        check(&setting.directory, &NEW.into());

        assert_eq!(inode("here/deep/stays"), stays, "no byte of it was copied");
        assert_eq!(inode("copy/a"), source);
        for (position, modified) in (0..).zip(modified) {
            let path = setting.directory.join(setting.target.tree().path(position));
            let metadata = fs::metadata(path).unwrap();
            assert_eq!(
                metadata.nlink(),
                1,
                "an edit of one file must not change another"
            );
            assert_eq!(Stamp::of(&metadata).modified, modified);
        }
    }

    #[test]
    fn a_run_that_ends_anywhere_changes_nothing_and_the_next_one_does_all() {
        let setting = Setting::new();
        for cut in (0..setting.zip.len()).step_by(13) {
            let staging = Staging::open(&setting.directory).unwrap();
            let error = setting.build(&staging, &setting.zip[..cut]).unwrap_err();
            assert!(error.is_damage(), "cut at {cut}: {error}");
            check(&setting.directory, &OLD.into());
        }
        let staging = Staging::open(&setting.directory).unwrap();
        assert!(!staging.next().exists());
        setting.build(&staging, &setting.zip).unwrap();
        check(&staging.next(), &NEW.into());
    }

    #[test]
    fn damage_in_any_byte_of_a_content_is_noticed() {
        let setting = Setting::new();
        let at = setting
            .zip
            .windows(5)
            .position(|bytes| bytes == b"after")
            .unwrap();
        for byte in at..at + 5 {
            let mut zip = setting.zip.clone();
            zip[byte] ^= 1;
            let staging = Staging::open(&setting.directory).unwrap();
            let error = setting.build(&staging, &zip).unwrap_err();
            assert!(error.is_damage(), "{error}");
        }
    }

    #[test]
    fn an_archive_of_something_else_is_refused() {
        let setting = Setting::new();
        let mut files: Files = NEW.into();
        let refuse = |files: &Files, need: &Need, why: &str| {
            let catalogue = catalogue(files);
            let staging = Staging::open(&setting.directory).unwrap();
            let error = setting
                .build(&staging, &zip(files, &catalogue, need))
                .unwrap_err();
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
        let local = Setting::survey(&setting.directory);
        fs::write(setting.directory.join("here/deep/stays"), "edited now").unwrap();
        let archive = setting.above.path().join("archive.zip");
        fs::write(&archive, &setting.zip).unwrap();
        let recipe = Recipe {
            target: &setting.target,
            local: &local,
            need: &setting.need,
            archive: Some(&archive),
        };
        let staging = Staging::open(&setting.directory).unwrap();
        let error = build(&recipe, &staging.next(), &Work::default()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("stays changed while it was read"),
            "{error}"
        );
    }
}
