//! `log.level`: the levels of events to write.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// Events that libraries write at too severe a level; `log.level` can restore them.
///
/// PostgreSQL notices at every start that the table of migrations exists. The S3 client warns of
/// each object that was uploaded in parts, whose checksum it cannot compare.
const HUSHED: &str = "sqlx::postgres::notice=warn,aws_sdk_s3::http_response_checksum=error";

const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Parts of the program, and libraries whose events help to diagnose it.
const PARTS: [&str; 21] = [
    "app",
    "archive",
    "blobs",
    "budget",
    "domain",
    "edge",
    "metadata",
    "protocol",
    "transport",
    "aws_config",
    "aws_runtime",
    "aws_sdk_s3",
    "aws_smithy_runtime",
    "h2",
    "hyper",
    "hyper_util",
    "longhaul",
    "reqwest",
    "rustls",
    "sqlx",
    "tower_http",
];

/// Levels of the whole program and of parts of it, such as `info,edge=debug`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String", inline, extend("format" = "levels"))]
pub struct Directives(String);

impl Default for Directives {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl fmt::Display for Directives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Directives> for String {
    fn from(directives: Directives) -> Self {
        directives.0
    }
}

impl TryFrom<String> for Directives {
    type Error = String;

    /// Refuses misspelt levels: the filter would take one for the name of a part and switch
    /// everything else off.
    fn try_from(text: String) -> Result<Self, String> {
        const EXAMPLE: &str = "for example `info`, or `info,edge=debug` where a part differs";
        let directives: Vec<&str> = text.split(',').map(str::trim).collect();
        for &directive in &directives {
            // A directive of spans, `part[span{field=value}]=level`, has its level behind the last
            // bracket.
            let after_span = directive.rsplit_once(']').map_or(directive, |(_, end)| end);
            let level = match after_span.rsplit_once('=') {
                Some((_, level)) => level,
                None if directive.contains('[') => continue,
                None => directive,
            };
            if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
                let levels = LEVELS.join("`, `");
                return Err(format!(
                    "`{level}` is no level; the levels are `{levels}`: write {EXAMPLE}"
                ));
            }
        }
        let read = directives.join(",");
        EnvFilter::try_new(&read)
            .map_err(|_| format!("`{text}` cannot be read: write {EXAMPLE}"))?;
        Ok(Self(read))
    }
}

impl Directives {
    /// Returns the filter of these levels.
    pub(super) fn filter(&self) -> EnvFilter {
        EnvFilter::try_new(format!("{HUSHED},{self}")).expect("each part of it was read before")
    }

    /// Lists parts that the program does not have, as warnings: libraries of libraries are too many
    /// to refuse unknown names.
    pub fn doubts(&self) -> Vec<String> {
        let parts = self.0.split(',').filter_map(|directive| {
            let (target, _) = directive.split_once(['=', '['])?;
            let part = target.split("::").next()?;
            (!part.is_empty() && !PARTS.contains(&part)).then_some(part)
        });
        parts.map(doubt).collect()
    }
}

fn doubt(part: &str) -> String {
    let near = PARTS
        .iter()
        .map(|known| (strsim::damerau_levenshtein(part, known), known))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    match near {
        Some((_, known)) => {
            format!("`log.level` names `{part}`, which has no events; did you mean `{known}`?")
        }
        None => format!("`log.level` names `{part}`, which is no part of the program"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Directives, String> {
        Directives::try_from(text.to_owned())
    }

    #[test]
    fn levels_and_parts_are_taken() {
        for text in [
            "info",
            "WARN",
            "off",
            "info,edge=debug",
            "info, transport::h2=trace,sqlx=off",
            "warn,edge[request]=debug",
            "warn,edge[request{id=1}]=trace",
        ] {
            let directives = read(text).unwrap();
            assert_eq!(directives.doubts(), [""; 0], "{text}");
            drop(directives.filter());
        }
    }

    #[test]
    fn a_misspelt_level_is_refused_with_those_that_there_are() {
        for (text, level) in [
            ("loud", "loud"),
            ("", ""),
            ("info,edge=debgu", "debgu"),
            ("edge", "edge"),
            ("info,,edge=debug", ""),
            ("edge=", ""),
            ("verbose,edge=debug", "verbose"),
            ("edge[request]=lots", "lots"),
        ] {
            let refused = read(text).unwrap_err();
            let beginning = format!("`{level}` is no level; the levels are `error`, `warn`, ");
            assert!(refused.starts_with(&beginning), "{text}: {refused}");
            assert!(refused.contains("`info,edge=debug`"), "{refused}");
        }
        let refused = read("edge[request=debug").unwrap_err();
        assert!(refused.contains("for example"), "{refused}");
    }

    #[test]
    fn parts_that_there_are_not_are_doubted() {
        let doubts = read("info,edg=debug,quux::inner=trace,sqlx::query=warn").unwrap();
        assert_eq!(
            doubts.doubts(),
            [
                "`log.level` names `edg`, which has no events; did you mean `edge`?",
                "`log.level` names `quux`, which is no part of the program",
            ]
        );
    }
}
