//! `longhaul publish`: publishes a directory as a version of a pack.
//!
//! 1. The directory is scanned and compared with the latest version: the same tree is not published
//!    twice.
//! 2. A draft of the tree is created; the server answers with the contents that it lacks. The draft
//!    is recorded on disk, so that another run can resume.
//! 3. Those contents are uploaded as one archive, resumably.
//! 4. The draft is published. If contents went missing meanwhile, because the only version with
//!    them was retired, step 3 is repeated.

use std::path::PathBuf;
use std::sync::Arc;

use archive::{Catalogue, Sha256Digest, Tree};
use etcetera::BaseStrategy as _;
use reqwest::header::HeaderValue;
use reqwest::{Method, Url};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::api::{Api, Asked, DraftDocument, Publishing, VersionDocument};
use super::catalogue::{self, Changes};
use super::content::Contents;
use super::scan::{Ignored, Listing};
use super::work::watched;
use super::{Error, Failure, PackAddress, counted, interruptible, tell_script};
use crate::transfer::upload::{self, Parcel};
use crate::transfer::{self, Direction, Options, Record, Report, words};

/// Maximum number of uploads in a row after which the server lacks as much as before.
const MAX_ROUNDS: u32 = 5;

/// Source and target of a publication.
#[derive(Debug)]
pub struct Publish {
    /// Directory to publish.
    pub directory: PathBuf,
    /// The pack.
    pub address: PackAddress,
    /// Names of files and directories to leave out, with `*` and `?`.
    pub ignore: Vec<String>,
    /// Publish even if the tree is the latest version already.
    pub force: bool,
}

/// Publishes a directory, and resumes after each cut.
///
/// # Errors
///
/// The error says if the same command can resume later. A version appears completely or not at all.
pub async fn publish(job: Publish, options: &Options) -> Result<(), Error> {
    let begun = Instant::now();
    let mut report = Report::of_steps(Direction::Upload, options.json);
    let publishing = Box::pin(Publisher::run(&job, options, &mut report));
    let ended = interruptible(publishing).await;
    report.step_done();
    match ended {
        Ok(outcome) => {
            let ending = Ending {
                seconds: begun.elapsed().as_secs_f64(),
                ..outcome
            };
            if options.json {
                tell_script(&ending);
            } else {
                transfer::write_line(std::io::stderr(), &ending.summary());
            }
            Ok(())
        }
        Err(error) => {
            if options.json {
                tell_script(&Failure::of(&error));
            }
            Err(error)
        }
    }
}

/// Successful end of a publication.
#[derive(Debug, Serialize)]
struct Ending {
    event: &'static str,
    directory: String,
    url: String,
    pack: String,
    version: u64,
    /// The latest version before.
    previous: Option<u64>,
    files: u32,
    /// Size of all files, in bytes.
    size: u64,
    #[serde(flatten)]
    changes: Changes,
    /// Number of uploaded contents.
    contents: u64,
    /// Size of these contents in bytes, without the overhead of the archive.
    sent: u64,
    seconds: f64,
}

const PUBLISHED: &str = "published";
const UNCHANGED: &str = "unchanged";

impl Ending {
    fn summary(&self) -> String {
        let Self {
            directory,
            url,
            pack,
            version,
            files,
            changes,
            seconds,
            ..
        } = self;
        if self.event == UNCHANGED {
            return format!(
                "{directory} is {pack} version {version} already, so nothing was published ({files} files): {url}"
            );
        }
        let previous = match self.previous {
            Some(previous) => format!("{changes} since version {previous}"),
            None => format!("{files} files"),
        };
        let sent = match self.contents {
            0 => "no content had to be sent".to_owned(),
            contents => format!(
                "{} of {} sent, as {}",
                words::size(self.sent),
                words::size(self.size),
                counted(contents, "content"),
            ),
        };
        format!(
            "published {directory} as {pack} version {version}: {previous}; {sent}, in {}: {url}",
            words::seconds(*seconds),
        )
    }
}

/// Record for resuming the same draft in another run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    pack: Url,
    /// SHA-256 of the draft's text, in hexadecimal.
    tree: String,
    draft: Url,
}

struct Publisher<'a> {
    job: &'a Publish,
    options: &'a Options,
    report: &'a mut Report,
    api: Api,
    contents: Contents,
    sent: u64,
    sent_contents: u64,
}

/// The previous version.
struct Previous {
    document: VersionDocument,
    catalogue: Catalogue,
}

