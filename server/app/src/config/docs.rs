//! What each setting means, in the words of the doc comments of the structs themselves.
//!
//! `longhaul config` prints them. They are read from the sources, which are compiled in, so that there is no second
//! copy that could say something else. The sources are laid out by rustfmt: an item ends at a `}` in the first
//! column, and each field begins a line.

use std::sync::LazyLock;

/// Each section's name, and the source file and name of its struct, or of its enum and the structs of its variants.
/// Structs and enums that these name as types of their fields are looked for in the same file.
pub(super) const SOURCES: &[(&str, &str, &str)] = &[
    ("", include_str!("../config.rs"), "Config"),
    (
        "access",
        include_str!("../../../domain/src/access.rs"),
        "Config",
    ),
    (
        "admin",
        include_str!("../../../edge/src/routes/admin.rs"),
        "Config",
    ),
    (
        "http",
        include_str!("../../../transport/src/config.rs"),
        "Config",
    ),
    (
        "memory",
        include_str!("../../../budget/src/lib.rs"),
        "Config",
    ),
    (
        "uploads",
        include_str!("../../../domain/src/uploads.rs"),
        "Config",
    ),
    (
        "packs",
        include_str!("../../../domain/src/packs.rs"),
        "Config",
    ),
    (
        "cleanup",
        include_str!("../../../domain/src/cleanup.rs"),
        "Config",
    ),
    ("blobs", include_str!("../../../blobs/src/lib.rs"), "Config"),
    ("blobs", include_str!("../../../blobs/src/fs.rs"), "Config"),
    (
        "blobs",
        include_str!("../../../blobs/src/s3/config.rs"),
        "Config",
    ),
    (
        "metadata",
        include_str!("../../../metadata/src/lib.rs"),
        "Config",
    ),
    (
        "metadata",
        include_str!("../../../metadata/src/lib.rs"),
        "SqliteConfig",
    ),
    (
        "metadata",
        include_str!("../../../metadata/src/lib.rs"),
        "PostgresConfig",
    ),
    ("webhooks", include_str!("../webhooks.rs"), "Config"),
    ("log", include_str!("../telemetry.rs"), "Config"),
];

/// One setting, or one section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: &'static str,
    /// Paragraphs of one line each.
    pub(super) doc: String,
    /// Of a setting: what it takes.
    pub(super) takes: Takes,
    /// Of a section: what is in it, in the order of declaration.
    pub(super) fields: Vec<Self>,
}

/// The values that a setting can have, read from its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Takes {
    /// A value of this type of Rust.
    A(&'static str),
    /// One of these words.
    OneOf(Vec<String>),
}

/// The full paths of all settings, with dots.
pub(super) fn paths() -> Vec<String> {
    fn walk(fields: &[Field], above: &str, paths: &mut Vec<String>) {
        for field in fields {
            let path = format!("{above}{}", field.name);
            if field.fields.is_empty() {
                paths.push(path);
            } else {
                walk(&field.fields, &format!("{path}."), paths);
            }
        }
    }
    let mut paths = Vec::new();
    walk(all(), "", &mut paths);
    paths
}

/// The setting or section with this full path.
pub(super) fn find(path: &str) -> Option<&'static Field> {
    let mut fields = all();
    let mut keys = path.split('.').peekable();
    loop {
        let key = keys.next()?;
        let field = fields.iter().find(|field| field.name == key)?;
        match keys.peek() {
            None => return Some(field),
            Some(_) => fields = &field.fields,
        }
    }
}

/// Every setting there is.
pub(super) fn all() -> &'static [Field] {
    static ALL: LazyLock<Vec<Field>> = LazyLock::new(read_all);
    &ALL
}

fn read_all() -> Vec<Field> {
    let (root, sections): (Vec<_>, Vec<_>) =
        SOURCES.iter().partition(|(section, ..)| section.is_empty());
    let mut fields: Vec<Field> = root
        .iter()
        .flat_map(|(_, source, item)| read(source, item))
        .collect();
    for (section, source, item) in sections {
        if let Some(field) = fields.iter_mut().find(|field| field.name == section) {
            field.fields.extend(read(source, item));
        }
    }
    fields
}

