//! Publishing drafts as versions, and retiring versions.

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::sync::Arc;

use archive::{Catalogue, CatalogueError, Draft, Form, Forms, PackName, Tree};
use bytes::Bytes;
use protocol::conditional::EntityTag;

use super::places::Places;
use super::{Packs, Shared, look_up};
use crate::access::Action;
use crate::blob_store::BlobStream;
use crate::digest::Sha256Digest;
use crate::error::PackError;
use crate::file::{Content, WriteCondition};
use crate::ingest::Stops;
use crate::pack::{DraftRecord, PackVersion, StoredContent};
use crate::pack_store::Published;
use crate::{Authorized, BlobKey, DraftId, Error};

/// Maximum number of attempts to publish. An attempt fails if, meanwhile, the pack gets another
/// version or a needed blob is deleted.
const ATTEMPTS: usize = 20;

/// Level of gzip for catalogues, which are compressed once and sent often.
const GZIP_LEVEL: u32 = 9;
/// Level of zstd for catalogues. Level 19 takes ten times as long and saves a twentieth.
const ZSTD_LEVEL: i32 = 12;

impl Authorized<Packs> {
    /// Publishes a draft as the next version of its pack, if `condition` holds for the newest
    /// version ([`PackVersion::state`]). A draft that is published already keeps its version.
    /// Returns the version, and true if this call published it.
    ///
    /// # Errors
    /// [`PackError::Missing`], [`PackError::Outdated`], [`PackError::WrongSize`],
    /// [`PackError::NoFiles`], [`Error::PreconditionFailed`], [`Error::NotFound`],
    /// [`Error::Forbidden`] or a store's error.
    ///
    /// # Cancel safety
    /// When dropped, the draft is either published or not.
    pub async fn publish(
        &self,
        pack: &PackName,
        id: &DraftId,
        condition: &WriteCondition,
    ) -> Result<(PackVersion, bool), Error> {
        self.principal.check(Action::PublishPack(pack))?;
        let publisher = Publisher {
            owner: self.principal.name(),
            condition,
        };
        self.service.shared.publish(pack, id, publisher).await
    }

    /// Retires a version. Downloads that are under way can go on for a while.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] or a store's error.
    pub async fn retire(&self, pack: &PackName, number: u64) -> Result<(), Error> {
        self.principal.check(Action::PublishPack(pack))?;
        let shared = &self.service.shared;
        let retired = shared
            .facts
            .retire_version(pack, number, shared.clock.now())
            .await
            .map_err(Error::metadata("retire a version"))?;
        match retired {
            true => Ok(()),
            false => Err(Error::NotFound { what: "version" }),
        }
    }
}

/// The owner of a new version, and the precondition for publishing it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publisher<'a> {
    pub(crate) owner: Option<&'a str>,
    /// Precondition on the pack's newest version.
    pub(crate) condition: &'a WriteCondition,
}

impl PackVersion {
    /// Returns the state of a pack whose newest version is this one. Entity tags carry the state:
    /// each tag of a representation of the version, or of a pack whose newest version it is,
    /// consists of the state, alone or followed by a dot and more.
    pub fn state(&self) -> Sha256Digest {
        self.catalogue.sha256
    }

    fn is_named_by(&self, tag: &EntityTag) -> bool {
        let (state, _) = tag.opaque().split_once('.').unwrap_or((tag.opaque(), ""));
        state.parse() == Ok(self.state())
    }
}

impl Shared {
    async fn publish(
        &self,
        pack: &PackName,
        id: &DraftId,
        publisher: Publisher<'_>,
    ) -> Result<(PackVersion, bool), Error> {
        let record = self.existing_draft(pack, id).await?;
        if let Some(number) = record.published {
            return Ok((self.version(pack, Some(number)).await?, false));
        }
        let Some(document) = &record.tree else {
            return Err(PackError::Missing {
                missing: Box::default(),
            }
            .into());
        };
        let _memory = self.turns.for_document(document.size).await;
        let draft = self.read_draft(document).await?;
        let never = Stops::never();
        self.publish_draft(&record, &draft, publisher, &never).await
    }

