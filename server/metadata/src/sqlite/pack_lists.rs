//! The statements about packs that work on lists, which each engine takes in its own way: here as JSON arrays.

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
where contents.sha256 in (
    select unhex(value)
    from json_each($1)
  )
  and raw.doomed_at is null
  and deflated.doomed_at is null";

/// Records that the blobs $1 are needed: rows of key, size and digest. Rows that are doomed or recorded with another content are
/// not affected.
pub(super) const RECORD_BLOBS: &str = "
insert into blobs (
  key,
  size,
  sha256
)
select
  value ->> 0,
  value ->> 1,
  unhex(value ->> 2)
from json_each($1)
where true
on conflict (key) do update
set doomed_at = null
where blobs.size = excluded.size
  and blobs.sha256 = excluded.sha256
  and blobs.doomed_at is null";

/// Has the draft $1 hold the blobs $2: rows that begin with the key.
pub(super) const HOLD_BY_DRAFT: &str = "
insert into draft_blobs (
  draft,
  blob
)
select
  $1,
  value ->> 0
from json_each($2)
where true
on conflict do nothing";

/// Has the draft $1 hold those of the blobs $2 that are not doomed.
pub(super) const HOLD_KNOWN_BLOBS: &str = "
insert into draft_blobs (
  draft,
  blob
)
select
  $1,
  blobs.key
from json_each($2) as list
join blobs on blobs.key = list.value
where blobs.doomed_at is null
on conflict do nothing";

/// Those of the blobs $1 that are not doomed.
pub(super) const KNOWN_BLOBS: &str = "
select distinct blobs.key
from json_each($1) as list
join blobs on blobs.key = list.value
where blobs.doomed_at is null";

/// Has the draft $1 hold the blobs in which the contents $2 lie: rows that begin with the digest.
pub(super) const HOLD_PLACES: &str = "
insert into draft_blobs (
  draft,
  blob
)
select
  $1,
  contents.raw_blob
from json_each($2) as list
join contents on contents.sha256 = unhex(list.value ->> 0)
where true
on conflict do nothing;
insert into draft_blobs (
  draft,
  blob
)
select
  $1,
  contents.deflated_blob
from json_each($2) as list
join contents on contents.sha256 = unhex(list.value ->> 0)
where contents.deflated_blob is not null
on conflict do nothing";

/// Has the version with row's id $1 hold the blobs $2, and those of $3: rows that begin with the key.
pub(super) const HOLD_BY_VERSION: &str = "
insert into version_blobs (
  version,
  blob
)
select
  $1,
  value
from json_each($2)
where true
on conflict do nothing;
insert into version_blobs (
  version,
  blob
)
select
  $1,
  value ->> 0
from json_each($3)
where true
on conflict do nothing";

/// Records the contents $1 unless they are known, in the place of those in doomed blobs: rows of the columns in their order.
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
select
  unhex(value ->> 0),
  value ->> 1,
  value ->> 2,
  value ->> 3,
  value ->> 4,
  value ->> 5,
  value ->> 6,
  value ->> 7,
  unhex(value ->> 8)
from json_each($1)
where true
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
  and blob in (
    select value
    from json_each($2)
  )
  and blob is not (
    select tree
    from drafts
    where id = $1
  )
returning blob";

/// Whether one of the blobs $1 is doomed or unknown, or one of $2 doomed: rows that begin with the key.
pub(super) const BLOBS_GONE: &str = "
select
  exists (
    select 1
    from json_each($1) as list
    left join blobs on blobs.key = list.value
    where blobs.key is null
      or blobs.doomed_at is not null
  )
  or exists (
    select 1
    from json_each($2) as list
    cross join blobs on blobs.key = list.value ->> 0
    where blobs.doomed_at is not null
  )";

/// Dooms those of the blobs $1 at $2 that nothing needs.
pub(super) const DOOM_BLOBS: &str = concat!(
    "
update blobs
set doomed_at = $2
where key in (
    select value
    from json_each($1)
  )",
    unless_needed!()
);
