//! `multipart/form-data` with one file, for apps that build such bodies in advance (RFC 7578). The
//! file is streamed, never held in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use axum::body::Body;
use bytes::Bytes;
use domain::body::{BodyFault, BodyPart, UploadBody};
use domain::file::Description;
use futures::StreamExt as _;
use futures::stream;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use multer::{Constraints, Field, Multipart, SizeLimit};
use protocol::digest::StatedDigests;
use protocol::rejection::Rejection;
use protocol::{content, disposition, media_type};

const FORM: &str = "multipart/form-data";

/// Maximum number of bytes around the file: other fields, and the heads of all parts.
const MAX_AROUND: u64 = 256 * 1024;

/// Counts the bytes around the file. Nothing is counted while the file itself is read.
#[derive(Debug, Default)]
struct Around {
    bytes: AtomicU64,
    in_file: AtomicBool,
}

impl Around {
    /// Returns whether this many more bytes exceed the limit.
    fn is_exceeded_by(&self, more: usize) -> bool {
        let counted = !self.in_file.load(Ordering::Relaxed);
        counted && self.bytes.fetch_add(more as u64, Ordering::Relaxed) > MAX_AROUND
    }
}

/// The file of a form.
pub(crate) struct FormFile {
    /// Name and media type that its part states.
    pub(crate) description: Description,
    /// Digests that its part states.
    pub(crate) digests: StatedDigests,
    /// Bytes of the file.
    pub(crate) body: UploadBody,
}

/// Returns whether the body is a form.
pub(crate) fn is_form(fields: &HeaderMap) -> bool {
    media_type::is(fields, FORM)
}

/// Reads a form up to its file. Fields before the file are skipped. Parts after it are read at the
/// end of its bytes, and must not contain another file.
pub(crate) async fn file(fields: &HeaderMap, body: Body) -> Result<FormFile, Rejection> {
    let boundary = fields
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| multer::parse_boundary(value).ok())
        .ok_or_else(|| broken("the type has no boundary"))?;
    let limits = SizeLimit::new().per_field(u64::MAX);
    let constraints = Constraints::new().size_limit(limits);
    let around = Arc::new(Around::default());
    let counted = {
        let around = Arc::clone(&around);
        body.into_data_stream().map(move |bytes| match bytes {
            Ok(bytes) if around.is_exceeded_by(bytes.len()) => Err(Refused::TooMuchAround),
            Ok(bytes) => Ok(bytes),
            Err(error) => Err(Refused::Cut(error)),
        })
    };
    let mut form = Multipart::with_constraints(counted, boundary, constraints);
    let (file, name, start) = loop {
        let Some(mut field) = next(&mut form).await? else {
            return Err(broken("the form has no file"));
        };
        let Some(name) = disposition::form_file_name(field.headers()) else {
            pass_over(field).await?;
            continue;
        };
        // A browser's field in which no file was chosen has neither a name nor bytes.
        if !name.is_empty() {
            break (field, name, None);
        }
        if let Some(start) = chunk(&mut field).await? {
            break (field, name, Some(start));
        }
    };
    content::check(file.headers())?;
    let description = Description {
        media_type: media_type::declared(file.headers()),
        filename: disposition::sanitised(&name),
    };
    let digests = StatedDigests::read(file.headers())?;
    around.in_file.store(true, Ordering::Relaxed);
    let rest = stream::once(async move {
        around.in_file.store(false, Ordering::Relaxed);
        match end(form).await {
            Ok(()) => None,
            Err(rejection) => Some(Err(BodyFault::Broken(rejection))),
        }
    });
    let body = stream::iter(start.map(Ok))
        .chain(file)
        .map(|bytes| match bytes {
            Ok(bytes) => Ok(BodyPart::Data(bytes)),
            Err(error) => Err(fault(&error)),
        })
        .chain(rest.filter_map(async |fault| fault))
        .boxed();
    Ok(FormFile {
        description,
        digests,
        body,
    })
}

/// Reads the parts after the file.
async fn end(mut form: Multipart<'static>) -> Result<(), Rejection> {
    while let Some(mut field) = next(&mut form).await? {
        let name = disposition::form_file_name(field.headers());
        let is_empty = chunk(&mut field).await?.is_none();
        if name.is_some_and(|name| !name.is_empty() || !is_empty) {
            return Err(broken("the form has more than one file"));
        }
        pass_over(field).await?;
    }
    Ok(())
}

async fn next(form: &mut Multipart<'static>) -> Result<Option<Field<'static>>, Rejection> {
    form.next_field()
        .await
        .map_err(|error| broken(&error.to_string()))
}

/// Reads the next bytes of a field; never returns an empty chunk.
async fn chunk(field: &mut Field<'static>) -> Result<Option<Bytes>, Rejection> {
    loop {
        let chunk = field.chunk().await;
        match chunk.map_err(|error| broken(&error.to_string()))? {
            Some(bytes) if bytes.is_empty() => {}
            chunk => return Ok(chunk),
        }
    }
}

async fn pass_over(mut field: Field<'static>) -> Result<(), Rejection> {
    while chunk(&mut field).await?.is_some() {}
    Ok(())
}

/// Reason to stop reading the form.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("there is too much around the file")]
    TooMuchAround,
    #[error("the body was cut")]
    Cut(#[source] axum::Error),
}

fn fault(error: &multer::Error) -> BodyFault {
    match error {
        multer::Error::StreamReadFailed(_) | multer::Error::IncompleteFieldData { .. } => {
            BodyFault::Cut
        }
        error => BodyFault::Broken(broken(&error.to_string())),
    }
}

fn broken(reason: &str) -> Rejection {
    Rejection::malformed("Content-Type", format!("{FORM}: {reason}"))
}
