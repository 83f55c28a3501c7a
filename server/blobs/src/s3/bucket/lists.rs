//! Lists of objects, parts and multipart uploads, complete or by the page.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;

use domain::Timestamp;

use super::{Bucket, Listed, ListedUpload, Operation, Part, classify, etag, send, size, timestamp};
use crate::s3::errors::{S3Error, other};

/// Page of a list, in the order of the names.
#[derive(Debug)]
pub(in crate::s3) struct Page<T> {
    pub(in crate::s3) entries: Vec<T>,
    /// Set if there are more entries after the last one.
    pub(in crate::s3) more: bool,
}

/// Markers at which a list was continued so far.
#[derive(Debug)]
struct Markers<M> {
    used: HashSet<M>,
    /// Number of entries at the last marker.
    entries: usize,
    /// Number of consecutive pages without a new entry.
    idle: u32,
}

impl<M: Clone + Eq + Hash> Markers<M> {
    /// Maximum number of consecutive pages without a new entry.
    const MAX_IDLE: u32 = 16;

    fn new() -> Self {
        Self {
            used: HashSet::new(),
            entries: 0,
            idle: 0,
        }
    }

    /// Returns the marker at which to continue a list of which `entries` are known: the one that
    /// the server states, or else the `last` entry, but none that was used before.
    ///
    /// # Errors
    /// There is no such marker, or too many pages had no new entry.
    fn next(&mut self, entries: usize, stated: Option<M>, last: Option<M>) -> Result<M, S3Error> {
        self.idle = match entries > self.entries {
            true => 0,
            false => self.idle + 1,
        };
        self.entries = entries;
        let mut candidates = [stated, last].into_iter().flatten();
        candidates
            .find(|marker| self.used.insert(marker.clone()))
            .filter(|_| self.idle <= Self::MAX_IDLE)
            .ok_or_else(|| {
                other(
                    "the server's list continues, but without a new marker or entry; it is ignored",
                )
            })
    }
}

/// Marker of a list of objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Token(String),
    Behind(String),
}

/// Marker of a list of multipart uploads: a name, and the id of an upload to it.
type UploadMarker = (String, Option<String>);

/// Multipart uploads by name and id, with the times at which they were begun.
type Uploads = BTreeMap<(String, String), Timestamp>;

