//! Reading of packs: lists, catalogues, signatures, files, archives and comparisons.

use std::io::Read;
use std::sync::Arc;

use archive::{
    ArchiveFormat, Diff, Holdings, Layout, Need, NeedName, PackName, UnknownException, lacking,
    lacking_digests, lacking_except,
};
use budget::Held;
use ed25519_dalek::Signer as _;
use protocol::coding::Coding;

use super::archives::Choice;
use super::documents::{Beginning, DocumentBody, beginning};
use super::versions::Version;
use super::{Packs, Shared};
use crate::access::Action;
use crate::digest::Sha256Digest;
use crate::error::PackError;
use crate::file::Content;
use crate::pack::{PackSummary, PackVersion};
use crate::{Authorized, Blob, Error, Timestamp};

/// The choice of the entries that an archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All entries.
    Whole,
    /// Entries that a holder of this version lacks.
    Since(u64),
    /// Entries of a need, as a URL names it.
    Need(String),
}

/// A virtual archive: its bytes are determined, but stored nowhere.
#[derive(Debug, Clone)]
pub struct Archive {
    version: Arc<Version>,
    layout: Layout,
}

impl Archive {
    /// Returns the version whose entries the archive holds.
    pub fn version(&self) -> &PackVersion {
        &self.version.record
    }

    /// Returns the layout: bytes, entity tag, plan and diff.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns true if a receiver has nothing to do, since the trees are the same.
    pub fn changes_nothing(&self) -> bool {
        self.layout.plan().need().is_empty() && self.layout.diff().is_empty()
    }
}

/// One file of a version.
#[derive(Debug, Clone)]
pub struct PackFile {
    /// Path of the file.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Digest of the content.
    pub sha256: Sha256Digest,
    /// Time when the version was published.
    pub published_at: Timestamp,
    /// Content of the file.
    pub blob: Arc<dyn Blob>,
}