    /// Fails unless `condition` holds for the newest version of a pack.
    pub(crate) async fn check_newest(
        &self,
        pack: &PackName,
        condition: &WriteCondition,
    ) -> Result<(), Error> {
        if *condition == WriteCondition::default() {
            return Ok(());
        }
        let newest = self.newest(pack).await?;
        let names = newest
            .as_ref()
            .map(|newest| |tag: &EntityTag| newest.is_named_by(tag));
        match condition.holds_of(names) {
            true => Ok(()),
            false => Err(Error::PreconditionFailed),
        }
    }

    async fn newest(&self, pack: &PackName) -> Result<Option<PackVersion>, Error> {
        let newest = self.facts.version(pack, None).await;
        newest.map_err(Error::metadata("read a version"))
    }

    /// Unpacks an archive into a draft.
    pub(crate) async fn fill(
        &self,
        pack: &PackName,
        id: &DraftId,
        archive: BlobStream,
        stops: &Stops,
    ) -> Result<(), Error> {
        let mut turn = self.turns.take(stops).await?;
        let record = self.open_draft(pack, id).await?;
        let unpacked = self.unpack(&record, archive, &mut turn, stops).await;
        unpacked.map(drop)
    }

    /// Publishes the tree of an archive as the draft `id`, which is created if it does not exist.
    /// Returns the version's number. A draft that is published already keeps its version.
    pub(crate) async fn publish_archive(
        &self,
        pack: &PackName,
        id: DraftId,
        publisher: Publisher<'_>,
        archive: BlobStream,
        stops: &Stops,
    ) -> Result<u64, Error> {
        let mut turn = self.turns.take(stops).await?;
        let known = self.facts.draft(&id).await;
        let record = match known.map_err(Error::metadata("read a draft"))? {
            Some(record) => record,
            None => {
                let record = DraftRecord {
                    id,
                    ..self.new_draft(pack.clone(), None)
                };
                let inserted = self.facts.insert_draft(&record).await;
                inserted.map_err(Error::metadata("record a draft"))?;
                record
            }
        };
        if let Some(number) = record.published {
            return Ok(number);
        }
        let published = async {
            let tree = self.unpack(&record, archive, &mut turn, stops).await?;
            let tree = tree.ok_or_else(|| Error::Corrupt {
                what: "a draft".to_owned(),
            })?;
            let draft = Draft { tree, base: None };
            self.publish_draft(&record, &draft, publisher, stops).await
        };
        let published = published.await;
        if matches!(
            published,
            Err(Error::Pack(_) | Error::PreconditionFailed | Error::ClientGone)
        ) {
            // No retry will ask for this draft.
            let forgotten = self.facts.forget_draft(&id, self.clock.now()).await;
            forgotten.map_err(Error::metadata("forget a draft"))?;
        }
        published.map(|(version, _)| version.number)
    }

    /// Publishes the tree of a draft, and tries again if other versions are published meanwhile.
    async fn publish_draft(
        &self,
        record: &DraftRecord,
        draft: &Draft,
        publisher: Publisher<'_>,
        stops: &Stops,
    ) -> Result<(PackVersion, bool), Error> {
        if draft.tree.is_empty() {
            return Err(PackError::NoFiles.into());
        }
        for _ in 0..ATTEMPTS {
            stops.check()?;
            // Read the number before the condition is checked: a version that is published in
            // between takes the number.
            let number = self
                .facts
                .next_version(&record.pack)
                .await
                .map_err(Error::metadata("read a pack"))?;
            self.check_newest(&record.pack, publisher.condition).await?;
            if let Some(base) = draft.base {
                self.check_base(&record.pack, base).await?;
            }
            let attempt = self.try_publish(record, draft, number, publisher.owner, stops);
            if let Some(published) = attempt.await? {
                return Ok(published);
            }
        }
        Err(Error::Busy)
    }

