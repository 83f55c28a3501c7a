//! Statements about packs, like [`sql`](crate::sql). Those that take lists are in
//! [`pack_lists`](crate::pack_lists).

use crate::engine::{Script, Statement};
use crate::sql::need_blob;

macro_rules! draft_columns {
    () => {
        "
  drafts.id,
  drafts.pack,
  drafts.tree,
  blobs.size as tree_size,
  blobs.sha256 as tree_sha256,
  drafts.created_at,
  drafts.expires_at,
  drafts.published
"
    };
}

/// Columns of a pack and of its optional version, each document with the columns of its blob.
macro_rules! version_columns {
    () => {
        "
  packs.name as pack,
  pack_versions.number,
  pack_versions.files,
  pack_versions.size,
  catalogue.key as catalogue,
  catalogue.size as catalogue_size,
  catalogue.sha256 as catalogue_sha256,
  catalogue_gzip.key as catalogue_gzip,
  catalogue_gzip.size as catalogue_gzip_size,
  catalogue_gzip.sha256 as catalogue_gzip_sha256,
  catalogue_zstd.key as catalogue_zstd,
  catalogue_zstd.size as catalogue_zstd_size,
  catalogue_zstd.sha256 as catalogue_zstd_sha256,
  forms.key as forms,
  forms.size as forms_size,
  forms.sha256 as forms_sha256,
  places.key as places,
  places.size as places_size,
  places.sha256 as places_sha256,
  pack_versions.published_at
"
    };
}

/// Joins the blobs of a version's documents. A doomed blob, which would be a fault, counts as
/// missing.
macro_rules! document_blobs {
    () => {
        "
left join blobs as catalogue
  on catalogue.key = pack_versions.catalogue
  and catalogue.doomed_at is null
left join blobs as catalogue_gzip
  on catalogue_gzip.key = pack_versions.catalogue_gzip
  and catalogue_gzip.doomed_at is null
left join blobs as catalogue_zstd
  on catalogue_zstd.key = pack_versions.catalogue_zstd
  and catalogue_zstd.doomed_at is null
left join blobs as forms
  on forms.key = pack_versions.forms
  and forms.doomed_at is null
left join blobs as places
  on places.key = pack_versions.places
  and places.doomed_at is null"
    };
}

/// Packs, each with its newest version.
macro_rules! summaries {
    () => {
        concat!(
            "select",
            version_columns!(),
            "from packs
left join pack_versions
  on pack_versions.pack = packs.name
  and pack_versions.number = (
    select max(number)
    from pack_versions as newest
    where newest.pack = packs.name
  )",
            document_blobs!()
        )
    };
}

/// Versions, each with its pack.
macro_rules! versions {
    () => {
        concat!(
            "select",
            version_columns!(),
            "from packs
join pack_versions on pack_versions.pack = packs.name",
            document_blobs!()
        )
    };
}

/// Records a draft. No row is inserted if the name exists.
pub(crate) const INSERT_DRAFT: Statement = Statement::same(
    "
insert into drafts (
  id,
  pack,
  tree,
  created_at,
  expires_at
)
values ($1, $2, $3, $4, $5)
on conflict do nothing",
);

/// Adds the blob $1 to the draft $4.
macro_rules! hold_tree {
    () => {
        "
insert into draft_blobs (
  draft,
  blob
)
values ($4, $1)"
    };
}

/// Adds the blob $1 of size $2 and digest $3 to the draft $4: two statements, each of which must
/// affect one row.
pub(crate) const HOLD_TREE: Script = Script {
    sqlite: concat!(need_blob!(), ";", hold_tree!()),
    postgres: &[(need_blob!(), 3), (hold_tree!(), 4)],
};

/// The draft with name $1.
pub(crate) const DRAFT: Statement = Statement::same(concat!(
    "select",
    draft_columns!(),
    "from drafts
left join blobs
  on blobs.key = drafts.tree
  and blobs.doomed_at is null
where drafts.id = $1"
));

/// Drafts that expired by $1.
pub(crate) const EXPIRED_DRAFTS: Statement = Statement::same(
    "
select id
from drafts
where expires_at <= $1
order by expires_at, id
limit $2",
);

/// True if the draft $1 exists and, unless $2 is null, expired by $2.
pub(crate) const MAY_FORGET_DRAFT: Statement = Statement::same(
    "
select exists (
  select 1
  from drafts
  where id = $1
    and ($2 is null or expires_at <= $2)
)",
);

