//! A metadata store in memory: for tests, and as the model with which other stores are compared. It
//! also stores packs and events (`pack_store`, `event_store`).

mod event_store;
mod pack_store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use self::event_store::EventFacts;
use self::pack_store::PackFacts;
use domain::clock::SystemClock;
use domain::digest::Sha256Digest;
use domain::event::Event;
use domain::file::{Content, DELETED_REMEMBERED, File, WriteCondition};
use domain::metadata_store::{
    Ask, Asked, Deleted, Guarded, Hold, Inserted, Lease, MetadataError, MetadataStore, Seen,
    Written, node_lease,
};
use domain::upload::{Completed, Gone, Progress, Reported, Upload, UploadState};
use domain::{BlobKey, Clock, FilePath, NodeId, Timestamp, UploadId};

/// Metadata store in memory.
#[derive(Debug)]
pub struct MemoryMetadataStore {
    facts: Mutex<Facts>,
    clock: Arc<dyn Clock>,
    asks: broadcast::Sender<Ask>,
}

/// Number of requests to yield that a listener may lag behind before it loses any.
const ASKS: usize = 64;

impl Default for MemoryMetadataStore {
    fn default() -> Self {
        Self::new(Arc::new(SystemClock))
    }
}

#[derive(Debug, Default)]
struct Facts {
    uploads: BTreeMap<UploadId, Upload>,
    files: BTreeMap<FilePath, File>,
    /// Times at which the paths of deleted files last received bytes.
    deleted: BTreeMap<FilePath, Timestamp>,
    blobs: BTreeMap<BlobKey, Record>,
    packs: PackFacts,
    /// Nodes that have the leases, with the time at which each lease ends.
    leases: BTreeMap<String, (NodeId, Timestamp)>,
    events: EventFacts,
}

/// Facts about a blob that a file or a pack needs or needed.
#[derive(Debug)]
struct Record {
    size: u64,
    sha256: Sha256Digest,
    doomed_at: Option<Timestamp>,
}

impl MemoryMetadataStore {
    /// Returns an empty store that tells the time of leases by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            facts: Mutex::default(),
            clock,
            asks: broadcast::Sender::new(ASKS),
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // The test that panicked with the lock reports the failure.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    /// Returns the upload and its progress, if it is open and `epoch` is its epoch.
    fn held(&mut self, id: &UploadId, epoch: u64) -> Option<(&mut Upload, Progress)> {
        let upload = self.uploads.get_mut(id)?;
        match &upload.state {
            UploadState::Open(progress) if upload.epoch == epoch => {
                let progress = progress.clone();
                Some((upload, progress))
            }
            UploadState::Open(_) | UploadState::Complete(_) | UploadState::Gone(_) => None,
        }
    }

    fn is_alive(&self, node: NodeId, now: Timestamp) -> bool {
        let lease = self.leases.get(&node_lease(node));
        lease.is_some_and(|(_, expires_at)| now < *expires_at)
    }

    fn open(&self) -> impl Iterator<Item = &Upload> {
        self.uploads
            .values()
            .filter(|upload| matches!(upload.state, UploadState::Open(_)))
    }

    fn end(
        &mut self,
        id: &UploadId,
        epoch: Option<u64>,
        gone: Gone,
        expires_at: Timestamp,
    ) -> Guarded {
        let Some(upload) = self.uploads.get_mut(id) else {
            return Guarded::Fenced;
        };
        let ends = match upload.state {
            UploadState::Open(_) => epoch.is_none_or(|epoch| epoch == upload.epoch),
            UploadState::Complete(_) => epoch.is_none(),
            UploadState::Gone(_) => false,
        };
        if !ends {
            return Guarded::Fenced;
        }
        upload.expires_at = expires_at;
        upload.holder = None;
        upload.reported = None;
        upload.state = UploadState::Gone(gone);
        upload.plan.idempotency_key = None;
        Guarded::Done
    }

