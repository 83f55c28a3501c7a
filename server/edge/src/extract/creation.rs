//! Requests that make an upload.

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Request};
use domain::body::UploadBody;
use domain::file::Description;
use domain::upload::Target;
use domain::uploads::Creation;
use domain::{UploadId, Uploads};
use http::HeaderMap;
use protocol::answer::Known;
use protocol::dialect::Dialect;
use protocol::digest::StatedDigests;
use protocol::fields::name::{IDEMPOTENCY_KEY, UPLOAD_CLIENT_REF};
use protocol::media_type;
use protocol::rejection::Rejection;
use protocol::request::Concat;
use protocol::request::{BodyUse, CreateRequest};

use super::condition::{condition, text};
use super::{UPLOADS, body, form};
use crate::problem::{Failure, Voice};

/// Request that makes an upload, read by the rules of its dialect.
pub(crate) struct NewUpload {
    pub(crate) dialect: Dialect,
    creation: Creation,
    body: UploadBody,
}

impl NewUpload {
    /// Completes the request with the target that its path names; `None` leaves the choice of a
    /// path to the server.
    pub(crate) fn at(self, target: Option<Target>) -> (Creation, UploadBody) {
        let mut creation = self.creation;
        let description = &mut creation.description;
        // If the client chose a path, the name is the path's.
        if target.is_some() {
            description.filename = None;
        }
        if description.media_type.is_none() {
            description.media_type = type_of_name(target.as_ref(), description).map(str::to_owned);
        }
        creation.target = target;
        (creation, self.body)
    }
}

impl<A> FromRequest<A> for NewUpload
where
    A: Send + Sync,
    Uploads: FromRef<A>,
{
    type Rejection = Failure;

    async fn from_request(request: Request, state: &A) -> Result<Self, Failure> {
        let (head, body) = request.into_parts();
        let fields = &head.headers;
        let dialect = Dialect::of_creation(&head.method, fields);
        let read = Parsed::read(dialect, fields, body).await;
        let parsed = read.map_err(|rejection| {
            let limits = Uploads::from_ref(state).limits();
            Voice::with(dialect, Known::Limits(&limits)).rejected(&rejection)
        })?;
        let (tus_metadata, tus_concat) = match parsed.request.tus {
            Some(tus) => (
                tus.metadata.map(|metadata| metadata.raw().to_owned()),
                tus.concat.map(|concat| concat.raw().to_owned()),
            ),
            None => (None, None),
        };
        let creation = Creation {
            create: parsed.request.create,
            resumable: dialect != Dialect::Plain || fields.contains_key(IDEMPOTENCY_KEY),
            parts: parsed.parts,
            target: None,
            condition: condition(fields)?,
            description: parsed.description,
            digests: parsed.request.digests,
            client_ref: text(fields, &UPLOAD_CLIENT_REF)?,
            idempotency_key: text(fields, &IDEMPOTENCY_KEY)?,
            tus_metadata,
            tus_concat,
        };
        Ok(Self {
            dialect,
            creation,
            body: parsed.body,
        })
    }
}

/// Request as parsed by its dialect and by the form of its body.
struct Parsed {
    request: CreateRequest,
    description: Description,
    body: UploadBody,
    parts: Option<Vec<UploadId>>,
}

impl Parsed {
    async fn read(dialect: Dialect, fields: &HeaderMap, body: Body) -> Result<Self, Rejection> {
        let mut request = dialect.read_create(fields, body::length(&body))?;
        let mut description = Description {
            media_type: request.media_type.take(),
            filename: request.file_name.take(),
        };
        let body = match request.body {
            BodyUse::Appended if form::is_form(fields) => {
                if let Some(rejection) = stated_of_form(&request.digests) {
                    return Err(rejection);
                }
                let form = form::file(fields, body).await?;
                description = form.description;
                request.digests = form.digests;
                request.create.body_length = None;
                form.body
            }
            BodyUse::Appended => body::parts(body),
            BodyUse::Ignored => body::none(),
        };
        let concat = request.tus.as_ref().and_then(|tus| tus.concat.as_ref());
        let parts = concat.and_then(parts_of).transpose()?;
        Ok(Self {
            request,
            description,
            body,
            parts,
        })
    }
}

/// Refuses digests that are stated for a whole form: the server keeps the form's file, which has
/// other bytes.
fn stated_of_form(stated: &StatedDigests) -> Option<Rejection> {
    let reason =
        "is of the form; state it in the head of the file's part, or send the file as the body";
    let first = stated.content.iter().chain(&stated.representation).next();
    let announced = stated.trailing.first().map(|_| "Trailer");
    let field = first.map(|first| first.field).or(announced)?;
    Some(Rejection::malformed(field, reason))
}

/// Returns the media type that the file's name implies.
fn type_of_name(target: Option<&Target>, description: &Description) -> Option<&'static str> {
    match target {
        Some(Target::File(path)) => media_type::of_name(path.file_name()),
        Some(Target::Draft { .. } | Target::Pack(_)) => None,
        None => media_type::of_name(description.filename.as_deref()?),
    }
}

/// Returns the uploads that a concatenation names by URLs: absolute or relative, with any prefix
/// that a proxy added.
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
