//! Settings of a store in S3.

use std::fmt::{self, Debug};
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::error::OpenError;

/// Minimum size of a part of a multipart upload, except the last (Amazon S3, "Multipart upload
/// limits").
const MIN_PART_SIZE: u64 = 5 * 1024 * 1024;
/// Longest part that is gathered in memory. Longer ones are put together on the server.
const MAX_GATHERED: u64 = 64 * 1024 * 1024;

/// Longest lifetime of a pre-signed URL (Signature Version 4, `X-Amz-Expires`).
const MAX_LINK_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// Bucket of an S3-compatible server, which any number of servers may share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the bucket, which must exist.
    pub bucket: String,
    /// Beginning of all object names, for example `longhaul/`. With different prefixes, one bucket
    /// can hold several stores.
    pub prefix: String,
    /// URL of the server, without the bucket, for example `https://s3.example.org`. Leave it out
    /// for Amazon S3.
    pub endpoint: Option<String>,
    /// Region that requests are signed for. By default that of the environment, of the AWS profile
    /// or, without an `endpoint`, of the machine in Amazon's cloud, else `us-east-1`.
    pub region: Option<String>,
    /// Names the bucket in the path of URLs instead of the host name. Most servers other than
    /// Amazon's need this.
    pub path_style: bool,
    /// Access key id to sign with. Without it and the secret, credentials come from the
    /// environment, the AWS profile, the container or, if the endpoint is Amazon's, the role of the
    /// machine.
    pub access_key_id: Option<String>,
    /// Secret that belongs to `access_key_id`.
    pub secret_access_key: Option<Secret>,
    /// Checksum by which the server verifies objects, in addition to the SHA-256 that every request
    /// is signed with. Parts of multipart uploads are sent with `Content-MD5` at most: if that is
    /// chosen, or if a trial at the start shows that the server does not verify the SHA-256.
    /// Servers agree on nothing more.
    pub checksums: Checksums,
    /// The server honours `If-None-Match` and `If-Match` when it puts objects: `true`, `false`, or
    /// `"auto"`, which tries it at the start. Without it, every upload takes some more requests,
    /// which keep out late requests of a paused server of this store.
    pub conditional_writes: Ability,
    /// The server copies a range of an object to a part of a multipart upload: `true`, `false`, or
    /// `"auto"`, which tries it at the start. Without it, the bytes that an upload had before a
    /// crash are read and sent once more.
    pub copy_parts: Ability,
    /// Size of the parts of a multipart upload: 5 MiB to 64 MiB. Uploads whose length would take
    /// more than 10,000 parts get larger ones.
    #[schemars(with = "settings::Size")]
    pub part_size: ByteSize,
    /// Maximum number of parts of one upload that are sent at the same time.
    pub parts_in_flight: NonZeroUsize,
    /// Memory for the parts of all uploads: 64 MiB or more. Uploads wait for room in it.
    #[schemars(with = "settings::Size")]
    pub memory: ByteSize,
    /// Number of bytes that one request reads: 64 KiB to 1 GiB. A download sends the next request
    /// while it passes on the bytes of the one before.
    #[schemars(with = "settings::Size")]
    pub read_size: ByteSize,
    /// Maximum number of downloads that keep their answer from the S3 server open while their
    /// client takes nothing: 16 or more. Each holds up to two connections with 408 KiB. Beyond it,
    /// the answer that was read longest ago is closed; the next bytes of that download cost another
    /// request.
    pub max_paused_reads: usize,
    /// Memory for blocks around short reads, as those of archives: 16 MiB or more.
    #[schemars(with = "settings::Size")]
    pub read_memory: ByteSize,
    /// Minimum size of files whose `GET` is redirected to a pre-signed URL of the bucket. Without
    /// it, the server sends all files itself.
    #[schemars(with = "Option<settings::Size>")]
    pub redirect_min_size: Option<ByteSize>,
    /// Lifetime of such a URL: 1 second to 7 days, and no longer than the credentials that it is
    /// signed with. A client that is cut off later must ask the server again.
    #[serde(with = "settings::Time")]
    pub redirect_lifetime: Duration,
    /// URL of the S3 server for clients, if it differs from `endpoint`.
    pub redirect_endpoint: Option<String>,
    /// Timeout for connecting.
    #[serde(with = "settings::Time")]
    pub connect_timeout: Duration,
    /// Timeout for one attempt of a request, until its answer begins.
    #[serde(with = "settings::Time")]
    pub attempt_timeout: Duration,
    /// Timeout for a request with all its attempts.
    #[serde(with = "settings::Time")]
    pub operation_timeout: Duration,
    /// Maximum number of attempts of a request.
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
            conditional_writes: Ability::Auto,
            copy_parts: Ability::Auto,
            part_size: ByteSize::mib(8),
            parts_in_flight: const { NonZeroUsize::new(2).unwrap() },
            memory: ByteSize::mib(256),
            read_size: ByteSize::mib(8),
            max_paused_reads: 1024,
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
    /// Checks every setting.
    ///
    /// # Errors
    /// [`OpenError::Setting`] for the first that is invalid.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let part = self.part_size.as_u64();
        let read = self.read_size.as_u64();
        let rules = [
            (
                is_bucket(&self.bucket),
                "bucket",
                "the name of a bucket alone, for example \"longhaul\"",
            ),
            (
                is_prefix(&self.prefix),
                "prefix",
                "at most 512 bytes of text on one line, without a slash at the beginning, for example \"longhaul/\"",
            ),
            (
                self.endpoint.as_deref().is_none_or(is_url),
                "endpoint",
                "a URL without the bucket, for example \"https://s3.example.org\"",
            ),
            (
                self.redirect_endpoint.as_deref().is_none_or(is_url),
                "redirect_endpoint",
                "a URL without the bucket, for example \"https://s3.example.org\"",
            ),
            (
                self.region.as_deref().is_none_or(is_region),
                "region",
                "the name of a region, for example \"eu-central-1\"",
            ),
            (
                (MIN_PART_SIZE..=MAX_GATHERED).contains(&part),
                "part_size",
                "between 5 MiB and 64 MiB",
            ),
            (
                self.memory.as_u64() >= MAX_GATHERED,
                "memory",
                "64 MiB or more",
            ),
            (
                self.read_memory >= ByteSize::mib(16),
                "read_memory",
                "16 MiB or more",
            ),
            (
                self.max_paused_reads >= 16,
                "max_paused_reads",
                "16 or more",
            ),
            (
                (64 * 1024..=1024 * 1024 * 1024).contains(&read),
                "read_size",
                "between 64 KiB and 1 GiB",
            ),
            (
                (Duration::from_secs(1)..=MAX_LINK_LIFETIME).contains(&self.redirect_lifetime),
                "redirect_lifetime",
                "between 1 second and 7 days",
            ),
            (
                self.access_key_id.is_some() == self.secret_access_key.is_some(),
                "secret_access_key",
                "set together with blobs.access_key_id, or not at all",
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

/// Limits that cannot be configured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Maximum number of parts of a multipart upload.
    pub(super) max_parts: u64,
    /// Longest part that is gathered in memory, in bytes.
    pub(super) max_gathered: u64,
    /// Pause between the first two attempts of a request.
    pub(super) first_pause: Duration,
    /// Time that a server has to complete a multipart upload. One that is neither under way nor
    /// completed by then is lost.
    pub(super) completing: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_parts: 10_000,
            max_gathered: MAX_GATHERED,
            first_pause: Duration::from_millis(100),
            completing: Duration::from_mins(1),
        }
    }
}

