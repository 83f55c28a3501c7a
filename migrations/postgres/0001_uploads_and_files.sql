-- Uploads, files, and the blobs that they need.
-- Times are milliseconds since 1970-01-01 00:00 UTC, sizes and offsets are bytes.
-- Text that is compared has the byte order of collation "C", whatever the database's own is.

-- Every blob of a file or a pack, and every blob that was one's and is not yet deleted from the blob store.
-- The blob of an open upload is known by its upload alone.
create table blobs (
  key text collate "C" primary key,
  size bigint not null check (size >= 0),
  sha256 bytea not null check (length(sha256) = 32),
  -- Since when nothing needs it; null while something does.
  doomed_at bigint
);

create index blobs_doomed_at on blobs (doomed_at) where doomed_at is not null;

create table files (
  -- Compared and listed in byte order.
  path text collate "C" primary key,
  blob text collate "C" not null references blobs (key),
  media_type text,
  filename text,
  modified_at bigint not null
);

create index files_blob on files (blob);

create table uploads (
  -- 128 random bits in hexadecimal: knowing it is leave to use it.
  id text collate "C" primary key,
  -- Where the bytes go. Once the upload is complete, only a name: the file may have been deleted, and the blob with it.
  blob text collate "C" not null,

  -- The plan, fixed at creation. Fields of requests are kept as sent.
  -- What the bytes are for: the file under a path, or a pack: contents of a draft, or without one a new version.
  path text,
  pack text,
  draft text,
  if_match text,
  if_none_match text,
  media_type text,
  filename text,
  repr_digest text,
  owner text collate "C",
  client_ref text collate "C",
  idempotency_key text collate "C",
  tus_metadata text,
  tus_concat text,

  -- How many requests have held the upload; only the last of them may change it.
  epoch bigint not null check (epoch >= 0),
  -- The node that works on the upload under this epoch: 128 random bits in hexadecimal; null while none does.
  holder text collate "C",
  -- The offset that the newest retrieval was told, and when; null once that is settled.
  told_offset bigint check (told_offset >= 0),
  told_at bigint,
  created_at bigint not null,
  -- When an open upload is given up, or a closed one forgotten.
  expires_at bigint not null,

  -- The columns that follow are filled as the state demands.
  state text collate "C" not null,
  upload_offset bigint,
  length bigint,
  -- SHA-256 of the bytes below the offset, ready to go on.
  hash_state bytea,
  sha256 bytea,
  completed_at bigint,
  replaced boolean,
  -- The version of the pack that it became.
  version bigint,
  gone text check (gone in ('cancelled', 'expired', 'invalid')),

  constraint is_for_a_file_or_a_pack check (
    (path is null) <> (pack is null)
    and (draft is null or pack is not null)
  ),

  constraint a_new_version_has_a_number check (
    (version is not null) = (state = 'complete' and pack is not null and draft is null)
  ),

  constraint what_was_told_has_a_time check ((told_offset is null) = (told_at is null)),

  constraint only_an_open_upload_is_held check (holder is null or state = 'open'),

  constraint state_has_its_columns check (
    case state
      when 'open' then
        upload_offset is not null and upload_offset >= 0
        and (length is null or length >= upload_offset)
        and hash_state is not null
        and sha256 is null
        and completed_at is null
        and replaced is null
        and gone is null
      when 'complete' then
        upload_offset is null
        and length is not null and length >= 0
        and hash_state is null
        and sha256 is not null and length(sha256) = 32
        and completed_at is not null
        and replaced is not null
        and gone is null
      when 'gone' then
        upload_offset is null
        and length is null
        and hash_state is null
        and sha256 is null
        and completed_at is null
        and replaced is null
        and gone is not null
      else false
    end
  )
);

-- One upload for each creation: the same key by the same owner, or by nobody. What clients choose is indexed by its digest, as an
-- entry of an index has at most 2,704 bytes. As `bytea`, text is the bytes that it has, once its backslashes are doubled.
create unique index uploads_idempotency
  on uploads (sha256(replace(idempotency_key, '\', '\\')::bytea), coalesce(owner, ''), (owner is null))
  where idempotency_key is not null;

-- No two uploads write the same blob.
create unique index uploads_open_blob on uploads (blob) where state = 'open';

create index uploads_open_client_ref on uploads (sha256(replace(client_ref, '\', '\\')::bytea), created_at, id)
  where state = 'open' and client_ref is not null;

create index uploads_open_expires_at on uploads (expires_at) where state = 'open';

create index uploads_closed_expires_at on uploads (expires_at) where state <> 'open';
