//! URL of a database, with a password that is never shown.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

/// Address and credentials of a PostgreSQL database:
/// `postgres://user:password@host:port/database?sslmode=verify-full`, or for a server's socket
/// `postgres://user@/database?host=/run/postgresql`.
///
/// Parts that are missing come from the environment variables of PostgreSQL's own programs
/// (`PGPASSWORD` and the like) and from their password file. [`Display`] and [`Debug`] omit the
/// password; serialization includes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", inline, extend("format" = "database-url"))]
pub struct DatabaseUrl(Url);

/// Reasons for which a text is not the URL of a database. None repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidUrl {
    /// The text is not a URL.
    #[error("it is no URL")]
    Syntax(#[source] url::ParseError),
    /// The scheme is not that of PostgreSQL.
    #[error("it does not begin with postgres://")]
    Scheme,
    /// The password is in the query, where it could be shown by mistake.
    #[error("its password belongs before the @, not after the ?")]
    PasswordInQuery,
}

impl DatabaseUrl {
    /// Returns the URL with the password.
    pub(crate) fn secret(&self) -> &Url {
        &self.0
    }
}

impl FromStr for DatabaseUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUrl> {
        let url = Url::parse(text).map_err(InvalidUrl::Syntax)?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(InvalidUrl::Scheme);
        }
        if url.query_pairs().any(|(key, _)| key == "password") {
            return Err(InvalidUrl::PasswordInQuery);
        }
        Ok(Self(url))
    }
}

impl TryFrom<String> for DatabaseUrl {
    type Error = InvalidUrl;

    fn try_from(text: String) -> Result<Self, InvalidUrl> {
        text.parse()
    }
}

impl From<DatabaseUrl> for String {
    fn from(url: DatabaseUrl) -> Self {
        url.0.into()
    }
}

impl Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // Fails without a host; then there is no password either.
        let _ = shown.set_password(None);
        f.write_str(shown.as_str())
    }
}

impl Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        for (text, shown) in [
            ("postgres://me:pass@db/x", "postgres://me@db/x"),
            (
                "postgresql://me:p%40ss@[::1]:7/x",
                "postgresql://me@[::1]:7/x",
            ),
            (
                "postgres://me:pass@%2Frun%2Fpostgresql/x",
                "postgres://me@%2Frun%2Fpostgresql/x",
            ),
            (
                "postgres:///x?host=/run/postgresql",
                "postgres:///x?host=/run/postgresql",
            ),
        ] {
            let url: DatabaseUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("DatabaseUrl({shown})"));
            assert_eq!(String::from(url), text);
        }
    }

    #[test]
    fn what_is_no_database_is_refused_without_being_shown() {
        for text in [
            "",
            "me:pass@db/x",
            "mysql://me:pass@db/x",
            "postgres://me:pass@db:port/x",
            "postgres://me:pass@/x",
            "postgres://me@db/x?password=pass",
        ] {
            let error = text.parse::<DatabaseUrl>().unwrap_err();
            assert!(!error.to_string().contains("pass@"), "{error}");
            assert!(!format!("{error:?}").contains("pass@"), "{error:?}");
        }
    }
}
