//! Blobs as files of a local file system.
//!
//! ```text
//! DATA/blobs/lock                    held locked while a store is open
//! DATA/blobs/staged/<key>            growing
//! DATA/blobs/published/<ab>/<key>    whole; <ab> are the first two characters of the key
//! ```
//!
//! What is durable when:
//! 1. [`StagedBlob::sync`] returns after `fdatasync` of the file; the first time also after `fsync` of `staged`.
//! 2. [`BlobStore::publish`] renames the synced file and returns after `fsync` of its new directory. A crash in between leaves it
//!    at either place; [`BlobStore::stage`] looks at both.
//! 3. Opening a store syncs its directories, so the names that a killed process left are durable before they are built on.
//! 4. Discarding and deleting are not synced: what a power cut brings back is listed again, and known to nobody.
//!
//! Whoever stages, publishes or discards a key first cuts off its earlier writer and waits for what that has under way
//! (`writers`). So a write that a dropped future left behind never reaches bytes that somebody else relies on.
//!
//! All file access is on the blocking pool, but for reads that the page cache can answer at once (`reading`).

mod buffers;
mod descriptors;
mod directory;
mod kernel;
mod listing;
mod reading;
mod staging;
mod writers;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{self, Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{collections::HashMap, fs};

use async_trait::async_trait;
use bytesize::ByteSize;
use domain::blob_store::{BlobEntry, BlobError, BlobState, BlobStream, Growth};
use domain::{Blob, BlobKey, BlobStore, StagedBlob};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::descriptors::Descriptors;
use self::directory::{Directory, Durability};
use self::reading::{ReadableFile, Reads};
use self::staging::StagedFile;
use self::writers::{Turn, Writers};
use crate::OpenError;

/// The directory of published blobs, below that of the store.
const PUBLISHED: &str = "published";

/// A store in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory; where it is relative, below the data directory.
    #[schemars(with = "settings::Path")]
    pub path: PathBuf,
    /// Most published blobs that are kept open for the next reader. Each takes a file descriptor.
    pub open_files: usize,
    /// Bytes that a reader is given at a time, which is also what a slow connection holds in memory: 4 KiB to 4 MiB. Above
    /// 64 KiB there is nothing to gain (measured from 16 KiB to 512 KiB).
    #[schemars(with = "settings::Size")]
    pub read_chunk: ByteSize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            path: PathBuf::from("blobs"),
            open_files: 256,
            read_chunk: ByteSize::kib(64),
        }
    }
}

/// A store in a directory. See the module for its layout and promises.
#[derive(Debug)]
pub struct FsStore {
    root: Arc<Root>,
    descriptors: Arc<Descriptors>,
    reads: Arc<Reads>,
}

/// The published blobs of a directory in which another process may have its store.
#[derive(Debug)]
pub struct PublishedFiles {
    published: PathBuf,
    descriptors: Arc<Descriptors>,
    reads: Arc<Reads>,
}

/// The directory that a store works in. Whatever may still write there holds it, and with it the lock.
#[derive(Debug)]
struct Root {
    path: PathBuf,
    durability: Arc<Durability>,
    staged: Arc<Directory>,
    published: Arc<Directory>,
    shards: Mutex<HashMap<String, Arc<Directory>>>,
    writers: Writers,
    _lock: File,
}

impl Config {
    /// Checks what the types cannot.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        Reads::new(self).map(drop)
    }
}

impl FsStore {
    /// Opens the store, and makes its directories where there are none.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: &Config, data_dir: &Path) -> Result<Self, OpenError> {
        let reads = Reads::new(config)?;
        let path = data_dir.join(&config.path);
        let doing = format!("open the blob directory {}", path.display());
        let failed = |source| OpenError::Failed { doing, source };
        let opened = tokio::task::spawn_blocking(move || Root::open(&path)).await;
        let root = opened.map_err(|error| failed(io::Error::other(error)))??;
        Ok(Self {
            root: Arc::new(root),
            descriptors: Arc::new(Descriptors::new(config.open_files)),
            reads: Arc::new(reads),
        })
    }
}

