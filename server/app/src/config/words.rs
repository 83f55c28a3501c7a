//! Users' words for the values that a setting takes: serde's own speak of strings, sequences and structs of the source.

use std::time::Duration;

use toml::Value;

use super::docs::Takes;

/// The values that a setting takes, and an example of them.
#[derive(Debug)]
pub(super) struct Right {
    /// Completes the sentence "it takes …".
    pub(super) what: String,
    pub(super) example: Value,
}

/// The words for a setting called `name`; its default is the best example, where it has one.
pub(super) fn right(name: &str, takes: &Takes, default: Option<Value>) -> Right {
    let default = default.filter(|default| !matches!(default.as_str(), Some("")));
    let with = |what: &str, example: Value| Right {
        what: what.to_owned(),
        example: default.clone().unwrap_or(example),
    };
    let type_name = match takes {
        Takes::OneOf(choices) => {
            let what = format!("one of `{}`", choices.join("`, `"));
            return with(&what, choices[0].clone().into());
        }
        Takes::A(type_name) => *type_name,
    };
    match type_name {
        "bool" => with("`true` or `false`", true.into()),
        "Duration" => with("a time such as `500ms`, `30s`, `5m` or `2h`", "30s".into()),
        "ByteSize" => with("a size such as `64 KiB` or `100 MB`", "64 MiB".into()),
        "u16" | "u32" | "u64" | "usize" => with("a whole number", 100.into()),
        name if name.starts_with("NonZero") => with("a whole number of 1 or more", 100.into()),
        "Url" => with("a whole URL", "https://files.example.org".into()),
        "DatabaseUrl" => with(
            "a URL of PostgreSQL",
            "postgres://longhaul:secret@db.internal/longhaul".into(),
        ),
        "PathBuf" => with("a path", format!("/etc/longhaul/{name}.pem").into()),
        "ListenAddress" | "AdminAddress" => with(
            "an address and a port, of which one may be left out",
            "127.0.0.1:8080".into(),
        ),
        "Directives" => with("levels", "info,edge=debug".into()),
        "Vec<ApiKey>" => Right {
            what: "a list of keys; `longhaul hash-key NAME` makes one, with its line".to_owned(),
            example: list(
                r#"[{ name = "laptop", sha256 = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8" }]"#,
            ),
        },
        "Vec<Secret>" => Right {
            what: "a list of secrets; `echo whsec_$(openssl rand -base64 32)` makes one".to_owned(),
            example: list(r#"["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]"#),
        },
        "Vec<IpNet>" => Right {
            what: "a list of addresses and networks".to_owned(),
            example: list(r#"["10.0.0.5", "10.1.0.0/16"]"#),
        },
        "Vec<EventKind>" => with(
            "a list of `upload.completed` and `version.published`",
            Value::Array(Vec::new()),
        ),
        name if name.starts_with("Vec<") => with("a list", Value::Array(Vec::new())),
        _ => with("text", "longhaul".into()),
    }
}

fn list(toml: &str) -> Value {
    let mut table: toml::Table = toml::from_str(&format!("list = {toml}")).expect("it is TOML");
    table.remove("list").expect("it was put there")
}

/// A time as people say it: in the largest unit that it is a whole number of, and days at most. The months of `humantime` have
/// 30.44 days.
pub(super) fn time(time: Duration) -> String {
    let nanos = time.as_nanos();
    let units = [
        ("days", Duration::from_hours(24)),
        ("h", Duration::from_hours(1)),
        ("m", Duration::from_mins(1)),
        ("s", Duration::from_secs(1)),
        ("ms", Duration::from_millis(1)),
        ("us", Duration::from_micros(1)),
    ];
    for (unit, length) in units {
        let count = nanos / length.as_nanos();
        if count > 0 && nanos.is_multiple_of(length.as_nanos()) {
            let unit = if (unit, count) == ("days", 1) {
                "day"
            } else {
                unit
            };
            return format!("{count}{unit}");
        }
    }
    match nanos {
        0 => "0s".to_owned(),
        nanos => format!("{nanos}ns"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_in_round_units_and_read_back() {
        for (length, said) in [
            (Duration::from_hours(90 * 24), "90days"),
            (Duration::from_hours(24), "1day"),
            (Duration::from_hours(36), "36h"),
            (Duration::from_mins(90), "90m"),
            (Duration::from_secs(75), "75s"),
            (Duration::from_millis(1500), "1500ms"),
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1ns"),
        ] {
            assert_eq!(time(length), said);
            assert_eq!(humantime::parse_duration(said).unwrap(), length);
        }
    }

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
