//! `longhaul pull`: brings a directory to a version of a pack.
//!
//! 1. The version's document is requested, on condition that it differs from the directory's.
//! 2. The catalogue is fetched and verified by its digest, and by its signature if a key is given.
//! 3. The directory's files are compared with the version that an earlier pull left; those that may
//!    differ are hashed. The result is the [`Plan`] and the list of missing contents, the need.
//! 4. The need is fetched as one archive: as `since/{u}` if the directory lacks exactly the same
//!    contents as version `u`, so that many devices share it, else by the need itself.
//! 5. The new files are made in the directory's `.longhaul/`, and the [`Exchange`] puts them in
//!    place.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use archive::{Catalogue, Need, NeedName, Sha256Digest, Tree, lacking, lacking_digests};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use reqwest::{StatusCode, Url};
use serde::Serialize;
use tokio::time::Instant;

use super::api::{Api, Asked, VersionDocument};
use super::apply::{self, Recipe};
use super::catalogue::{self, Changes};
use super::exchange::{Exchange, remove_if_empty};
use super::files::hash_all;
use super::holding::{self, Answer, Held, Holding, State};
use super::plan::{Plan, ancestors};
use super::staging::Staging;
use super::survey::{Survey, Thing, is_absence};
use super::work::watched;
use super::{Error, Failure, Named, PackAddress, counted, interruptible, tell_script};
use crate::transfer::{self, Direction, Options, Report, download, words};

/// Source and directory of a pull.
#[derive(Debug)]
pub struct Pull {
    /// The pack, or a version of it.
    pub address: PackAddress,
    /// Directory for its files.
    pub directory: PathBuf,
    /// Key that must have signed the catalogue.
    pub public_key: Option<PublicKey>,
    /// Read every file instead of trusting sizes and times.
    pub verify: bool,
    /// Pull into a directory with other files, and replace those in the way.
    pub force: bool,
    /// Remove files that are not the pack's.
    pub delete: bool,
    /// Print the plan, and change nothing.
    pub dry_run: bool,
}

/// Ed25519 key that signs catalogues.
#[derive(Debug, Clone)]
pub struct PublicKey(VerifyingKey);

impl FromStr for PublicKey {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a public key is the base64 of 32 bytes";
        let bytes = BASE64_STANDARD.decode(text).map_err(|_| FORM)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| FORM)?;
        VerifyingKey::from_bytes(&bytes)
            .map(Self)
            .map_err(|_| "these bytes are no Ed25519 key")
    }
}

impl PublicKey {
    fn verify(&self, message: &[u8], signature: Option<&[u8]>) -> Result<(), Error> {
        let signature = signature
            .and_then(|bytes| Signature::from_slice(bytes).ok())
            .ok_or(Error::BadSignature)?;
        self.0
            .verify_strict(message, &signature)
            .map_err(|_| Error::BadSignature)
    }
}

