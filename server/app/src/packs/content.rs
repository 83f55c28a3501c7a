//! Archive of missing contents: a zip that is never written to disk, only read.
//!
//! Its layout depends only on the tree and the missing contents, so another run makes the same
//! bytes, and its upload can resume at any offset. The contents come from the scanned files, which
//! must not change meanwhile.

use std::collections::HashSet;
use std::io::{self, Read as _, Seek as _};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use archive::{
    ArchiveFormat, Catalogue, Content, Forms, Layout, Need, PackName, Plan, Segment, Sha256Digest,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;

use super::Error;
use super::files::{Found, Stamp};
use super::scan::Scan;
use crate::transfer::{self, Identity, Source};

/// Number of pieces that wait to be sent.
const READ_AHEAD: usize = 4;

/// Scanned directory, the source of archives.
#[derive(Debug)]
pub(super) struct Contents {
    catalogue: Arc<Catalogue>,
    forms: Arc<Forms>,
    files: Arc<[Found]>,
}

impl Contents {
    pub(super) fn new(pack: &PackName, scan: Scan) -> Result<Self, Error> {
        let Scan {
            tree,
            files,
            hashed,
        } = scan;
        let forms = Arc::new(Forms::raw(&tree));
        let mut known = hashed.iter().zip(&files);
        // The files of the tree and their hashes have the same order.
        let content_of = |_: &Sha256Digest| {
            known.next().map(|(hashed, file)| Content {
                size: file.stamp.size,
                crc32: hashed.crc32,
            })
        };
        let catalogue = Catalogue::publish(pack.clone(), 0, tree, content_of)?;
        Ok(Self {
            catalogue: Arc::new(catalogue),
            forms,
            files: files.into(),
        })
    }

    pub(super) fn tree(&self) -> &archive::Tree {
        self.catalogue.tree()
    }

    /// Returns an archive of the missing contents that the directory has; none if it has none of
    /// them.
    pub(super) fn archive(&self, missing: &[Sha256Digest]) -> Option<ContentArchive> {
        let tree = self.tree();
        let firsts: HashSet<u32> = missing
            .iter()
            .filter_map(|sha256| tree.positions_with(sha256).first().copied())
            .collect();
        if firsts.is_empty() {
            return None;
        }
        let need = Need::from_positions(firsts.iter().copied(), tree.len())
            .expect("positions of this tree");
        let plan = Plan::new(
            Arc::clone(&self.catalogue),
            Arc::clone(&self.forms),
            None,
            need,
        );
        let plan = plan.expect("all parts are of this catalogue");
        let layout = Layout::new(ArchiveFormat::Zip, plan);
        Some(ContentArchive {
            identity: Identity {
                size: layout.len(),
                mark: layout.tag().to_string(),
            },
            layout,
            files: Arc::clone(&self.files),
        })
    }
}

/// Zip of some of the contents.
pub(super) struct ContentArchive {
    layout: Layout,
    identity: Identity,
    files: Arc<[Found]>,
}

impl ContentArchive {
    /// Returns the number of contents.
    pub(super) fn len(&self) -> u32 {
        self.layout.plan().need().len()
    }

    /// Returns the size of the contents, in bytes.
    pub(super) fn content_size(&self) -> u64 {
        let plan = self.layout.plan();
        plan.target().tree().size_of(plan.need().positions())
    }
}

impl Source for ContentArchive {
    fn name(&self) -> String {
        format!("{}.zip", self.layout.plan().target().pack())
    }

    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn check_unchanged(&self) -> Result<(), transfer::Error> {
        let changed = |path: &PathBuf| transfer::Error::FileChanged { path: path.clone() };
        for position in self.layout.plan().need().positions() {
            let file = &self.files[position as usize];
            let metadata = std::fs::metadata(&file.path).map_err(|_| changed(&file.path))?;
            if Stamp::of(&metadata) != file.stamp {
                return Err(changed(&file.path));
            }
        }
        Ok(())
    }

    fn read(&self, range: Range<u64>, piece: usize) -> BoxStream<'static, io::Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(READ_AHEAD);
        let (layout, files) = (self.layout.clone(), Arc::clone(&self.files));
        tokio::task::spawn_blocking(move || {
            let mut pieces = Pieces {
                sender,
                gathered: Vec::with_capacity(piece),
                piece,
            };
            let read = read_all(&layout, &files, range, &mut pieces);
            pieces.end(read);
        });
        stream::unfold(receiver, |mut receiver| async {
            let piece = receiver.recv().await?;
            Some((piece, receiver))
        })
        .boxed()
    }
}

/// Buffer that joins small parts of the archive to pieces of a useful size.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    gathered: Vec<u8>,
    piece: usize,
}

/// Error for a receiver that is gone.
struct Unwanted;

impl Pieces {
    /// Returns the room for further bytes, at least one.
    fn room(&mut self) -> Result<usize, Unwanted> {
        if self.gathered.len() >= self.piece {
            self.send()?;
        }
        Ok(self.piece - self.gathered.len())
    }

    fn send(&mut self) -> Result<(), Unwanted> {
        let gathered = std::mem::replace(&mut self.gathered, Vec::with_capacity(self.piece));
        self.sender
            .blocking_send(Ok(gathered.into()))
            .map_err(|_| Unwanted)
    }

    fn end(mut self, read: Result<io::Result<()>, Unwanted>) {
        match read {
            // The upload detects missing bytes by their number.
            Err(Unwanted) => {}
            Ok(Ok(())) if self.gathered.is_empty() => {}
            Ok(Ok(())) => drop(self.send()),
            Ok(Err(error)) => drop(self.sender.blocking_send(Err(error))),
        }
    }
}

