//! Downloads of files by ranges (RFC 9110 section 14).
//!
//! The bytes go to `NAME.part`, and `NAME.part.json` beside it records their file: the URL, the
//! strong entity tag, the size. After a cut, or in another run, `Range` requests the rest and
//! `If-Range` ensures that the file is the same; if the server answers with the whole file instead,
//! the part starts anew. Only a part with the right length and SHA-256 gets the final name.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use domain::digest::{Hasher, Sha256Digest};
use reqwest::header::{
    ACCEPT_ENCODING, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, HeaderMap, HeaderValue,
    IF_RANGE, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _, BufWriter};

use super::connection::{Connection, is_page, refusal, setback};
use super::error::{Error, Setback};
use super::pace::Pace;
use super::patience::Patience;
use super::record::Record;
use super::report::{Direction, Outcome, Report};
use super::{Options, fields, name};

/// Bytes gathered before they are written.
const BUFFER: usize = 1024 * 1024;

/// Source and destination of a download.
#[derive(Debug)]
pub struct Job {
    /// The URL.
    pub url: Url,
    /// File or existing directory; without it, the current directory and the server's name for the
    /// file.
    pub output: Option<PathBuf>,
    /// Replace an existing file.
    pub force: bool,
}

/// Downloads a file, and resumes after each cut.
///
/// # Errors
///
/// The error says if the same command can resume later. A file under the final name is always the
/// server's complete file.
pub async fn run(job: Job, options: &Options) -> Result<(), Error> {
    let mut report = Report::new(Direction::Download, options.json);
    match receive_file(job, options, &mut report).await {
        Ok(outcome) => {
            report.done(&outcome);
            Ok(())
        }
        Err(error) => {
            report.failed(&error);
            Err(error)
        }
    }
}

async fn receive_file(job: Job, options: &Options, report: &mut Report) -> Result<Outcome, Error> {
    let mut download = Download::prepare(job, options)?;
    let ended = tokio::select! {
        ended = download.run(report) => ended,
        // A dropped attempt leaves a shorter part, which is valid at any length.
        () = super::interruption() => Err(Error::Interrupted { how_to_go_on: download.how_to_go_on() }),
    };
    download.settle(ended).await
}

/// Downloads to a file and returns the number of requests.
///
/// # Cancel safety
///
/// May be dropped anywhere; another call with the same job resumes.
pub(crate) async fn fetch(job: Job, options: &Options, report: &mut Report) -> Result<u64, Error> {
    let mut download = Download::prepare(job, options)?;
    let ended = download.run(report).await;
    let requests = download.connection.requests();
    download.settle(ended).await?;
    Ok(requests)
}

struct Download {
    url: Url,
    connection: Connection,
    patience: Patience,
    pace: Pace,
    place: Place,
    force: bool,
    part: Option<Part>,
    /// Largest size that the part ever had, in bytes.
    reached: u64,
    restarts: u32,
    retries: u32,
    has_started: bool,
}

/// Destination of the file.
enum Place {
    File(PathBuf),
    /// This directory; the answer gives the name.
    Directory(PathBuf),
}

impl Download {
    fn prepare(job: Job, options: &Options) -> Result<Self, Error> {
        let place = match job.output {
            Some(path) if path.is_dir() => Place::Directory(path),
            Some(path) => Place::File(path),
            None => Place::Directory(PathBuf::new()),
        };
        let part = match &place {
            Place::File(path) => Some(Part::open(path, job.force)?),
            Place::Directory(_) => None,
        };
        Ok(Self {
            connection: Connection::new(options, &job.url)?,
            url: job.url,
            patience: Patience::new(options.retries, options.retry_delay),
            pace: Pace::new(options.limit_rate),
            place,
            force: job.force,
            part,
            reached: 0,
            restarts: 0,
            retries: options.retries,
            has_started: false,
        })
    }

    /// # Cancel safety
    ///
    /// May be dropped anywhere: the part on disk is always a prefix of the recorded file.
    async fn run(&mut self, report: &mut Report) -> Result<Outcome, Error> {
        loop {
            match self.attempt(report).await {
                Ok(outcome) => return Ok(outcome),
                Err(setback) => self.overcome(setback, report).await?,
            }
        }
    }

    /// Runs one attempt, until the transfer is done or the connection fails.
    async fn attempt(&mut self, report: &mut Report) -> Result<Outcome, Setback> {
        let known = self.part.as_mut().filter(|part| part.is_of(&self.url));
        if let Some(part) = known {
            if part.is_whole() {
                return self.finish(report).await;
            }
            if let Some(etag) = part.resumable() {
                return self.resume(&etag, report).await;
            }
        }
        self.begin(report).await
    }

