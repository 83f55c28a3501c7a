//! Blocking work on a thread of its own, with progress, and stopped when its future is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::Error;
use crate::transfer::{self, Report};

/// Progress of some work, and its stop signal.
#[derive(Debug, Default)]
pub(super) struct Work {
    done: AtomicU64,
    stop: AtomicBool,
}

impl Work {
    /// Counts processed bytes.
    ///
    /// # Errors
    ///
    /// The work has to stop.
    pub(super) fn advance(&self, bytes: u64) -> Result<(), Error> {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Transfer(transfer::Error::Interrupted {
                how_to_go_on: "run the same command again".to_owned(),
            }));
        }
        Ok(())
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Guard that stops the work when it is dropped: the program would not end before the thread does.
struct Wanted(Arc<Work>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Runs `work` on a thread of its own and reports its progress of `total` bytes.
///
/// # Cancel safety
///
/// Dropping the future stops the work at its next [`Work::advance`].
pub(super) async fn watched<T: Send + 'static>(
    report: &mut Report,
    what: &str,
    total: u64,
    work: impl FnOnce(&Work) -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let wanted = Wanted(Arc::default());
    let progress = Arc::clone(&wanted.0);
    let mut thread = tokio::task::spawn_blocking({
        let progress = Arc::clone(&progress);
        move || work(&progress)
    });
    report.started(what, "", Some(total), 0);
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    let ended = loop {
        tokio::select! {
            ended = &mut thread => break ended,
            // A dropped tick comes again.
            _ = ticks.tick() => report.progress(progress.done.load(Ordering::Relaxed), Some(total)),
        }
    };
    report.step_done();
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}
