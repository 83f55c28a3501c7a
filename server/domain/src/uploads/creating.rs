//! Creations: from a request to a recorded upload that receives its first bytes.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use protocol::digest::{self, Stated, StatedDigests};
use protocol::rejection::Rejection;
use protocol::upload::{Admission, Completion, Create, Limits, Open, Overrun};

use super::intake::Request;
use super::repeat::{Compared, is_repeat};
use super::{Creation, Failure, Maker, Outcome, ProgressSink, Shared};
use crate::body::{BodyFault, BodyPart, UploadBody};
use crate::digest::Hasher;
use crate::gatekeeper::Proposal;
use crate::ids::Randomness;
use crate::metadata_store::{Guarded, Inserted};
use crate::upload::{Gone, Plan, Progress, Target, Upload, UploadState};
use crate::{BlobKey, Error, NodeId, Timestamp, UploadId};

/// A request to create an upload, planned: nothing of the upload exists yet.
#[derive(Debug)]
struct Planned {
    /// The upload to record.
    upload: Upload,
    /// The stated lengths of the body and of the upload.
    create: Create,
    admission: Admission,
    digests: StatedDigests,
    parts: Option<Vec<UploadId>>,
    resumable: bool,
    /// True if the client or the gatekeeper chose the target.
    is_named: bool,
}

/// Inputs of a creation that its request does not state.
#[derive(Debug)]
struct Surroundings<'a> {
    limits: Limits,
    lifetime: Duration,
    node: NodeId,
    owner: Option<String>,
    now: Timestamp,
    randomness: &'a dyn Randomness,
}

impl Planned {
    /// Plans the upload that a creation requests.
    ///
    /// # Errors
    /// Rejections of the rules.
    fn new(creation: Creation, surroundings: Surroundings<'_>) -> Result<Self, Rejection> {
        let Surroundings {
            limits,
            lifetime,
            node,
            owner,
            now,
            randomness,
        } = surroundings;
        let admission = Open::create(&creation.create, &limits)?;
        let works_on_it = creation.resumable && !brings_nothing(&creation);
        let is_named = creation.target.is_some();
        let upload = Upload {
            id: UploadId::random(randomness),
            blob: BlobKey::random(randomness),
            plan: Plan {
                target: creation.target.unwrap_or_else(|| unnamed(randomness)),
                condition: creation.condition,
                description: creation.description,
                repr_digest: recorded(&creation.digests.representation),
                owner,
                client_ref: creation.client_ref,
                idempotency_key: creation.idempotency_key,
                tus_metadata: creation.tus_metadata,
                tus_concat: creation.tus_concat,
            },
            epoch: 1,
            holder: works_on_it.then_some(node),
            reported: None,
            created_at: now,
            expires_at: now.plus(lifetime),
            state: UploadState::Open(Progress {
                open: Open {
                    offset: 0,
                    length: admission.length,
                },
                hash: Hasher::new().state(),
            }),
        };
        Ok(Self {
            upload,
            create: creation.create,
            admission,
            digests: creation.digests,
            parts: creation.parts,
            resumable: creation.resumable,
            is_named,
        })
    }
}

impl Shared {
    /// Creates an upload and receives the request's body.
    pub(super) async fn create(
        &self,
        creation: Creation,
        maker: Maker,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        let Maker { owner, abandoned } = maker;
        let mut planned = Planned::new(creation, self.surroundings(owner))?;
        self.ask_gatekeeper(&mut planned).await?;
        let claim = self.wait_for_claim(planned.upload.id).await?;
        claim.set_epoch(planned.upload.epoch);
        let resumable = planned.resumable;
        if resumable {
            if abandoned.is_cancelled() {
                return Err(Error::ClientGone.into());
            }
            if let Some(existing) = self.insert(&planned.upload).await? {
                drop(claim);
                return self.create_again(planned, existing, body, sink).await;
            }
        }
        let Planned {
            mut upload,
            create,
            admission,
            digests,
            parts,
            resumable,
            is_named,
        } = planned;
        if is_named && let Err(error) = self.check_target(&upload.plan).await {
            if resumable {
                self.invalidate(&mut upload).await?;
            }
            return Err(error.into());
        }
        let is_known = resumable && (sink.created(&upload) || can_be_found(&upload.plan));
        let (request, body) = match parts {
            None => {
                let request = Request {
                    admission,
                    body_length: create.body_length,
                    stated: digests,
                    resumable,
                    begins_as_reported: false,
                };
                (request, body)
            }
            Some(parts) => match self.concatenated(&parts, digests).await {
                Ok(concatenated) => concatenated,
                Err(error) => {
                    self.invalidate(&mut upload).await?;
                    return Err(error.into());
                }
            },
        };
        let mut stops = self.stops(&claim);
        if upload.path().is_none() && !resumable {
            // Unpacking takes a while, and nobody could ask for its outcome.
            stops.abandoned = abandoned;
        }
        let taken = self
            .take_in(&mut upload, request, Hasher::new(), body, &stops, sink)
            .await;
        self.let_go(&mut upload).await;
        drop(claim);
        match taken {
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(self.failed(upload, error, resumable, is_known).await),
        }
    }