/// Brings a directory to a version of a pack, and resumes after each cut.
///
/// # Errors
///
/// The error says if the same command can resume later. The directory always has one complete
/// version, or its `.longhaul/exchange.json` shows that it is between two; and the user's files are
/// unchanged.
pub async fn pull(job: Pull, options: &Options) -> Result<(), Error> {
    let begun = Instant::now();
    let mut report = Report::of_steps(Direction::Download, options.json);
    let pulling = Box::pin(Pulling::run(&job, options, &mut report));
    let ended = interruptible(pulling).await;
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

/// Successful end of a pull.
#[derive(Debug, Serialize)]
struct Ending {
    event: &'static str,
    directory: String,
    url: String,
    pack: String,
    version: u64,
    /// The version before.
    previous: Option<u64>,
    files: u32,
    /// Size of all files, in bytes.
    size: u64,
    #[serde(flatten)]
    changes: Changes,
    /// Number of files that were missing or damaged.
    healed: u32,
    /// Number of changed files of the pack that were restored.
    replaced: usize,
    replaced_paths: Vec<String>,
    /// Number of the user's entries in the way that were replaced.
    overruled: usize,
    overruled_paths: Vec<String>,
    /// Number of the user's entries that stay.
    unknown: usize,
    unknown_paths: Vec<String>,
    /// Number of the user's entries that were removed.
    deleted: usize,
    /// Size of all answers, in bytes.
    fetched: u64,
    requests: u64,
    seconds: f64,
}

/// Maximum number of paths that an ending names.
const MAX_NAMED: usize = 10;

impl Ending {
    fn summary(&self) -> String {
        let Self {
            directory,
            pack,
            version,
            ..
        } = self;
        let is = match self.event {
            UP_TO_DATE => format!("{directory} is up to date: {pack} version {version}"),
            DRY_RUN => format!("{directory} would be {pack} version {version}"),
            _ => format!("{directory} is {pack} version {version}"),
        };
        let from = match self.previous {
            Some(previous) if previous != *version => format!(" (was {previous})"),
            Some(_) | None => String::new(),
        };
        let changes = match self.event {
            UP_TO_DATE => String::new(),
            _ => format!(": {}", self.changes),
        };
        let cost = format!(
            "; {} fetched with {} in {}",
            words::size(self.fetched),
            counted(self.requests, "request"),
            words::seconds(self.seconds)
        );
        format!(
            "{is}{from}{changes}{}{cost}{}",
            self.repairs(),
            self.of_no_pack()
        )
    }

    fn repairs(&self) -> String {
        let mut text = match self.healed {
            0 => String::new(),
            healed => format!(", {healed} healed"),
        };
        for (count, paths, what) in [
            (
                self.replaced,
                &self.replaced_paths,
                "changed here and put back",
            ),
            (
                self.overruled,
                &self.overruled_paths,
                "in the way and replaced",
            ),
        ] {
            if count > 0 {
                text.push_str(&format!(" ({count} {what}: {})", Named::of(paths, count)));
            }
        }
        if self.deleted > 0 {
            text.push_str(&format!(", {} of no pack deleted", self.deleted));
        }
        text
    }

    fn of_no_pack(&self) -> String {
        match self.unknown {
            0 => String::new(),
            unknown => {
                let verb = if unknown == 1 { "stays" } else { "stay" };
                let names = Named::of(&self.unknown_paths, unknown);
                let files = counted(unknown as u64, "file");
                format!("; {files} of no pack {verb} (--delete removes them): {names}")
            }
        }
    }
}

const UP_TO_DATE: &str = "up_to_date";
const PULLED: &str = "pulled";
const DRY_RUN: &str = "dry_run";

struct Pulling<'a> {
    job: &'a Pull,
    options: &'a Options,
    report: &'a mut Report,
    api: Api,
}

/// Version to pull.
struct Target {
    catalogue: Arc<Catalogue>,
    /// Bytes of the catalogue.
    bytes: Vec<u8>,
    signature: Option<Vec<u8>>,
    asked: Option<Answer>,
}

impl<'a> Pulling<'a> {
    /// # Cancel safety
    ///
    /// May be dropped anywhere; the next run finds a complete tree and the fetched bytes.
    async fn run(
        job: &'a Pull,
        options: &'a Options,
        report: &'a mut Report,
    ) -> Result<Ending, Error> {
        let mut pulling = Self {
            api: Api::new(options, &job.address)?,
            job,
            options,
            report,
        };
        let staging = Arc::new(Staging::open(&job.directory)?);
        pulling.finish_exchange(&staging)?;
        let held = pulling.held(staging.target())?;
        let target = pulling.target(held.as_ref()).await?;
        let ending = pulling.bring(held.as_ref(), &target, &staging).await?;
        if !job.dry_run {
            staging.remove()?;
        }
        Ok(ending)
    }

    /// Finishes the exchange of an interrupted run, so that the directory has one version.
    fn finish_exchange(&mut self, staging: &Staging) -> Result<(), Error> {
        match Exchange::unfinished(staging)? {
            Some(_) if self.job.dry_run => Err(Error::Unfinished(self.job.directory.clone())),
            Some(exchange) => {
                let version = exchange.version().to_owned();
                exchange.run(self.job.force)?;
                self.report.say(&format!(
                    "finished what an earlier pull had begun: {} is {version}",
                    self.job.directory.display()
                ));
                staging.clear()
            }
            None => staging.clear(),
        }
    }

