//! Results of a run, as a table for people and as JSON for programs.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use crate::judge::{Finding, Verdict};
use crate::vector::{Case, Level, Transport};
use crate::version::Version;

/// Result of one case in one version on one transport.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) case: &'a Case,
    pub(crate) version: Version,
    pub(crate) transport: Transport,
    pub(crate) verdict: Verdict,
}

impl Entry<'_> {
    fn word(&self) -> &'static str {
        match (&self.verdict, self.verdict.worst()) {
            (Verdict::Skipped(_), _) => "-",
            (Verdict::Judged(_), None) => "ok",
            (Verdict::Judged(_), Some(level)) => level_name(level),
        }
    }
}

/// Returns the name of a level in the report.
fn level_name(level: Level) -> &'static str {
    match level {
        Level::Must => "MUST",
        Level::Should => "should",
        Level::May => "may",
    }
}

/// Writes one table per dialect and transport, then the reasons, then the totals.
pub(crate) fn write_tables(out: &mut impl Write, entries: &[Entry<'_>]) -> io::Result<()> {
    let mut tables: BTreeMap<(&str, Transport), Vec<&Entry<'_>>> = BTreeMap::new();
    for entry in entries {
        tables
            .entry((entry.version.dialect(), entry.transport))
            .or_default()
            .push(entry);
    }
    for ((dialect, transport), entries) in &tables {
        write_table(
            out,
            &format!("{dialect} over {}", transport.name()),
            entries,
        )?;
    }
    for level in [Level::Must, Level::Should, Level::May] {
        write_reasons(out, level, entries)?;
    }
    write_skips(out, entries)?;
    write_sums(out, entries)
}

const CELL: usize = 7;

fn write_table(out: &mut impl Write, title: &str, entries: &[&Entry<'_>]) -> io::Result<()> {
    let mut versions: Vec<Version> = entries.iter().map(|entry| entry.version).collect();
    versions.sort_unstable();
    versions.dedup();
    let mut rows: BTreeMap<&str, BTreeMap<Version, &str>> = BTreeMap::new();
    for entry in entries {
        rows.entry(&entry.case.name)
            .or_default()
            .insert(entry.version, entry.word());
    }
    let width = rows
        .keys()
        .map(|name| name.len())
        .chain([title.len()])
        .max()
        .unwrap_or_default();
    write!(out, "{title:width$}")?;
    for version in &versions {
        write!(out, "{:>CELL$}", version.short())?;
    }
    writeln!(out)?;
    for (name, cells) in &rows {
        write!(out, "{name:width$}")?;
        for version in &versions {
            write!(out, "{:>CELL$}", cells.get(version).unwrap_or(&""))?;
        }
        writeln!(out)?;
    }
    writeln!(out)
}

/// Writes the findings of one level, each once with all its versions and transports.
fn write_reasons(out: &mut impl Write, level: Level, entries: &[Entry<'_>]) -> io::Result<()> {
    let mut reasons: BTreeMap<String, Vec<(Version, Transport)>> = BTreeMap::new();
    for entry in entries {
        let Verdict::Judged(findings) = &entry.verdict else {
            continue;
        };
        for finding in findings.iter().filter(|finding| finding.level == level) {
            let reason = format!("{}: {finding}", entry.case.name);
            reasons
                .entry(reason)
                .or_default()
                .push((entry.version, entry.transport));
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let heading = match level {
        Level::Must => "Required by the specification, and not so:",
        Level::Should => "Recommended by the specification, and not so:",
        Level::May => "Left open by the specification, recommended here, and not so:",
    };
    writeln!(out, "{heading}")?;
    for (reason, places) in &reasons {
        writeln!(out, "  {reason}\n    {}", runs(places))?;
    }
    writeln!(out)
}

fn write_skips(out: &mut impl Write, entries: &[Entry<'_>]) -> io::Result<()> {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for entry in entries {
        if let Verdict::Skipped(reason) = &entry.verdict {
            *reasons.entry(reason).or_default() += 1;
        }
    }
    if reasons.is_empty() {
        return Ok(());
    }
    writeln!(out, "Skipped:")?;
    for (reason, count) in &reasons {
        writeln!(out, "  {count} because {reason}")?;
    }
    writeln!(out)
}

/// Formats versions by transport: `interop-3, interop-4, rfc over HTTP/1.1; rfc over HTTP/2`.
fn runs(places: &[(Version, Transport)]) -> String {
    let mut transports: BTreeMap<Transport, Vec<String>> = BTreeMap::new();
    for (version, transport) in places {
        let names = transports.entry(*transport).or_default();
        let name = version.to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let parts: Vec<String> = transports
        .iter()
        .map(|(transport, names)| format!("{} over {}", names.join(", "), transport.name()))
        .collect();
    parts.join("; ")
}

#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    passed: usize,
    must: usize,
    should: usize,
    may: usize,
    skipped: usize,
}

fn write_sums(out: &mut impl Write, entries: &[Entry<'_>]) -> io::Result<()> {
    let mut sums: BTreeMap<(Version, Transport), Sums> = BTreeMap::new();
    for entry in entries {
        let sums = sums.entry((entry.version, entry.transport)).or_default();
        let count = match (&entry.verdict, entry.verdict.worst()) {
            (Verdict::Skipped(_), _) => &mut sums.skipped,
            (Verdict::Judged(_), None) => &mut sums.passed,
            (Verdict::Judged(_), Some(Level::Must)) => &mut sums.must,
            (Verdict::Judged(_), Some(Level::Should)) => &mut sums.should,
            (Verdict::Judged(_), Some(Level::May)) => &mut sums.may,
        };
        *count += 1;
    }
    writeln!(
        out,
        "{:24}{:>8}{:>8}{:>8}{:>8}{:>8}",
        "cases", "ok", "MUST", "should", "may", "skipped"
    )?;
    for ((version, transport), sums) in &sums {
        let name = format!("{version} over {}", transport.name());
        writeln!(
            out,
            "{name:24}{:>8}{:>8}{:>8}{:>8}{:>8}",
            sums.passed, sums.must, sums.should, sums.may, sums.skipped
        )?;
    }
    Ok(())
}

/// JSON form of an entry.
#[derive(Debug, Serialize)]
struct Line<'a> {
    case: &'a str,
    title: &'a str,
    version: String,
    transport: &'static str,
    /// `ok`, `MUST`, `should`, `may` or `-` for skipped.
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Reason<'a>>,
}

#[derive(Debug, Serialize)]
struct Reason<'a> {
    level: &'static str,
    file: &'a str,
    line: usize,
    step: &'a str,
    message: &'a str,
}

impl<'a> From<&'a Finding> for Reason<'a> {
    fn from(
        Finding {
            level,
            place,
            step,
            message,
        }: &'a Finding,
    ) -> Self {
        Self {
            level: level_name(*level),
            file: &place.file,
            line: place.line,
            step,
            message,
        }
    }
}

/// Writes one JSON object per line.
pub(crate) fn write_json(out: &mut impl Write, entries: &[Entry<'_>]) -> io::Result<()> {
    for entry in entries {
        let (skipped, findings) = match &entry.verdict {
            Verdict::Skipped(reason) => (Some(reason.as_str()), Vec::new()),
            Verdict::Judged(findings) => (None, findings.iter().map(Reason::from).collect()),
        };
        let line = Line {
            case: &entry.case.name,
            title: &entry.case.title,
            version: entry.version.to_string(),
            transport: entry.transport.name(),
            verdict: entry.word(),
            skipped,
            findings,
        };
        serde_json::to_writer(&mut *out, &line)?;
        writeln!(out)?;
    }
    Ok(())
}
