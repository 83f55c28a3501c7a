//! Words for the values that a setting takes. serde's messages speak of strings, sequences and
//! structs.

use toml::Value;

use super::docs::Takes;

/// Values that a setting takes, and an example.
#[derive(Debug)]
pub(super) struct Right {
    /// Completes the sentence "it takes …".
    pub(super) what: String,
    pub(super) example: Value,
}

/// Returns the words for a setting called `name`. Its default is the example, if it has one.
pub(super) fn right(name: &str, takes: &Takes, default: Option<Value>) -> Right {
    let default = default.filter(|default| !matches!(default.as_str(), Some("")));
    let with = |what: &str, example: Value| Right {
        what: what.to_owned(),
        example: default.clone().unwrap_or(example),
    };
    match takes {
        Takes::OneOf(choices) => with(
            &format!("one of `{}`", choices.join("`, `")),
            choices[0].clone().into(),
        ),
        Takes::Bool => with("`true` or `false`", true.into()),
        Takes::Number(0) => with("a whole number", 100.into()),
        Takes::Number(least) => with(&format!("a whole number of {least} or more"), 100.into()),
        Takes::Time => with("a time such as `500ms`, `30s`, `5m` or `2h`", "30s".into()),
        Takes::Size => with("a size such as `64 KiB` or `100 MB`", "64 MiB".into()),
        Takes::Text(format) => match format.as_str() {
            "uri" => with("a whole URL", "https://files.example.org".into()),
            "database-url" => with(
                "a URL of PostgreSQL",
                "postgres://longhaul:secret@db.internal/longhaul".into(),
            ),
            "path" => with("a path", format!("/etc/longhaul/{name}.pem").into()),
            "address" => with(
                "an address and a port, of which one may be left out",
                "127.0.0.1:8080".into(),
            ),
            "levels" => with("levels", "info,edge=debug".into()),
            _ => with("text", "longhaul".into()),
        },
        Takes::List(items) => match &**items {
            Takes::Table => Right {
                what: "a list of keys; `longhaul hash-key NAME` makes one, with its line"
                    .to_owned(),
                example: list(
                    r#"[{ name = "laptop", sha256 = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8" }]"#,
                ),
            },
            Takes::Text(format) if format == "webhook-secret" => Right {
                what: "a list of secrets; `echo whsec_$(openssl rand -base64 32)` makes one"
                    .to_owned(),
                example: list(r#"["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]"#),
            },
            Takes::Text(format) if format == "network" => Right {
                what: "a list of addresses and networks".to_owned(),
                example: list(r#"["10.0.0.5", "10.1.0.0/16"]"#),
            },
            Takes::OneOf(choices) => with(
                &format!("a list of `{}`", choices.join("` and `")),
                Value::Array(Vec::new()),
            ),
            _ => with("a list", Value::Array(Vec::new())),
        },
        Takes::Table => with("a table", Value::Table(toml::Table::new())),
    }
}

fn list(toml: &str) -> Value {
    let mut table: toml::Table = toml::from_str(&format!("list = {toml}")).expect("it is TOML");
    table.remove("list").expect("it was put there")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_example_is_right() {
        let mut checked = 0;
        for path in super::super::docs::paths() {
            let said = super::super::Config::example(&path);
            let table = said.parse::<toml::Table>();
            assert!(table.is_ok(), "{path}: {said}");
            checked += 1;
        }
        assert!(checked > 80, "{checked}");
    }
}
