//! Upload resources, and the requests that make them.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use domain::files::{Description, WriteCondition};
use domain::upload::{self, Upload, UploadState};
use domain::uploads::{Addition, Creation, ProgressSink};
use domain::{Authorized, Error, UploadId, Uploads};
use http::header::{ACCEPT, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName, Method};
use protocol::answer::Via;
use protocol::dialect::Dialect;
use protocol::digest::StatedDigests;
use protocol::fields::name::{IDEMPOTENCY_KEY, UPLOAD_CLIENT_REF};
use protocol::media_type;
use protocol::problem::Problem;
use protocol::rejection::Rejection;
use protocol::request::BodyUse;
use protocol::tus::{self, Concat};
use protocol::upload::Completion;
use serde::{Deserialize, Serialize};

use crate::extract::pack::{DraftPath, NewPackPath};
use crate::extract::query::malformed;
use crate::extract::{Access, HolderAccess, Target, UPLOADS, UploadTarget, body, form};
use crate::problem::{Failure, Missing, Voice, kinds, no_such_method};
use crate::respond::upload::{Announcer, Answering, UploadDocument, written};
use crate::routes::Api;
use crate::routes::files;
use transport::Interim;
use transport::Peer;

/// Most uploads that a list has.
const MOST_LISTED: usize = 1000;

pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/uploads", get(list))
        .route("/uploads/{id}", any(resource).options(discover))
        .layer(middleware::from_fn(stand_for))
}

/// `X-HTTP-Method-Override`: the method that a request for an upload resource stands for.
async fn stand_for(mut request: Request, next: Next) -> Response {
    match tus::method(request.method(), request.headers()) {
        Ok(method) => {
            *request.method_mut() = method;
            next.run(request).await
        }
        Err(rejection) => {
            let dialect = Dialect::of_upload_request(request.method(), request.headers());
            Voice::of(dialect).rejected(&rejection).into_response()
        }
    }
}

/// Makes an upload at a path of the server's choice.
pub(super) async fn create(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    request: Request,
) -> Result<Response, Failure> {
    Box::pin(creation(api, uploads, None, request)).await
}

/// Makes an upload at a path of the client's choice.
pub(super) async fn create_at(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    Target(path): Target,
    request: Request,
) -> Result<Response, Failure> {
    let target = upload::Target::File(path);
    Box::pin(creation(api, uploads, Some(target), request)).await
}

/// Makes an upload of an archive with contents of a draft.
pub(super) async fn create_content(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    DraftPath { pack, draft }: DraftPath,
    request: Request,
) -> Result<Response, Failure> {
    let target = upload::Target::Draft { pack, draft };
    Box::pin(creation(api, uploads, Some(target), request)).await
}

/// Makes an upload of an archive of a whole tree, which is to be a version.
pub(super) async fn create_version(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    NewPackPath(pack): NewPackPath,
    request: Request,
) -> Result<Response, Failure> {
    let target = upload::Target::Pack(pack);
    Box::pin(creation(api, uploads, Some(target), request)).await
}

