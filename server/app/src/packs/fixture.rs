//! Fixtures for tests of pulls: trees, their archives, and pulls without a server.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use archive::{
    ArchiveFormat, Catalogue, Content, EntryPath, Forms, Layout, Limits, Need, PackName,
    Plan as ArchivePlan, Segment, Sha256Digest, Tree, lacking_digests,
};

use super::apply::{Recipe, build};
use super::exchange::Exchange;
use super::files::hash_all;
use super::holding::{self, Held, Holding, State};
use super::plan::Plan;
use super::staging::Staging;
use super::survey::Survey;
use super::work::Work;
use super::{Error, Named, files};

/// Contents and executable flags, by path.
pub(super) type Files = BTreeMap<&'static str, (&'static str, bool)>;

/// Plain files.
pub(super) fn plain<const N: usize>(files: [(&'static str, &'static str); N]) -> Files {
    files
        .into_iter()
        .map(|(path, content)| (path, (content, false)))
        .collect()
}

pub(super) fn catalogue(files: &Files, version: u64) -> Arc<Catalogue> {
    let entries = files.iter().map(|(path, (content, executable))| {
        let sha256 = Sha256Digest::of(content.as_bytes());
        let path = EntryPath::parse(*path).unwrap();
        (path, content.len() as u64, sha256, *executable)
    });
    let tree = Tree::try_from_entries(entries, Limits::default()).unwrap();
    let content_of = |sha256: &Sha256Digest| {
        let is_it = |content: &&str| Sha256Digest::of(content.as_bytes()) == *sha256;
        let content = files.values().map(|(content, _)| *content).find(is_it)?;
        Some(Content {
            size: content.len() as u64,
            crc32: crc32fast::hash(content.as_bytes()),
        })
    };
    let pack = PackName::parse("maps").unwrap();
    Arc::new(Catalogue::publish(pack, version, tree, content_of).unwrap())
}

pub(super) fn zip(files: &Files, catalogue: &Arc<Catalogue>, need: &Need) -> Vec<u8> {
    let forms = Arc::new(Forms::raw(catalogue.tree()));
    let plan = ArchivePlan::new(Arc::clone(catalogue), forms, None, need.clone()).unwrap();
    let layout = Layout::new(ArchiveFormat::Zip, plan);
    let mut bytes = Vec::new();
    for segment in layout.slice(0..layout.len()) {
        match segment {
            Segment::Literal(literal) => bytes.extend_from_slice(&literal),
            Segment::Blob(slice) => {
                let content = files[catalogue.tree().path(slice.position)].0;
                bytes.extend_from_slice(content.as_bytes());
            }
        }
    }
    bytes
}

/// Compares the plain files of a directory, without its record.
#[track_caller]
pub(super) fn check(directory: &Path, expected: &Files) {
    fn read(directory: &Path, prefix: &str, files: &mut BTreeMap<String, (String, bool)>) {
        for entry in files::entries(directory).unwrap() {
            let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            let kind = entry.file_type().unwrap();
            if path == super::STATE_DIRECTORY || kind.is_symlink() {
                continue;
            }
            if kind.is_dir() {
                read(&entry.path(), &format!("{path}/"), files);
            } else {
                let content = fs::read_to_string(entry.path()).unwrap();
                let executable = entry.metadata().unwrap().mode() & 0o111 != 0;
                files.insert(path, (content, executable));
            }
        }
    }
    let mut files = BTreeMap::new();
    read(directory, "", &mut files);
    let found: Vec<_> = files
        .iter()
        .map(|(path, (content, executable))| (path.as_str(), (content.as_str(), *executable)))
        .collect();
    let expected: Vec<_> = expected.iter().map(|(path, file)| (*path, *file)).collect();
    assert_eq!(found, expected);
}

/// Returns the version that an earlier pull left.
pub(super) fn held(directory: &Path) -> Option<Held> {
    match Holding::of(directory).unwrap() {
        Holding::Version(held) => Some(*held),
        Holding::Nothing | Holding::Strangers => None,
    }
}

/// Returns a survey with all files read that matter.
pub(super) fn survey(directory: &Path, held: Option<&Held>, target: &Tree) -> Survey {
    let mut survey = Survey::of(directory, held).unwrap();
    let unread = survey.unread(held.map(|held| held.catalogue.tree()), target);
    let (paths, files): (Vec<_>, Vec<_>) = unread.into_iter().unzip();
    let hashed = hash_all(&files, &Work::default()).unwrap();
    survey.know(paths.into_iter().zip(hashed).collect());
    survey
}

/// Returns the plan of a pull of these files.
pub(super) fn plan(directory: &Path, files: &Files) -> Plan {
    let (held, target) = (held(directory), catalogue(files, 2));
    let survey = survey(directory, held.as_ref(), target.tree());
    let old = held.as_ref().map(|held| held.catalogue.tree());
    Plan::new(old, target.tree(), &survey)
}

/// Stages all files of an exchange.
pub(super) fn stage(staging: &Staging, files: &Files) -> Result<Plan, Error> {
    staging.clear()?;
    let directory = staging.target();
    let (held, target) = (held(directory), catalogue(files, 2));
    let survey = survey(directory, held.as_ref(), target.tree());
    let old = held.as_ref().map(|held| held.catalogue.tree());
    let plan = Plan::new(old, target.tree(), &survey);
    let need = lacking_digests(target.tree(), &survey.digests());
    let archive = staging.archive("archive.zip")?;
    fs::write(&archive, zip(files, &target, &need)).unwrap();
    let recipe = Recipe {
        target: &target,
        plan: &plan,
        survey: &survey,
        need: &need,
        archive: (!need.is_empty()).then_some(&*archive),
    };
    let stamps = build(&recipe, staging, &Work::default())?;
    let mut modified = survey.modified(target.tree());
    for (position, stamp) in stamps {
        modified[position as usize] = stamp.modified;
    }
    let bytes: Vec<u8> = target.encode().flatten().collect();
    let url = "http://h/packs/maps".to_owned();
    let state = State::new(url, &target, None, modified);
    holding::write(&staging.record(), &bytes, Some(&[7; 64]), &state)?;
    Ok(plan)
}

/// Pulls these files, without a server.
pub(super) fn pull(directory: &Path, files: &Files, force: bool) -> Result<(), Error> {
    let staging = Staging::open(directory)?;
    if let Some(exchange) = Exchange::unfinished(&staging)? {
        exchange.run(force)?;
    }
    let plan = stage(&staging, files)?;
    if !plan.in_the_way.is_empty() && !force {
        return Err(Error::InTheWay {
            directory: directory.to_owned(),
            paths: Named(plan.in_the_way),
        });
    }
    Exchange::new(&staging, &plan, "maps version 2".to_owned()).run(force)?;
    staging.remove()
}