/// The fields of the struct called `item`; of an enum, the key that chooses the variant.
fn read(source: &'static str, item: &str) -> Vec<Field> {
    if let Some(values) = values(source, item) {
        return vec![Field {
            name: "type",
            doc: values,
            takes: Takes::OneOf(choices(source, item)),
            fields: Vec::new(),
        }];
    }
    let head = format!("pub struct {item} {{");
    let mut fields = Vec::new();
    for (line, doc) in documented(source, &head) {
        let Some((name, type_name)) = field(line) else {
            continue;
        };
        // A type of another module has a row of its own.
        let is_near = !type_name.contains("::");
        let doc = match values(source, type_name).filter(|_| is_near) {
            Some(values) => format!("{doc}\n{values}"),
            None => doc,
        };
        let choices = choices(source, type_name);
        let takes = match choices.is_empty() || !is_near {
            true => Takes::A(without_option(type_name)),
            false => Takes::OneOf(choices),
        };
        let is_struct = is_near && type_name != item && values(source, type_name).is_none();
        fields.push(Field {
            name,
            doc,
            takes,
            fields: if is_struct {
                read(source, type_name)
            } else {
                Vec::new()
            },
        });
    }
    fields
}

/// `Option<T>` as `T`: a setting that may be left out takes the same.
fn without_option(type_name: &'static str) -> &'static str {
    let inner = type_name.strip_prefix("Option<");
    let inner = inner.and_then(|inner| inner.strip_suffix('>'));
    let name = inner.unwrap_or(type_name);
    name.rsplit("::").next().unwrap_or(name)
}

/// What the enum called `item` can be, one value a line, as it is written in the configuration.
fn values(source: &'static str, item: &str) -> Option<String> {
    let values = variants(source, item)?;
    let values = values
        .into_iter()
        .map(|(name, doc)| format!("`{name}`: {doc}"));
    Some(values.collect::<Vec<_>>().join("\n"))
}

/// The words for the variants of the enum called `item`; none where it is no enum.
fn choices(source: &'static str, item: &str) -> Vec<String> {
    let variants = variants(source, item).unwrap_or_default();
    variants.into_iter().map(|(name, _)| name).collect()
}

/// The variants of an enum with their doc comments.
fn variants(source: &'static str, item: &str) -> Option<Vec<(String, String)>> {
    let head = format!("pub enum {item} {{");
    let before = source.split_once(&format!("\n{head}\n"))?.0;
    let attributes = before.rsplit("\n\n").next()?;
    let case = attributes
        .split("rename_all = \"")
        .nth(1)?
        .split('"')
        .next()?;
    let values = documented(source, &head)
        .into_iter()
        .filter_map(|(line, doc)| {
            let name = line.split([',', '(', '{']).next()?.trim();
            let is_name = name.starts_with(|c: char| c.is_ascii_uppercase())
                && name.chars().all(char::is_alphanumeric);
            is_name.then(|| (renamed(name, case), doc))
        });
    Some(values.collect())
}

/// A variant's name as serde's `rename_all` writes it.
fn renamed(name: &str, case: &str) -> String {
    let separator = match case {
        "kebab-case" => "-",
        "snake_case" => "_",
        _ => "",
    };
    let mut renamed = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !renamed.is_empty() {
            renamed.push_str(separator);
        }
        renamed.push(c.to_ascii_lowercase());
    }
    renamed
}

/// The lines of the item that begins with `head`, each with the doc comment above it.
fn documented(source: &'static str, head: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut doc = String::new();
    let lines = source
        .lines()
        .skip_while(|line| *line != head)
        .skip(1)
        .take_while(|line| *line != "}");
    for line in lines.map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            append(&mut doc, &without_links(words.trim()));
        } else if !line.starts_with('#') {
            found.push((line, std::mem::take(&mut doc)));
        }
    }
    found
}