    /// Requests the whole file. The answer gives its name, if that is not known yet, and may show
    /// that an existing part is of this file.
    async fn begin(&mut self, report: &mut Report) -> Result<Outcome, Setback> {
        let answer = self.connection.get(&self.url, &uncoded()).await?;
        if answer.status() != StatusCode::OK {
            return Err(unexpected(answer).await);
        }
        self.refuse_page(answer.headers())?;
        if self.part.is_none() {
            let part = self.open_part(&answer)?;
            let matches = part.is_of(&self.url)
                && part.has_tag(fields::strong_etag(answer.headers()).as_deref());
            let etag = part.resumable().filter(|_| matches);
            let is_whole = part.is_whole() && matches;
            self.part = Some(part);
            if is_whole {
                return self.finish(report).await;
            }
            if let Some(etag) = etag {
                drop(answer);
                return self.resume(&etag, report).await;
            }
        }
        self.receive_whole(answer, report).await
    }

    /// Refuses a web page, such as a login page, in the place of a file.
    fn refuse_page(&self, headers: &HeaderMap) -> Result<(), Setback> {
        let path = self.url.path();
        let is_wanted = path.ends_with(".html") || path.ends_with(".htm");
        if is_page(headers) && fields::repr_digest(headers).is_none() && !is_wanted {
            return Err(Setback::nonsense(
                "it is a web page, so no Longhaul server answers there, or one asks for a login first",
            ));
        }
        Ok(())
    }

    fn open_part(&self, answer: &Response) -> Result<Part, Error> {
        let path = match &self.place {
            Place::File(path) => path.clone(),
            Place::Directory(directory) => {
                let disposition = answer.headers().get(CONTENT_DISPOSITION);
                // Many servers send UTF-8 here, although the field does not allow it.
                let disposition =
                    disposition.and_then(|value| str::from_utf8(value.as_bytes()).ok());
                directory.join(name::for_download(disposition, &self.url))
            }
        };
        Part::open(&path, self.force)
    }

    /// Requests the bytes that the part lacks.
    async fn resume(&mut self, etag: &str, report: &mut Report) -> Result<Outcome, Setback> {
        let part = part(&mut self.part);
        part.hash_what_is_there().await?;
        let mut fields = uncoded();
        fields.insert(RANGE, value(&format!("bytes={}-", part.length))?);
        fields.insert(IF_RANGE, value(etag)?);
        let answer = self.connection.get(&self.url, &fields).await?;
        match answer.status() {
            StatusCode::OK => {
                let is_same = part.has_tag(fields::strong_etag(answer.headers()).as_deref());
                let why = if is_same {
                    "the server does not send parts"
                } else {
                    "the file changed on the server"
                };
                self.restart(why, report)?;
                return self.receive_whole(answer, report).await;
            }
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::RANGE_NOT_SATISFIABLE => {
                return Err(Setback::start_anew("the file on the server is shorter now"));
            }
            _ => return Err(unexpected(answer).await),
        }
        part.check_continuation(answer.headers())?;
        part.is_joined = true;
        part.note_digest(answer.headers());
        self.receive(answer, report).await
    }

    async fn receive_whole(
        &mut self,
        answer: Response,
        report: &mut Report,
    ) -> Result<Outcome, Setback> {
        refuse_coding(answer.headers())?;
        let sha256 = match fields::repr_digest(answer.headers()) {
            None if answer.url().origin() != self.url.origin() => self.digest_of(&answer).await?,
            digest => digest,
        };
        let memory = Memory {
            url: self.url.clone(),
            etag: fields::strong_etag(answer.headers()),
            size: answer.content_length(),
            sha256: sha256.map(|sha256| sha256.to_string()),
        };
        let part = part(&mut self.part);
        if part.length > 0 && !self.has_started {
            report.note("what was downloaded before is of another file; starting anew");
        }
        part.start(memory).await?;
        self.receive(answer, report).await
    }

    /// Requests the digest of redirected bytes from the server itself, by `HEAD`. None if the
    /// answer is for another length.
    async fn digest_of(&self, answer: &Response) -> Result<Option<Sha256Digest>, Setback> {
        let head = self.connection.request(Method::HEAD, &self.url);
        let head = self.connection.send(head.headers(uncoded())).await?;
        let length = head.headers().get(CONTENT_LENGTH);
        let is_of_the_same = head.status() == StatusCode::OK
            && length.is_some()
            && length == answer.headers().get(CONTENT_LENGTH);
        Ok(fields::repr_digest(head.headers()).filter(|_| is_of_the_same))
    }