/// Returns `true` for names that a bucket can have, and for ARNs of access points.
fn is_bucket(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    text.starts_with("arn:") || (!text.is_empty() && text.bytes().all(is_plain))
}

fn is_prefix(text: &str) -> bool {
    !text.starts_with('/') && text.len() <= 512 && !text.contains(char::is_control)
}

fn is_region(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    !text.is_empty() && text.bytes().all(is_plain)
}

/// Returns `true` for `http` and `https` URLs of a server, with or without a path.
fn is_url(text: &str) -> bool {
    let Ok(url) = text.parse::<Url>() else {
        return false;
    };
    let is_http = matches!(url.scheme(), "http" | "https");
    let has_host = url.host_str().is_some_and(|host| !host.is_empty());
    let is_bare = !text.contains(['?', '#', '@']);
    is_http && has_host && is_bare
}

/// Ability of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema)]
#[schemars(with = "String", inline)]
pub enum Ability {
    /// To be tried.
    Auto,
    /// Present.
    Yes,
    /// Absent.
    No,
}

impl From<bool> for Ability {
    fn from(can: bool) -> Self {
        match can {
            true => Self::Yes,
            false => Self::No,
        }
    }
}

impl Serialize for Ability {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Yes => serializer.serialize_bool(true),
            Self::No => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for Ability {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AbilityVisitor)
    }
}

