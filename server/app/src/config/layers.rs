//! Layers of settings, laid over each other.
//!
//! Tables are merged key by key; any other value replaces the one below. A table whose `type` differs from the one
//! below replaces it whole, since the keys of another type mean nothing to it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::Error;

/// Where a setting was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: it is the default.
    Default,
    /// In this file.
    File(PathBuf),
    /// In this environment variable.
    Variable(String),
    /// On the command line.
    Flags,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("by default"),
            Self::File(path) => write!(f, "in {}", path.display()),
            Self::Variable(name) => write!(f, "from {name}"),
            Self::Flags => f.write_str("from the command line"),
        }
    }
}

/// What has been said so far, and by whom.
pub(super) struct Layers {
    defaults: Table,
    merged: Table,
    /// By the full path of each value that is not a table.
    origins: BTreeMap<String, Origin>,
}

const PREFIX: &str = "LONGHAUL_";

impl Layers {
    pub(super) fn new(defaults: Table) -> Self {
        Self {
            merged: defaults.clone(),
            defaults,
            origins: BTreeMap::new(),
        }
    }

    /// Lays `table` over what is there.
    pub(super) fn add(&mut self, origin: &Origin, table: Table) {
        note(&mut self.origins, "", &table, origin);
        merge(&mut self.merged, table);
    }

    /// Lays environment variables over what is there, those that are ours, as one layer: their order means nothing.
    ///
    /// A value is taken as text where the default is text, and otherwise as TOML if it can be read as that.
    pub(super) fn add_variables<'a>(
        &mut self,
        variables: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) {
        let mut layer = Table::new();
        for (variable, value) in variables {
            if let Some(table) = self.said_by(variable, value) {
                let origin = Origin::Variable(variable.to_owned());
                note(&mut self.origins, "", &table, &origin);
                merge(&mut layer, table);
            }
        }
        merge(&mut self.merged, layer);
    }

    /// The setting of one environment variable, with the tables around it; nothing if it is not ours.
    fn said_by(&self, variable: &str, value: &str) -> Option<Table> {
        let name = variable.strip_prefix(PREFIX)?;
        // Kubernetes describes a service called `longhaul` to every container in variables of this form.
        if name.starts_with("SERVICE_") || name == "PORT" || name.starts_with("PORT_") {
            return None;
        }
        let name = name.to_ascii_lowercase();
        let path: Vec<&str> = name.split("__").collect();
        let default = path[1..]
            .iter()
            .fold(self.defaults.get(path[0]), |value, key| value?.get(key));
        let value = match default {
            Some(Value::String(_)) => Value::String(value.to_owned()),
            _ => parse(value).unwrap_or_else(|| Value::String(value.to_owned())),
        };
        let nested = path.iter().rev().fold(value, |value, key| {
            Table::from_iter([((*key).to_owned(), value)]).into()
        });
        match nested {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// What the layers add up to.
    pub(super) fn resolve<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_path_to_error::deserialize(Value::Table(self.merged.clone())).map_err(|error| {
            let path = error.path().to_string();
            explain(&self.origins, &path, error.into_inner().message())
        })
    }

    /// What was said, laid over `table`.
    pub(super) fn lay_over(self, mut table: Table) -> Table {
        merge(&mut table, self.merged);
        table
    }
}

fn parse(text: &str) -> Option<Value> {
    let mut table: Table = toml::from_str(&format!("value = {text}")).ok()?;
    // More than one key means that the text broke out of its line.
    (table.len() == 1).then(|| table.remove("value")).flatten()
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

/// Turns serde's message into one that names the setting and where it was said.
fn explain(origins: &BTreeMap<String, Origin>, path: &str, message: &str) -> Error {
    // serde writes: unknown field `a`, expected `b` / expected one of `b`, `c` / there are no fields.
    let Some(unknown) = message.strip_prefix("unknown field `") else {
        return Error::Invalid {
            key: path.to_owned(),
            origin: origin_of(origins, path),
            why: message.trim().to_owned(),
        };
    };
    let mut names = unknown.split('`').step_by(2);
    let field = names.next().unwrap_or_default();
    let parent = path
        .strip_suffix(field)
        .map_or(path, |parent| parent.trim_end_matches('.'));
    let closest = unknown
        .split('`')
        .skip(2)
        .step_by(2)
        .map(|name| (strsim::damerau_levenshtein(field, name), name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1));
    let key = join(parent, field);
    Error::Unknown {
        origin: origin_of(origins, &key),
        key,
        suggestion: closest.map(|(_, name)| join(parent, name)),
    }
}

/// The origin of the value at `path`, of the list that holds it, or of something below it.
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
            all.add(&Origin::Flags, toml::from_str(layer).unwrap());
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
    fn variables_that_choose_a_type_and_set_it_up_come_in_any_order() {
        let expected: Table =
            toml::from_str("[metadata]\ntype = 'postgres'\nurl = 'y'\nconnections = 4").unwrap();
        let variables = [
            ("LONGHAUL_METADATA__URL", "y"),
            ("LONGHAUL_METADATA__TYPE", "postgres"),
            ("LONGHAUL_METADATA__CONNECTIONS", "4"),
        ];
        for first in 0..variables.len() {
            let mut layers =
                Layers::new(toml::from_str("[metadata]\ntype = 'sqlite'\nfile = 'x'").unwrap());
            let order = variables.iter().cycle().skip(first).take(variables.len());
            layers.add_variables(order.copied());
            assert_eq!(layers.merged, expected);
        }
    }

    #[test]
    fn a_variable_cannot_break_out_of_its_setting() {
        let mut layers = Layers::new(Table::new());
        layers.add_variables([("LONGHAUL_A", "1\nb = 2")]);
        assert_eq!(
            layers.merged,
            Table::from_iter([("a".to_owned(), "1\nb = 2".into())])
        );
    }
}
