//! Uploads of files by the IETF's resumable uploads (interop version 6).
//!
//! 1. `OPTIONS` on the target must announce `Upload-Limit`. Without it, the next request would
//!    leave an empty file on a server without resumable uploads.
//! 2. A request with an empty body and `Upload-Complete: ?0` creates an upload resource. Its URL is
//!    recorded on disk before any byte is sent, so that another run can resume.
//! 3. One `PATCH` carries all remaining bytes, or as many as `max-append-size` allows.
//! 4. After a cut, `HEAD` returns the durable offset, and step 3 continues there.
//! 5. An empty `PATCH` completes the upload. It states the file's SHA-256 (`Repr-Digest`), and a
//!    server that received other bytes publishes nothing.
//!
//! **A file that changes meanwhile is never published as a mixture.** For step 5 the file is read a
//! second time, after its last byte was sent. If both readings have the same bytes, these are the
//! file's content between the two; otherwise the server refuses. Size and modification time are
//! compared, too, but cannot prove it: programs set times back, and write through memory maps. So
//! an upload costs a second reading, which also covers the bytes that earlier runs sent.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use domain::digest::Sha256Digest;
use futures::stream::{Stream, TryStreamExt as _};
use reqwest::header::{
    CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, HeaderMap, HeaderValue,
    LOCATION,
};
use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::{Instant, MissedTickBehavior};

use super::connection::{Connection, refusal, setback};
use super::error::{Error, Setback};
use super::pace::Pace;
use super::patience::Patience;
use super::record::Record;
use super::report::{Direction, Outcome, Report};
use super::source::{Identity, LocalFile, PIECE, Source};
use super::{Options, fields, name, words};

/// Factor of the timeout for completion: the server may have to hash, copy and publish the file.
const FINISHING: u32 = 10;

/// Size in bytes from which the second reading is reported, since it takes a while.
const LONG_READING: u64 = 1 << 30;

/// Source and target of an upload.
#[derive(Debug)]
pub struct Job {
    /// The file.
    pub file: PathBuf,
    /// Method: with `POST` the server chooses the name, with `PUT` the URL is the name.
    pub method: Method,
    /// URL of the target.
    pub target: Url,
    /// Media type of the file.
    pub content_type: Option<HeaderValue>,
    /// Path of the record for resuming.
    pub record: PathBuf,
}

/// Content to upload, with its target.
pub(crate) struct Parcel {
    pub(crate) source: Arc<dyn Source>,
    /// File whose digest the completing request states; none if the server verifies the content by
    /// itself.
    pub(crate) stated: Option<Arc<LocalFile>>,
    pub(crate) method: Method,
    pub(crate) target: Url,
    pub(crate) content_type: Option<HeaderValue>,
    /// Path of the record for resuming.
    pub(crate) record: PathBuf,
}

