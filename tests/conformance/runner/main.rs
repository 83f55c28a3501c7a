//! `longhaul-conformance`: judges a resumable upload server by vectors, text files with one case
//! each.
//!
//! The program contains the vectors; `../README.md` describes their format. Nothing here depends on
//! Longhaul: any server that accepts uploads at a URL can be judged.

mod compose;
mod content;
mod exchange;
mod explain;
mod http1;
mod http2;
mod judge;
mod matcher;
mod report;
mod server;
mod syntax;
mod template;
mod url;
mod vector;
mod version;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use futures::{StreamExt as _, stream};
use include_dir::{Dir, include_dir};

use crate::exchange::Connector;
use crate::judge::Verdict;
use crate::report::Entry;
use crate::server::{Abilities, Target};
use crate::vector::{Case, Files, Level, Suite, Transport};
use crate::version::Version;

static IETF: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/conformance/ietf");
static TUS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/conformance/tus");
static PLAIN: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/conformance/plain");

/// Judges a resumable upload server: IETF drafts (interop 3 to 10 and the RFC form) and tus 1.0.0.
#[derive(Debug, Parser)]
#[command(name = "longhaul-conformance", version)]
struct Arguments {
    /// URL for creations; each `{unique}` in it becomes a new word on every use
    #[arg(required_unless_present_any = ["list", "explain"])]
    url: Option<String>,

    /// Play only these dialects
    #[arg(long, value_delimiter = ',')]
    dialect: Vec<Dialect>,

    /// Play only these versions (3 to 10, rfc, tus, plain), whether or not the server seems to
    /// offer them
    #[arg(long, value_delimiter = ',', value_parser = parse_version)]
    only: Vec<Version>,

    /// Play only cases whose name contains this text
    #[arg(long)]
    case: Vec<String>,

    /// Use only HTTP/1.1
    #[arg(long, conflicts_with = "http2")]
    http1: bool,

    /// Use only HTTP/2
    #[arg(long)]
    http2: bool,

    /// Send this field with every request
    #[arg(long, value_name = "NAME: VALUE", value_parser = parse_field)]
    header: Vec<(String, String)>,

    /// Method of creations, except those of tus
    #[arg(long, default_value = "POST")]
    method: String,

    /// Accept any certificate
    #[arg(long)]
    insecure: bool,

    /// Lowest level of a finding that makes the exit status 1
    #[arg(long, value_enum, default_value = "must")]
    fail_on: FailOn,

    /// Seconds to wait for a final response
    #[arg(long, default_value_t = 15, value_name = "SECONDS")]
    patience: u64,

    /// Number of cases that run at the same time
    #[arg(long, default_value_t = 4)]
    jobs: usize,

    /// Print one JSON object per case, version and transport
    #[arg(long)]
    json: bool,

    /// List the cases and stop
    #[arg(long)]
    list: bool,

    /// Print one case as it goes over the wire (in the newest version, or in those of --only) and
    /// stop
    #[arg(long, value_name = "CASE")]
    explain: Option<String>,