async fn creation(
    api: Api,
    Access(uploads): Access<Uploads>,
    target: Option<upload::Target>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let uploads = of_peer(uploads, &head.extensions);
    let fields = &head.headers;
    let dialect = Dialect::of_creation(&head.method, fields);
    let answering = Answering {
        api,
        dialect,
        limits: uploads.limits(),
        via: Via::Creation,
    };
    let read = dialect
        .read_create(fields, body::length(&body))
        .map_err(|rejection| answering.refused(&rejection))?;
    let mut description = Description {
        media_type: read.media_type,
        filename: read.file_name,
    };
    let (mut create, mut digests) = (read.create, read.digests);
    let body = match read.body {
        BodyUse::Appended if form::is_form(fields) => {
            let form = match stated_of_form(&digests) {
                Some(rejection) => Err(rejection),
                None => form::file(fields, body).await,
            };
            let form = form.map_err(|rejection| answering.refused(&rejection))?;
            description = form.description;
            digests = form.digests;
            create.body_length = None;
            form.body
        }
        BodyUse::Appended => body::parts(body),
        BodyUse::Ignored => body::none(),
    };
    let concat = read.tus.as_ref().and_then(|tus| tus.concat.as_ref());
    let parts = concat
        .and_then(parts_of)
        .transpose()
        .map_err(|rejection| answering.refused(&rejection))?;
    // The name is the path's, if the client chose one.
    if target.is_some() {
        description.filename = None;
    }
    if description.media_type.is_none() {
        description.media_type = type_of_name(target.as_ref(), &description).map(str::to_owned);
    }
    let tus_concat = concat.map(|concat| concat.raw().to_owned());
    let tus_metadata = read
        .tus
        .and_then(|tus| Some(tus.metadata?.raw().to_owned()));
    let creation = Creation {
        create,
        resumable: dialect != Dialect::Plain || fields.contains_key(IDEMPOTENCY_KEY),
        parts,
        target,
        condition: condition(fields)?,
        description,
        digests,
        client_ref: text(fields, &UPLOAD_CLIENT_REF)?,
        idempotency_key: text(fields, &IDEMPOTENCY_KEY)?,
        tus_metadata,
        tus_concat,
    };
    let announcer = Arc::new(Announcer::new(answering.clone(), interim(&head.extensions)));
    let sink = Arc::clone(&announcer) as Arc<dyn ProgressSink>;
    match uploads.create(creation, body, sink).await {
        Ok(outcome) => Ok(answering.outcome(&outcome)),
        Err(failure) => Err(answering.failed(&failure, announcer.announced())),
    }
}

/// The first digest of a form, if any is stated: what is kept is the form's file, which has other bytes.
fn stated_of_form(stated: &StatedDigests) -> Option<Rejection> {
    let reason =
        "is of the form; state it in the head of the file's part, or send the file as the body";
    let first = stated.content.iter().chain(&stated.representation).next();
    let announced = stated.trailing.first().map(|_| "Trailer");
    let field = first.map(|first| first.field).or(announced)?;
    Some(Rejection::malformed(field, reason))
}

/// The type that the name of the file to be tells.
fn type_of_name(
    target: Option<&upload::Target>,
    description: &Description,
) -> Option<&'static str> {
    match target {
        Some(upload::Target::File(path)) => media_type::of_name(path.file_name()),
        Some(upload::Target::Draft { .. } | upload::Target::Pack(_)) => None,
        None => media_type::of_name(description.filename.as_deref()?),
    }
}

/// The uploads that a concatenation names, by their URLs: absolute or relative, with whatever a proxy put in front.
fn parts_of(concat: &Concat) -> Option<Result<Vec<UploadId>, Rejection>> {
    let Concat::Final { parts, .. } = concat else {
        return None;
    };
    let id = |url: &String| {
        let (_, id) = url.rsplit_once(UPLOADS)?;
        id.parse().ok()
    };
    let ids: Option<_> = parts.iter().map(id).collect();
    Some(ids.ok_or_else(|| {
        Rejection::malformed("Upload-Concat", "a part is not an upload of this server")
    }))
}

