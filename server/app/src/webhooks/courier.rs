//! Sends events by `POST`.

use async_trait::async_trait;
use domain::courier::{Courier, Undelivered};
use domain::event::Event;
use reqwest::StatusCode;

use super::post::Post;
use crate::transfer::retry_after;

/// Sender of events to one URL.
#[derive(Debug)]
pub(super) struct Postman(Post);

impl Postman {
    pub(super) fn new(post: Post) -> Self {
        Self(post)
    }
}

#[async_trait]
impl Courier for Postman {
    async fn deliver(&self, event: &Event) -> Result<(), Undelivered> {
        let Self(post) = self;
        let failed = |reason| Undelivered::Failed {
            reason,
            retry_after: None,
        };
        let sent = post.send(&event.id.to_string(), &event.payload).await;
        let mut answer = sent.map_err(failed)?;
        let status = answer.status();
        if status.is_success() {
            // The body is read and ignored, so that the connection can be reused.
            let _ = post.read(&mut answer).await;
            return Ok(());
        }
        let reason = format!("the receiver answered {status}");
        if status == StatusCode::GONE {
            return Err(Undelivered::Refused { reason });
        }
        Err(Undelivered::Failed {
            reason,
            retry_after: retry_after(answer.headers()),
        })
    }
}
