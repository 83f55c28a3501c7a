//! Requests to a bucket.
//!
//! Bodies are complete buffers in memory, so the SDK can repeat them, and knows their checksums
//! before it begins. It sends these as header fields, which more servers understand than trailers.
//! The SDK takes a `200` that carries an error as an error, and repeats the request.
//!
//! Servers differ in what they leave out and in how they order lists. Nothing here relies on what
//! the protocol calls optional, nor on any order:
//!
//! - No multipart upload is begun with a checksum algorithm. With one, it could only be completed
//!   with the checksum of every part, which some servers do not list, and parts could only be
//!   copied into it where the server computes checksums for them. Parts are verified by the SHA-256
//!   that every request is signed with, and by `Content-MD5` if that is configured or the server
//!   does not verify the SHA-256 (SeaweedFS).
//! - Lists are read to their end (`lists`), by the server's markers or, if it states none, by the
//!   last name, then put in order, each entry once. A list that continues without a new entry is an
//!   error, never a short list.
//! - An entity tag without quotes equals the one with quotes. A time that the server does not state
//!   is [`UNKNOWN`], which never becomes old.

mod counting;
mod lists;

use std::collections::{BTreeMap, HashMap};
use std::fmt::{Debug, Write as _};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{self, RequestChecksumCalculation};
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

use self::counting::{Operation, Requests, Spoiler};
use super::config::{Checksums, Config};
use super::errors::{S3Error, classify, classify_code, other};
use super::names::{Rank, Tag};

/// Maximum number of objects that one request deletes (`DeleteObjects`).
const MAX_DELETED: usize = 1000;
/// Maximum number of requests of one operation that are under way at the same time.
const AT_ONCE: usize = 4;
/// Metadata field with the [`Tag`] of the maker of an object.
const TAG: &str = "longhaul-tag";
/// Time of entries for which the server states none.
const UNKNOWN: Timestamp = Timestamp::from_millis(i64::MAX);

/// Condition on which an object is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    /// None.
    Always,
    /// The name has no object.
    Vacant,
    /// The name has the object with this entity tag.
    Holds(String),
}

/// Object, as it is listed or looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    /// Size in bytes.
    pub(super) size: u64,
    pub(super) etag: String,
    /// Tag of its maker, if it has one.
    pub(super) tag: Option<Tag>,
}

/// Entry of a list of objects.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) modified_at: Timestamp,
}

/// Multipart upload that is under way.
#[derive(Debug, Clone)]
pub(super) struct ListedUpload {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) initiated_at: Timestamp,
}

/// Part of a multipart upload that the server has.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) number: u32,
    /// Size in bytes.
    pub(super) size: u64,
    pub(super) etag: String,
}

/// Bucket of an S3 server.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    client: Client,
    name: String,
    checksums: Checksums,
    /// Set if parts are sent with `Content-MD5`.
    parts_have_md5: Arc<AtomicBool>,
    requests: Arc<Requests>,
}

/// Sends a request of the SDK and counts it, with other settings if given.
macro_rules! send {
    ($bucket:ident, $operation:ident, $request:expr $(, $settings:expr)?) => {
        $request
            .bucket(&$bucket.name)
            .customize()
            .interceptor($bucket.requests.counter(Operation::$operation))
            $(.config_override($settings))?
            .send()
            .await
            .map_err(classify)
    };
}

use send;

/// Returns settings with which the SDK states no checksum algorithm.
fn without_checksum() -> config::Builder {
    config::Builder::new().request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
}

impl Bucket {
    pub(super) fn new(client: Client, config: &Config) -> Self {
        Self {
            client,
            name: config.bucket.clone(),
            checksums: config.checksums,
            parts_have_md5: Arc::new(AtomicBool::new(config.checksums == Checksums::Md5)),
            requests: Arc::default(),
        }
    }

