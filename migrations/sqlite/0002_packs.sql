-- Packs: their versions, the drafts of them, and where the contents of their files lie.
-- Times are milliseconds since 1970-01-01 00:00 UTC, sizes and offsets are bytes.

-- Every pack that has had a version.
create table packs (
  -- Compared and listed in byte order.
  name text primary key not null collate binary,
  -- No number is given twice, even if its version is retired.
  last_number integer not null check (last_number >= 1)
) strict, without rowid;

-- The versions that are not retired. Their blobs, documents included, are in `version_blobs`.
create table pack_versions (
  id integer primary key not null,
  pack text not null collate binary references packs (name),
  number integer not null check (number >= 1),
  files integer not null check (files >= 0),
  size integer not null check (size >= 0),
  catalogue text not null,
  catalogue_gzip text not null,
  catalogue_zstd text not null,
  forms text not null,
  places text not null,
  published_at integer not null
) strict;

create unique index pack_versions_number on pack_versions (pack, number);

-- Which version holds which blobs.
create table version_blobs (
  version integer not null references pack_versions (id),
  blob text not null references blobs (key),
  primary key (version, blob)
) strict, without rowid;

create index version_blobs_blob on version_blobs (blob);

create table drafts (
  -- 128 random bits in hexadecimal: knowing it is leave to use it.
  id text primary key not null,
  pack text not null collate binary,
  -- The document that lists the files, while the draft holds it.
  tree text,
  created_at integer not null,
  -- When it is given up or, once published, forgotten.
  expires_at integer not null,
  -- The number of the version that it became; the version may be retired by now.
  published integer check (published >= 1),

  constraint published_holds_nothing check (published is null or tree is null)
) strict, without rowid;

create index drafts_expires_at on drafts (expires_at);

-- Which draft holds which blobs.
create table draft_blobs (
  draft text not null references drafts (id),
  blob text not null references blobs (key),
  primary key (draft, blob)
) strict, without rowid;

create index draft_blobs_blob on draft_blobs (blob);

-- Where contents lie, in each of their forms. A content of which a blob is doomed is not known any more: another may take its
-- place, and it goes when that blob is forgotten, so that dooming takes a moment however much is doomed. A table with row numbers,
-- as digests come in no order and the indexes stay small so.
create table contents (
  sha256 blob not null check (length(sha256) = 32),
  size integer not null check (size >= 0),
  crc32 integer not null check (crc32 between 0 and 4294967295),
  raw_blob text not null references blobs (key),
  raw_start integer not null check (raw_start >= 0),
  deflated_blob text references blobs (key),
  deflated_start integer check (deflated_start >= 0),
  deflated_size integer check (deflated_size >= 0),
  deflated_sha256 blob check (length(deflated_sha256) = 32),

  constraint deflated_has_its_columns check (
    (deflated_blob is null) = (deflated_start is null)
    and (deflated_blob is null) = (deflated_size is null)
    and (deflated_blob is null) = (deflated_sha256 is null)
  )
) strict;

create unique index contents_sha256 on contents (sha256);

create index contents_raw_blob on contents (raw_blob);

create index contents_deflated_blob on contents (deflated_blob) where deflated_blob is not null;

-- Which files of a version an archive has, where that is too long for its URL. A table with row numbers, as these are long.
create table needs (
  id integer primary key not null,
  version integer not null references pack_versions (id) on delete cascade,
  -- Of the encoded need.
  sha256 blob not null check (length(sha256) = 32),
  encoded blob not null,
  expires_at integer not null
) strict;

create unique index needs_sha256 on needs (version, sha256);

create index needs_expires_at on needs (expires_at);
