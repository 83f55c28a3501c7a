//! Help and type of each setting, from the JSON Schema of [`Config`].
//!
//! The doc comments of the sections' structs are the descriptions of that schema, so a setting is explained in one place.
//! The schema lists the fields that [`Config`] writes, in the order of their declaration.

use std::sync::LazyLock;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::Config;

/// One setting, or one section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    /// Paragraphs of one line each.
    pub(super) doc: String,
    /// Values that a setting takes.
    pub(super) takes: Takes,
    /// Content of a section, in the order of declaration.
    pub(super) fields: Vec<Self>,
}

/// Values that a setting takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Takes {
    Bool,
    /// A whole number that is not below this.
    Number(u64),
    Time,
    Size,
    /// Text in a format of the schema, such as `uri`; of any form where that is empty.
    Text(String),
    /// One of these words.
    OneOf(Vec<String>),
    List(Box<Self>),
    Table,
}

/// Returns the full paths of all settings, with dots.
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

/// Returns the setting or section with this full path.
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

/// Returns all sections, and the settings outside of them.
pub(super) fn all() -> &'static [Field] {
    static ALL: LazyLock<Vec<Field>> = LazyLock::new(fields_of::<Config>);
    &ALL
}

fn fields_of<T: JsonSchema>() -> Vec<Field> {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let settings = settings.with(|settings| settings.inline_subschemas = true);
    let schema = settings.into_generator().into_root_schema_for::<T>();
    fields(schema.as_value())
}

/// Reads the fields of a table; where its `type` chooses a variant, `type` and the fields of all variants.
fn fields(schema: &Value) -> Vec<Field> {
    let variants = items(schema, "oneOf");
    let tags: Vec<_> = variants
        .iter()
        .filter_map(|variant| Some((word(&variant["properties"]["type"])?, doc(variant))))
        .collect();
    if !tags.is_empty() {
        let kind = Field {
            name: "type".to_owned(),
            doc: explained(&tags),
            takes: Takes::OneOf(words(tags)),
            fields: Vec::new(),
        };
        let others = variants.iter().flat_map(properties);
        return [kind].into_iter().chain(others).collect();
    }
    properties(schema)
}

fn properties(schema: &Value) -> Vec<Field> {
    // The properties are sorted by name, and the names of those that are written by declaration.
    let names = items(schema, "required").iter().filter_map(Value::as_str);
    let names = names.filter(|name| schema["properties"][name].get("const").is_none());
    names
        .map(|name| field(name, &schema["properties"][name]))
        .collect()
}

fn field(name: &str, schema: &Value) -> Field {
    let mut doc = doc(schema);
    let choices = choices(schema);
    if !choices.is_empty() {
        doc = format!("{doc}\n{}", explained(&choices));
    }
    Field {
        name: name.to_owned(),
        doc,
        takes: takes(schema),
        fields: fields(schema),
    }
}

fn takes(schema: &Value) -> Takes {
    let choices = choices(schema);
    if !choices.is_empty() {
        return Takes::OneOf(words(choices));
    }
    // A setting that may be left out has the type `["string", "null"]`, for example.
    let kind = schema["type"].get(0).unwrap_or(&schema["type"]);
    let format = schema["format"].as_str().unwrap_or_default();
    match (kind.as_str(), format) {
        (Some("boolean"), _) => Takes::Bool,
        (Some("integer"), _) => Takes::Number(schema["minimum"].as_u64().unwrap_or_default()),
        (Some("array"), _) => Takes::List(Box::new(takes(&schema["items"]))),
        (Some("string"), "time") => Takes::Time,
        (Some("string"), "size") => Takes::Size,
        (Some("string"), format) => Takes::Text(format.to_owned()),
        _ => Takes::Table,
    }
}

/// Returns the words that a setting can be, each with its explanation; none where it is free.
fn choices(schema: &Value) -> Vec<(String, String)> {
    let variants = items(schema, "oneOf").iter();
    variants
        .filter_map(|variant| Some((word(variant)?, doc(variant))))
        .collect()
}

