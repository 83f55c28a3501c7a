//! Sources of an upload's bytes: a file, or content that is read like one.

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

/// Size of one read, in bytes.
pub(crate) const PIECE: usize = 256 * 1024;

/// Bytes to upload. Every reading, from any offset, returns the same bytes.
pub(crate) trait Source: Send + Sync {
    /// Name for people, and for the server if the URL is not the name.
    fn name(&self) -> String;

    /// Identity by which another run recognizes the source.
    fn identity(&self) -> &Identity;

    /// Checks that the source still has its identity.
    fn check_unchanged(&self) -> Result<(), Error>;

    /// Streams the bytes in `range`, in pieces of at most `piece` bytes.
    fn read(&self, range: Range<u64>, piece: usize) -> BoxStream<'static, io::Result<Bytes>>;
}

/// Identity of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Identity {
    /// Size in bytes.
    pub(crate) size: u64,
    /// Text that changes whenever the bytes do.
    pub(crate) mark: String,
}

/// File on disk, identified by its size and modification time.
///
/// It is opened once, so renames and removals do not change the bytes.
#[derive(Debug)]
pub(crate) struct LocalFile {
    path: PathBuf,
    file: Arc<File>,
    identity: Identity,
}

impl LocalFile {
    pub(super) fn new(path: PathBuf) -> Result<Self, Error> {
        // The type is checked first: opening a pipe would wait for a writer.
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

    /// Reads the current file for its SHA-256.
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
    // The sign of a time before 1970 is left out.
    let since = modified
        .duration_since(UNIX_EPOCH)
        .unwrap_or_else(|before| before.duration());
    Identity {
        size: metadata.len(),
        mark: format!("{}.{:09}", since.as_secs(), since.subsec_nanos()),
    }
}

/// Hash of a file, computed on a thread of its own.
struct Hashing {
    thread: JoinHandle<io::Result<Option<Sha256Digest>>>,
    /// Stops the thread; otherwise the program would not end before it.
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

/// Hashes the file; returns `None` if it is stopped.
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