    /// Read the vectors from this directory instead of the built-in ones
    #[arg(long, value_name = "DIRECTORY")]
    vectors: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dialect {
    Ietf,
    Tus,
    Plain,
}

impl Dialect {
    fn name(self) -> &'static str {
        match self {
            Self::Ietf => "ietf",
            Self::Tus => "tus",
            Self::Plain => "plain",
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum FailOn {
    Must,
    Should,
    May,
}

impl FailOn {
    fn level(self) -> Level {
        match self {
            Self::Must => Level::Must,
            Self::Should => Level::Should,
            Self::May => Level::May,
        }
    }
}

fn parse_version(name: &str) -> Result<Version, String> {
    Version::parse(name).ok_or_else(|| format!("no version is called {name:?}"))
}

fn parse_field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or("a field is NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

#[tokio::main]
async fn main() -> ExitCode {
    match work(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            // A failure to write to standard error cannot be reported anywhere.
            let _ = writeln!(io::stderr(), "longhaul-conformance: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs the program. Exit status 0: no finding at or above `--fail-on`; 1: at least one; 2 (an
/// error): no case was judged.
async fn work(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let files = match &arguments.vectors {
        Some(directory) => read_files(directory)?,
        None => embedded_files(),
    };
    let suite = Suite::parse(&files).map_err(anyhow::Error::msg)?;
    let mut out = io::stdout().lock();
    if let Some(name) = &arguments.explain {
        return explain(&mut out, &arguments, &files, &suite, name);
    }
    let cases: Vec<&Case> = suite
        .cases
        .iter()
        .filter(|case| arguments.wants(case))
        .collect();
    if cases.is_empty() {
        bail!("no case matches");
    }
    if arguments.list {
        for case in cases {
            writeln!(out, "{:40} {}", case.name, case.title)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let entries = judge(&arguments, &suite, &cases).await?;
    if arguments.json {
        report::write_json(&mut out, &entries)?;
    } else {
        report::write_tables(&mut out, &entries)?;
    }
    if entries
        .iter()
        .all(|entry| matches!(entry.verdict, Verdict::Skipped(_)))
    {
        bail!("nothing could be judged");
    }
    let worst = entries
        .iter()
        .filter_map(|entry| entry.verdict.worst())
        .max();
    Ok(if worst >= Some(arguments.fail_on.level()) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl Arguments {
    fn wants(&self, case: &Case) -> bool {
        let dialect = self.dialect.is_empty()
            || self
                .dialect
                .iter()
                .any(|dialect| case.name.starts_with(dialect.name()));
        let name = self.case.is_empty()
            || self
                .case
                .iter()
                .any(|part| case.name.contains(part.as_str()));
        dialect
            && name
            && self
                .versions()
                .into_iter()
                .any(|version| case.versions.contains(version))
    }

    fn versions(&self) -> Vec<Version> {
        if self.only.is_empty() {
            Version::ALL.to_vec()
        } else {
            self.only.clone()
        }
    }

    fn transports(&self) -> Vec<Transport> {
        match (self.http1, self.http2) {
            (true, _) => vec![Transport::Http1],
            (_, true) => vec![Transport::Http2],
            _ => vec![Transport::Http1, Transport::Http2],
        }
    }

    fn target(&self) -> anyhow::Result<Target> {
        let url = self.url.clone().context("which server?")?;
        url::Url::parse(&url.replace("{unique}", "1")).map_err(anyhow::Error::msg)?;
        Ok(Target {
            url,
            method: self.method.clone(),
            fields: self.header.clone(),
            connector: Connector::new(self.insecure).map_err(anyhow::Error::msg)?,
            patience: Duration::from_secs(self.patience),
            interim_patience: Duration::from_secs(2),
        })
    }
}

async fn judge<'a>(
    arguments: &Arguments,
    suite: &Suite,
    cases: &[&'a Case],
) -> anyhow::Result<Vec<Entry<'a>>> {
    let target = arguments.target()?;
    let is_wanted = |version: &Version| cases.iter().any(|case| case.versions.contains(*version));
    let versions: Vec<Version> = arguments.versions().into_iter().filter(is_wanted).collect();
    let mut runs = Vec::new();
    let mut abilities = BTreeMap::new();
    for transport in arguments.transports() {
        let found = match offers(arguments, &target, transport, &versions).await {
            Ok(found) => found,
            // A server without HTTP/2 is judged over HTTP/1.1 alone.
            Err(error) if transport == Transport::Http2 && !arguments.http2 => {
                writeln!(io::stderr(), "no HTTP/2: {error:#}")?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let (offered, missing): (Vec<Version>, Vec<Version>) = versions
            .iter()
            .partition(|version| found.offered.contains_key(version));
        for version in offered {
            let concerned = cases.iter().filter(|case| case.versions.contains(version));
            runs.extend(concerned.map(|case| (*case, version, transport)));
        }
        if !missing.is_empty() {
            let names: Vec<String> = missing.iter().map(Version::to_string).collect();
            writeln!(
                io::stderr(),
                "not offered over {}: {}",
                transport.name(),
                names.join(", ")
            )?;
        }
        abilities.insert(transport, found);
    }
    let entries = stream::iter(runs).map(|(case, version, transport)| {
        let (target, abilities) = (&target, &abilities[&transport]);
        async move {
            let verdict = judge::judge(target, suite, case, version, transport, abilities).await;
            Entry {
                case,
                version,
                transport,
                verdict,
            }
        }
    });
    Ok(entries.buffered(arguments.jobs.max(1)).collect().await)
}

async fn offers(
    arguments: &Arguments,
    target: &Target,
    transport: Transport,
    versions: &[Version],
) -> anyhow::Result<Abilities> {
    let mut abilities = target
        .abilities(transport, versions)
        .await
        .map_err(anyhow::Error::msg)?;
    for version in versions
        .iter()
        .filter(|version| arguments.only.contains(version))
    {
        abilities.offered.entry(*version).or_insert(false);
    }
    Ok(abilities)
}

fn explain(
    out: &mut impl io::Write,
    arguments: &Arguments,
    files: &Files,
    suite: &Suite,
    name: &str,
) -> anyhow::Result<ExitCode> {
    let case = suite
        .cases
        .iter()
        .find(|case| case.name == name)
        .with_context(|| format!("no case is called {name}"))?;
    let mut versions: Vec<Version> = Version::ALL
        .into_iter()
        .filter(|version| case.versions.contains(*version))
        .collect();
    if arguments.only.is_empty() {
        versions = versions.split_off(versions.len().saturating_sub(1));
    } else {
        versions.retain(|version| arguments.only.contains(version));
    }
    for version in versions {
        let text = explain::explain(files, version.dialect(), &case.source, version)
            .map_err(anyhow::Error::msg)?;
        writeln!(out, "{name} in {version}\n\n{text}")?;
    }
    Ok(ExitCode::SUCCESS)
}

const DIALECTS: [(&str, &Dir<'_>); 3] = [("ietf", &IETF), ("tus", &TUS), ("plain", &PLAIN)];

fn embedded_files() -> Files {
    fn add(files: &mut Files, dialect: &str, directory: &Dir<'_>) {
        for file in directory.files() {
            let text = file.contents_utf8().unwrap_or_default();
            files.insert(
                format!("{dialect}/{}", file.path().display()),
                text.to_owned(),
            );
        }
        for directory in directory.dirs() {
            add(files, dialect, directory);
        }
    }
    let mut files = Files::new();
    for (dialect, directory) in DIALECTS {
        add(&mut files, dialect, directory);
    }
    files
}

fn read_files(directory: &Path) -> anyhow::Result<Files> {
    fn add(files: &mut Files, name: &str, directory: &Path) -> anyhow::Result<()> {
        let entries = fs::read_dir(directory)
            .with_context(|| format!("cannot read {}", directory.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = format!(
                "{name}/{}",
                path.file_name().unwrap_or_default().to_string_lossy()
            );
            if path.is_dir() {
                add(files, &name, &path)?;
            } else {
                files.insert(
                    name,
                    fs::read_to_string(&path)
                        .with_context(|| format!("cannot read {}", path.display()))?,
                );
            }
        }
        Ok(())
    }
    let mut files = Files::new();
    for (dialect, _) in DIALECTS {
        add(&mut files, dialect, &directory.join(dialect))?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_of_the_project_is_in_the_program_and_parses() {
        let on_disk = read_files(Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/conformance"
        )))
        .unwrap();
        assert_eq!(
            on_disk.keys().collect::<Vec<_>>(),
            embedded_files().keys().collect::<Vec<_>>()
        );
        let suite = Suite::parse(&on_disk).unwrap();
        for case in &suite.cases {
            for version in Version::ALL
                .into_iter()
                .filter(|version| case.versions.contains(*version))
            {
                explain::explain(&on_disk, version.dialect(), &case.source, version).unwrap();
            }
        }
    }
}