fn read_all(
    layout: &Layout,
    files: &[Found],
    range: Range<u64>,
    pieces: &mut Pieces,
) -> Result<io::Result<()>, Unwanted> {
    for segment in layout.slice(range) {
        match segment {
            Segment::Literal(bytes) => {
                let mut bytes = &bytes[..];
                while !bytes.is_empty() {
                    let (now, later) = bytes.split_at(pieces.room()?.min(bytes.len()));
                    pieces.gathered.extend_from_slice(now);
                    bytes = later;
                }
            }
            Segment::Blob(slice) => {
                let file = &files[slice.position as usize];
                if let Err(error) = read_file(file, slice.range, pieces)? {
                    return Ok(Err(error));
                }
            }
        }
    }
    Ok(Ok(()))
}

fn read_file(
    found: &Found,
    range: Range<u64>,
    pieces: &mut Pieces,
) -> Result<io::Result<()>, Unwanted> {
    let changed = || io::Error::other(format!("{} changed", found.path.display()));
    let mut file = match found.open() {
        Ok(file) => file,
        Err(error) => return Ok(Err(io::Error::other(error))),
    };
    if let Err(error) = file.seek(io::SeekFrom::Start(range.start)) {
        return Ok(Err(error));
    }
    let mut left = range.end - range.start;
    while left > 0 {
        let next = left.min(pieces.room()? as u64);
        match (&mut file).take(next).read_to_end(&mut pieces.gathered) {
            Ok(0) => return Ok(Err(changed())),
            Ok(read) => left -= read as u64,
            Err(error) => return Ok(Err(error)),
        }
    }
    match file.metadata() {
        Ok(metadata) if Stamp::of(&metadata) == found.stamp => Ok(Ok(())),
        Ok(_) => Ok(Err(changed())),
        Err(error) => Ok(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use archive::{UnpackEvent, UnpackLimits, Unpacker};
    use futures::TryStreamExt as _;

    use super::super::scan::{Ignored, Listing};
    use super::super::work::Work;
    use super::*;

    fn contents(directory: &std::path::Path) -> Contents {
        let listing = Listing::of(directory, &Ignored::default()).unwrap();
        let scan = listing.hash(&Work::default()).unwrap();
        Contents::new(&PackName::parse("maps").unwrap(), scan).unwrap()
    }

    async fn read(
        archive: &ContentArchive,
        range: Range<u64>,
        piece: usize,
    ) -> io::Result<Vec<u8>> {
        let pieces: Vec<Bytes> = archive.read(range, piece).try_collect().await?;
        assert!(
            pieces
                .iter()
                .all(|bytes| bytes.len() <= piece && !bytes.is_empty())
        );
        Ok(pieces.concat())
    }

    fn unpack(bytes: Vec<u8>) -> Vec<(String, Vec<u8>)> {
        let mut unpacker = Unpacker::new(UnpackLimits::default());
        unpacker.feed(bytes.into());
        unpacker.finish();
        let mut files = Vec::new();
        loop {
            match unpacker.next_event().unwrap().unwrap() {
                UnpackEvent::Entry { path, .. } => {
                    files.push((path.as_str().to_owned(), Vec::new()))
                }
                UnpackEvent::Data(bytes) => files.last_mut().unwrap().1.extend_from_slice(&bytes),
                UnpackEvent::EndOfEntry { .. }
                | UnpackEvent::Executable { .. }
                | UnpackEvent::Pause => {}
                UnpackEvent::Copy { .. } => unreachable!("the archive has no links"),
                UnpackEvent::End => return files,
            }
        }
    }

    #[tokio::test]
    async fn each_missing_content_is_there_once_and_any_range_can_be_read() {
        let directory = tempfile::tempdir().unwrap();
        let big: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for (name, content) in [
            ("a", &b"held"[..]),
            ("b", b"lost"),
            ("c", &big),
            ("d", b"lost"),
            ("e", b""),
        ] {
            std::fs::write(directory.path().join(name), content).unwrap();
        }
        let contents = contents(directory.path());
        let missing = [&b"lost"[..], &big, b"", b"of nobody"].map(Sha256Digest::of);
        let archive = contents.archive(&missing).unwrap();
        assert_eq!(archive.len(), 3);
        let whole = read(&archive, 0..archive.identity().size, 1000)
            .await
            .unwrap();
        assert_eq!(whole.len() as u64, archive.identity().size);
        assert_eq!(
            unpack(whole.clone()),
            [
                ("b".to_owned(), b"lost".to_vec()),
                ("c".to_owned(), big),
                ("e".to_owned(), vec![])
            ]
        );
        for start in (0..archive.identity().size).step_by(37_813) {
            let end = (start + 50_001).min(archive.identity().size);
            let part = read(&archive, start..end, 4096).await.unwrap();
            let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
            assert_eq!(part, whole[range], "{start}..{end}");
        }
        assert!(contents.archive(&missing[3..]).is_none());
    }

    #[tokio::test]
    async fn a_file_that_changes_is_never_sent_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "before").unwrap();
        let contents = contents(directory.path());
        let archive = contents.archive(&[Sha256Digest::of(b"before")]).unwrap();
        archive.check_unchanged().unwrap();
        std::fs::write(directory.path().join("a"), "longer than before").unwrap();
        let error = read(&archive, 0..archive.identity().size, 1000)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("changed"), "{error}");
        let error = archive.check_unchanged().unwrap_err();
        assert!(
            matches!(error, transfer::Error::FileChanged { .. }),
            "{error}"
        );
    }
}
