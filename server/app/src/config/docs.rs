//! What each setting means, in the words of the doc comments of the structs themselves.
//!
//! `longhaul config` prints them. They are read from the sources that are compiled in, so that there is no second
//! copy that could say something else. The sources are laid out by rustfmt: an item ends at a `}` in the first
//! column, and each field begins a line.

/// The section and the source file of its struct. The first struct or enum called `Config` is the section; those
/// that it names as types of its fields are its subsections.
pub(super) const SOURCES: &[(&str, &str)] =
    &[("", include_str!("../config.rs")), ("log", include_str!("../telemetry.rs"))];

/// One setting, or one section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) name: &'a str,
    /// Paragraphs of one line each.
    pub(super) doc: String,
    type_name: &'a str,
    source: &'a str,
}

/// The fields of the whole configuration.
pub(super) fn root() -> Vec<Field<'static>> {
    SOURCES.iter().filter(|(section, _)| section.is_empty()).flat_map(|(_, source)| fields(source, "Config")).collect()
}

/// The fields of a section or subsection, in the order in which they are declared.
pub(super) fn below(field: &Field<'static>) -> Vec<Field<'static>> {
    let nested = fields(field.source, field.type_name);
    if !nested.is_empty() {
        return nested;
    }
    SOURCES.iter().filter(|(section, _)| *section == field.name).flat_map(|(_, source)| fields(source, "Config")).collect()
}

/// The fields of the struct, or of all variants of the enum, that is called `item`.
fn fields<'a>(source: &'a str, item: &str) -> Vec<Field<'a>> {
    let heads = [format!("pub struct {item} {{"), format!("pub enum {item} {{")];
    let mut found = Vec::new();
    let mut doc = String::new();
    for line in source.lines().skip_while(|line| !heads.iter().any(|head| line == head)).skip(1) {
        if line == "}" {
            break;
        }
        let line = line.trim();
        if let Some(words) = line.strip_prefix("///") {
            append(&mut doc, words.trim());
        } else if let Some((name, type_name)) = field(line) {
            found.push(Field { name, doc: std::mem::take(&mut doc), type_name, source });
        } else if !line.starts_with('#') {
            doc.clear();
        }
    }
    found
}

fn append(doc: &mut String, words: &str) {
    let joins = !doc.is_empty() && !doc.ends_with('\n');
    match (words.is_empty(), joins) {
        (true, _) => doc.push('\n'),
        (false, true) => *doc = format!("{doc} {words}"),
        (false, false) => doc.push_str(words),
    }
}

/// `pub name: path::Type,` as its name and `Type`.
fn field(line: &str) -> Option<(&str, &str)> {
    let (name, type_name) = line.strip_suffix(',')?.split_once(": ")?;
    let name = name.strip_prefix("pub ").unwrap_or(name);
    let is_name = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    is_name.then(|| (name, type_name.rsplit("::").next().unwrap_or(type_name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
pub struct Config {
    /// First line
    /// goes on.
    ///
    /// Second paragraph.
    #[serde(default)]
    pub first: u64,
    pub nested: other::Nested,
}

pub struct Nested {
    /// Below.
    pub second: Option<u64>,
}

pub enum Choice {
    /// A variant.
    One {
        /// Of the variant.
        third: u64,
    },
}
";

    #[test]
    fn fields_come_with_their_words() {
        let found = fields(SOURCE, "Config");
        assert_eq!(found[0].name, "first");
        assert_eq!(found[0].doc, "First line goes on.\nSecond paragraph.");
        assert_eq!((found[1].name, found[1].doc.as_str(), found[1].type_name), ("nested", "", "Nested"));
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn nested_structs_and_variants_are_found() {
        let second = fields(SOURCE, "Nested");
        assert_eq!((second[0].name, second[0].doc.as_str()), ("second", "Below."));
        let third = fields(SOURCE, "Choice");
        assert_eq!((third[0].name, third[0].doc.as_str()), ("third", "Of the variant."));
        assert_eq!(fields(SOURCE, "Absent"), []);
    }

    /// Follows the sections down and calls `visit` with the path of every setting.
    fn walk(fields: Vec<Field<'static>>, path: &str, visit: &mut impl FnMut(String, &Field<'static>)) {
        for field in fields {
            let path = format!("{path}/{}", field.name);
            visit(path.clone(), &field);
            walk(below(&field), &path, visit);
        }
    }

    #[test]
    fn every_setting_is_explained() {
        let mut seen = 0;
        walk(root(), "", &mut |path, field| {
            seen += 1;
            assert!(field.doc.len() > 10, "{path} has no doc comment");
        });
        assert!(seen >= 10);
    }

    #[test]
    fn every_default_is_a_documented_setting() {
        let mut known = std::collections::BTreeSet::new();
        walk(root(), "", &mut |path, _| {
            known.insert(path);
        });
        fn check(table: &toml::Table, path: &str, known: &std::collections::BTreeSet<String>) {
            for (key, value) in table {
                let path = format!("{path}/{key}");
                assert!(known.contains(&path) || key == "type", "{path} is missing from SOURCES");
                if let toml::Value::Table(table) = value {
                    check(table, &path, known);
                }
            }
        }
        check(&super::super::Config::default().to_table(), "", &known);
    }
}
