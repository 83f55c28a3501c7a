//! The `pre-create` webhook: asks a service of the operator whether an upload may begin.

use async_trait::async_trait;
use domain::event::{EventId, document};
use domain::gatekeeper::{Amendment, Closed, Gatekeeper, Proposal};
use domain::ids::SystemRandomness;
use protocol::{disposition, media_type};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use super::OnFailure;
use super::post::Post;

/// `type` of the question.
const QUESTION: &str = "upload.pre-create";
/// Maximum number of characters of a refusal that reach the client.
const MAX_DETAIL: usize = 500;
/// Statuses that are failures of the service instead of decisions about the upload.
const PASSING: [StatusCode; 3] = [
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::TOO_EARLY,
    StatusCode::TOO_MANY_REQUESTS,
];

/// Client of the service at one URL.
#[derive(Debug)]
pub(super) struct Webhook {
    post: Post,
    on_failure: OnFailure,
}

impl Webhook {
    pub(super) fn new(post: Post, on_failure: OnFailure) -> Self {
        Self { post, on_failure }
    }

    /// Asks the service.
    ///
    /// # Errors
    /// The reason why the service gave no decision.
    async fn answer(&self, proposal: &Proposal) -> Result<Result<Amendment, Closed>, String> {
        let id = EventId::random(&SystemRandomness).to_string();
        let question = document(QUESTION, self.post.clock().now(), proposal);
        let mut answer = self.post.send(&id, &question).await?;
        let status = answer.status();
        if status.is_success() {
            let body = self.document(&mut answer).await?;
            return Amended::read(body.as_deref()).map(Ok);
        }
        if status.is_client_error() && !PASSING.contains(&status) {
            let body = self.document(&mut answer).await.unwrap_or_default();
            let detail = body.and_then(|body| detail(&body));
            tracing::info!(%status, detail, "the pre-create webhook refuses an upload");
            return Ok(Err(Closed::Refused { detail }));
        }
        Err(format!("it answered {status}"))
    }

    /// Returns the body of an answer, if it is JSON and not empty.
    async fn document(&self, answer: &mut Response) -> Result<Option<Vec<u8>>, String> {
        let is_json = ["application/json", "application/problem+json"]
            .iter()
            .any(|json| media_type::is(answer.headers(), json));
        if !is_json {
            return Ok(None);
        }
        match self.post.read(answer).await? {
            Some(body) if body.is_empty() => Ok(None),
            Some(body) => Ok(Some(body)),
            None => Err("its answer is too long".to_owned()),
        }
    }
}

#[async_trait]
impl Gatekeeper for Webhook {
    async fn ask(&self, proposal: &Proposal) -> Result<Amendment, Closed> {
        let reason = match self.answer(proposal).await {
            Ok(answer) => return answer,
            Err(reason) => reason,
        };
        tracing::error!(reason, on_failure = ?self.on_failure, "the pre-create webhook failed");
        match self.on_failure {
            OnFailure::Refuse => Err(Closed::Unavailable),
            OnFailure::Allow => Ok(Amendment::default()),
        }
    }
}

/// Changes to the upload. Other members of the object are ignored.
#[derive(Debug, Default, Deserialize)]
struct Amended {
    path: Option<String>,
    media_type: Option<String>,
    filename: Option<String>,
}

impl Amended {
    /// Checks the changes by the same rules as requests of clients.
    fn read(body: Option<&[u8]>) -> Result<Amendment, String> {
        let Some(body) = body else {
            return Ok(Amendment::default());
        };
        let amended: Self = serde_json::from_slice(body)
            .map_err(|error| format!("its answer cannot be read: {error}"))?;
        let path = amended.path.map(|path| {
            path.parse()
                .map_err(|error| format!("its path {path:?} names no file: {error}"))
        });
        let media_type = amended.media_type.map(|text| {
            media_type::parse(&text).ok_or_else(|| format!("{text:?} is no media type"))
        });
        let filename = amended.filename.map(|name| {
            disposition::sanitised(&name).ok_or_else(|| format!("{name:?} is no file name"))
        });
        Ok(Amendment {
            path: path.transpose()?,
            media_type: media_type.transpose()?,
            filename: filename.transpose()?,
        })
    }
}

/// Returns the `detail` of a problem document (RFC 9457), as one line of bounded length.
fn detail(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Problem {
        detail: String,
    }
    let Problem { detail } = serde_json::from_slice(body).ok()?;
    let line: String = detail
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_DETAIL)
        .collect();
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amendments_keep_the_rules_of_clients() {
        let read = |text: &str| Amended::read(Some(text.as_bytes()));
        assert_eq!(Amended::read(None), Ok(Amendment::default()));
        assert_eq!(read(r#"{"ok": true}"#), Ok(Amendment::default()));
        let amended =
            read(r#"{"path": "a/b", "media_type": "Text/Plain", "filename": "../x.txt"}"#);
        let amended = amended.unwrap();
        assert_eq!(amended.path.unwrap().as_str(), "a/b");
        assert_eq!(amended.media_type.unwrap(), "text/plain");
        assert_eq!(amended.filename.unwrap(), "x.txt");
        for wrong in [
            "",
            "[]",
            "no",
            r#"{"path": "../a"}"#,
            r#"{"path": 1}"#,
            r#"{"media_type": "image/*"}"#,
            r#"{"filename": ""}"#,
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_refusal_is_told_in_one_line_of_bounded_length() {
        let told = |text: &str| detail(text.as_bytes());
        let expected = Some("Quota: 3 of 3.".to_owned());
        assert_eq!(told(r#"{"detail": "Quota:\n3 of 3.\n"}"#), expected);
        assert_eq!(told(r#"{"detail": " "}"#), None);
        assert_eq!(told(r#"{"title": "No"}"#), None);
        assert_eq!(told("<html>"), None);
        let long = format!(r#"{{"detail": "{}"}}"#, "ü".repeat(9000));
        assert_eq!(told(&long).unwrap().chars().count(), MAX_DETAIL);
    }
}
