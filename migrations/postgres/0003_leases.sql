-- Work that is for one node at a time, and which nodes are alive.
-- Times are of the clock of the database.

create table leases (
  name text collate "C" primary key,
  -- A node: 128 random bits in hexadecimal.
  holder text collate "C" not null,
  -- When anyone may have it.
  expires_at bigint not null
);
