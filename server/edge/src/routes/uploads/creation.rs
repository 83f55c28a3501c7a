//! Requests that create an upload.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use domain::Uploads;
use domain::upload;
use domain::uploads::ProgressSink;
use protocol::answer::Via;

use crate::api::Api;
use crate::extract::pack::{DraftPath, NewPackPath};
use crate::extract::{Access, Exchange, NewUpload, Target};
use crate::problem::Failure;
use crate::respond::upload::{Announcer, Answering};

/// Creates an upload at a path that the server chooses.
pub(in crate::routes) async fn create(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    exchange: Exchange,
    new: NewUpload,
) -> Result<Response, Failure> {
    Box::pin(creation(api, uploads, None, exchange, new)).await
}

/// Creates an upload at a path that the client chooses.
pub(in crate::routes) async fn create_at(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    Target(path): Target,
    exchange: Exchange,
    new: NewUpload,
) -> Result<Response, Failure> {
    let target = upload::Target::File(path);
    Box::pin(creation(api, uploads, Some(target), exchange, new)).await
}

/// Creates an upload of an archive with contents of a draft.
pub(in crate::routes) async fn create_content(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    DraftPath { pack, draft }: DraftPath,
    exchange: Exchange,
    new: NewUpload,
) -> Result<Response, Failure> {
    let target = upload::Target::Draft { pack, draft };
    Box::pin(creation(api, uploads, Some(target), exchange, new)).await
}

/// Creates an upload of an archive of a whole tree, which is to become a version.
pub(in crate::routes) async fn create_version(
    State(api): State<Api>,
    uploads: Access<Uploads>,
    NewPackPath(pack): NewPackPath,
    exchange: Exchange,
    new: NewUpload,
) -> Result<Response, Failure> {
    let target = upload::Target::Pack(pack);
    Box::pin(creation(api, uploads, Some(target), exchange, new)).await
}

async fn creation(
    api: Api,
    Access(uploads): Access<Uploads>,
    target: Option<upload::Target>,
    exchange: Exchange,
    new: NewUpload,
) -> Result<Response, Failure> {
    let uploads = exchange.uploads(uploads);
    let answering = Answering {
        api,
        dialect: new.dialect,
        limits: uploads.limits(),
        via: Via::Creation,
    };
    let (creation, body) = new.at(target);
    let announcer = Arc::new(Announcer::new(answering.clone(), exchange.interim));
    let sink = Arc::clone(&announcer) as Arc<dyn ProgressSink>;
    match uploads.create(creation, body, sink).await {
        Ok(outcome) => Ok(answering.outcome(&outcome)),
        Err(failure) => Err(answering.failed(&failure, announcer.announced())),
    }
}
