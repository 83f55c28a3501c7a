//! Files: find, read, delete, list.

use std::sync::Arc;

use crate::access::Action;
use crate::file::WriteCondition;
use crate::metadata_store::Deleted;
use crate::{Authorized, Blob, BlobStore, Clock, Error, File, FilePath, MetadataStore};

/// The files of this server.
#[derive(Debug, Clone)]
pub struct Files {
    blobs: Arc<dyn BlobStore>,
    metadata: Arc<dyn MetadataStore>,
    clock: Arc<dyn Clock>,
}

impl Files {
    /// Creates the service on these stores.
    pub fn new(
        blobs: Arc<dyn BlobStore>,
        metadata: Arc<dyn MetadataStore>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            blobs,
            metadata,
            clock,
        }
    }
}

impl Authorized<Files> {
    /// Returns the file under a path.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Forbidden`] or a store's.
    pub async fn find(&self, path: &FilePath) -> Result<File, Error> {
        self.principal.check(Action::Read(path))?;
        self.service
            .metadata
            .file(path)
            .await
            .map_err(Error::metadata("read a file"))?
            .ok_or(Error::NotFound { what: "file" })
    }

    /// Opens the bytes of a file that [`Authorized::find`] returned. A file that is replaced or
    /// deleted meanwhile can be read to its end.
    ///
    /// # Errors
    /// A store's.
    pub async fn open(&self, file: &File) -> Result<Arc<dyn Blob>, Error> {
        self.principal.check(Action::Read(&file.path))?;
        self.service
            .blobs
            .open(&file.content.blob, file.content.size)
            .await
            .map_err(Error::blob("open a blob"))
    }

    /// Deletes the file under a path.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::PreconditionFailed`], [`Error::Forbidden`] or a store's.
    pub async fn delete(&self, path: &FilePath, condition: &WriteCondition) -> Result<(), Error> {
        self.principal.check(Action::Delete(path))?;
        let now = self.service.clock.now();
        let deleted = self
            .service
            .metadata
            .delete_file(path, condition, now)
            .await
            .map_err(Error::metadata("delete a file"))?;
        match deleted {
            Deleted::Done => Ok(()),
            Deleted::Missing => Err(Error::NotFound { what: "file" }),
            Deleted::ConditionFailed(_) => Err(Error::PreconditionFailed),
        }
    }

    /// Lists up to `limit` files whose path begins with `prefix` and follows `after`, in the byte
    /// order of their paths.
    ///
    /// # Errors
    /// [`Error::Forbidden`] or a store's.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<File>, Error> {
        self.principal.check(Action::List)?;
        self.service
            .metadata
            .list_files(prefix, after, limit)
            .await
            .map_err(Error::metadata("list files"))
    }
}
