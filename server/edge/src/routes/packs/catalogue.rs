//! A version's catalogue, its signature, and single files.

use std::sync::Arc;

use archive::Sha256Digest;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use domain::{Packs, file};
use http::header::{CONTENT_ENCODING, CONTENT_LOCATION, VARY};
use http::{HeaderMap, HeaderValue};
use protocol::coding::Coding;
use protocol::conditional::{DateOf, EntityTag};
use protocol::disposition::{self, Disposition};
use protocol::media_type;
use serde::{Deserialize, Serialize};

use super::{lasting, published};
use crate::api::Api;
use crate::extract::pack::{Names, VersionPath};
use crate::extract::{Access, Asked};
use crate::problem::{Failure, Missing};
use crate::respond::content::{BYTES, Representation};
use crate::respond::document::{self, document};
use crate::respond::file::repr_digest;
use crate::respond::pack::version_url;
use crate::respond::{JSON, url_value};

/// Answers with the catalogue in the coding that the client prefers.
pub(super) async fn catalogue(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    VersionPath { pack, number }: VersionPath,
    asked: Asked,
) -> Result<Response, Failure> {
    let version = packs.version(&pack, number).await?;
    let coding = Coding::preferred(&asked.fields);
    let mut others = HeaderMap::from_iter([(VARY, HeaderValue::from_static("Accept-Encoding"))]);
    if coding != Coding::Identity {
        others.insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
    }
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
        tag: catalogue_tag(&version.catalogue.sha256, coding),
        last_modified: Some(published(version.published_at, number, DateOf::Codings)),
        size: content.size,
        media_type: JSON,
        disposition: Some(disposition::write(Disposition::Attachment, &file_name)),
        // RFC 9530 §3: of the representation, which is coded.
        repr_digest: Some(repr_digest(&content.sha256)),
        others,
        cache_control: lasting(number),
    };
    let open = async { Ok(packs.open_catalogue(&version, coding).await?) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

fn catalogue_tag(sha256: &Sha256Digest, coding: Coding) -> EntityTag {
    let tag = match coding {
        Coding::Identity => EntityTag::strong(sha256.to_string()),
        Coding::Gzip | Coding::Zstd => EntityTag::strong(format!("{sha256}.{}", coding.name())),
    };
    tag.expect("hexadecimal digits and a name are a tag")
}

/// Answers with the catalogue's signature.
pub(super) async fn signature(
    Access(packs): Access<Packs>,
    VersionPath { pack, number }: VersionPath,
    asked: Asked,
) -> Result<Response, Failure> {
    let version = packs.version(&pack, number).await?;
    let signature = packs.signature(&version).await?;
    let signature = signature.ok_or(Missing::SigningKey)?;
    let bytes = Bytes::copy_from_slice(&signature.0);
    document::bytes(&asked, bytes, BYTES, None).await
}

#[derive(Debug, Serialize)]
struct SigningKey {
    algorithm: &'static str,
    public_key: String,
}

/// Answers with the key that verifies signatures.
pub(super) async fn signing_key(
    Access(packs): Access<Packs>,
    asked: Asked,
) -> Result<Response, Failure> {
    let Some(key) = packs.verifying_key() else {
        return Err(Missing::SigningKey.into());
    };
    let key = SigningKey {
        algorithm: "ed25519",
        public_key: STANDARD.encode(key),
    };
    document(&asked, &key, None).await
}

/// Answers with one file of a version.
pub(super) async fn file(
    Access(packs): Access<Packs>,
    VersionPath { pack, number }: VersionPath,
    Names(FileVariable { path }): Names<FileVariable>,
    asked: Asked,
) -> Result<Response, Failure> {
    let found = packs.file(&pack, number, &path).await?;
    let path = found.path.as_str();
    let file_name = path.rsplit('/').next().unwrap_or(path);
    let media_type = media_type::of_name(path);
    let representation = Representation {
        tag: file::tag(&found.sha256),
        last_modified: Some(published(found.published_at, number, DateOf::This)),
        size: found.size,
        media_type: media_type.map_or(BYTES, HeaderValue::from_static),
        disposition: Some(disposition::write(Disposition::Attachment, file_name)),
        repr_digest: Some(repr_digest(&found.sha256)),
        others: HeaderMap::new(),
        cache_control: lasting(number),
    };
    let open = async { Ok(Arc::clone(&found.blob)) };
    representation
        .answer(&asked.method, &asked.fields, open)
        .await
}

#[derive(Deserialize)]
pub(super) struct FileVariable {
    path: String,
}
