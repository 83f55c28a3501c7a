//! The port to the receiver of events.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use crate::event::Event;

/// Why a receiver does not have an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undelivered {
    /// It may take the event another time.
    Failed {
        /// Why; without anything secret.
        reason: String,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// It says that it will never take the event.
    Refused {
        /// Why; without anything secret.
        reason: String,
    },
}

/// Brings events to their receiver.
#[async_trait]
pub trait Courier: Debug + Send + Sync + 'static {
    /// Tries once, and ends within a bounded time.
    ///
    /// # Cancel safety
    /// Where it is dropped, the receiver may or may not have the event.
    async fn deliver(&self, event: &Event) -> Result<(), Undelivered>;
}