fn append(doc: &mut String, words: &str) {
    if words.is_empty() {
        doc.push('\n');
    } else {
        if !doc.is_empty() && !doc.ends_with('\n') {
            doc.push(' ');
        }
        doc.push_str(words);
    }
}

/// ``[`a`](b)`` and ``[`a`]`` as `a`: links lead nowhere in a file.
fn without_links(words: &str) -> String {
    let mut parts = words.split("[`");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("`]").unwrap_or((part, ""));
        let rest = rest
            .strip_prefix('(')
            .and_then(|target| target.split_once(')'))
            .map_or(rest, |(_, rest)| rest);
        text.push_str(&format!("`{name}`{rest}"));
    }
    text
}

/// `pub name: Type,` as its name and type.
fn field(line: &'static str) -> Option<(&'static str, &'static str)> {
    line.strip_prefix("pub ")?
        .strip_suffix(',')?
        .split_once(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "
pub struct Config {
    /// First line
    /// goes on at [`Nested`](crate::Nested) and [`Choice`].
    ///
    /// Second paragraph.
    #[serde(default)]
    pub first: u64,
    pub nested: Nested,
    /// How.
    pub choice: Choice,
}

pub struct Nested {
    /// Below.
    pub second: Option<u64>,
}

/// Of ways.
#[serde(tag = \"type\", rename_all = \"kebab-case\")]
pub enum Choice {
    /// The first way.
    OneWay,
    /// The other way.
    Other(Nested),
}
";

    #[test]
    fn fields_come_with_their_words() {
        let found = read(SOURCE, "Config");
        assert_eq!(
            found.iter().map(|field| field.name).collect::<Vec<_>>(),
            ["first", "nested", "choice"]
        );
        assert_eq!(
            found[0].doc,
            "First line goes on at `Nested` and `Choice`.\nSecond paragraph."
        );
        assert_eq!(
            (found[1].fields[0].name, found[1].fields[0].doc.as_str()),
            ("second", "Below.")
        );
        assert_eq!(
            found[2].doc,
            "How.\n`one-way`: The first way.\n`other`: The other way."
        );
        assert_eq!(read(SOURCE, "Absent"), []);
    }

    #[test]
    fn an_enum_is_chosen_by_its_type() {
        let found = read(SOURCE, "Choice");
        assert_eq!((found.len(), found[0].name), (1, "type"));
    }

    /// Every setting's path, its words, and whether it is a section.
    fn walk(fields: &[Field], path: &str, found: &mut Vec<(String, String, bool)>) {
        for field in fields {
            let path = format!("{path}/{}", field.name);
            found.push((path.clone(), field.doc.clone(), !field.fields.is_empty()));
            walk(&field.fields, &path, found);
        }
    }

    #[test]
    fn every_setting_is_explained() {
        let mut found = Vec::new();
        walk(all(), "", &mut found);
        for (path, doc, _) in &found {
            assert!(doc.len() > 10, "{path} has no doc comment");
        }
        for (section, ..) in SOURCES {
            let is_read = |(path, _, is_section): &(String, String, bool)| {
                path == &format!("/{section}") && *is_section
            };
            assert!(
                section.is_empty() || found.iter().any(is_read),
                "nothing was read of [{section}]"
            );
        }
    }

    #[test]
    fn every_default_is_a_setting_that_is_known_here() {
        fn check(table: &toml::Table, fields: &[Field], path: &str) {
            for (key, value) in table {
                let field = fields.iter().find(|field| field.name == key);
                let field = field
                    .unwrap_or_else(|| panic!("{path}.{key} is missing: does SOURCES lack a row?"));
                if let toml::Value::Table(table) = value {
                    check(table, &field.fields, &format!("{path}.{key}"));
                }
            }
        }
        check(&super::super::Config::default().to_table(), all(), "");
    }
}
