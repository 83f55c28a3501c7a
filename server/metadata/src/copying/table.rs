//! Tables, columns, and rows as values, the same for every engine.

/// A table that is copied.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) name: &'static str,
    /// Columns that identify and order rows.
    pub(super) key: &'static str,
}

/// All tables to copy, each after the tables that it refers to.
///
/// Leases are missing: they belong to running servers.
pub(super) const TABLES: [Table; 12] = [
    table("blobs", "key"),
    table("files", "path"),
    table("deleted_files", "path"),
    table("uploads", "id"),
    table("packs", "name"),
    table("pack_versions", "id"),
    table("version_blobs", "version, blob"),
    table("drafts", "id"),
    table("draft_blobs", "draft, blob"),
    table("contents", "sha256"),
    table("needs", "id"),
    table("events", "position"),
];

const fn table(name: &'static str, key: &'static str) -> Table {
    Table { name, key }
}

impl Table {
    /// Returns a query for all rows in order. Its names come from the schema alone.
    pub(super) fn select(&self, columns: &[Column]) -> String {
        let (names, Self { name, key }) = (names(columns), self);
        format!("select {names} from {name} order by {key}")
    }

    pub(super) fn count(&self) -> String {
        format!("select count(*) from {}", self.name)
    }
}

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// Type of a column's values. Numbers of all widths are one type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    /// A number in SQLite.
    Boolean,
    Text,
    Bytes,
}

/// A value of a row. A boolean is 0 or 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Null,
    Integer(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// Values of a row, in the order of columns.
pub(super) type Row = Vec<Value>;

impl Value {
    pub(super) fn of<T>(value: Option<T>, some: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Null, some)
    }

    /// Returns a non-negative number.
    pub(super) fn number(self) -> Option<u64> {
        self.integer().and_then(|number| u64::try_from(number).ok())
    }

    pub(super) fn integer(self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(number),
            Self::Null | Self::Text(_) | Self::Bytes(_) => None,
        }
    }

    pub(super) fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Integer(_) | Self::Bytes(_) => None,
        }
    }

    pub(super) fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Null | Self::Integer(_) | Self::Text(_) => None,
        }
    }
}

/// Returns the names of columns as a list for statements.
pub(super) fn names(columns: &[Column]) -> String {
    let names: Vec<&str> = columns.iter().map(|column| &*column.name).collect();
    names.join(", ")
}

/// Returns true if two engines have the same columns in the same order.
pub(super) fn are_the_same(here: &[Column], there: &[Column]) -> bool {
    let numbers = [Kind::Integer, Kind::Boolean];
    here.len() == there.len()
        && here.iter().zip(there).all(|(here, there)| {
            let alike = numbers.contains(&here.kind) && numbers.contains(&there.kind);
            here.name == there.name && (alike || here.kind == there.kind)
        })
}

/// Defines the methods whose statements are the same for every engine. Each engine has its own
/// types for connections and rows, which generic code would have to bound one by one; `values`
/// converts one of its rows to a [`Row`].
macro_rules! statements {
    () => {
        pub(super) async fn execute(&mut self, statement: &'static str) -> sqlx::Result<()> {
            sqlx::query(statement).execute(&mut self.0).await.map(drop)
        }

        pub(super) async fn number(&mut self, query: String) -> sqlx::Result<i64> {
            sqlx::query_scalar(AssertSqlSafe(query))
                .fetch_one(&mut self.0)
                .await
        }

        pub(super) async fn pair(&mut self, query: &'static str) -> sqlx::Result<(i64, i64)> {
            sqlx::query_as(query).fetch_one(&mut self.0).await
        }

        pub(super) async fn page(
            &mut self,
            query: &'static str,
            kinds: &[Kind],
            after: &str,
            limit: i64,
        ) -> sqlx::Result<Vec<Row>> {
            let rows = sqlx::query(query)
                .bind(after)
                .bind(limit)
                .fetch_all(&mut self.0)
                .await?;
            rows.iter().map(|row| values(row, kinds)).collect()
        }

        pub(super) fn rows(
            &mut self,
            query: String,
            kinds: Vec<Kind>,
        ) -> BoxStream<'_, sqlx::Result<Row>> {
            sqlx::query(AssertSqlSafe(query))
                .fetch(&mut self.0)
                .map(move |row| values(&row?, &kinds))
                .boxed()
        }
    };
}
pub(super) use statements;

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, PgConnection, SqliteConnection};

    use super::*;
    use testing::postgres::fresh_schema;

    use crate::{Config, PostgresConfig, SqliteConfig};

    /// Tables that belong to the migrator and to running servers.
    const OTHERS: [&str; 2] = ["_sqlx_migrations", "leases"];

    fn check(mut tables: Vec<String>) {
        tables.retain(|name| !OTHERS.contains(&name.as_str()));
        tables.sort();
        let mut copied = TABLES.map(|table| table.name);
        copied.sort_unstable();
        assert_eq!(tables, copied);
    }

    #[tokio::test]
    async fn no_table_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let config = SqliteConfig::default();
        let file = directory.path().join(&config.file);
        let stores = crate::open(&Config::Sqlite(config), directory.path()).await;
        let url = format!("sqlite:{}", file.display());
        let mut connection = SqliteConnection::connect(&url).await.unwrap();
        let tables =
            "select name from sqlite_schema where type = 'table' and name not like 'sqlite_%'";
        let tables = sqlx::query_scalar(tables).fetch_all(&mut connection).await;
        check(tables.unwrap());
        stores.unwrap().metadata.close().await;

        let config = PostgresConfig::new(fresh_schema().await);
        let url = config.url.secret().to_string();
        let stores = crate::open(&Config::Postgres(config), directory.path()).await;
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let tables = "select tablename::text from pg_tables where schemaname = current_schema()";
        let tables = sqlx::query_scalar(tables).fetch_all(&mut connection).await;
        check(tables.unwrap());
        stores.unwrap().metadata.close().await;
    }
}
