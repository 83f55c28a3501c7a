//! Drafts: trees that clients want to publish, until all their contents are uploaded.

use axum::extract::{Request, State};
use axum::response::Response;
use domain::Packs;
use http::StatusCode;
use http::header::ETAG;

use super::archives::version_document;
use crate::api::Api;
use crate::extract::condition::condition;
use crate::extract::document::document;
use crate::extract::pack::{DraftPath, NewPackPath};
use crate::extract::{Access, Asked};
use crate::problem::Failure;
use crate::respond::document::{created, encoded, fresh, tag};
use crate::respond::pack::{DraftDocument, version_url};

/// Creates a draft of the tree in the request's body.
pub(super) async fn create(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    NewPackPath(pack): NewPackPath,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let tree = document(&head.headers, body)?;
    let draft = packs.create_draft(pack, tree).await?;
    let document = DraftDocument::new(&api, &draft);
    Ok(created(&document.url, &document))
}

/// Answers with a draft and the contents that it lacks.
pub(super) async fn status(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    DraftPath { pack, draft }: DraftPath,
) -> Result<Response, Failure> {
    let draft = packs.draft(&pack, &draft).await?;
    Ok(fresh(StatusCode::OK, &DraftDocument::new(&api, &draft)))
}

/// Deletes a draft.
pub(super) async fn cancel(
    Access(packs): Access<Packs>,
    DraftPath { pack, draft }: DraftPath,
) -> Result<StatusCode, Failure> {
    packs.cancel_draft(&pack, &draft).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Publishes a draft as the pack's newest version.
pub(super) async fn publish(
    State(api): State<Api>,
    Access(packs): Access<Packs>,
    DraftPath { pack, draft }: DraftPath,
    asked: Asked,
) -> Result<Response, Failure> {
    let condition = condition(&asked.fields)?;
    let (version, is_new) = packs.publish(&pack, &draft, &condition).await?;
    let document = version_document(&api, &packs, &version).await?;
    let mut response = if is_new {
        let url = version_url(&api, &version.pack, version.number);
        created(&url, &document)
    } else {
        fresh(StatusCode::OK, &document)
    };
    let tag = tag(&encoded(&document), Some(&version));
    response.headers_mut().insert(ETAG, tag.to_value());
    Ok(response)
}
