//! Requests for an upload resource.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use domain::upload::{Upload, UploadState};
use domain::uploads::Addition;
use domain::{Authorized, Error, UploadId, Uploads};
use http::header::{ACCEPT, ALLOW};
use http::{HeaderMap, HeaderValue, Method};
use protocol::answer::Via;
use protocol::dialect::Dialect;
use protocol::upload::Completion;
use transport::Interim;

use crate::api::Api;
use crate::extract::{Exchange, HolderAccess, UploadTarget, body};
use crate::problem::{Failure, Missing, no_such_method};
use crate::respond::file;
use crate::respond::upload::{Announcer, Answering};

/// Methods of an upload resource.
const METHODS: HeaderValue = HeaderValue::from_static("HEAD, GET, PATCH, DELETE, POST, OPTIONS");

/// Serves all methods of an upload resource except `OPTIONS`.
pub(super) async fn resource(
    State(api): State<Api>,
    HolderAccess(uploads): HolderAccess<Uploads>,
    target: UploadTarget,
    exchange: Exchange,
    request: Request,
) -> Result<Response, Failure> {
    let uploads = exchange.uploads(uploads);
    let answering = Answering {
        api,
        dialect: Dialect::of_upload_request(request.method(), request.headers()),
        limits: uploads.limits(),
        via: Via::Append,
    };
    let Some(id) = target.0 else {
        return Err(answering.unknown());
    };
    let resource = Resource {
        id,
        uploads,
        answering,
    };
    match *request.method() {
        Method::HEAD | Method::GET => resource.retrieve(request.method(), request.headers()).await,
        Method::PATCH => resource.append(exchange.interim, request).await,
        Method::DELETE => resource.cancel(request.headers()).await,
        _ => Err(no_such_method().await.with(ALLOW, METHODS)),
    }
}

/// Upload resource that a request names.
struct Resource {
    id: UploadId,
    uploads: Authorized<Uploads>,
    answering: Answering,
}

impl Resource {
    async fn retrieve(&self, method: &Method, fields: &HeaderMap) -> Result<Response, Failure> {
        let Self { answering, .. } = self;
        answering
            .dialect
            .check_retrieval(fields)
            .map_err(|rejection| answering.refused(&rejection))?;
        // To a tus client, an offset equal to the length means that the upload is complete.
        let completion = match answering.dialect {
            Dialect::Tus => Completion::AtLength,
            Dialect::Plain | Dialect::Ietf(_) => Completion::Later,
        };
        let upload = self.uploads.retrieve(self.id, completion).await;
        let upload = upload.map_err(|failure| answering.failed(&failure, false))?;
        if *method == Method::GET && is_content(&upload) && !asks_for_json(fields) {
            return content(answering, &self.uploads, &upload, fields).await;
        }
        Ok(answering.retrieved(method, &upload))
    }

    async fn append(&self, interim: Interim, request: Request) -> Result<Response, Failure> {
        let Self { answering, .. } = self;
        let (head, body) = request.into_parts();
        let read = answering
            .dialect
            .read_append(&head.headers, body::length(&body))
            .map_err(|rejection| answering.refused(&rejection))?;
        let addition = Addition {
            append: read.append,
            digests: read.digests,
        };
        let announcer = Arc::new(Announcer::new(answering.clone(), interim));
        let appended = self
            .uploads
            .append(self.id, addition, body::parts(body), announcer)
            .await;
        match appended {
            Ok(outcome) => Ok(answering.outcome(&outcome)),
            // The client holds the upload's URL, so it knows that it can resume.
            Err(failure) => Err(answering.failed(&failure, true)),
        }
    }

    async fn cancel(&self, fields: &HeaderMap) -> Result<Response, Failure> {
        let Self { answering, .. } = self;
        answering
            .dialect
            .check_cancellation(fields)
            .map_err(|rejection| answering.refused(&rejection))?;
        match self.uploads.cancel(self.id).await {
            Ok(()) => Ok(answering.cancelled()),
            Err(failure) => Err(answering.failed(&failure, false)),
        }
    }
}

/// Returns whether the URL of an upload stands for the bytes of a file, which it does after
/// completion. tus clients use it as the file's URL.
fn is_content(upload: &Upload) -> bool {
    matches!(upload.state, UploadState::Complete(_)) && upload.path().is_some()
}

/// Returns whether `Accept` names JSON explicitly, rather than by a wildcard.
fn asks_for_json(fields: &HeaderMap) -> bool {
    let lines = fields.get_all(ACCEPT).iter();
    let texts = lines.filter_map(|line| line.to_str().ok());
    let mut members = texts.flat_map(|line| line.split(','));
    members.any(|member| {
        let mut parts = member.split(';').map(str::trim);
        let is_json = parts
            .next()
            .is_some_and(|range| range.eq_ignore_ascii_case("application/json"));
        let is_refused = parts.any(|parameter| {
            let weight = parameter
                .split_once('=')
                .filter(|(name, _)| name.eq_ignore_ascii_case("q"));
            weight.is_some_and(|(_, weight)| weight.parse() == Ok(0.0))
        });
        is_json && !is_refused
    })
}

/// Answers with the bytes of the file that a completed upload became. The upload's URL grants
/// access only to the uploaded bytes: once the file is deleted, or replaced with another content,
/// it serves none.
async fn content(
    answering: &Answering,
    uploads: &Authorized<Uploads>,
    upload: &Upload,
    request: &HeaderMap,
) -> Result<Response, Failure> {
    let file = uploads.file(upload).await.map_err(|error| match error {
        Error::NotFound { .. } => {
            Failure::from(Missing::UploadedFile).with_all(answering.dialect.refusal_fields())
        }
        error => error.into(),
    })?;
    let open = async { Ok(uploads.open_file(&file).await?) };
    let representation = file::representation(&file);
    answering
        .content((&file, representation), request, open)
        .await
}