    /// Writes the answer to the part, and completes the file if no bytes are missing.
    async fn receive(
        &mut self,
        mut answer: Response,
        report: &mut Report,
    ) -> Result<Outcome, Setback> {
        refuse_coding(answer.headers())?;
        self.started(report);
        let part = part(&mut self.part);
        part.check_room()?;
        let size = part.size();
        let received = loop {
            let chunk = match self
                .connection
                .within(self.connection.patience(), answer.chunk())
                .await
            {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break Ok(()),
                Ok(Err(error)) => break Err(setback(error)),
                Err(stalled) => break Err(stalled),
            };
            self.pace.wait(chunk.len()).await;
            part.append(&chunk).await?;
            if size.is_some_and(|size| part.length > size) {
                return Err(Setback::start_anew("more came than the file has"));
            }
            if part.length > self.reached {
                self.reached = part.length;
                self.patience.reset();
            }
            report.progress(part.length, size);
        };
        part.flush().await?;
        received?;
        if size.is_some_and(|size| part.length < size) {
            return Err(Setback::passing("the answer ended early"));
        }
        self.finish(report).await
    }

    fn started(&mut self, report: &mut Report) {
        if !self.has_started {
            self.has_started = true;
            let part = part(&mut self.part);
            report.started(
                &part.path.display().to_string(),
                self.url.as_str(),
                part.size(),
                part.length,
            );
        }
    }

    /// Verifies the part and gives it its final name.
    async fn finish(&mut self, report: &mut Report) -> Result<Outcome, Setback> {
        self.started(report);
        let part = part(&mut self.part);
        part.hash_what_is_there().await?;
        part.flush().await?;
        let local = part.hasher.clone().finish();
        let memory = part
            .memory
            .clone()
            .unwrap_or_else(|| Memory::unknown(&self.url));
        let remote: Option<Sha256Digest> =
            memory.sha256.as_deref().and_then(|text| text.parse().ok());
        if let Some(remote) = remote.filter(|remote| *remote != local) {
            if part.is_joined {
                return Err(Setback::start_anew(
                    "the parts do not make up the server's file",
                ));
            }
            let path = part.path.clone();
            part.clear().await?;
            return Err(Error::Mismatch {
                path,
                local,
                remote,
                consequence: "nothing was kept",
            }
            .into());
        }
        let bytes = part.length;
        let path = match self.part.take() {
            Some(part) => part.publish(self.force).await?,
            None => unreachable!("`part` above is it"),
        };
        Ok(Outcome {
            file: path.display().to_string(),
            url: self.url.to_string(),
            etag: memory.etag,
            sha256: local,
            verified: remote.is_some(),
            bytes,
        })
    }

    /// Waits until the next attempt is due; the error says why there is none.
    async fn overcome(&mut self, setback: Setback, report: &mut Report) -> Result<(), Error> {
        let (reason, after) = match setback {
            Setback::Final(error) => return Err(error),
            Setback::Passing { reason, after } => (reason, after),
            Setback::StartAnew { reason } => {
                if let Some(part) = &mut self.part {
                    part.clear().await?;
                }
                return self.restart(&reason, report);
            }
        };
        let random = getrandom::u32().unwrap_or_default();
        let Some(wait) = self.patience.next(after, random) else {
            let attempts = self.patience.fruitless();
            return Err(Error::GaveUp {
                attempts,
                reason,
                how_to_go_on: self.how_to_go_on(),
            });
        };
        report.retrying(&reason, &self.patience, wait);
        tokio::time::sleep(wait).await;
        self.connection.renew()
    }

    /// Counts and reports a restart from zero.
    fn restart(&mut self, reason: &str, report: &mut Report) -> Result<(), Error> {
        self.restarts += 1;
        if self.restarts > self.retries {
            let (attempts, how_to_go_on) = (self.restarts, self.how_to_go_on());
            return Err(Error::GaveUp {
                attempts,
                reason: reason.to_owned(),
                how_to_go_on,
            });
        }
        self.reached = 0;
        report.restarted(reason);
        Ok(())
    }

    /// Leaves the part for another run, or removes it if it is of no use.
    async fn settle(mut self, ended: Result<Outcome, Error>) -> Result<Outcome, Error> {
        let Some(mut part) = self.part.take() else {
            return ended;
        };
        // Bytes that cannot be written now are downloaded again.
        let _ = part.flush().await;
        if !part.is_whole() && part.resumable().is_none() {
            part.discard().await;
        }
        ended
    }