impl Bucket {
    /// Lists a page of the objects whose names begin with `prefix` and are greater than `after`.
    pub(in crate::s3) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: i32,
    ) -> Result<Page<Listed>, S3Error> {
        let request = self
            .client
            .list_objects_v2()
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .max_keys(limit);
        let listed = send!(self, List, request)?;
        let mut found: BTreeMap<_, _> = objects(listed.contents, prefix).collect();
        found.retain(|name, _| after.is_none_or(|after| &**name > after));
        let entries = objects_in_order(found);
        let more = listed.is_truncated.unwrap_or(false);
        match more && entries.is_empty() {
            true => Err(other(
                "the server's list of objects continues, but the page is empty",
            )),
            false => Ok(Page { entries, more }),
        }
    }

    /// Lists all objects whose names begin with `prefix`.
    pub(in crate::s3) async fn list_all(&self, prefix: &str) -> Result<Vec<Listed>, S3Error> {
        let mut all = BTreeMap::new();
        let mut markers = Markers::new();
        let (mut token, mut after) = (None, None);
        loop {
            let request = self
                .client
                .list_objects_v2()
                .prefix(prefix)
                .set_continuation_token(token.take())
                .set_start_after(after.take());
            let listed = send!(self, List, request)?;
            all.extend(objects(listed.contents, prefix));
            if !listed.is_truncated.unwrap_or(false) {
                return Ok(objects_in_order(all));
            }
            let last = all.keys().next_back().cloned().map(Place::Behind);
            let stated = listed.next_continuation_token.map(Place::Token);
            match markers.next(all.len(), stated, last)? {
                Place::Token(next) => token = Some(next),
                Place::Behind(last) => after = Some(last),
            }
        }
    }

    /// Lists the parts of a multipart upload, in the order of their numbers.
    pub(in crate::s3) async fn parts(
        &self,
        name: &str,
        upload: &str,
    ) -> Result<Vec<Part>, S3Error> {
        let mut parts = BTreeMap::new();
        let mut markers = Markers::new();
        let mut marker: Option<String> = None;
        loop {
            let request = self
                .client
                .list_parts()
                .key(name)
                .upload_id(upload)
                .set_part_number_marker(marker.take());
            let listed = send!(self, ListParts, request)?;
            for part in listed.parts.unwrap_or_default() {
                let number = part.part_number.unwrap_or_default();
                let number = u32::try_from(number).map_err(other)?;
                let part = Part {
                    number,
                    size: size(part.size),
                    etag: etag(part.e_tag),
                };
                parts.insert(number, part);
            }
            if !listed.is_truncated.unwrap_or(false) {
                return Ok(parts.into_values().collect());
            }
            let last = parts.keys().next_back().map(u32::to_string);
            marker = Some(markers.next(parts.len(), listed.next_part_number_marker, last)?);
        }
    }

    /// Lists a page of the multipart uploads to names that begin with `prefix` and are greater than
    /// `after`. All uploads to one name are on one page.
    pub(in crate::s3) async fn uploads(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Page<ListedUpload>, S3Error> {
        let mut found = Uploads::new();
        let mut markers = Markers::new();
        let mut marker = after.map(|name| (name.to_owned(), None));
        loop {
            let next = self
                .more_uploads(prefix, marker.take(), &mut found, &mut markers)
                .await?;
            found.retain(|(name, _), _| after.is_none_or(|after| &**name > after));
            let Some(next) = next else {
                return Ok(Page {
                    entries: uploads_in_order(found),
                    more: false,
                });
            };
            let first = found.keys().next().map(|(name, _)| name);
            let last = found.keys().next_back().map(|(name, _)| name.clone());
            if first != last.as_ref() {
                // The rest of the last name's uploads may be on the next page.
                found.retain(|(name, _), _| Some(name) != last.as_ref());
                return Ok(Page {
                    entries: uploads_in_order(found),
                    more: true,
                });
            }
            marker = Some(next);
        }
    }

    /// Lists all multipart uploads to names that begin with `prefix`.
    pub(in crate::s3) async fn all_uploads(
        &self,
        prefix: &str,
    ) -> Result<Vec<ListedUpload>, S3Error> {
        let mut found = Uploads::new();
        let mut markers = Markers::new();
        let mut marker = None;
        loop {
            marker = self
                .more_uploads(prefix, marker, &mut found, &mut markers)
                .await?;
            if marker.is_none() {
                return Ok(uploads_in_order(found));
            }
        }
    }

    /// Adds the uploads behind `marker` to `found`, and returns the next marker if there are more.
    async fn more_uploads(
        &self,
        prefix: &str,
        marker: Option<UploadMarker>,
        found: &mut Uploads,
        markers: &mut Markers<UploadMarker>,
    ) -> Result<Option<UploadMarker>, S3Error> {
        let (name, id) = marker.map_or((None, None), |(name, id)| (Some(name), id));
        let request = self
            .client
            .list_multipart_uploads()
            .prefix(prefix)
            .set_key_marker(name)
            .set_upload_id_marker(id);
        let listed = send!(self, ListUploads, request)?;
        for upload in listed.uploads.unwrap_or_default() {
            if let (Some(name), Some(id)) = (upload.key, upload.upload_id)
                && name.starts_with(prefix)
            {
                found.insert((name, id), timestamp(upload.initiated));
            }
        }
        if !listed.is_truncated.unwrap_or(false) {
            return Ok(None);
        }
        let id = listed.next_upload_id_marker;
        let stated = listed.next_key_marker.map(|name| (name, id));
        let last = found.keys().next_back().cloned();
        let last = last.map(|(name, id)| (name, Some(id)));
        markers.next(found.len(), stated, last).map(Some)
    }
}

/// Returns the names and times of the listed objects whose names begin with `prefix`.
fn objects(
    listed: Option<Vec<aws_sdk_s3::types::Object>>,
    prefix: &str,
) -> impl Iterator<Item = (String, Timestamp)> {
    let listed = listed.unwrap_or_default().into_iter();
    listed
        .filter_map(|object| Some((object.key?, timestamp(object.last_modified))))
        .filter(move |(name, _)| name.starts_with(prefix))
}

fn objects_in_order(found: BTreeMap<String, Timestamp>) -> Vec<Listed> {
    let listed = |(name, modified_at)| Listed { name, modified_at };
    found.into_iter().map(listed).collect()
}

fn uploads_in_order(found: Uploads) -> Vec<ListedUpload> {
    let listed = |((name, id), initiated_at)| ListedUpload {
        name,
        id,
        initiated_at,
    };
    found.into_iter().map(listed).collect()
}
