//! Behaviour of the file system store: crashes, foreign files, full disks, bounds.
#![cfg(target_os = "linux")]

use std::ffi::CStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use blobs::fs::Config;
use blobs::{Config as AnyConfig, OpenError};
use bytes::Bytes;
use bytesize::ByteSize;
use domain::blob_store::{BlobError, BlobState, Growth};
use domain::ids::SystemRandomness;
use domain::{BlobKey, BlobStore};
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;

/// Data directory.
struct Data(TempDir);

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    async fn open(&self) -> Arc<dyn BlobStore> {
        self.open_with(Config::default()).await
    }

    async fn open_with(&self, config: Config) -> Arc<dyn BlobStore> {
        blobs::open(&AnyConfig::Fs(config), self.0.path())
            .await
            .expect("a store in a directory of its own")
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join("blobs").join(path)
    }

    fn staged(&self, key: &BlobKey) -> PathBuf {
        self.path("staged").join(key.as_str())
    }

    fn published(&self, key: &BlobKey) -> PathBuf {
        self.path("published")
            .join(&key.as_str()[..2])
            .join(key.as_str())
    }

    /// Returns the number of files below the directory that this process has open, except the lock.
    fn open_files(&self) -> usize {
        fs::read_dir("/proc/self/fd")
            .expect("a process file system")
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .filter(|path| path.starts_with(self.0.path()) && !path.ends_with("lock"))
            .count()
    }
}

#[tokio::test]
async fn a_directory_is_used_by_one_store_at_a_time() {
    let data = Data::new();
    let store = data.open().await;
    let error = blobs::open(&AnyConfig::default(), data.0.path())
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    let path = data.path("");
    assert!(
        error
            .to_string()
            .contains(path.to_str().unwrap().trim_end_matches('/'))
    );

    // Writers hold the directory too, until the last of their writes is done.
    let writer = store.stage(&key(), at(0)).await.unwrap();
    drop(store);
    blobs::open(&AnyConfig::default(), data.0.path())
        .await
        .unwrap_err();
    drop(writer);
    data.open().await;
}

#[tokio::test]
async fn directories_above_are_made() {
    let data = Data::new();
    let config = Config {
        path: "deep/down".into(),
        ..Config::default()
    };
    let store = blobs::open(&AnyConfig::Fs(config), &data.0.path().join("a/b"))
        .await
        .unwrap();
    publish(&*store, &key(), b"hello").await;
    assert!(data.0.path().join("a/b/deep/down/published").is_dir());
}

#[tokio::test]
async fn a_directory_that_cannot_be_made_is_named() {
    let data = Data::new();
    File::create(data.0.path().join("blobs")).unwrap();
    let error = blobs::open(&AnyConfig::default(), data.0.path())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("blobs"), "{error}");
}

#[tokio::test]
async fn a_reopened_store_goes_on_where_bytes_were_synced() {
    let data = Data::new();
    let (growing, whole) = (key(), key());
    {
        let store = data.open().await;
        publish(&*store, &whole, b"hello").await;
        let mut staged = store.stage(&growing, at(0)).await.unwrap();
        staged.write(Bytes::from_static(b"durable")).await.unwrap();
        staged.sync().await.unwrap();
        staged.write(Bytes::from_static(b" and not")).await.unwrap();
    }
    // More bytes than were synced, as a crash may leave them.
    let mut file = OpenOptions::new()
        .append(true)
        .open(data.staged(&growing))
        .unwrap();
    std::io::Write::write_all(&mut file, &[0xff; 5000]).unwrap();
    drop(file);

    let store = data.open().await;
    assert_eq!(read(&*store, &whole, 5).await.unwrap(), b"hello");
    let mut staged = store.stage(&growing, at(7)).await.unwrap();
    staged.write(Bytes::from_static(b" again")).await.unwrap();
    assert_eq!(staged.sync().await.unwrap(), 13);
    drop(staged);
    store.publish(&growing, 13).await.unwrap();
    assert_eq!(read(&*store, &growing, 13).await.unwrap(), b"durable again");
}

