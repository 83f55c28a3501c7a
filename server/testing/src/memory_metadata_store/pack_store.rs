//! Packs in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use archive::PackName;
use async_trait::async_trait;

use super::{Facts, MemoryMetadataStore, failed, fits};
use domain::digest::Sha256Digest;
use domain::event::Event;
use domain::file::Content;
use domain::metadata_store::MetadataError;
use domain::pack::{DraftRecord, PackSummary, PackVersion, StoredContent};
use domain::pack_store::{MAX_LOOKED_UP, PackStore, Published};
use domain::{BlobKey, DraftId, Timestamp};

#[derive(Debug, Default)]
pub(super) struct PackFacts {
    packs: BTreeMap<PackName, Pack>,
    drafts: BTreeMap<DraftId, Draft>,
    contents: HashMap<Sha256Digest, StoredContent>,
}

/// Pack that has had a version, which may be retired.
#[derive(Debug)]
struct Pack {
    last_number: u64,
    versions: BTreeMap<u64, Version>,
}

#[derive(Debug)]
struct Version {
    record: PackVersion,
    held: BTreeSet<BlobKey>,
    needs: BTreeMap<Sha256Digest, Need>,
}

#[derive(Debug)]
struct Draft {
    record: DraftRecord,
    held: BTreeSet<BlobKey>,
}

#[derive(Debug)]
struct Need {
    encoded: Vec<u8>,
    expires_at: Timestamp,
}

impl PackFacts {
    /// Returns true if a version or a draft holds the blob.
    pub(super) fn hold(&self, key: &BlobKey) -> bool {
        let mut versions = self.packs.values().flat_map(|pack| pack.versions.values());
        versions.any(|version| version.held.contains(key))
            || self.drafts.values().any(|draft| draft.held.contains(key))
    }

    /// Forgets the contents that have one of their forms in the blob.
    pub(super) fn forget_contents(&mut self, key: &BlobKey) {
        self.contents.retain(|_, content| {
            let deflated = content.deflated.as_ref();
            content.raw.blob != *key && deflated.is_none_or(|(_, place)| place.blob != *key)
        });
    }

    fn open_draft(&mut self, id: &DraftId) -> Option<&mut Draft> {
        let draft = self.drafts.get_mut(id)?;
        draft.record.published.is_none().then_some(draft)
    }

    fn next_number(&self, pack: &PackName) -> u64 {
        self.packs.get(pack).map_or(1, |pack| pack.last_number + 1)
    }

    fn version(&self, pack: &PackName, number: u64) -> Option<&Version> {
        self.packs.get(pack)?.versions.get(&number)
    }

    fn summary(&self, name: &PackName) -> Option<PackSummary> {
        let (_, newest) = self.packs.get(name)?.versions.last_key_value().unzip();
        Some(PackSummary {
            name: name.clone(),
            latest: newest.map(|version| version.record.clone()),
        })
    }
}

impl Facts {
    fn doom_all(&mut self, keys: BTreeSet<BlobKey>, at: Timestamp) {
        for key in keys {
            self.doom(&key, at);
        }
    }

    fn is_doomed(&self, key: &BlobKey) -> bool {
        let record = self.blobs.get(key);
        record.is_some_and(|record| record.doomed_at.is_some())
    }

    /// Returns the answer if the version cannot be published or the draft already was, else `None`.
    fn hindrance(
        &self,
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
    ) -> Option<Published> {
        let draft = self.packs.drafts.get(draft);
        let Some(draft) = draft.filter(|draft| draft.record.pack == version.pack) else {
            return Some(Published::DraftGone);
        };
        if let Some(number) = draft.record.published {
            return Some(Published::Version(number));
        }
        let next = self.packs.next_number(&version.pack);
        if version.number != next {
            return Some(Published::NextIs(next));
        }
        let gone = |key| !self.blobs.contains_key(key) || self.is_doomed(key);
        let mut documents = documents(version).into_iter();
        let blobs_gone =
            blobs.iter().any(gone) || documents.any(|document| self.is_doomed(&document.blob));
        blobs_gone.then_some(Published::BlobsGone)
    }
}

#[async_trait]
impl PackStore for MemoryMetadataStore {
    async fn insert_draft(&self, draft: &DraftRecord) -> Result<(), MetadataError> {
        let doing = "record a draft";
        let mut facts = self.facts();
        if draft.published.is_some() || facts.packs.drafts.contains_key(&draft.id) {
            return Err(failed(doing, "it is published, or its name is taken"));
        }
        let tree = draft.tree.as_ref();
        if let Some(tree) = tree {
            facts.check_blob(tree, doing)?;
            facts.need_blob(tree);
        }
        let held = tree.map(|tree| tree.blob.clone()).into_iter().collect();
        let record = draft.clone();
        facts.packs.drafts.insert(draft.id, Draft { record, held });
        Ok(())
    }

    async fn draft(&self, id: &DraftId) -> Result<Option<DraftRecord>, MetadataError> {
        let facts = self.facts();
        let draft = facts.packs.drafts.get(id);
        Ok(draft.map(|draft| draft.record.clone()))
    }

