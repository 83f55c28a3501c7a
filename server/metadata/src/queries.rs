//! Queries that changes make, too.

use archive::PackName;
use domain::metadata_store::MetadataError;
use domain::upload::Upload;
use domain::{File, FilePath, UploadId};

use crate::engine::Reader;
use crate::rows::{FileRow, Row, UploadRow};
use crate::values::values;
use crate::{pack_sql, sql};

/// Reads an upload.
pub(crate) async fn read_upload(
    reader: &mut impl Reader,
    id: &UploadId,
) -> Result<Option<Upload>, MetadataError> {
    let row: Option<UploadRow> = reader.row(sql::UPLOAD, values![id.to_string()]).await?;
    row.map(Upload::try_from).transpose()
}

/// Reads the file under a path.
pub(crate) async fn read_file(
    reader: &mut impl Reader,
    path: &FilePath,
) -> Result<Option<File>, MetadataError> {
    let row: Option<FileRow> = reader.row(sql::FILE, values![path.as_str()]).await?;
    row.map(File::try_from).transpose()
}

/// Reads the number of the pack's next version.
pub(crate) async fn next_version(
    reader: &mut impl Reader,
    pack: &PackName,
) -> Result<u64, MetadataError> {
    let name = values![pack.as_str()];
    let last: Option<(i64,)> = reader.row(pack_sql::LAST_NUMBER, name).await?;
    let Some((last,)) = last else {
        return Ok(1);
    };
    let here = Row {
        table: "packs",
        key: pack.as_str(),
    };
    Ok(here.count("last_number", last)? + 1)
}
