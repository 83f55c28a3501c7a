//! Merging of settings from all layers, with the origin of each.
//!
//! Tables are merged key by key; any other value replaces the one below. A table whose `type`
//! differs from the one below replaces all of it, since each type has its own keys.
//!
//! figment 0.10 (tried) has no such rule: it refuses `type = "s3"` over the default with an unknown
//! field of `fs`, which the operator never wrote. Its errors inside such a table name the table
//! without the key, and speak of `u16` and `struct`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::docs::{self, Takes};
use super::environment::{self, Environment};
use super::rules::lookup;
use super::{Config, Error, print, words};

/// Layer of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The defaults.
    Default,
    /// This file.
    File(PathBuf),
    /// This environment variable.
    Variable(String),
    /// The command line.
    Flags,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("by default"),
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "from {name}"),
            Self::Flags => f.write_str("on the command line"),
        }
    }
}

/// Settings merged so far, with the origin of each.
pub(super) struct Layers {
    merged: Table,
    /// Origins by the full path of each value that is not a table.
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    pub(super) fn new(defaults: Table) -> Self {
        Self {
            merged: defaults,
            origins: BTreeMap::new(),
        }
    }

    /// Merges `table` over the layers below.
    ///
    /// # Errors
    ///
    /// An empty list of keys that would remove the keys of a layer below.
    pub(super) fn add(&mut self, origin: &Origin, table: Table) -> Result<(), Error> {
        self.refuse_to_void_keys(origin, &table)?;
        note(&mut self.origins, "", &table, origin);
        merge(&mut self.merged, table);
        Ok(())
    }

    /// Merges the environment over the layers below. Its variables are one layer in any order.
    ///
    /// # Errors
    ///
    /// As [`Layers::add`].
    pub(super) fn add_environment(&mut self, environment: &Environment) -> Result<(), Error> {
        let mut layer = Table::new();
        for (variable, path, value) in &environment.settings {
            let value = environment::value(path, value);
            let nested = path.iter().rev().fold(value, |value, key| {
                Table::from_iter([(key.clone(), value)]).into()
            });
            let Value::Table(table) = nested else {
                continue;
            };
            let origin = Origin::Variable(variable.clone());
            self.refuse_to_void_keys(&origin, &table)?;
            note(&mut self.origins, "", &table, &origin);
            merge(&mut layer, table);
        }
        merge(&mut self.merged, layer);
        Ok(())
    }

    fn refuse_to_void_keys(&self, origin: &Origin, above: &Table) -> Result<(), Error> {
        const KEYS: &str = "access.keys";
        let count = |table| match lookup(table, KEYS) {
            Some(Value::Array(keys)) => Some(keys.len()),
            _ => None,
        };
        if count(above) == Some(0) && count(&self.merged).is_some_and(|below| below > 0) {
            return Err(Error::Conflict {
                settings: vec![
                    (KEYS.to_owned(), origin.clone()),
                    (KEYS.to_owned(), self.origin(KEYS)),
                ],
                why: "the first is empty and would take away the keys of the second; remove one of the two".to_owned(),
            });
        }
        Ok(())
    }

    /// Returns the layer of a setting.
    pub(super) fn origin(&self, path: &str) -> Origin {
        origin_of(&self.origins, path)
    }

