//! Upload resources, and the requests that make them.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use domain::files::{Description, WriteCondition};
use domain::uploads::{Addition, Creation, ProgressSink};
use domain::{UploadId, Uploads, upload};
use http::header::{CONTENT_RANGE, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderName, Method};
use protocol::answer::Via;
use protocol::dialect::Dialect;
use protocol::digest::StatedDigests;
use protocol::fields::name::IDEMPOTENCY_KEY;
use protocol::problem::Problem;
use protocol::rejection::Rejection;
use protocol::request::BodyUse;
use protocol::tus::{self, Concat};
use protocol::upload::Completion;
use serde::{Deserialize, Serialize};

use crate::extract::{Access, HolderAccess, Target, UPLOADS, UploadTarget, body, form};
use crate::interim::Interim;
use crate::problem::{Failure, no_such_method, own};
use crate::respond::upload::{Announcer, Answering, UploadDocument, told, written};
use crate::routes::Api;
use crate::routes::packs::{self, Names};

/// The client's own reference of an upload, by which it finds its open uploads again.
const UPLOAD_CLIENT_REF: HeaderName = HeaderName::from_static("upload-client-ref");

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
            told(dialect.refused(&rejection, protocol::answer::Known::Nothing)).into_response()
        }
    }
}

/// Makes an upload at a path of the server's choice.
pub(super) async fn create(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    request: Request,
) -> Result<Response, Failure> {
    creation(api, uploads, None, request).await
}

/// Makes an upload at a path of the client's choice.
pub(super) async fn create_at(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    Target(path): Target,
    request: Request,
) -> Result<Response, Failure> {
    creation(api, uploads, Some(upload::Target::File(path)), request).await
}

/// Makes an upload of an archive with contents of a draft.
pub(super) async fn create_content(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    Names((pack, draft)): Names<(String, String)>,
    request: Request,
) -> Result<Response, Failure> {
    let target = upload::Target::Draft {
        pack: packs::pack_name(&pack)?,
        draft: packs::draft_id(&draft)?,
    };
    creation(api, uploads, Some(target), request).await
}

/// Makes an upload of an archive of a whole tree, which is to be a version.
pub(super) async fn create_version(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    Names(pack): Names<String>,
    request: Request,
) -> Result<Response, Failure> {
    let target = upload::Target::Pack(packs::publishable(&pack)?);
    creation(api, uploads, Some(target), request).await
}

async fn creation(
    api: Api,
    Access(uploads): Access<Uploads>,
    target: Option<upload::Target>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let fields = &head.headers;
    let dialect = Dialect::of_creation(&head.method, fields);
    let answering = Answering {
        api,
        dialect,
        limits: uploads.limits(),
        via: Via::Creation,
    };
    if fields.contains_key(CONTENT_RANGE) {
        // RFC 9110 §14.5: a part must not be taken for the whole.
        let rejection = Rejection::malformed("Content-Range", "has no meaning in a creation");
        return Err(answering.refused(&rejection));
    }
    let read = dialect
        .read_create(fields, body::length(&body))
        .map_err(|rejection| answering.refused(&rejection))?;
    let mut description = Description {
        media_type: read.media_type,
        filename: read.file_name,
    };
    let mut create = read.create;
    let body = match read.body {
        BodyUse::Appended if form::is_form(fields) => {
            if read.digests != StatedDigests::default() {
                // They are of the form, and what is kept is its file.
                let reason = "of a form are not supported";
                let rejection = Rejection::malformed("Content-Digest", reason);
                return Err(answering.refused(&rejection));
            }
            let form = form::file(fields, body)
                .await
                .map_err(|rejection| answering.refused(&rejection))?;
            description = form.description;
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
        digests: read.digests,
        client_ref: text(fields, &UPLOAD_CLIENT_REF)?,
        idempotency_key: text(fields, &IDEMPOTENCY_KEY)?,
        tus_metadata,
        tus_concat,
    };
    let announcer = Arc::new(Announcer::new(answering.clone(), interim(&head.extensions)));
    let sink = Arc::clone(&announcer) as Arc<dyn ProgressSink>;
    match uploads.create(creation, body, sink).await {
        Ok(outcome) => Ok(answering.outcome(&outcome)),
        Err(failure) => Err(answering.failed(failure, announcer.announced())),
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
            match uploads.retrieve(id, completion).await {
                Ok(upload) => Ok(answering.retrieved(&method, &upload)),
                Err(failure) => Err(answering.failed(failure, false)),
            }
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
                Err(failure) => Err(answering.failed(failure, true)),
            }
        }
        Method::DELETE => {
            dialect
                .check_cancellation(request.headers())
                .map_err(|rejection| answering.refused(&rejection))?;
            match uploads.cancel(id).await {
                Ok(()) => Ok(answering.cancelled()),
                Err(failure) => Err(answering.failed(failure, false)),
            }
        }
        _ => Err(no_such_method().await.with(
            http::header::ALLOW,
            http::HeaderValue::from_static("HEAD, GET, PATCH, DELETE, POST, OPTIONS"),
        )),
    }
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
        Problem::new(own::MALFORMED_REQUEST)
            .detailed("Ask for the uploads of one reference: /uploads?client_ref=…")
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
    })
}

fn text(fields: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Failure> {
    let mut lines = Vec::new();
    for value in fields.get_all(name) {
        let line = value.to_str().map_err(|_| {
            Problem::new(own::MALFORMED_REQUEST).detailed(format!("{name} is not ASCII."))
        })?;
        lines.push(line);
    }
    Ok((!lines.is_empty()).then(|| lines.join(", ")))
}

fn interim(extensions: &http::Extensions) -> Interim {
    extensions
        .get::<Interim>()
        .cloned()
        .unwrap_or_else(Interim::disabled)
}
