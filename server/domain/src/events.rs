//! What others are told of: each event is a fact with a name and a JSON document.
//!
//! An event is recorded with the fact itself ([`event_store`](crate::event_store)), and delivered afterwards
//! ([`webhooks`](crate::webhooks)). Documents name nothing that is a capability: no upload and no draft.

use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::ids::Randomness;
use crate::pack_store::PackVersion;
use crate::upload::{Completed, Upload};
use crate::{File, Timestamp};

pub use crate::ids::EventId;

/// What kind of fact an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// An upload is complete, in whatever protocol it came, and its bytes are the file under its path.
    #[serde(rename = "upload.completed")]
    UploadCompleted,
    /// A pack has a new version.
    #[serde(rename = "version.published")]
    VersionPublished,
}

impl EventKind {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::UploadCompleted, Self::VersionPublished];

    /// The name that receivers know it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UploadCompleted => "upload.completed",
            Self::VersionPublished => "version.published",
        }
    }
}

impl Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a kind of event")]
pub struct InvalidKind;

impl FromStr for EventKind {
    type Err = InvalidKind;

    fn from_str(text: &str) -> Result<Self, InvalidKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or(InvalidKind)
    }
}

/// A fact that others are told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name, by which receivers know a repetition.
    pub id: EventId,
    /// What kind of fact it is.
    pub kind: EventKind,
    /// What it is about, at most 1,100 bytes: events of one subject are delivered in order.
    pub subject: String,
    /// The JSON document that is delivered, byte by byte.
    pub payload: String,
    /// When it came to be.
    pub created_at: Timestamp,
}

/// Makes the events that somebody wants to be told of, and knows when one was recorded.
#[derive(Debug, Clone, Default)]
pub struct Outbox(Option<Arc<Wanted>>);

#[derive(Debug)]
struct Wanted {
    kinds: Vec<EventKind>,
    randomness: Arc<dyn Randomness>,
    recorded: Notify,
}

impl Outbox {
    /// One that makes events of these kinds.
    pub fn new(kinds: Vec<EventKind>, randomness: Arc<dyn Randomness>) -> Self {
        Self(Some(Arc::new(Wanted {
            kinds,
            randomness,
            recorded: Notify::new(),
        })))
    }

    /// One that makes no events: nobody wants any.
    pub fn silent() -> Self {
        Self::default()
    }

    /// That an upload became a file, if that is what it became and somebody wants to be told.
    pub(crate) fn upload_completed(&self, upload: &Upload, completed: &Completed) -> Option<Event> {
        let file = upload.file(completed)?;
        let subject = format!("file:{}", file.path);
        let data = FileData::new(&file, upload);
        self.event(EventKind::UploadCompleted, subject, completed.at, &data)
    }

    /// That a version was published, if somebody wants to be told.
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

    /// An event was recorded: whoever delivers events is woken.
    pub(crate) fn recorded(&self) {
        if let Some(wanted) = &self.0 {
            wanted.recorded.notify_one();
        }
    }

    /// Waits until an event was recorded by this process, since the last call. Never, where none are made.
    ///
    /// # Cancel safety
    /// Nothing is missed by a call that is dropped.
    pub(crate) async fn wait(&self) {
        match &self.0 {
            Some(wanted) => wanted.recorded.notified().await,
            None => std::future::pending().await,
        }
    }
}

/// A webhook's document, in the shape that Standard Webhooks recommends: `type`, `timestamp` (RFC 3339), `data`.
pub fn document(name: &str, at: Timestamp, data: &impl Serialize) -> String {
    let document = Document {
        name,
        timestamp: humantime::format_rfc3339_millis(at.into()).to_string(),
        data,
    };
    serde_json::to_string(&document).expect("structs of text and numbers are JSON")
}

#[derive(Serialize)]
struct Document<'a, T> {
    #[serde(rename = "type")]
    name: &'a str,
    timestamp: String,
    data: &'a T,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_name_each() {
        for kind in EventKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
        }
        assert_eq!("upload.begun".parse::<EventKind>(), Err(InvalidKind));
    }

    #[test]
    fn a_document_says_what_when_and_the_rest() {
        let data = serde_json::json!({ "path": "a" });
        let at = Timestamp::from_millis(1_614_265_330_250);
        assert_eq!(
            document("upload.completed", at, &data),
            r#"{"type":"upload.completed","timestamp":"2021-02-25T15:02:10.250Z","data":{"path":"a"}}"#
        );
    }
}
