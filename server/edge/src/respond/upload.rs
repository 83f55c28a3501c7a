//! Answers about uploads. The dialect decides what an answer contains; this file supplies the
//! facts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use archive::PackName;
use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use domain::upload::{Completed, Plan, Product, Target, Upload, UploadState};
use domain::uploads::{self, Outcome, ProgressSink};
use domain::{Blob, File};
use http::header::{CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, ETAG, LOCATION, VARY};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use protocol::answer::{Answer, Deadline, Echo, Known, Standing, Via};
use protocol::dialect::Dialect;
use protocol::fields::name::REPR_DIGEST;
use protocol::rejection::Rejection;
use protocol::upload::Limits;
use serde::Serialize;
use transport::Interim;

use crate::api::Api;
use crate::extract::UPLOADS;
use crate::problem::{Failure, Missing, Voice};
use crate::respond::content::Representation;
use crate::respond::file::{self, FileDocument};
use crate::respond::{JSON, pack, time, url_value};

/// Context for the answers to one request for an upload.
#[derive(Debug, Clone)]
pub(crate) struct Answering {
    pub(crate) api: Api,
    pub(crate) dialect: Dialect,
    pub(crate) limits: Limits,
    pub(crate) via: Via,
}

impl Answering {
    /// Answers a request with a body.
    pub(crate) fn outcome(&self, outcome: &Outcome) -> Response {
        match outcome {
            Outcome::Partial(upload) => self.with_standing(upload, |standing| {
                let answer = match self.via {
                    Via::Creation => self.dialect.created(standing),
                    Via::Append => self.dialect.appended(standing),
                };
                written(answer, Vec::new())
            }),
            Outcome::Complete(upload, completed) => {
                let (target, document) = self.stored(&upload.product(completed));
                self.with_standing(upload, |standing| {
                    written(self.dialect.finished(self.via, standing, target), document)
                })
            }
            Outcome::Stored(product) => {
                let (target, document) = self.stored(product);
                written(target, document)
            }
        }
    }

    /// Answers for the target resource and its new state. All facts are in fields, since Photos'
    /// upload extension sees nothing else.
    fn stored(&self, product: &Product) -> (Answer, Vec<u8>) {
        match product {
            Product::File { file, replaced } => self.stored_file(file, *replaced),
            Product::Draft { pack, draft } => {
                let url = pack::draft_url(&self.api, pack, draft);
                let fields = [(CONTENT_LOCATION, url_value(&url)), (CONTENT_TYPE, JSON)];
                let answer = Answer {
                    status: StatusCode::OK,
                    fields: HeaderMap::from_iter(fields),
                };
                (answer, json(&DraftReference::new(pack, url)))
            }
            Product::Version { pack, number } => {
                let url = pack::version_url(&self.api, pack, *number);
                let fields = [
                    (LOCATION, url_value(&url)),
                    (CONTENT_LOCATION, url_value(&url)),
                    (CONTENT_TYPE, JSON),
                ];
                let answer = Answer {
                    status: StatusCode::CREATED,
                    fields: HeaderMap::from_iter(fields),
                };
                (answer, json(&VersionReference::new(pack, *number, url)))
            }
        }
    }

    fn stored_file(&self, file: &File, replaced: bool) -> (Answer, Vec<u8>) {
        let url = url_value(&file::url(&self.api, file));
        let mut fields = HeaderMap::from_iter([
            (CONTENT_LOCATION, url.clone()),
            (ETAG, file::etag(file)),
            (REPR_DIGEST, file::repr_digest(&file.content.sha256)),
            (CONTENT_TYPE, JSON),
        ]);
        let status = if replaced {
            StatusCode::OK
        } else {
            fields.insert(LOCATION, url);
            StatusCode::CREATED
        };
        (
            Answer { status, fields },
            json(&FileDocument::new(&self.api, file)),
        )
    }

