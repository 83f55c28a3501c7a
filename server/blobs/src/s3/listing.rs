//! Lists of blobs in the order of their keys, in bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use domain::blob_store::BlobEntry;
use domain::{BlobKey, Timestamp};

use super::errors::S3Error;
use super::shared::Shared;

/// Maximum number of objects that one request lists (`ListObjectsV2`).
const PAGE: i32 = 1000;

/// Keys that were found in order, up to a key behind which there may be more.
#[derive(Debug)]
struct Found {
    keys: BTreeMap<BlobKey, Timestamp>,
    /// Last key up to which the list is complete. `None` if all keys were found.
    complete_to: Option<BlobKey>,
}

impl Found {
    /// Cuts the list to the keys for which it and lists with these ends are complete.
    fn known_to(mut self, ends: impl IntoIterator<Item = Option<BlobKey>>) -> Self {
        self.complete_to = ends.into_iter().chain([self.complete_to]).flatten().min();
        if let Some(end) = &self.complete_to {
            self.keys.retain(|key, _| key <= end);
        }
        self
    }
}

/// Place that multipart uploads lead to.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Published names.
    Published,
    /// Large parts, beside notes.
    Staged,
}

impl Shared {
    /// Lists up to `limit` growing blobs after `after`: all with a note or a multipart upload.
    pub(super) async fn list_staged(
        &self,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, S3Error> {
        let mut notes = self.noted(after).await?;
        let mut ends = Vec::new();
        for place in [Place::Published, Place::Staged] {
            let uploads = self.uploading(place, after, limit).await?;
            for (key, initiated_at) in uploads.keys {
                let modified_at = notes.keys.entry(key).or_insert(initiated_at);
                *modified_at = (*modified_at).max(initiated_at);
            }
            ends.push(uploads.complete_to);
        }
        Ok(notes
            .known_to(ends)
            .keys
            .into_iter()
            .take(limit)
            .map(|(key, modified_at)| BlobEntry { key, modified_at })
            .collect())
    }

    /// Lists up to `limit` published blobs after `after`, and seals whose blobs are gone: a late
    /// session may have sealed a blob after its deletion. An object of a blob that grows is not
    /// listed.
    pub(super) async fn list_published(
        &self,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Vec<BlobEntry>, S3Error> {
        let mut entries = Vec::new();
        let mut after = after.cloned();
        while entries.len() < limit {
            let page = i32::try_from(limit - entries.len());
            let page = page.unwrap_or(PAGE).min(PAGE);
            let (published, sealed) = (self.names.all_published(), self.names.all_sealed());
            let mut found = self.placed(&published, after.as_ref(), page).await?;
            let sealed = self.placed(&sealed, after.as_ref(), page).await?;
            for (key, modified_at) in sealed.keys {
                found.keys.entry(key).or_insert(modified_at);
            }
            let found = found.known_to([sealed.complete_to]);
            if let Some(last) = found.keys.keys().next_back() {
                let grow = self.growing(after.as_ref(), last).await?;
                let whole = found.keys.into_iter();
                let whole = whole.filter(|(key, _)| !grow.contains(key));
                entries.extend(whole.map(|(key, modified_at)| BlobEntry { key, modified_at }));
            }
            match found.complete_to {
                Some(end) => after = Some(end),
                None => break,
            }
        }
        entries.truncate(limit);
        Ok(entries)
    }

    /// Finds keys whose objects are named by `prefix` and the key: at least one, if there is any.
    async fn placed(
        &self,
        prefix: &str,
        after: Option<&BlobKey>,
        limit: i32,
    ) -> Result<Found, S3Error> {
        let mut keys = BTreeMap::new();
        let mut name = after.map(|key| format!("{prefix}{key}"));
        loop {
            let listed = self.bucket.list(prefix, name.as_deref(), limit).await?;
            let more = listed.more;
            name = listed.entries.last().map(|object| object.name.clone());
            for object in listed.entries {
                let key = object.name.strip_prefix(prefix);
                if let Some(key) = key.and_then(|key| key.parse().ok()) {
                    keys.insert(key, object.modified_at);
                }
            }
            if !more || !keys.is_empty() {
                let complete_to = match more {
                    true => keys.keys().next_back().cloned(),
                    false => None,
                };
                return Ok(Found { keys, complete_to });
            }
        }
    }

    /// Finds all keys with notes, after `after` and up to `last`.
    async fn growing(
        &self,
        after: Option<&BlobKey>,
        last: &BlobKey,
    ) -> Result<BTreeSet<BlobKey>, S3Error> {
        let mut grow = BTreeSet::new();
        let mut after = after.cloned();
        loop {
            let found = self.noted(after.as_ref()).await?;
            let keys = found.keys.into_keys();
            grow.extend(keys.take_while(|key| key <= last));
            match found.complete_to {
                Some(key) if key < *last => after = Some(key),
                _ => return Ok(grow),
            }
        }
    }

    /// Finds keys with notes: at least one, if there is any.
    async fn noted(&self, after: Option<&BlobKey>) -> Result<Found, S3Error> {
        let prefix = self.names.all_staged();
        let mut keys: BTreeMap<BlobKey, Timestamp> = BTreeMap::new();
        // Behind all names below the key.
        let mut name = after.map(|key| format!("{}~", self.names.staged(key)));
        loop {
            let listed = self.bucket.list(&prefix, name.as_deref(), PAGE).await?;
            let more = listed.more;
            name = listed.entries.last().map(|object| object.name.clone());
            for object in listed.entries {
                let Some(key) = self.names.key_of_staged(&object.name) else {
                    continue;
                };
                if after.is_some_and(|after| key <= *after) {
                    continue;
                }
                let modified_at = keys.entry(key).or_insert(object.modified_at);
                *modified_at = (*modified_at).max(object.modified_at);
            }
            if !more {
                return Ok(Found {
                    keys,
                    complete_to: None,
                });
            }
            // There may be more objects of the last key.
            if keys.len() > 1 {
                let complete_to = keys.keys().rev().nth(1).cloned();
                return Ok(Found { keys, complete_to });
            }
        }
    }

    /// Finds keys with multipart uploads, to published names or to large parts.
    async fn uploading(
        &self,
        place: Place,
        after: Option<&BlobKey>,
        limit: usize,
    ) -> Result<Found, S3Error> {
        let names = &self.names;
        let prefix = match place {
            Place::Published => names.all_published(),
            Place::Staged => names.all_staged(),
        };
        let mut keys: BTreeMap<BlobKey, Timestamp> = BTreeMap::new();
        let mut name = after.map(|key| match place {
            Place::Published => names.published(key),
            Place::Staged => format!("{}~", names.staged(key)),
        });
        loop {
            let listed = self.bucket.uploads(&prefix, name.as_deref()).await?;
            let more = listed.more;
            name = listed.entries.last().map(|upload| upload.name.clone());
            for upload in listed.entries {
                let key = match place {
                    Place::Published => names.key_of_published(&upload.name),
                    Place::Staged => names.key_of_staged(&upload.name),
                };
                let Some(key) = key else {
                    continue;
                };
                if after.is_some_and(|after| key <= *after) {
                    continue;
                }
                let initiated_at = keys.entry(key).or_insert(upload.initiated_at);
                *initiated_at = (*initiated_at).max(upload.initiated_at);
            }
            if !more || keys.len() >= limit {
                let complete_to = match more {
                    true => keys.keys().next_back().cloned(),
                    false => None,
                };
                return Ok(Found { keys, complete_to });
            }
        }
    }
}
