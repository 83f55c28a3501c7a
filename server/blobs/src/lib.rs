//! Where bytes are kept: the adapters of [`BlobStore`].
//!
//! [`open`] is the only way to a store that is configured; what every one of them promises is written on the port. A new kind of
//! store is a module, a variant of [`Config`] and an arm in [`open`].

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::blob_store::BlobError;
use domain::{Blob, BlobKey, BlobStore};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub mod fs;
pub mod s3;

/// Which store keeps the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Config {
    /// A directory of a local file system.
    Fs(fs::Config),
    /// A bucket of an S3-compatible server, for any number of servers.
    S3(Box<s3::Config>),
}

impl Default for Config {
    fn default() -> Self {
        Self::Fs(fs::Config::default())
    }
}

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// [`OpenError::Setting`] for the first setting that cannot be meant.
    pub fn check(&self) -> Result<(), OpenError> {
        match self {
            Self::Fs(config) => config.check(),
            Self::S3(config) => config.check(),
        }
    }
}

/// Why a store could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process, or another store of this one, works in the same directory.
    #[error("the blob directory {} is in use by another process", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A setting that cannot be meant.
    #[error("blobs.{setting} must be {requirement}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What it must be.
        requirement: &'static str,
    },
    /// The server of the bucket cannot be reached, or does not let this one do what it must.
    #[error("the bucket {bucket} cannot be used: {advice}")]
    Bucket {
        /// Its name.
        bucket: String,
        /// What to do about it.
        advice: &'static str,
        /// The cause.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Anything else; `doing` completes the sentence "failed to …".
    #[error("failed to {doing}")]
    Failed {
        /// What was being done.
        doing: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
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

/// The published blobs of a store that another process may have open.
#[derive(Debug)]
pub enum Published {
    /// The files of a store that is one process's at a time.
    Files(fs::PublishedFiles),
    /// A store that any number of processes may have open.
    Shared(Arc<dyn BlobStore>),
}

impl Published {
    /// The blobs of the configured store. Relative paths in `config` are below `data_dir`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn of(config: &Config, data_dir: &Path) -> Result<Self, OpenError> {
        match config {
            Config::Fs(config) => fs::PublishedFiles::of(config, data_dir).map(Self::Files),
            Config::S3(_) => open(config, data_dir).await.map(Self::Shared),
        }
    }

    /// As [`BlobStore::open`].
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