impl<'a> Publisher<'a> {
    /// # Cancel safety
    ///
    /// May be dropped anywhere; another run resumes the same draft and upload.
    async fn run(
        job: &'a Publish,
        options: &'a Options,
        report: &'a mut Report,
    ) -> Result<Ending, Error> {
        let api = Api::new(options, &job.address)?;
        let contents = scan(job, report).await?;
        let mut publisher = Self {
            job,
            options,
            report,
            api,
            contents,
            sent: 0,
            sent_contents: 0,
        };
        let previous = publisher.previous().await?;
        if let Some(previous) = &previous
            && previous.catalogue.tree() == publisher.contents.tree()
            && !job.force
        {
            return Ok(publisher.ending(UNCHANGED, &previous.document, Some(previous)));
        }
        let mut record = Record::open(&record_path(job, "publish")?)?;
        let version = publisher.make(&mut record).await?;
        record.remove()?;
        Ok(publisher.ending(PUBLISHED, &version, previous.as_ref()))
    }

    /// Returns the latest version, if there is one.
    async fn previous(&mut self) -> Result<Option<Previous>, Error> {
        let address = &self.job.address;
        let tagged = match self
            .api
            .version(&address.asked(), None, self.report)
            .await?
        {
            Asked::Found(tagged) => tagged,
            Asked::NotFound(_) | Asked::NotModified => return Ok(None),
        };
        let document = tagged.document;
        let url = address.of_version(document.version, &["catalogue"]);
        let bytes = self
            .api
            .catalogue(&url, &document.catalogue, self.report)
            .await?;
        let catalogue = catalogue::read(&bytes, document.catalogue.sha256, address.name())?;
        Ok(Some(Previous {
            document,
            catalogue,
        }))
    }

    /// Creates the draft, uploads its contents and publishes it.
    async fn make(&mut self, record: &mut Record) -> Result<VersionDocument, Error> {
        let draft_url = self.draft(record).await?;
        let (mut rounds, mut least) = (0, u64::MAX);
        loop {
            let Some(draft) = self.api.draft(&draft_url, self.report).await? else {
                return Err(Error::DraftGone);
            };
            let missing = draft.missing.contents;
            if missing == 0 {
                let publish = self.resolve(&draft.publish_url)?;
                if let Publishing::Done(version) = self.api.publish(&publish, self.report).await? {
                    return Ok(version);
                }
            } else {
                self.upload(&draft).await?;
            }
            // Rounds without progress are bounded.
            rounds = if missing < least { 0 } else { rounds + 1 };
            least = least.min(missing);
            if rounds == MAX_ROUNDS {
                return Err(Error::StillMissing {
                    contents: missing,
                    rounds,
                });
            }
        }
    }

    /// Returns the draft of an earlier run if it is of the same tree and still exists, else a new
    /// one.
    async fn draft(&mut self, record: &mut Record) -> Result<Url, Error> {
        let text = draft_text(self.contents.tree());
        let tree = Sha256Digest::of(&text).to_string();
        let pack = self.job.address.pack();
        let earlier = record
            .read::<Memory>()
            .filter(|earlier| earlier.pack == *pack && earlier.tree == tree);
        if let Some(earlier) = earlier
            && let Some(draft) = self.api.draft(&earlier.draft, self.report).await?
            && draft.published.is_none()
        {
            return Ok(earlier.draft);
        }
        let url = self.job.address.below(&["drafts"]);
        let draft = self.api.create_draft(&url, &text, self.report).await?;
        let draft = self.resolve(&draft.url)?;
        record.write(&Memory {
            pack: pack.clone(),
            tree,
            draft: draft.clone(),
        })?;
        Ok(draft)
    }

    /// Uploads the contents that the server lacks.
    async fn upload(&mut self, draft: &DraftDocument) -> Result<(), Error> {
        let Some(archive) = self.contents.archive(&draft.missing.sha256) else {
            let what = "it misses contents that the draft does not have";
            return Err(Error::Transfer(transfer::Error::Nonsense(what.to_owned())));
        };
        let (size, contents) = (archive.content_size(), archive.len());
        let parcel = Parcel {
            source: Arc::new(archive),
            // The server verifies each content.
            stated: None,
            method: Method::POST,
            target: self.resolve(&draft.content_url)?,
            content_type: Some(HeaderValue::from_static("application/zip")),
            record: record_path(self.job, "content")?,
        };
        upload::send(parcel, self.options, self.report).await?;
        self.report.step_done();
        self.sent += size;
        self.sent_contents += u64::from(contents);
        Ok(())
    }

