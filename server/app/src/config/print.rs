//! Settings as commented TOML.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::docs::{self, Field};

/// Maximum columns of a line of comment.
const WIDTH: usize = 100;

/// Replacement of a secret.
const REDACTED: &str = "<redacted>";

/// Returns every setting of `table` below its explanation, secrets blanked out. Unset ones are
/// comments with their value in one of the `others`.
pub(super) fn commented(table: &Table, others: &[&Table]) -> String {
    let mut text = String::new();
    section(&mut text, "", table, others, docs::all());
    text
}

fn section(text: &mut String, path: &str, table: &Table, others: &[&Table], fields: &[Field]) {
    // Settings before subsections: in TOML, what follows a header belongs to it.
    for field in fields.iter().filter(|field| field.fields.is_empty()) {
        comment(text, &field.doc);
        // Writing to a String cannot fail.
        let _ = match table.get(&field.name) {
            Some(value) => writeln!(
                text,
                "{} = {}\n",
                field.name,
                redacted(&field.name, value.clone())
            ),
            None => match others.iter().find_map(|other| other.get(&field.name)) {
                Some(value) => writeln!(text, "# {} = {value}\n", field.name),
                None => writeln!(text, "# {} =\n", field.name),
            },
        };
    }
    for (name, value) in table
        .iter()
        .filter(|(name, _)| !fields.iter().any(|field| field.name == **name))
    {
        let _ = writeln!(text, "{name} = {}\n", redacted(name, value.clone()));
    }
    for field in fields {
        let Some(Value::Table(nested)) = table.get(&field.name) else {
            continue;
        };
        let path = if path.is_empty() {
            field.name.clone()
        } else {
            format!("{path}.{}", field.name)
        };
        comment(text, &field.doc);
        let _ = writeln!(text, "[{path}]");
        let others: Vec<&Table> = others
            .iter()
            .filter_map(|other| other.get(&field.name)?.as_table())
            .collect();
        section(text, &path, nested, &others, &field.fields);
    }
}

fn comment(text: &mut String, doc: &str) {
    for paragraph in doc.lines() {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                let _ = writeln!(text, "{line}");
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(text, "{line}");
    }
}

/// Returns true if a setting of this name holds a secret.
pub(super) fn is_secret(name: &str) -> bool {
    ["password", "secret", "sha256", "token"]
        .iter()
        .any(|word| name.contains(word))
}

/// Returns `value` without secrets.
pub(super) fn redacted(name: &str, value: Value) -> Value {
    let is_secret = is_secret(name);
    match value {
        Value::String(_) if is_secret => Value::String(REDACTED.to_owned()),
        Value::String(text) => Value::String(without_password(text)),
        Value::Array(values) => Value::Array(
            values
                .into_iter()
                .map(|value| redacted(name, value))
                .collect(),
        ),
        Value::Table(table) => {
            let values = table
                .into_iter()
                .map(|(name, value)| (name.clone(), redacted(&name, value)));
            Value::Table(values.collect())
        }
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => value,
    }
}

/// Removes the password of a URL, such as that of a database.
fn without_password(text: String) -> String {
    let Ok(mut url) = url::Url::parse(&text) else {
        return text;
    };
    if url.password().is_some() && url.set_password(Some("redacted")).is_ok() {
        url.into()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_blanked_out_wherever_they_are() {
        let check = |name, value: &str, expected: &str| {
            let table: Table = toml::from_str(&format!("value = {value}")).unwrap();
            assert_eq!(redacted(name, table["value"].clone()).to_string(), expected);
        };
        check("password", "'a'", "\"<redacted>\"");
        check(
            "webhook_secret",
            "['a', 'b']",
            "[\"<redacted>\", \"<redacted>\"]",
        );
        check(
            "keys",
            "[{ name = 'n', sha256 = 'a' }]",
            "[{ name = \"n\", sha256 = \"<redacted>\" }]",
        );
        check(
            "url",
            "'postgres://me:pass@db/x'",
            "\"postgres://me:redacted@db/x\"",
        );
        check("url", "'postgres://me@db/x'", "\"postgres://me@db/x\"");
        check("listen", "'127.0.0.1:8080'", "\"127.0.0.1:8080\"");
        check("count", "12", "12");
    }

    #[test]
    fn comments_keep_to_their_width() {
        let mut text = String::new();
        comment(&mut text, &format!("{}\nsecond", "word ".repeat(50)));
        assert!(
            text.lines()
                .all(|line| line.starts_with("# ") && line.len() <= WIDTH),
            "{text}"
        );
        assert!(text.ends_with("\n# second\n"));
    }
}
