//! `longhaul pull`: a version of a pack becomes a directory.
//!
//! 1. The version's document is asked for, on condition that it is another than the one that the directory has.
//! 2. The catalogue comes and is proved by its digest, and by its signature where a key is given.
//! 3. The directory's files are compared with what an earlier pull left there; what differs is hashed. So it is known
//!    which contents are here, and the rest is one need.
//! 4. That need is fetched as one archive: as `since/{u}` where the directory has exactly version `u`, so that many
//!    devices share it, else by the need itself.
//! 5. The new tree is made beside the directory and takes its place in one step.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use archive::{Catalogue, DigestSet, Need, NeedName, Sha256Digest, lacking_digests};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytesize::ByteSize;
use ed25519_dalek::{Signature, VerifyingKey};
use reqwest::{StatusCode, Url};
use serde::Serialize;
use tokio::time::Instant;

use super::api::{Api, Asked, VersionDocument};
use super::apply::{self, Recipe};
use super::catalogue::{self, Changes};
use super::holding::{self, Answer, Held, Holding, Local, State, Survey};
use super::staging::Staging;
use super::work::watched;
use super::{Error, Failure, PackAddress, interruptible, tell_script};
use crate::transfer::{self, Direction, Options, Report, download};

/// What to pull, and where to.
#[derive(Debug)]
pub struct Pull {
    /// The pack, or a version of it.
    pub address: PackAddress,
    /// Where its files go.
    pub directory: PathBuf,
    /// Who must have signed the catalogue.
    pub public_key: Option<PublicKey>,
    /// Read every file, and do not trust sizes and times.
    pub verify: bool,
    /// Replace what is of no pack, or of another.
    pub force: bool,
}

/// An Ed25519 key that signs catalogues.
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

/// Brings a directory to a version of a pack, however often the connection breaks.
///
/// # Errors
///
/// Says whether the same command can go on later. Whatever happens, the directory has one whole version, the old or
/// the new.
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

/// How a pull ended well.
#[derive(Debug, Serialize)]
struct Ending {
    event: &'static str,
    directory: String,
    url: String,
    pack: String,
    version: u64,
    /// The version that was there before.
    previous: Option<u64>,
    files: u32,
    /// Of all files, in bytes.
    size: u64,
    #[serde(flatten)]
    changes: Changes,
    /// Files that were missing or damaged.
    healed: u32,
    /// Bytes of all answers.
    fetched: u64,
    requests: u64,
    seconds: f64,
}

impl Ending {
    fn summary(&self) -> String {
        let Self {
            directory,
            pack,
            version,
            requests,
            ..
        } = self;
        let plural = if *requests == 1 { "" } else { "s" };
        let cost = format!(
            "{} of {} fetched with {requests} request{plural} in {:.1} s",
            ByteSize(self.fetched),
            ByteSize(self.size),
            self.seconds
        );
        if self.event == UP_TO_DATE {
            return format!("{directory} is up to date: {pack} version {version}; {cost}");
        }
        let from = match self.previous {
            Some(previous) if previous != *version => format!(" (was {previous})"),
            Some(_) | None => String::new(),
        };
        let healed = match self.healed {
            0 => String::new(),
            healed => format!(", {healed} healed"),
        };
        format!(
            "{directory} is {pack} version {version}{from}: {}{healed}; {cost}",
            self.changes
        )
    }
}

const UP_TO_DATE: &str = "up_to_date";
const PULLED: &str = "pulled";

struct Pulling<'a> {
    job: &'a Pull,
    options: &'a Options,
    report: &'a mut Report,
    api: Api,
}

/// The version to bring the directory to.
struct Target {
    catalogue: Arc<Catalogue>,
    /// As it came.
    bytes: Vec<u8>,
    signature: Option<Vec<u8>>,
    asked: Option<Answer>,
}

