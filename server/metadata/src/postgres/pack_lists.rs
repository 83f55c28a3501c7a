//! The statements about packs that work on lists, which each engine takes in its own way: here as arrays, one a column.

use crate::sql::unless_needed;

/// Those of the contents with the digests $1 that are known, without repetition.
pub(super) const CONTENTS: &str = "
select
  contents.sha256,
  contents.size,
  contents.crc32,
  contents.raw_blob,
  raw.size as raw_blob_size,
  contents.raw_start,
  contents.deflated_blob,
  deflated.size as deflated_blob_size,
  contents.deflated_start,
  contents.deflated_size,
  contents.deflated_sha256
from contents
join blobs as raw on raw.key = contents.raw_blob
left join blobs as deflated on deflated.key = contents.deflated_blob
where contents.sha256 = any($1)
  and raw.doomed_at is null
  and deflated.doomed_at is null";

/// Records that the blobs with keys $1, sizes $2 and digests $3 are needed, and locks them in the order of their keys. Rows that
/// are doomed or recorded with another content are not affected.
pub(super) const RECORD_BLOBS: &str = "
insert into blobs (
  key,
  size,
  sha256
)
select
  list.key,
  list.size,
  list.sha256
from unnest($1::text[], $2::bigint[], $3::bytea[]) as list (key, size, sha256)
order by list.key collate \"C\"
on conflict (key) do update
set doomed_at = null
where blobs.size = excluded.size
  and blobs.sha256 = excluded.sha256
  and blobs.doomed_at is null";

/// Has the draft $1 hold the blobs $2.
pub(super) const HOLD_BY_DRAFT: &str = "
insert into draft_blobs (
  draft,
  blob
)
select
  $1,
  list.key
from unnest($2::text[]) as list (key)
on conflict do nothing";

/// Those of the blobs $1 that are not doomed.
pub(super) const KNOWN_BLOBS: &str = "
select key
from blobs
where key = any($1)
  and doomed_at is null";

/// The blobs in which the contents $1 lie, but for the blobs $2.
pub(super) const OTHER_PLACES: &str = "
select raw_blob
from contents
where sha256 = any($1)
  and not raw_blob = any($2)
union
select deflated_blob
from contents
where sha256 = any($1)
  and deflated_blob is not null
  and not deflated_blob = any($2)";

/// Has the version with row's id $1 hold the blobs $2 and $3.
pub(super) const HOLD_BY_VERSION: &str = "
insert into version_blobs (
  version,
  blob
)
select
  $1,
  list.key
from unnest($2::text[] || $3::text[]) as list (key)
on conflict do nothing";

/// Records contents unless they are known, in the place of those in doomed blobs: an array for each column, in their order. No
/// digest may come twice.
pub(super) const STORE_CONTENTS: &str = "
insert into contents (
  sha256,
  size,
  crc32,
  raw_blob,
  raw_start,
  deflated_blob,
  deflated_start,
  deflated_size,
  deflated_sha256
)
select *
from unnest(
  $1::bytea[],
  $2::bigint[],
  $3::bigint[],
  $4::text[],
  $5::bigint[],
  $6::text[],
  $7::bigint[],
  $8::bigint[],
  $9::bytea[]
)
on conflict (sha256) do update
set
  size = excluded.size,
  crc32 = excluded.crc32,
  raw_blob = excluded.raw_blob,
  raw_start = excluded.raw_start,
  deflated_blob = excluded.deflated_blob,
  deflated_start = excluded.deflated_start,
  deflated_size = excluded.deflated_size,
  deflated_sha256 = excluded.deflated_sha256
where exists (
  select 1
  from blobs
  where blobs.key in (contents.raw_blob, contents.deflated_blob)
    and blobs.doomed_at is not null
)";

/// Takes those of the blobs $2 from the draft $1 that it holds, all but its tree, and names them.
pub(super) const DROP_BLOBS: &str = "
delete from draft_blobs
where draft = $1
  and blob = any($2)
  and blob is distinct from (
    select tree
    from drafts
    where id = $1
  )
returning blob";

/// Names what the draft $1 holds.
pub(super) const HELD_BY_DRAFT: &str = "
select blob
from draft_blobs
where draft = $1";

/// Whether one of the blobs $1 is doomed or unknown, or one of $2 doomed.
pub(super) const BLOBS_GONE: &str = "
select
  exists (
    select 1
    from unnest($1::text[]) as list (key)
    left join blobs on blobs.key = list.key
    where blobs.key is null
      or blobs.doomed_at is not null
  )
  or exists (
    select 1
    from blobs
    where key = any($2)
      and doomed_at is not null
  )";

/// Dooms those of the blobs $1 at $2 that nothing needs.
pub(super) const DOOM_BLOBS: &str = concat!(
    "
update blobs
set doomed_at = $2
where key = any($1)",
    unless_needed!()
);
