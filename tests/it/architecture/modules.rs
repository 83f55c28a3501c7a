//! Modules of a crate, and the paths by which they use each other.
//!
//! Reads text as `cargo fmt` writes it, and leaves out comments and what is compiled for tests alone.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module or an item by its names from the crate's root.
type ItemPath = Vec<String>;

/// Modules of a crate by their paths.
pub(super) struct Modules(BTreeMap<ItemPath, Module>);

#[derive(Default)]
struct Module {
    /// Names that `use` brings in, and what each stands for.
    imports: BTreeMap<String, ItemPath>,
    /// All paths within the crate.
    paths: BTreeSet<ItemPath>,
}

/// A module that uses another one.
pub(super) struct Use {
    pub(super) from: ItemPath,
    pub(super) to: ItemPath,
}

impl Modules {
    /// Reads the modules below the directory of `lib.rs`.
    pub(super) fn read(sources: &Path) -> Self {
        let mut texts = BTreeMap::new();
        read_files(sources, &[], &mut texts);
        let mut tests = Vec::new();
        for (path, text) in &mut texts {
            let (kept, modules) = without_tests(text);
            *text = kept;
            tests.extend(modules.into_iter().map(|name| join(path, &[name])));
        }
        texts.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
        let names: BTreeSet<ItemPath> = texts.keys().cloned().collect();
        let read = |(path, text): (ItemPath, String)| {
            let module = Module::read(&path, &text, &names);
            (path, module)
        };
        Self(texts.into_iter().map(read).collect())
    }

    /// Returns who uses whom, apart from a module and what lies within it.
    pub(super) fn uses(&self) -> Vec<Use> {
        let all = self.0.iter().flat_map(|(from, module)| {
            module.paths.iter().map(|path| Use {
                from: from.clone(),
                to: self.home(path),
            })
        });
        let is_apart = |used: &Use| {
            let Use { from, to } = used;
            !from.starts_with(to) && !to.starts_with(from)
        };
        all.filter(is_apart).collect()
    }

    /// Returns one circle, if there is any, for each set of modules that have the same parent; what
    /// lies within a module counts as that module.
    pub(super) fn circles(&self) -> Vec<String> {
        let mut families: BTreeMap<ItemPath, Vec<Use>> = BTreeMap::new();
        for used in self.uses() {
            let mut shared = used.from.clone();
            while !used.to.starts_with(&shared) {
                shared.pop();
            }
            families.entry(shared).or_default().push(used);
        }
        families
            .iter()
            .filter_map(|(parent, uses)| circle(parent.len(), uses))
            .collect()
    }

    /// Returns the module that defines what `path` names, through re-exports.
    fn home(&self, path: &[String]) -> ItemPath {
        let mut module = ItemPath::new();
        for (index, name) in path.iter().enumerate() {
            let inner = join(&module, std::slice::from_ref(name));
            if self.0.contains_key(&inner) {
                module = inner;
                continue;
            }
            return match self.0[&module].imports.get(name) {
                Some(import) => self.home(&join(import, &path[index + 1..])),
                None => module,
            };
        }
        module
    }
}

impl Module {
    fn read(path: &[String], text: &str, modules: &BTreeSet<ItemPath>) -> Self {
        let mut module = Self::default();
        let mut rest = String::new();
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            let is_use = |before: &str| before.is_empty() || before.starts_with("pub");
            let tree = line
                .split_once("use ")
                .filter(|(before, _)| is_use(before.trim()));
            let Some((_, tree)) = tree else {
                rest.push_str(line);
                rest.push('\n');
                continue;
            };
            let mut tree = tree.to_owned();
            while !tree.ends_with(';') {
                tree.push_str(lines.next().expect("a `use` ends"));
            }
            let mut leaves = Vec::new();
            expand(tree.trim_end_matches(';'), &[], &mut leaves);
            for (name, leaf) in leaves {
                if let Some(used) = absolute(path, &leaf, modules) {
                    module.paths.insert(used.clone());
                    module.imports.insert(name, used);
                }
            }
        }
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in rest.match_indices(start) {
                let is_part = |last: char| last.is_alphanumeric() || "_:".contains(last);
                if rest[..at].ends_with(is_part) {
                    continue;
                }
                let end = rest[at..].find(|next| !is_part(next));
                let names = rest[at..][..end.unwrap_or(rest.len() - at)].split("::");
                let names: ItemPath = names
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned)
                    .collect();
                module.paths.extend(absolute(path, &names, modules));
            }
        }
        module
    }
}

/// Reads a directory's files into the modules that they are.
fn read_files(directory: &Path, parent: &[String], texts: &mut BTreeMap<ItemPath, String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            read_files(&path, &join(parent, &[name]), texts);
            continue;
        }
        let module = match name.as_str() {
            "lib" | "mod" => parent.to_vec(),
            "main" => continue,
            _ => join(parent, &[name]),
        };
        texts.insert(module, std::fs::read_to_string(&path).unwrap());
    }
}