    fn surroundings(&self, owner: Option<String>) -> Surroundings<'_> {
        Surroundings {
            limits: self.config.limits(),
            lifetime: self.config.lifetime,
            node: self.node,
            owner,
            now: self.clock.now(),
            randomness: &*self.randomness,
        }
    }

    /// Asks the gatekeeper, if there is one, and applies its amendment.
    async fn ask_gatekeeper(&self, planned: &mut Planned) -> Result<(), Error> {
        let Some(gatekeeper) = &self.hooks.gatekeeper else {
            return Ok(());
        };
        let proposal = Proposal::new(
            &planned.upload.plan,
            planned.is_named,
            planned.admission.length,
            planned.resumable,
        );
        let amendment = gatekeeper.ask(&proposal).await?;
        amendment.apply(&mut planned.upload.plan);
        planned.is_named |= amendment.path.is_some();
        Ok(())
    }

    /// Records a new upload; returns the existing one with the same idempotency key, if any.
    async fn insert(&self, upload: &Upload) -> Result<Option<Upload>, Error> {
        let inserted = self
            .metadata
            .insert_upload(upload)
            .await
            .map_err(Error::metadata("record an upload"))?;
        Ok(match inserted {
            Inserted::New => None,
            Inserted::Existing(existing) => Some(*existing),
        })
    }

    /// Responds to a creation with the idempotency key of an existing upload.
    async fn create_again(
        &self,
        planned: Planned,
        existing: Upload,
        body: UploadBody,
        sink: Arc<dyn ProgressSink>,
    ) -> Result<Outcome, Failure> {
        let compared = Compared {
            // A gatekeeper may name and describe a repeated creation in another way.
            target: planned.is_named && self.hooks.gatekeeper.is_none(),
            description: self.hooks.gatekeeper.is_none(),
        };
        if !is_repeat(&planned.upload.plan, &existing.plan, compared) {
            return Err(Rejection::KeyReused.into());
        }
        let request = (planned.create, planned.digests);
        self.found_again(existing, request, body, sink).await
    }

    /// Cleans up after a creation that received nothing, or not everything; returns its failure.
    async fn failed(
        &self,
        mut upload: Upload,
        error: Error,
        resumable: bool,
        is_known: bool,
    ) -> Failure {
        match error {
            error if upload.plan.is_concatenation() => {
                // A concatenation accepts no bytes from a client, so nobody could resume it.
                match self.invalidate(&mut upload).await {
                    Ok(_) => error.into(),
                    Err(failed) => failed.into(),
                }
            }
            error @ Error::ClientGone if resumable && !is_known => {
                self.forget(&upload).await;
                error.into()
            }
            error if resumable => Failure::of(error, upload),
            error => {
                self.discard(&upload.blob).await;
                error.into()
            }
        }
    }

    /// Gives up an upload whose client does not know it and so cannot resume it.
    async fn forget(&self, upload: &Upload) {
        let now = self.clock.now();
        let ended = self
            .metadata
            .end_upload(&upload.id, Some(upload.epoch), Gone::Cancelled, now)
            .await;
        match ended {
            Ok(Guarded::Done) => self.discard(&upload.blob).await,
            Ok(Guarded::Fenced) => {}
            // The upload will expire.
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "an upload that nobody knows of is kept"
            ),
        }
    }

    /// Fails if the upload could not be completed even if all its bytes were here now.
    async fn check_target(&self, plan: &Plan) -> Result<(), Error> {
        match &plan.target {
            Target::File(path) => {
                let current = self
                    .metadata
                    .file(path)
                    .await
                    .map_err(Error::metadata("read a file"))?;
                match plan.condition.holds(current.as_ref()) {
                    true => Ok(()),
                    false => Err(Error::PreconditionFailed),
                }
            }
            Target::Draft { pack, draft } => {
                self.packs.shared.open_draft(pack, draft).await.map(drop)
            }
            Target::Pack(pack) => {
                let shared = &self.packs.shared;
                shared.check_newest(pack, &plan.condition).await
            }
        }
    }

    /// Builds a request's body from the stored bytes of finished parts, one after the other. A part
    /// may occur more than once.
    async fn concatenated(
        &self,
        parts: &[UploadId],
        stated: StatedDigests,
    ) -> Result<(Request, UploadBody), Error> {
        let refused = |reason: &str| Rejection::malformed("Upload-Concat", reason);
        let mut length: u64 = 0;
        let mut stored = Vec::new();
        for part in parts {
            let upload = self.existing(part).await.map_err(|error| match error {
                Error::NotFound { .. } | Error::Gone(_) => {
                    refused("a part is not an upload of this server").into()
                }
                error => error,
            })?;
            let finished = match &upload.state {
                UploadState::Open(progress) if upload.plan.is_part() => progress
                    .open
                    .length
                    .filter(|length| *length == progress.open.offset),
                UploadState::Open(_) | UploadState::Complete(_) | UploadState::Gone(_) => None,
            };
            let part =
                finished.ok_or_else(|| refused("a part is not a finished partial upload"))?;
            length = length
                .checked_add(part)
                .ok_or(Rejection::InconsistentLength)?;
            stored.push((upload.blob, part));
        }
        let create = Create {
            completion: Completion::WithThisBody,
            length: Some(length),
            body_length: Some(length),
            overrun: Overrun::Discard,
        };
        let limits = Limits {
            // A concatenation has no body.
            max_append_size: None,
            ..self.config.limits()
        };
        let request = Request {
            admission: Open::create(&create, &limits)?,
            body_length: create.body_length,
            stated,
            resumable: true,
            begins_as_reported: false,
        };
        let blobs = Arc::clone(&self.blobs);
        let body = stream::iter(stored)
            .then(move |(blob, length)| {
                let blobs = Arc::clone(&blobs);
                async move { blobs.read_staged(&blob, 0..length).await }
            })
            .map_ok(|part| part.map_ok(BodyPart::Data))
            .try_flatten()
            .map_err(|error| {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a part is unreadable"
                );
                BodyFault::Cut
            });
        Ok((request, body.boxed()))
    }
}

