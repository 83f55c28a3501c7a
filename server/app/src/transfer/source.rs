//! Where an upload's bytes come from: a file, or something that is read like one.

use std::fs::Metadata;
use std::io::{self, Read as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use bytes::{Bytes, BytesMut};
use domain::digest::{Hasher, Sha256Digest};
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio::task::JoinHandle;

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
#[derive(Debug)]
pub(super) struct LocalFile {
    path: PathBuf,
    identity: Identity,
}

impl LocalFile {
    pub(super) fn new(path: PathBuf) -> Result<Self, Error> {
        let fail = |path, source| Error::Local {
            doing: "read",
            path,
            source,
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => Ok(Self {
                identity: identity(&metadata),
                path,
            }),
            Ok(_) => {
                let source = io::Error::other("only plain files can be uploaded");
                Err(fail(path, source))
            }
            Err(source) => Err(fail(path, source)),
        }
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
        match std::fs::metadata(&self.path) {
            Ok(metadata) if identity(&metadata) == self.identity => Ok(()),
            _ => Err(Error::FileChanged {
                path: self.path.clone(),
            }),
        }
    }

    fn read(&self, range: Range<u64>, piece: usize) -> BoxStream<'static, io::Result<Bytes>> {
        let path = self.path.clone();
        let opening = async move {
            let mut file = tokio::fs::File::open(&path).await?;
            file.seek(SeekFrom::Start(range.start)).await?;
            Ok(pieces(file, range.end - range.start, piece))
        };
        futures::TryFutureExt::try_flatten_stream(opening).boxed()
    }
}

/// The next `length` bytes of the file.
fn pieces(
    file: tokio::fs::File,
    length: u64,
    piece: usize,
) -> impl stream::Stream<Item = io::Result<Bytes>> {
    stream::try_unfold((file, length), move |(mut file, left)| async move {
        let next = usize::try_from(left).unwrap_or(piece).min(piece);
        if next == 0 {
            return Ok(None);
        }
        let mut bytes = BytesMut::zeroed(next);
        let read = file.read(&mut bytes).await?;
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file became shorter",
            ));
        }
        bytes.truncate(read);
        Ok(Some((bytes.freeze(), (file, left - read as u64))))
    })
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

/// The file's hash, in the making on a thread of its own.
pub(super) struct Hashing {
    thread: Option<JoinHandle<io::Result<Option<Sha256Digest>>>>,
    /// Tells the thread that nobody waits any more: the program would not end before it.
    stop: Arc<AtomicBool>,
}

impl Hashing {
    pub(super) fn begin(path: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = tokio::task::spawn_blocking(move || hash(&path, &stopped));
        Self {
            thread: Some(thread),
            stop,
        }
    }

    pub(super) async fn finish(&mut self, path: &Path) -> Result<Sha256Digest, Error> {
        let fail = |source| Error::Local {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let thread = self.thread.take().expect("an upload has one end");
        match thread.await {
            Ok(Ok(Some(sha256))) => Ok(sha256),
            Ok(Ok(None)) => Err(fail(io::ErrorKind::Interrupted.into())),
            Ok(Err(source)) => Err(fail(source)),
            Err(panic) => Err(fail(io::Error::other(panic))),
        }
    }
}

impl Drop for Hashing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// `None` when told to stop.
fn hash(path: &Path, stop: &AtomicBool) -> io::Result<Option<Sha256Digest>> {
    let mut file = std::fs::File::open(path)?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; PIECE];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Some(hasher.finish()));
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        hasher.update(&buffer[..read]);
    }
}
