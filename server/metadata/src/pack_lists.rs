//! Statements about packs that take lists. SQLite takes a list as a JSON array, PostgreSQL as an
//! array. Rows are one JSON array of arrays, or one array for each column.

use crate::engine::Statement;
use crate::sql::{pair, unless_needed};

/// Compares a text with a list of them.
macro_rules! in_texts {
    (sqlite, $list:literal) => {
        concat!("in (select value from json_each(", $list, "))")
    };
    (postgres, $list:literal) => {
        concat!("= any(", $list, ")")
    };
}

/// Compares a digest with a list of them.
macro_rules! in_digests {
    (sqlite, $list:literal) => {
        concat!("in (select unhex(value) from json_each(", $list, "))")
    };
    (postgres, $list:literal) => {
        concat!("= any(", $list, ")")
    };
}

/// Makes a table `list` with the column `value` of a list of texts.
macro_rules! texts {
    (sqlite, $list:literal) => {
        concat!("json_each(", $list, ") as list")
    };
    (postgres, $list:literal) => {
        concat!("unnest(", $list, "::text[]) as list (value)")
    };
}

/// Selects the known contents among the digests $1, without repetition.
macro_rules! contents {
    ($dialect:ident) => {
        concat!(
            "
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
where contents.sha256 ",
            in_digests!($dialect, "$1"),
            "
  and raw.doomed_at is null
  and deflated.doomed_at is null"
        )
    };
}

pub(crate) const CONTENTS: Statement = pair!(contents);

/// Records that blobs are needed, given as rows of key, size and digest, and locks them in the
/// order of keys. Rows that are doomed or recorded with another content are not affected.
macro_rules! record_blobs {
    (sqlite) => {
        record_blobs!(
            "
select
  value ->> 0,
  value ->> 1,
  unhex(value ->> 2)
from json_each($1)
where true"
        )
    };
    (postgres) => {
        record_blobs!(
            "
select
  list.key,
  list.size,
  list.sha256
from unnest($1::text[], $2::bigint[], $3::bytea[]) as list (key, size, sha256)
order by list.key collate \"C\""
        )
    };
    ($rows:literal) => {
        concat!(
            "
insert into blobs (
  key,
  size,
  sha256
)",
            $rows,
            "
on conflict (key) do update
set doomed_at = null
where blobs.size = excluded.size
  and blobs.sha256 = excluded.sha256
  and blobs.doomed_at is null"
        )
    };
}

pub(crate) const RECORD_BLOBS: Statement = pair!(record_blobs);

/// Adds the blobs $2 to the holder $1.
macro_rules! hold {
    ($dialect:ident, $table:literal, $holder:literal) => {
        concat!(
            "
insert into ",
            $table,
            " (
  ",
            $holder,
            ",
  blob
)
select
  $1,
  list.value
from ",
            texts!($dialect, "$2"),
            "
where true
on conflict do nothing"
        )
    };
}

/// Adds the blobs $2 to the draft $1.
pub(crate) const HOLD_BY_DRAFT: Statement = Statement {
    sqlite: hold!(sqlite, "draft_blobs", "draft"),
    postgres: hold!(postgres, "draft_blobs", "draft"),
};

/// Adds the blobs $2 to the version with the row id $1.
pub(crate) const HOLD_BY_VERSION: Statement = Statement {
    sqlite: hold!(sqlite, "version_blobs", "version"),
    postgres: hold!(postgres, "version_blobs", "version"),
};

/// Selects the blobs among $1 that are recorded and not doomed.
macro_rules! known_blobs {
    ($dialect:ident) => {
        concat!(
            "
select key
from blobs
where key ",
            in_texts!($dialect, "$1"),
            "
  and doomed_at is null"
        )
    };
}

pub(crate) const KNOWN_BLOBS: Statement = pair!(known_blobs);

/// Selects the blobs that store the contents $1, except the blobs $2.
macro_rules! other_places {
    ($dialect:ident) => {
        concat!(
            "
select raw_blob
from contents
where sha256 ",
            in_digests!($dialect, "$1"),
            "
  and not raw_blob ",
            in_texts!($dialect, "$2"),
            "
union
select deflated_blob
from contents
where sha256 ",
            in_digests!($dialect, "$1"),
            "
  and deflated_blob is not null
  and not deflated_blob ",
            in_texts!($dialect, "$2")
        )
    };
}

pub(crate) const OTHER_PLACES: Statement = pair!(other_places);

/// Records unknown contents, and replaces those in doomed blobs, given as rows of the columns in
/// their order. No digest may occur twice.
macro_rules! store_contents {
    (sqlite) => {
        store_contents!(
            "
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
where true"
        )
    };
    (postgres) => {
        store_contents!(
            "
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
)"
        )
    };
    ($rows:literal) => {
        concat!(
            "
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
)",
            $rows,
            "
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
)"
        )
    };
}

pub(crate) const STORE_CONTENTS: Statement = pair!(store_contents);

/// Removes the blobs $2, but not the tree, from the draft $1, and returns the removed ones.
macro_rules! drop_blobs {
    ($dialect:ident) => {
        concat!(
            "
delete from draft_blobs
where draft = $1
  and blob ",
            in_texts!($dialect, "$2"),
            "
  and blob is distinct from (
    select tree
    from drafts
    where id = $1
  )
returning blob"
        )
    };
}

pub(crate) const DROP_BLOBS: Statement = pair!(drop_blobs);

/// True if one of the blobs $1 is doomed or unknown, or one of $2 doomed.
macro_rules! blobs_gone {
    ($dialect:ident) => {
        concat!(
            "
select
  exists (
    select 1
    from ",
            texts!($dialect, "$1"),
            "
    left join blobs on blobs.key = list.value
    where blobs.key is null
      or blobs.doomed_at is not null
  )
  or exists (
    select 1
    from blobs
    where key ",
            in_texts!($dialect, "$2"),
            "
      and doomed_at is not null
  )"
        )
    };
}

pub(crate) const BLOBS_GONE: Statement = pair!(blobs_gone);

/// Dooms the blobs among $1 that nothing needs, at $2.
macro_rules! doom_blobs {
    ($dialect:ident) => {
        concat!(
            "
update blobs
set doomed_at = $2
where key ",
            in_texts!($dialect, "$1"),
            unless_needed!()
        )
    };
}

pub(crate) const DOOM_BLOBS: Statement = pair!(doom_blobs);
