//! Packs as JSON.

use archive::{ArchiveFormat, Layout, NeedName, PackName};
use domain::DraftId;
use domain::pack::{PackSummary, PackVersion};
use domain::packs::{Archive, DraftStatus, Selection};
use percent_encoding::utf8_percent_encode;
use serde::Serialize;

use crate::api::Api;
use crate::extract::PACKS;
use crate::respond::file::PATH;
use crate::respond::time;

/// A pack in a list.
#[derive(Debug, Serialize)]
pub(crate) struct PackDocument {
    name: String,
    url: String,
    latest: Option<u64>,
}

impl PackDocument {
    pub(crate) fn new(api: &Api, pack: &PackSummary) -> Self {
        Self {
            name: pack.name.to_string(),
            url: api.absolute(&pack_path(&pack.name)),
            latest: pack.latest.as_ref().map(|version| version.number),
        }
    }
}

/// A pack with its versions.
#[derive(Debug, Serialize)]
pub(crate) struct PackPage {
    #[serde(flatten)]
    pub(crate) pack: PackDocument,
    pub(crate) versions: Vec<VersionLine>,
    /// Request the next page with this cursor; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cursor: Option<String>,
}

/// A version in a list.
#[derive(Debug, Serialize)]
pub(crate) struct VersionLine {
    version: u64,
    url: String,
    files: u64,
    size: u64,
    published_at: String,
}

impl VersionLine {
    pub(crate) fn new(api: &Api, version: &PackVersion) -> Self {
        Self {
            version: version.number,
            url: version_url(api, &version.pack, version.number),
            files: version.files,
            size: version.size,
            published_at: time(version.published_at),
        }
    }
}

/// One version.
#[derive(Debug, Serialize)]
pub(crate) struct VersionDocument {
    pack: String,
    #[serde(flatten)]
    line: VersionLine,
    catalogue: CatalogueDocument,
    archives: Archives,
}

#[derive(Debug, Serialize)]
struct CatalogueDocument {
    url: String,
    size: u64,
    sha256: String,
    etag: String,
}

impl VersionDocument {
    pub(crate) fn new(api: &Api, version: &PackVersion, archives: &[Archive; 2]) -> Self {
        let line = VersionLine::new(api, version);
        let sha256 = version.catalogue.sha256.to_string();
        Self {
            pack: version.pack.to_string(),
            catalogue: CatalogueDocument {
                url: format!("{}/catalogue", line.url),
                size: version.catalogue.size,
                etag: format!("\"{sha256}\""),
                sha256,
            },
            archives: Archives::new(api, &Selection::Whole, archives),
            line,
        }
    }
}

/// An archive in both formats.
#[derive(Debug, Serialize)]
struct Archives {
    zip: ArchiveDocument,
    tar: ArchiveDocument,
}

#[derive(Debug, Serialize)]
struct ArchiveDocument {
    url: String,
    size: u64,
    etag: String,
    media_type: &'static str,
}

impl Archives {
    fn new(api: &Api, selection: &Selection, [zip, tar]: &[Archive; 2]) -> Self {
        let document = |archive: &Archive| {
            let layout = archive.layout();
            ArchiveDocument {
                url: archive_url(api, archive.version(), selection, layout.format()),
                size: layout.len(),
                etag: format!("\"{}\"", layout.tag().as_str()),
                media_type: layout.format().media_type(),
            }
        };
        Self {
            zip: document(zip),
            tar: document(tar),
        }
    }
}

/// Difference from another version, and the steps that apply it.
#[derive(Debug, Serialize)]
pub(crate) struct DiffDocument {
    pack: String,
    version: u64,
    base: u64,
    needed: Needed,
    /// Files whose content comes with another needed file.
    duplicated: usize,
    /// Files whose content the base has under another path or permission.
    copied: usize,
    unchanged: u32,
    removed: Vec<String>,
    moved: Vec<Move>,
    archives: Archives,
}

#[derive(Debug, Serialize)]
struct Needed {
    files: u32,
    /// Sum of the files' sizes, in bytes; the archive's own size is beside its URL.
    size: u64,
}

#[derive(Debug, Serialize)]
struct Move {
    from: String,
    to: String,
}

