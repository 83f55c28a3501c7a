//! Events of this server, for configured receivers.

use std::sync::Arc;

use serde::Serialize;
use tokio::sync::Notify;

use crate::event::{Event, EventId, EventKind, document};
use crate::ids::Randomness;
use crate::pack::PackVersion;
use crate::upload::{Completed, Upload};
use crate::{File, Timestamp};

/// Creates the events that have a receiver, and wakes their delivery.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Option<Arc<Wanted>>);

#[derive(Debug)]
struct Wanted {
    kinds: Vec<EventKind>,
    randomness: Arc<dyn Randomness>,
    recorded: Notify,
}

impl Outbox {
    /// Creates an outbox for events of these kinds.
    pub fn new(kinds: Vec<EventKind>, randomness: Arc<dyn Randomness>) -> Self {
        Self(Some(Arc::new(Wanted {
            kinds,
            randomness,
            recorded: Notify::new(),
        })))
    }

    /// Creates an outbox that makes no events: there is no receiver.
    pub fn silent() -> Self {
        Self::default()
    }

    /// Creates the event that an upload became a file; `None` if it became something else, or if
    /// the event has no receiver.
    pub(crate) fn upload_completed(&self, upload: &Upload, completed: &Completed) -> Option<Event> {
        let file = upload.file(completed)?;
        let subject = format!("file:{}", file.path);
        let data = FileData::new(&file, upload);
        self.event(EventKind::UploadCompleted, subject, completed.at, &data)
    }

    /// Creates the event that a version was published; `None` if it has no receiver.
    pub(crate) fn version_published(
        &self,
        version: &PackVersion,
        owner: Option<&str>,
    ) -> Option<Event> {
        let subject = format!("pack:{}", version.pack);
        let data = VersionData {
            pack: version.pack.as_str(),
            version: version.number,
            files: version.files,
            size: version.size,
            catalogue_sha256: version.catalogue.sha256.to_string(),
            owner,
        };
        let kind = EventKind::VersionPublished;
        self.event(kind, subject, version.published_at, &data)
    }

    fn event(
        &self,
        kind: EventKind,
        subject: String,
        at: Timestamp,
        data: &impl Serialize,
    ) -> Option<Event> {
        let wanted = self.0.as_ref()?;
        wanted.kinds.contains(&kind).then(|| Event {
            id: EventId::random(&*wanted.randomness),
            kind,
            subject,
            payload: document(kind.as_str(), at, data),
            created_at: at,
        })
    }

    /// Wakes the delivery of events after one was recorded.
    pub(crate) fn recorded(&self) {
        if let Some(wanted) = &self.0 {
            wanted.recorded.notify_one();
        }
    }

    /// Waits until this process has recorded an event since the last call. Without receivers, waits
    /// forever.
    ///
    /// # Cancel safety
    /// May be dropped at any time: no event is missed.
    pub(crate) async fn wait(&self) {
        match &self.0 {
            Some(wanted) => wanted.recorded.notified().await,
            None => std::future::pending().await,
        }
    }
}

#[derive(Serialize)]
struct FileData<'a> {
    path: &'a str,
    size: u64,
    sha256: String,
    etag: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ref: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tus_metadata: Option<&'a str>,
}

impl<'a> FileData<'a> {
    fn new(file: &'a File, upload: &'a Upload) -> Self {
        Self {
            path: file.path.as_str(),
            size: file.content.size,
            sha256: file.content.sha256.to_string(),
            etag: file.etag(),
            media_type: file.description.media_type.as_deref(),
            filename: file.description.filename.as_deref(),
            owner: upload.plan.owner.as_deref(),
            client_ref: upload.plan.client_ref.as_deref(),
            tus_metadata: upload.plan.tus_metadata.as_deref(),
        }
    }
}

#[derive(Serialize)]
struct VersionData<'a> {
    pack: &'a str,
    version: u64,
    files: u64,
    size: u64,
    catalogue_sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
}
