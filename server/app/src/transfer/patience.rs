//! Policy of retries.

use std::time::Duration;

/// Maximum wait after doubling.
const LONGEST: Duration = Duration::from_secs(60);
/// Maximum wait that a server can request.
const LONGEST_ASKED: Duration = Duration::from_secs(3600);

/// Counter of attempts in a row that moved no bytes.
#[derive(Debug)]
pub(crate) struct Patience {
    retries: u32,
    first_delay: Duration,
    fruitless: u32,
}

impl Patience {
    pub(crate) fn new(retries: u32, first_delay: Duration) -> Self {
        Self {
            retries,
            first_delay,
            fruitless: 0,
        }
    }

    /// Resets the counter, since bytes moved.
    pub(crate) fn reset(&mut self) {
        self.fruitless = 0;
    }

    /// Counts a failed attempt. Returns the wait before the next one; `None` if there were enough.
    ///
    /// `random` spreads clients that were cut together, between half the wait and all of it.
    pub(crate) fn next(&mut self, asked: Option<Duration>, random: u32) -> Option<Duration> {
        self.fruitless += 1;
        if self.fruitless > self.retries {
            return None;
        }
        let longest = self.longest(self.fruitless);
        let wait = longest.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX));
        Some(wait.max(asked.unwrap_or_default().min(LONGEST_ASKED)))
    }

    /// Returns the maximum wait after `fruitless` attempts in a row.
    fn longest(&self, fruitless: u32) -> Duration {
        let doublings = fruitless.saturating_sub(1).min(16);
        self.first_delay.saturating_mul(1 << doublings).min(LONGEST)
    }

    /// Returns the sum of the remaining waits if no byte moves any more.
    pub(crate) fn left(&self) -> Duration {
        let first = self.fruitless.saturating_add(1);
        // From the seventeenth on, all waits are equal.
        let last = self.retries.min(first.saturating_add(16));
        let growing: Duration = (first..=last).map(|attempt| self.longest(attempt)).sum();
        growing.saturating_add(LONGEST.saturating_mul(self.retries.saturating_sub(last)))
    }

    /// Number of attempts in a row that moved no bytes.
    pub(crate) fn fruitless(&self) -> u32 {
        self.fruitless
    }

    /// Maximum number of such attempts.
    pub(crate) fn retries(&self) -> u32 {
        self.retries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_end() {
        let mut patience = Patience::new(9, Duration::from_millis(500));
        let waits: Vec<_> = std::iter::from_fn(|| patience.next(None, u32::MAX))
            .map(|wait| wait.as_millis())
            .collect();
        assert_eq!(
            waits,
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
        );
    }

    #[test]
    fn what_is_left_is_the_sum_of_the_waits() {
        let mut patience = Patience::new(4, Duration::from_secs(1));
        assert_eq!(patience.left(), Duration::from_secs(1 + 2 + 4 + 8));
        patience.next(None, 0);
        assert_eq!(patience.left(), Duration::from_secs(2 + 4 + 8));
        patience.reset();
        assert_eq!(patience.left(), Duration::from_secs(15));
        for _ in 0..5 {
            patience.next(None, 0);
        }
        assert_eq!(patience.left(), Duration::ZERO);
        assert!(Patience::new(u32::MAX, Duration::MAX).left() > Duration::from_secs(1 << 32));
    }

    #[test]
    fn progress_begins_the_count_again() {
        let mut patience = Patience::new(2, Duration::from_secs(1));
        for _ in 0..10 {
            assert_eq!(patience.next(None, u32::MAX), Some(Duration::from_secs(1)));
            patience.reset();
        }
        assert!(patience.next(None, 0).is_some() && patience.next(None, 0).is_some());
        assert_eq!(patience.next(None, 0), None);
    }

    #[test]
    fn waits_are_spread_and_respect_what_the_server_asks() {
        let wait = |asked, random| {
            Patience::new(1, Duration::from_secs(4))
                .next(asked, random)
                .unwrap()
        };
        assert_eq!(wait(None, 0), Duration::from_secs(2));
        assert_eq!(wait(None, u32::MAX), Duration::from_secs(4));
        assert_eq!(
            wait(Some(Duration::from_secs(1)), 0),
            Duration::from_secs(2)
        );
        assert_eq!(
            wait(Some(Duration::from_secs(30)), 0),
            Duration::from_secs(30)
        );
        assert_eq!(wait(Some(Duration::from_secs(1 << 40)), 0), LONGEST_ASKED);
    }

    #[test]
    fn no_wait_overflows() {
        let mut patience = Patience::new(u32::MAX, Duration::MAX);
        assert_eq!(
            (0..100).filter_map(|_| patience.next(None, u32::MAX)).max(),
            Some(LONGEST)
        );
    }
}
