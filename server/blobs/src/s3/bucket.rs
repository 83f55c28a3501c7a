//! What is asked of the server, request by request.
//!
//! Bodies are whole buffers in memory: so the SDK can send them again, knows their checksums before it begins, and sends these as
//! header fields, which more servers understand than trailers. A `200` that carries an error is an error to the SDK, and is tried again.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime, SdkBody};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use domain::Timestamp;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use md5::{Digest as _, Md5};

use super::config::Checksums;
use super::names::{Rank, Tag};
use super::requests::{Operation, Requests};

/// How many objects one request deletes at most (`DeleteObjects`).
const MOST_DELETED: usize = 1000;
/// How many requests that belong together are under way at once.
const AT_ONCE: usize = 4;
/// The metadata of an object that says who made it.
const TAG: &str = "longhaul-tag";

/// Why the server did not do it.
#[derive(Debug)]
pub(super) enum Trouble {
    /// There is no such object.
    NoObject,
    /// There is no such multipart upload, or not any more.
    NoUpload,
    /// An object is not what the request relies on.
    Changed,
    /// There is no room left.
    Full,
    /// Anything else.
    Other(Box<dyn Error + Send + Sync>),
}

/// What must be at a name for an object to be put there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// Anything.
    Always,
    /// Nothing.
    Vacant,
    /// The object with this entity tag.
    Holds(String),
}

/// An object, as it is listed or looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// In bytes.
    pub(super) size: u64,
    pub(super) etag: String,
    /// Who made it, if that is said.
    pub(super) tag: Option<Tag>,
}

/// An entry of a list of objects.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) modified_at: Timestamp,
}

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) entries: Vec<T>,
    /// Whether there is more after the last entry.
    pub(super) more: bool,
}

/// A multipart upload that is under way.
#[derive(Debug, Clone)]
pub(super) struct ListedUpload {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) initiated_at: Timestamp,
}

/// A part of a multipart upload that the server has.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) number: u32,
    /// In bytes.
    pub(super) size: u64,
    etag: String,
    checksum: Option<String>,
}

/// A bucket of an S3 server.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    client: Client,
    name: String,
    checksums: Checksums,
    requests: Arc<Requests>,
}

/// Sends a request of the SDK, counted.
macro_rules! send {
    ($bucket:ident, $operation:ident, $request:expr) => {
        $request
            .bucket(&$bucket.name)
            .customize()
            .interceptor($bucket.requests.counter(Operation::$operation))
            .send()
            .await
            .map_err(trouble)
    };
}

impl Bucket {
    pub(super) fn new(client: Client, name: String, checksums: Checksums) -> Self {
        Self {
            client,
            name,
            checksums,
            requests: Arc::default(),
        }
    }

    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Puts an object, and returns its entity tag.
    pub(super) async fn put(
        &self,
        name: &str,
        bytes: Bytes,
        metadata: HashMap<String, String>,
        condition: &Condition,
    ) -> Result<String, Trouble> {
        let request = self
            .client
            .put_object()
            .key(name)
            .set_metadata(Some(metadata))
            .set_checksum_algorithm(self.algorithm())
            .set_content_md5(self.md5(&bytes))
            .set_if_none_match(condition.if_none_match())
            .set_if_match(condition.if_match())
            .body(body(bytes));
        let put = send!(self, Put, request)?;
        Ok(put.e_tag.unwrap_or_default())
    }

    /// Begins to get an object or a range of it, which must still have the entity tag, if one is given.
    pub(super) async fn get(
        &self,
        name: &str,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<ByteStream, Trouble> {
        let request = self
            .client
            .get_object()
            .key(name)
            .range(range_of(&range))
            .set_if_match(etag.map(str::to_owned));
        Ok(send!(self, Get, request)?.body)
    }

    /// Looks at an object, and at its metadata.
    pub(super) async fn head(
        &self,
        name: &str,
    ) -> Result<Option<(Object, HashMap<String, String>)>, Trouble> {
        let head = match send!(self, Head, self.client.head_object().key(name)) {
            Ok(head) => head,
            Err(Trouble::NoObject) => return Ok(None),
            Err(trouble) => return Err(trouble),
        };
        let metadata = head.metadata.unwrap_or_default();
        let object = Object {
            size: size(head.content_length),
            etag: head.e_tag.unwrap_or_default(),
            tag: metadata.get(TAG).and_then(|tag| tag.parse().ok()),
        };
        Ok(Some((object, metadata)))
    }

    /// A page of the objects whose names begin with `prefix`, those after `after`, in order.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: i32,
    ) -> Result<Page<Listed>, Trouble> {
        let request = self
            .client
            .list_objects_v2()
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .max_keys(limit);
        let listed = send!(self, List, request)?;
        let entries = listed.contents.unwrap_or_default().into_iter();
        Ok(Page {
            entries: entries
                .filter_map(|object| {
                    Some(Listed {
                        name: object.key?,
                        modified_at: timestamp(object.last_modified),
                    })
                })
                .collect(),
            more: listed.is_truncated.unwrap_or(false),
        })
    }