    async fn check_base(&self, pack: &PackName, base: u64) -> Result<(), Error> {
        let latest = self.newest(pack).await?.map(|version| version.number);
        match latest {
            Some(latest) if latest == base => Ok(()),
            latest => Err(PackError::Outdated { base, latest }.into()),
        }
    }

    /// Publishes the draft under this number. Returns `None`, and changes nothing, if another
    /// version took the number or a needed blob is gone.
    async fn try_publish(
        &self,
        record: &DraftRecord,
        draft: &Draft,
        number: u64,
        owner: Option<&str>,
        stops: &Stops,
    ) -> Result<Option<(PackVersion, bool)>, Error> {
        let contents = self.contents_of(&record.id, draft).await?;
        let (pack, tree, stops) = (record.pack.clone(), draft.tree.clone(), stops.clone());
        let making = move || Documents::make(pack, number, tree, &contents, &stops);
        let documents = tokio::task::spawn_blocking(making)
            .await
            .expect("making a catalogue does not panic")?;
        let (files, size) = (documents.files, documents.size);
        let held = Arc::clone(&documents.held);
        let [catalogue, catalogue_gzip, catalogue_zstd, forms, places] =
            self.keep_documents(documents).await?;
        let version = PackVersion {
            pack: record.pack.clone(),
            number,
            files,
            size,
            catalogue,
            catalogue_gzip,
            catalogue_zstd,
            forms,
            places,
            published_at: self.clock.now(),
        };
        let kept_until = self.clock.now().plus(self.config.draft_lifetime);
        let event = self.outbox.version_published(&version, owner);
        let published = self
            .facts
            .publish_version(&record.id, &version, &held, kept_until, event.as_ref())
            .await
            .map_err(Error::metadata("publish a version"))?;
        match published {
            Published::Version(published) if published == number => {
                self.outbox.recorded();
                Ok(Some((version, true)))
            }
            Published::Version(earlier) => {
                self.drop_documents(&version).await;
                let version = self.version(&record.pack, Some(earlier)).await?;
                Ok(Some((version, false)))
            }
            Published::NextIs(_) | Published::BlobsGone => {
                self.drop_documents(&version).await;
                Ok(None)
            }
            Published::DraftGone => {
                self.drop_documents(&version).await;
                Err(Error::NotFound { what: "draft" })
            }
        }
    }

    /// Looks up all contents of a tree; fails if any is missing.
    async fn contents_of(
        &self,
        id: &DraftId,
        draft: &Draft,
    ) -> Result<HashMap<Sha256Digest, StoredContent>, Error> {
        let distinct: HashSet<Sha256Digest> =
            draft.tree.entries().map(|entry| entry.sha256).collect();
        let wanted = distinct.len();
        let distinct: Vec<Sha256Digest> = distinct.into_iter().collect();
        let contents: HashMap<_, _> = look_up(&*self.facts, &distinct)
            .await?
            .into_iter()
            .map(|content| (content.sha256, content))
            .collect();
        if contents.len() < wanted {
            let missing = Box::new(self.missing(id, draft).await?);
            return Err(PackError::Missing { missing }.into());
        }
        Ok(contents)
    }

    async fn keep_documents(&self, documents: Documents) -> Result<[Content; 5], Error> {
        Ok([
            self.keep([documents.catalogue]).await?,
            self.keep([documents.gzip]).await?,
            self.keep([documents.zstd]).await?,
            self.keep([documents.forms]).await?,
            self.keep([documents.places]).await?,
        ])
    }

    /// Deletes the documents of a version that was not published. The janitor finds those that
    /// stay.
    async fn drop_documents(&self, version: &PackVersion) {
        for content in [
            &version.catalogue,
            &version.catalogue_gzip,
            &version.catalogue_zstd,
            &version.forms,
            &version.places,
        ] {
            self.delete(&content.blob).await;
        }
    }
}