impl<'a> Pulling<'a> {
    /// # Cancel safety
    ///
    /// May be dropped anywhere; the next run finds a whole tree and what was fetched.
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
        let staging = Staging::open(&job.directory)?;
        let held = pulling.held(staging.target())?;
        let target = pulling.target(held.as_ref()).await?;
        let ending = pulling.bring(held.as_ref(), &target, &staging).await?;
        staging.remove()?;
        Ok(ending)
    }

    /// What the directory has, if a pull may replace it.
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

    /// Finds out what the version consists of.
    async fn target(&mut self, held: Option<&Held>) -> Result<Target, Error> {
        let address = &self.job.address;
        let url = address.asked();
        // Another server may give the same tag to another version.
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

    /// The version that the directory has.
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

    /// The signature of a catalogue, if one is asked for: the known one if it is right, else the server's.
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

    /// Makes the directory what it is to be.
    async fn bring(
        &mut self,
        held: Option<&Held>,
        target: &Target,
        staging: &Staging,
    ) -> Result<Ending, Error> {
        let is_same = held.is_some_and(|held| held.catalogue.digest() == target.catalogue.digest());
        let trusted = held.filter(|_| !self.job.verify);
        let survey = Survey::of(staging.target(), trusted)?;
        if is_same && survey.is_intact() {
            return Ok(self.ending(UP_TO_DATE, held, target, 0));
        }
        let (what, to_read) = ("reading what is here", survey.to_read());
        let local = watched(self.report, what, to_read, move |work| survey.finish(work)).await?;
        let damaged = held.map_or(0, |held| {
            local.lacks(staging.target(), held.catalogue.tree())
        });
        if is_same && damaged == 0 {
            self.refresh(target, staging, &local)?;
            return Ok(self.ending(UP_TO_DATE, held, target, 0));
        }
        let need = lacking_digests(
            target.catalogue.tree(),
            &local.digests().collect::<DigestSet>(),
        );
        let archive = if need.is_empty() {
            None
        } else {
            let base = held.filter(|_| !is_same && damaged == 0);
            Some(self.archive(base, target, &local, &need, staging).await?)
        };
        let built = self
            .build(target, local, need, archive.clone(), staging)
            .await;
        if let (Err(error), Some(archive)) = (&built, archive)
            && error.is_damage()
        {
            std::fs::remove_file(&archive).map_err(Error::local("remove", &archive))?;
        }
        built?;
        staging.swap()?;
        let healed = if is_same { damaged } else { 0 };
        Ok(self.ending(PULLED, held, target, healed))
    }

    /// Notes the times of files that were touched and not changed, so that they need not be read next time.
    fn refresh(&self, target: &Target, staging: &Staging, local: &Local) -> Result<(), Error> {
        let modified = local.modified(staging.target(), target.catalogue.tree());
        let state = self.state(target, modified);
        holding::replace_state(staging.target(), &state)
    }

    fn state(&self, target: &Target, modified: Vec<(i64, i64)>) -> State {
        let url = self.job.address.pack().to_string();
        State::new(url, &target.catalogue, target.asked.clone(), modified)
    }

    /// Fetches the needed contents, as a version's difference where the directory has exactly that version.
    async fn archive(
        &mut self,
        base: Option<&Held>,
        target: &Target,
        local: &Local,
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
            let wanted: HashSet<Sha256Digest> = target
                .catalogue
                .tree()
                .entries()
                .map(|entry| entry.sha256)
                .collect();
            let held: Vec<_> = local
                .digests()
                .filter(|sha256| wanted.contains(sha256))
                .collect();
            let diff = address.of_version(version, &["diff"]);
            self.api.register_need(&diff, &held, self.report).await?;
        }
        self.fetch(url, target, staging).await
    }

    /// Downloads an archive, or what is left of it, unless an earlier run has.
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

    /// Makes the next tree, whole and durable.
    async fn build(
        &mut self,
        target: &Target,
        local: Local,
        need: Need,
        archive: Option<PathBuf>,
        staging: &Staging,
    ) -> Result<(), Error> {
        let catalogue = Arc::clone(&target.catalogue);
        let total = catalogue.tree().total_size();
        let next = staging.next();
        let modified = watched(self.report, "making the tree", total, move |work| {
            let recipe = Recipe {
                target: &catalogue,
                local: &local,
                need: &need,
                archive: archive.as_deref(),
            };
            apply::build(&recipe, &next, work)
        });
        let modified = modified.await?;
        let state = self.state(target, modified);
        let next = staging.next();
        holding::write(&next, &target.bytes, target.signature.as_deref(), &state)?;
        if let Ok(metadata) = std::fs::metadata(staging.target()) {
            std::fs::set_permissions(&next, metadata.permissions())
                .map_err(Error::local("change", &next))?;
        }
        watched(self.report, "syncing", 0, move |_| apply::sync(&next)).await
    }

    fn ending(
        &self,
        event: &'static str,
        held: Option<&Held>,
        target: &Target,
        healed: u32,
    ) -> Ending {
        let tree = target.catalogue.tree();
        let version = target.catalogue.version();
        let changes = match held {
            Some(held) => Changes::between(held.catalogue.tree(), tree),
            None => Changes::of_new(tree),
        };
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
            healed,
            fetched: self.api.received(),
            requests: self.api.requests(),
            seconds: 0.0,
        }
    }
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