    /// Resolves a URL from the server, which may be a path.
    fn resolve(&self, url: &str) -> Result<Url, Error> {
        self.job.address.pack().join(url).map_err(|error| {
            let what = format!("`{url}` is no URL: {error}");
            Error::Transfer(transfer::Error::Nonsense(what))
        })
    }

    fn ending(
        &self,
        event: &'static str,
        version: &VersionDocument,
        previous: Option<&Previous>,
    ) -> Ending {
        let tree = self.contents.tree();
        let changes = match previous {
            Some(previous) => Changes::between(previous.catalogue.tree(), tree),
            None => Changes::of_new(tree),
        };
        let url = self.job.address.of_version(version.version, &[]);
        Ending {
            event,
            directory: self.job.directory.display().to_string(),
            url: url.to_string(),
            pack: self.job.address.name().to_string(),
            version: version.version,
            previous: previous.map(|previous| previous.document.version),
            files: tree.len(),
            size: tree.total_size(),
            changes,
            contents: self.sent_contents,
            sent: self.sent,
            seconds: 0.0,
        }
    }
}

async fn scan(job: &Publish, report: &mut Report) -> Result<Contents, Error> {
    let (directory, ignored) = (job.directory.clone(), Ignored::new(&job.ignore));
    let listing = watched(report, "looking for files", 0, move |_| {
        Listing::of(&directory, &ignored)
    });
    let listing = listing.await?;
    if let Some(left_out) = left_out(&listing.without_files) {
        transfer::write_line(std::io::stderr(), &left_out);
    }
    let what = format!("reading {} files", listing.len());
    let total = listing.total_size();
    let pack = job.address.name().clone();
    watched(report, &what, total, move |work| {
        Contents::new(&pack, listing.hash(work)?)
    })
    .await
}

/// Names the empty directories that the version leaves out.
fn left_out(without_files: &[String]) -> Option<String> {
    let named = match without_files {
        [] => return None,
        [directory] => return Some(format!("left out {directory}, a directory without files")),
        all => all
            .iter()
            .take(MAX_NAMED)
            .map(String::as_str)
            .collect::<Vec<_>>(),
    };
    let more = match without_files.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Some(format!(
        "left out {} directories without files: {}{more}",
        without_files.len(),
        named.join(", ")
    ))
}

/// Maximum number of directories to name.
const MAX_NAMED: usize = 5;

/// Tree in the server's format.
fn draft_text(tree: &Tree) -> Vec<u8> {
    #[derive(Serialize)]
    struct Draft<'a> {
        files: Vec<File<'a>>,
    }
    #[derive(Serialize)]
    struct File<'a> {
        path: &'a str,
        size: u64,
        sha256: String,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        executable: bool,
    }
    let files = tree.entries().map(|entry| File {
        path: entry.path,
        size: entry.size,
        sha256: entry.sha256.to_string(),
        executable: entry.executable,
    });
    let draft = Draft {
        files: files.collect(),
    };
    serde_json::to_vec(&draft).expect("a draft is text and numbers")
}

/// Returns the path of the record for a directory, pack and purpose, below the user's state
/// directory.
fn record_path(job: &Publish, purpose: &str) -> Result<PathBuf, Error> {
    let base = etcetera::choose_base_strategy().map_err(|error| {
        let what = format!("there is no home directory to note in how to go on: {error}");
        Error::Transfer(transfer::Error::Setup(what))
    })?;
    let state = base.state_dir().unwrap_or_else(|| base.data_dir());
    let directory = job
        .directory
        .canonicalize()
        .map_err(Error::local("read", &job.directory))?;
    let what = format!("{}\n{}", directory.display(), job.address.pack());
    let digest = Sha256Digest::of(what.as_bytes()).to_string();
    let name = format!("{}-{purpose}.json", &digest[..32]);
    Ok(state.join("longhaul").join("packs").join(name))
}

#[cfg(test)]
mod tests {
    use archive::{Draft, EntryPath, Limits};

    use super::*;

    #[test]
    fn the_text_of_a_draft_is_what_the_server_reads() {
        let file = |path: &'static str, executable| {
            let path = EntryPath::parse(path).unwrap();
            (path, 3, Sha256Digest::of(b"abc"), executable)
        };
        let files = [file("a \"b\"/c", true), file("é", false)];
        let tree = Tree::try_from_entries(files, Limits::default()).unwrap();
        let draft = Draft::parse_json(&draft_text(&tree), Limits::default()).unwrap();
        assert_eq!(draft.tree, tree);
        assert_eq!(draft.base, None);
    }
}