#[tokio::test]
async fn what_a_crash_left_published_is_taken_back_or_published_again() {
    let data = Data::new();
    let key = key();
    publish(&*data.open().await, &key, b"hello").await;

    let store = data.open().await;
    store.publish(&key, 5).await.unwrap();
    let staged = store.stage(&key, at(5)).await.unwrap();
    drop(staged);
    assert!(data.staged(&key).exists() && !data.published(&key).exists());

    // A file system that does not rename in one step may leave both names.
    fs::copy(data.staged(&key), data.published(&key)).unwrap();
    store.publish(&key, 5).await.unwrap();
    assert!(!data.staged(&key).exists());
    assert_eq!(read(&*store, &key, 5).await.unwrap(), b"hello");
}

#[tokio::test]
async fn leftovers_are_listed() {
    let data = Data::new();
    let key = key();
    drop(data.open().await.stage(&key, at(0)).await.unwrap());
    let listed = data
        .open()
        .await
        .list(BlobState::Staged, None, 10)
        .await
        .unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, key);
}

#[tokio::test]
async fn a_file_that_shrank_is_an_error_and_no_short_answer() {
    const SIZE: usize = 1_000_000;
    let data = Data::new();
    let store = data.open().await;
    let key = key();
    publish(&*store, &key, &vec![7; SIZE]).await;
    let blob = store.open(&key, SIZE as u64).await.unwrap();
    let mut stream = blob.read(0..SIZE as u64);
    let first = stream.next().await.unwrap().unwrap();

    shrink(&data.published(&key), SIZE as u64 / 2);
    let rest: Result<Vec<Bytes>, _> = stream.try_collect().await;
    assert!(first.len() < SIZE / 2);
    assert!(matches!(rest, Err(BlobError::Missing { .. })), "{rest:?}");
    let whole = read(&*store, &key, SIZE as u64).await;
    assert!(matches!(whole, Err(BlobError::Missing { .. })));
    drop((store, blob));
    let reopened = data.open().await.open(&key, SIZE as u64).await;
    assert!(matches!(reopened, Err(BlobError::Missing { .. })));
}

#[tokio::test]
async fn a_staged_file_that_shrank_is_missing_bytes() {
    let data = Data::new();
    let store = data.open().await;
    let key = key();
    write(&*store, &key, b"hello").await;
    shrink(&data.staged(&key), 3);
    let staged = store.stage(&key, at(5)).await;
    assert!(matches!(staged, Err(BlobError::Missing { .. })));
    let published = store.publish(&key, 5).await;
    assert!(matches!(published, Err(BlobError::Missing { .. })));
}

#[tokio::test]
async fn bytes_that_are_not_cached_read_the_same() {
    let data = Data::new();
    let store = data.open().await;
    let whole: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let key = key();
    publish(&*store, &key, &whole).await;
    let file = File::open(data.published(&key)).unwrap();
    // All of it, then some of it: cached and uncached bytes are read in different ways.
    for part in [0..12_000_000, 1_000_000..5_000_000, 7_000_000..7_004_096] {
        let length = std::num::NonZero::new(part.end - part.start);
        rustix::fs::fadvise(&file, part.start, length, rustix::fs::Advice::DontNeed).unwrap();
        assert!(read(&*store, &key, 12_000_000).await.unwrap() == whole);
    }
}

