//! Connection to the server: the client of the SDK, and the trial of what the server can do.
//!
//! S3-compatible servers differ in what they leave out. At the start, the store tries what it needs
//! on a scratch object, which it deletes again. So a missing permission or operation is reported at
//! the start, and not to the first client. Three abilities are used if present:
//!
//! - *Conditional writes.* A server that ignores conditions looks like one that honours them until
//!   two nodes meet, so both outcomes are tried. Without them, sessions are always bound
//!   (`session::resuming`).
//! - *Copying parts.* Otherwise the same bytes are sent again.
//! - *Verifying the signed SHA-256.* Otherwise parts are sent with `Content-MD5`.
//!
//! Configured abilities are not tried, except that even with `conditional_writes = true` the server
//! must honour conditions when it completes a multipart upload.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::environment::{
    EnvironmentVariableCredentialsProvider, EnvironmentVariableRegionProvider,
};
use aws_config::meta::credentials::CredentialsProviderChain;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::web_identity_token::WebIdentityTokenCredentialsProvider;
use aws_config::{ConfigLoader, ecs};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, Credentials, Region, RequestChecksumCalculation,
    ResponseChecksumValidation,
};
use bytes::{Bytes, BytesMut};
use domain::ids::SystemRandomness;
use domain::{BlobKey, Timestamp};
use url::Url;

use super::bucket::{Bucket, Condition, Object, metadata_of};
use super::config::{Ability, Checksums, Config};
use super::errors::{Refusal, RepeatDirectories, S3Error, other};
use super::names::{Names, Rank, Tag};
use crate::error::OpenError;

/// Region to sign for by default. Servers other than Amazon's mostly ignore it.
const REGION: &str = "us-east-1";

/// Longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Returns a client for the configured server. It pauses between attempts, first for about
/// `first_pause`, then longer and longer.
pub(super) async fn client(config: &Config, first_pause: Duration) -> Client {
    let mut environment = aws_config::defaults(BehaviorVersion::v2026_01_12());
    if !is_amazons(config) {
        environment = without_machine(environment);
    }
    if let Some(region) = &config.region {
        environment = environment.region(Region::new(region.clone()));
    }
    if let (Some(id), Some(secret)) = (&config.access_key_id, &config.secret_access_key) {
        let credentials = Credentials::new(id, secret.reveal(), None, None, "configuration");
        environment = environment.credentials_provider(credentials);
    }
    let environment = environment.load().await;
    let region = environment.region().cloned();
    // A server that need not verify checksums is not expected to state any.
    let (calculation, validation) = match config.checksums {
        Checksums::Crc32 | Checksums::Crc64nvme | Checksums::Sha256 => (
            RequestChecksumCalculation::WhenSupported,
            ResponseChecksumValidation::WhenSupported,
        ),
        Checksums::Md5 | Checksums::None => (
            RequestChecksumCalculation::WhenRequired,
            ResponseChecksumValidation::WhenRequired,
        ),
    };
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .operation_attempt_timeout(config.attempt_timeout)
        .operation_timeout(config.operation_timeout)
        .build();
    let mut builder = Builder::from(&environment)
        .region(region.unwrap_or_else(|| Region::from_static(REGION)))
        .force_path_style(config.path_style)
        .request_checksum_calculation(calculation)
        .response_checksum_validation(validation)
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(config.attempts.get())
                .with_initial_backoff(first_pause)
                .with_max_backoff(MAX_PAUSE),
        )
        .retry_classifier(RepeatDirectories)
        .timeout_config(timeouts);
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    Client::from_conf(builder.build())
}

