//! Statements as static text: `$1` placeholders, `returning`, partial indexes by literal state.
//!
//! Where the dialects differ, a statement is a macro over the dialect, or a pair of texts.
//! Statements that always run together are a [`Script`] with one list of values.

use crate::engine::{Script, Statement};

/// Expands a macro over the dialect to a pair.
macro_rules! pair {
    ($statement:ident) => {
        $crate::engine::Statement {
            sqlite: $statement!(sqlite),
            postgres: $statement!(postgres),
        }
    };
}

pub(crate) use pair;

/// Current time of the engine's clock, in milliseconds since 1970.
macro_rules! now {
    (sqlite) => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
    (postgres) => {
        "floor(extract(epoch from clock_timestamp()) * 1000)::bigint"
    };
}

pub(crate) use now;

macro_rules! upload_columns {
    () => {
        "
  id,
  blob,
  path,
  pack,
  draft,
  if_match,
  if_none_match,
  if_unmodified_since,
  media_type,
  filename,
  repr_digest,
  owner,
  client_ref,
  idempotency_key,
  tus_metadata,
  tus_concat,
  epoch,
  holder,
  told_offset,
  told_at,
  created_at,
  expires_at,
  state,
  upload_offset,
  length,
  hash_state,
  sha256,
  completed_at,
  replaced,
  version,
  gone
"
    };
}

macro_rules! file_columns {
    () => {
        "
  files.path,
  files.blob,
  blobs.size,
  blobs.sha256,
  blobs.doomed_at,
  files.media_type,
  files.filename,
  files.modified_at,
  files.previous_at
"
    };
}

/// Records that a file needs the blob $1 of size $2 and digest $3. No row is affected if the blob
/// is doomed or recorded with another content.
macro_rules! need_blob {
    () => {
        "
insert into blobs (
  key,
  size,
  sha256
)
values ($1, $2, $3)
on conflict (key) do update
set doomed_at = null
where blobs.size = excluded.size
  and blobs.sha256 = excluded.sha256
  and blobs.doomed_at is null"
    };
}

pub(crate) use need_blob;

/// Restricts rows of `blobs` to those that no file, version or draft needs.
macro_rules! unless_needed {
    () => {
        "
  and not exists (
    select 1
    from files
    where files.blob = blobs.key
  )
  and not exists (
    select 1
    from version_blobs
    where version_blobs.blob = blobs.key
  )
  and not exists (
    select 1
    from draft_blobs
    where draft_blobs.blob = blobs.key
  )"
    };
}
pub(crate) use unless_needed;

/// Writes a file with blob $1 to path $4, replaces the current one, and records when the previous
/// bytes came to the path.
macro_rules! put_file {
    () => {
        "
insert into files (
  path,
  blob,
  media_type,
  filename,
  modified_at,
  previous_at
)
values (
  $4,
  $1,
  $5,
  $6,
  $7,
  (
    select deleted_files.modified_at
    from deleted_files
    where deleted_files.path = $4
  )
)
on conflict (path) do update
set
  blob = excluded.blob,
  media_type = excluded.media_type,
  filename = excluded.filename,
  modified_at = excluded.modified_at,
  previous_at = case
    when files.previous_at > files.modified_at then files.previous_at
    else files.modified_at
  end"
    };
}

/// Completes the open upload $8 under epoch $9 with the file's size $2, digest $3 and time $7.
macro_rules! complete_upload {
    () => {
        "
update uploads
set
  expires_at = $10,
  state = 'complete',
  holder = null,
  upload_offset = null,
  length = $2,
  hash_state = null,
  sha256 = $3,
  completed_at = $7,
  replaced = $11
where id = $8
  and epoch = $9
  and state = 'open'"
    };
}

/// Writes a file: two statements, each of which must affect one row.
pub(crate) const PUT_FILE: Script = Script {
    sqlite: concat!(need_blob!(), ";", put_file!()),
    postgres: &[(need_blob!(), 3), (put_file!(), 7)],
};

/// Completes an upload and writes its file: three statements, each of which must affect one row.
pub(crate) const COMPLETE_UPLOAD: Script = Script {
    sqlite: concat!(need_blob!(), ";", put_file!(), ";", complete_upload!()),
    postgres: &[
        (need_blob!(), 3),
        (put_file!(), 7),
        (complete_upload!(), 11),
    ],
};