    /// Answers a request for the offset.
    pub(crate) fn retrieved(&self, method: &Method, upload: &Upload) -> Response {
        let document = match *method {
            Method::GET => json(&UploadDocument::new(&self.api, upload)),
            _ => Vec::new(),
        };
        self.with_standing(upload, |standing| {
            let mut answer = self.dialect.retrieved(method, standing);
            if let UploadState::Complete(completed) = &upload.state {
                self.tell_result(&mut answer.fields, upload, completed);
            }
            if *method == Method::GET {
                answer.status = StatusCode::OK;
                answer.fields.insert(CONTENT_TYPE, JSON);
                answer
                    .fields
                    .insert(VARY, HeaderValue::from_static("Accept"));
            }
            written(answer, document)
        })
    }

    /// Answers a `GET` of an upload that became this file, with the file's bytes from `open`.
    pub(crate) async fn content(
        &self,
        (file, mut representation): (&File, Representation),
        request: &HeaderMap,
        open: impl Future<Output = Result<Arc<dyn Blob>, Failure>>,
    ) -> Result<Response, Failure> {
        representation.others.extend(self.dialect.refusal_fields());
        let url = url_value(&file::url(&self.api, file));
        representation.others.insert(CONTENT_LOCATION, url);
        let vary = HeaderValue::from_static("Accept");
        representation.others.insert(VARY, vary);
        representation
            .answer_or_redirect(&Method::GET, request, open)
            .await
    }

    /// Names the result of a completed upload.
    fn tell_result(&self, fields: &mut HeaderMap, upload: &Upload, completed: &Completed) {
        let (target, _) = self.stored(&upload.product(completed));
        for name in [CONTENT_LOCATION, REPR_DIGEST] {
            if let Some(value) = target.fields.get(&name) {
                fields.insert(name, value.clone());
            }
        }
    }

    /// Answers a cancellation.
    pub(crate) fn cancelled(&self) -> Response {
        written(self.dialect.cancelled(), Vec::new())
    }

    /// Answers a request whose own fields break a rule.
    pub(crate) fn refused(&self, rejection: &Rejection) -> Failure {
        Voice::with(self.dialect, Known::Limits(&self.limits)).rejected(rejection)
    }

    /// Answers a request for an upload that never existed.
    pub(crate) fn unknown(&self) -> Failure {
        Voice::of(self.dialect).missing(Missing::Resource("upload"))
    }

    /// Answers a request that failed; `announced` if the client knows that it can resume.
    pub(crate) fn failed(&self, failure: &uploads::Failure, announced: bool) -> Failure {
        let answer = |known: Known<'_>| {
            let voice = Voice::Upload {
                dialect: self.dialect,
                known,
                announced,
            };
            voice.answer(&failure.error)
        };
        match &failure.upload {
            Some(upload) => {
                self.with_standing(upload, |standing| answer(Known::Standing(standing)))
            }
            None => answer(Known::Limits(&self.limits)),
        }
    }

    fn with_standing<T>(&self, upload: &Upload, say: impl FnOnce(&Standing<'_>) -> T) -> T {
        let location = self.api.absolute(&format!("{UPLOADS}{}", upload.id));
        let location = url_value(&location);
        let (offset, length, complete) = match &upload.state {
            UploadState::Open(progress) => (progress.open.offset, progress.open.length, false),
            UploadState::Complete(completed) => (
                completed.complete.length,
                Some(completed.complete.length),
                true,
            ),
            UploadState::Gone(_) => (0, None, false),
        };
        say(&Standing {
            location: &location,
            offset,
            length,
            complete,
            limits: &self.limits,
            deadline: Some(Deadline {
                remaining: self.api.clock.now().until(upload.expires_at),
                at: upload.expires_at.into(),
            }),
            tus: echo(&upload.plan),
        })
    }
}

/// Reports a request's progress by interim responses.
#[derive(Debug)]
pub(crate) struct Announcer {
    answering: Answering,
    interim: Interim,
    announced: AtomicBool,
}

