//! Text with `{…}` placeholders, for targets, field values and byte positions of vectors.
//!
//! | form | meaning |
//! |---|---|
//! | `{name}` | a captured or given variable |
//! | `{name + 1}` | an integer variable, plus a number |
//! | `{sha1 0..100}`, `{sha-256 0..100}` | base64 of the digest of those content bytes |
//! | `{base64 text}` | base64 of the text |

use std::collections::BTreeMap;
use std::ops::Range;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::content;

pub(crate) type Variables = BTreeMap<String, String>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Variable { name: String, plus: Option<u64> },
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (inside, after) = after
                .split_once('}')
                .ok_or_else(|| format!("a brace is not closed in {text:?}"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(part(inside)?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    /// Replaces the placeholders by values. Fails with the name of a variable that has none.
    pub(crate) fn expand(&self, variables: &Variables) -> Result<String, Unset> {
        let mut expanded = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => expanded.push_str(text),
                Part::Variable { name, plus } => {
                    let value = variables.get(name).ok_or_else(|| Unset(name.clone()))?;
                    match plus {
                        None => expanded.push_str(value),
                        Some(plus) => {
                            let value: u64 =
                                value.trim().parse().map_err(|_| Unset(name.clone()))?;
                            expanded.push_str(&value.saturating_add(*plus).to_string());
                        }
                    }
                }
            }
        }
        Ok(expanded)
    }

    /// Expands the text and parses it as a byte position.
    pub(crate) fn position(&self, variables: &Variables) -> Result<u64, Unset> {
        let text = self.expand(variables)?;
        text.trim()
            .parse()
            .map_err(|_| Unset(format!("a number, not {text:?}")))
    }
}

/// A variable that was used before it was captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unset(pub(crate) String);

fn part(inside: &str) -> Result<Part, String> {
    let inside = inside.trim();
    if let Some((function, argument)) = inside.split_once(' ') {
        let argument = argument.trim();
        match function {
            "sha1" => {
                return Ok(Part::Text(
                    BASE64.encode(Sha1::digest(content::bytes(constant_range(argument)?))),
                ));
            }
            "sha-256" => {
                return Ok(Part::Text(BASE64.encode(Sha256::digest(content::bytes(
                    constant_range(argument)?,
                )))));
            }
            "base64" => return Ok(Part::Text(BASE64.encode(argument))),
            _ => {}
        }
    }
    let (name, plus) = match inside.split_once('+') {
        None => (inside, None),
        Some((name, plus)) => {
            let plus = plus
                .trim()
                .parse()
                .map_err(|_| format!("no number can be added in {inside:?}"))?;
            (name.trim_end(), Some(plus))
        }
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(format!("{{{inside}}} is neither a variable nor a function"));
    }
    Ok(Part::Variable {
        name: name.to_owned(),
        plus,
    })
}

fn constant_range(text: &str) -> Result<Range<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.ok_or_else(|| format!("{text:?} is no range of bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str) -> Result<String, Unset> {
        let variables = Variables::from([
            ("upload".to_owned(), "/uploads/1".to_owned()),
            ("offset".to_owned(), "40".to_owned()),
        ]);
        Template::parse(text).unwrap().expand(&variables)
    }

    #[test]
    fn variables_sums_and_functions_expand() {
        assert_eq!(expand("{upload}?a=b").unwrap(), "/uploads/1?a=b");
        assert_eq!(expand("{offset + 2}").unwrap(), "42");
        assert_eq!(expand("{base64 hello world}").unwrap(), "aGVsbG8gd29ybGQ=");
        assert_eq!(
            expand("sha1 {sha1 0..0}").unwrap(),
            "sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="
        );
    }

    #[test]
    fn an_unset_variable_is_named() {
        assert_eq!(expand("{content}"), Err(Unset("content".to_owned())));
    }

    #[test]
    fn malformed_braces_are_refused() {
        assert!(Template::parse("{upload").is_err());
        assert!(Template::parse("{}").is_err());
        assert!(Template::parse("{sha1 all}").is_err());
    }
}