    fn write(&mut self, file: &File, doing: &'static str) -> Result<Written, MetadataError> {
        self.check_blob(&file.content, doing)?;
        self.need_blob(&file.content);
        let path = &file.path;
        let before = self.files.get(path).map(File::latest_at);
        let written = File {
            previous_at: before.or_else(|| self.deleted.get(path).copied()),
            ..file.clone()
        };
        match self.files.insert(path.clone(), written) {
            None => Ok(Written::Created),
            Some(old) => {
                self.doom(&old.content.blob, file.modified_at);
                Ok(Written::Replaced)
            }
        }
    }

    /// Fails if the blob is doomed or recorded with another content, or if its size is out of
    /// range.
    fn check_blob(&self, content: &Content, doing: &'static str) -> Result<(), MetadataError> {
        fits(content.size)?;
        match self.blobs.get(&content.blob) {
            Some(record)
                if record.doomed_at.is_some()
                    || record.size != content.size
                    || record.sha256 != content.sha256 =>
            {
                Err(failed(doing, "a blob is doomed, or of another content"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Records that a blob is needed, after `check_blob` has accepted it.
    fn need_blob(&mut self, content: &Content) {
        self.blobs
            .entry(content.blob.clone())
            .or_insert_with(|| Record {
                size: content.size,
                sha256: content.sha256,
                doomed_at: None,
            });
    }

    /// Dooms a blob that nothing needs any more, and forgets the contents in it.
    fn doom(&mut self, key: &BlobKey, at: Timestamp) {
        if self.files.values().any(|file| file.content.blob == *key) || self.packs.hold(key) {
            return;
        }
        if let Some(record) = self.blobs.get_mut(key) {
            record.doomed_at = Some(at);
            self.packs.forget_contents(key);
        }
    }
}

#[async_trait]
impl MetadataStore for MemoryMetadataStore {
    async fn insert_upload(&self, upload: &Upload) -> Result<Inserted, MetadataError> {
        let doing = "record an upload";
        let mut facts = self.facts();
        let UploadState::Open(progress) = &upload.state else {
            return Err(failed(doing, "a new upload must be open"));
        };
        fits(upload.epoch)?;
        fits_progress(progress)?;
        let same_key = |other: &&Upload| {
            upload.plan.idempotency_key.is_some()
                && other.plan.idempotency_key == upload.plan.idempotency_key
                && other.plan.owner == upload.plan.owner
        };
        if let Some(existing) = facts.uploads.values().find(same_key) {
            return Ok(Inserted::Existing(Box::new(existing.clone())));
        }
        if facts.uploads.contains_key(&upload.id)
            || facts.open().any(|other| other.blob == upload.blob)
        {
            return Err(failed(doing, "its name or its blob's is taken"));
        }
        facts.uploads.insert(upload.id, upload.clone());
        Ok(Inserted::New)
    }

    async fn upload(&self, id: &UploadId) -> Result<Option<Upload>, MetadataError> {
        Ok(self.facts().uploads.get(id).cloned())
    }

    async fn claim_upload(
        &self,
        id: &UploadId,
        holder: Option<NodeId>,
        seen: Option<Seen>,
    ) -> Result<Option<Upload>, MetadataError> {
        let mut facts = self.facts();
        let Some(upload) = facts.uploads.get_mut(id) else {
            return Ok(None);
        };
        let is_as_seen = seen.is_none() || Seen::of(upload) == seen;
        if matches!(upload.state, UploadState::Open(_)) && is_as_seen {
            upload.epoch += 1;
            upload.holder = holder;
        }
        Ok(Some(upload.clone()))
    }

    async fn record_progress(
        &self,
        id: &UploadId,
        epoch: u64,
        progress: &Progress,
        expires_at: Timestamp,
        hold: Hold,
    ) -> Result<Guarded, MetadataError> {
        fits_progress(progress)?;
        let mut facts = self.facts();
        let Some((upload, recorded)) = facts.held(id, epoch) else {
            return Ok(Guarded::Fenced);
        };
        if progress.open.offset >= recorded.open.offset {
            upload.state = UploadState::Open(progress.clone());
            upload.expires_at = expires_at;
        }
        if matches!(hold, Hold::Release | Hold::Settle) {
            upload.holder = None;
        }
        if hold == Hold::Settle {
            upload.reported = None;
        }
        Ok(Guarded::Done)
    }

    async fn report_offset(
        &self,
        id: &UploadId,
        epoch: u64,
        reported: Option<Reported>,
    ) -> Result<Guarded, MetadataError> {
        reported.map_or(Ok(()), |reported| fits(reported.offset))?;
        let mut facts = self.facts();
        match facts.uploads.get_mut(id) {
            Some(upload)
                if upload.epoch == epoch && !matches!(upload.state, UploadState::Gone(_)) =>
            {
                upload.reported = reported;
                Ok(Guarded::Done)
            }
            Some(_) | None => Ok(Guarded::Fenced),
        }
    }

    async fn release_upload(&self, id: &UploadId, epoch: u64) -> Result<(), MetadataError> {
        if let Some((upload, _)) = self.facts().held(id, epoch) {
            upload.holder = None;
        }
        Ok(())
    }

    async fn ask_to_yield(&self, ask: &Ask) -> Result<Asked, MetadataError> {
        let mut facts = self.facts();
        let is_held = facts
            .held(&ask.upload, ask.epoch)
            .is_some_and(|(upload, _)| upload.holder == Some(ask.node));
        if !is_held || !facts.is_alive(ask.node, self.clock.now()) {
            return Ok(Asked::Nobody);
        }
        // There may be no listener.
        let _ = self.asks.send(*ask);
        Ok(Asked::Holder)
    }

    fn asks(&self) -> BoxStream<'static, Ask> {
        stream::unfold(self.asks.subscribe(), |mut asks| async move {
            loop {
                match asks.recv().await {
                    Ok(ask) => return Some((ask, asks)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
        .boxed()
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        completed: &Completed,
        expires_at: Timestamp,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError> {
        let mut facts = self.facts();
        if facts.held(&upload.id, upload.epoch).is_none() {
            return Ok(Written::Fenced);
        }
        let Some(file) = upload.file(completed) else {
            if let Some((upload, _)) = facts.held(&upload.id, upload.epoch) {
                upload.holder = None;
                upload.expires_at = expires_at;
                upload.state = UploadState::Complete(completed.clone());
            }
            facts.events.record(event);
            return Ok(Written::Created);
        };
        let current = facts.files.get(&file.path).cloned();
        if !upload.plan.condition.holds(current.as_ref()) {
            return Ok(Written::ConditionFailed(current.map(Box::new)));
        }
        let written = facts.write(&file, "complete an upload")?;
        facts.events.record(event);
        if let Some((upload, _)) = facts.held(&upload.id, upload.epoch) {
            upload.holder = None;
            upload.expires_at = expires_at;
            upload.state = UploadState::Complete(Completed {
                replaced: current.is_some(),
                ..completed.clone()
            });
        }
        Ok(written)
    }

    async fn end_upload(
        &self,
        id: &UploadId,
        epoch: Option<u64>,
        gone: Gone,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError> {
        Ok(self.facts().end(id, epoch, gone, expires_at))
    }

    async fn expire_upload(
        &self,
        id: &UploadId,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<Guarded, MetadataError> {
        let mut facts = self.facts();
        let expired = |upload: &Upload| {
            upload.expires_at <= now && matches!(upload.state, UploadState::Open(_))
        };
        if !facts.uploads.get(id).is_some_and(expired) {
            return Ok(Guarded::Fenced);
        }
        Ok(facts.end(id, None, Gone::Expired, expires_at))
    }

    async fn open_uploads(
        &self,
        owner: Option<&str>,
        client_ref: &str,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        let facts = self.facts();
        let mut found: Vec<&Upload> = facts
            .open()
            .filter(|upload| {
                upload.plan.owner.as_deref() == owner
                    && upload.plan.client_ref.as_deref() == Some(client_ref)
            })
            .collect();
        found.sort_by_key(|upload| (upload.created_at, upload.id));
        Ok(found.into_iter().take(limit).cloned().collect())
    }

    async fn expired_uploads(
        &self,
        now: Timestamp,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<Upload>, MetadataError> {
        let facts = self.facts();
        let mut found: Vec<&Upload> = facts
            .open()
            .filter(|upload| upload.expires_at <= now)
            .filter(|upload| {
                let other = upload.holder.filter(|holder| *holder != node);
                !other.is_some_and(|other| facts.is_alive(other, self.clock.now()))
            })
            .collect();
        found.sort_by_key(|upload| upload.expires_at);
        Ok(found.into_iter().take(limit).cloned().collect())
    }

    async fn forget_uploads(&self, now: Timestamp, limit: usize) -> Result<u64, MetadataError> {
        let mut facts = self.facts();
        let mut old: Vec<(Timestamp, UploadId)> = facts
            .uploads
            .values()
            .filter(|upload| !matches!(upload.state, UploadState::Open(_)))
            .map(|upload| (upload.expires_at, upload.id))
            .filter(|(expires_at, _)| *expires_at <= now)
            .collect();
        old.sort_unstable();
        old.truncate(limit);
        for (_, id) in &old {
            facts.uploads.remove(id);
        }
        Ok(old.len() as u64)
    }

    async fn put_file(
        &self,
        file: &File,
        condition: &WriteCondition,
        event: Option<&Event>,
    ) -> Result<Written, MetadataError> {
        let mut facts = self.facts();
        let current = facts.files.get(&file.path);
        if !condition.holds(current) {
            return Ok(Written::ConditionFailed(current.cloned().map(Box::new)));
        }
        let written = facts.write(file, "record a file")?;
        facts.events.record(event);
        Ok(written)
    }

    async fn file(&self, path: &FilePath) -> Result<Option<File>, MetadataError> {
        Ok(self.facts().files.get(path).cloned())
    }

    async fn delete_file(
        &self,
        path: &FilePath,
        condition: &WriteCondition,
        now: Timestamp,
    ) -> Result<Deleted, MetadataError> {
        let mut facts = self.facts();
        let Some(current) = facts.files.get(path).cloned() else {
            return Ok(Deleted::Missing);
        };
        if !condition.holds(Some(&current)) {
            return Ok(Deleted::ConditionFailed(Box::new(current)));
        }
        facts.files.remove(path);
        facts.deleted.insert(path.clone(), current.latest_at());
        facts
            .deleted
            .retain(|_, at| *at >= now.minus(DELETED_REMEMBERED));
        facts.doom(&current.content.blob, now);
        Ok(Deleted::Done)
    }

    async fn list_files(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<File>, MetadataError> {
        let facts = self.facts();
        let found = facts
            .files
            .iter()
            .filter(|(path, _)| path.as_str().starts_with(prefix))
            .filter(|(path, _)| after.is_none_or(|after| path.as_str() > after));
        Ok(found.take(limit).map(|(_, file)| file.clone()).collect())
    }

    async fn known_blobs(&self, keys: &[BlobKey]) -> Result<Vec<BlobKey>, MetadataError> {
        let facts = self.facts();
        let known = keys.iter().filter(|key| {
            facts.blobs.contains_key(key) || facts.open().any(|upload| upload.blob == **key)
        });
        Ok(known.cloned().collect())
    }

    async fn doomed_blobs(
        &self,
        before: Timestamp,
        limit: usize,
    ) -> Result<Vec<BlobKey>, MetadataError> {
        let facts = self.facts();
        let mut doomed: Vec<(Timestamp, &BlobKey)> = facts
            .blobs
            .iter()
            .filter_map(|(key, record)| Some((record.doomed_at?, key)))
            .filter(|(doomed_at, _)| *doomed_at < before)
            .collect();
        doomed.sort_unstable();
        Ok(doomed
            .into_iter()
            .take(limit)
            .map(|(_, key)| key.clone())
            .collect())
    }

    async fn forget_blob(&self, key: &BlobKey) -> Result<(), MetadataError> {
        let mut facts = self.facts();
        if facts
            .blobs
            .get(key)
            .is_some_and(|record| record.doomed_at.is_some())
        {
            facts.blobs.remove(key);
        }
        Ok(())
    }

    async fn lease(
        &self,
        name: &str,
        node: NodeId,
        duration: Duration,
    ) -> Result<Option<Lease>, MetadataError> {
        let mut facts = self.facts();
        let given_at = self.clock.now();
        let taken = facts
            .leases
            .get(name)
            .is_some_and(|(holder, expires_at)| *holder != node && given_at < *expires_at);
        if taken {
            return Ok(None);
        }
        let expires_at = given_at.plus(duration);
        facts.leases.insert(name.to_owned(), (node, expires_at));
        Ok(Some(Lease {
            given_at,
            expires_at,
        }))
    }

    async fn release_lease(&self, name: &str, node: NodeId) -> Result<(), MetadataError> {
        let mut facts = self.facts();
        if facts
            .leases
            .get(name)
            .is_some_and(|(holder, _)| *holder == node)
        {
            facts.leases.remove(name);
        }
        Ok(())
    }

    async fn forget_leases(&self, limit: usize) -> Result<u64, MetadataError> {
        let mut facts = self.facts();
        let now = self.clock.now();
        let expired = facts
            .leases
            .extract_if(.., |_, (_, expires_at)| *expires_at <= now);
        Ok(expired.take(limit).count() as u64)
    }

    /// Returns true: all nodes with a reference to the store share it.
    fn is_shared(&self) -> bool {
        true
    }

    async fn check(&self) -> Result<(), MetadataError> {
        Ok(())
    }

    async fn ended(&self) {
        std::future::pending().await
    }

    async fn close(&self) {}
}

/// Checks that a count is in the range of the engines, up to 2⁶³ − 1.
fn fits(count: u64) -> Result<(), MetadataError> {
    i64::try_from(count)
        .map(drop)
        .map_err(|_| MetadataError::Full)
}

fn fits_progress(progress: &Progress) -> Result<(), MetadataError> {
    fits(progress.open.offset)?;
    progress.open.length.map_or(Ok(()), fits)
}

fn failed(doing: &'static str, reason: &'static str) -> MetadataError {
    MetadataError::Failed {
        doing,
        source: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata_store::upload;
    use domain::ids::SystemRandomness;

    async fn fresh() -> (Box<MemoryMetadataStore>, ()) {
        (Box::default(), ())
    }

    crate::metadata_store_contract!(fresh);

    #[tokio::test]
    async fn an_ask_reaches_all_who_listen() {
        let store = MemoryMetadataStore::default();
        let node = NodeId::random(&SystemRandomness);
        let name = node_lease(node);
        let alive = store.lease(&name, node, Duration::from_hours(1)).await;
        assert!(alive.unwrap().is_some());
        let mut upload = upload("a");
        upload.holder = Some(node);
        store.insert_upload(&upload).await.unwrap();
        let ask = Ask {
            upload: upload.id,
            node,
            epoch: upload.epoch,
        };
        let listeners = [store.asks(), store.asks()];
        assert_eq!(store.ask_to_yield(&ask).await.unwrap(), Asked::Holder);
        for mut asks in listeners {
            assert_eq!(asks.next().await, Some(ask));
        }
    }
}