    /// Returns the version of the directory; an error if no pull may go into it.
    fn held(&self, directory: &Path) -> Result<Option<Held>, Error> {
        let asked = self.job.address.name().as_str();
        match Holding::of(directory)? {
            Holding::Nothing => Ok(None),
            Holding::Strangers if self.job.force => Ok(None),
            Holding::Strangers => Err(Error::NotAPack(self.job.directory.clone())),
            Holding::Version(held) if held.state.pack == asked || self.job.force => Ok(Some(*held)),
            Holding::Version(held) => Err(Error::OtherPack {
                directory: self.job.directory.clone(),
                held: held.state.pack,
                asked: asked.to_owned(),
            }),
        }
    }

    /// Fetches the version's document and catalogue.
    async fn target(&mut self, held: Option<&Held>) -> Result<Target, Error> {
        let address = &self.job.address;
        let url = address.asked();
        // Another server may use the same tag for another version.
        let known = held
            .filter(|held| held.state.url == address.pack().as_str())
            .and_then(|held| Some((held, held.state.asked.as_ref()?)))
            .filter(|(_, asked)| asked.url == url.as_str());
        let etag = known.map(|(_, asked)| asked.etag.as_str());
        let tagged = match self.api.version(&url, etag, self.report).await? {
            Asked::Found(tagged) => tagged,
            Asked::NotModified => {
                let (held, asked) = known.expect("only a tag makes a request conditional");
                return self.same(held, Some(asked.clone())).await;
            }
            Asked::NotFound(refusal) => {
                return Err(Error::Transfer(transfer::Error::Refused(refusal)));
            }
        };
        let asked = tagged.etag.map(|etag| Answer {
            url: url.to_string(),
            etag,
        });
        let promised = tagged.document.catalogue.sha256;
        match held.filter(|held| held.catalogue.digest() == promised) {
            Some(held) => self.same(held, asked).await,
            None => self.other(&tagged.document, asked).await,
        }
    }

    /// Returns the directory's own version as the target.
    async fn same(&mut self, held: &Held, asked: Option<Answer>) -> Result<Target, Error> {
        let version = held.catalogue.version();
        Ok(Target {
            catalogue: Arc::clone(&held.catalogue),
            bytes: held.bytes.clone(),
            signature: self
                .signature(version, &held.bytes, held.signature.clone())
                .await?,
            asked,
        })
    }

    async fn other(
        &mut self,
        document: &VersionDocument,
        asked: Option<Answer>,
    ) -> Result<Target, Error> {
        let address = &self.job.address;
        let url = address.of_version(document.version, &["catalogue"]);
        let bytes = self
            .api
            .catalogue(&url, &document.catalogue, self.report)
            .await?;
        let signature = self.signature(document.version, &bytes, None).await?;
        let catalogue = catalogue::read(&bytes, document.catalogue.sha256, address.name())?;
        if catalogue.version() != document.version {
            let version = catalogue.version();
            return Err(Error::BadCatalogue(format!("it is of version {version}")));
        }
        Ok(Target {
            catalogue: Arc::new(catalogue),
            bytes,
            signature,
            asked,
        })
    }

    /// Returns the signature of a catalogue, if a key is given: the known one if it is valid, else
    /// the server's.
    async fn signature(
        &mut self,
        version: u64,
        catalogue: &[u8],
        known: Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let Some(key) = &self.job.public_key else {
            return Ok(known);
        };
        if key.verify(catalogue, known.as_deref()).is_ok() {
            return Ok(known);
        }
        let url = self.job.address.of_version(version, &["catalogue.sig"]);
        let signature = self.api.bytes(&url, self.report).await?;
        key.verify(catalogue, signature.as_deref())?;
        Ok(signature)
    }

