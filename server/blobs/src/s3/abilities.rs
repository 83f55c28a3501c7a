//! What the server can do, found out once at the start.
//!
//! Servers that offer S3 differ in what they leave out. What the store cannot do without is tried on a scratch object that is deleted
//! again, so that a permission or an operation that is missing is said at the start and not to the first client. What it can do without
//! is used where it works:
//!
//! - *Conditional writes.* A server that ignores conditions looks like one that honours them, until two nodes meet: so both answers are
//!   tried. Without them, a session is always bound (`resuming`).
//! - *Copying parts.* A server that does not is sent the same bytes again.
//! - *Verifying what is signed.* A server that does not notice that a part is not what its request is signed for is sent `Content-MD5`.
//!
//! A setting that says yes or no is believed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use domain::ids::SystemRandomness;
use domain::{BlobKey, Timestamp};

use super::bucket::{Bucket, Condition, Object, metadata_of};
use super::config::{Ability, Config};
use super::failures::{Refusal, Trouble, other};
use super::names::{Names, Rank, Tag};

/// What the scratch object holds.
const BYTES: Bytes = Bytes::from_static(b"Written to find out what the server can do.\n");
/// The entity tag of nothing.
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";
/// A scratch object that is so much older than another was left by a crash, in milliseconds.
const LEFT: i64 = 60 * 60 * 1000;

/// What the server can do of what the store can do without.
#[derive(Debug)]
pub(super) struct Abilities {
    /// Whether it puts an object, or completes a multipart upload to it, only on the condition that is stated.
    pub(super) conditional_writes: bool,
    copy_parts: AtomicBool,
}

impl Abilities {
    /// Tries what the server can do.
    ///
    /// # Errors
    /// It cannot do, or does not allow, what the store needs.
    pub(super) async fn find_out(
        bucket: &Bucket,
        names: &Names,
        config: &Config,
    ) -> Result<Self, Trouble> {
        let probe = Probe {
            bucket,
            names,
            name: names.scratch(&BlobKey::random(&SystemRandomness)),
        };
        let found = probe.run(config).await;
        let cleaned = probe.clean_up().await;
        let abilities = found?;
        cleaned?;
        abilities.tell();
        Ok(abilities)
    }

    fn tell(&self) {
        match self.conditional_writes {
            true => tracing::info!("the S3 server writes on conditions (If-None-Match, If-Match)"),
            false => tracing::warn!(
                "the S3 server does not write on conditions (If-None-Match, If-Match); every upload takes some more requests"
            ),
        }
        match self.copies_parts() {
            true => tracing::info!("the S3 server copies parts"),
            false => tracing::warn!(
                "the S3 server does not copy parts; what an upload had before a crash is sent to it once more"
            ),
        }
    }

    /// Whether it copies a range of an object to a part of a multipart upload.
    pub(super) fn copies_parts(&self) -> bool {
        self.copy_parts.load(Ordering::Relaxed)
    }

    /// Takes note that it refuses to.
    pub(super) fn does_not_copy_parts(&self, refusal: &Refusal) {
        if self.copy_parts.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                said = %refusal.source,
                "the S3 server does not copy parts; what an upload had before a crash is sent to it once more"
            );
        }
    }
}

/// A trial on an object that nobody else knows.
#[derive(Debug)]
struct Probe<'a> {
    bucket: &'a Bucket,
    names: &'a Names,
    name: String,
}