fn word(schema: &Value) -> Option<String> {
    schema["const"].as_str().map(str::to_owned)
}

fn words(choices: Vec<(String, String)>) -> Vec<String> {
    choices.into_iter().map(|(word, _)| word).collect()
}

/// Writes one word a line, with its explanation.
fn explained(choices: &[(String, String)]) -> String {
    let lines = choices.iter().map(|(word, doc)| format!("`{word}`: {doc}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the list under `key`; none where there is no list.
fn items<'s>(schema: &'s Value, key: &str) -> &'s [Value] {
    schema[key].as_array().map_or(&[], Vec::as_slice)
}

/// Returns the description, one paragraph a line.
fn doc(schema: &Value) -> String {
    let description = schema["description"].as_str().unwrap_or_default();
    let paragraphs = description.split("\n\n").map(|paragraph| {
        let words: Vec<_> = paragraph.split_whitespace().collect();
        without_links(&words.join(" "))
    });
    paragraphs.collect::<Vec<_>>().join("\n")
}

/// Writes ``[`a`](b)`` and ``[`a`]`` as `a`: links lead nowhere in a file.
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

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;

    #[derive(Serialize, JsonSchema)]
    struct Section {
        /// First line
        /// goes on at [`Nested`](crate::Nested) and [`Choice`].
        ///
        /// Second paragraph.
        second: Option<u64>,
        first: Nested,
        /// Way to go.
        choice: Choice,
        kind: Kind,
    }

    /// Words of the type.
    #[derive(Serialize, JsonSchema)]
    struct Nested {
        /// Below.
        #[schemars(with = "Option<settings::Size>")]
        below: Option<u64>,
    }

    #[derive(Serialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    #[expect(dead_code, reason = "its schema alone is read")]
    enum Choice {
        /// The first way.
        OneWay,
        /// The other way.
        Other,
    }

    #[derive(Serialize, JsonSchema)]
    #[serde(tag = "type", rename_all = "lowercase")]
    #[expect(dead_code, reason = "its schema alone is read")]
    enum Kind {
        /// One of a kind.
        One(Nested),
    }

    #[test]
    fn fields_come_in_their_order_with_words_and_types() {
        let found = fields_of::<Section>();
        let names: Vec<_> = found.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["second", "first", "choice", "kind"]);
        assert_eq!(
            (found[0].doc.as_str(), &found[0].takes),
            (
                "First line goes on at `Nested` and `Choice`.\nSecond paragraph.",
                &Takes::Number(0)
            )
        );
        let below = &found[1].fields[0];
        assert_eq!((below.doc.as_str(), &below.takes), ("Below.", &Takes::Size));
        assert_eq!(
            found[2].doc,
            "Way to go.\n`one-way`: The first way.\n`other`: The other way."
        );
        let choices = ["one-way", "other"].map(str::to_owned).to_vec();
        assert_eq!(found[2].takes, Takes::OneOf(choices));
    }

    #[test]
    fn a_variant_is_chosen_by_its_type() {
        let kind = &fields_of::<Section>()[3].fields;
        let names: Vec<_> = kind.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["type", "below"]);
        assert_eq!(kind[0].doc, "`one`: One of a kind.");
        assert_eq!(kind[0].takes, Takes::OneOf(vec!["one".to_owned()]));
    }

    #[test]
    fn every_setting_is_explained() {
        fn check(fields: &[Field], above: &str) {
            for field in fields {
                let path = format!("{above}{}", field.name);
                assert!(field.doc.len() > 10, "{path} has no doc comment");
                check(&field.fields, &format!("{path}."));
            }
        }
        check(all(), "");
    }

    #[test]
    fn every_default_is_a_setting_that_is_known_here() {
        fn check(table: &toml::Table, fields: &[Field], path: &str) {
            for (key, value) in table {
                let field = fields.iter().find(|field| field.name == *key);
                let field = field.unwrap_or_else(|| panic!("{path}.{key} is missing"));
                if let toml::Value::Table(table) = value {
                    check(table, &field.fields, &format!("{path}.{key}"));
                }
            }
        }
        check(&Config::default().to_table(), all(), "");
    }
}
