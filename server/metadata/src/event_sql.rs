//! Statements about events, like [`sql`](crate::sql).

use crate::engine::Statement;

/// Records the event $1. It is due at once if no other of its subject $3 is pending.
pub(crate) const RECORD_EVENT: Statement = Statement::same(
    "
insert into events (
  id,
  kind,
  subject,
  payload,
  created_at,
  due_at
)
values (
  $1,
  $2,
  $3,
  $4,
  $5,
  case
    when not exists (
      select 1
      from events
      where subject = $3
        and dead_at is null
    )
    then cast($5 as bigint)
  end
)",
);

/// Events that are due at $1.
pub(crate) const DUE_EVENTS: Statement = Statement::same(
    "
select
  id,
  kind,
  subject,
  payload,
  created_at,
  failures
from events
where due_at <= $1
order by due_at, position
limit $2",
);

/// The subject of the pending event $1.
pub(crate) const SUBJECT_OF_PENDING: Statement = Statement::same(
    "
select subject
from events
where id = $1
  and dead_at is null",
);

/// The subject of the dead event $1.
pub(crate) const SUBJECT_OF_DEAD: Statement = Statement::same(
    "
select subject
from events
where id = $1
  and dead_at is not null",
);

/// Forgets the pending event $1.
pub(crate) const DELETE_EVENT: Statement = Statement::same(
    "
delete from events
where id = $1
  and dead_at is null",
);

/// Postpones the pending event $1 to $3 because of the error $2, if it is the first of its subject.
pub(crate) const POSTPONE_EVENT: Statement = Statement::same(
    "
update events
set
  failures = failures + 1,
  last_error = $2,
  due_at = case
    when due_at is not null then cast($3 as bigint)
  end
where id = $1
  and dead_at is null",
);

/// Gives up the pending event $1 at $3 because of the error $2.
pub(crate) const GIVE_EVENT_UP: Statement = Statement::same(
    "
update events
set
  failures = failures + 1,
  last_error = $2,
  due_at = null,
  dead_at = $3
where id = $1
  and dead_at is null",
);

/// Selects the first pending event of subject $1.
macro_rules! first_pending {
    () => {
        "
where position = (
  select position
  from events
  where subject = $1
    and dead_at is null
  order by position
  limit 1
)"
    };
}

/// Makes the first pending event of subject $1 due at $2, unless it already has a time.
pub(crate) const CALL_FIRST_EVENT: Statement = Statement::same(concat!(
    "
update events
set due_at = $2",
    first_pending!(),
    "
  and due_at is null"
));

/// Clears the time of the first pending event of subject $1, if the event $2 lies before it.
pub(crate) const REST_FIRST_EVENT: Statement = Statement::same(concat!(
    "
update events
set due_at = null",
    first_pending!(),
    "
  and position > (
    select position
    from events
    where id = $2
  )"
));

/// Makes the dead event $1 pending again.
pub(crate) const REVIVE_EVENT: Statement = Statement::same(
    "
update events
set
  failures = 0,
  last_error = null,
  dead_at = null
where id = $1
  and dead_at is not null",
);

/// Dead events after position $1.
pub(crate) const DEAD_EVENTS: Statement = Statement::same(
    "
select
  id,
  kind,
  subject,
  payload,
  created_at,
  failures,
  last_error,
  dead_at,
  position
from events
where dead_at is not null
  and position > $1
order by position
limit $2",
);

/// Forgets events that died before $1.
pub(crate) const FORGET_DEAD_EVENTS: Statement = Statement::same(
    "
delete from events
where position in (
  select position
  from events
  where dead_at < $1
  order by dead_at
  limit $2
)",
);
