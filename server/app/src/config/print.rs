//! The configuration as commented TOML, made from the values themselves.

use std::fmt::Write as _;

use toml::{Table, Value};

use super::docs::{self, Field};

/// Columns of a line of comment.
const WIDTH: usize = 100;

/// Every setting of `table` under its explanation, and those that are not set as comments.
pub(super) fn commented(table: &Table) -> String {
    let mut out = String::new();
    section(&mut out, "", table, &docs::root());
    out
}

fn section(out: &mut String, path: &str, table: &Table, fields: &[Field<'static>]) {
    // Settings before subsections: in TOML, what follows a header belongs to it.
    let is_section = |name: &str| matches!(table.get(name), Some(Value::Table(_)));
    for name in table.keys().filter(|name| !is_section(name) && !fields.iter().any(|field| field.name == *name)) {
        setting(out, name, table.get(name));
    }
    for field in fields.iter().filter(|field| !is_section(field.name)) {
        comment(out, &field.doc);
        setting(out, field.name, table.get(field.name));
        out.push('\n');
    }
    for (name, value) in ordered(table, fields) {
        let Value::Table(nested) = value else { continue };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let field = fields.iter().find(|field| field.name == name);
        comment(out, field.map_or("", |field| &field.doc));
        let _ = writeln!(out, "[{path}]");
        section(out, &path, nested, &field.map(docs::below).unwrap_or_default());
    }
}

/// In the order of declaration, then what is not declared.
fn ordered<'a>(table: &'a Table, fields: &'a [Field<'static>]) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let declared = fields.iter().filter_map(|field| table.get(field.name).map(|value| (field.name, value)));
    let others = table.iter().filter(|(name, _)| !fields.iter().any(|field| field.name == name.as_str()));
    declared.chain(others.map(|(name, value)| (name.as_str(), value)))
}

fn setting(out: &mut String, name: &str, value: Option<&Value>) {
    // Writing to a String cannot fail.
    let _ = match value {
        Some(value) => writeln!(out, "{name} = {value}"),
        None => writeln!(out, "# {name} ="),
    };
}

fn comment(out: &mut String, doc: &str) {
    for paragraph in doc.lines() {
        let mut line = String::from("#");
        for word in paragraph.split_whitespace() {
            if line.chars().count() + 1 + word.chars().count() > WIDTH {
                let _ = writeln!(out, "{line}");
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        let _ = writeln!(out, "{line}");
    }
}