/// Moves the expiry of the open draft $1.
pub(crate) const PROLONG_DRAFT: Statement = Statement::same(
    "
update drafts
set expires_at = $2
where id = $1
  and published is null",
);

/// True if the draft $1 exists and is open.
pub(crate) const IS_OPEN_DRAFT: Statement = Statement::same(
    "
select exists (
  select 1
  from drafts
  where id = $1
    and published is null
)",
);

/// The number that the draft $1 of pack $2 was published as.
pub(crate) const PUBLISHED: Statement = Statement::same(
    "
select published
from drafts
where id = $1
  and pack = $2",
);

/// Records that the open draft $1 is published as version $2 and kept until $3.
pub(crate) const PUBLISH_DRAFT: Statement = Statement::same(
    "
update drafts
set
  tree = null,
  expires_at = $3,
  published = $2
where id = $1
  and published is null",
);

/// Blobs of the draft $1.
pub(crate) const HELD_BY_DRAFT: Statement = Statement::same(
    "
select blob
from draft_blobs
where draft = $1",
);

/// Removes all blobs from the draft $1, and returns them.
pub(crate) const RELEASE_DRAFT: Statement = Statement::same(
    "
delete from draft_blobs
where draft = $1
returning blob",
);

/// Deletes the draft $1, which has no blobs any more.
pub(crate) const DELETE_DRAFT: Statement = Statement::same(
    "
delete from drafts
where id = $1",
);

/// Last number that was assigned to a version of the pack $1.
pub(crate) const LAST_NUMBER: Statement = Statement::same(
    "
select last_number
from packs
where name = $1",
);

/// Assigns the number $2 to a version of the pack $1.
pub(crate) const GIVE_NUMBER: Statement = Statement::same(
    "
insert into packs (
  name,
  last_number
)
values ($1, $2)
on conflict (name) do update
set last_number = excluded.last_number",
);

/// Records a version and returns its row id.
pub(crate) const INSERT_VERSION: Statement = Statement::same(
    "
insert into pack_versions (
  pack,
  number,
  files,
  size,
  catalogue,
  catalogue_gzip,
  catalogue_zstd,
  forms,
  places,
  published_at
)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
returning id",
);

/// Row id of version $2 of the pack $1.
pub(crate) const VERSION_ID: Statement = Statement::same(
    "
select id
from pack_versions
where pack = $1
  and number = $2",
);

/// Removes all blobs from the version with row id $1, and returns them.
pub(crate) const RELEASE_VERSION: Statement = Statement::same(
    "
delete from version_blobs
where version = $1
returning blob",
);

/// Deletes the version with row id $1, which has no blobs any more, and its needs.
pub(crate) const DELETE_VERSION: Statement = Statement::same(
    "
delete from pack_versions
where id = $1",
);

/// Version $2 of the pack $1.
pub(crate) const VERSION: Statement = Statement::same(concat!(
    versions!(),
    "
where packs.name = $1
  and pack_versions.number = $2"
));

/// Versions of the pack $1 below $2.
pub(crate) const VERSIONS: Statement = Statement::same(concat!(
    versions!(),
    "
where packs.name = $1
  and pack_versions.number < $2
order by pack_versions.number desc
limit $3"
));

/// The pack $1.
pub(crate) const PACK: Statement = Statement::same(concat!(
    summaries!(),
    "
where packs.name = $1"
));

/// Packs after the name $1.
pub(crate) const PACKS: Statement = Statement::same(concat!(
    summaries!(),
    "
where packs.name > $1
order by packs.name
limit $2"
));

/// Registers the need $4 with digest $3 for version $2 of the pack $1 until $5. No row is affected
/// if there is no such version.
pub(crate) const REGISTER_NEED: Statement = Statement::same(
    "
insert into needs (
  version,
  sha256,
  encoded,
  expires_at
)
select
  id,
  $3,
  $4,
  $5
from pack_versions
where pack = $1
  and number = $2
on conflict (version, sha256) do update
set expires_at = case
  when needs.expires_at < excluded.expires_at then excluded.expires_at
  else needs.expires_at
end",
);

/// Need with digest $3 for version $2 of the pack $1.
pub(crate) const NEED: Statement = Statement::same(
    "
select needs.encoded
from pack_versions
join needs on needs.version = pack_versions.id
where pack_versions.pack = $1
  and pack_versions.number = $2
  and needs.sha256 = $3",
);

/// Deletes needs that expired by $1.
pub(crate) const FORGET_NEEDS: Statement = Statement::same(
    "
delete from needs
where id in (
  select id
  from needs
  where expires_at <= $1
  order by expires_at
  limit $2
)",
);