/// Names a file that its client did not name.
fn unnamed(randomness: &dyn Randomness) -> Target {
    let name = BlobKey::random(randomness);
    let path = name.as_str().parse();
    Target::File(path.expect("a key is a path of one segment"))
}

/// Returns true if a client that got no report of its upload can find it.
fn can_be_found(plan: &Plan) -> bool {
    plan.idempotency_key.is_some() || plan.client_ref.is_some()
}

/// Returns true if a creation is finished once its upload is recorded: it brings no bytes, and does
/// not complete the upload.
fn brings_nothing(creation: &Creation) -> bool {
    let create = &creation.create;
    let completes = match create.completion {
        Completion::WithThisBody => true,
        Completion::Later => false,
        Completion::AtLength => create.length == Some(0),
    };
    create.body_length == Some(0) && creation.parts.is_none() && !completes
}

/// Formats the stated digests of the entire upload as they are kept until it is complete.
fn recorded(stated: &[Stated]) -> Option<String> {
    let members: Vec<String> = stated
        .iter()
        .filter_map(|stated| digest::write(stated.algorithm, &stated.value))
        .filter_map(|member| member.to_str().ok().map(str::to_owned))
        .collect();
    (!members.is_empty()).then(|| members.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{Description, WriteCondition};
    use crate::ids::SystemRandomness;

    fn creation(body_length: Option<u64>) -> Creation {
        Creation {
            create: Create {
                completion: Completion::Later,
                length: Some(9),
                body_length,
                overrun: Overrun::Discard,
            },
            resumable: true,
            parts: None,
            target: None,
            condition: WriteCondition::default(),
            description: Description::default(),
            digests: StatedDigests::default(),
            client_ref: None,
            idempotency_key: None,
            tus_metadata: None,
            tus_concat: None,
        }
    }

    fn planned(creation: Creation) -> Planned {
        let surroundings = Surroundings {
            limits: Limits::default(),
            lifetime: Duration::from_secs(60),
            node: NodeId::random(&SystemRandomness),
            owner: Some("ada".to_owned()),
            now: Timestamp::from_millis(1_000),
            randomness: &SystemRandomness,
        };
        Planned::new(creation, surroundings).unwrap()
    }

    #[test]
    fn an_upload_begins_empty_and_expires() {
        let Planned { upload, .. } = planned(creation(None));
        let UploadState::Open(progress) = upload.state else {
            panic!("a new upload is open");
        };
        let (offset, length) = (0, Some(9));
        assert_eq!(progress.open, Open { offset, length });
        assert_eq!(upload.plan.owner.as_deref(), Some("ada"));
        assert_eq!(upload.expires_at, Timestamp::from_millis(61_000));
    }

    #[test]
    fn the_server_names_a_file_only_if_nobody_else_does() {
        let unnamed = planned(creation(None));
        assert!(!unnamed.is_named && unnamed.upload.path().is_some());
        let target = Target::File("a/b".parse().unwrap());
        let named = planned(Creation {
            target: Some(target.clone()),
            ..creation(None)
        });
        assert!(named.is_named);
        assert_eq!(named.upload.plan.target, target);
    }

    #[test]
    fn an_upload_is_held_from_its_creation_only_if_something_is_to_be_done() {
        let is_held = |creation| planned(creation).upload.holder.is_some();
        assert!(is_held(creation(None)));
        assert!(is_held(creation(Some(3))));
        assert!(!is_held(creation(Some(0))));
        let mut complete = creation(Some(0));
        complete.create.length = Some(0);
        complete.create.completion = Completion::AtLength;
        assert!(is_held(complete));
        let mut made_of_parts = creation(Some(0));
        made_of_parts.parts = Some(Vec::new());
        assert!(is_held(made_of_parts));
        let mut of_no_resource = creation(None);
        of_no_resource.resumable = false;
        assert!(!is_held(of_no_resource));
    }
}