    /// Brings the directory to the target.
    async fn bring(
        &mut self,
        held: Option<&Held>,
        target: &Target,
        staging: &Arc<Staging>,
    ) -> Result<Ending, Error> {
        let tree = target.catalogue.tree();
        let old = held.map(|held| held.catalogue.tree());
        let survey = self.survey(held, tree, staging).await?;
        let plan = Plan::new(old, tree, &survey);
        if self.job.dry_run {
            self.list(held, &plan);
            return Ok(self.ending(DRY_RUN, held, target, &plan));
        }
        if !plan.in_the_way.is_empty() && !self.job.force {
            return Err(Error::InTheWay {
                directory: self.job.directory.clone(),
                paths: Named(plan.in_the_way),
            });
        }
        let is_same = held.is_some_and(|held| held.catalogue.digest() == target.catalogue.digest());
        let mut ending = if is_same && plan.is_empty() {
            self.refresh(held, target, staging, &survey)?;
            self.ending(UP_TO_DATE, held, target, &plan)
        } else {
            let need = lacking_digests(tree, &survey.digests());
            let archive = self
                .archive(old, held, target, &survey, &need, staging)
                .await?;
            let made = Made {
                survey,
                plan,
                need,
                archive: archive.clone(),
            };
            let built = self.build(target, made, staging).await;
            if let (Err(error), Some(archive)) = (&built, archive)
                && error.is_damage()
            {
                std::fs::remove_file(&archive).map_err(Error::local("remove", &archive))?;
            }
            let plan = self.exchange(target, built?, staging).await?;
            self.ending(PULLED, held, target, &plan)
        };
        if self.job.delete {
            self.delete(&mut ending, tree, staging)?;
        }
        Ok(ending)
    }

    /// Surveys the directory, and reads the unknown files that matter.
    async fn survey(
        &mut self,
        held: Option<&Held>,
        target: &Tree,
        staging: &Staging,
    ) -> Result<Survey, Error> {
        let trusted = held.filter(|_| !self.job.verify);
        let mut survey = Survey::of(staging.target(), trusted)?;
        let unread = survey.unread(held.map(|held| held.catalogue.tree()), target);
        if !unread.is_empty() {
            let size = |(_, file): &(_, super::files::Found)| file.stamp.size;
            let total = unread.iter().map(size).sum();
            let (paths, files): (Vec<_>, Vec<_>) = unread.into_iter().unzip();
            let what = "reading what is here";
            let hashed = watched(self.report, what, total, move |work| hash_all(&files, work));
            survey.know(paths.into_iter().zip(hashed.await?).collect());
        }
        Ok(survey)
    }

    /// Records the times of files that were touched and not changed, so that the next pull need not
    /// read them.
    fn refresh(
        &self,
        held: Option<&Held>,
        target: &Target,
        staging: &Staging,
        survey: &Survey,
    ) -> Result<(), Error> {
        let modified = survey.modified(target.catalogue.tree());
        let state = self.state(target, modified);
        let is_known = held.is_some_and(|held| held.state == state);
        if is_known && held.is_some_and(|held| held.signature == target.signature) {
            return Ok(());
        }
        let record = staging.record();
        holding::write(&record, &target.bytes, target.signature.as_deref(), &state)?;
        holding::take(&record, staging.place())
    }

    fn state(&self, target: &Target, modified: Vec<(i64, i64)>) -> State {
        let url = self.job.address.pack().to_string();
        State::new(url, &target.catalogue, target.asked.clone(), modified)
    }

    /// Prints the plan, a line a path.
    fn list(&self, held: Option<&Held>, plan: &Plan) {
        if self.options.json {
            return;
        }
        let is_old =
            |path: &str| held.is_some_and(|held| held.catalogue.tree().position(path).is_some());
        let puts = plan.puts.iter().map(|put| match &*put.path {
            path if is_old(path) => ("change", path),
            path => ("add", path),
        });
        let removals = plan
            .removals
            .iter()
            .map(|removal| ("remove", &*removal.path));
        let in_the_way = plan.in_the_way.iter().map(|path| ("in the way", &**path));
        let of_no_pack = if self.job.delete { "delete" } else { "leave" };
        let unknown = plan.unknown.iter().map(|path| (of_no_pack, &**path));
        for (what, path) in puts.chain(removals).chain(in_the_way).chain(unknown) {
            transfer::write_line(std::io::stdout(), &format!("{what}: {path}"));
        }
    }

