//! Tests specific to PostgreSQL: access, the schema, and a misconfigured server.

#![expect(
    clippy::unwrap_used,
    reason = "a test, in functions of its own as well"
)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use testing::postgres::fresh_schema;

use domain::file::WriteCondition;
use domain::ids::SystemRandomness;
use domain::metadata_store::{Guarded, Hold, Inserted, MetadataError, Written};
use domain::pack::DraftRecord;
use domain::upload::{Reported, Upload, UploadState};
use domain::{MetadataStore, NodeId, Timestamp};
use futures::future::join_all;
use metadata::{Config, OpenError, PostgresConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testing::metadata_store::{completed, file, progress, upload};
use testing::pack_store::{blob, draft};

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// Longer than any upload of these tests lives.
const LONG: Duration = Duration::from_hours(24 * 365);
const ALWAYS: WriteCondition = WriteCondition {
    if_match: None,
    if_none_match: None,
    if_unmodified_since: None,
};

async fn open(config: &PostgresConfig) -> Result<Arc<dyn MetadataStore>, OpenError> {
    let config = Config::Postgres(config.clone());
    let stores = metadata::open(&config, "/nowhere".as_ref()).await?;
    Ok(stores.metadata)
}

async fn fresh() -> (Arc<dyn MetadataStore>, PostgresConfig) {
    let config = fresh_database().await;
    (open(&config).await.unwrap(), config)
}

/// A database of its own, for what concerns a whole one: `encoding` and all its connections.
async fn database(name: &str, encoding: &str) -> PostgresConfig {
    let config = PostgresConfig::new(fresh_schema().await);
    let create =
        format!("create database {name} encoding '{encoding}' locale 'C' template template0");
    run(&mut raw(&config).await, &create).await;
    let url = config
        .url
        .to_string()
        .replace("/postgres?", &format!("/{name}?"));
    let (url, _) = url.split_once("&options").unwrap();
    PostgresConfig::new(url.parse().unwrap())
}

async fn fresh_database() -> PostgresConfig {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    database(&format!("own_{count}"), "UTF8").await
}

/// The database, without the store's care.
async fn raw(config: &PostgresConfig) -> PgConnection {
    PgConnection::connect(&config.url.to_string())
        .await
        .unwrap()
}

async fn run(connection: &mut PgConnection, statement: &str) {
    let statement = AssertSqlSafe(statement.to_owned());
    sqlx::raw_sql(statement).execute(connection).await.unwrap();
}

/// Ends every other connection to the database.
async fn cut_off(connection: &mut PgConnection) {
    run(
        connection,
        "select pg_terminate_backend(pid)
         from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()",
    )
    .await;
}

/// Waits until a statement of the store waits for a lock in this database.
async fn await_waiting(connection: &mut PgConnection) {
    let waiting = "
select exists (
  select 1
  from pg_stat_activity
  where datname = current_database()
    and wait_event_type = 'Lock'
)";
    let wait = async {
        while !sqlx::query_scalar::<_, bool>(waiting)
            .fetch_one(&mut *connection)
            .await
            .unwrap()
        {}
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .unwrap();
}

/// Has the engine end every claim as if another transaction were in its way, `times` in all.
async fn entangle(connection: &mut PgConnection, times: u32) {
    run(
        connection,
        &format!(
            "create sequence ended;
             create function end_it() returns trigger language plpgsql as $$
             begin
               if nextval('ended') <= {times} then
                 raise exception using errcode = 'deadlock_detected';
               end if;
               return new;
             end
             $$;
             create trigger end_it before update on uploads for each row execute function end_it()"
        ),
    )
    .await;
}

#[tokio::test]
async fn a_change_that_is_in_the_way_is_made_again() {
    let (store, config) = fresh().await;
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    entangle(&mut raw(&config).await, 3).await;
    let claimed = store
        .claim_upload(&upload.id, None, None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(claimed.epoch, 1);
    store.close().await;
}

#[tokio::test]
async fn a_change_is_not_made_again_for_ever() {
    let (store, config) = fresh().await;
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let mut database = raw(&config).await;
    entangle(&mut database, u32::MAX).await;
    let claimed = store.claim_upload(&upload.id, None, None).await;
    assert!(
        matches!(claimed, Err(MetadataError::Unreachable { .. })),
        "{claimed:?}"
    );
    let ended: i64 = sqlx::query_scalar("select last_value from ended")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(ended, 10);
    let read = store.upload(&upload.id).await.unwrap();
    assert_eq!(read, Some(upload));
    store.close().await;
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let (store, config) = fresh().await;
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let file = file("b", "x", NOW);
    store.put_file(&file, &ALWAYS, None).await.unwrap();
    store.close().await;

    let store = open(&config).await.unwrap();
    assert_eq!(store.upload(&upload.id).await.unwrap(), Some(upload));
    assert_eq!(store.file(&file.path).await.unwrap(), Some(file));
    store.close().await;
}

#[tokio::test]
async fn nothing_may_be_called_after_the_end() {
    let config = PostgresConfig {
        acquire_timeout: Duration::from_millis(500),
        ..fresh_database().await
    };
    let store = open(&config).await.unwrap();
    store.close().await;
    let written = store.insert_upload(&upload("a")).await;
    assert!(matches!(written, Err(MetadataError::Unreachable { .. })));
    let read = store.upload(&upload("a").id).await;
    assert!(matches!(read, Err(MetadataError::Unreachable { .. })));
    store.close().await;
}

#[tokio::test]
async fn servers_that_start_at_once_migrate_once() {
    let config = PostgresConfig {
        connections: 2.try_into().unwrap(),
        ..fresh_database().await
    };
    let stores = join_all((0..8).map(|_| open(&config))).await;
    for store in stores {
        let store = store.unwrap();
        store.check().await.unwrap();
        store.close().await;
    }
}

#[tokio::test]
async fn a_database_of_a_newer_release_is_refused() {
    let (store, config) = fresh().await;
    store.close().await;
    run(
        &mut raw(&config).await,
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'from the future', true, '', 0)",
    )
    .await;
    let error = open(&config).await.unwrap_err();
    assert!(
        matches!(error, OpenError::Newer { version: 9999, .. }),
        "{error:?}"
    );
    let message = error.to_string();
    assert!(message.contains("newer release"), "{message}");
    assert!(message.contains("9999"), "{message}");
}

#[tokio::test]
async fn a_migration_that_was_edited_is_refused() {
    let (store, config) = fresh().await;
    store.close().await;
    run(
        &mut raw(&config).await,
        "update _sqlx_migrations set checksum = ''",
    )
    .await;
    let error = open(&config).await.unwrap_err();
    assert!(matches!(error, OpenError::Migrate { .. }), "{error:?}");
    let cause = error.source().unwrap().to_string();
    assert!(cause.contains("modified"), "{cause}");
}

#[tokio::test]
async fn a_database_that_lacks_characters_is_refused() {
    let config = database("latin", "LATIN1").await;
    let error = open(&config).await.unwrap_err();
    assert!(matches!(error, OpenError::Encoding { .. }), "{error:?}");
    assert!(error.to_string().contains("LATIN1"), "{error}");
}

/// Neither by the error nor by what caused it.
#[tokio::test]
async fn a_database_that_is_not_there_is_refused_without_its_password() {
    let url = "postgres://me:swordfish@localhost/x?host=/nowhere";
    let error = open(&PostgresConfig::new(url.parse().unwrap())).await;
    let error = error.unwrap_err();
    assert!(matches!(error, OpenError::Engine { .. }), "{error:?}");
    assert!(error.to_string().contains("me@localhost"), "{error}");
    let cause = error.source().unwrap();
    for text in [error.to_string(), format!("{error:?}"), cause.to_string()] {
        assert!(!text.contains("swordfish"), "{text}");
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_is_used_again() {
    let (store, config) = fresh().await;
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    cut_off(&mut raw(&config).await).await;
    assert_eq!(store.upload(&upload.id).await.unwrap(), Some(upload));
    store.check().await.unwrap();
    store.close().await;
}

/// A change whose connection is cut while it waits for a lock waits again on another.
#[tokio::test]
async fn a_change_whose_connection_is_cut_is_made_again() {
    let (store, config) = fresh().await;
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let mut database = raw(&config).await;
    run(&mut database, "begin; select 1 from uploads for update").await;
    let working = [
        tokio::spawn({
            let (store, id) = (Arc::clone(&store), upload.id);
            async move { store.claim_upload(&id, None, None).await.map(drop) }
        }),
        tokio::spawn({
            let (store, upload) = (Arc::clone(&store), upload.clone());
            async move {
                let done = completed("x", NOW);
                let written = store.complete_upload(&upload, &done, NOW, None).await;
                written.map(drop)
            }
        }),
    ];
    // Within a transaction, the engine shows who waits as it was at the first look.
    let mut watching = raw(&config).await;
    for _ in 0..3 {
        await_waiting(&mut watching).await;
        run(
            &mut watching,
            "select pg_terminate_backend(pid, 10000)
             from pg_stat_activity
             where datname = current_database() and wait_event_type = 'Lock'",
        )
        .await;
    }
    run(&mut database, "commit").await;
    for worked in working {
        worked.await.unwrap().unwrap();
    }
    store.close().await;
}

/// Reads and changes of one statement only take longer when the engine cuts everyone off, again and
/// again.
#[tokio::test]
async fn those_who_are_cut_off_go_on() {
    let (store, config) = fresh().await;
    let mut database = raw(&config).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let workers: Vec<_> = (0..8)
        .map(|n| {
            let (store, stopped) = (Arc::clone(&store), stopped.clone());
            tokio::spawn(async move {
                let upload = upload(&n.to_string());
                store.insert_upload(&upload).await.unwrap();
                let id = &upload.id;
                let mut offset = 0;
                while !*stopped.borrow() {
                    let epoch = store
                        .claim_upload(id, None, None)
                        .await
                        .unwrap()
                        .unwrap()
                        .epoch;
                    offset += 1;
                    let step = progress(offset, None);
                    let recorded = store
                        .record_progress(id, epoch, &step, NOW, Hold::Release)
                        .await;
                    assert_eq!(recorded.unwrap(), Guarded::Done);
                    let read = store.upload(id).await.unwrap().unwrap();
                    assert_eq!(read.state, UploadState::Open(step));
                }
                offset
            })
        })
        .collect();
    // They have begun.
    while store
        .expired_uploads(NOW.plus(LONG), NodeId::random(&SystemRandomness), 100)
        .await
        .unwrap()
        .len()
        < 8
    {}
    for _ in 0..10 {
        cut_off(&mut database).await;
        store.check().await.unwrap();
    }
    stop.send(true).unwrap();
    for worker in workers {
        assert!(worker.await.unwrap() > 0);
    }
    store.close().await;
}

#[tokio::test]
async fn a_store_that_cannot_be_written_says_so() {
    let (store, config) = fresh().await;
    let mut database = raw(&config).await;
    for (setting, is_sound) in [("on", false), ("off", true)] {
        let name: String = sqlx::query_scalar("select current_database()::text")
            .fetch_one(&mut database)
            .await
            .unwrap();
        run(
            &mut database,
            &format!("set default_transaction_read_only = off; alter database {name} set default_transaction_read_only = {setting}"),
        )
        .await;
        cut_off(&mut database).await;
        assert_eq!(store.check().await.is_ok(), is_sound, "{setting}");
    }
    store.close().await;
}

/// The database's settings do not weaken commits.
#[tokio::test]
async fn a_change_is_durable_whatever_the_database_is_set_to() {
    let config = fresh_database().await;
    let mut database = raw(&config).await;
    let name: String = sqlx::query_scalar("select current_database()::text")
        .fetch_one(&mut database)
        .await
        .unwrap();
    run(
        &mut database,
        &format!(
            "alter database {name} set synchronous_commit = off;
             alter database {name} set default_transaction_isolation = 'serializable'"
        ),
    )
    .await;
    let store = open(&config).await.unwrap();
    run(
        &mut database,
        "create table seen (durably text, isolation text);
         create function look() returns trigger language plpgsql as $$
         begin
           insert into seen
           values (current_setting('synchronous_commit'), current_setting('transaction_isolation'));
           return new;
         end
         $$;
         create trigger look before insert on uploads for each row execute function look()",
    )
    .await;
    store.insert_upload(&upload("a")).await.unwrap();
    let seen: (String, String) = sqlx::query_as("select * from seen")
        .fetch_one(&mut database)
        .await
        .unwrap();
    assert_eq!(seen, ("on".to_owned(), "read committed".to_owned()));
    store.close().await;
}

/// Nobody waits for the disk before a client is told an offset; the next change on the same
/// connection is durable again.
#[tokio::test]
async fn only_what_is_told_may_be_lost() {
    let config = PostgresConfig {
        connections: 1.try_into().unwrap(),
        ..fresh_database().await
    };
    let store = open(&config).await.unwrap();
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let mut database = raw(&config).await;
    run(
        &mut database,
        "create table seen (durably text);
         create function look() returns trigger language plpgsql as $$
         begin
           insert into seen values (current_setting('synchronous_commit'));
           return new;
         end
         $$;
         create trigger look before update on uploads for each row execute function look()",
    )
    .await;
    let reported = Reported { offset: 0, at: NOW };
    let guarded = store
        .report_offset(&upload.id, upload.epoch, Some(reported))
        .await;
    assert_eq!(guarded.unwrap(), Guarded::Done);
    store.claim_upload(&upload.id, None, None).await.unwrap();
    let seen: Vec<String> = sqlx::query_scalar("select durably from seen")
        .fetch_all(&mut database)
        .await
        .unwrap();
    assert_eq!(seen, ["off", "on"]);
    store.close().await;
}

/// A change waits for another's lock, but not for ever.
#[tokio::test]
async fn a_statement_that_waits_too_long_fails() {
    let config = PostgresConfig {
        statement_timeout: Duration::from_millis(50),
        acquire_timeout: Duration::from_millis(500),
        ..fresh_database().await
    };
    let store = open(&config).await.unwrap();
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let mut database = raw(&config).await;
    run(&mut database, "begin; select 1 from uploads for update").await;
    let claimed = store.claim_upload(&upload.id, None, None).await;
    assert!(
        matches!(claimed, Err(MetadataError::Unreachable { .. })),
        "{claimed:?}"
    );
    run(&mut database, "commit").await;
    let claimed = store
        .claim_upload(&upload.id, None, None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(claimed.epoch, 1);
    store.close().await;
}

#[tokio::test]
async fn a_connection_that_does_not_come_free_is_not_waited_for_for_ever() {
    let config = PostgresConfig {
        connections: 1.try_into().unwrap(),
        acquire_timeout: Duration::from_millis(200),
        ..fresh_database().await
    };
    let store = open(&config).await.unwrap();
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let mut database = raw(&config).await;
    run(&mut database, "begin; select 1 from uploads for update").await;
    let claim = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.claim_upload(&upload.id, None, None).await })
    };
    await_waiting(&mut database).await;
    let read = store.upload(&upload.id).await;
    assert!(
        matches!(read, Err(MetadataError::Unreachable { .. })),
        "{read:?}"
    );
    run(&mut database, "commit").await;
    assert_eq!(claim.await.unwrap().unwrap().unwrap().epoch, 1);
    store.close().await;
}

/// A change of a dropped caller is rolled back, and leaves no locks.
#[tokio::test]
async fn a_change_that_is_dropped_leaves_nothing() {
    let (store, config) = fresh().await;
    let upload = upload("a");
    store.insert_upload(&upload).await.unwrap();
    let mut database = raw(&config).await;
    run(&mut database, "begin; select 1 from uploads for update").await;
    let done = completed("x", NOW);
    tokio::select! {
        written = store.complete_upload(&upload, &done, NOW, None) => panic!("{written:?}"),
        () = await_waiting(&mut database) => {}
    }
    run(&mut database, "rollback").await;
    let written = store.complete_upload(&upload, &done, NOW, None).await;
    assert_eq!(written.unwrap(), Written::Created);
    store.close().await;
}

/// A connection keeps the statements that it has prepared, whichever change they were for.
#[tokio::test]
async fn files_and_drafts_take_turns_on_one_connection() {
    let config = PostgresConfig {
        connections: 1.try_into().unwrap(),
        ..PostgresConfig::new(fresh_schema().await)
    };
    let config = Config::Postgres(config);
    let stores = metadata::open(&config, "/nowhere".as_ref()).await.unwrap();
    for round in 0..2 {
        let file = file("a", &round.to_string(), NOW);
        stores
            .metadata
            .put_file(&file, &ALWAYS, None)
            .await
            .unwrap();
        let draft = DraftRecord {
            tree: Some(blob("tree")),
            ..draft("maps")
        };
        stores.packs.insert_draft(&draft).await.unwrap();
        let upload = upload("a");
        stores.metadata.insert_upload(&upload).await.unwrap();
        let completed = completed("x", NOW);
        let written = stores
            .metadata
            .complete_upload(&upload, &completed, NOW, None)
            .await;
        assert_eq!(written.unwrap(), Written::Replaced);
    }
    stores.metadata.close().await;
}

/// Longer than an entry of an index can be, and of bytes that do not shrink.
#[tokio::test]
async fn what_clients_choose_may_be_long() {
    let (store, _) = fresh().await;
    let long = |seed: u64| -> String {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let printable = b' ' + u8::try_from((state >> 33) % 95).unwrap();
            char::from(printable)
        };
        (0..32 << 10).map(|_| next()).collect()
    };
    let with = |key: &str, client_ref: &str| {
        let mut upload = upload("a");
        upload.plan.idempotency_key = Some(key.to_owned());
        upload.plan.client_ref = Some(client_ref.to_owned());
        upload
    };
    let first = with(&long(1), &long(2));
    let other = with(&long(3), &long(2));
    let backslash = with("\\", "\\x00");
    for upload in [&first, &other, &backslash] {
        assert_eq!(store.insert_upload(upload).await.unwrap(), Inserted::New);
    }
    for upload in [&first, &backslash] {
        let key = upload.plan.idempotency_key.as_deref().unwrap();
        let again = store.insert_upload(&with(key, "")).await.unwrap();
        assert_eq!(again, Inserted::Existing(Box::new(upload.clone())));
    }
    let ids = async |client_ref: &str| {
        let found = store.open_uploads(None, client_ref, 9).await.unwrap();
        let mut ids: Vec<_> = found.iter().map(|upload: &Upload| upload.id).collect();
        ids.sort_unstable();
        ids
    };
    let mut both = [first.id, other.id];
    both.sort_unstable();
    assert_eq!(ids(&long(2)).await, both);
    assert_eq!(ids("\\x00").await, [backslash.id]);
    store.close().await;
}

/// The engine's text has no NUL; what is looked for may have one.
#[tokio::test]
async fn what_is_looked_for_may_have_any_character() {
    let stores = {
        let config = Config::Postgres(fresh_database().await);
        metadata::open(&config, "/nowhere".as_ref()).await.unwrap()
    };
    let store = &stores.metadata;
    for path in ["a", "b", "b!", "c"] {
        let file = file(path, path, NOW);
        store.put_file(&file, &ALWAYS, None).await.unwrap();
    }
    let listed = async |prefix, after| {
        let files = store.list_files(prefix, after, 9).await.unwrap();
        let paths = files.iter().map(|file| file.path.to_string());
        paths.collect::<Vec<_>>()
    };
    assert_eq!(listed("", Some("b\0z")).await, ["b!", "c"]);
    assert_eq!(listed("", Some("\0")).await, ["a", "b", "b!", "c"]);
    assert_eq!(listed("b\0", None).await, [""; 0]);
    assert_eq!(store.open_uploads(None, "\0", 9).await.unwrap(), []);
    assert_eq!(stores.packs.packs(Some("\0"), 9).await.unwrap(), []);
    store.close().await;
}

#[test]
fn the_configuration_is_read() {
    let read = |text| toml::from_str::<Config>(text);
    let least = PostgresConfig::new("postgres://me:pass@db/x".parse().unwrap());
    let text = "type = 'postgres'\nurl = 'postgres://me:pass@db/x'";
    assert_eq!(read(text).unwrap(), Config::Postgres(least.clone()));
    let written = toml::to_string(&Config::Postgres(least.clone())).unwrap();
    assert_eq!(read(&written).unwrap(), Config::Postgres(least.clone()));
    assert!(!format!("{least:?}").contains("pass"), "{least:?}");
    let whole = PostgresConfig {
        connections: 3.try_into().unwrap(),
        acquire_timeout: Duration::from_secs(4),
        statement_timeout: Duration::from_mins(5),
        ..least
    };
    let text = format!("{text}\nconnections = 3\nacquire_timeout = '4s'\nstatement_timeout = '5m'");
    assert_eq!(read(&text).unwrap(), Config::Postgres(whole));
    for wrong in [
        "type = 'postgres'",
        "type = 'postgres'\nurl = 'mysql://db/x'",
        "type = 'postgres'\nurl = 'postgres://db/x'\nfile = 'x'",
        "type = 'postgres'\nurl = 'postgres://db/x'\nconnections = 0",
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
}
