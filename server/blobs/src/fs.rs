//! Blobs as files of a local file system.
//!
//! ```text
//! DATA/blobs/lock                    locked while a store is open
//! DATA/blobs/staged/<key>            a blob that grows
//! DATA/blobs/published/<ab>/<key>    a complete blob; <ab> are the first two characters of its key
//! ```
//!
//! Durability:
//! 1. [`StagedBlob::sync`] returns after `fdatasync` of the file; the first time also after `fsync`
//!    of `staged`.
//! 2. [`BlobStore::publish`] renames the synced file and returns after `fsync` of its new
//!    directory. A crash in between leaves the file at either place; [`BlobStore::stage`] looks at
//!    both.
//! 3. Opening a store syncs its directories, so the names that a killed process left are durable
//!    before the store relies on them.
//! 4. Discarding and deleting are not synced: files that a power cut brings back are listed again,
//!    and no record refers to them.
//!
//! Staging, publishing and discarding a key first end its earlier writer and wait for the work that
//! it has begun (`writers`). So a write that a dropped future left behind never reaches bytes that
//! a later caller relies on.
//!
//! All file access is on the blocking pool, except reads that the page cache can answer at once
//! (`reading`).

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
use self::writers::{Claim, Writers};
use crate::error::OpenError;

/// Directory of published blobs, below that of the store.
const PUBLISHED: &str = "published";

/// Store in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory. A relative path is below the data directory.
    #[schemars(with = "settings::Path")]
    pub path: PathBuf,
    /// Maximum number of published blobs that are kept open for the next reader. Each takes a file
    /// descriptor.
    pub open_files: usize,
    /// Number of bytes that a reader is given at a time: 4 KiB to 4 MiB. A slow connection holds as
    /// much memory. Above 64 KiB there is nothing to gain (measured from 16 KiB to 512 KiB).
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

/// Store in a directory. The module describes its layout and its guarantees.
#[derive(Debug)]
pub struct FsStore {
    root: Arc<Root>,
    descriptors: Arc<Descriptors>,
    reads: Arc<Reads>,
}

/// Published blobs of a directory in which another process may have its store.
#[derive(Debug)]
pub struct PublishedFiles {
    published: PathBuf,
    descriptors: Arc<Descriptors>,
    reads: Arc<Reads>,
}

/// Directory of a store. Work that may still write there holds it, and with it the lock.
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
    /// Checks the rules that types do not express.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        Reads::new(self).map(drop)
    }
}

impl FsStore {
    /// Opens the store, and creates its directories if they are missing.
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
    /// Returns the blobs of the store in this directory. Locks nothing, and creates nothing.
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

    /// Opens a published blob, as [`BlobStore::open`] does.
    ///
    /// # Errors
    /// As there.
    pub async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        let path = published_path(&self.published, key);
        open_published(&self.descriptors, &self.reads, key, size, path).await
    }
}

/// Returns the path of a published blob.
fn published_path(published: &Path, key: &BlobKey) -> PathBuf {
    let mut path = published.join(listing::shard_of(key));
    path.push(key.as_str());
    path
}

/// Returns a published blob of `size` bytes from the open ones, or opens it.
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
        let claim = Claim::take(&root, key);
        let staged =
            blocking(move || StagedFile::open(&root, &descriptors, claim, growth.offset)).await?;
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
        let claim = Claim::take(&root, key);
        let directory = blocking(move || claim.begin(|_| root.publish(claim.key(), size))).await?;
        directory.sync().await
    }

    async fn discard(&self, key: &BlobKey) -> Result<(), BlobError> {
        let path = self.root.staged_path(key);
        let claim = Claim::take(&self.root, key);
        blocking(move || {
            claim.begin(|_| {
                remove(&path)
                    .map_err(|error| failed(format!("discard blob {}", claim.key()), error))
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
            // Only after the removal, so that no open of before can add an entry later. Closing the
            // last descriptor of a large file frees its blocks, which takes time: here rather than
            // in a reader's task.
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
        // The name of the directory is an entry of the one above, and so on up to one that existed.
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

    /// Moves the staged file to the published ones. Returns their directory, which is yet to be
    /// synced.
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
            // An earlier attempt may have renamed the file.
            None if has_size(&published)? == Some(true) => self.shard(key).map_err(doing),
            Some(false) | None => Err(BlobError::Missing { key: key.clone() }),
        }
    }

    /// Returns the directory of a published blob, which exists and is durable.
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
            // Under the lock: nobody may rely on a directory that is not durable yet.
            Ok(()) => self.published.sync_now()?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let shard = Arc::new(Directory::new(path, Arc::clone(&self.durability)));
        shards.insert(name.to_owned(), Arc::clone(&shard));
        Ok(shard)
    }
}

/// Creates a directory and those above it.
fn make_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Locks the directory for this store, until the file is closed.
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

/// Removes a file, if it exists.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Creates a file, writes a block, waits for the disk, and removes the file. A full disk has no
/// block to spare for it.
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

/// Returns the error for work on the blocking pool that did not come to its end.
fn broken_off(error: tokio::task::JoinError) -> BlobError {
    failed("finish work on the blocking pool", io::Error::other(error))
}

/// Returns [`BlobError::Full`] for a lack of room, else [`BlobError::Failed`].
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