#[tokio::test]
async fn foreign_files_are_left_alone() {
    let data = Data::new();
    let store = data.open().await;
    let key = "cc00".parse().unwrap();
    publish(&*store, &key, b"hello").await;
    let invalid = std::ffi::OsStr::new("UPPER.txt");
    let not_utf8 = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"\xff\xfe");
    for directory in ["staged", "published", "published/aa"] {
        let directory = data.path(directory);
        fs::create_dir_all(&directory).unwrap();
        for name in [invalid, not_utf8] {
            fs::write(directory.join(name), "foreign").unwrap();
            fs::create_dir(directory.join(name).with_extension("d")).unwrap();
        }
        symlink("/etc/passwd", directory.join("a-link")).unwrap();
        symlink("nowhere", directory.join("zz")).unwrap();
        fs::create_dir(directory.join("abcdef")).unwrap();
    }
    fs::write(data.path("published/bb"), "no directory").unwrap();

    let published = store.list(BlobState::Published, None, 100).await.unwrap();
    assert_eq!(published.len(), 1, "{published:?}");
    let staged = store.list(BlobState::Staged, None, 100).await.unwrap();
    assert_eq!(staged, []);

    // A foreign file in the way is an error.
    let taken: BlobKey = "abcdef".parse().unwrap();
    store.stage(&taken, at(0)).await.unwrap_err();
    store.discard(&taken).await.unwrap_err();
    let size = fs::metadata(data.path("staged/abcdef")).unwrap().len();
    store.publish(&taken, size).await.unwrap_err();
    fs::create_dir(data.path("published/ab")).unwrap();
    fs::create_dir(data.path("published/ab/abcdef")).unwrap();
    store.open(&taken, size).await.unwrap_err();
    let blocked: BlobKey = "bb00".parse().unwrap();
    store.stage(&blocked, at(0)).await.unwrap_err();
    store.open(&blocked, 5).await.unwrap_err();
    assert!(data.path("staged/abcdef").is_dir());
    assert!(data.path("published/aa/UPPER.txt").is_file());

    // It does not prevent the store from opening either.
    drop(store);
    data.open().await;
}

