-- Work that is for one node at a time, and which nodes are alive.
-- Times are of the clock of the database.

create table leases (
  name text primary key not null,
  -- A node: 128 random bits in hexadecimal.
  holder text not null,
  -- When anyone may have it.
  expires_at integer not null
) strict, without rowid;
