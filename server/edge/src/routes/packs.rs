//! Packs: versions of trees, their archives and differences, and how they are published.

use std::convert::Infallible;
use std::sync::Arc;

use archive::{ArchiveFormat, PackName, Sha256Digest};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::pack_store::PackVersion;
use domain::packs::{Archive, Selection};
use domain::{Authorized, Blob, DraftId, Packs, Timestamp, files};
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LOCATION, CONTENT_TYPE, ETAG, LOCATION, VARY,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use protocol::coding::Coding;
use protocol::conditional::{DateOf, EntityTag, Modified};
use protocol::disposition::{self, Disposition};
use protocol::media_type;
use protocol::problem::Problem;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{page, uploads};
use crate::extract::Access;
use crate::extract::document::document;
use crate::extract::query::malformed;
use crate::problem::{Failure, Missing, kinds};
use crate::respond::content::{BYTES, CHANGING, InMemory, Representation};
use crate::respond::pack::{
    ComparisonDocument, DiffDocument, DraftDocument, PackDocument, PackPage, VersionDocument,
    VersionLine, version_url,
};
use crate::respond::{JSON, file, url_value};
use crate::routes::Api;

/// What never changes under its URL may be kept for good; a cache must not recode it (RFC 9111 §5.2.2.6).
const IMMUTABLE: HeaderValue =
    HeaderValue::from_static("max-age=31536000, immutable, no-transform");
pub(super) fn router() -> Router<Api> {
    Router::new()
        .route("/packs", get(list))
        .route("/packs/signing-key", get(signing_key))
        .route("/packs/{pack}", get(pack))
        .route(
            "/packs/{pack}/versions",
            post(uploads::create_version).options(uploads::discover),
        )
        .route("/packs/{pack}/versions/{v}", get(version).delete(retire))
        .route("/packs/{pack}/versions/{v}/catalogue", get(catalogue))
        .route("/packs/{pack}/versions/{v}/catalogue.sig", get(signature))
        .route("/packs/{pack}/versions/{v}/files/{*path}", get(one_file))
        .route(
            "/packs/{pack}/versions/{v}/archive.zip",
            get(|packs, names, asked| whole(packs, names, asked, ArchiveFormat::Zip)),
        )
        .route(
            "/packs/{pack}/versions/{v}/archive.tar",
            get(|packs, names, asked| whole(packs, names, asked, ArchiveFormat::Tar)),
        )
        .route("/packs/{pack}/versions/{v}/since/{base}", get(since))
        .route("/packs/{pack}/versions/{v}/need/{need}", get(need))
        .route("/packs/{pack}/versions/{v}/diff", post(compare))
        .route("/packs/{pack}/drafts", post(create_draft))
        .route(
            "/packs/{pack}/drafts/{draft}",
            get(draft).delete(cancel_draft),
        )
        .route(
            "/packs/{pack}/drafts/{draft}/content",
            post(uploads::create_content).options(uploads::discover),
        )
        .route("/packs/{pack}/drafts/{draft}/publish", post(publish))
}

/// The variables of a route's path, read from text that decodes to UTF-8.
pub(super) struct Names<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let names = Path::from_request_parts(parts, state).await;
        names
            .map(|Path(names)| Self(names))
            .map_err(|error: PathRejection| {
                Problem::new(kinds::INVALID_PATH)
                    .detailed(error.body_text())
                    .into()
            })
    }
}

/// How a resource is asked for.
struct Asked {
    method: Method,
    fields: HeaderMap,
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            method: parts.method.clone(),
            fields: parts.headers.clone(),
        })
    }
}

/// The name of a pack.
pub(super) fn pack_name(name: &str) -> Result<PackName, Failure> {
    PackName::parse(name).map_err(|error| {
        Problem::new(kinds::INVALID_PATH)
            .detailed(format!("{name:?} cannot be the name of a pack: {error}."))
            .into()
    })
}

