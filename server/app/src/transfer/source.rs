//! Where an upload's bytes come from: a file, or something that is read like one.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use bytes::{Bytes, BytesMut};
use domain::digest::{Hasher, Sha256Digest};
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::Error;

/// Bytes read at once.
pub(crate) const PIECE: usize = 256 * 1024;

/// Bytes to upload, the same whenever and from wherever they are read.
pub(crate) trait Source: Send + Sync {
    /// What people, and the server where its URL is no name, call it.
    fn name(&self) -> String;

    /// By this it is known to be the same in another run.
    fn identity(&self) -> &Identity;

    /// Whether it still is what its identity says.
    fn check_unchanged(&self) -> Result<(), Error>;

    /// The bytes in `range`, in pieces of at most `piece`.
    fn read(&self, range: Range<u64>, piece: usize) -> BoxStream<'static, io::Result<Bytes>>;
}

/// By this a source counts as the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// In bytes.
    pub(crate) size: u64,
    /// Changes whenever the bytes do.
    pub(crate) mark: String,
}

/// A file on disk, known by its size and when it was modified.
///
/// It is opened once: another file that takes its name, or its removal, changes nothing of what is read.
#[derive(Debug)]
pub(crate) struct LocalFile {
    path: PathBuf,
    file: Arc<File>,
    identity: Identity,
}

impl LocalFile {
    pub(super) fn new(path: PathBuf) -> Result<Self, Error> {
        // Looked at first: opening a pipe would wait for somebody who writes to it.
        let opened = std::fs::metadata(&path).and_then(|metadata| {
            if !metadata.is_file() {
                return Ok(Err(metadata.is_dir()));
            }
            let file = File::open(&path)?;
            Ok(Ok((identity(&file.metadata()?), file)))
        });
        match opened {
            Ok(Ok((identity, file))) => Ok(Self {
                identity,
                file: Arc::new(file),
                path,
            }),
            Ok(Err(is_directory)) => Err(Error::NotAFile { path, is_directory }),
            Err(source) => Err(Error::Local {
                doing: "read",
                path,
                source,
            }),
        }
    }

    /// Reads all of the file, as it is now, for its SHA-256.
    pub(super) async fn hash(&self) -> Result<Sha256Digest, Error> {
        let (file, size) = (Arc::clone(&self.file), self.identity.size);
        let hashing = Hashing::begin(file, size);
        let sha256 = hashing
            .finish()
            .await
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => Error::FileChanged {
                    path: self.path.clone(),
                },
                _ => Error::Local {
                    doing: "read",
                    path: self.path.clone(),
                    source,
                },
            })?;
        self.check_unchanged()?;
        Ok(sha256)
    }
}

impl Source for LocalFile {
    fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        match self.file.metadata() {
            Ok(metadata) if identity(&metadata) == self.identity => Ok(()),
            _ => Err(Error::FileChanged {
                path: self.path.clone(),
            }),
        }
    }

    fn read(&self, range: Range<u64>, piece: usize) -> BoxStream<'static, io::Result<Bytes>> {
        let next = move |(file, range): (Arc<File>, Range<u64>)| async move {
            let left = usize::try_from(range.end - range.start).unwrap_or(piece);
            if left == 0 {
                return Ok(None);
            }
            let mut bytes = BytesMut::zeroed(left.min(piece));
            let reading = spawn_blocking(move || {
                let read = file.read_at(&mut bytes, range.start)?;
                if read == 0 {
                    return Err(became_shorter());
                }
                bytes.truncate(read);
                let rest = range.start + read as u64..range.end;
                Ok(Some((bytes.freeze(), (file, rest))))
            });
            reading.await.map_err(io::Error::other)?
        };
        stream::try_unfold((Arc::clone(&self.file), range), next).boxed()
    }
}

fn became_shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter")
}

fn identity(metadata: &Metadata) -> Identity {
    let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
    // The sign is left out where a file is older than that.
    let since = modified
        .duration_since(UNIX_EPOCH)
        .unwrap_or_else(|before| before.duration());
    Identity {
        size: metadata.len(),
        mark: format!("{}.{:09}", since.as_secs(), since.subsec_nanos()),
    }
}

/// The hash of a file, in the making on a thread of its own.
struct Hashing {
    thread: JoinHandle<io::Result<Option<Sha256Digest>>>,
    /// Tells the thread that nobody waits any more: the program would not end before it.
    stop: Arc<AtomicBool>,
}

impl Hashing {
    fn begin(file: Arc<File>, size: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self {
            thread: spawn_blocking(move || hash(&file, size, &stopped)),
            stop,
        }
    }

    async fn finish(mut self) -> io::Result<Sha256Digest> {
        let hashed = (&mut self.thread).await.map_err(io::Error::other)??;
        hashed.ok_or_else(|| io::ErrorKind::Interrupted.into())
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// `None` when told to stop.
fn hash(file: &File, size: u64, stop: &AtomicBool) -> io::Result<Option<Sha256Digest>> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    while at < size {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let most = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
        let read = file.read_at(&mut buffer[..most], at)?;
        if read == 0 {
            return Err(became_shorter());
        }
        hasher.update(&buffer[..read]);
        at += read as u64;
    }
    Ok(Some(hasher.finish()))
}