/// Uploads a file, and resumes after each cut.
///
/// # Errors
///
/// The error says if the same command can resume later.
pub async fn run(job: Job, options: &Options) -> Result<(), Error> {
    let mut report = Report::new(Direction::Upload, options.json);
    match send_file(job, options, &mut report).await {
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

async fn send_file(job: Job, options: &Options, report: &mut Report) -> Result<Outcome, Error> {
    let path = job.file;
    let file = Arc::new(LocalFile::new(path.clone())?);
    let parcel = Parcel {
        stated: Some(Arc::clone(&file)),
        source: Arc::clone(&file) as Arc<dyn Source>,
        method: job.method,
        target: job.target,
        content_type: job.content_type,
        record: job.record,
    };
    let mut upload = Upload::prepare(parcel, options)?;
    let transfer = async {
        let answer = upload.run(report).await?;
        upload.compare(answer, &file, &path).await
    };
    let ended = tokio::select! {
        ended = transfer => ended,
        // A dropped attempt loses nothing: the record is written, and the server keeps the received
        // bytes.
        () = super::interruption() => Err(Error::Interrupted { how_to_go_on: upload.how_to_go_on() }),
    };
    if let Err(Error::FileChanged { .. }) = &ended {
        upload.cancel().await;
    }
    upload.settle(ended)
}

/// Uploads content that the server verifies by itself.
///
/// # Cancel safety
///
/// May be dropped anywhere; another call with the same parcel resumes.
pub(crate) async fn send(
    parcel: Parcel,
    options: &Options,
    report: &mut Report,
) -> Result<(), Error> {
    let mut upload = Upload::prepare(parcel, options)?;
    let ended = upload.run(report).await;
    upload.settle(ended.map(drop))
}

/// Record for resuming in another run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    target: Url,
    method: String,
    identity: Identity,
    /// Key that finds the upload resource again if the answer with its URL was lost.
    idempotency_key: String,
    upload: Option<Url>,
}

struct Upload {
    parcel: Parcel,
    connection: Connection,
    patience: Patience,
    pace: Arc<Mutex<Pace>>,
    record: Option<Record>,
    memory: Memory,
    /// Offset that the server expects; `None` if a `HEAD` has to ask for it.
    offset: Option<u64>,
    /// Highest durable offset so far.
    reached: u64,
    /// SHA-256 of the local file, read after all bytes were sent.
    digest: Option<Sha256Digest>,
    /// Maximum size of one append, in bytes.
    most_per_append: Option<u64>,
    restarts: u32,
    has_started: bool,
    retries: u32,
}

/// Final answer of the server.
struct Answer {
    headers: HeaderMap,
    url: Url,
}

impl Upload {
    fn prepare(parcel: Parcel, options: &Options) -> Result<Self, Error> {
        let connection = Connection::new(options, &parcel.target)?;
        let mut record = Record::open(&parcel.record)?;
        let fresh = Memory {
            target: parcel.target.clone(),
            method: parcel.method.to_string(),
            identity: parcel.source.identity().clone(),
            idempotency_key: random_key()?,
            upload: None,
        };
        let earlier = record.read::<Memory>().filter(|earlier| {
            (&earlier.target, &earlier.method, &earlier.identity)
                == (&fresh.target, &fresh.method, &fresh.identity)
        });
        Ok(Self {
            parcel,
            connection,
            patience: Patience::new(options.retries, options.retry_delay),
            pace: Arc::new(Mutex::new(Pace::new(options.limit_rate))),
            record: Some(record),
            memory: earlier.unwrap_or(fresh),
            offset: None,
            reached: 0,
            digest: None,
            most_per_append: None,
            restarts: 0,
            has_started: false,
            retries: options.retries,
        })
    }

    /// # Cancel safety
    ///
    /// May be dropped anywhere: the record is on disk before it is needed.
    async fn run(&mut self, report: &mut Report) -> Result<Answer, Error> {
        loop {
            match self.attempt(report).await {
                Ok(answer) => {
                    self.parcel.source.check_unchanged()?;
                    return Ok(answer);
                }
                Err(setback) => self.overcome(setback, report).await?,
            }
        }
    }

    /// Goes as far as one undisturbed connection leads.
    async fn attempt(&mut self, report: &mut Report) -> Result<Answer, Setback> {
        self.parcel.source.check_unchanged()?;
        let upload = match self.memory.upload.clone() {
            Some(upload) => upload,
            None => self.create().await?,
        };
        loop {
            let offset = match self.offset.take() {
                Some(offset) => offset,
                None => match self.ask(&upload).await? {
                    Standing::At(offset) => offset,
                    Standing::Complete(answer) => return self.recall(&upload, answer).await,
                },
            };
            let size = self.memory.identity.size;
            if offset > size {
                return Err(Setback::start_anew(format!(
                    "the server has {offset} bytes of a file of {size}"
                )));
            }
            if !self.has_started {
                self.has_started = true;
                report.started(
                    &self.parcel.source.name(),
                    self.parcel.target.as_str(),
                    Some(size),
                    offset,
                );
            }
            if offset > self.reached {
                self.reached = offset;
                self.patience.reset();
            }
            report.progress(offset, Some(size));
            let answer = match self.parcel.stated.clone() {
                Some(file) if offset == size => self.complete(&upload, &file, report).await?,
                _ => self.append(&upload, offset, report).await?,
            };
            if let Some(answer) = answer {
                return Ok(answer);
            }
        }
    }

    /// Creates an upload resource and records its URL.
    async fn create(&mut self) -> Result<Url, Setback> {
        let target = &self.parcel.target;
        let discovery = self
            .connection
            .send(self.connection.request(Method::OPTIONS, target))
            .await?;
        if !discovery.status().is_success() {
            return Err(refusal(discovery).await);
        }
        let Some(limit) = fields::upload_limit(discovery.headers()) else {
            return Err(Error::NotResumable {
                url: target.to_string(),
            }
            .into());
        };
        self.take_limit(limit)?;

        // The key is recorded before it is sent: if the answer is lost, the next attempt finds the
        // same upload.
        self.remember()?;
        let mut creation = versioned(
            self.connection
                .request(self.parcel.method.clone(), &self.parcel.target),
        )
        .header("upload-complete", "?0")
        .header("upload-length", self.memory.identity.size)
        .header(
            "idempotency-key",
            format!("\"{}\"", self.memory.idempotency_key),
        )
        .header("want-repr-digest", "sha-256=10")
        .header(CONTENT_LENGTH, 0);
        if self.parcel.method == Method::POST {
            // If the URL is not the name, this field is the only one.
            let disposition = name::content_disposition(&self.parcel.source.name());
            creation = creation.header(CONTENT_DISPOSITION, disposition);
        }
        if let Some(content_type) = &self.parcel.content_type {
            creation = creation.header(CONTENT_TYPE, content_type);
        }
        let answer = self.connection.send(creation).await?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let Some(upload) = located(&answer, LOCATION.as_str()) else {
            return Err(Setback::nonsense("the new upload has no Location"));
        };
        self.take_limit(fields::upload_limit(answer.headers()).unwrap_or_default())?;
        self.offset = fields::upload_offset(answer.headers());
        self.memory.upload = Some(upload.clone());
        self.remember()?;
        Ok(upload)
    }

    fn take_limit(&mut self, limit: fields::UploadLimit) -> Result<(), Setback> {
        let size = self.memory.identity.size;
        if let Some(limit) = limit.max_size.filter(|limit| size > *limit) {
            return Err(Error::TooLarge { size, limit }.into());
        }
        self.most_per_append = limit.max_append_size.or(self.most_per_append);
        Ok(())
    }

    /// Requests the durable offset from the server.
    async fn ask(&mut self, upload: &Url) -> Result<Standing, Setback> {
        let answer = self
            .connection
            .send(versioned(self.connection.follow_up(Method::HEAD, upload)))
            .await?;
        if matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::GONE) {
            return Err(Setback::start_anew("the server no longer has the upload"));
        }
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let limit = fields::upload_limit(answer.headers()).unwrap_or_default();
        self.most_per_append = limit.max_append_size.or(self.most_per_append);
        let Some(offset) = fields::upload_offset(answer.headers()) else {
            return Err(Setback::passing(
                "the server does not tell the upload's offset",
            ));
        };
        if fields::upload_complete(answer.headers()) != Some(true) {
            return Ok(Standing::At(offset));
        }
        if offset != self.memory.identity.size {
            return Err(Setback::start_anew(format!(
                "the server has a complete upload of {offset} bytes, another file"
            )));
        }
        Ok(Standing::Complete(Answer {
            url: answer.url().clone(),
            headers: answer.headers().clone(),
        }))
    }

    /// Returns the SHA-256 of the file, read after all of it was sent.
    async fn local_digest(&mut self, file: &LocalFile) -> Result<Sha256Digest, Error> {
        match self.digest {
            Some(digest) => Ok(digest),
            None => Ok(*self.digest.insert(file.hash().await?)),
        }
    }

    /// Sends the remaining bytes from `offset` on. Returns the final answer; `None` if more is to
    /// do.
    async fn append(
        &mut self,
        upload: &Url,
        offset: u64,
        report: &mut Report,
    ) -> Result<Option<Answer>, Setback> {
        let left = self.memory.identity.size - offset;
        let length = self.most_per_append.map_or(left, |most| left.min(most));
        // The digest is known only after all bytes are sent.
        let completes = length == left && self.parcel.stated.is_none();
        self.digest = None;

        let sent = Arc::new(AtomicU64::new(0));
        let piece = self.pace.lock().await.piece(PIECE);
        let content = paced(
            self.parcel.source.read(offset..offset + length, piece),
            Arc::clone(&self.pace),
            Arc::clone(&sent),
        );
        let sending = self
            .append_request(upload, offset, completes)
            .header(CONTENT_LENGTH, length)
            .body(Body::wrap_stream(content))
            .send();
        let answer = self.watch(sending, &sent, offset, length, report).await?;
        self.judge(answer, offset, length, completes).await
    }

    /// Completes an upload whose bytes have all been received, if they are those of the file.
    async fn complete(
        &mut self,
        upload: &Url,
        file: &LocalFile,
        report: &mut Report,
    ) -> Result<Option<Answer>, Setback> {
        let size = self.memory.identity.size;
        if size >= LONG_READING && self.digest.is_none() {
            report.say("everything is sent; reading the file once more, to prove it");
        }
        let digest = self.local_digest(file).await?;
        let completion = self
            .append_request(upload, size, true)
            .header(CONTENT_LENGTH, 0)
            .header("repr-digest", fields::sha256(digest))
            .send();
        let answer = self
            .watch(completion, &AtomicU64::new(0), size, 0, report)
            .await?;
        match self.judge(answer, size, 0, true).await {
            Err(Setback::Final(Error::Refused(refusal))) if refusal.is_digest_mismatch() => {
                Err(Setback::start_anew(
                    "the server has other bytes than the file: it changed meanwhile, or they were damaged on the way",
                ))
            }
            judged => judged,
        }
    }

    /// Interprets the answer to an append of `length` bytes. Returns the final answer; `None` if
    /// more is to do.
    async fn judge(
        &mut self,
        answer: Response,
        offset: u64,
        length: u64,
        completes: bool,
    ) -> Result<Option<Answer>, Setback> {
        let told = fields::upload_offset(answer.headers());
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                return Err(Setback::start_anew("the server no longer has the upload"));
            }
            StatusCode::CONFLICT => {
                self.offset = told;
                let expected = told.map_or_else(
                    || "another offset".to_owned(),
                    |told| format!("offset {told}"),
                );
                return Err(Setback::passing(format!(
                    "the server expects {expected}, not {offset}"
                )));
            }
            StatusCode::PAYLOAD_TOO_LARGE => {
                let limit =
                    fields::upload_limit(answer.headers()).and_then(|limit| limit.max_append_size);
                if let Some(most) = limit.filter(|most| *most < length) {
                    self.most_per_append = Some(most);
                    return Err(Setback::passing(format!(
                        "the server takes no more than {most} bytes at once"
                    )));
                }
                return Err(refusal(answer).await);
            }
            _ => return Err(refusal(answer).await),
        }
        let is_complete = fields::upload_complete(answer.headers());
        if told.is_some_and(|told| told != offset + length)
            || (completes && is_complete == Some(false))
        {
            return Err(Setback::passing(
                "the server did not take everything that was sent",
            ));
        }
        if completes {
            return Ok(Some(Answer {
                url: answer.url().clone(),
                headers: answer.headers().clone(),
            }));
        }
        self.offset = Some(offset + length);
        Ok(None)
    }

    /// Requests the final answer again for an upload that is complete although the answer was lost:
    /// an empty append at its end repeats it. If the server cannot repeat it, `standing` is all
    /// that is known.
    async fn recall(&mut self, upload: &Url, standing: Answer) -> Result<Answer, Setback> {
        let size = self.memory.identity.size;
        let answer = self
            .connection
            .send(
                self.append_request(upload, size, true)
                    .header(CONTENT_LENGTH, 0),
            )
            .await?;
        match answer.status() {
            status if status.is_success() => Ok(Answer {
                url: answer.url().clone(),
                headers: answer.headers().clone(),
            }),
            status if status.is_client_error() => Ok(standing),
            _ => Err(refusal(answer).await),
        }
    }

    fn append_request(&self, upload: &Url, offset: u64, completes: bool) -> RequestBuilder {
        versioned(self.connection.follow_up(Method::PATCH, upload))
            .header("upload-offset", offset)
            .header("upload-complete", if completes { "?1" } else { "?0" })
            .header("want-repr-digest", "sha-256=10")
            .header(CONTENT_TYPE, "application/partial-upload")
    }

    /// Waits for the answer while bytes move, and reports them.
    async fn watch(
        &self,
        sending: impl Future<Output = reqwest::Result<Response>>,
        sent: &AtomicU64,
        offset: u64,
        length: u64,
        report: &mut Report,
    ) -> Result<Response, Setback> {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut moved, mut moved_at) = (0, Instant::now());
        tokio::pin!(sending);
        loop {
            tokio::select! {
                answer = &mut sending => return answer.map_err(setback),
                // A dropped tick comes again.
                _ = ticks.tick() => {}
            }
            let now = sent.load(Ordering::Relaxed);
            report.progress(offset + now, Some(self.memory.identity.size));
            if now > moved {
                (moved, moved_at) = (now, Instant::now());
            }
            let allowed =
                self.connection
                    .patience()
                    .saturating_mul(if now < length { 1 } else { FINISHING });
            if moved_at.elapsed() > allowed {
                let allowed = words::elapsed(allowed);
                return Err(Setback::passing(format!("nothing moved for {allowed}")));
            }
        }
    }

    /// Waits until the next attempt is due, or says why there is none.
    async fn overcome(&mut self, setback: Setback, report: &mut Report) -> Result<(), Error> {
        let (reason, after) = match setback {
            Setback::Final(error) => return Err(error),
            Setback::Passing { reason, after } => (reason, after),
            Setback::StartAnew { reason } => {
                self.restarts += 1;
                if self.restarts > self.retries {
                    return Err(Error::GaveUp {
                        attempts: self.restarts,
                        reason,
                        how_to_go_on: self.how_to_go_on(),
                    });
                }
                report.restarted(&reason);
                self.forget()?;
                return Ok(());
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

    /// Compares the server's digest with the local one.
    async fn compare(
        &mut self,
        answer: Answer,
        source: &LocalFile,
        file: &Path,
    ) -> Result<Outcome, Error> {
        let local = self.local_digest(source).await?;

        let file_url = fields::text(&answer.headers, CONTENT_LOCATION.as_str())
            .or_else(|| fields::text(&answer.headers, LOCATION.as_str()))
            .and_then(|location| answer.url.join(location).ok())
            .filter(|url| Some(url) != self.memory.upload.as_ref())
            .unwrap_or_else(|| self.parcel.target.clone());
        let mut headers = answer.headers;
        let is_named = file_url != self.parcel.target || self.parcel.method == Method::PUT;
        if fields::repr_digest(&headers).is_none() && is_named {
            // The answer had no digest; the file's own answer may have one. An uploader may not be
            // allowed to read it.
            let request = self
                .connection
                .follow_up(Method::HEAD, &file_url)
                .header("want-repr-digest", "sha-256=10");
            if let Ok(file) = self.connection.send(request).await
                && file.status().is_success()
            {
                headers = file.headers().clone();
            }
        }
        let remote = fields::repr_digest(&headers);
        if let Some(remote) = remote.filter(|remote| *remote != local) {
            let consequence = "the server has a file that is not this one: upload it again";
            return Err(Error::Mismatch {
                path: file.to_owned(),
                local,
                remote,
                consequence,
            });
        }
        Ok(Outcome {
            file: file.display().to_string(),
            url: file_url.to_string(),
            etag: fields::etag(&headers),
            sha256: local,
            verified: remote.is_some(),
            bytes: self.memory.identity.size,
        })
    }

    /// Cancels the upload on the server, which would expire by itself.
    async fn cancel(&self) {
        if let Some(upload) = &self.memory.upload {
            let request = versioned(self.connection.follow_up(Method::DELETE, upload));
            let _ = self.connection.send(request).await;
        }
    }

    /// Keeps the record if another run can use it, otherwise removes it.
    fn settle<T>(mut self, ended: Result<T, Error>) -> Result<T, Error> {
        let Some(record) = self.record.take() else {
            return ended;
        };
        let is_useful = match &ended {
            Ok(_) => false,
            // With the right key the same upload can resume.
            Err(Error::Refused(refusal)) => matches!(
                refusal.status,
                StatusCode::UNAUTHORIZED
                    | StatusCode::FORBIDDEN
                    | StatusCode::PROXY_AUTHENTICATION_REQUIRED
            ),
            Err(Error::Mismatch { .. } | Error::FileChanged { .. } | Error::TooLarge { .. }) => {
                false
            }
            Err(_) => true,
        };
        if is_useful && self.memory.upload.is_some() {
            return ended;
        }
        // The next run notices a stale record, since the server answers that the upload does not
        // exist.
        let removed = record.remove();
        ended.and_then(|outcome| removed.map(|()| outcome))
    }

    fn forget(&mut self) -> Result<(), Error> {
        self.memory.upload = None;
        self.memory.idempotency_key = random_key()?;
        (self.offset, self.reached, self.digest) = (None, 0, None);
        self.remember()
    }

    fn remember(&mut self) -> Result<(), Error> {
        match &mut self.record {
            Some(record) => record.write(&self.memory),
            None => Ok(()),
        }
    }

    fn how_to_go_on(&self) -> String {
        match &self.memory.upload {
            Some(_) => format!(
                "run the same command again to go on from {} bytes",
                self.reached
            ),
            None => "nothing was uploaded yet".to_owned(),
        }
    }
}

/// Progress of an upload.
enum Standing {
    At(u64),
    Complete(Answer),
}

fn versioned(request: RequestBuilder) -> RequestBuilder {
    request.header("upload-draft-interop-version", 6)
}

fn located(answer: &Response, field: &str) -> Option<Url> {
    answer
        .url()
        .join(fields::text(answer.headers(), field)?)
        .ok()
}

fn random_key() -> Result<String, Error> {
    let random = getrandom::u64().and_then(|high| Ok((high, getrandom::u64()?)));
    let (high, low) = random.map_err(|source| {
        Error::Setup(format!("the system has no randomness to give: {source}"))
    })?;
    Ok(format!("{high:016x}{low:016x}"))
}

/// Streams the bytes of `content` at the limited rate, and counts them in `sent`.
fn paced(
    content: impl Stream<Item = io::Result<Bytes>>,
    pace: Arc<Mutex<Pace>>,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = io::Result<Bytes>> {
    content.and_then(move |bytes| {
        let (pace, sent) = (Arc::clone(&pace), Arc::clone(&sent));
        async move {
            pace.lock().await.wait(bytes.len()).await;
            sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(bytes)
        }
    })
}
