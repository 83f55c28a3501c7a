//! Adapters of [`BlobStore`], the port to the storage of bytes.
//!
//! [`open`] opens the configured store. The port says what every store guarantees. A new kind of
//! store is a module, a variant of [`Config`] and an arm in [`open`].

use std::path::Path;
use std::sync::Arc;

use domain::blob_store::BlobError;
use domain::{Blob, BlobKey, BlobStore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod error;
pub mod fs;
pub mod s3;

pub use self::error::OpenError;

/// Store of the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Config {
    /// Directory of a local file system.
    Fs(fs::Config),
    /// Bucket of an S3-compatible server, for any number of servers.
    S3(Box<s3::Config>),
}

impl Default for Config {
    fn default() -> Self {
        Self::Fs(fs::Config::default())
    }
}

impl Config {
    /// Checks the rules that types do not express.
    ///
    /// # Errors
    /// [`OpenError::Setting`] for the first setting that is invalid.
    pub fn check(&self) -> Result<(), OpenError> {
        match self {
            Self::Fs(config) => config.check(),
            Self::S3(config) => config.check(),
        }
    }
}

/// Opens the configured store. Relative paths in `config` are below `data_dir`.
///
/// # Errors
/// See [`OpenError`].
pub async fn open(config: &Config, data_dir: &Path) -> Result<Arc<dyn BlobStore>, OpenError> {
    match config {
        Config::Fs(config) => Ok(Arc::new(fs::FsStore::open(config, data_dir).await?)),
        Config::S3(config) => Ok(Arc::new(s3::S3Store::open(config).await?)),
    }
}

/// Published blobs of a store that another process may have open.
#[derive(Debug)]
pub enum Published {
    /// Files of a store that one process may have open at a time.
    Files(fs::PublishedFiles),
    /// Store that any number of processes may have open.
    Shared(Arc<dyn BlobStore>),
}

impl Published {
    /// Returns the published blobs of the configured store. Relative paths in `config` are below
    /// `data_dir`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn of(config: &Config, data_dir: &Path) -> Result<Self, OpenError> {
        match config {
            Config::Fs(config) => fs::PublishedFiles::of(config, data_dir).map(Self::Files),
            Config::S3(_) => open(config, data_dir).await.map(Self::Shared),
        }
    }

    /// Opens a published blob, as [`BlobStore::open`] does.
    ///
    /// # Errors
    /// As there.
    pub async fn open(&self, key: &BlobKey, size: u64) -> Result<Arc<dyn Blob>, BlobError> {
        match self {
            Self::Files(files) => files.open(key, size).await,
            Self::Shared(store) => store.open(key, size).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytesize::ByteSize;

    use super::*;

    #[test]
    fn a_store_is_chosen_by_its_type() {
        let config: Config = toml::from_str("type = 'fs'").unwrap();
        assert_eq!(config, Config::default());

        let text = "type = 'fs'\npath = '/srv/blobs'\nread_chunk = '256 KiB'";
        let config = Config::Fs(fs::Config {
            path: "/srv/blobs".into(),
            read_chunk: ByteSize::kib(256),
            ..fs::Config::default()
        });
        assert_eq!(toml::from_str::<Config>(text).unwrap(), config);

        let text = "type = 's3'\nbucket = 'files'\nchecksums = 'md5'\nattempt_timeout = '3s'";
        let config = Config::S3(Box::new(s3::Config {
            bucket: "files".to_owned(),
            checksums: s3::Checksums::Md5,
            attempt_timeout: Duration::from_secs(3),
            ..s3::Config::default()
        }));
        assert_eq!(toml::from_str::<Config>(text).unwrap(), config);
    }

    #[test]
    fn unknown_types_and_keys_are_refused() {
        for text in [
            "",
            "type = 'tape'",
            "type = 'fs'\nreed_chunk = '8 KiB'",
            "type = 's3'\nbuckt = 'a'",
        ] {
            assert!(toml::from_str::<Config>(text).is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn settings_that_cannot_be_meant_are_refused() {
        let data = tempfile::tempdir().unwrap();
        let config = Config::Fs(fs::Config {
            read_chunk: ByteSize::b(1),
            ..fs::Config::default()
        });
        let error = open(&config, data.path()).await.unwrap_err();
        assert!(matches!(
            error,
            OpenError::Setting {
                setting: "read_chunk",
                ..
            }
        ));
    }
}
