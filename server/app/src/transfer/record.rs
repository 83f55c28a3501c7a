//! Small JSON files for resuming in another run: the URL of an upload, the file of a partial
//! download.
//!
//! A record is locked exclusively while its transfer runs, and removed when the transfer is done.
//! An unreadable record counts as none: the transfer begins anew.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::Error;

/// Maximum size of a record, in bytes.
const LARGEST: u64 = 64 * 1024;

/// Locked record file.
#[derive(Debug)]
pub(crate) struct Record {
    file: File,
    path: PathBuf,
}

impl Record {
    /// Opens or creates the record at `path`, with the directories above it, and locks it.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if another process has locked it.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let fail = |doing| {
            move |source| Error::Local {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        if let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            fs::create_dir_all(parent).map_err(fail("create the directory of"))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt as _;
            // An upload's URL grants write access, so only the owner may read the record.
            options.mode(0o600);
        }
        let file = options.open(path).map_err(fail("open"))?;
        match file.try_lock() {
            Ok(()) => Ok(Self {
                file,
                path: path.to_owned(),
            }),
            Err(TryLockError::WouldBlock) => Err(Error::Busy {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(fail("lock")(source)),
        }
    }

    /// Returns the content of the record, if it is readable.
    pub(crate) fn read<T: DeserializeOwned>(&mut self) -> Option<T> {
        let mut text = String::new();
        self.file.rewind().ok()?;
        (&self.file).take(LARGEST).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Replaces the content of the record, durably.
    pub(crate) fn write<T: Serialize>(&mut self, value: &T) -> Result<(), Error> {
        let text = serde_json::to_string(value).expect("records are made of text and numbers");
        let write = |mut file: &File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text.as_bytes())?;
            file.sync_data()
        };
        write(&self.file).map_err(|source| Error::Local {
            doing: "write",
            path: self.path.clone(),
            source,
        })
    }

    /// Removes the record, since the transfer is done or cannot resume.
    pub(crate) fn remove(self) -> Result<(), Error> {
        // The file is emptied first: another process may have opened it and wait for the lock.
        let removed = self
            .file
            .set_len(0)
            .and_then(|()| fs::remove_file(&self.path));
        removed.map_err(|source| Error::Local {
            doing: "remove",
            path: self.path,
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_kept_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/down/record.json");
        let mut record = Record::open(&path).unwrap();
        assert_eq!(record.read::<Vec<u64>>(), None);
        record.write(&[1, 2, 3, 4, 5]).unwrap();
        record.write(&[6]).unwrap();
        drop(record);

        let mut record = Record::open(&path).unwrap();
        assert_eq!(record.read::<Vec<u64>>(), Some(vec![6]));
        assert_eq!(record.read::<Vec<u64>>(), Some(vec![6]));
        assert_eq!(record.read::<String>(), None);
        record.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_record_has_one_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        let _holder = Record::open(&path).unwrap();
        assert!(matches!(Record::open(&path), Err(Error::Busy { .. })));
    }

    #[test]
    fn a_torn_record_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        fs::write(&path, "{\"upload\": \"http://exa").unwrap();
        assert_eq!(
            Record::open(&path).unwrap().read::<serde_json::Value>(),
            None
        );
    }
}