    /// All objects whose names begin with `prefix`.
    pub(super) async fn list_all(&self, prefix: &str) -> Result<Vec<Listed>, Trouble> {
        let mut all: Vec<Listed> = Vec::new();
        loop {
            let last = all.last().map(|listed| listed.name.clone());
            let page = self.list(prefix, last.as_deref(), 1000).await?;
            let is_last = !page.more || page.entries.is_empty();
            all.extend(page.entries);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Deletes objects; those that are not there are deleted already.
    pub(super) async fn delete(&self, names: &[String]) -> Result<(), Trouble> {
        match (names, self.algorithm()) {
            ([], _) => Ok(()),
            ([name], _) => self.delete_one(name).await,
            // Deleting many needs a checksum by the protocol, which such a server may not know.
            (names, None) => {
                stream::iter(names.to_vec())
                    .map(|name| async move { self.delete_one(&name).await })
                    .buffer_unordered(AT_ONCE)
                    .try_collect()
                    .await
            }
            (names, Some(algorithm)) => {
                for names in names.chunks(MOST_DELETED) {
                    self.delete_many(names, algorithm.clone()).await?;
                }
                Ok(())
            }
        }
    }

    async fn delete_one(&self, name: &str) -> Result<(), Trouble> {
        match send!(self, Delete, self.client.delete_object().key(name)) {
            Ok(_) | Err(Trouble::NoObject) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    async fn delete_many(
        &self,
        names: &[String],
        algorithm: ChecksumAlgorithm,
    ) -> Result<(), Trouble> {
        let objects = names
            .iter()
            .map(|name| ObjectIdentifier::builder().key(name).build())
            .collect::<Result<Vec<_>, _>>()
            .map_err(other)?;
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build()
            .map_err(other)?;
        let request = self
            .client
            .delete_objects()
            .delete(delete)
            .checksum_algorithm(algorithm);
        let deleted = send!(self, DeleteMany, request)?;
        let failed = deleted
            .errors()
            .iter()
            .find(|error| error.code() != Some("NoSuchKey"));
        match failed {
            None => Ok(()),
            Some(error) => Err(other(format!(
                "{}: {}",
                error.code().unwrap_or("an object was not deleted"),
                error.message().unwrap_or_default()
            ))),
        }
    }

    /// Begins a multipart upload, and returns its id.
    pub(super) async fn create_upload(&self, name: &str, tag: Tag) -> Result<String, Trouble> {
        let request = self
            .client
            .create_multipart_upload()
            .key(name)
            .set_metadata(Some(metadata_of(tag)))
            .set_checksum_algorithm(self.algorithm());
        send!(self, CreateUpload, request)?
            .upload_id
            .ok_or_else(|| other("the server did not name the multipart upload"))
    }

    pub(super) async fn upload_part(
        &self,
        name: &str,
        upload: &str,
        number: u32,
        bytes: Bytes,
    ) -> Result<Part, Trouble> {
        let size = bytes.len() as u64;
        let request = self
            .client
            .upload_part()
            .key(name)
            .upload_id(upload)
            .part_number(part_number(number)?)
            .set_checksum_algorithm(self.algorithm())
            .set_content_md5(self.md5(&bytes))
            .body(body(bytes));
        let sent = send!(self, UploadPart, request)?;
        Ok(Part {
            number,
            size,
            etag: sent.e_tag.unwrap_or_default(),
            checksum: self.checksum(
                sent.checksum_crc32,
                sent.checksum_crc64_nvme,
                sent.checksum_sha256,
            ),
        })
    }

    /// Has a range of an object, which is given by its name and entity tag, become a part of an upload, given by its name and id.
    pub(super) async fn copy_part(
        &self,
        (source, etag): (&str, &str),
        (name, upload): (&str, &str),
        number: u32,
        range: Range<u64>,
    ) -> Result<Part, Trouble> {
        let request = self
            .client
            .upload_part_copy()
            .key(name)
            .upload_id(upload)
            .part_number(part_number(number)?)
            // Names are made of characters that stand for themselves in a URL, if the prefix is.
            .copy_source(format!("{}/{source}", self.name))
            .copy_source_range(range_of(&range))
            .copy_source_if_match(etag);
        let copied = send!(self, CopyPart, request)?;
        let copied = copied
            .copy_part_result
            .ok_or_else(|| other("the server did not say what it copied"))?;
        Ok(Part {
            number,
            size: range.end - range.start,
            etag: copied.e_tag.unwrap_or_default(),
            checksum: self.checksum(
                copied.checksum_crc32,
                copied.checksum_crc64_nvme,
                copied.checksum_sha256,
            ),
        })
    }

    /// Makes an object of the parts, which are in the order of their numbers.
    pub(super) async fn complete(
        &self,
        name: &str,
        upload: &str,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<(), Trouble> {
        let parts = parts
            .iter()
            .map(|part| self.completed(part))
            .collect::<Result<Vec<_>, _>>()?;
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let request = self
            .client
            .complete_multipart_upload()
            .key(name)
            .upload_id(upload)
            .multipart_upload(parts)
            .set_if_none_match(condition.if_none_match())
            .set_if_match(condition.if_match());
        send!(self, CompleteUpload, request).map(drop)
    }

    /// Gives a multipart upload up, if there still is one.
    pub(super) async fn abort(&self, name: &str, upload: &str) -> Result<(), Trouble> {
        let request = self
            .client
            .abort_multipart_upload()
            .key(name)
            .upload_id(upload);
        match send!(self, AbortUpload, request) {
            Ok(_) | Err(Trouble::NoUpload) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    /// The parts that a multipart upload has, in the order of their numbers.
    pub(super) async fn parts(&self, name: &str, upload: &str) -> Result<Vec<Part>, Trouble> {
        let mut parts = Vec::new();
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
                parts.push(Part {
                    number: u32::try_from(number).map_err(other)?,
                    size: size(part.size),
                    etag: part.e_tag.unwrap_or_default(),
                    checksum: self.checksum(
                        part.checksum_crc32,
                        part.checksum_crc64_nvme,
                        part.checksum_sha256,
                    ),
                });
            }
            marker = listed.next_part_number_marker;
            if !listed.is_truncated.unwrap_or(false) || marker.is_none() {
                return Ok(parts);
            }
        }
    }

    /// A page of the multipart uploads to names that begin with `prefix`, those after the name `after`, in order. All uploads to
    /// one name are on one page.
    pub(super) async fn uploads(
        &self,
        prefix: &str,
        after: Option<&str>,
    ) -> Result<Page<ListedUpload>, Trouble> {
        let mut entries: Vec<ListedUpload> = Vec::new();
        let (mut name_marker, mut id_marker) = (after.map(str::to_owned), None);
        loop {
            let request = self
                .client
                .list_multipart_uploads()
                .prefix(prefix)
                .set_key_marker(name_marker.take())
                .set_upload_id_marker(id_marker.take());
            let listed = send!(self, ListUploads, request)?;
            let before = entries.len();
            entries.extend(
                listed
                    .uploads
                    .unwrap_or_default()
                    .into_iter()
                    .filter_map(|upload| {
                        Some(ListedUpload {
                            name: upload.key?,
                            id: upload.upload_id?,
                            initiated_at: timestamp(upload.initiated),
                        })
                    }),
            );
            let more = listed.is_truncated.unwrap_or(false) && entries.len() > before;
            let goes_on = more
                && entries.first().map(|upload| &upload.name)
                    == entries.last().map(|upload| &upload.name);
            if !goes_on {
                if more {
                    // The rest of the last name's uploads may be on the next page.
                    let last = entries.last().map(|upload| upload.name.clone());
                    entries.retain(|upload| Some(&upload.name) != last.as_ref());
                }
                return Ok(Page { entries, more });
            }
            (name_marker, id_marker) = (listed.next_key_marker, listed.next_upload_id_marker);
        }
    }

    fn algorithm(&self) -> Option<ChecksumAlgorithm> {
        match self.checksums {
            Checksums::Crc32 => Some(ChecksumAlgorithm::Crc32),
            Checksums::Crc64nvme => Some(ChecksumAlgorithm::Crc64Nvme),
            Checksums::Sha256 => Some(ChecksumAlgorithm::Sha256),
            Checksums::Md5 | Checksums::None => None,
        }
    }

    fn md5(&self, bytes: &[u8]) -> Option<String> {
        (self.checksums == Checksums::Md5).then(|| BASE64_STANDARD.encode(Md5::digest(bytes)))
    }

    /// The one checksum that the server was asked for.
    fn checksum(
        &self,
        crc32: Option<String>,
        crc64nvme: Option<String>,
        sha256: Option<String>,
    ) -> Option<String> {
        match self.checksums {
            Checksums::Crc32 => crc32,
            Checksums::Crc64nvme => crc64nvme,
            Checksums::Sha256 => sha256,
            Checksums::Md5 | Checksums::None => None,
        }
    }

    fn completed(&self, part: &Part) -> Result<CompletedPart, Trouble> {
        let completed = CompletedPart::builder()
            .part_number(part_number(part.number)?)
            .e_tag(&part.etag);
        let checksum = part.checksum.clone();
        Ok(match self.checksums {
            Checksums::Crc32 => completed.set_checksum_crc32(checksum),
            Checksums::Crc64nvme => completed.set_checksum_crc64_nvme(checksum),
            Checksums::Sha256 => completed.set_checksum_sha256(checksum),
            Checksums::Md5 | Checksums::None => completed,
        }
        .build())
    }
}

impl Object {
    /// The session that made it, if that is said.
    pub(super) fn maker(&self) -> Option<Rank> {
        self.tag.map(|tag| tag.rank)
    }
}

impl Part {
    /// Whether its checksum is one of parts, which completing an upload does not take. versitygw 1.8 states and keeps the checksum of
    /// the whole object as that of a part that is copied from it.
    pub(super) fn is_spoilt(&self) -> bool {
        let is_of_parts = |checksum: &String| checksum.contains('-');
        self.checksum.as_ref().is_some_and(is_of_parts)
    }
}

impl Condition {
    fn if_none_match(&self) -> Option<String> {
        (*self == Self::Vacant).then(|| "*".to_owned())
    }

    fn if_match(&self) -> Option<String> {
        match self {
            Self::Holds(etag) => Some(etag.clone()),
            Self::Always | Self::Vacant => None,
        }
    }
}

/// The metadata that says who made an object.
pub(super) fn metadata_of(tag: Tag) -> HashMap<String, String> {
    HashMap::from([(TAG.to_owned(), tag.to_string())])
}

fn body(bytes: Bytes) -> ByteStream {
    ByteStream::new(SdkBody::from(bytes))
}

/// As in `Range` and `x-amz-copy-source-range`. The range is not empty.
fn range_of(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

fn size(length: Option<i64>) -> u64 {
    length
        .and_then(|length| u64::try_from(length).ok())
        .unwrap_or(0)
}

fn part_number(number: u32) -> Result<i32, Trouble> {
    i32::try_from(number).map_err(other)
}

fn timestamp(time: Option<DateTime>) -> Timestamp {
    let millis = time.and_then(|time| time.to_millis().ok());
    Timestamp::from_millis(millis.unwrap_or(0))
}

pub(super) fn other(error: impl Into<Box<dyn Error + Send + Sync>>) -> Trouble {
    Trouble::Other(error.into())
}

/// What an error of the SDK means.
fn trouble<E>(error: SdkError<E>) -> Trouble
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let status = error
        .raw_response()
        .map_or(0, |response| response.status().as_u16());
    let code = error.code().unwrap_or_default();
    match (status, code) {
        (_, "NoSuchUpload") => Trouble::NoUpload,
        (_, "NoSuchBucket") => Trouble::Other(said(&error)),
        (404, _) | (_, "NoSuchKey" | "NotFound") => Trouble::NoObject,
        (412, _) | (_, "PreconditionFailed" | "ConditionalRequestConflict") => Trouble::Changed,
        (507, _) | (_, "QuotaExceeded" | "XMinioStorageFull" | "StorageFull") => Trouble::Full,
        _ => Trouble::Other(said(&error)),
    }
}

/// An error in one line: what the SDK says of its errors is in their sources.
fn said<E: Error + 'static>(error: &SdkError<E>) -> Box<dyn Error + Send + Sync> {
    DisplayErrorContext(error).to_string().into()
}