#[tokio::test]
async fn only_the_owner_may_read() {
    let data = Data::new();
    let store = data.open().await;
    let (growing, whole) = (key(), key());
    write(&*store, &growing, b"hello").await;
    publish(&*store, &whole, b"hello").await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    for directory in ["", "staged", "published"] {
        assert_eq!(mode(&data.path(directory)), 0o700, "{directory}");
    }
    assert_eq!(mode(data.published(&whole).parent().unwrap()), 0o700);
    for file in [
        data.path("lock"),
        data.staged(&growing),
        data.published(&whole),
    ] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn open_files_are_bounded_and_closed_when_deleted() {
    let data = Data::new();
    let config = Config {
        open_files: 4,
        ..Config::default()
    };
    let store = data.open_with(config).await;
    let keys: Vec<BlobKey> = (0..20).map(|_| key()).collect();
    for key in &keys {
        publish(&*store, key, b"hello").await;
        assert_eq!(read(&*store, key, 5).await.unwrap(), b"hello");
    }
    assert_eq!(data.open_files(), 4);
    for key in &keys {
        store.delete(key).await.unwrap();
    }
    assert_eq!(data.open_files(), 0);
}

#[tokio::test]
async fn a_reader_is_given_no_more_than_a_chunk_at_a_time() {
    const SIZE: usize = 1_000_000;
    let data = Data::new();
    let config = Config {
        read_chunk: ByteSize::kib(8),
        ..Config::default()
    };
    let store = data.open_with(config).await;
    let key = key();
    publish(&*store, &key, &vec![7; SIZE]).await;
    let blob = store.open(&key, SIZE as u64).await.unwrap();
    let chunks: Vec<Bytes> = blob.read(0..SIZE as u64).try_collect().await.unwrap();
    assert!(chunks.iter().all(|chunk| chunk.len() <= 8 << 10));
    assert_eq!(chunks.concat().len(), SIZE);
}

#[tokio::test]
async fn a_store_whose_directory_is_gone_fails_its_check() {
    let data = Data::new();
    let store = data.open().await;
    store.check().await.unwrap();
    assert!(!data.path("probe").exists());
    fs::remove_dir_all(data.path("")).unwrap();
    store.check().await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once() {
    const SIZE: usize = 150_000;
    let data = Data::new();
    let config = Config {
        open_files: 8,
        ..Config::default()
    };
    let store = data.open_with(config).await;
    let tasks = (0..32_u8).map(|fill| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let key = key();
            let whole = vec![fill; SIZE];
            for _ in 0..4 {
                for offset in (0..SIZE).step_by(30_000) {
                    let mut staged = store.stage(&key, at(offset as u64)).await.unwrap();
                    staged.write(whole[offset..].to_vec().into()).await.unwrap();
                    staged.sync().await.unwrap();
                }
                store.publish(&key, SIZE as u64).await.unwrap();
                let reads = join_all((0..4).map(|_| read(&*store, &key, SIZE as u64))).await;
                assert!(reads.into_iter().all(|bytes| bytes.unwrap() == whole));
                store.list(BlobState::Published, None, 5).await.unwrap();
                store.delete(&key).await.unwrap();
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    assert_eq!(store.list(BlobState::Published, None, 5).await.unwrap(), []);
    assert_eq!(store.list(BlobState::Staged, None, 5).await.unwrap(), []);
    assert_eq!(data.open_files(), 0);
}

#[tokio::test]
async fn a_full_disk_keeps_what_was_durable() {
    let data = Data::new();
    let Some(_disk) = SmallDisk::mount(data.0.path(), c"size=2m") else {
        return;
    };
    let store = data.open().await;
    let (filler, growing) = (key(), key());
    publish(&*store, &filler, &vec![1; 1 << 20]).await;
    write(&*store, &growing, b"durable").await;

    let mut staged = store.stage(&growing, at(7)).await.unwrap();
    let mut outcome = Ok(7);
    for _ in 0..4 {
        outcome = match staged.write(vec![2; 512 << 10].into()).await {
            Ok(()) => staged.sync().await,
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(BlobError::Full)), "{outcome:?}");
    staged.write(Bytes::from_static(b"more")).await.ok();
    assert!(
        staged.sync().await.is_err(),
        "nothing is written after an error"
    );
    drop(staged);
    let check = store.check().await;
    assert!(matches!(check, Err(BlobError::Full)), "{check:?}");

    store.delete(&filler).await.unwrap();
    let mut staged = store.stage(&growing, at(7)).await.unwrap();
    staged.write(Bytes::from_static(b" again")).await.unwrap();
    assert_eq!(staged.sync().await.unwrap(), 13);
    drop(staged);
    store.publish(&growing, 13).await.unwrap();
    assert_eq!(read(&*store, &growing, 13).await.unwrap(), b"durable again");
    store.check().await.unwrap();
}

#[tokio::test]
async fn a_disk_without_room_for_names_is_full() {
    let data = Data::new();
    let Some(_disk) = SmallDisk::mount(data.0.path(), c"nr_inodes=8") else {
        return;
    };
    let store = data.open().await;
    let mut outcome = Ok(());
    for _ in 0..8 {
        outcome = store.stage(&key(), at(0)).await.map(drop);
    }
    assert!(matches!(outcome, Err(BlobError::Full)), "{outcome:?}");
}

/// Small file system, mounted on a directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Returns `None` if the process may not mount anything.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn mount(directory: &Path, options: &CStr) -> Option<Self> {
        // Not by a command: a process that is being started holds this one's lock files open for a
        // moment.
        let mounted = mount("tmpfs", directory, "tmpfs", MountFlags::empty(), options);
        if let Err(error) = mounted {
            eprintln!("SKIPPED: a small file system cannot be mounted: {error}");
            return None;
        }
        Some(Self(directory.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the store may still have it open.
        unmount(&self.0, UnmountFlags::DETACH).expect("what was mounted can be unmounted");
    }
}

fn at(offset: u64) -> Growth {
    Growth {
        offset,
        ..Growth::NEW
    }
}

fn key() -> BlobKey {
    BlobKey::random(&SystemRandomness)
}

async fn write(store: &dyn BlobStore, key: &BlobKey, bytes: &[u8]) {
    let mut staged = store.stage(key, at(0)).await.expect("to stage");
    staged
        .write(Bytes::copy_from_slice(bytes))
        .await
        .expect("to write");
    staged.sync().await.expect("to sync");
}

async fn publish(store: &dyn BlobStore, key: &BlobKey, bytes: &[u8]) {
    write(store, key, bytes).await;
    store
        .publish(key, bytes.len() as u64)
        .await
        .expect("to publish");
}

async fn read(store: &dyn BlobStore, key: &BlobKey, size: u64) -> Result<Vec<u8>, BlobError> {
    let blob = store.open(key, size).await?;
    let chunks: Vec<Bytes> = blob.read(0..size).try_collect().await?;
    Ok(chunks.concat())
}

fn shrink(path: &Path, size: u64) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .expect("to open")
        .set_len(size)
        .expect("to shrink");
}