    /// Deserializes the merged settings.
    pub(super) fn resolve<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.refuse_empty_text()?;
        let (path, message) = match deserialize(&self.merged) {
            Ok(resolved) => return Ok(resolved),
            Err(error) => error,
        };
        let path = self.culprit::<T>(path, &message);
        Err(self.explain(&path, &message))
    }

    /// Refuses empty text, such as of a variable that was set from another one that is unset.
    fn refuse_empty_text(&self) -> Result<(), Error> {
        for (path, origin) in &self.origins {
            let is_empty =
                lookup(&self.merged, path).is_some_and(|value| value.as_str() == Some(""));
            if is_empty && !MAY_BE_EMPTY.contains(&path.as_str()) {
                return Err(Error::Empty {
                    key: path.clone(),
                    origin: origin.clone(),
                    example: example(path, origin),
                });
            }
        }
        Ok(())
    }

    /// Returns the path of the setting that an error is about. For a store that is chosen by
    /// `type`, serde reports only the section; then the culprit is the setting without which the
    /// error differs.
    fn culprit<T: DeserializeOwned>(&self, path: String, message: &str) -> String {
        let Some(Value::Table(section)) = lookup(&self.merged, &path) else {
            return path;
        };
        if message.starts_with("unknown field") || message.starts_with("missing field") {
            return path;
        }
        let said = section.keys().filter(|key| {
            let key = format!("{path}.{key}");
            !key.ends_with(".type") && self.origins.contains_key(&key)
        });
        for key in said {
            let mut without = self.merged.clone();
            if let Some(Value::Table(section)) = without.get_mut(&path) {
                section.remove(key);
            }
            if deserialize::<T>(&without).map_or_else(|(_, other)| other != message, |_| true) {
                return format!("{path}.{key}");
            }
        }
        path
    }

    /// Turns serde's message into one with the setting, its layer and a right value.
    fn explain(&self, path: &str, message: &str) -> Error {
        // serde writes: unknown field `a`, expected `b` / expected one of `b`, `c` / there are no
        // fields.
        if let Some(names) = message.strip_prefix("unknown field `") {
            return self.unknown(path, names);
        }
        let origin = self.origin(path);
        if let Some(name) = message.strip_prefix("missing field `") {
            let name = name.split('`').next().unwrap_or_default();
            let key = join(path, name);
            return Error::Missing {
                example: example(&key, &origin),
                key,
                origin,
            };
        }
        let name = name_of(path);
        let takes = docs::find(&without_index(path)).map(|field| field.takes.clone());
        let takes = takes.unwrap_or_else(|| Takes::Text(String::new()));
        let right = words::right(name, &takes, None);
        let why = match is_of_libraries(message, &takes) {
            true => format!("it takes {}", right.what),
            false => message.trim().to_owned(),
        };
        let value = value_at(&self.merged, path)
            .map(|value| shown(name, value))
            // Text before an `@` may be a password.
            .filter(|shown| !print::is_secret(name) && !shown.contains('@'));
        Error::Invalid {
            value,
            example: (!why.contains('`')).then(|| example(path, &origin)),
            key: path.to_owned(),
            origin,
            why,
        }
    }

    fn unknown(&self, path: &str, names: &str) -> Error {
        let mut names = names.split('`').step_by(2);
        let field = names.next().unwrap_or_default();
        let parent = path
            .strip_suffix(field)
            .map_or(path, |parent| parent.trim_end_matches('.'));
        let key = join(parent, field);
        // A known name belongs to the other kind of store.
        if docs::find(&key).is_some() {
            let kind = lookup(&self.merged, &join(parent, "type"));
            return Error::OtherType {
                origin: self.origin(&key),
                section: parent.to_owned(),
                kind: kind.and_then(Value::as_str).unwrap_or_default().to_owned(),
                key,
            };
        }
        let closest = names
            .map(|name| (strsim::damerau_levenshtein(field, name), name))
            .min()
            .filter(|(distance, name)| *distance <= (name.len() / 3).max(1));
        Error::Unknown {
            origin: self.origin(&key),
            key,
            suggestion: closest.map(|(_, name)| join(parent, name)),
        }
    }

    /// Merges the settings over `table`.
    pub(super) fn lay_over(self, mut table: Table) -> Table {
        merge(&mut table, self.merged);
        table
    }
}

/// Settings that may be empty text: an empty prefix is no prefix, and an empty bucket name is
/// refused with its section.
const MAY_BE_EMPTY: [&str; 2] = ["blobs.prefix", "blobs.bucket"];

/// Deserializes a table; an error is its path and message.
fn deserialize<T: DeserializeOwned>(table: &Table) -> Result<T, (String, String)> {
    serde_path_to_error::deserialize(Value::Table(table.clone())).map_err(|error| {
        let path = error.path().to_string();
        (path, error.into_inner().message().to_owned())
    })
}

/// Returns true for messages of serde and of types of other libraries.
fn is_of_libraries(message: &str, takes: &Takes) -> bool {
    let is_serdes = ["invalid ", "unknown variant", "duplicate "]
        .iter()
        .any(|beginning| message.starts_with(beginning));
    match takes {
        Takes::Time | Takes::Size => true,
        Takes::Text(format) => is_serdes || format == "uri",
        _ => is_serdes,
    }
}

/// Returns the setting of a path: `keys` of `keys[0].sha256`.
fn without_index(path: &str) -> String {
    path.split_once('[')
        .map_or(path, |(list, _)| list)
        .to_owned()
}

/// Returns the name of a setting without its section: `sha256` of `access.keys[0].sha256`.
fn name_of(path: &str) -> &str {
    let name = path.rsplit('.').next().unwrap_or(path);
    name.split_once('[').map_or(name, |(list, _)| list)
}