/// Removes comments and items that are compiled for tests alone; returns as well the names of
/// modules among these that have files of their own.
fn without_tests(text: &str) -> (String, Vec<String>) {
    let mut kept = String::new();
    let mut modules = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let code = line.split(" // ").next().unwrap_or_default();
        if code.trim_start().starts_with("//") {
            continue;
        }
        if code.trim() != "#[cfg(test)]" {
            kept.push_str(code);
            kept.push('\n');
            continue;
        }
        let indent = &code[..code.len() - code.trim_start().len()];
        let end = format!("{indent}}}");
        for line in lines.by_ref() {
            if let Some((_, name)) = line.split_once("mod ")
                && let Some(name) = name.strip_suffix(';')
            {
                modules.push(name.to_owned());
            }
            if line == end || line.ends_with(';') && !line[indent.len()..].starts_with(' ') {
                break;
            }
        }
    }
    (kept, modules)
}

/// Adds each path of a tree of `use`, and the name that it brings in.
fn expand(tree: &str, prefix: &[String], leaves: &mut Vec<(String, ItemPath)>) {
    let tree = tree.trim();
    if let Some(group) = tree.strip_prefix('{') {
        let group = group.strip_suffix('}').expect("a group ends");
        let mut depth = 0;
        let is_comma = |character| {
            depth += match character {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0 && character == ','
        };
        for part in group.split(is_comma) {
            expand(part, prefix, leaves);
        }
    } else if let Some((first, rest)) = tree.split_once("::") {
        expand(rest, &join(prefix, &[first.to_owned()]), leaves);
    } else if !tree.is_empty() {
        let (item, name) = tree.split_once(" as ").unwrap_or((tree, tree));
        let path = match item {
            "self" | "*" => prefix.to_vec(),
            _ => join(prefix, &[item.to_owned()]),
        };
        let name = match name {
            "self" => path.last().expect("a module").clone(),
            _ => name.to_owned(),
        };
        leaves.push((name, path));
    }
}

/// Returns a path in `module` as one from the root, unless it leads to another crate.
fn absolute(module: &[String], path: &[String], modules: &BTreeSet<ItemPath>) -> Option<ItemPath> {
    let (first, rest) = path.split_first()?;
    let mut base = module;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some(join(module, rest)),
        "super" => {
            let ups = path.iter().take_while(|name| *name == "super").count();
            base = &base[..base.len().saturating_sub(ups)];
            Some(join(base, &path[ups..]))
        }
        _ => {
            let inner = join(module, path);
            modules.contains(&inner[..=module.len()]).then_some(inner)
        }
    }
}

/// Finds a circle among the modules of one parent, whose path has `depth` names.
fn circle(depth: usize, uses: &[Use]) -> Option<String> {
    let mut left: BTreeMap<(&str, &str), &Use> = uses
        .iter()
        .map(|used| ((&*used.from[depth], &*used.to[depth]), used))
        .collect();
    // A module that uses none of the others is in no circle, and neither is a use of that module.
    loop {
        let users: BTreeSet<&str> = left.keys().map(|(user, _)| *user).collect();
        let before = left.len();
        left.retain(|(_, used), _| users.contains(used));
        if left.len() == before {
            break;
        }
    }
    let mut user = left.keys().next()?.0;
    let mut seen = Vec::new();
    while !seen.contains(&user) {
        seen.push(user);
        let next = left.keys().find(|(from, _)| *from == user);
        user = next.expect("every module that is left uses one").1;
    }
    let first = seen.iter().position(|seen| *seen == user)?;
    let round = seen[first..]
        .iter()
        .zip(seen[first..].iter().cycle().skip(1));
    let steps = round.map(|(from, to)| {
        let used = left[&(*from, *to)];
        format!("{} uses {}", used.from.join("::"), used.to.join("::"))
    });
    Some(steps.collect::<Vec<_>>().join(", "))
}

fn join(path: &[String], rest: &[String]) -> ItemPath {
    [path, rest].concat()
}

#[test]
fn a_circle_is_found_through_re_exports_and_children() {
    let module = |path: &[&str], text: &str, names: &BTreeSet<ItemPath>| {
        let path: ItemPath = path.iter().map(|name| (*name).to_owned()).collect();
        let module = Module::read(&path, &without_tests(text).0, names);
        (path, module)
    };
    let sources: [(&[&str], &str); 4] = [
        (&[], "mod files;\nmod error;\npub use error::Error;\n"),
        (&["files"], "mod path;\nuse crate::Error;\n"),
        (&["files", "path"], "use super::Files;\n"),
        (
            &["error"],
            "#[cfg(test)]\nmod tests {\n    use crate::files::path::Longest;\n}\n",
        ),
    ];
    let names = sources.iter().map(|(path, _)| {
        path.iter()
            .map(|name| (*name).to_owned())
            .collect::<ItemPath>()
    });
    let names = names.collect();
    let read = |sources: [(&[&str], &str); 4]| {
        let modules = sources.map(|(path, text)| module(path, text, &names));
        Modules(modules.into_iter().collect())
    };
    assert!(read(sources).circles().is_empty());

    let mut closed = sources;
    closed[3].1 = "use std::fmt;\n\nfn of(path: &crate::files::path::FilePath) {}\n";
    let circles = read(closed).circles();
    assert_eq!(circles, ["error uses files::path, files uses error"]);
}
