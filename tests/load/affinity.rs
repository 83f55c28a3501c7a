//! Core affinity: every server runs on the first core, the client on the second.

use rustix::thread::{CpuSet, sched_setaffinity};

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;

/// Starts a server: the processes that `start` spawns inherit the servers' core.
pub(crate) fn on_server_core<T>(start: impl FnOnce() -> T) -> T {
    pin(SERVER_CORE);
    let started = start();
    take_client_core();
    started
}

/// Moves the calling thread to the servers' core, for processes that it spawns.
pub(crate) fn take_server_core() {
    pin(SERVER_CORE);
}

/// Moves the calling thread to the client's core.
pub(crate) fn take_client_core() {
    pin(CLIENT_CORE);
}

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    cores.set(core);
    // On a single core this fails, and client and servers share it.
    let _ = sched_setaffinity(None, &cores);
}
