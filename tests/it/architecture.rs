//! The dependencies between our crates are those of the architecture, and what a crate must not know it does not name.

mod modules;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use self::modules::{Modules, Use};

/// What a crate may depend on.
struct Rule {
    name: &'static str,
    /// Of our own crates.
    may_use: &'static [&'static str],
    /// Other people's, as the beginning of their names.
    must_not_know: &'static [&'static str],
}

/// Directions of dependencies, as "The crates" in `server/ARCHITECTURE.md` draws them.
const RULES: [Rule; 12] = [
    Rule {
        name: "settings",
        may_use: &[],
        must_not_know: &[
            "tokio", "futures", "async-", "http", "axum", "hyper", "h2", "tower", "sqlx", "rustix",
            "aws-",
        ],
    },
    Rule {
        name: "budget",
        may_use: &["settings"],
        must_not_know: &[
            "http", "axum", "hyper", "h2", "tower", "sqlx", "rustix", "aws-",
        ],
    },
    Rule {
        name: "protocol",
        may_use: &[],
        must_not_know: &[
            "tokio", "futures", "async-", "axum", "hyper", "h2", "tower", "sqlx", "rustix",
            "rusqlite", "aws-",
        ],
    },
    Rule {
        name: "archive",
        may_use: &[],
        must_not_know: &[
            "tokio", "futures", "async-", "axum", "hyper", "h2", "tower", "sqlx", "rustix",
            "rusqlite", "aws-",
        ],
    },
    Rule {
        name: "domain",
        may_use: &["settings", "budget", "protocol", "archive"],
        must_not_know: &[
            "http", "axum", "hyper", "h2", "tower", "sqlx", "rustix", "rusqlite", "aws-", "metrics",
        ],
    },
    Rule {
        name: "blobs",
        may_use: &["settings", "domain"],
        must_not_know: &["http", "axum", "hyper", "h2", "tower", "sqlx", "rusqlite"],
    },
    Rule {
        name: "metadata",
        may_use: &["settings", "domain", "archive"],
        must_not_know: &[
            "http", "axum", "hyper", "h2", "tower", "rustix", "aws-", "metrics",
        ],
    },
    Rule {
        name: "transport",
        may_use: &["settings", "budget"],
        must_not_know: &["sqlx", "rusqlite", "rustix", "aws-"],
    },
    Rule {
        name: "edge",
        may_use: &["transport", "domain", "protocol", "archive"],
        must_not_know: &[
            "hyper",
            "h2",
            "rustls",
            "tokio-rustls",
            "socket2",
            "sqlx",
            "rusqlite",
            "rustix",
            "aws-",
            "metrics",
        ],
    },
    Rule {
        name: "observe",
        may_use: &["domain", "archive", "transport"],
        must_not_know: &["hyper", "h2", "sqlx", "rusqlite", "rustix", "aws-"],
    },
    Rule {
        name: "app",
        may_use: &[
            "settings",
            "budget",
            "protocol",
            "archive",
            "domain",
            "blobs",
            "metadata",
            "transport",
            "edge",
            "observe",
        ],
        must_not_know: &["h2", "tokio-rustls", "socket2", "sqlx", "rusqlite", "aws-"],
    },
    // No rule lets a crate use this one: it is for tests alone.
    Rule {
        name: "testing",
        may_use: &["archive", "domain", "protocol"],
        must_not_know: &["http", "axum", "hyper", "h2", "tower", "sqlx", "aws-"],
    },
];

#[test]
fn every_crate_depends_only_inward() {
    let crates = manifests();
    let names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    let mut found: Vec<&str> = crates.keys().map(String::as_str).collect();
    let mut expected = names.clone();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(
        found, expected,
        "every crate under server/ has a rule, and every rule a crate"
    );

    for rule in &RULES {
        for dependency in dependencies(&crates[rule.name]) {
            if names.contains(&dependency.as_str()) {
                let may = rule.may_use.contains(&dependency.as_str());
                assert!(may, "{} must not depend on {dependency}", rule.name);
            }
            let known = rule
                .must_not_know
                .iter()
                .find(|name| dependency.starts_with(**name));
            assert!(known.is_none(), "{} must not know {dependency}", rule.name);
        }
    }
}