/// Returns `true` if the server is Amazon's, so that the machine may be in Amazon's cloud.
/// Elsewhere nobody answers requests for its metadata, and waiting for them would delay the start.
fn is_amazons(config: &Config) -> bool {
    let endpoint = config
        .endpoint
        .as_ref()
        .and_then(|url| url.parse::<Url>().ok());
    let host = endpoint.as_ref().and_then(Url::host_str);
    host.is_none_or(|host| host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn"))
}

/// Looks for region and credentials everywhere but in the metadata of the machine.
fn without_machine(environment: ConfigLoader) -> ConfigLoader {
    let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
        .or_else(Region::from_static(REGION));
    let profile = ProfileFileCredentialsProvider::builder().build();
    let token = WebIdentityTokenCredentialsProvider::builder().build();
    let container = ecs::EcsCredentialsProvider::builder().build();
    let credentials = CredentialsProviderChain::first_try(
        "Environment",
        EnvironmentVariableCredentialsProvider::new(),
    )
    .or_else("Profile", profile)
    .or_else("WebIdentityToken", token)
    .or_else("Container", container);
    environment.region(region).credentials_provider(credentials)
}

/// Returns the error for a bucket that cannot be used, with the change to make.
pub(super) fn unusable(bucket: &str, error: S3Error) -> OpenError {
    let (advice, source) = match error {
        S3Error::Refused(Refusal { advice, source }) => (advice, source),
        S3Error::Full => (
            "it is full; make room or raise its quota",
            "no room left".into(),
        ),
        S3Error::NoObject | S3Error::NoUpload | S3Error::Changed => (
            "the server denies what it has just stored; make sure that blobs.endpoint is the URL of its S3 API, for example \"https://s3.example.org\"",
            format!("{error:?}").into(),
        ),
        S3Error::Transient(source) | S3Error::Other(source) => (unanswered(&*source), source),
    };
    OpenError::Bucket {
        bucket: bucket.to_owned(),
        advice,
        source,
    }
}

/// Returns the change to make if there is no answer.
fn unanswered(source: &(dyn Error + Send + Sync)) -> &'static str {
    let message = source.to_string();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["no credentials", "CredentialsNotLoaded", "credentials"]) {
        "no credentials were found; set blobs.access_key_id and blobs.secret_access_key, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    } else if says(&["dispatch failure", "timeout", "timed out"]) {
        "the server cannot be reached; correct blobs.endpoint, and blobs.path_style if the bucket is not part of the server's host name"
    } else {
        "the server does not answer like S3; make sure that blobs.endpoint is the URL of its S3 API, for example \"https://s3.example.org\""
    }
}

/// Content of the scratch object.
const BYTES: Bytes = Bytes::from_static(b"Written to try what the server can do.\n");
/// Entity tag that no object has.
const NO_ETAG: &str = "\"00000000000000000000000000000000\"";
/// Age from which on scratch objects are taken for those of a crashed process, in milliseconds.
const MAX_AGE: i64 = 60 * 60 * 1000;

/// Optional abilities of the server.
#[derive(Debug)]
pub(super) struct Abilities {
    /// Set if it puts objects, and completes multipart uploads, only if the stated condition holds.
    pub(super) conditional_writes: bool,
    copy_parts: AtomicBool,
}

impl Abilities {
    /// Tries what the server can do.
    ///
    /// # Errors
    /// The server lacks or forbids an operation that the store needs.
    pub(super) async fn find_out(
        bucket: &Bucket,
        names: &Names,
        config: &Config,
    ) -> Result<Self, S3Error> {
        let probe = Probe {
            bucket,
            names,
            name: names.scratch(&BlobKey::random(&SystemRandomness)),
        };
        let found = probe.run(config).await;
        let cleaned = probe.clean_up().await;
        let abilities = found?;
        cleaned?;
        abilities.log();
        Ok(abilities)
    }

    fn log(&self) {
        match self.conditional_writes {
            true => {
                tracing::info!("the S3 server honours conditional writes (If-None-Match, If-Match)")
            }
            false => tracing::warn!(
                "the S3 server ignores conditional writes (If-None-Match, If-Match); every upload takes some more requests"
            ),
        }
        match self.copies_parts() {
            true => tracing::info!("the S3 server copies parts"),
            false => tracing::warn!(
                "the S3 server does not copy parts; the bytes that an upload had before a crash are sent again"
            ),
        }
    }

    /// Returns `true` if the server copies a range of an object to a part of a multipart upload.
    pub(super) fn copies_parts(&self) -> bool {
        self.copy_parts.load(Ordering::Relaxed)
    }

    /// Records that the server refused to copy a part, and copies no more.
    pub(super) fn disable_copies(&self, refusal: &Refusal) {
        if self.copy_parts.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                answer = %refusal.source,
                "the S3 server does not copy parts; the bytes that an upload had before a crash are sent again"
            );
        }
    }
}

/// Trial on an object that nobody else knows.
#[derive(Debug)]
struct Probe<'a> {
    bucket: &'a Bucket,
    names: &'a Names,
    name: String,
}

