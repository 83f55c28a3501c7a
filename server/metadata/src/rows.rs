//! Rows and their conversion to values. The same structs read from every engine.

use std::str::FromStr;

use archive::PackName;
use domain::digest::{HashState, Sha256Digest};
use domain::file::{Content, Description, File, WriteCondition};
use domain::metadata_store::{Lease, MetadataError, Seen};
use domain::upload::{Complete, Open};
use domain::upload::{Completed, Gone, Plan, Progress, Reported, Target, Upload, UploadState};
use domain::{BlobKey, Timestamp};

/// A row of `uploads`.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct UploadRow {
    id: String,
    blob: String,
    path: Option<String>,
    pack: Option<String>,
    draft: Option<String>,
    if_match: Option<String>,
    if_none_match: Option<String>,
    if_unmodified_since: Option<String>,
    media_type: Option<String>,
    filename: Option<String>,
    repr_digest: Option<String>,
    owner: Option<String>,
    client_ref: Option<String>,
    idempotency_key: Option<String>,
    tus_metadata: Option<String>,
    tus_concat: Option<String>,
    epoch: i64,
    holder: Option<String>,
    told_offset: Option<i64>,
    told_at: Option<i64>,
    created_at: i64,
    expires_at: i64,
    state: String,
    upload_offset: Option<i64>,
    length: Option<i64>,
    hash_state: Option<Vec<u8>>,
    sha256: Option<Vec<u8>>,
    completed_at: Option<i64>,
    replaced: Option<bool>,
    version: Option<i64>,
    gone: Option<String>,
}

/// A row of `files` with the row of `blobs` that it refers to.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct FileRow {
    path: String,
    blob: String,
    size: Option<i64>,
    sha256: Option<Vec<u8>>,
    doomed_at: Option<i64>,
    media_type: Option<String>,
    filename: Option<String>,
    modified_at: i64,
    previous_at: Option<i64>,
}

/// State of an upload's claim, and the file under a path, if there is one.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct HeldRow {
    held: bool,
    path: Option<String>,
    blob: Option<String>,
    size: Option<i64>,
    sha256: Option<Vec<u8>>,
    doomed_at: Option<i64>,
    media_type: Option<String>,
    filename: Option<String>,
    modified_at: Option<i64>,
    previous_at: Option<i64>,
}

impl TryFrom<UploadRow> for Upload {
    type Error = MetadataError;

    fn try_from(mut row: UploadRow) -> Result<Self, MetadataError> {
        // The complete name is a capability and does not belong in a log.
        let key: String = row.id.chars().take(8).chain(['…']).collect();
        let here = Row {
            table: "uploads",
            key: &key,
        };
        let state = row.take_state(here)?;
        let reported = row.reported(here)?;
        let target = row.target(here)?;
        if let (Target::Pack(_), UploadState::Complete(Completed { version: None, .. })) =
            (&target, &state)
        {
            let reason = "a tree is complete without a version";
            return Err(here.inconsistent(reason.to_owned()));
        }
        Ok(Self {
            id: here.parse("id", &row.id)?,
            blob: here.parse("blob", &row.blob)?,
            plan: Plan {
                target,
                condition: WriteCondition {
                    if_match: row.if_match,
                    if_none_match: row.if_none_match,
                    if_unmodified_since: row.if_unmodified_since,
                },
                description: Description {
                    media_type: row.media_type,
                    filename: row.filename,
                },
                repr_digest: row.repr_digest,
                owner: row.owner,
                client_ref: row.client_ref,
                idempotency_key: row.idempotency_key,
                tus_metadata: row.tus_metadata,
                tus_concat: row.tus_concat,
            },
            epoch: here.count("epoch", row.epoch)?,
            holder: row
                .holder
                .map(|holder| here.parse("holder", &holder))
                .transpose()?,
            reported,
            created_at: Timestamp::from_millis(row.created_at),
            expires_at: Timestamp::from_millis(row.expires_at),
            state,
        })
    }
}