impl PublishedFiles {
    /// The blobs of the store in this directory. Nothing is locked, and nothing is made.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn of(config: &Config, data_dir: &Path) -> Result<Self, OpenError> {
        Ok(Self {
            published: data_dir.join(&config.path).join(PUBLISHED),
            descriptors: Arc::new(Descriptors::new(config.open_files)),
            reads: Arc::new(Reads::new(config)?),
        })
    }

    /// As [`BlobStore::open`].
    ///
    /// # Errors
    /// As there.
    pub async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        let path = published_path(&self.published, key);
        open_published(&self.descriptors, &self.reads, key, size, path).await
    }
}

/// Where a published blob is.
fn published_path(published: &Path, key: &BlobKey) -> PathBuf {
    let mut path = published.join(listing::shard_of(key));
    path.push(key.as_str());
    path
}

/// Opens a published blob of `size` bytes, or finds it open.
async fn open_published(
    descriptors: &Arc<Descriptors>,
    reads: &Arc<Reads>,
    key: &BlobKey,
    size: u64,
    path: PathBuf,
) -> Result<Arc<dyn Blob>, BlobError> {
    let blob = match descriptors.find(key) {
        Some(blob) => blob,
        None => {
            let (descriptors, reads) = (Arc::clone(descriptors), Arc::clone(reads));
            let key = key.clone();
            blocking(move || descriptors.open(&path, key, reads)).await?
        }
    };
    if blob.size() == size {
        Ok(blob)
    } else {
        Err(BlobError::Missing { key: key.clone() })
    }
}

#[async_trait]
impl BlobStore for FsStore {
    async fn stage(&self, key: &BlobKey, growth: Growth) -> Result<Box<dyn StagedBlob>, BlobError> {
        let (root, descriptors) = (Arc::clone(&self.root), Arc::clone(&self.descriptors));
        let turn = Turn::take(&root, key);
        let staged =
            blocking(move || StagedFile::open(&root, &descriptors, turn, growth.offset)).await?;
        Ok(Box::new(staged))
    }

    async fn read_staged(&self, key: &BlobKey, range: Range<u64>) -> Result<BlobStream, BlobError> {
        let path = self.root.staged_path(key);
        let key = key.clone();
        let file = blocking(move || ReadableFile::open(&path, key)).await?;
        Ok(self.reads.stream(Arc::new(file), range))
    }

    async fn publish(&self, key: &BlobKey, size: u64) -> Result<(), BlobError> {
        let root = Arc::clone(&self.root);
        let turn = Turn::take(&root, key);
        let directory = blocking(move || turn.begin(|_| root.publish(turn.key(), size))).await?;
        directory.sync().await
    }

    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError> {
        let path = self.root.staged_path(key);
        let turn = Turn::take(&self.root, key);
        blocking(move || {
            turn.begin(|_| {
                remove(&path).map_err(|error| failed(format!("discard blob {}", turn.key()), error))
            })
        })
        .await
    }

    async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        let path = self.root.published_path(key);
        open_published(&self.descriptors, &self.reads, key, size, path).await
    }

    async fn delete(&self, key: &BlobKey) -> Result<(), BlobError> {
        let (root, descriptors) = (Arc::clone(&self.root), Arc::clone(&self.descriptors));
        let key = key.clone();
        blocking(move || {
            let removed = remove(&root.published_path(&key));
            // Only now, so that nothing that was opened before can enter after. The last one to let go of a large file frees
            // its blocks, which takes time: here rather than in a reader's task.
            descriptors.forget(&key);
            removed.map_err(|error| failed(format!("delete blob {key}"), error))
        })
        .await
    }

    async fn list(
        &self,
        state: BlobState,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, BlobError> {
        let root = Arc::clone(&self.root);
        let after = after.cloned();
        blocking(move || {
            match state {
                BlobState::Staged => listing::flat(root.staged.path(), after.as_ref(), limit),
                BlobState::Published => {
                    listing::sharded(root.published.path(), after.as_ref(), limit)
                }
            }
            .map_err(|error| failed("list blobs", error))
        })
        .await
    }

    async fn check(&self) -> Result<(), BlobError> {
        let root = Arc::clone(&self.root);
        blocking(move || {
            root.durability.check()?;
            probe(&root.path.join("probe"))
                .map_err(|error| failed(format!("write below {}", root.path.display()), error))
        })
        .await
    }
}

