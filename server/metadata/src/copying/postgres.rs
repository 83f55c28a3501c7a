//! PostgreSQL as a source or a target.

use futures::stream::{BoxStream, StreamExt as _};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, Postgres, QueryBuilder, Row as _};

use super::table::{Column, Kind, Row, Table, Value, names, statements};
use crate::PostgresConfig;

#[derive(Debug)]
pub(super) struct PostgresDatabase(PgConnection);

impl PostgresDatabase {
    pub(super) async fn connect(config: &PostgresConfig) -> sqlx::Result<Self> {
        PgConnectOptions::from_url(config.url.secret())?
            .disable_statement_logging()
            .connect()
            .await
            .map(Self)
    }

    statements!();

    /// Returns a table's columns in the order of their names.
    pub(super) async fn columns(&mut self, table: &Table) -> sqlx::Result<Vec<Column>> {
        const COLUMNS: &str = "
            select column_name::text, data_type::text
            from information_schema.columns
            where table_schema = current_schema() and table_name = $1
            order by column_name collate \"C\"";
        let columns: Vec<(String, String)> = sqlx::query_as(COLUMNS)
            .bind(table.name)
            .fetch_all(&mut self.0)
            .await?;
        columns
            .into_iter()
            .map(|(name, declared)| {
                let kind = match declared.as_str() {
                    "bigint" => Kind::Integer,
                    "boolean" => Kind::Boolean,
                    "text" => Kind::Text,
                    "bytea" => Kind::Bytes,
                    _ => {
                        return Err(sqlx::Error::TypeNotFound {
                            type_name: declared,
                        });
                    }
                };
                Ok(Column { name, kind })
            })
            .collect()
    }

    pub(super) async fn insert(
        &mut self,
        table: &Table,
        columns: &[Column],
        rows: Vec<Row>,
    ) -> sqlx::Result<()> {
        // Numbers from identity columns are copied as well.
        let (name, names) = (table.name, names(columns));
        let head = format!("insert into {name} ({names}) overriding system value ");
        let mut query = QueryBuilder::<Postgres>::new(head);
        query.push_values(rows, |mut row, values| {
            for (value, column) in values.into_iter().zip(columns) {
                match value {
                    Value::Null => row.push("null"),
                    Value::Integer(number) if column.kind == Kind::Boolean => {
                        row.push_bind(number != 0)
                    }
                    Value::Integer(number) => row.push_bind(number),
                    Value::Text(text) => row.push_bind(text),
                    Value::Bytes(bytes) => row.push_bind(bytes),
                };
            }
        });
        query.build().execute(&mut self.0).await?;
        self.go_on_counting(table).await
    }

    /// Continues the table's identity column after the copied numbers.
    async fn go_on_counting(&mut self, table: &Table) -> sqlx::Result<()> {
        const COUNTED: &str = "
            select column_name::text
            from information_schema.columns
            where table_schema = current_schema() and table_name = $1 and is_identity = 'YES'";
        let counted: Option<String> = sqlx::query_scalar(COUNTED)
            .bind(table.name)
            .fetch_optional(&mut self.0)
            .await?;
        let Some(column) = counted else {
            return Ok(());
        };
        let name = table.name;
        let statement = format!(
            "select setval(pg_get_serial_sequence('{name}', '{column}'), max({column})) from {name}"
        );
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut self.0)
            .await
            .map(drop)
    }
}

fn values(row: &PgRow, kinds: &[Kind]) -> sqlx::Result<Row> {
    kinds
        .iter()
        .enumerate()
        .map(|(index, kind)| {
            Ok(match kind {
                Kind::Integer => Value::of(row.try_get(index)?, Value::Integer),
                Kind::Boolean => Value::of(row.try_get(index)?, |is: bool| {
                    Value::Integer(i64::from(is))
                }),
                Kind::Text => Value::of(row.try_get(index)?, Value::Text),
                Kind::Bytes => Value::of(row.try_get(index)?, Value::Bytes),
            })
        })
        .collect()
}