impl UploadRow {
    /// Takes the state out of its columns.
    fn take_state(&mut self, here: Row<'_>) -> Result<UploadState, MetadataError> {
        match (
            self.state.as_str(),
            self.upload_offset,
            self.length,
            self.hash_state.take(),
            self.sha256.take(),
            self.completed_at,
            self.replaced,
            self.gone.as_deref(),
        ) {
            ("open", Some(offset), length, Some(hash), None, None, None, None) => {
                let offset = here.count("upload_offset", offset)?;
                let length = here.optional_count("length", length)?;
                if length.is_some_and(|length| length < offset) {
                    return Err(here.inconsistent("upload_offset is beyond length".to_owned()));
                }
                Ok(UploadState::Open(Progress {
                    open: Open { offset, length },
                    hash: HashState::from_bytes(hash),
                }))
            }
            (
                "complete",
                None,
                Some(length),
                None,
                Some(sha256),
                Some(at),
                Some(replaced),
                None,
            ) => Ok(UploadState::Complete(Completed {
                complete: Complete {
                    length: here.count("length", length)?,
                },
                sha256: here.sha256(sha256)?,
                at: Timestamp::from_millis(at),
                replaced,
                version: here.optional_count("version", self.version)?,
            })),
            ("gone", None, None, None, None, None, None, Some(reason)) => gone_from(reason)
                .map(UploadState::Gone)
                .ok_or_else(|| here.inconsistent(format!("gone is {reason:?}"))),
            (state, ..) => Err(here.inconsistent(format!(
                "state {state:?} does not go with the columns that are filled"
            ))),
        }
    }

    /// Reads the offset that was reported to the client.
    fn reported(&self, here: Row<'_>) -> Result<Option<Reported>, MetadataError> {
        match (self.told_offset, self.told_at) {
            (Some(offset), Some(at)) => Ok(Some(Reported {
                offset: here.count("told_offset", offset)?,
                at: Timestamp::from_millis(at),
            })),
            (None, None) => Ok(None),
            _ => {
                let reason = "told_offset and told_at do not go together";
                Err(here.inconsistent(reason.to_owned()))
            }
        }
    }

    /// Reads the upload's destination.
    fn target(&self, here: Row<'_>) -> Result<Target, MetadataError> {
        match (&self.path, &self.pack, &self.draft) {
            (Some(path), None, None) => Ok(Target::File(here.parse("path", path)?)),
            (None, Some(pack), draft) => {
                let pack = PackName::parse(pack)
                    .map_err(|error| here.inconsistent(format!("pack: {error}")))?;
                Ok(match draft {
                    None => Target::Pack(pack),
                    Some(draft) => Target::Draft {
                        pack,
                        draft: here.parse("draft", draft)?,
                    },
                })
            }
            _ => {
                let reason = "path, pack and draft do not go together";
                Err(here.inconsistent(reason.to_owned()))
            }
        }
    }
}

impl TryFrom<FileRow> for File {
    type Error = MetadataError;

    fn try_from(row: FileRow) -> Result<Self, MetadataError> {
        let here = Row {
            table: "files",
            key: &row.path,
        };
        let content = match (row.size, row.sha256, row.doomed_at) {
            (Some(size), Some(sha256), None) => Content {
                blob: here.parse("blob", &row.blob)?,
                size: here.count("size", size)?,
                sha256: here.sha256(sha256)?,
            },
            (Some(_), Some(_), Some(_)) => {
                return Err(here.inconsistent(format!("its blob {} is doomed", row.blob)));
            }
            _ => return Err(here.inconsistent(format!("its blob {} is not recorded", row.blob))),
        };
        Ok(Self {
            path: here.parse("path", &row.path)?,
            content,
            description: Description {
                media_type: row.media_type,
                filename: row.filename,
            },
            modified_at: Timestamp::from_millis(row.modified_at),
            previous_at: row.previous_at.map(Timestamp::from_millis),
        })
    }
}