/// An Ed25519 signature (RFC 8032) of a catalogue's canonical bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Authorized<Packs> {
    /// Lists up to `limit` packs in the byte order of their names, beginning after `after`.
    ///
    /// # Errors
    /// [`Error::Forbidden`] or a store's error.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<PackSummary>, Error> {
        self.principal.check(Action::List)?;
        self.service
            .shared
            .facts
            .packs(after, limit)
            .await
            .map_err(Error::metadata("list packs"))
    }

    /// Returns a pack, and up to `limit` of its versions below `before`, newest first.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] or a store's error.
    pub async fn pack(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<(PackSummary, Vec<PackVersion>), Error> {
        self.principal.check(Action::ReadPack(pack))?;
        let facts = &self.service.shared.facts;
        let summary = facts
            .pack(pack)
            .await
            .map_err(Error::metadata("read a pack"))?
            .ok_or(Error::NotFound { what: "pack" })?;
        let versions = facts
            .versions(pack, before, limit)
            .await
            .map_err(Error::metadata("list versions"))?;
        Ok((summary, versions))
    }

    /// Returns a version; the newest if no number is given.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] or a store's error.
    pub async fn version(
        &self,
        pack: &PackName,
        number: Option<u64>,
    ) -> Result<PackVersion, Error> {
        self.principal.check(Action::ReadPack(pack))?;
        self.service.shared.version(pack, number).await
    }

    /// Opens the catalogue of a version in a content coding.
    ///
    /// # Errors
    /// [`Error::Forbidden`] or a store's error.
    pub async fn open_catalogue(
        &self,
        version: &PackVersion,
        coding: Coding,
    ) -> Result<Arc<dyn Blob>, Error> {
        self.principal.check(Action::ReadPack(&version.pack))?;
        let content = version.coded(coding);
        self.service
            .shared
            .blobs
            .open(&content.blob, content.size)
            .await
            .map_err(Error::blob("open a blob"))
    }

    /// Signs the catalogue of a version; `None` if the server has no key. The same key gives the
    /// same signature.
    ///
    /// # Errors
    /// [`Error::Forbidden`] or a store's error.
    pub async fn signature(&self, version: &PackVersion) -> Result<Option<Signature>, Error> {
        self.principal.check(Action::ReadPack(&version.pack))?;
        let shared = &self.service.shared;
        let Some(key) = shared.signing_key.clone() else {
            return Ok(None);
        };
        let content = &version.catalogue;
        let signature = shared
            .library
            .read_document(content, move |reader| {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map_err(|_| Error::Corrupt {
                    what: "a catalogue".to_owned(),
                })?;
                Ok(Signature(key.sign(&bytes).to_bytes()))
            })
            .await?;
        Ok(Some(signature))
    }

    /// Returns the key that verifies signatures, 32 bytes; `None` if the server does not sign.
    pub fn verifying_key(&self) -> Option<[u8; 32]> {
        let key = self.service.shared.signing_key.as_ref()?;
        Some(key.verifying_key().to_bytes())
    }

    /// Opens one file of a version.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] or a store's error.
    pub async fn file(
        &self,
        pack: &PackName,
        number: Option<u64>,
        path: &str,
    ) -> Result<PackFile, Error> {
        self.principal.check(Action::ReadPack(pack))?;
        let shared = &self.service.shared;
        let version = shared
            .library
            .load(shared.version(pack, number).await?)
            .await?;
        let tree = version.catalogue.tree();
        let position = tree
            .position(path)
            .ok_or(Error::NotFound { what: "file" })?;
        let entry = tree.entry(position);
        let blob = shared
            .library
            .open_slice(&version.places.raw(position), entry.size)
            .await?;
        Ok(PackFile {
            path: entry.path.to_owned(),
            size: entry.size,
            sha256: entry.sha256,
            published_at: version.record.published_at,
            blob,
        })
    }

    /// Returns an archive of entries of a version.
    ///
    /// # Errors
    /// [`Error::NotFound`] if a version does not exist, [`PackError::Need`], [`Error::Forbidden`]
    /// or a store's error.
    pub async fn archive(
        &self,
        pack: &PackName,
        number: Option<u64>,
        selection: &Selection,
        format: ArchiveFormat,
    ) -> Result<Archive, Error> {
        self.principal.check(Action::ReadPack(pack))?;
        let shared = &self.service.shared;
        let target = async {
            shared
                .library
                .load(shared.version(pack, number).await?)
                .await
        };
        let (version, choice) = match selection {
            Selection::Whole => (target.await?, Choice::Whole),
            Selection::Since(base) => {
                let base = async {
                    shared
                        .library
                        .load(shared.version(pack, Some(*base)).await?)
                        .await
                };
                let (target, base) = tokio::try_join!(target, base)?;
                (target, Choice::Since(base))
            }
            Selection::Need(name) => {
                let target = target.await?;
                let need = shared.need(&target, name).await?;
                (target, Choice::Need(need))
            }
        };
        shared.archive(version, &choice, format).await
    }

    /// Opens an archive for reading.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn open_archive(&self, archive: &Archive) -> Result<Arc<dyn Blob>, Error> {
        self.principal
            .check(Action::ReadPack(&archive.version.record.pack))?;
        let Archive { version, layout } = archive.clone();
        Ok(self.service.shared.library.virtual_archive(version, layout))
    }

    /// Compares a version with the holdings of a client, in the format of [`archive::Holdings`].
    /// Returns the need, as URLs name it: the entries whose contents the client lacks. Returns
    /// `None` if the client has the same tree, with its paths and permissions, and so nothing to
    /// do.
    ///
    /// The need is empty if the client lacks no content, but has to rename, copy or remove files.
    /// Digests alone do not show whether it has to, so the answer to them is never `None`. A need
    /// that is too long for a URL is registered, so that the same question yields the same name.
    ///
    /// # Errors
    /// [`PackError::Document`], [`PackError::DocumentTooLarge`], [`PackError::UnknownException`],
    /// [`Error::NotFound`], a fault of the body, [`Error::Forbidden`] or a store's error.
    pub async fn compare(
        &self,
        pack: &PackName,
        number: Option<u64>,
        holdings: DocumentBody,
    ) -> Result<Option<NeedName>, Error> {
        self.principal.check(Action::ReadPack(pack))?;
        let shared = &self.service.shared;
        let version = shared
            .library
            .load(shared.version(pack, number).await?)
            .await?;
        let (holdings, _memory) = shared.read_holdings(holdings).await?;
        let base = match &holdings {
            Holdings::Version { version, .. } => {
                let base = shared.version(pack, Some(*version)).await?;
                Some(shared.library.load(base).await?)
            }
            Holdings::Tree(_) | Holdings::Digests(_) => None,
        };
        let target = Arc::clone(&version);
        let compared = tokio::task::spawn_blocking(move || lacking_of(&target, base, &holdings))
            .await
            .expect("comparing does not panic")?;
        let Some(need) = compared else {
            return Ok(None);
        };
        let name = need.name();
        if let NeedName::Registered(sha256) = &name {
            shared.register(&version, sha256, &need).await?;
        }
        Ok(Some(name))
    }
}