impl Root {
    fn open(path: &Path) -> Result<Self, OpenError> {
        let step = |doing: &str| {
            let doing = format!("{doing} {}", path.display());
            |source| OpenError::Failed { doing, source }
        };
        let path = path::absolute(path).map_err(step("find the blob directory"))?;
        let (staged, published) = (path.join("staged"), path.join(PUBLISHED));
        let is_missing = |directory: &&Path| !directory.is_dir();
        let missing = path.ancestors().take_while(is_missing).count();
        make_directories(&path).map_err(step("make the blob directory"))?;
        let lock = lock(&path)?;
        make_directories(&staged).map_err(step("make staged/ in"))?;
        make_directories(&published).map_err(step("make published/ in"))?;

        let durability = Arc::new(Durability::default());
        let directory = |path| Arc::new(Directory::new(path, Arc::clone(&durability)));
        let (staged, published) = (directory(staged), directory(published));
        let shards: HashMap<_, _> = listing::shards(published.path(), None)
            .map_err(step("list published/ in"))?
            .into_iter()
            .map(|name| (name.clone(), directory(published.path().join(name))))
            .collect();
        // The directory's name is an entry of the one above, and so on up to one that was there before.
        path.ancestors()
            .take(missing.max(1) + 1)
            .chain([staged.path(), published.path()])
            .chain(shards.values().map(|shard| shard.path()))
            .try_for_each(|path| File::open(path)?.sync_all())
            .map_err(step("sync the blob directory"))?;
        Ok(Self {
            staged,
            published,
            shards: Mutex::new(shards),
            writers: Writers::default(),
            durability,
            path,
            _lock: lock,
        })
    }

    fn staged_path(&self, key: &BlobKey) -> PathBuf {
        self.staged.path().join(key.as_str())
    }

    fn published_path(&self, key: &BlobKey) -> PathBuf {
        published_path(self.published.path(), key)
    }

    /// Moves the staged file to where published ones are. Returns the directory, which is yet to be synced.
    fn publish(&self, key: &BlobKey, size: u64) -> Result<Arc<Directory>, BlobError> {
        let doing = |error| failed(format!("publish blob {key}"), error);
        let has_size = |path: &Path| match fs::metadata(path) {
            Ok(metadata) => Ok(Some(metadata.is_file() && metadata.len() == size)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(doing(error)),
        };
        let (staged, published) = (self.staged_path(key), self.published_path(key));
        match has_size(&staged)? {
            Some(true) => {
                let shard = self.shard(key).map_err(doing)?;
                fs::rename(&staged, &published).map_err(doing)?;
                Ok(shard)
            }
            // An earlier attempt may have got as far as the rename.
            None if has_size(&published)? == Some(true) => self.shard(key).map_err(doing),
            Some(false) | None => Err(BlobError::Missing { key: key.clone() }),
        }
    }

    /// The directory of a published blob, which is made and durable.
    fn shard(&self, key: &BlobKey) -> io::Result<Arc<Directory>> {
        let name = listing::shard_of(key);
        let mut shards = self
            .shards
            .lock()
            .expect("nothing panics while it holds it");
        if let Some(shard) = shards.get(name) {
            return Ok(Arc::clone(shard));
        }
        let path = self.published.path().join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            // Under the lock: nobody may build on a directory that is not durable yet.
            Ok(()) => self.published.sync_now()?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let shard = Arc::new(Directory::new(path, Arc::clone(&self.durability)));
        shards.insert(name.to_owned(), Arc::clone(&shard));
        Ok(shard)
    }
}

/// Makes a directory and those above it.
fn make_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes the directory for this store, until the file is closed.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let path = directory.join("lock");
    let failed = |source| OpenError::Failed {
        doing: format!("lock {}", path.display()),
        source,
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse {
            path: directory.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Removes a file, if there is one.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Makes a file, writes a block, waits for the disk, and removes it: a full disk has no block to spare for it.
fn probe(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let written = file.write_all(&[0; 4096]).and_then(|()| file.sync_data());
    let removed = remove(path);
    written.and(removed)
}

/// Runs `work` on the blocking pool. It runs to its end even if the caller is dropped.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(broken_off(error)))
}

/// The error for work on the blocking pool that did not come to its end.
fn broken_off(error: tokio::task::JoinError) -> BlobError {
    failed(
        "finish what the blocking pool was given",
        io::Error::other(error),
    )
}

/// Tells a lack of room from other failures.
fn failed(doing: impl Into<String>, error: impl Into<io::Error>) -> BlobError {
    let error = error.into();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            BlobError::Full
        }
        _ => BlobError::Failed {
            doing: doing.into(),
            source: Box::new(error),
        },
    }
}