struct AbilityVisitor;

impl Visitor<'_> for AbilityVisitor {
    type Value = Ability;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false or \"auto\"")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Ability, E> {
        Ok(value.into())
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Ability, E> {
        match value {
            "auto" => Ok(Ability::Auto),
            _ => Err(E::invalid_value(Unexpected::Str(value), &self)),
        }
    }
}

/// Checksum by which a server verifies objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Checksums {
    /// `x-amz-checksum-crc32`, which most servers know, for objects that are put with one request.
    Crc32,
    /// `x-amz-checksum-crc64nvme`.
    Crc64nvme,
    /// `x-amz-checksum-sha256`.
    Sha256,
    /// `Content-MD5`, which every server knows, also for parts of multipart uploads.
    Md5,
    /// None beside the signature.
    None,
}

/// Text that is not printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the text.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> Option<&'static str> {
        let mut config = Config {
            bucket: "longhaul".to_owned(),
            ..Config::default()
        };
        change(&mut config);
        match config.check() {
            Ok(()) => None,
            Err(OpenError::Setting { setting, .. }) => Some(setting),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn an_endpoint_is_a_url_of_a_server() {
        for url in [
            "https://s3.example.org",
            "http://127.0.0.1:9000",
            "http://[::1]:9000/",
            "https://example.org/storage",
        ] {
            let said = Some(url.to_owned());
            assert_eq!(refused(|config| config.endpoint = said.clone()), None);
            assert_eq!(refused(|config| config.redirect_endpoint = said), None);
        }
        for text in [
            "",
            "s3.example.org",
            "localhost:9000",
            "127.0.0.1:9000",
            "//s3.example.org",
            "https://",
            "ftp://s3.example.org",
            "s3://bucket",
            "https://key:secret@s3.example.org",
            "https://s3.example.org?x=y",
            "https://s3.example.org/#x",
            "https://s3 example.org",
        ] {
            let said = Some(text.to_owned());
            let found = refused(|config| config.endpoint = said.clone());
            assert_eq!(found, Some("endpoint"), "{text}");
            let found = refused(|config| config.redirect_endpoint = said);
            assert_eq!(found, Some("redirect_endpoint"), "{text}");
        }
    }

    #[test]
    fn names_are_names_alone() {
        for text in ["", "s3://longhaul", "longhaul/files", "long haul"] {
            let found = refused(|config| config.bucket = text.to_owned());
            assert_eq!(found, Some("bucket"), "{text}");
        }
        for text in ["", "eu central 1", "https://eu-central-1"] {
            let found = refused(|config| config.region = Some(text.to_owned()));
            assert_eq!(found, Some("region"), "{text}");
        }
        for text in ["/files", "a\nb"] {
            let found = refused(|config| config.prefix = text.to_owned());
            assert_eq!(found, Some("prefix"), "{text}");
        }
        let arn = "arn:aws:s3:eu-central-1:123456789012:accesspoint/longhaul";
        assert_eq!(refused(|config| config.bucket = arn.to_owned()), None);
    }

    #[test]
    fn an_ability_is_tried_or_said() {
        for (text, expected) in [
            ("conditional_writes = true", Ability::Yes),
            ("conditional_writes = false", Ability::No),
            ("conditional_writes = 'auto'", Ability::Auto),
            ("", Ability::Auto),
        ] {
            let config: Config = toml::from_str(text).expect("it is one of three");
            assert_eq!(config.conditional_writes, expected, "{text}");
            let again = toml::to_string(&config).expect("a configuration is text");
            assert_eq!(
                toml::from_str::<Config>(&again).expect("so is this"),
                config
            );
        }
        let error = toml::from_str::<Config>("conditional_writes = 'perhaps'").unwrap_err();
        let expected = "true, false or \"auto\"";
        assert!(error.to_string().contains(expected), "{error}");
    }
}