/// The name of a draft.
pub(super) fn draft_id(id: &str) -> Result<DraftId, Failure> {
    id.parse().map_err(|_| Missing::Draft.into())
}

/// A version's number; none for `latest`.
fn number(text: &str) -> Result<Option<u64>, Failure> {
    if text == "latest" {
        return Ok(None);
    }
    let canonical = text
        .parse()
        .ok()
        .filter(|number: &u64| number.to_string() == text);
    match canonical {
        Some(number) => Ok(Some(number)),
        None => Err(Missing::Version.into()),
    }
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    limit: Option<String>,
    cursor: Option<String>,
}

impl ListQuery {
    fn read(
        query: Result<Query<Self>, QueryRejection>,
    ) -> Result<(usize, Option<String>), Failure> {
        let Query(query) = query.map_err(|error| malformed(error.body_text()))?;
        Ok((page::limit(query.limit.as_deref())?, query.cursor))
    }
}

#[derive(Debug, Serialize)]
struct PackList {
    packs: Vec<PackDocument>,
    /// Ask with this for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

async fn list(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    query: Result<Query<ListQuery>, QueryRejection>,
    asked: Asked,
) -> Result<Response, Failure> {
    let (limit, cursor) = ListQuery::read(query)?;
    let after = cursor.as_deref().map(page::name).transpose()?;
    let mut found = packs.list(after.as_deref(), limit + 1).await?;
    let cursor = page::cut(&mut found, limit, |last| page::cursor(last.name.as_str()));
    let packs = found
        .iter()
        .map(|pack| PackDocument::new(&api, pack))
        .collect();
    tell(&asked, &PackList { packs, cursor }, None).await
}

async fn pack(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Names(name): Names<String>,
    query: Result<Query<ListQuery>, QueryRejection>,
    asked: Asked,
) -> Result<Response, Failure> {
    let (limit, cursor) = ListQuery::read(query)?;
    let before = cursor
        .map(|cursor| cursor.parse().map_err(|_| page::no_cursor()))
        .transpose()?;
    let (summary, mut versions) = packs.pack(&pack_name(&name)?, before, limit + 1).await?;
    let cursor = page::cut(&mut versions, limit, |last| last.number.to_string());
    let page = PackPage {
        pack: PackDocument::new(&api, &summary),
        versions: versions
            .iter()
            .map(|version| VersionLine::new(&api, version))
            .collect(),
        cursor,
    };
    tell(&asked, &page, summary.latest.as_ref()).await
}

async fn version(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Names((name, v)): Names<(String, String)>,
    asked: Asked,
) -> Result<Response, Failure> {
    let version = packs.version(&pack_name(&name)?, number(&v)?).await?;
    let document = version_document(&api, &packs, &version).await?;
    tell(&asked, &document, Some(&version)).await
}

async fn version_document(
    api: &Api,
    packs: &Authorized<Packs>,
    version: &PackVersion,
) -> Result<VersionDocument, Failure> {
    let archives = archives(packs, version, &Selection::Whole).await?;
    Ok(VersionDocument::new(api, version, &archives))
}

/// An archive of a selection in both formats.
async fn archives(
    packs: &Authorized<Packs>,
    version: &PackVersion,
    selection: &Selection,
) -> Result<[Archive; 2], Failure> {
    let (pack, number) = (&version.pack, Some(version.number));
    Ok([
        packs
            .archive(pack, number, selection, ArchiveFormat::Zip)
            .await?,
        packs
            .archive(pack, number, selection, ArchiveFormat::Tar)
            .await?,
    ])
}

async fn retire(
    Access(packs): Access<Packs>,
    Names((name, v)): Names<(String, String)>,
) -> Result<StatusCode, Failure> {
    let Some(number) = number(&v)? else {
        return Err(malformed(
            "Say which version is to be retired, by its number.",
        ));
    };
    packs.retire(&pack_name(&name)?, number).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn catalogue(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Names((name, v)): Names<(String, String)>,
    asked: Asked,
) -> Result<Response, Failure> {
    let number = number(&v)?;
    let version = packs.version(&pack_name(&name)?, number).await?;
    let coding = Coding::preferred(&asked.fields);
    let sha256 = version.catalogue.sha256;
    let mut others = HeaderMap::from_iter([(VARY, HeaderValue::from_static("Accept-Encoding"))]);
    let tag = match coding {
        Coding::Identity => EntityTag::strong(sha256.to_string()),
        Coding::Gzip | Coding::Zstd => {
            others.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
            EntityTag::strong(format!("{sha256}.{}", coding.name()))
        }
    };
    if number.is_none() {
        let url = format!(
            "{}/catalogue",
            version_url(&api, &version.pack, version.number)
        );
        others.insert(CONTENT_LOCATION, url_value(&url));
    }
    let content = version.coded(coding);
    let file_name = format!("{}-{}.json", version.pack, version.number);
    let representation = Representation {
        tag: tag.expect("hexadecimal digits and a name are a tag"),
        last_modified: Some(published(version.published_at, number, DateOf::Codings)),
        size: content.size,
        media_type: JSON,
        disposition: Some(disposition::write(Disposition::Attachment, &file_name)),
        // RFC 9530 §3: of the representation, which is coded.
        repr_digest: Some(file::repr_digest(&content.sha256)),
        others,
        cache_control: lasting(number),
    };
    let open = async { Ok(packs.open_catalogue(&version, coding).await?) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

async fn signature(
    Access(packs): Access<Packs>,
    Names((name, v)): Names<(String, String)>,
    asked: Asked,
) -> Result<Response, Failure> {
    let version = packs.version(&pack_name(&name)?, number(&v)?).await?;
    let Some(signature) = packs.signature(&version).await? else {
        return Err(Missing::SigningKey.into());
    };
    let bytes = Bytes::copy_from_slice(&signature.0);
    let representation = in_memory(&bytes, BYTES, None);
    let open = async { Ok(Arc::new(InMemory(bytes)) as Arc<dyn Blob>) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

#[derive(Debug, Serialize)]
struct SigningKey {
    algorithm: &'static str,
    public_key: String,
}

async fn signing_key(Access(packs): Access<Packs>, asked: Asked) -> Result<Response, Failure> {
    let Some(key) = packs.verifying_key() else {
        return Err(Missing::SigningKey.into());
    };
    let key = SigningKey {
        algorithm: "ed25519",
        public_key: STANDARD.encode(key),
    };
    tell(&asked, &key, None).await
}

async fn one_file(
    Access(packs): Access<Packs>,
    Names((name, v, path)): Names<(String, String, String)>,
    asked: Asked,
) -> Result<Response, Failure> {
    let number = number(&v)?;
    let found = packs.file(&pack_name(&name)?, number, &path).await?;
    let path = found.path.as_str();
    let file_name = path.rsplit('/').next().unwrap_or(path);
    let media_type = media_type::of_name(path);
    let representation = Representation {
        tag: files::tag(&found.sha256),
        last_modified: Some(published(found.published_at, number, DateOf::This)),
        size: found.size,
        media_type: media_type.map_or(BYTES, HeaderValue::from_static),
        disposition: Some(disposition::write(Disposition::Attachment, file_name)),
        repr_digest: Some(file::repr_digest(&found.sha256)),
        others: HeaderMap::new(),
        cache_control: lasting(number),
    };
    let open = async { Ok(Arc::clone(&found.blob)) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

async fn whole(
    packs: Access<Packs>,
    Names((name, v)): Names<(String, String)>,
    asked: Asked,
    format: ArchiveFormat,
) -> Result<Response, Failure> {
    send(packs, &name, &v, &Selection::Whole, format, asked).await
}

/// What a holder of a version lacks of another: as an archive where the last segment has an extension, else as JSON.
async fn since(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Names((name, v, base)): Names<(String, String, String)>,
    asked: Asked,
) -> Result<Response, Failure> {
    let (base, format) = match with_format(&base) {
        Some((base, format)) => (base, Some(format)),
        None => (base.as_str(), None),
    };
    let Some(base) = number(base)? else {
        return Err(Missing::Version.into());
    };
    let selection = Selection::Since(base);
    if let Some(format) = format {
        return send(Access(packs), &name, &v, &selection, format, asked).await;
    }
    let version = packs.version(&pack_name(&name)?, number(&v)?).await?;
    let archives = archives(&packs, &version, &selection).await?;
    if archives[0].changes_nothing() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let document =
        DiffDocument::new(&api, &archives).expect("a selection since a version has a base");
    tell(&asked, &document, None).await
}

async fn need(
    packs: Access<Packs>,
    Names((name, v, need)): Names<(String, String, String)>,
    asked: Asked,
) -> Result<Response, Failure> {
    let Some((need, format)) = with_format(&need) else {
        return Err(Missing::Archive.into());
    };
    let selection = Selection::Need(need.to_owned());
    send(packs, &name, &v, &selection, format, asked).await
}

/// Splits the extension of an archive off.
fn with_format(name: &str) -> Option<(&str, ArchiveFormat)> {
    let (stem, extension) = name.rsplit_once('.')?;
    Some((stem, ArchiveFormat::from_extension(extension)?))
}

async fn send(
    Access(packs): Access<Packs>,
    name: &str,
    v: &str,
    selection: &Selection,
    format: ArchiveFormat,
    asked: Asked,
) -> Result<Response, Failure> {
    let number = number(v)?;
    let archive = packs
        .archive(&pack_name(name)?, number, selection, format)
        .await?;
    let version = archive.version();
    if matches!(selection, Selection::Since(_)) && archive.changes_nothing() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let stem = match selection {
        Selection::Whole => format!("{}-{}", version.pack, version.number),
        Selection::Since(base) => format!("{}-{base}-to-{}", version.pack, version.number),
        Selection::Need(_) => format!("{}-{}-part", version.pack, version.number),
    };
    let layout = archive.layout();
    let representation = Representation {
        tag: EntityTag::strong(layout.tag().as_str()).expect("base64url is a tag"),
        last_modified: Some(published(version.published_at, number, DateOf::This)),
        size: layout.len(),
        media_type: HeaderValue::from_static(format.media_type()),
        disposition: Some(disposition::write(
            Disposition::Attachment,
            &format!("{stem}.{}", format.extension()),
        )),
        // Nobody has read all of it. Each entry is checked against the catalogue.
        repr_digest: None,
        others: HeaderMap::new(),
        cache_control: lasting(number),
    };
    let open = async { Ok(packs.open_archive(&archive)?) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

async fn compare(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Names((name, v)): Names<(String, String)>,
    query: Result<Query<FormatQuery>, QueryRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let Query(query) = query.map_err(|error| malformed(error.body_text()))?;
    let format = match query.format.as_deref() {
        None => ArchiveFormat::Zip,
        Some(format) => ArchiveFormat::from_extension(format)
            .ok_or_else(|| malformed("A format is zip or tar."))?,
    };
    let (head, body) = request.into_parts();
    let version = packs.version(&pack_name(&name)?, number(&v)?).await?;
    let holdings = document(&head.headers, body)?;
    let lacking = packs
        .compare(&version.pack, Some(version.number), holdings)
        .await?;
    let Some(need) = lacking else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let archives = archives(&packs, &version, &Selection::Need(need.to_string())).await?;
    let document = ComparisonDocument::new(&api, &need, &archives);
    Ok(created(document.url(format), &document))
}

#[derive(Debug, Deserialize)]
struct FormatQuery {
    format: Option<String>,
}

async fn create_draft(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Names(name): Names<String>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let tree = document(&head.headers, body)?;
    let draft = packs.create_draft(publishable(&name)?, tree).await?;
    let document = DraftDocument::new(&api, &draft);
    Ok(created(&document.url, &document))
}

/// The name of a pack that may be published; some names would hide resources of other kinds.
pub(super) fn publishable(name: &str) -> Result<PackName, Failure> {
    if name == "signing-key" {
        let problem = Problem::new(kinds::INVALID_PATH);
        return Err(problem
            .detailed("No pack can have this name: the server's key has it.")
            .into());
    }
    pack_name(name)
}

async fn draft(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Names((name, id)): Names<(String, String)>,
) -> Result<Response, Failure> {
    let draft = packs.draft(&pack_name(&name)?, &draft_id(&id)?).await?;
    Ok(fresh(StatusCode::OK, &DraftDocument::new(&api, &draft)))
}

async fn cancel_draft(
    Access(packs): Access<Packs>,
    Names((name, id)): Names<(String, String)>,
) -> Result<StatusCode, Failure> {
    packs
        .cancel_draft(&pack_name(&name)?, &draft_id(&id)?)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn publish(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    Names((name, id)): Names<(String, String)>,
    asked: Asked,
) -> Result<Response, Failure> {
    let condition = uploads::condition(&asked.fields)?;
    let (version, is_new) = packs
        .publish(&pack_name(&name)?, &draft_id(&id)?, &condition)
        .await?;
    let document = version_document(&api, &packs, &version).await?;
    let mut response = if is_new {
        let url = version_url(&api, &version.pack, version.number);
        created(&url, &document)
    } else {
        fresh(StatusCode::OK, &document)
    };
    let tag = document_tag(&encoded(&document), Some(&version));
    response.headers_mut().insert(ETAG, tag.to_value());
    Ok(response)
}

/// 201 with a document.
fn created(url: &str, document: &impl Serialize) -> Response {
    let mut response = fresh(StatusCode::CREATED, document);
    response.headers_mut().insert(LOCATION, url_value(url));
    response
}

/// A document that is true now and not to be kept.
fn fresh(status: StatusCode, document: &impl Serialize) -> Response {
    let body = encoded(document);
    let fields = [
        (CONTENT_TYPE, JSON),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, fields, body).into_response()
}

/// A document under its URL, with an entity tag by which caches ask whether it changed. Of what is told of a version, or of a pack whose
/// newest it is, the tag can be a condition of publishing.
async fn tell(
    asked: &Asked,
    document: &impl Serialize,
    newest: Option<&PackVersion>,
) -> Result<Response, Failure> {
    let bytes = encoded(document);
    let representation = in_memory(&bytes, JSON, newest);
    let open = async { Ok(Arc::new(InMemory(bytes)) as Arc<dyn Blob>) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

fn encoded(document: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(document).expect("a document of ours is JSON"))
}

/// The state of the pack, where it is of one, and the digest of the bytes.
fn document_tag(bytes: &Bytes, newest: Option<&PackVersion>) -> EntityTag {
    let digest = Sha256Digest::of(bytes);
    match newest {
        None => files::tag(&digest),
        Some(newest) => EntityTag::strong(format!("{}.{digest}", newest.state()))
            .expect("hexadecimal digits and a dot are a tag"),
    }
}

fn in_memory(
    bytes: &Bytes,
    media_type: HeaderValue,
    newest: Option<&PackVersion>,
) -> Representation {
    Representation {
        tag: document_tag(bytes, newest),
        last_modified: None,
        size: bytes.len() as u64,
        media_type,
        disposition: None,
        repr_digest: Some(file::repr_digest(&Sha256Digest::of(bytes))),
        others: HeaderMap::new(),
        cache_control: CHANGING,
    }
}

/// The date of what a version gives. Under its number there is never another; under `latest`, two versions may have the same second.
fn published(at: Timestamp, number: Option<u64>, under_a_number: DateOf) -> Modified {
    Modified {
        at: at.into(),
        date: match number {
            Some(_) => under_a_number,
            None => DateOf::Several,
        },
    }
}

/// How long an answer may be kept: under a number for good, under `latest` not at all.
fn lasting(number: Option<u64>) -> HeaderValue {
    match number {
        Some(_) => IMMUTABLE,
        None => CHANGING,
    }
}