/// Maximum size in bytes of a document that is read without being stored.
const FEW_BYTES: usize = 256 * 1024;

/// Returns the need of a client with these holdings; `None` if it has nothing to do.
fn lacking_of(
    target: &Version,
    base: Option<Arc<Version>>,
    holdings: &Holdings,
) -> Result<Option<Need>, PackError> {
    let tree = target.catalogue.tree();
    let (need, held) = match (holdings, &base) {
        (Holdings::Tree(held), _) => (lacking(tree, held), held),
        (Holdings::Digests(held), _) => return Ok(Some(lacking_digests(tree, held))),
        (Holdings::Version { except, .. }, Some(base)) => {
            let held = base.catalogue.tree();
            let need =
                lacking_except(tree, held, except).map_err(|UnknownException { path }| {
                    PackError::UnknownException {
                        path,
                        base: base.record.number,
                        version: target.record.number,
                    }
                })?;
            (need, held)
        }
        (Holdings::Version { .. }, None) => return Ok(Some(Need::all(tree.len()))),
    };
    let is_same = need.is_empty() && Diff::new(tree, Some(held), &need).is_empty();
    Ok((!is_same).then_some(need))
}

impl PackVersion {
    /// Returns the catalogue in a content coding.
    pub fn coded(&self, coding: Coding) -> &Content {
        match coding {
            Coding::Identity => &self.catalogue,
            Coding::Gzip => &self.catalogue_gzip,
            Coding::Zstd => &self.catalogue_zstd,
        }
    }
}

impl Shared {
    /// Reads the holdings of a client. Long documents are stored first, so that the memory for them
    /// is known before it is taken, and no slow client holds it.
    async fn read_holdings(&self, body: DocumentBody) -> Result<(Holdings, Option<Held>), Error> {
        let limits = self.config.tree_limits();
        let read = move |reader: &mut dyn Read| {
            Holdings::read_json(reader, limits)
                .map_err(|error| PackError::Document(crate::error::chain(&error)).into())
        };
        let body = match beginning(body, FEW_BYTES).await? {
            Beginning::Whole(bytes) => {
                let limit = self.config.max_document.as_u64();
                if bytes.len() as u64 > limit {
                    return Err(PackError::DocumentTooLarge { limit }.into());
                }
                let read = tokio::task::spawn_blocking(move || read(&mut &*bytes)).await;
                return Ok((read.expect("reading holdings does not panic")?, None));
            }
            Beginning::Part(body) => body,
        };
        let document = self.keep_document(body).await?;
        let memory = self.turns.for_document(document.size).await;
        let holdings = self.library.read_document(&document, read).await;
        self.delete(&document.blob).await;
        Ok((holdings?, memory))
    }

    pub(super) async fn version(
        &self,
        pack: &PackName,
        number: Option<u64>,
    ) -> Result<PackVersion, Error> {
        self.facts
            .version(pack, number)
            .await
            .map_err(Error::metadata("read a version"))?
            .ok_or(Error::NotFound { what: "version" })
    }

    async fn archive(
        &self,
        version: Arc<Version>,
        choice: &Choice,
        format: ArchiveFormat,
    ) -> Result<Archive, Error> {
        let layout = self.library.layout(&version, choice, format).await?;
        Ok(Archive { version, layout })
    }

    async fn need(&self, version: &Version, name: &str) -> Result<Need, Error> {
        let entries = version.catalogue.tree().len();
        let sha256 = match name.parse() {
            Ok(NeedName::Registered(sha256)) => sha256,
            Ok(NeedName::Inline(_)) => {
                return Need::parse(name, entries).map_err(|_| PackError::Need.into());
            }
            Err(_) => return Err(PackError::Need.into()),
        };
        let record = &version.record;
        let encoded = self
            .facts
            .need(&record.pack, record.number, &sha256)
            .await
            .map_err(Error::metadata("read a need"))?
            .ok_or(PackError::Need)?;
        Need::decode(&encoded, entries).map_err(|_| Error::Corrupt {
            what: "a registered need".to_owned(),
        })
    }

    async fn register(
        &self,
        version: &Version,
        sha256: &Sha256Digest,
        need: &Need,
    ) -> Result<(), Error> {
        let record = &version.record;
        let expires_at = self.clock.now().plus(self.config.need_lifetime);
        let registered = self
            .facts
            .register_need(
                &record.pack,
                record.number,
                sha256,
                &need.encode(),
                expires_at,
            )
            .await
            .map_err(Error::metadata("register a need"))?;
        match registered {
            true => Ok(()),
            false => Err(Error::NotFound { what: "version" }),
        }
    }
}
