-- Whether a modification date tells one content of a path from another: dates have whole seconds, and a file can be replaced in less.

-- The latest time at which other bytes came under the path before, where there were any.
alter table files add column previous_at integer;

-- When bytes last came under a path whose file was deleted soon afterwards: the next file there may have the same date.
create table deleted_files (
  path text primary key not null collate binary,
  modified_at integer not null
) strict, without rowid;

create index deleted_files_modified_at on deleted_files (modified_at);

-- The condition of that name, as sent.
alter table uploads add column if_unmodified_since text;