impl DiffDocument {
    /// Returns `None` if the archives have no base.
    pub(crate) fn new(api: &Api, archives: &[Archive; 2]) -> Option<Self> {
        let [archive, _] = archives;
        let version = archive.version();
        let layout = archive.layout();
        let plan = layout.plan();
        let base = plan.base()?;
        let (diff, target) = (layout.diff(), plan.target().tree());
        let moves = diff.copies.iter().filter(|copy| copy.is_move);
        Some(Self {
            pack: version.pack.to_string(),
            version: version.number,
            base: base.version(),
            needed: needed(layout),
            duplicated: diff.duplicates.len(),
            copied: diff.copies.len(),
            unchanged: diff.unchanged,
            removed: diff
                .removals
                .iter()
                .map(|position| base.tree().path(*position).to_owned())
                .collect(),
            moved: moves
                .map(|copy| Move {
                    from: base.tree().path(copy.from).to_owned(),
                    to: target.path(copy.to).to_owned(),
                })
                .collect(),
            archives: Archives::new(api, &Selection::Since(base.version()), archives),
        })
    }
}

/// Entries that a client lacks, by the contents that it stated.
#[derive(Debug, Serialize)]
pub(crate) struct ComparisonDocument {
    pack: String,
    version: u64,
    need: String,
    needed: Needed,
    archives: Archives,
}

impl ComparisonDocument {
    pub(crate) fn new(api: &Api, need: &NeedName, archives: &[Archive; 2]) -> Self {
        let [archive, _] = archives;
        let version = archive.version();
        let need = need.to_string();
        Self {
            pack: version.pack.to_string(),
            version: version.number,
            needed: needed(archive.layout()),
            archives: Archives::new(api, &Selection::Need(need.clone()), archives),
            need,
        }
    }

    /// Returns the URL of the archive in a format.
    pub(crate) fn url(&self, format: ArchiveFormat) -> &str {
        match format {
            ArchiveFormat::Zip => &self.archives.zip.url,
            ArchiveFormat::Tar => &self.archives.tar.url,
        }
    }
}

fn needed(layout: &Layout) -> Needed {
    let plan = layout.plan();
    Needed {
        files: plan.need().len(),
        size: plan.target().tree().size_of(plan.need().positions()),
    }
}

/// A draft, and the contents that it lacks.
#[derive(Debug, Serialize)]
pub(crate) struct DraftDocument {
    id: String,
    pub(crate) url: String,
    content_url: String,
    publish_url: String,
    pack: String,
    files: u64,
    size: u64,
    expires_at: String,
    published: Option<u64>,
    missing: MissingDocument,
}

#[derive(Debug, Serialize)]
struct MissingDocument {
    contents: u64,
    size: u64,
    sha256: Vec<String>,
}

impl DraftDocument {
    pub(crate) fn new(api: &Api, draft: &DraftStatus) -> Self {
        let record = &draft.record;
        let url = draft_url(api, &record.pack, &record.id);
        Self {
            id: record.id.to_string(),
            content_url: format!("{url}/content"),
            publish_url: format!("{url}/publish"),
            url,
            pack: record.pack.to_string(),
            files: draft.files,
            size: draft.size,
            expires_at: time(record.expires_at),
            published: record.published,
            missing: MissingDocument {
                contents: draft.missing.contents,
                size: draft.missing.size,
                sha256: draft
                    .missing
                    .sha256s
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
            },
        }
    }
}

/// Returns the URL of a version.
pub(crate) fn version_url(api: &Api, pack: &PackName, number: u64) -> String {
    api.absolute(&format!("{}/versions/{number}", pack_path(pack)))
}

/// Returns the URL of a draft.
pub(crate) fn draft_url(api: &Api, pack: &PackName, id: &DraftId) -> String {
    api.absolute(&format!("{}/drafts/{id}", pack_path(pack)))
}

/// Returns the path of a pack.
fn pack_path(pack: &PackName) -> String {
    format!("{PACKS}{}", utf8_percent_encode(pack.as_str(), PATH))
}

/// Returns the URL of an archive.
pub(crate) fn archive_url(
    api: &Api,
    version: &PackVersion,
    selection: &Selection,
    format: ArchiveFormat,
) -> String {
    let url = version_url(api, &version.pack, version.number);
    let extension = format.extension();
    match selection {
        Selection::Whole => format!("{url}/archive.{extension}"),
        Selection::Since(base) => format!("{url}/since/{base}.{extension}"),
        Selection::Need(need) => format!("{url}/need/{need}.{extension}"),
    }
}