    /// Removes files that are not the pack's, and then empty directories.
    fn delete(&self, ending: &mut Ending, tree: &Tree, staging: &Staging) -> Result<(), Error> {
        let survey = Survey::of(staging.target(), None)?;
        let mut left = Vec::new();
        let of_tree: BTreeSet<&str> = tree
            .entries()
            .flat_map(|entry| ancestors(entry.path))
            .collect();
        for (path, thing) in survey.things().rev() {
            let at = match thing {
                // Its name may not be Unicode.
                Thing::File(local) => local.found.path.clone(),
                _ => staging.target().join(path),
            };
            match thing {
                Thing::Directory if of_tree.contains(path) => {}
                Thing::Directory => remove_if_empty(&at)?,
                Thing::File(_) | Thing::Other if tree.position(path).is_none() => {
                    match std::fs::remove_file(&at) {
                        Ok(()) => ending.deleted += 1,
                        Err(error) if is_absence(&error) => left.push(path.to_owned()),
                        Err(error) => return Err(Error::local("remove", &at)(error)),
                    }
                }
                Thing::File(_) | Thing::Other | Thing::Closed => {}
            }
        }
        if ending.deleted > 0 {
            ending.event = PULLED;
        }
        ending.unknown = left.len();
        ending.unknown_paths = left.into_iter().take(MAX_NAMED).collect();
        Ok(())
    }

    /// Fetches the needed contents, as a version's difference if that has exactly those.
    async fn archive(
        &mut self,
        old: Option<&Tree>,
        held: Option<&Held>,
        target: &Target,
        survey: &Survey,
        need: &Need,
        staging: &Staging,
    ) -> Result<Option<PathBuf>, Error> {
        if need.is_empty() {
            return Ok(None);
        }
        let tree = target.catalogue.tree();
        let base = held.filter(|_| old.is_some_and(|old| lacking(tree, old) == *need));
        self.fetch_need(base, target, survey, need, staging)
            .await
            .map(Some)
    }

    async fn fetch_need(
        &mut self,
        base: Option<&Held>,
        target: &Target,
        survey: &Survey,
        need: &Need,
        staging: &Staging,
    ) -> Result<PathBuf, Error> {
        let address = &self.job.address;
        let version = target.catalogue.version();
        if let Some(base) = base.filter(|base| base.state.url == address.pack().as_str()) {
            let name = format!("{}.zip", base.catalogue.version());
            let url = address.of_version(version, &["since", &name]);
            match self.fetch(url, target, staging).await {
                // The server has retired that version.
                Err(Error::Transfer(transfer::Error::Refused(refusal)))
                    if refusal.status == StatusCode::NOT_FOUND => {}
                ended => return ended,
            }
        }
        let name = need.name();
        let url = address.of_version(version, &["need", &format!("{name}.zip")]);
        if let NeedName::Registered(_) = name {
            let known = survey.digests();
            let wanted: HashSet<Sha256Digest> = target
                .catalogue
                .tree()
                .entries()
                .map(|entry| entry.sha256)
                .collect();
            let held: Vec<_> = wanted
                .into_iter()
                .filter(|sha256| known.contains(sha256))
                .collect();
            let diff = address.of_version(version, &["diff"]);
            self.api.register_need(&diff, &held, self.report).await?;
        }
        self.fetch(url, target, staging).await
    }

    /// Downloads an archive or the rest of it, unless an earlier run has downloaded it.
    async fn fetch(
        &mut self,
        url: Url,
        target: &Target,
        staging: &Staging,
    ) -> Result<PathBuf, Error> {
        let bytes_are_of = format!("{url}\n{}", target.catalogue.digest());
        let digest = Sha256Digest::of(bytes_are_of.as_bytes()).to_string();
        let path = staging.archive(&format!("{}.zip", &digest[..32]))?;
        let mut requests = 0;
        if !path.exists() {
            let job = download::Job {
                url,
                output: Some(path.clone()),
                force: true,
            };
            requests = download::fetch(job, self.options, self.report).await?;
            self.report.step_done();
        }
        let metadata = std::fs::metadata(&path).map_err(Error::local("read", &path))?;
        self.api.count(requests, metadata.len());
        Ok(path)
    }