impl Announcer {
    pub(crate) fn new(answering: Answering, interim: Interim) -> Self {
        Self {
            answering,
            interim,
            announced: AtomicBool::new(false),
        }
    }

    /// Returns whether the client knows that it can resume.
    pub(crate) fn announced(&self) -> bool {
        self.announced.load(Ordering::Relaxed)
    }

    fn send(&self, fields: Option<HeaderMap>) -> bool {
        // A peer that cannot receive an interim response, or does not read it, misses nothing that
        // its final answer lacks.
        fields.is_some_and(|fields| {
            let status = StatusCode::from_u16(104).expect("104 is a status");
            self.interim.send(status, fields).is_ok()
        })
    }
}

impl ProgressSink for Announcer {
    fn created(&self, upload: &Upload) -> bool {
        let answering = &self.answering;
        let fields =
            answering.with_standing(upload, |standing| answering.dialect.announcement(standing));
        let sent = self.send(fields);
        if sent {
            self.announced.store(true, Ordering::Relaxed);
        }
        sent
    }

    fn progressed(&self, offset: u64) {
        self.send(self.answering.dialect.progress(offset));
    }
}

/// An upload as JSON.
#[derive(Debug, Serialize)]
pub(crate) struct UploadDocument {
    url: String,
    offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    complete: bool,
    /// Path of the file that the upload will become.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// Pack that the archive is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pack: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ref: Option<String>,
    created_at: String,
    expires_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<FileDocument>,
}

impl UploadDocument {
    pub(crate) fn new(api: &Api, upload: &Upload) -> Self {
        let (offset, length, completed) = match &upload.state {
            UploadState::Open(progress) => (progress.open.offset, progress.open.length, None),
            UploadState::Complete(completed) => {
                let length = completed.complete.length;
                (length, Some(length), Some(completed))
            }
            UploadState::Gone(_) => (0, None, None),
        };
        let (path, pack) = match &upload.plan.target {
            Target::File(path) => (Some(path.to_string()), None),
            Target::Draft { pack, .. } | Target::Pack(pack) => (None, Some(pack.to_string())),
        };
        let file = completed.and_then(|completed| upload.file(completed));
        Self {
            url: api.absolute(&format!("{UPLOADS}{}", upload.id)),
            offset,
            length,
            complete: completed.is_some(),
            path,
            pack,
            client_ref: upload.plan.client_ref.clone(),
            created_at: time(upload.created_at),
            expires_at: time(upload.expires_at),
            file: file.map(|file| FileDocument::new(api, &file)),
        }
    }
}

/// Reference to a draft.
#[derive(Debug, Serialize)]
struct DraftReference {
    pack: String,
    url: String,
}

impl DraftReference {
    fn new(pack: &PackName, url: String) -> Self {
        Self {
            pack: pack.to_string(),
            url,
        }
    }
}

/// Reference to a new version.
#[derive(Debug, Serialize)]
struct VersionReference {
    pack: String,
    version: u64,
    url: String,
}

impl VersionReference {
    fn new(pack: &PackName, version: u64, url: String) -> Self {
        Self {
            pack: pack.to_string(),
            version,
            url,
        }
    }
}

/// Returns the fields that a tus client sent at creation, if any.
fn echo(plan: &Plan) -> Option<Echo<'_>> {
    let echo = Echo {
        metadata: plan.tus_metadata.as_deref(),
        concat: plan.tus_concat.as_deref(),
    };
    (echo != Echo::default()).then_some(echo)
}

fn json<T: Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("a document of ours is JSON")
}

/// Returns an answer with its body, which a 204 does not have.
pub(crate) fn written(answer: Answer, document: Vec<u8>) -> Response {
    let mut response = answer.status.into_response();
    *response.headers_mut() = answer.fields;
    if answer.status == StatusCode::NO_CONTENT {
        response.headers_mut().remove(CONTENT_TYPE);
        return response;
    }
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(document.len()));
    *response.body_mut() = Body::from(document);
    response
}