    async fn forget_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        let mut facts = self.facts();
        let Some(draft) = facts.packs.drafts.remove(id) else {
            return Ok(false);
        };
        facts.doom_all(draft.held, now);
        Ok(true)
    }

    async fn expire_draft(&self, id: &DraftId, now: Timestamp) -> Result<bool, MetadataError> {
        let mut facts = self.facts();
        let is_expired = |draft: &Draft| draft.record.expires_at <= now;
        if !facts.packs.drafts.get(id).is_some_and(is_expired) {
            return Ok(false);
        }
        let draft = facts.packs.drafts.remove(id).expect("it was there");
        facts.doom_all(draft.held, now);
        Ok(true)
    }

    async fn expired_drafts(
        &self,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DraftId>, MetadataError> {
        let facts = self.facts();
        let drafts = facts.packs.drafts.values();
        let mut expired: Vec<(Timestamp, DraftId)> = drafts
            .map(|draft| (draft.record.expires_at, draft.record.id))
            .filter(|(expires_at, _)| *expires_at <= now)
            .collect();
        expired.sort_unstable();
        Ok(expired.into_iter().take(limit).map(|(_, id)| id).collect())
    }

    async fn store_contents(
        &self,
        draft: &DraftId,
        blobs: &[Content],
        contents: &[StoredContent],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError> {
        let doing = "record contents";
        let mut facts = self.facts();
        for content in contents {
            check_content(content, blobs, doing)?;
        }
        for blob in blobs {
            fits(blob.size)?;
        }
        if facts.packs.open_draft(draft).is_none() {
            return Ok(false);
        }
        for blob in blobs {
            facts.check_blob(blob, doing)?;
        }
        for blob in blobs {
            facts.need_blob(blob);
        }
        if let Some(draft) = facts.packs.open_draft(draft) {
            draft.record.expires_at = expires_at;
            draft
                .held
                .extend(blobs.iter().map(|blob| blob.blob.clone()));
        }
        let mut places = BTreeSet::new();
        for content in contents {
            let known = facts.packs.contents.entry(content.sha256);
            let known = known.or_insert_with(|| content.clone());
            places.extend(known.blobs().cloned());
        }
        if let Some(draft) = facts.packs.open_draft(draft) {
            draft.held.extend(places);
        }
        Ok(true)
    }

    async fn hold_blobs(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
    ) -> Result<Option<Vec<BlobKey>>, MetadataError> {
        let mut facts = self.facts();
        let mut held = blobs.to_vec();
        held.retain(|key| facts.blobs.contains_key(key) && !facts.is_doomed(key));
        let Some(draft) = facts.packs.open_draft(draft) else {
            return Ok(None);
        };
        draft.held.extend(held.iter().cloned());
        Ok(Some(held))
    }

    async fn drop_contents(
        &self,
        draft: &DraftId,
        blobs: &[BlobKey],
        now: Timestamp,
    ) -> Result<(), MetadataError> {
        let mut facts = self.facts();
        let Some(draft) = facts.packs.drafts.get_mut(draft) else {
            return Ok(());
        };
        let tree = draft.record.tree.as_ref().map(|tree| &tree.blob);
        let mut dropped = BTreeSet::new();
        for key in blobs {
            if Some(key) != tree && draft.held.remove(key) {
                dropped.insert(key.clone());
            }
        }
        facts.doom_all(dropped, now);
        Ok(())
    }

    async fn contents(
        &self,
        sha256s: &[Sha256Digest],
    ) -> Result<Vec<StoredContent>, MetadataError> {
        if sha256s.len() > MAX_LOOKED_UP {
            return Err(failed("look contents up", "they are too many"));
        }
        let facts = self.facts();
        let sha256s: BTreeSet<&Sha256Digest> = sha256s.iter().collect();
        let known = sha256s
            .into_iter()
            .filter_map(|sha256| facts.packs.contents.get(sha256));
        Ok(known.cloned().collect())
    }

    async fn next_version(&self, pack: &PackName) -> Result<u64, MetadataError> {
        Ok(self.facts().packs.next_number(pack))
    }

    async fn publish_version(
        &self,
        draft: &DraftId,
        version: &PackVersion,
        blobs: &[BlobKey],
        kept_until: Timestamp,
        event: Option<&Event>,
    ) -> Result<Published, MetadataError> {
        let mut facts = self.facts();
        for document in documents(version) {
            fits(document.size)?;
        }
        if let Some(hindrance) = facts.hindrance(draft, version, blobs) {
            return Ok(hindrance);
        }
        fits(version.files)?;
        fits(version.size)?;
        for document in documents(version) {
            facts.check_blob(document, "publish a version")?;
        }
        let mut held: BTreeSet<BlobKey> = blobs.iter().cloned().collect();
        for document in documents(version) {
            facts.need_blob(document);
            held.insert(document.blob.clone());
        }
        let pack = facts.packs.packs.entry(version.pack.clone());
        let pack = pack.or_insert_with(|| Pack {
            last_number: 0,
            versions: BTreeMap::new(),
        });
        pack.last_number = version.number;
        let published = Version {
            record: version.clone(),
            held,
            needs: BTreeMap::new(),
        };
        pack.versions.insert(version.number, published);
        if let Some(draft) = facts.packs.open_draft(draft) {
            draft.record.published = Some(version.number);
            draft.record.tree = None;
            draft.record.expires_at = kept_until;
            let released = std::mem::take(&mut draft.held);
            facts.doom_all(released, version.published_at);
        }
        facts.events.record(event);
        Ok(Published::Version(version.number))
    }

    async fn version(
        &self,
        pack: &PackName,
        number: Option<u64>,
    ) -> Result<Option<PackVersion>, MetadataError> {
        let facts = self.facts();
        Ok(match number {
            Some(number) => {
                let version = facts.packs.version(pack, number);
                version.map(|version| version.record.clone())
            }
            None => facts.packs.summary(pack).and_then(|pack| pack.latest),
        })
    }

    async fn versions(
        &self,
        pack: &PackName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<PackVersion>, MetadataError> {
        let facts = self.facts();
        let versions = facts.packs.packs.get(pack).into_iter();
        let below = versions
            .flat_map(|pack| pack.versions.range(..before.unwrap_or(u64::MAX)).rev())
            .map(|(_, version)| version.record.clone());
        Ok(below.take(limit).collect())
    }

    async fn packs(
        &self,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<PackSummary>, MetadataError> {
        let facts = self.facts();
        let names = facts.packs.packs.keys();
        Ok(names
            .filter(|name| after.is_none_or(|after| name.as_str() > after))
            .filter_map(|name| facts.packs.summary(name))
            .take(limit)
            .collect())
    }

    async fn pack(&self, name: &PackName) -> Result<Option<PackSummary>, MetadataError> {
        Ok(self.facts().packs.summary(name))
    }

    async fn retire_version(
        &self,
        pack: &PackName,
        number: u64,
        now: Timestamp,
    ) -> Result<bool, MetadataError> {
        let mut facts = self.facts();
        let pack = facts.packs.packs.get_mut(pack);
        let Some(version) = pack.and_then(|pack| pack.versions.remove(&number)) else {
            return Ok(false);
        };
        facts.doom_all(version.held, now);
        Ok(true)
    }

    async fn register_need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
        encoded: &[u8],
        expires_at: Timestamp,
    ) -> Result<bool, MetadataError> {
        let mut facts = self.facts();
        let pack = facts.packs.packs.get_mut(pack);
        let Some(version) = pack.and_then(|pack| pack.versions.get_mut(&number)) else {
            return Ok(false);
        };
        let need = version.needs.entry(*sha256).or_insert_with(|| Need {
            encoded: encoded.to_vec(),
            expires_at,
        });
        need.expires_at = need.expires_at.max(expires_at);
        Ok(true)
    }

    async fn need(
        &self,
        pack: &PackName,
        number: u64,
        sha256: &Sha256Digest,
    ) -> Result<Option<Vec<u8>>, MetadataError> {
        let facts = self.facts();
        let version = facts.packs.version(pack, number);
        let need = version.and_then(|version| version.needs.get(sha256));
        Ok(need.map(|need| need.encoded.clone()))
    }

    async fn forget_needs(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        let mut facts = self.facts();
        let packs = facts.packs.packs.values_mut();
        let versions = packs.flat_map(|pack| pack.versions.values_mut());
        let mut forgotten = 0;
        for version in versions {
            version.needs.retain(|_, need| {
                let forget = need.expires_at <= now && forgotten < limit;
                forgotten += usize::from(forget);
                !forget
            });
        }
        Ok(forgotten as u64)
    }
}

fn documents(version: &PackVersion) -> [&Content; 5] {
    [
        &version.catalogue,
        &version.catalogue_gzip,
        &version.catalogue_zstd,
        &version.forms,
        &version.places,
    ]
}

/// Checks that a content can be recorded: its places are in `blobs`, and its numbers in the range
/// of the engines.
fn check_content(
    content: &StoredContent,
    blobs: &[Content],
    doing: &'static str,
) -> Result<(), MetadataError> {
    fits(content.size)?;
    if let Some((form, _)) = &content.deflated {
        fits(form.size)?;
    }
    let deflated = content.deflated.iter().map(|(_, place)| place);
    for place in deflated.chain([&content.raw]) {
        fits(place.start)?;
        if !blobs.iter().any(|blob| blob.blob == place.blob) {
            return Err(failed(doing, "a content is in none of the blobs"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::MemoryMetadataStore;
    use crate::pack_store::Ports;

    async fn fresh() -> (Ports, ()) {
        let store = Arc::new(MemoryMetadataStore::default());
        let ports = Ports {
            metadata: Arc::<MemoryMetadataStore>::clone(&store),
            packs: store,
        };
        (ports, ())
    }

    crate::pack_store_contract!(fresh);
}