    /// Stages the new files and the new record.
    async fn build(
        &mut self,
        target: &Target,
        made: Made,
        staging: &Arc<Staging>,
    ) -> Result<Plan, Error> {
        let catalogue = Arc::clone(&target.catalogue);
        let size = |put: &super::plan::Put| catalogue.tree().size(put.position);
        let total = made.plan.puts.iter().map(size).sum();
        let mut modified = made.survey.modified(catalogue.tree());
        let place = Arc::clone(staging);
        let built = watched(self.report, "making the files", total, move |work| {
            let recipe = Recipe {
                target: &catalogue,
                plan: &made.plan,
                survey: &made.survey,
                need: &made.need,
                archive: made.archive.as_deref(),
            };
            let stamps = apply::build(&recipe, &place, work)?;
            Ok((made.plan, stamps))
        });
        let (plan, stamps) = built.await?;
        for (position, stamp) in stamps {
            modified[position as usize] = stamp.modified;
        }
        let state = self.state(target, modified);
        let record = staging.record();
        holding::write(&record, &target.bytes, target.signature.as_deref(), &state)?;
        Ok(plan)
    }

    async fn exchange(
        &mut self,
        target: &Target,
        plan: Plan,
        staging: &Arc<Staging>,
    ) -> Result<Plan, Error> {
        let (pack, version) = (target.catalogue.pack(), target.catalogue.version());
        let version = format!("{pack} version {version}");
        let (place, force) = (Arc::clone(staging), self.job.force);
        watched(self.report, "putting the files in place", 0, move |_| {
            Exchange::new(&place, &plan, version).run(force)?;
            Ok(plan)
        })
        .await
    }

    fn ending(
        &self,
        event: &'static str,
        held: Option<&Held>,
        target: &Target,
        plan: &Plan,
    ) -> Ending {
        let tree = target.catalogue.tree();
        let version = target.catalogue.version();
        let mut changes = match held {
            Some(held) => Changes::between(held.catalogue.tree(), tree),
            None => Changes::of_new(tree),
        };
        // A changed file that the version does not have stays.
        let left = |entry: &archive::Entry<'_>| {
            plan.unknown
                .binary_search_by(|path| path.as_str().cmp(entry.path))
                .is_ok()
        };
        let left = held.map_or(0, |held| {
            held.catalogue.tree().entries().filter(left).count()
        });
        changes.removed = changes
            .removed
            .saturating_sub(u32::try_from(left).unwrap_or(u32::MAX));
        let named = |paths: &[String]| paths.iter().take(MAX_NAMED).cloned().collect();
        Ending {
            event,
            directory: self.job.directory.display().to_string(),
            url: self.job.address.of_version(version, &[]).to_string(),
            pack: target.catalogue.pack().to_string(),
            version,
            previous: held.map(|held| held.catalogue.version()),
            files: tree.len(),
            size: tree.total_size(),
            changes,
            healed: plan.healed,
            replaced: plan.replaced.len(),
            replaced_paths: named(&plan.replaced),
            overruled: plan.in_the_way.len(),
            overruled_paths: named(&plan.in_the_way),
            unknown: plan.unknown.len(),
            unknown_paths: named(&plan.unknown),
            deleted: 0,
            fetched: self.api.received(),
            requests: self.api.requests(),
            seconds: 0.0,
        }
    }
}

/// Sources of the new files.
struct Made {
    survey: Survey,
    plan: Plan,
    need: Need,
    archive: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    #[test]
    fn only_the_right_key_signs() {
        let signing = SigningKey::from_bytes(&[7; 32]);
        let text = BASE64_STANDARD.encode(signing.verifying_key().as_bytes());
        let key: PublicKey = text.parse().unwrap();
        let signature = signing.sign(b"catalogue").to_bytes();
        assert!(key.verify(b"catalogue", Some(&signature)).is_ok());
        assert!(key.verify(b"another", Some(&signature)).is_err());
        assert!(key.verify(b"catalogue", Some(&signature[1..])).is_err());
        assert!(key.verify(b"catalogue", None).is_err());
        let other = SigningKey::from_bytes(&[8; 32])
            .sign(b"catalogue")
            .to_bytes();
        assert!(key.verify(b"catalogue", Some(&other)).is_err());
        for wrong in ["", "AAAA", "?", &format!("{text}AAAA")] {
            assert!(wrong.parse::<PublicKey>().is_err(), "{wrong}");
        }
    }
}