    fn how_to_go_on(&self) -> String {
        match &self.part {
            Some(part) if part.resumable().is_some() => {
                format!(
                    "run the same command again to go on from {} bytes",
                    part.length
                )
            }
            _ => "nothing is there to go on from".to_owned(),
        }
    }
}

/// Requests bytes without a content coding.
fn uncoded() -> HeaderMap {
    HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))])
}

fn value(text: &str) -> Result<HeaderValue, Setback> {
    HeaderValue::from_str(text)
        .map_err(|_| Setback::start_anew("the record of the part is damaged"))
}

/// Classifies an unexpected answer; an unexpected success is a failure, too.
async fn unexpected(answer: Response) -> Setback {
    if answer.status().is_success() {
        return Setback::nonsense(format!("{} to a download", answer.status()));
    }
    refusal(answer).await
}

/// Refuses an answer with a content coding, whose bytes would be stored coded.
fn refuse_coding(headers: &HeaderMap) -> Result<(), Setback> {
    match fields::text(headers, CONTENT_ENCODING.as_str()) {
        None | Some("identity") => Ok(()),
        Some(coding) => Err(Setback::nonsense(format!(
            "it is coded ({coding}), which was not asked for"
        ))),
    }
}

fn part(part: &mut Option<Part>) -> &mut Part {
    part.as_mut()
        .expect("a part is opened before an answer is received")
}

/// Record of the file that a part belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    url: Url,
    /// Strong entity tag; without one, parts cannot be joined.
    etag: Option<String>,
    size: Option<u64>,
    /// In hexadecimal.
    sha256: Option<String>,
}

impl Memory {
    fn unknown(url: &Url) -> Self {
        Self {
            url: url.clone(),
            etag: None,
            size: None,
            sha256: None,
        }
    }
}

/// Partial file.
struct Part {
    /// The final name.
    path: PathBuf,
    /// Path of the part.
    part_path: PathBuf,
    file: BufWriter<tokio::fs::File>,
    record: Record,
    memory: Option<Memory>,
    /// Size of the part, in bytes.
    length: u64,
    hasher: Hasher,
    /// Number of hashed bytes: all of the part, or none of those that an earlier run left.
    hashed: u64,
    /// True if the part consists of more than one answer.
    is_joined: bool,
}