impl TryFrom<HeldRow> for (bool, Option<File>) {
    type Error = MetadataError;

    fn try_from(row: HeldRow) -> Result<Self, MetadataError> {
        // These are `not null` in an existing row.
        let file = match (row.path, row.blob, row.modified_at) {
            (Some(path), Some(blob), Some(modified_at)) => Some(FileRow {
                path,
                blob,
                size: row.size,
                sha256: row.sha256,
                doomed_at: row.doomed_at,
                media_type: row.media_type,
                filename: row.filename,
                modified_at,
                previous_at: row.previous_at,
            }),
            _ => None,
        };
        Ok((row.held, file.map(File::try_from).transpose()?))
    }
}

/// Reads the key of a row of `blobs`.
pub(crate) fn blob_key(text: &str) -> Result<BlobKey, MetadataError> {
    Row {
        table: "blobs",
        key: text,
    }
    .parse("key", text)
}

/// Returns a lease that was granted for `millis` milliseconds.
pub(crate) fn lease(expires_at: i64, millis: i64) -> Lease {
    Lease {
        given_at: Timestamp::from_millis(expires_at.saturating_sub(millis)),
        expires_at: Timestamp::from_millis(expires_at),
    }
}

/// Returns the text of a reason in column `gone`.
pub(crate) const fn gone_text(gone: Gone) -> &'static str {
    match gone {
        Gone::Cancelled => "cancelled",
        Gone::Expired => "expired",
        Gone::Invalid => "invalid",
    }
}

fn gone_from(text: &str) -> Option<Gone> {
    [Gone::Cancelled, Gone::Expired, Gone::Invalid]
        .into_iter()
        .find(|gone| gone_text(*gone) == text)
}

/// Converts a count to the type of a column.
///
/// # Errors
/// [`MetadataError::Full`] if the count exceeds the maximum of a column, 2⁶³ − 1.
pub(crate) fn column(count: u64) -> Result<i64, MetadataError> {
    i64::try_from(count).map_err(|_| MetadataError::Full)
}

/// Returns the columns by which a claim is conditional: the offset, the length, and the reported
/// offset. All are null for an unconditional claim.
///
/// # Errors
/// As [`column()`].
pub(crate) fn seen_columns(seen: Option<Seen>) -> Result<[Option<i64>; 3], MetadataError> {
    let Some(Seen { open, reported }) = seen else {
        return Ok([None; 3]);
    };
    Ok([
        Some(column(open.offset)?),
        open.length.map(column).transpose()?,
        reported.map(column).transpose()?,
    ])
}

/// A row, as the place of a fault.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) table: &'static str,
    pub(crate) key: &'a str,
}

impl Row<'_> {
    pub(crate) fn inconsistent(self, reason: String) -> MetadataError {
        MetadataError::Inconsistent {
            table: self.table,
            row: self.key.to_owned(),
            reason,
        }
    }

    pub(crate) fn parse<T>(self, column: &str, text: &str) -> Result<T, MetadataError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        text.parse()
            .map_err(|error| self.inconsistent(format!("{column}: {error}")))
    }

    pub(crate) fn count(self, column: &str, value: i64) -> Result<u64, MetadataError> {
        u64::try_from(value).map_err(|_| self.inconsistent(format!("{column} is negative")))
    }

    pub(crate) fn optional_count(
        self,
        column: &str,
        value: Option<i64>,
    ) -> Result<Option<u64>, MetadataError> {
        value.map(|value| self.count(column, value)).transpose()
    }

    pub(crate) fn sha256(self, bytes: Vec<u8>) -> Result<Sha256Digest, MetadataError> {
        bytes
            .try_into()
            .map(Sha256Digest::from_bytes)
            .map_err(|bytes: Vec<u8>| {
                self.inconsistent(format!("sha256 has {} bytes", bytes.len()))
            })
    }
}