/// Completes the upload $1 under epoch $2 of an archive for a pack, as version $6 if it became one.
pub(crate) const COMPLETE_ARCHIVE: Statement = Statement::same(
    "
update uploads
set
  state = 'complete',
  holder = null,
  upload_offset = null,
  length = $3,
  hash_state = null,
  sha256 = $4,
  completed_at = $5,
  replaced = false,
  version = $6,
  expires_at = $7
where id = $1
  and epoch = $2
  and state = 'open'",
);

/// Records an open upload: the columns up to `expires_at`, then offset, length and hash state. No
/// row is inserted if the name, the blob or the idempotency key exists.
pub(crate) const INSERT_UPLOAD: Statement = Statement::same("
insert into uploads (
  id,
  blob,
  path,
  pack,
  draft,
  if_match,
  if_none_match,
  if_unmodified_since,
  media_type,
  filename,
  repr_digest,
  owner,
  client_ref,
  idempotency_key,
  tus_metadata,
  tus_concat,
  epoch,
  holder,
  created_at,
  expires_at,
  state,
  upload_offset,
  length,
  hash_state
)
values (
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, 'open', $21, $22, $23
)
on conflict do nothing");

/// The upload with name $1.
pub(crate) const UPLOAD: Statement = Statement::same(concat!(
    "select",
    upload_columns!(),
    "from uploads
where id = $1"
));

/// The upload with idempotency key $1 of owner $2. In PostgreSQL the index is on a digest of the
/// key.
pub(crate) const UPLOAD_BY_IDEMPOTENCY_KEY: Statement = Statement {
    sqlite: concat!(
        "select",
        upload_columns!(),
        "from uploads
where idempotency_key = $1
  and owner is not distinct from $2"
    ),
    postgres: concat!(
        "select",
        upload_columns!(),
        "from uploads
where sha256(replace(idempotency_key, '\\', '\\\\')::bytea) = sha256(replace($1, '\\', '\\\\')::bytea)
  and idempotency_key = $1
  and owner is not distinct from $2"
    ),
};

/// Raises the epoch of the open upload $1 and makes $2 its holder. Unless $3 is null, only if the
/// upload has the offset $3, the length $4, and the reported offset $5.
pub(crate) const CLAIM_UPLOAD: Statement = Statement::same(concat!(
    "update uploads
set
  epoch = epoch + 1,
  holder = $2
where id = $1
  and state = 'open'
  and (
    cast($3 as bigint) is null
    or (
      upload_offset = $3
      and length is not distinct from $4
      and told_offset is not distinct from $5
    )
  )
returning",
    upload_columns!()
));

/// True if the upload $1 is open under epoch $2.
pub(crate) const HOLDS_UPLOAD: Statement = Statement::same(
    "
select exists (
  select 1
  from uploads
  where id = $1
    and epoch = $2
    and state = 'open'
)",
);

/// Records progress of the open upload $1 under epoch $2, unless it already has more. Clears the
/// holder if $7, and the reported offset if $8.
pub(crate) const RECORD_PROGRESS: Statement = Statement::same(
    "
update uploads
set
  upload_offset = $3,
  length = $4,
  hash_state = $5,
  expires_at = $6,
  holder = case when $7 then null else holder end,
  told_offset = case when $8 then null else told_offset end,
  told_at = case when $8 then null else told_at end
where id = $1
  and epoch = $2
  and state = 'open'
  and upload_offset <= $3",
);

/// Clears the holder of the open upload $1 under epoch $2, and the reported offset if $3.
pub(crate) const RELEASE_UPLOAD: Statement = Statement::same(
    "
update uploads
set
  holder = null,
  told_offset = case when $3 then null else told_offset end,
  told_at = case when $3 then null else told_at end
where id = $1
  and epoch = $2
  and state = 'open'",
);

/// Records that the offset $2 of the upload $1 under epoch $4 is reported to the client at $3;
/// clears the reported offset if both are null. PostgreSQL does not wait for the disk: a client
/// that loses this record asks again.
macro_rules! report_offset {
    ($before:literal, $from:literal) => {
        concat!(
            $before,
            "
update uploads
set
  told_offset = $2,
  told_at = $3",
            $from,
            "
where id = $1
  and epoch = $4
  and state <> 'gone'"
        )
    };
    (sqlite) => {
        report_offset!("", "")
    };
    (postgres) => {
        report_offset!(
            "
with quickly as (
  select set_config('synchronous_commit', 'off', true)
)",
            "\nfrom quickly"
        )
    };
}

pub(crate) const REPORT_OFFSET: Statement = pair!(report_offset);

/// True if the upload $1 is open under epoch $2, and the file under path $3: always one row.
pub(crate) const HELD_AND_FILE: Statement = Statement::same(concat!(
    "select
  exists (
    select 1
    from uploads
    where id = $1
      and epoch = $2
      and state = 'open'
  ) as held,",
    file_columns!(),
    "from (select 1) as one
left join files on files.path = $3
left join blobs on blobs.key = files.blob"
));

/// Ends the open upload $1; only under epoch $2 and only if it expired by $5, unless these are
/// null. If both are null, ends a complete upload as well.
pub(crate) const END_UPLOAD: Statement = Statement::same(
    "
update uploads
set
  expires_at = $3,
  state = 'gone',
  holder = null,
  told_offset = null,
  told_at = null,
  upload_offset = null,
  length = null,
  hash_state = null,
  sha256 = null,
  completed_at = null,
  replaced = null,
  version = null,
  -- Whoever begins anew may use the key again.
  idempotency_key = null,
  gone = $4
where id = $1
  and epoch = coalesce($2, epoch)
  and expires_at <= coalesce($5, expires_at)
  and (
    state = 'open'
    or (
      state = 'complete'
      and $2 is null
      and $5 is null
    )
  )",
);

/// Open uploads with client reference $1 of owner $2. In PostgreSQL the index is on a digest of the
/// reference.
macro_rules! open_uploads {
    (sqlite) => {
        open_uploads!("client_ref = $1")
    };
    (postgres) => {
        open_uploads!(
            "sha256(replace(client_ref, '\\', '\\\\')::bytea) = sha256(replace($1, '\\', '\\\\')::bytea)
  and client_ref = $1"
        )
    };
    ($is_of_client:literal) => {
        concat!(
            "select",
            upload_columns!(),
            "from uploads
where ",
            $is_of_client,
            "
  and owner is not distinct from $2
  and state = 'open'
order by created_at, id
limit $3"
        )
    };
}

pub(crate) const OPEN_UPLOADS: Statement = pair!(open_uploads);

/// Open uploads that expired by $1, except those of live nodes other than $3.
macro_rules! expired_uploads {
    ($dialect:ident) => {
        concat!(
            "select",
            upload_columns!(),
            "from uploads
where state = 'open'
  and expires_at <= $1
  and not exists (
    select 1
    from leases
    where leases.name = 'node/' || uploads.holder
      and uploads.holder <> $3
      and leases.expires_at > ",
            now!($dialect),
            "
  )
order by expires_at
limit $2"
        )
    };
}

pub(crate) const EXPIRED_UPLOADS: Statement = pair!(expired_uploads);

/// Deletes closed uploads that expired by $1.
pub(crate) const FORGET_UPLOADS: Statement = Statement::same(
    "
delete from uploads
where id in (
  select id
  from uploads
  where state <> 'open'
    and expires_at <= $1
  order by expires_at
  limit $2
)",
);

/// Dooms the blob $1 at $2 unless something needs it.
pub(crate) const DOOM_BLOB: Statement = Statement::same(concat!(
    "
update blobs
set doomed_at = $2
where key = $1",
    unless_needed!()
));

/// The file under path $1.
pub(crate) const FILE: Statement = Statement::same(concat!(
    "select",
    file_columns!(),
    "from files
left join blobs on blobs.key = files.blob
where files.path = $1"
));

/// Records the time $2 of the file under path $1 before its deletion.
pub(crate) const REMEMBER_DELETED: Statement = Statement::same(
    "
insert into deleted_files (
  path,
  modified_at
)
values ($1, $2)
on conflict (path) do update
set modified_at = excluded.modified_at",
);

/// Deletes the times of deleted files before $1, at most 100 at once. Skips rows that a concurrent
/// deletion deletes or writes.
macro_rules! forget_deleted {
    (sqlite) => {
        forget_deleted!("")
    };
    (postgres) => {
        forget_deleted!("\n    for update skip locked")
    };
    ($lock:literal) => {
        concat!(
            "
delete from deleted_files
where path in (
    select path
    from deleted_files
    where modified_at < $1
    order by modified_at
    limit 100",
            $lock,
            "
  )"
        )
    };
}

pub(crate) const FORGET_DELETED: Statement = pair!(forget_deleted);

/// Deletes the file under path $1.
pub(crate) const DELETE_FILE: Statement = Statement::same(
    "
delete from files
where path = $1",
);

/// Files from path $1 on.
pub(crate) const FILES_FROM: Statement = Statement::same(concat!(
    "select",
    file_columns!(),
    "from files
left join blobs on blobs.key = files.blob
where files.path >= $1
order by files.path
limit $2"
));

/// Files from path $1 to below path $2.
pub(crate) const FILES_BETWEEN: Statement = Statement::same(concat!(
    "select",
    file_columns!(),
    "from files
left join blobs on blobs.key = files.blob
where files.path >= $1
  and files.path < $2
order by files.path
limit $3"
));

/// Blobs that were doomed before $1.
pub(crate) const DOOMED_BLOBS: Statement = Statement::same(
    "
select key
from blobs
where doomed_at < $1
order by doomed_at
limit $2",
);

/// Deletes the contents in the blob $1 if the blob is doomed.
macro_rules! forget_contents {
    () => {
        "
delete from contents
where (raw_blob = $1 or deflated_blob = $1)
  and exists (
    select 1
    from blobs
    where key = $1
      and doomed_at is not null
  )"
    };
}

/// Deletes the blob $1 if it is doomed.
macro_rules! delete_blob {
    () => {
        "
delete from blobs
where key = $1
  and doomed_at is not null"
    };
}

/// Deletes the blob $1 and the contents in it, if the blob is doomed: two statements.
pub(crate) const FORGET_BLOB: Script = Script {
    sqlite: concat!(forget_contents!(), ";", delete_blob!()),
    postgres: &[(forget_contents!(), 1), (delete_blob!(), 1)],
};

/// Keys among $1 that are recorded, or that an open upload writes to.
pub(crate) const KNOWN_BLOBS: Statement = Statement {
    sqlite: "
select value
from json_each($1)
where exists (
    select 1
    from blobs
    where key = value
  )
  or exists (
    select 1
    from uploads
    where blob = value
      and state = 'open'
  )",
    postgres: "
select key
from blobs
where key = any($1)
union
select blob
from uploads
where blob = any($1)
  and state = 'open'",
};

/// Grants the lease $1 to the node $2 for $3 milliseconds, unless another node has it.
macro_rules! lease {
    ($dialect:ident) => {
        concat!(
            "
insert into leases (
  name,
  holder,
  expires_at
)
values ($1, $2, ",
            now!($dialect),
            " + $3)
on conflict (name) do update
set
  holder = excluded.holder,
  expires_at = excluded.expires_at
where leases.holder = excluded.holder
  or leases.expires_at <= ",
            now!($dialect),
            "
returning expires_at"
        )
    };
}

pub(crate) const LEASE: Statement = pair!(lease);

/// Returns the lease $1 of the node $2.
pub(crate) const RELEASE_LEASE: Statement = Statement::same(
    "
delete from leases
where name = $1
  and holder = $2",
);

/// Deletes up to $1 expired leases.
macro_rules! forget_leases {
    ($dialect:ident) => {
        concat!(
            "
delete from leases
where name in (
  select name
  from leases
  where expires_at <= ",
            now!($dialect),
            "
  limit $1
)"
        )
    };
}

pub(crate) const FORGET_LEASES: Statement = pair!(forget_leases);

/// Writes an unchanged value and returns a row: an unused number in the first page of SQLite's
/// database, or a row that PostgreSQL's database always has. This needs all that any other write
/// needs.
pub(crate) const TOUCH: Statement = Statement {
    sqlite: "pragma user_version = 1; select 1",
    postgres: "
update _sqlx_migrations
set execution_time = execution_time
where version = 1
returning version",
};