impl Probe<'_> {
    async fn run(&self, config: &Config) -> Result<Abilities, Trouble> {
        let object = self.put_and_look().await?;
        let upload = self.bucket.create_upload(&self.name, tag(2)).await?;
        if !self.bucket.notices_spoilt_part(&self.name, &upload).await? {
            tracing::info!(
                "the S3 server does not verify what requests are signed for; parts are sent with Content-MD5"
            );
        }
        self.send_part(&upload).await?;
        let copy_parts = match config.copy_parts {
            Ability::Yes => true,
            Ability::No => false,
            Ability::Auto => self.copies(&object, &upload).await?,
        };
        let conditional_writes = match config.conditional_writes {
            Ability::Yes => true,
            Ability::No => false,
            Ability::Auto => self.refuses_to_put().await?,
        };
        let conditional_writes = self.complete(&upload, conditional_writes).await?;
        Ok(Abilities {
            conditional_writes,
            copy_parts: AtomicBool::new(copy_parts),
        })
    }

    /// Puts an object, and sees whether it can be looked at, read and listed as what it is.
    async fn put_and_look(&self) -> Result<Object, Trouble> {
        let tag = tag(1);
        self.put(tag, &Condition::Always).await?;
        let object = self.look(tag).await?;
        let size = BYTES.len() as u64;
        let mut answer = self
            .bucket
            .get(&self.name, 0..size, Some(&object.etag))
            .await?;
        let mut read = BytesMut::new();
        while let Some(chunk) = answer.try_next().await.map_err(other)? {
            read.extend_from_slice(&chunk);
        }
        let listed = self.bucket.list_all(&self.name).await?;
        match read == BYTES && listed.iter().any(|listed| listed.name == self.name) {
            true => Ok(object),
            false => Err(unlike_s3(
                "an object that was put is not read or listed as it is",
            )),
        }
    }

    async fn put(&self, tag: Tag, condition: &Condition) -> Result<String, Trouble> {
        let metadata: HashMap<_, _> = metadata_of(tag);
        self.bucket
            .put(&self.name, BYTES, metadata, condition)
            .await
    }

    /// Looks at the object, which must be what was put.
    async fn look(&self, tag: Tag) -> Result<Object, Trouble> {
        let object = self
            .bucket
            .head(&self.name)
            .await?
            .map(|(object, _)| object);
        let is_as_put = |object: &Object| {
            object.size == BYTES.len() as u64 && object.tag == Some(tag) && !object.etag.is_empty()
        };
        object.filter(is_as_put).ok_or_else(|| {
            unlike_s3(
                "an object that was put has another length, no metadata (x-amz-meta-…) or no ETag",
            )
        })
    }

    /// Sends a part of a multipart upload, and sees whether both are listed.
    async fn send_part(&self, upload: &str) -> Result<(), Trouble> {
        self.bucket
            .upload_part(&self.name, upload, 1, BYTES)
            .await?;
        let parts = self.bucket.parts(&self.name, upload).await?;
        let uploads = self.bucket.all_uploads(&self.name).await?;
        let has_part = parts
            .iter()
            .any(|part| part.number == 1 && part.size == BYTES.len() as u64);
        match has_part && uploads.iter().any(|listed| listed.id == upload) {
            true => Ok(()),
            false => Err(unlike_s3("a multipart upload or its part is not listed")),
        }
    }

    async fn copies(&self, object: &Object, upload: &str) -> Result<bool, Trouble> {
        let from = (self.name.as_str(), object);
        let to = (self.name.as_str(), upload);
        match self.bucket.copy_part(from, to, 2, 0..object.size).await {
            Ok(part) => Ok(!part.etag.is_empty()),
            Err(Trouble::Refused(_) | Trouble::NoObject) => Ok(false),
            Err(trouble) => Err(trouble),
        }
    }

    /// Whether it refuses to put an object where a condition does not hold.
    async fn refuses_to_put(&self) -> Result<bool, Trouble> {
        let conditions = [Condition::Vacant, Condition::Holds(NO_ETAG.to_owned())];
        for condition in conditions {
            if !refuses(self.put(tag(1), &condition).await)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Completes the multipart upload; returns whether it does so on condition, if that is not ruled out.
    async fn complete(&self, upload: &str, conditional: bool) -> Result<bool, Trouble> {
        let mut conditional = conditional;
        if conditional {
            let object = self
                .bucket
                .head(&self.name)
                .await?
                .map(|(object, _)| object);
            let object = object.ok_or(Trouble::NoObject)?;
            conditional = refuses(self.completed(upload, &Condition::Vacant).await)?
                && self
                    .completed(upload, &Condition::Holds(object.etag))
                    .await
                    .is_ok();
        }
        if !conditional {
            match self.completed(upload, &Condition::Always).await {
                // It was when it should not have been.
                Ok(()) | Err(Trouble::NoUpload) => {}
                Err(trouble) => return Err(trouble),
            }
        }
        self.look(tag(2)).await?;
        Ok(conditional)
    }

    async fn completed(&self, upload: &str, condition: &Condition) -> Result<(), Trouble> {
        let mut parts = self.bucket.parts(&self.name, upload).await?;
        parts.truncate(1);
        self.bucket
            .complete(&self.name, upload, &parts, condition)
            .await
    }

    /// Deletes what it made, and what others left that were killed in the middle.
    async fn clean_up(&self) -> Result<(), Trouble> {
        let scratch = self.names.all_scratch();
        let objects = self.bucket.list_all(&scratch).await?;
        // MinIO lists uploads to names that are said in full only.
        let mut uploads = self.bucket.all_uploads(&self.name).await?;
        uploads.extend(self.bucket.all_uploads(&scratch).await?);
        let own = objects.iter().find(|listed| listed.name == self.name);
        let now = own.map_or(Timestamp::from_millis(0), |own| own.modified_at);
        let is_left = |name: &str, at: Timestamp| {
            name == self.name || at.as_millis() < now.as_millis().saturating_sub(LEFT)
        };
        for upload in uploads {
            if is_left(&upload.name, upload.initiated_at) {
                self.bucket.abort(&upload.name, &upload.id).await?;
            }
        }
        let left = objects
            .into_iter()
            .filter(|listed| is_left(&listed.name, listed.modified_at));
        let mut names: Vec<String> = left.map(|listed| listed.name).collect();
        // Two at least: it shows whether many may be deleted at once.
        names.push(format!("{}-2", self.name));
        self.bucket.delete(&names).await
    }
}

/// Whether it was refused because of its condition.
fn refuses<T>(outcome: Result<T, Trouble>) -> Result<bool, Trouble> {
    match outcome {
        Err(Trouble::Changed) => Ok(true),
        Ok(_) | Err(Trouble::Refused(_) | Trouble::NoObject | Trouble::NoUpload) => Ok(false),
        Err(trouble) => Err(trouble),
    }
}

fn tag(nth: u64) -> Tag {
    let rank = Rank {
        epoch: 0,
        session: 0,
    };
    Tag { rank, nth }
}

fn unlike_s3(found: &'static str) -> Trouble {
    Trouble::Refused(Refusal {
        advice: "the server behind blobs.endpoint does not do as S3 does; use one that is known to work",
        source: found.into(),
    })
}
