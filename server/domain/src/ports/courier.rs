//! The port to the receiver of events.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::event::Event;

/// A failed delivery of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// The receiver may accept the event later.
    Failed {
        /// The reason; contains nothing secret.
        reason: String,
        /// The delay that the receiver requests before the next attempt.
        retry_after: Option<Duration>,
    },
    /// The receiver says that it will never accept the event.
    Refused {
        /// The reason; contains nothing secret.
        reason: String,
    },
}

/// Delivers events to their receiver.
#[async_trait]
pub trait Courier: Debug + Send + Sync + 'static {
    /// Attempts one delivery, and returns within a bounded time.
    ///
    /// # Cancel safety
    /// If the future is dropped, the receiver may or may not have the event.
    async fn deliver(&self, event: &Event) -> Result<(), Undelivered>;
}
