//! Metrics of the transport, through the [`metrics`] facade.

use std::time::Duration;

use metrics::{counter, gauge};

/// Interval at which the gauge of memory is set.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counts a connection or stream as open until dropped.
#[derive(Debug)]
pub(crate) struct Open(&'static str);

impl Open {
    pub(crate) fn connection() -> Self {
        Self::new("longhaul_connections")
    }

    pub(crate) fn stream() -> Self {
        Self::new("longhaul_http2_streams")
    }

    fn new(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

/// Counts an answer that waits for memory.
pub(crate) fn waited() {
    counter!("longhaul_memory_waits_total").increment(1);
}

/// Counts a peer that was cut off because it did not take its answer.
pub(crate) fn stalled() {
    counter!("longhaul_stalled_peers_total").increment(1);
}

/// Counts a connection that was cut because its frames cost more than they carry.
pub(crate) fn flooded() {
    counter!("longhaul_http2_floods_total").increment(1);
}

/// Counts a stream that was refused for want of memory.
pub(crate) fn refused() {
    counter!("longhaul_http2_refused_streams_total").increment(1);
}

/// Reports the memory in use, for ever.
pub(crate) async fn watch(held: impl Fn() -> u64) {
    loop {
        gauge!("longhaul_memory_held_bytes").set(held() as f64);
        tokio::time::sleep(INTERVAL).await;
    }
}
