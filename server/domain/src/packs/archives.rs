//! Archives of versions: their bytes, and how these are read from the blobs that hold the contents.

mod reading;
#[cfg(test)]
pub(in crate::packs) mod testing;
#[cfg(test)]
mod tests;
mod windows;

use std::ops::Range;
use std::sync::Arc;

use archive::{ArchiveFormat, Layout, Need, Plan, PlanError};
use async_trait::async_trait;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use self::reading::Reading;
use super::Library;
use super::versions::{Capped, Version, Versions, capped_cache};
use crate::blob_store::{BlobError, BlobStream, Link, LinkFields};
use crate::digest::Sha256Digest;
use crate::error::PackError;
use crate::pack::Place;
use crate::{Blob, BlobStore, Error};

/// The choice of the entries that an archive holds, and of its receiver.
#[derive(Debug, Clone)]
pub(super) enum Choice {
    /// All entries, for a receiver that holds nothing.
    Whole,
    /// Entries that a holder of this version lacks.
    Since(Arc<Version>),
    /// Entries of a need, for a receiver whose holdings are unknown.
    Need(Need),
}

/// Cache of layouts. A layout stays at most as long as its versions are cached.
#[derive(Debug)]
pub(super) struct Layouts(Cache<LayoutKey, Layout, Capped<LayoutMemory>>);

/// Everything that determines a layout.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct LayoutKey {
    format: ArchiveFormat,
    catalogue: Sha256Digest,
    forms: Sha256Digest,
    choice: ChoiceKey,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum ChoiceKey {
    Whole,
    /// Digest of the base's catalogue.
    Since(Sha256Digest),
    /// Digest of the need's encoding.
    Need(Sha256Digest),
}

impl Layouts {
    /// Creates a cache of about `memory` bytes, which holds one layout in any case.
    pub(super) fn new(memory: u64) -> Self {
        Self(capped_cache(memory, LayoutMemory))
    }

    /// Drops the layouts of versions that are not cached. They would keep catalogues in memory that
    /// are counted nowhere.
    pub(super) fn drop_all_but(&self, versions: &Versions) {
        self.0.retain(|_, layout| {
            let plan = layout.plan();
            versions.keep(plan.target()) && plan.base().is_none_or(|base| versions.keep(base))
        });
    }
}

impl LayoutKey {
    fn new(target: &Version, choice: &Choice, format: ArchiveFormat) -> Self {
        Self {
            format,
            catalogue: target.catalogue.digest(),
            forms: target.forms.digest(),
            choice: match choice {
                Choice::Whole => ChoiceKey::Whole,
                Choice::Since(base) => ChoiceKey::Since(base.catalogue.digest()),
                Choice::Need(need) => ChoiceKey::Need(Sha256Digest::of(&need.encode())),
            },
        }
    }
}

/// Weighs layouts by their size in memory, without their catalogues.
#[derive(Debug, Clone)]
struct LayoutMemory;

impl Weighter<LayoutKey, Layout> for LayoutMemory {
    fn weight(&self, _: &LayoutKey, layout: &Layout) -> u64 {
        (size_of::<(LayoutKey, Layout)>() + layout.memory()) as u64
    }
}

impl Library {
    /// Returns the layout of an archive. One request creates it for all that wait.
    ///
    /// # Errors
    /// [`PackError::Need`] if the need belongs to another version.
    ///
    /// # Cancel safety
    /// May be dropped anywhere; another waiting request then creates the layout.
    pub(super) async fn layout(
        &self,
        target: &Arc<Version>,
        choice: &Choice,
        format: ArchiveFormat,
    ) -> Result<Layout, Error> {
        let key = LayoutKey::new(target, choice, format);
        let make = async {
            let (target, choice) = (Arc::clone(target), choice.clone());
            if entries(&target, &choice) <= FEW_ENTRIES {
                return lay_out(&target, choice, format);
            }
            let _turn = self.versions.turn().await;
            let work = move || lay_out(&target, choice, format);
            let made = tokio::task::spawn_blocking(work).await;
            made.expect("laying out does not panic")
        };
        self.layouts.0.get_or_insert_async(&key, make).await
    }

    /// Returns the archive of `layout`, which must belong to `version`.
    pub(super) fn virtual_archive(&self, version: Arc<Version>, layout: Layout) -> Arc<dyn Blob> {
        Arc::new(VirtualArchive {
            blobs: Arc::clone(&self.blobs),
            version,
            layout,
        })
    }

    /// Opens one content, `size` bytes beginning at a place, as a blob of its own.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the content does not lie within its blob, or a store's error.
    pub(super) async fn open_slice(
        &self,
        place: &Place,
        size: u64,
    ) -> Result<Arc<dyn Blob>, Error> {
        let within = place
            .blob_size
            .checked_sub(place.start)
            .is_some_and(|room| size <= room);
        if !within {
            return Err(Error::Corrupt {
                what: format!("the place of a content in blob {}", place.blob),
            });
        }
        let blob = self
            .blobs
            .open(&place.blob, place.blob_size)
            .await
            .map_err(Error::blob("open a blob"))?;
        if size == place.blob_size {
            return Ok(blob);
        }
        let start = place.start;
        Ok(Arc::new(Slice { blob, start, size }))
    }
}

/// Maximum number of entries that are laid out in the request's own task, which takes a tenth of a
/// millisecond.
const FEW_ENTRIES: u64 = 4096;

/// Returns the number of entries that laying out an archive visits.
fn entries(target: &Version, choice: &Choice) -> u64 {
    let base = match choice {
        Choice::Since(base) => base.catalogue.tree().len(),
        Choice::Whole | Choice::Need(_) => 0,
    };
    u64::from(target.catalogue.tree().len()) + u64::from(base)
}

fn lay_out(target: &Version, choice: Choice, format: ArchiveFormat) -> Result<Layout, Error> {
    let (catalogue, forms) = (Arc::clone(&target.catalogue), Arc::clone(&target.forms));
    let plan = match choice {
        Choice::Whole => Plan::whole(catalogue, forms),
        Choice::Since(base) => Plan::since(Arc::clone(&base.catalogue), catalogue, forms),
        Choice::Need(need) => Plan::new(catalogue, forms, None, need),
    };
    let plan = plan.map_err(|PlanError| PackError::Need)?;
    Ok(Layout::new(format, plan))
}

/// An archive that is generated while it is read.
#[derive(Debug)]
struct VirtualArchive {
    blobs: Arc<dyn BlobStore>,
    version: Arc<Version>,
    layout: Layout,
}

#[async_trait]
impl Blob for VirtualArchive {
    fn size(&self) -> u64 {
        self.layout.len()
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        Reading::new(
            Arc::clone(&self.blobs),
            Arc::clone(&self.version),
            self.layout.slice(range),
        )
        .stream()
    }

    async fn link(&self, _: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        Ok(None)
    }
}

/// A range of another blob.
#[derive(Debug)]
struct Slice {
    blob: Arc<dyn Blob>,
    start: u64,
    size: u64,
}

#[async_trait]
impl Blob for Slice {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, range: Range<u64>) -> BlobStream {
        self.blob
            .read(self.start + range.start..self.start + range.end)
    }

    async fn link(&self, _: LinkFields<'_>) -> Result<Option<Link>, BlobError> {
        Ok(None)
    }
}
