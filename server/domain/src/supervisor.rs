//! Supervision of the tasks that the server cannot do without.
//!
//! The rule: a task that lives as long as the server is spawned here ([`Supervisor::spawn`]), and a
//! thread or a worker of a store is watched from here. A task that panics, or that ends although
//! the server is not stopping, is a [`Failure`]: `/livez` reports it, and the process ends with it.
//! No task is restarted in place: the state of its work is unknown, whereas a new process resumes
//! everything from durable state.

use std::future::Future;
use std::sync::Arc;
use std::thread;

use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Watches the tasks of one server. Clones share their state.
#[derive(Debug, Clone, Default)]
pub struct Supervisor {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    failure: Option<Failure>,
}

/// The end of a task that the server needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{task} {}", if *.panicked { "has panicked" } else { "has ended" })]
pub struct Failure {
    /// Name of the task, which can begin a sentence.
    pub task: &'static str,
    /// True if the task panicked; false if it returned or was dropped.
    pub panicked: bool,
}

impl Supervisor {
    /// Spawns a task that the server needs until [`Supervisor::stop`].
    pub fn spawn<T: Send + 'static>(
        &self,
        task: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let watched = Watched {
            supervisor: self.clone(),
            task,
        };
        tokio::spawn(async move {
            let _until_it_ends = watched;
            work.await
        })
    }

    /// Allows tasks to end from now on, since the server stops. A panic stays a failure.
    pub fn stop(&self) {
        self.state.send_modify(|state| state.stopping = true);
    }

    /// Fails if a task has failed.
    ///
    /// # Errors
    ///
    /// The first failure.
    pub fn check(&self) -> Result<(), Failure> {
        self.state.borrow().failure.map_or(Ok(()), Err)
    }

    /// Waits for the first failure.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn failure(&self) -> Failure {
        let mut state = self.state.subscribe();
        let failed = state.wait_for(|state| state.failure.is_some()).await;
        let failed = failed.expect("`self` holds the sender");
        failed.failure.expect("waited for")
    }

    fn ended(&self, task: &'static str, panicked: bool) {
        self.state.send_if_modified(|state| {
            let is_failure = panicked || !state.stopping;
            let is_first = state.failure.is_none();
            if is_failure && is_first {
                state.failure = Some(Failure { task, panicked });
            }
            is_failure && is_first
        });
    }
}

/// Reports the end of a task when dropped, however the task ends.
struct Watched {
    supervisor: Supervisor,
    task: &'static str,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.supervisor.ended(self.task, thread::panicking());
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_a_failure_even_while_the_server_stops() {
        for stopping in [false, true] {
            let supervisor = Supervisor::default();
            if stopping {
                supervisor.stop();
            }
            let panicking = supervisor.spawn("the janitor", async { panic!("as a test wants it") });
            let failure = supervisor.failure().await;
            assert_eq!(failure.to_string(), "the janitor has panicked");
            assert_eq!(supervisor.check(), Err(failure));
            let ended: Result<(), _> = panicking.await;
            assert!(ended.unwrap_err().is_panic());
        }
    }

    #[tokio::test]
    async fn a_panic_after_a_pause_is_found_as_well() {
        let supervisor = Supervisor::default();
        let held = [1];
        supervisor.spawn("accepting", async move {
            tokio::task::yield_now().await;
            assert!(held.is_empty(), "as a test wants it");
        });
        assert!(supervisor.failure().await.panicked);
    }

    #[tokio::test]
    async fn a_task_that_ends_or_is_dropped_is_a_failure_until_the_server_stops() {
        let supervisor = Supervisor::default();
        supervisor.spawn("the janitor", ready(())).await.unwrap();
        assert_eq!(
            supervisor.failure().await.to_string(),
            "the janitor has ended"
        );

        let supervisor = Supervisor::default();
        let dropped = supervisor.spawn("the janitor", pending::<()>());
        dropped.abort();
        assert!(!supervisor.failure().await.panicked);

        let supervisor = Supervisor::default();
        let stays = supervisor.spawn("the janitor", pending::<()>());
        supervisor.stop();
        supervisor.spawn("accepting", ready(())).await.unwrap();
        stays.abort();
        stays.await.unwrap_err();
        assert_eq!(supervisor.check(), Ok(()));
    }

    #[tokio::test]
    async fn the_first_failure_is_the_one_that_is_told() {
        let supervisor = Supervisor::default();
        supervisor.spawn("accepting", ready(())).await.unwrap();
        supervisor.spawn("the janitor", ready(())).await.unwrap();
        assert_eq!(supervisor.failure().await.task, "accepting");
    }
}