/// Returns the value at serde's path, such as `access.keys[0].sha256`.
fn value_at<'t>(table: &'t Table, path: &str) -> Option<&'t Value> {
    let mut keys = path.split(['.', '[']);
    let first = table.get(keys.next()?);
    keys.fold(first, |value, key| match key.strip_suffix(']') {
        Some(index) => value?.get(index.parse::<usize>().ok()?),
        None => value?.get(key),
    })
}

/// Formats a value without a password, at most 60 characters of it.
fn shown(name: &str, value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = print::redacted(name, value.clone()).to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Returns a right value in the syntax of the layer.
fn example(path: &str, origin: &Origin) -> String {
    let setting = without_index(path);
    let Some(value) = Config::example_value(&setting) else {
        return Config::example(&setting);
    };
    match (origin, &value) {
        (Origin::Variable(_), Value::String(text)) => {
            format!("{}={text}", environment::variable_of(&setting))
        }
        (Origin::Variable(_), value) => {
            format!("{}={value}", environment::variable_of(&setting))
        }
        _ => Config::example(&setting),
    }
}

fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) if !changes_type(below, &above) => {
                merge(below, above)
            }
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

fn changes_type(below: &Table, above: &Table) -> bool {
    matches!((below.get("type"), above.get("type")), (Some(below), Some(above)) if below != above)
}

fn note(origins: &mut BTreeMap<String, Origin>, prefix: &str, table: &Table, origin: &Origin) {
    for (key, value) in table {
        let path = join(prefix, key);
        match value {
            Value::Table(table) if !table.is_empty() => note(origins, &path, table, origin),
            _ => {
                origins.insert(path, origin.clone());
            }
        }
    }
}

fn join(prefix: &str, key: &str) -> String {
    if matches!(prefix, "" | ".") {
        key.to_owned()
    } else {
        format!("{prefix}.{key}")
    }
}

/// Returns the origin of the value at `path`, of the list around it, or of a value below it.
fn origin_of(origins: &BTreeMap<String, Origin>, path: &str) -> Origin {
    let list = path.split_once('[').map_or(path, |(list, _)| list);
    let below = format!("{list}.");
    origins
        .get(list)
        .or_else(|| {
            origins
                .iter()
                .find(|(key, _)| key.starts_with(&below))
                .map(|(_, origin)| origin)
        })
        .or_else(|| {
            origins
                .iter()
                .find(|(key, _)| list.starts_with(&format!("{key}.")))
                .map(|(_, origin)| origin)
        })
        .cloned()
        .unwrap_or(Origin::Default)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(layers: &[&str]) -> Table {
        let mut all = Layers::new(toml::from_str(layers[0]).unwrap());
        for layer in &layers[1..] {
            all.add(&Origin::Flags, toml::from_str(layer).unwrap())
                .unwrap();
        }
        all.merged
    }

    #[test]
    fn tables_merge_and_other_values_replace() {
        let result = merged(&[
            "a = [1, 2]\n[b]\nc = 1\nd = 2",
            "a = [3]\n[b]\nd = 4\ne = 5",
        ]);
        assert_eq!(
            result,
            toml::from_str("a = [3]\n[b]\nc = 1\nd = 4\ne = 5").unwrap()
        );
    }

    #[test]
    fn another_type_replaces_the_whole_table() {
        let sqlite = "[metadata]\ntype = 'sqlite'\npath = 'x'";
        let postgres = "[metadata]\ntype = 'postgres'\nurl = 'y'";
        assert_eq!(
            merged(&[sqlite, postgres]),
            toml::from_str(postgres).unwrap()
        );
        let path = merged(&[sqlite, "[metadata]\npath = 'z'"]);
        assert_eq!(
            path,
            toml::from_str("[metadata]\ntype = 'sqlite'\npath = 'z'").unwrap()
        );
    }

    #[test]
    fn the_order_of_variables_says_nothing() {
        let variables = [
            ("LONGHAUL_METADATA__TYPE", "postgres"),
            ("LONGHAUL_METADATA__URL", "y"),
        ];
        let sqlite = "[metadata]\ntype = 'sqlite'\npath = 'x'";
        let postgres = "[metadata]\ntype = 'postgres'\nurl = 'y'";
        for variables in [[variables[0], variables[1]], [variables[1], variables[0]]] {
            let mut layers = Layers::new(toml::from_str(sqlite).unwrap());
            let variables = variables.map(|(name, value)| (name.into(), value.into()));
            let environment = Environment::read(variables).unwrap();
            layers.add_environment(&environment).unwrap();
            assert_eq!(layers.merged, toml::from_str(postgres).unwrap());
        }
    }
}