impl Part {
    /// Opens or creates the part for `path`, and locks it.
    fn open(path: &Path, force: bool) -> Result<Self, Error> {
        if !force && path.exists() {
            return Err(Error::Exists {
                path: path.to_owned(),
            });
        }
        let part_path = with_ending(path, ".part");
        let mut record = Record::open(&with_ending(path, ".part.json"))?;
        let fail = |doing| {
            let path = part_path.clone();
            move |source| Error::Local {
                doing,
                path,
                source,
            }
        };
        let mut options = std::fs::OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part_path);
        let file = file.map_err(fail("open"))?;
        let length = file.metadata().map_err(fail("read"))?.len();
        let memory: Option<Memory> = record.read();
        Ok(Self {
            path: path.to_owned(),
            part_path: part_path.clone(),
            file: BufWriter::with_capacity(BUFFER, file.into()),
            record,
            memory,
            length,
            hasher: Hasher::new(),
            hashed: 0,
            is_joined: length > 0,
        })
    }

    fn is_of(&self, url: &Url) -> bool {
        self.memory
            .as_ref()
            .is_some_and(|memory| memory.url == *url)
    }

    fn has_tag(&self, etag: Option<&str>) -> bool {
        self.memory
            .as_ref()
            .is_some_and(|memory| memory.etag.is_some() && memory.etag.as_deref() == etag)
    }

    fn size(&self) -> Option<u64> {
        self.memory.as_ref().and_then(|memory| memory.size)
    }

    fn is_whole(&self) -> bool {
        self.size() == Some(self.length)
    }

    /// Returns the tag for a request of the rest.
    fn resumable(&self) -> Option<String> {
        let has_room = self.size().is_none_or(|size| self.length < size);
        self.memory
            .as_ref()?
            .etag
            .clone()
            .filter(|_| self.length > 0 && has_room)
    }

    /// Checks that the file system has room for the rest.
    fn check_room(&self) -> Result<(), Error> {
        let Some(needs) = self.size().map(|size| size.saturating_sub(self.length)) else {
            return Ok(());
        };
        let Ok(volume) = rustix::fs::fstatvfs(self.file.get_ref()) else {
            return Ok(());
        };
        let has = volume.f_bavail.saturating_mul(volume.f_frsize);
        // A file system that reports a size of zero reports nothing.
        if volume.f_blocks > 0 && needs > has {
            let path = self.path.clone();
            return Err(Error::NoRoom { path, needs, has });
        }
        Ok(())
    }

    /// Checks that a 206 continues this part.
    fn check_continuation(&self, headers: &HeaderMap) -> Result<(), Setback> {
        let Some((first, length)) = fields::content_range(headers) else {
            return Err(Setback::nonsense(
                "206 with no Content-Range that could be read",
            ));
        };
        let etag = fields::etag(headers);
        let is_other = etag.is_some() && !self.has_tag(etag.as_deref());
        if is_other || length.is_some_and(|length| self.size().is_some_and(|size| size != length)) {
            return Err(Setback::start_anew("the file changed on the server"));
        }
        if first != self.length {
            return Err(Setback::start_anew(format!(
                "the server sent bytes from {first}, not from {}",
                self.length
            )));
        }
        Ok(())
    }

    /// Records the digest of the answer: it is the same for every range of a file (RFC 9530 section
    /// 3), so a later answer may state it, too.
    fn note_digest(&mut self, headers: &HeaderMap) {
        if let (Some(memory), Some(sha256)) = (&mut self.memory, fields::repr_digest(headers)) {
            memory.sha256 = Some(sha256.to_string());
        }
    }

    /// Empties the part and records another file for it.
    async fn start(&mut self, memory: Memory) -> Result<(), Error> {
        // The part is emptied before the record changes, so that a record never describes other
        // bytes.
        self.clear().await?;
        self.record.write(&memory)?;
        self.memory = Some(memory);
        Ok(())
    }

    async fn clear(&mut self) -> Result<(), Error> {
        let emptied = async {
            self.file.flush().await?;
            self.file.get_mut().set_len(0).await?;
            self.file.rewind().await
        };
        emptied
            .await
            .map_err(|source| self.failed("empty", source))?;
        (self.length, self.hashed, self.is_joined) = (0, 0, false);
        self.hasher = Hasher::new();
        Ok(())
    }

    async fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .await
            .map_err(|source| self.failed("write", source))?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        self.hashed = self.length;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.file
            .flush()
            .await
            .map_err(|source| self.failed("write", source))
    }

    /// Hashes the bytes of an earlier run, and seeks to their end.
    async fn hash_what_is_there(&mut self) -> Result<(), Error> {
        if self.hashed == self.length {
            return Ok(());
        }
        let (path, length) = (self.part_path.clone(), self.length);
        let hashing = tokio::task::spawn_blocking(move || hash(&path, length));
        let hashed = hashing
            .await
            .unwrap_or_else(|panic| Err(io::Error::other(panic)));
        self.hasher = hashed.map_err(|source| self.failed("read", source))?;
        self.hashed = self.length;
        self.file
            .seek(io::SeekFrom::Start(self.length))
            .await
            .map_err(|source| self.failed("read", source))?;
        Ok(())
    }

    /// Syncs the part, then renames it.
    async fn publish(self, force: bool) -> Result<PathBuf, Error> {
        self.file
            .get_ref()
            .sync_all()
            .await
            .map_err(|source| self.failed("write", source))?;
        let Self {
            path,
            part_path,
            record,
            file,
            ..
        } = self;
        drop(file);
        let fail = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: path.clone() },
            _ => Error::Local {
                doing: "create",
                path: path.clone(),
                source,
            },
        };
        rename(&part_path, &path, force).map_err(fail)?;
        record.remove()?;
        Ok(path)
    }

    async fn discard(self) {
        let Self {
            part_path,
            record,
            file,
            ..
        } = self;
        drop(file);
        // Both files are unneeded now; the next run empties those that cannot be removed.
        let _ = tokio::fs::remove_file(&part_path).await;
        let _ = record.remove();
    }

    fn failed(&self, doing: &'static str, source: io::Error) -> Error {
        Error::Local {
            doing,
            path: self.part_path.clone(),
            source,
        }
    }
}

/// Renames; replaces an existing file only on request.
fn rename(from: &Path, to: &Path, force: bool) -> io::Result<()> {
    if !force {
        // Making a link fails if a file exists, even one created just now.
        match std::fs::hard_link(from, to) {
            Ok(()) => return std::fs::remove_file(from),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // Not all file systems have links.
            Err(_) if to.exists() => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => {}
        }
    }
    std::fs::rename(from, to)
}

fn hash(path: &Path, length: u64) -> io::Result<Hasher> {
    let mut file = std::fs::File::open(path)?.take(length);
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hasher);
        }
        hasher.update(&buffer[..read]);
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
