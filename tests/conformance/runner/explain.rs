//! A readable form of one case: its requests in one version, and the expected responses.

use crate::syntax::{annotation, fragment_path, version_annotation};
use crate::vector::{Files, Level};
use crate::version::Version;

/// Returns the text of a vector as it applies to `version`: fragments included, lines for other
/// versions removed, fields in their names of that version.
pub(crate) fn explain(
    files: &Files,
    dialect: &str,
    source: &str,
    version: Version,
) -> Result<String, String> {
    let mut text = String::new();
    // Set while inside a step that does not apply to this version.
    let mut skipping = false;
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("include: ") {
            let path = fragment_path(dialect, name.trim());
            let fragment = files
                .get(&path)
                .ok_or_else(|| format!("there is no {path}"))?;
            text.push_str(&explain(files, dialect, fragment, version)?);
            continue;
        }
        let line = if let Some(rest) = line.strip_prefix("== ") {
            let (versions, label) = version_annotation(rest)?;
            skipping = !versions.contains(version);
            Some(format!("== {label}"))
        } else if let Some(rest) = line.strip_prefix("> ") {
            let (versions, rest) = version_annotation(rest)?;
            versions
                .contains(version)
                .then(|| sent(rest, version))
                .flatten()
        } else if let Some(rest) = line.strip_prefix("< ") {
            let (levels, rest) = annotation(rest)?;
            levels
                .of(version)
                .map(|level| expected(level, rest, version))
        } else {
            Some(line.to_owned())
        };
        if let Some(line) = line.filter(|_| !skipping) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    Ok(text)
}

fn sent(line: &str, version: Version) -> Option<String> {
    match line {
        "@interop" => version
            .interop()
            .map(|number| format!("> Upload-Draft-Interop-Version: {number}")),
        "@partial-upload" => version
            .has_partial_upload_type()
            .then(|| "> Content-Type: application/partial-upload".to_owned()),
        _ => Some(format!("> {}", completeness(line, version))),
    }
}

fn expected(level: Level, line: &str, version: Version) -> String {
    let strength = match level {
        Level::Must => "",
        Level::Should => "(should) ",
        Level::May => "(may) ",
    };
    format!("< {strength}{}", completeness(line, version))
}

fn completeness(line: &str, version: Version) -> String {
    let complete = match line {
        "@complete: yes" => true,
        "@complete: no" => false,
        _ => return line.to_owned(),
    };
    let (name, value) = version.completeness(complete);
    format!("{name}: {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_reads_in_the_words_of_one_version() {
        let files = Files::from([(
            "ietf/given/one.http".to_owned(),
            "== create\n> POST {target}\n> @interop\n".to_owned(),
        )]);
        let source = "# Title\ninclude: one\n== [4..] append\n> PATCH {upload}\n== ask\n> HEAD {upload}\n> @complete: no\n< [should] 204\n< [5..] @interop: echo\n";
        let text = explain(&files, "ietf", source, Version::Interop(3)).unwrap();
        let expected = "# Title\n== create\n> POST {target}\n> Upload-Draft-Interop-Version: 3\n\
                        == ask\n> HEAD {upload}\n> Upload-Incomplete: ?1\n< (should) 204\n";
        assert_eq!(text, expected);
    }
}
