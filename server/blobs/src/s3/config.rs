//! The settings of a store in S3, and what they must be.

use std::fmt::{self, Debug};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use crate::OpenError;

/// The smallest part that a multipart upload may have, but for its last one (Amazon S3, "Multipart upload limits").
const SMALLEST_PART: u64 = 5 * 1024 * 1024;
/// The longest part that is gathered in memory; longer ones are put together on the server.
pub(super) const MOST_GATHERED: u64 = 64 * 1024 * 1024;

/// The longest that a pre-signed URL can be good for (Signature Version 4, `X-Amz-Expires`).
const LONGEST_LINK: Duration = Duration::from_hours(7 * 24);

/// A bucket of an S3-compatible server, which any number of servers may share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The bucket. It must exist.
    pub bucket: String,
    /// What the name of every object begins with, so that one bucket can hold several stores; for example `longhaul/`.
    pub prefix: String,
    /// The URL of the server, without the bucket; left out for Amazon S3.
    pub endpoint: Option<String>,
    /// The region that requests are signed for; left out, that of the environment or of the AWS profile, else `us-east-1`.
    pub region: Option<String>,
    /// Whether the bucket is named in the path of a URL instead of the host name. Most servers that are not Amazon's need it.
    pub path_style: bool,
    /// The key id to sign with. Left out with the secret, credentials come from the environment, the AWS profile, or the
    /// machine's role.
    pub access_key_id: Option<String>,
    /// The secret that belongs to `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// How the server verifies what it is sent.
    pub checksums: Checksums,
    /// Whether the server refuses to put an object where `If-None-Match` or `If-Match` says so. Where it does not, every upload takes
    /// some more requests, which keep out what a server of this store that was paused still sends.
    pub conditional_writes: bool,
    /// The size of the parts of a multipart upload: 5 MiB to 64 MiB. Uploads whose length would take more than 10,000 parts get
    /// larger ones.
    pub part_size: ByteSize,
    /// Most parts of one upload that are being sent at the same time.
    pub parts_in_flight: NonZeroUsize,
    /// Memory for the parts of all uploads: 64 MiB or more. Uploads wait for room in it.
    pub memory: ByteSize,
    /// How many bytes one request reads: 64 KiB to 1 GiB. A download has the next request under way while it passes on the bytes of one.
    pub read_size: ByteSize,
    /// Memory for what short reads have read around themselves, as those of archives do: 16 MiB or more.
    pub read_memory: ByteSize,
    /// Files of this size or more are not sent by the server: a `GET` is redirected to a pre-signed URL of the bucket. Left out, all
    /// are sent.
    pub redirect_min_size: Option<ByteSize>,
    /// How long such a URL is good for: 1 second to 7 days, and no longer than the credentials that it is signed with. A client that
    /// was cut later has to ask the server anew.
    #[serde(with = "humantime_serde")]
    pub redirect_lifetime: Duration,
    /// What clients know the S3 server by, where that is not `endpoint`.
    pub redirect_endpoint: Option<String>,
    /// How long connecting may take.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long one attempt of a request may take, that is until its answer begins.
    #[serde(with = "humantime_serde")]
    pub attempt_timeout: Duration,
    /// How long a request may take with all its attempts.
    #[serde(with = "humantime_serde")]
    pub operation_timeout: Duration,
    /// How often a request is attempted.
    pub attempts: NonZeroU32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bucket: String::new(),
            prefix: String::new(),
            endpoint: None,
            region: None,
            path_style: false,
            access_key_id: None,
            secret_access_key: None,
            checksums: Checksums::Crc32,
            conditional_writes: true,
            part_size: ByteSize::mib(8),
            parts_in_flight: const { NonZeroUsize::new(2).unwrap() },
            memory: ByteSize::mib(256),
            read_size: ByteSize::mib(8),
            read_memory: ByteSize::mib(64),
            redirect_min_size: None,
            redirect_lifetime: Duration::from_hours(1),
            redirect_endpoint: None,
            connect_timeout: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_mins(2),
            attempts: const { NonZeroU32::new(5).unwrap() },
        }
    }
}

impl Config {
    /// Whether every setting is one that can be meant.
    ///
    /// # Errors
    /// [`OpenError::Setting`] for the first that is not.
    pub(super) fn check(&self) -> Result<(), OpenError> {
        let part = self.part_size.as_u64();
        let read = self.read_size.as_u64();
        let rules = [
            (!self.bucket.is_empty(), "bucket", "the name of a bucket"),
            (
                !self.prefix.starts_with('/') && self.prefix.len() <= 512,
                "prefix",
                "at most 512 bytes long and without a slash at its beginning",
            ),
            (
                (SMALLEST_PART..=MOST_GATHERED).contains(&part),
                "part_size",
                "between 5 MiB and 64 MiB",
            ),
            (
                self.memory.as_u64() >= MOST_GATHERED,
                "memory",
                "64 MiB or more",
            ),
            (
                self.read_memory >= ByteSize::mib(16),
                "read_memory",
                "16 MiB or more",
            ),
            (
                (64 * 1024..=1024 * 1024 * 1024).contains(&read),
                "read_size",
                "between 64 KiB and 1 GiB",
            ),
            (
                (Duration::from_secs(1)..=LONGEST_LINK).contains(&self.redirect_lifetime),
                "redirect_lifetime",
                "between 1 second and 7 days",
            ),
            (
                self.access_key_id.is_some() == self.secret_access_key.is_some(),
                "secret_access_key",
                "said together with blobs.access_key_id, or not at all",
            ),
        ];
        for (holds, setting, requirement) in rules {
            if !holds {
                return Err(OpenError::Setting {
                    setting,
                    requirement,
                });
            }
        }
        Ok(())
    }
}

/// How a server verifies what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksums {
    /// `x-amz-checksum-crc32`, which most servers know.
    Crc32,
    /// `x-amz-checksum-crc64nvme`.
    Crc64nvme,
    /// `x-amz-checksum-sha256`.
    Sha256,
    /// `Content-MD5`, which every server knows.
    Md5,
    /// Not at all.
    None,
}

/// A text that is not for eyes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
