//! Events for receivers outside: each is a fact with a name and a JSON document.
//!
//! An event is recorded with the fact itself ([`event_store`](crate::event_store)), and delivered
//! afterwards ([`webhooks`](crate::webhooks)). Documents name nothing that is a capability: no
//! upload and no draft.

use std::fmt::{self, Display};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Timestamp;

pub use crate::ids::EventId;

/// Kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EventKind {
    /// An upload is complete, by any protocol, and its bytes are the file under its path.
    #[serde(rename = "upload.completed")]
    UploadCompleted,
    /// A pack has a new version.
    #[serde(rename = "version.published")]
    VersionPublished,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::UploadCompleted, Self::VersionPublished];

    /// Returns the kind's name in documents and configuration.
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

/// A text that is not the name of a kind of event.
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

/// A fact to deliver to receivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its name, by which receivers recognize a repeated delivery.
    pub id: EventId,
    pub kind: EventKind,
    /// The thing that the event concerns, at most 1,100 bytes: events of one subject are delivered
    /// in order.
    pub subject: String,
    /// The JSON document to deliver, byte by byte.
    pub payload: String,
    /// The time at which the fact became true.
    pub created_at: Timestamp,
}

/// Formats a webhook's document in the shape that Standard Webhooks recommends: `type`, `timestamp`
/// (RFC 3339), `data`.
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
