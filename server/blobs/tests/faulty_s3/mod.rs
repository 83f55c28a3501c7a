//! S3 server within the tests, in memory, that can fail in every way that one over a network can.
//!
//! It has one bucket, by path, and the operations that the store uses, with the rules of S3 and of
//! compatible servers: conditions, parts of one size that follow one another, no completion without
//! parts. It also checks a promise of the store: a part of a multipart upload is only ever sent
//! with one content ([`FaultyS3::violations`]).
//!
//! Where servers differ, it is as strict as the strictest: nothing can be copied into a multipart
//! upload that was begun with a checksum algorithm (MinIO), its parts are listed without checksums
//! (SeaweedFS), and without those it is not completed; a part has no checksum that its upload was
//! not begun with (Amazon S3). Its [`Habits`] are further differences.
//!
//! The key id that a request is signed with identifies its sender, so that several nodes can share
//! the bucket, and one of them pause.
//!
//! A program that includes this file needs `bytes`, `http`, `http-body-util`, `hyper`,
//! `hyper-util`, `sha2` and `tokio`.

mod faults;
mod habits;
mod requests;
mod state;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::faults::Faults;
pub(crate) use self::faults::{Fault, Pause, next_random};
pub(crate) use self::habits::Habits;
use self::habits::Manner;
use self::requests::Late;
use self::state::State;

/// Name of its bucket.
pub(crate) const BUCKET: &str = "bucket";

/// The server, until the last handle is dropped.
#[derive(Debug, Clone)]
pub(crate) struct FaultyS3 {
    shared: Arc<Shared>,
    _serving: Arc<JoinSet<()>>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
    faults: Mutex<Faults>,
    manner: Mutex<Manner>,
    late: Mutex<Vec<Late>>,
}

impl FaultyS3 {
    /// Starts the server on a free port of loopback.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let shared = Arc::new(Shared {
            address: listener.local_addr().expect("it is bound"),
            state: Mutex::default(),
            faults: Mutex::default(),
            manner: Mutex::default(),
            late: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::clone(&shared)));
        Self {
            shared,
            _serving: Arc::new(serving),
        }
    }

    /// Returns its URL without a path.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Fails the `nth` of the next requests for an operation, counted from 1.
    pub(crate) fn nth(&self, operation: &'static str, nth: u64, fault: Fault) {
        self.faults().plan(operation, nth, fault);
    }

    /// Sets the habits from now on.
    pub(crate) fn behave(&self, habits: Habits) {
        self.shared.manner().habits = habits;
    }

    /// Refuses every request for an operation from now on, with this status and code.
    pub(crate) fn refuse(&self, operation: &'static str, status: u16, code: &'static str) {
        let mut manner = self.shared.manner();
        manner.refusals.insert(operation, (status, code));
    }

    /// Ends all refusals.
    pub(crate) fn relent(&self) {
        self.shared.manner().refusals.clear();
    }

    /// Returns `true` if all planned faults have happened.
    pub(crate) fn is_as_planned(&self) -> bool {
        self.faults().is_as_planned()
    }

    /// Fails about one of `one_in` requests from now on, by a sequence that begins with the seed.
    /// `None` ends all faults.
    pub(crate) fn at_random(&self, one_in: Option<u64>, seed: u64) {
        self.faults().at_random(one_in, seed);
    }

    /// Pauses the sender with this key id after `requests` more requests.
    pub(crate) fn pause(&self, who: &str, requests: u64, moment: Pause) {
        self.faults().pause(who, requests, moment);
    }

    /// Ends its pause.
    pub(crate) fn go_on(&self, who: &str) {
        self.faults().go_on(who);
    }

    /// Waits until it has come to its pause.
    pub(crate) async fn paused(&self, who: &str) {
        let reached = self.faults().reached(who);
        reached.notified().await;
    }

    /// Executes the late requests, for whose answers nobody waits any more.
    pub(crate) fn catch_up(&self) {
        for late in std::mem::take(&mut *self.shared.late()) {
            let habits = self.shared.manner().habits;
            requests::do_late(&mut self.state(), habits, late);
        }
    }

    /// Drops the late requests.
    pub(crate) fn give_up(&self) {
        for (_, hidden) in std::mem::take(&mut *self.shared.late()) {
            self.state().show_upload(hidden);
        }
    }

    /// Returns the names of all objects.
    pub(crate) fn objects(&self) -> BTreeSet<String> {
        self.state().objects()
    }

    /// Returns the number of multipart uploads that are under way.
    pub(crate) fn uploads(&self) -> usize {
        self.state().uploads()
    }

    /// Aborts all multipart uploads.
    pub(crate) fn abort_uploads(&self) {
        self.state().abort_all();
    }

    /// Returns the names of objects of which a part was not verified.
    pub(crate) fn trusted(&self) -> Vec<String> {
        self.state().trusted.clone()
    }

    /// Returns the promises that were broken.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.state().violations.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.shared.faults()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn manner(&self) -> MutexGuard<'_, Manner> {
        self.manner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn late(&self) -> MutexGuard<'_, Vec<Late>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| requests::answer(Arc::clone(&shared), request));
            // A reset is an error here, on purpose.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