    /// Returns the number of requests that were sent, by the name of the operation.
    pub(super) fn requests(&self) -> BTreeMap<&'static str, u64> {
        self.requests.counts()
    }

    /// Puts an object, and returns its entity tag.
    pub(super) async fn put(
        &self,
        name: &str,
        bytes: Bytes,
        metadata: HashMap<String, String>,
        condition: &Condition,
    ) -> Result<String, S3Error> {
        let request = self
            .client
            .put_object()
            .key(name)
            .set_metadata(Some(metadata))
            .set_checksum_algorithm(self.algorithm())
            .set_content_md5((self.checksums == Checksums::Md5).then(|| md5(&bytes)))
            .set_if_none_match(condition.if_none_match())
            .set_if_match(condition.if_match())
            .body(body(bytes));
        let put = send!(self, Put, request)?;
        Ok(etag(put.e_tag))
    }

    /// Begins to get a range of an object, which must still have the entity tag, if one is given.
    pub(super) async fn get(
        &self,
        name: &str,
        range: Range<u64>,
        etag: Option<&str>,
    ) -> Result<ByteStream, S3Error> {
        let request = self
            .client
            .get_object()
            .key(name)
            .range(range_of(&range))
            .set_if_match(etag.map(str::to_owned));
        Ok(send!(self, Get, request)?.body)
    }

    /// Looks at an object and its metadata.
    pub(super) async fn head(
        &self,
        name: &str,
    ) -> Result<Option<(Object, HashMap<String, String>)>, S3Error> {
        let head = match send!(self, Head, self.client.head_object().key(name)) {
            Ok(head) => head,
            Err(S3Error::NoObject) => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = head.metadata.unwrap_or_default();
        let object = Object {
            size: size(head.content_length),
            etag: etag(head.e_tag),
            tag: metadata.get(TAG).and_then(|tag| tag.parse().ok()),
        };
        Ok(Some((object, metadata)))
    }

    /// Deletes objects. Missing ones count as deleted.
    pub(super) async fn delete(&self, names: &[String]) -> Result<(), S3Error> {
        match (names, self.algorithm()) {
            ([], _) => Ok(()),
            ([name], _) => self.delete_one(name).await,
            // By the protocol, deleting many takes a checksum, which such a server may not know.
            (names, None) => self.delete_each(names).await,
            (names, Some(algorithm)) => {
                for names in names.chunks(MAX_DELETED) {
                    match self.delete_many(names, algorithm.clone()).await {
                        Err(S3Error::Refused(_)) => self.delete_each(names).await?,
                        deleted => deleted?,
                    }
                }
                Ok(())
            }
        }
    }

    async fn delete_each(&self, names: &[String]) -> Result<(), S3Error> {
        stream::iter(names.to_vec())
            .map(|name| async move { self.delete_one(&name).await })
            .buffer_unordered(AT_ONCE)
            .try_collect()
            .await
    }

    async fn delete_one(&self, name: &str) -> Result<(), S3Error> {
        match send!(self, Delete, self.client.delete_object().key(name)) {
            Ok(_) | Err(S3Error::NoObject) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn delete_many(
        &self,
        names: &[String],
        algorithm: ChecksumAlgorithm,
    ) -> Result<(), S3Error> {
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
            Some(error) => {
                let code = error.code().unwrap_or("an object was not deleted");
                let answer = format!("{code}: {}", error.message().unwrap_or_default());
                Err(classify_code(200, code, answer.into()))
            }
        }
    }

    /// Begins a multipart upload, and returns its id.
    pub(super) async fn create_upload(&self, name: &str, tag: Tag) -> Result<String, S3Error> {
        let request = self
            .client
            .create_multipart_upload()
            .key(name)
            .set_metadata(Some(metadata_of(tag)));
        send!(self, CreateUpload, request, without_checksum())?
            .upload_id
            .ok_or_else(|| other("the server returned no id of the multipart upload"))
    }

    pub(super) async fn upload_part(
        &self,
        name: &str,
        upload: &str,
        number: u32,
        bytes: Bytes,
    ) -> Result<Part, S3Error> {
        let size = bytes.len() as u64;
        let request = self
            .client
            .upload_part()
            .key(name)
            .upload_id(upload)
            .part_number(part_number(number)?)
            .set_content_md5(
                self.parts_have_md5
                    .load(Ordering::Relaxed)
                    .then(|| md5(&bytes)),
            )
            .body(body(bytes));
        let sent = send!(self, UploadPart, request, without_checksum())?;
        Ok(Part {
            number,
            size,
            etag: etag(sent.e_tag),
        })
    }

    /// Sends a part with other bytes than the request is signed for, and returns `true` if the
    /// server refuses it. If it does not, parts are sent with `Content-MD5` from now on, unless
    /// `checksums` is `none`.
    pub(super) async fn notices_spoilt_part(
        &self,
        name: &str,
        upload: &str,
    ) -> Result<bool, S3Error> {
        let request = self.client.upload_part().bucket(&self.name).key(name);
        let request = request.upload_id(upload).part_number(3);
        let sent = request
            .body(body(Bytes::from_static(b"signed")))
            .customize()
            .interceptor(self.requests.counter(Operation::UploadPart))
            .interceptor(Spoiler(b"spoilt"))
            .config_override(without_checksum())
            .send()
            .await;
        let notices = match sent {
            Ok(_) => false,
            Err(error) => match error.raw_response().map(|answer| answer.status().as_u16()) {
                // If it refuses for another reason, it refuses the next request, too.
                Some(400..=499) => true,
                Some(_) | None => return Err(classify(error)),
            },
        };
        if !notices && self.checksums != Checksums::None {
            self.parts_have_md5.store(true, Ordering::Relaxed);
        }
        Ok(notices)
    }

    /// Copies a range of an object, given by its name, to a part of an upload, given by its name
    /// and id.
    pub(super) async fn copy_part(
        &self,
        (source, object): (&str, &Object),
        (name, upload): (&str, &str),
        number: u32,
        range: Range<u64>,
    ) -> Result<Part, S3Error> {
        // Amazon S3 copies ranges of large objects only, and complete objects of any size.
        let part = (range != (0..object.size)).then(|| range_of(&range));
        let request = self
            .client
            .upload_part_copy()
            .key(name)
            .upload_id(upload)
            .part_number(part_number(number)?)
            .copy_source(in_url(&format!("{}/{source}", self.name)))
            .set_copy_source_range(part)
            .copy_source_if_match(&object.etag);
        let copied = send!(self, CopyPart, request)?;
        let copied = copied
            .copy_part_result
            .ok_or_else(|| other("the server returned no result of the copy"))?;
        Ok(Part {
            number,
            size: range.end - range.start,
            etag: etag(copied.e_tag),
        })
    }

    /// Completes a multipart upload from parts in the order of their numbers.
    pub(super) async fn complete(
        &self,
        name: &str,
        upload: &str,
        parts: &[Part],
        condition: &Condition,
    ) -> Result<(), S3Error> {
        let parts = parts
            .iter()
            .map(|part| {
                Ok(CompletedPart::builder()
                    .part_number(part_number(part.number)?)
                    .e_tag(&part.etag)
                    .build())
            })
            .collect::<Result<Vec<_>, S3Error>>()?;
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

    /// Aborts a multipart upload, if it is under way.
    pub(super) async fn abort(&self, name: &str, upload: &str) -> Result<(), S3Error> {
        let request = self
            .client
            .abort_multipart_upload()
            .key(name)
            .upload_id(upload);
        match send!(self, AbortUpload, request) {
            Ok(_) | Err(S3Error::NoUpload) => Ok(()),
            Err(error) => Err(error),
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
}

impl Object {
    /// Returns the rank of the session that made the object, if it has a tag.
    pub(super) fn maker(&self) -> Option<Rank> {
        self.tag.map(|tag| tag.rank)
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

/// Returns the metadata with the tag of a maker.
pub(super) fn metadata_of(tag: Tag) -> HashMap<String, String> {
    HashMap::from([(TAG.to_owned(), tag.to_string())])
}

/// Returns the value of `Content-MD5`.
fn md5(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(Md5::digest(bytes))
}

fn body(bytes: Bytes) -> ByteStream {
    ByteStream::new(SdkBody::from(bytes))
}

/// Returns the value of `Range` and `x-amz-copy-source-range` for a range that is not empty.
fn range_of(range: &Range<u64>) -> String {
    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
}

fn size(length: Option<i64>) -> u64 {
    length
        .and_then(|length| u64::try_from(length).ok())
        .unwrap_or(0)
}

fn part_number(number: u32) -> Result<i32, S3Error> {
    i32::try_from(number).map_err(other)
}

fn timestamp(time: Option<DateTime>) -> Timestamp {
    let millis = time.and_then(|time| time.to_millis().ok());
    millis.map_or(UNKNOWN, Timestamp::from_millis)
}

/// Returns an entity tag with quotes.
fn etag(stated: Option<String>) -> String {
    let stated = stated.unwrap_or_default();
    match stated.is_empty() || stated.ends_with('"') {
        true => stated,
        false => format!("\"{stated}\""),
    }
}

/// Returns a name in the percent-encoding of URLs.
fn in_url(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' | b'~' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => {
                text.push(char::from(byte));
            }
            _ => write!(text, "%{byte:02X}").expect("writing to a string never fails"),
        }
    }
    text
}