/// Everything that is done to an upload resource.
async fn resource(
    State(api): State<Api>,
    HolderAccess(uploads): HolderAccess<Uploads>,
    target: UploadTarget,
    request: Request,
) -> Result<Response, Failure> {
    let uploads = of_peer(uploads, request.extensions());
    let dialect = Dialect::of_upload_request(request.method(), request.headers());
    let answering = Answering {
        api,
        dialect,
        limits: uploads.limits(),
        via: Via::Append,
    };
    let method = request.method().clone();
    let Some(id) = target.0 else {
        return Err(answering.unknown());
    };
    match method {
        Method::HEAD | Method::GET => {
            dialect
                .check_retrieval(request.headers())
                .map_err(|rejection| answering.refused(&rejection))?;
            // To a tus client, an offset at the length says that all is done.
            let completion = match dialect {
                Dialect::Tus => Completion::AtLength,
                Dialect::Plain | Dialect::Ietf(_) => Completion::Later,
            };
            let upload = uploads.retrieve(id, completion).await;
            let upload = upload.map_err(|failure| answering.failed(&failure, false))?;
            if method == Method::GET && is_content(&upload) && !asks_for_json(request.headers()) {
                return content(&answering, &uploads, &upload, request.headers()).await;
            }
            Ok(answering.retrieved(&method, &upload))
        }
        Method::PATCH => {
            let (parts, body) = request.into_parts();
            let read = dialect
                .read_append(&parts.headers, body::length(&body))
                .map_err(|rejection| answering.refused(&rejection))?;
            let addition = Addition {
                append: read.append,
                digests: read.digests,
            };
            let announcer = Announcer::new(answering.clone(), interim(&parts.extensions));
            let appended = uploads
                .append(id, addition, body::parts(body), Arc::new(announcer))
                .await;
            match appended {
                Ok(outcome) => Ok(answering.outcome(&outcome)),
                // The client holds the upload's URL, so it was told that it can resume.
                Err(failure) => Err(answering.failed(&failure, true)),
            }
        }
        Method::DELETE => {
            dialect
                .check_cancellation(request.headers())
                .map_err(|rejection| answering.refused(&rejection))?;
            match uploads.cancel(id).await {
                Ok(()) => Ok(answering.cancelled()),
                Err(failure) => Err(answering.failed(&failure, false)),
            }
        }
        _ => Err(no_such_method().await.with(
            http::header::ALLOW,
            http::HeaderValue::from_static("HEAD, GET, PATCH, DELETE, POST, OPTIONS"),
        )),
    }
}

/// Whether the URL of an upload stands for the bytes of a file: once it is complete. tus clients take it for the file's.
fn is_content(upload: &Upload) -> bool {
    matches!(upload.state, UploadState::Complete(_)) && upload.path().is_some()
}

/// Whether `Accept` names JSON, and not only everything.
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

/// The bytes of the file that a completed upload became. The upload's URL is leave to read what the upload brought, and nothing else:
/// once the file is deleted, or replaced with another content, it gives none.
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
    let representation = files::representation(&file);
    answering
        .content((&file, representation), request, open)
        .await
}

/// What an upload target tells of uploads, to anyone who asks.
pub(super) async fn discover(State(api): State<Api>, request: Request) -> Response {
    let dialect = Dialect::of_upload_request(request.method(), request.headers());
    written(dialect.discovery(&api.uploads.limits()), Vec::new())
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    client_ref: String,
}

#[derive(Debug, Serialize)]
struct UploadList {
    uploads: Vec<UploadDocument>,
}

/// The open uploads of an app that was force-quit and knows only its own reference.
async fn list(
    State(api): State<Api>,
    Access(uploads): Access<Uploads>,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<UploadList>, Failure> {
    let Query(query) = query.map_err(|_| {
        malformed("Ask for the uploads of one reference, such as /uploads?client_ref=photo-7.")
    })?;
    let uploads = uploads.list(&query.client_ref, MOST_LISTED).await?;
    Ok(Json(UploadList {
        uploads: uploads
            .iter()
            .map(|upload| UploadDocument::new(&api, upload))
            .collect(),
    }))
}

/// The preconditions of a write, combined where a field comes in several lines.
pub(super) fn condition(fields: &HeaderMap) -> Result<WriteCondition, Failure> {
    Ok(WriteCondition {
        if_match: text(fields, &IF_MATCH)?,
        if_none_match: text(fields, &IF_NONE_MATCH)?,
        if_unmodified_since: text(fields, &IF_UNMODIFIED_SINCE)?,
    })
}

fn text(fields: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Failure> {
    let mut lines = Vec::new();
    for value in fields.get_all(name) {
        let line = value.to_str().map_err(|_| {
            Problem::new(kinds::MALFORMED_REQUEST).detailed(format!("{name} is not ASCII."))
        })?;
        lines.push(line);
    }
    Ok((!lines.is_empty()).then(|| lines.join(", ")))
}

/// The uploads, for requests that take the places of whoever sent this one.
fn of_peer(uploads: Authorized<Uploads>, extensions: &http::Extensions) -> Authorized<Uploads> {
    match extensions.get::<Peer>() {
        Some(peer) => uploads.for_peer(peer.address.ip()),
        None => uploads,
    }
}

fn interim(extensions: &http::Extensions) -> Interim {
    extensions
        .get::<Interim>()
        .cloned()
        .unwrap_or_else(Interim::disabled)
}
