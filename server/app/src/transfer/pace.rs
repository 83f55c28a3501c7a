//! Limit of the transfer rate.

use std::time::Duration;

use bytesize::ByteSize;
use tokio::time::Instant;

/// Maximum lead of a transfer over its rate after a pause.
const BURST: Duration = Duration::from_millis(200);

/// Rate limiter of a transfer, shared by all of its attempts.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: Option<u64>,
    /// Time at which all bytes so far are due.
    due: Instant,
}

impl Pace {
    pub(super) fn new(limit: Option<ByteSize>) -> Self {
        Self {
            bytes_per_second: limit.map(|ByteSize(rate)| rate.max(1)),
            due: Instant::now(),
        }
    }

    /// Returns the maximum size of a piece, in bytes: a tenth of a second's worth, at most `most`.
    pub(super) fn piece(&self, most: usize) -> usize {
        self.bytes_per_second.map_or(most, |rate| {
            usize::try_from(rate / 10).unwrap_or(most).clamp(1, most)
        })
    }

    /// Counts `bytes` and waits until they are due.
    pub(super) async fn wait(&mut self, bytes: usize) {
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        // Exact enough: a piece is at most a second's worth of bytes times a billion.
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(rate);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let earliest = Instant::now()
            .checked_sub(BURST)
            .unwrap_or_else(Instant::now);
        let start = self.due.max(earliest);
        self.due = start + time;
        tokio::time::sleep_until(start).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_rate_is_kept_and_standing_still_earns_little() {
        let mut pace = Pace::new(Some(ByteSize::kb(100)));
        let start = Instant::now();
        for _ in 0..100 {
            pace.wait(10_000).await;
        }
        let taken = start.elapsed();
        assert!(
            taken > Duration::from_millis(9_600) && taken < Duration::from_millis(10_100),
            "{taken:?}"
        );

        tokio::time::sleep(Duration::from_secs(60)).await;
        let start = Instant::now();
        for _ in 0..100 {
            pace.wait(10_000).await;
        }
        assert!(
            start.elapsed() > Duration::from_millis(9_600),
            "{:?}",
            start.elapsed()
        );
    }

    #[test]
    fn pieces_fit_the_rate() {
        assert_eq!(Pace::new(None).piece(1000), 1000);
        assert_eq!(Pace::new(Some(ByteSize::b(500))).piece(1000), 50);
        assert_eq!(Pace::new(Some(ByteSize::b(1))).piece(1000), 1);
        assert_eq!(Pace::new(Some(ByteSize::gb(5))).piece(1000), 1000);
    }
}
