-- Packs: their versions, the drafts of them, and where the contents of their files lie.
-- Times are milliseconds since 1970-01-01 00:00 UTC, sizes and offsets are bytes.
-- Text that is compared has the byte order of collation "C", whatever the database's own is.

-- Every pack that has had a version.
create table packs (
  -- Compared and listed in byte order.
  name text collate "C" primary key,
  -- No number is given twice, even if its version is retired.
  last_number bigint not null check (last_number >= 1)
);

-- The versions that are not retired. Their blobs, documents included, are in `version_blobs`.
create table pack_versions (
  id bigint generated always as identity primary key,
  pack text collate "C" not null references packs (name),
  number bigint not null check (number >= 1),
  files bigint not null check (files >= 0),
  size bigint not null check (size >= 0),
  catalogue text collate "C" not null,
  catalogue_gzip text collate "C" not null,
  catalogue_zstd text collate "C" not null,
  forms text collate "C" not null,
  places text collate "C" not null,
  published_at bigint not null
);

create unique index pack_versions_number on pack_versions (pack, number);

-- Which version holds which blobs.
create table version_blobs (
  version bigint not null references pack_versions (id),
  blob text collate "C" not null references blobs (key),
  primary key (version, blob)
);

create index version_blobs_blob on version_blobs (blob);

create table drafts (
  -- 128 random bits in hexadecimal: knowing it is leave to use it.
  id text collate "C" primary key,
  pack text collate "C" not null,
  -- The document that lists the files, while the draft holds it.
  tree text collate "C",
  created_at bigint not null,
  -- When it is given up or, once published, forgotten.
  expires_at bigint not null,
  -- The number of the version that it became; the version may be retired by now.
  published bigint check (published >= 1),

  constraint published_holds_nothing check (published is null or tree is null)
);

create index drafts_expires_at on drafts (expires_at, id);

-- Which draft holds which blobs.
create table draft_blobs (
  draft text collate "C" not null references drafts (id),
  blob text collate "C" not null references blobs (key),
  primary key (draft, blob)
);

create index draft_blobs_blob on draft_blobs (blob);

-- Where contents lie, in each of their forms. A content of which a blob is doomed is not known any more: another may take its
-- place, and it goes when that blob is forgotten, so that dooming takes a moment however much is doomed.
create table contents (
  sha256 bytea not null check (length(sha256) = 32),
  size bigint not null check (size >= 0),
  crc32 bigint not null check (crc32 between 0 and 4294967295),
  raw_blob text collate "C" not null references blobs (key),
  raw_start bigint not null check (raw_start >= 0),
  deflated_blob text collate "C" references blobs (key),
  deflated_start bigint check (deflated_start >= 0),
  deflated_size bigint check (deflated_size >= 0),
  deflated_sha256 bytea check (length(deflated_sha256) = 32),

  constraint deflated_has_its_columns check (
    (deflated_blob is null) = (deflated_start is null)
    and (deflated_blob is null) = (deflated_size is null)
    and (deflated_blob is null) = (deflated_sha256 is null)
  )
);

create unique index contents_sha256 on contents (sha256);

create index contents_raw_blob on contents (raw_blob);

create index contents_deflated_blob on contents (deflated_blob) where deflated_blob is not null;

-- Which files of a version an archive has, where that is too long for its URL.
create table needs (
  id bigint generated always as identity primary key,
  version bigint not null references pack_versions (id) on delete cascade,
  -- Of the encoded need.
  sha256 bytea not null check (length(sha256) = 32),
  encoded bytea not null,
  expires_at bigint not null
);

create unique index needs_sha256 on needs (version, sha256);

create index needs_expires_at on needs (expires_at);
