//! Packs, versions and drafts that a path names.

use archive::{ArchiveFormat, PackName};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use domain::DraftId;
use http::request::Parts;
use protocol::problem::Problem;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::problem::{Failure, Missing, kinds};

/// Variables of a route's path, read from text that decodes to UTF-8.
pub(crate) struct Names<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(error) => Err(unreadable(&error)),
        }
    }
}

fn unreadable(error: &PathRejection) -> Failure {
    Problem::new(kinds::INVALID_PATH)
        .detailed(error.body_text())
        .into()
}

/// Pack in a path.
pub(crate) struct PackPath(pub(crate) PackName);

/// Pack in a path to which versions are added. Some names would hide other resources.
pub(crate) struct NewPackPath(pub(crate) PackName);

/// Version of a pack in a path.
pub(crate) struct VersionPath {
    pub(crate) pack: PackName,
    /// The version's number; `None` for `latest`.
    pub(crate) number: Option<u64>,
}

/// Draft of a version in a path.
pub(crate) struct DraftPath {
    pub(crate) pack: PackName,
    pub(crate) draft: DraftId,
}

/// Last segment of a path, which names an archive if it has an extension.
pub(crate) struct ArchiveName {
    pub(crate) stem: String,
    pub(crate) format: Option<ArchiveFormat>,
}

#[derive(Deserialize)]
struct PackVariable {
    pack: String,
}

#[derive(Deserialize)]
struct VersionVariables {
    pack: String,
    v: String,
}

#[derive(Deserialize)]
struct DraftVariables {
    pack: String,
    draft: String,
}

impl<S: Send + Sync> FromRequestParts<S> for PackPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Names(PackVariable { pack }) = Names::from_request_parts(parts, state).await?;
        Ok(Self(pack_name(&pack)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for NewPackPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let PackPath(pack) = PackPath::from_request_parts(parts, state).await?;
        if pack.as_str() == "signing-key" {
            return Err(Problem::new(kinds::INVALID_PATH)
                .detailed(
                    "Choose another name for the pack: /packs/signing-key is the server's key.",
                )
                .into());
        }
        Ok(Self(pack))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for VersionPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Names(VersionVariables { pack, v }) = Names::from_request_parts(parts, state).await?;
        Ok(Self {
            pack: pack_name(&pack)?,
            number: match v.as_str() {
                "latest" => None,
                number => Some(version_number(number)?),
            },
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for DraftPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Names(DraftVariables { pack, draft }) = Names::from_request_parts(parts, state).await?;
        Ok(Self {
            pack: pack_name(&pack)?,
            draft: draft.parse().map_err(|_| Missing::Draft)?,
        })
    }
}

impl ArchiveName {
    /// Splits a known extension off.
    pub(crate) fn parse(name: &str) -> Self {
        let split = name.rsplit_once('.').and_then(|(stem, extension)| {
            let format = ArchiveFormat::from_extension(extension)?;
            Some((stem, format))
        });
        match split {
            Some((stem, format)) => Self {
                stem: stem.to_owned(),
                format: Some(format),
            },
            None => Self {
                stem: name.to_owned(),
                format: None,
            },
        }
    }
}

/// Reads a version's number, which has one spelling.
pub(crate) fn version_number(text: &str) -> Result<u64, Missing> {
    let number: Option<u64> = text.parse().ok();
    number
        .filter(|number| number.to_string() == text)
        .ok_or(Missing::Version)
}

fn pack_name(name: &str) -> Result<PackName, Failure> {
    PackName::parse(name).map_err(|error| {
        Problem::new(kinds::INVALID_PATH)
            .detailed(format!("{name:?} cannot be the name of a pack: {error}."))
            .into()
    })
}