#[test]
fn the_tests_speak_http_and_the_command_line_only() {
    let manifest = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    for dependency in dependencies(&manifest) {
        let ours = RULES.iter().any(|rule| rule.name == dependency);
        assert!(!ours, "tests must not depend on {dependency}");
    }
}

/// Modules that lie within each other may use each other; a module counts with what lies within it.
#[test]
fn no_circle_of_modules() {
    let mut circles = Vec::new();
    for name in manifests().keys() {
        let modules = Modules::read(&sources(name));
        circles.extend(
            modules
                .circles()
                .iter()
                .map(|circle| format!("{name}: {circle}")),
        );
    }
    assert!(
        circles.is_empty(),
        "modules in circles:\n{}",
        circles.join("\n")
    );
}

#[test]
fn values_know_values_and_ports_know_values_and_ports() {
    let uses = Modules::read(&sources("domain")).uses();
    let count = |home: &str, may_use: &[&str]| {
        let within = uses.iter().filter(|used| used.from[0] == home);
        for Use { from, to } in within.clone() {
            let (from, to) = (from.join("::"), to.join("::"));
            let may = may_use
                .iter()
                .any(|home| to.split("::").next() == Some(home));
            assert!(may, "{from} must not use {to}");
        }
        within.count()
    };
    assert!(count("values", &["values"]) > 5);
    assert!(count("ports", &["values", "ports"]) > 10);
}

/// What pages of other origins may send and see comes from the one list of fields, so a field that is named elsewhere would be missing
/// there.
#[test]
fn fields_have_their_names_in_one_list() {
    // Its fields are refused.
    let elsewhere = Path::new("protocol/src/content.rs");
    let files = files(&["protocol", "transport", "edge"]);
    for (path, text) in &files {
        let named = text.contains("HeaderName::from_static(\"");
        assert!(
            !named || path.ends_with(elsewhere),
            "{} names a field",
            path.display()
        );
    }
    assert!(files.len() > 50, "{} files", files.len());
}

/// Metrics are described from the table, so one that it lacks would have no description.
#[test]
fn metrics_are_in_one_table() {
    let table = std::fs::read_to_string(sources("observe").join("table.rs")).unwrap();
    let mut recorded = 0;
    for (path, text) in files(&["transport", "blobs", "app"]) {
        if !text.contains("metrics::") {
            continue;
        }
        for metric in text.split("\"longhaul_").skip(1) {
            let (metric, _) = metric.split_once('"').unwrap();
            recorded += 1;
            assert!(
                table.contains(&format!("\"longhaul_{metric}\"")),
                "{} records longhaul_{metric}",
                path.display()
            );
        }
    }
    assert!(recorded > 5, "{recorded} metrics");
}

/// The paths and texts of these crates' sources.
fn files(crates: &[&str]) -> Vec<(PathBuf, String)> {
    let mut folders: Vec<PathBuf> = crates.iter().map(|name| sources(name)).collect();
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                files.push((path, text));
            }
        }
    }
    files
}

/// The directory of a crate's `lib.rs`.
fn sources(name: &str) -> PathBuf {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server");
    server.join(name).join("src")
}

/// The manifest of each crate under `server/`.
fn manifests() -> BTreeMap<String, Table> {
    let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("../server");
    let mut manifests = BTreeMap::new();
    for entry in std::fs::read_dir(server).unwrap() {
        let entry = entry.unwrap();
        let manifest = entry.path().join("Cargo.toml");
        if manifest.is_file() {
            manifests.insert(entry.file_name().into_string().unwrap(), read(&manifest));
        }
    }
    manifests
}

fn read(manifest: &Path) -> Table {
    std::fs::read_to_string(manifest).unwrap().parse().unwrap()
}

/// What the crate's own code depends on, for every target; not what its tests do.
fn dependencies(manifest: &Table) -> Vec<String> {
    let targets = manifest
        .get("target")
        .and_then(Value::as_table)
        .into_iter()
        .flat_map(Table::values);
    let tables = std::iter::once(manifest).chain(targets.filter_map(Value::as_table));
    let sections =
        tables.flat_map(|table| ["dependencies", "build-dependencies"].map(|name| table.get(name)));
    let named = sections
        .flatten()
        .filter_map(Value::as_table)
        .flat_map(Table::keys);
    named.cloned().collect()
}