/// Encoded documents of a version.
struct Documents {
    files: u64,
    size: u64,
    catalogue: Bytes,
    gzip: Bytes,
    zstd: Bytes,
    forms: Bytes,
    places: Bytes,
    /// Blobs that hold the contents.
    held: Arc<[BlobKey]>,
}

impl Documents {
    fn make(
        pack: PackName,
        number: u64,
        tree: Tree,
        contents: &HashMap<Sha256Digest, StoredContent>,
        stops: &Stops,
    ) -> Result<Self, Error> {
        let content_of = |sha256: &Sha256Digest| {
            let content = contents.get(sha256)?;
            Some(archive::Content {
                size: content.size,
                crc32: content.crc32,
            })
        };
        let catalogue =
            Catalogue::publish(pack, number, tree, content_of).map_err(|error| match error {
                CatalogueError::WrongSize { path, actual, .. } => {
                    Error::from(PackError::WrongSize {
                        path: path.as_str().to_owned(),
                        size: actual,
                    })
                }
                CatalogueError::VersionTooLarge => Error::Full,
                CatalogueError::Json(_)
                | CatalogueError::OtherBytes { .. }
                | CatalogueError::UnknownContent { .. } => Error::Corrupt {
                    what: "a draft".to_owned(),
                },
            })?;
        let tree = catalogue.tree();
        let forms = Forms::new(tree, |sha256| match contents.get(sha256) {
            Some(StoredContent {
                deflated: Some((deflated, _)),
                ..
            }) => Form::Deflated(*deflated),
            _ => Form::Raw,
        })
        .map_err(|_| Error::Corrupt {
            what: "a stored content".to_owned(),
        })?;
        let places = Places::new(
            tree.entries()
                .filter_map(|entry| contents.get(&entry.sha256)),
        );
        let mut canonical =
            Vec::with_capacity(usize::try_from(catalogue.encoded_len()).unwrap_or(0));
        catalogue
            .encode()
            .for_each(|chunk| canonical.extend_from_slice(&chunk));
        Ok(Self {
            files: u64::from(tree.len()),
            size: tree.total_size(),
            gzip: gzip(&canonical, stops)?.into(),
            zstd: zstd(&canonical, stops)?.into(),
            catalogue: canonical.into(),
            forms: forms.encode().into(),
            places: places.encode().into(),
            held: places.blobs().cloned().collect(),
        })
    }
}

/// Compresses without a timestamp, so that equal catalogues give equal bytes.
fn gzip(bytes: &[u8], stops: &Stops) -> Result<Vec<u8>, Error> {
    let level = flate2::Compression::new(GZIP_LEVEL);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
    write_in_steps(&mut encoder, bytes, stops)?;
    Ok(encoder.finish().expect(IN_MEMORY))
}

fn zstd(bytes: &[u8], stops: &Stops) -> Result<Vec<u8>, Error> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), ZSTD_LEVEL).expect(IN_MEMORY);
    let size = Some(bytes.len() as u64);
    encoder.set_pledged_src_size(size).expect(IN_MEMORY);
    write_in_steps(&mut encoder, bytes, stops)?;
    Ok(encoder.finish().expect(IN_MEMORY))
}

/// Writes in steps, between which a stop is noticed: a catalogue of a million files takes many
/// seconds.
fn write_in_steps(to: &mut impl Write, bytes: &[u8], stops: &Stops) -> Result<(), Error> {
    for step in bytes.chunks(STEP) {
        stops.check()?;
        to.write_all(step).expect(IN_MEMORY);
    }
    Ok(())
}

/// Bytes that are compressed between two checks for a stop.
const STEP: usize = 1024 * 1024;

const IN_MEMORY: &str = "writing to memory does not fail";