impl Probe<'_> {
    async fn run(&self, config: &Config) -> Result<Abilities, S3Error> {
        let object = self.put_and_look().await?;
        let upload = self.bucket.create_upload(&self.name, tag(2)).await?;
        if !self.bucket.notices_spoilt_part(&self.name, &upload).await? {
            tracing::info!(
                "the S3 server does not verify the signed SHA-256; parts are sent with Content-MD5"
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

    /// Puts an object, looks at it, reads it and lists it.
    async fn put_and_look(&self) -> Result<Object, S3Error> {
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
            false => Err(unlike_s3("an object is not read or listed as it was put")),
        }
    }

    async fn put(&self, tag: Tag, condition: &Condition) -> Result<String, S3Error> {
        let metadata: HashMap<_, _> = metadata_of(tag);
        self.bucket
            .put(&self.name, BYTES, metadata, condition)
            .await
    }

    /// Looks at the object, which must be as it was put.
    async fn look(&self, tag: Tag) -> Result<Object, S3Error> {
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
                "an object has another length than was put, no metadata (x-amz-meta-…) or no ETag",
            )
        })
    }

    /// Sends a part of a multipart upload, and lists both.
    async fn send_part(&self, upload: &str) -> Result<(), S3Error> {
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

    async fn copies(&self, object: &Object, upload: &str) -> Result<bool, S3Error> {
        let from = (self.name.as_str(), object);
        let to = (self.name.as_str(), upload);
        match self.bucket.copy_part(from, to, 2, 0..object.size).await {
            Ok(part) => Ok(!part.etag.is_empty()),
            Err(S3Error::Refused(_) | S3Error::NoObject) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns `true` if the server refuses to put an object against a condition.
    async fn refuses_to_put(&self) -> Result<bool, S3Error> {
        let conditions = [Condition::Vacant, Condition::Holds(NO_ETAG.to_owned())];
        for condition in conditions {
            if !refuses(self.put(tag(1), &condition).await)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Completes the multipart upload. Returns `true` if the server honours conditions for it, and
    /// they are not ruled out by `conditional`.
    async fn complete(&self, upload: &str, conditional: bool) -> Result<bool, S3Error> {
        let mut conditional = conditional;
        if conditional {
            let object = self
                .bucket
                .head(&self.name)
                .await?
                .map(|(object, _)| object);
            let object = object.ok_or(S3Error::NoObject)?;
            conditional = refuses(self.completed(upload, &Condition::Vacant).await)?
                && self
                    .completed(upload, &Condition::Holds(object.etag))
                    .await
                    .is_ok();
        }
        if !conditional {
            match self.completed(upload, &Condition::Always).await {
                // It was completed against its condition.
                Ok(()) | Err(S3Error::NoUpload) => {}
                Err(error) => return Err(error),
            }
        }
        self.look(tag(2)).await?;
        Ok(conditional)
    }

    async fn completed(&self, upload: &str, condition: &Condition) -> Result<(), S3Error> {
        let mut parts = self.bucket.parts(&self.name, upload).await?;
        parts.truncate(1);
        self.bucket
            .complete(&self.name, upload, &parts, condition)
            .await
    }

    /// Deletes the objects and uploads of this trial, and those that crashed processes left.
    async fn clean_up(&self) -> Result<(), S3Error> {
        let scratch = self.names.all_scratch();
        let objects = self.bucket.list_all(&scratch).await?;
        // MinIO lists uploads to complete names only.
        let mut uploads = self.bucket.all_uploads(&self.name).await?;
        uploads.extend(self.bucket.all_uploads(&scratch).await?);
        let own = objects.iter().find(|listed| listed.name == self.name);
        let now = own.map_or(Timestamp::from_millis(0), |own| own.modified_at);
        let is_left = |name: &str, at: Timestamp| {
            name == self.name || at.as_millis() < now.as_millis().saturating_sub(MAX_AGE)
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
        // At least two names, to try whether many may be deleted at once.
        names.push(format!("{}-2", self.name));
        self.bucket.delete(&names).await
    }
}

/// Returns `true` if the request was refused because of its condition.
fn refuses<T>(outcome: Result<T, S3Error>) -> Result<bool, S3Error> {
    match outcome {
        Err(S3Error::Changed) => Ok(true),
        Ok(_) | Err(S3Error::Refused(_) | S3Error::NoObject | S3Error::NoUpload) => Ok(false),
        Err(error) => Err(error),
    }
}

fn tag(nth: u64) -> Tag {
    let rank = Rank {
        epoch: 0,
        session: 0,
    };
    Tag { rank, nth }
}

fn unlike_s3(found: &'static str) -> S3Error {
    S3Error::Refused(Refusal {
        advice: "the server behind blobs.endpoint behaves unlike S3; use one that is known to work",
        source: found.into(),
    })
}
