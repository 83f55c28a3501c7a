-- The outbox: events that are recorded with what they tell of, until they are delivered.
-- Times are milliseconds since 1970-01-01 00:00 UTC.
-- Text that is compared has the byte order of collation "C", whatever the database's own is.

create table events (
  -- Its place in the order of recording.
  position bigint generated always as identity primary key,
  -- 128 random bits in hexadecimal.
  id text collate "C" not null,
  kind text collate "C" not null,
  -- What it is about: events of one subject are delivered in order.
  subject text collate "C" not null,
  -- The JSON document that is delivered.
  payload text not null,
  created_at bigint not null,
  failures bigint not null default 0 check (failures >= 0),
  -- Why its delivery failed last.
  last_error text,
  -- Of the first pending event of a subject, and of no other, when it is due.
  due_at bigint,
  -- Since when it is not delivered any more; null while it is pending.
  dead_at bigint,

  constraint dead_is_never_due check (dead_at is null or (due_at is null and last_error is not null))
);

create unique index events_id on events (id);

-- A subject has at most 1,100 bytes, which an entry of an index holds.
create index events_pending on events (subject, position) where dead_at is null;

create index events_due_at on events (due_at, position) where due_at is not null;

create index events_dead on events (position) where dead_at is not null;

create index events_dead_at on events (dead_at) where dead_at is not null;
