//! Time as a parameter.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use crate::Timestamp;

/// A source of time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Returns the present time.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> Timestamp {
        SystemTime::now().into()
    }
}

/// A clock that follows another clock, which can be read only now and then: the clock of the
/// metadata store, which all nodes share.
///
/// Between two readings it advances with this machine's clock. A reading moves it no further than
/// necessary to agree with the reading, which was taken at some moment between question and answer;
/// so jitter does not move the clock, and a slow answer does no harm.
#[derive(Debug)]
pub struct FollowingClock {
    own: Arc<dyn Clock>,
    /// Milliseconds by which the other clock is ahead.
    ahead: AtomicI64,
}

impl FollowingClock {
    /// Creates a clock that equals `own` until the first reading.
    pub fn new(own: Arc<dyn Clock>) -> Self {
        Self {
            own,
            ahead: AtomicI64::new(0),
        }
    }

    /// Returns the time of this machine's clock.
    pub fn own(&self) -> Timestamp {
        self.own.now()
    }

    /// Takes a reading into account: the other clock showed `theirs` at some moment between `asked`
    /// and now, by this machine's clock.
    pub fn follow(&self, asked: Timestamp, theirs: Timestamp) {
        let answered = self.own();
        // Timestamps are truncated to whole milliseconds.
        let least = theirs
            .as_millis()
            .saturating_sub(answered.as_millis())
            .saturating_sub(1);
        let most = theirs
            .as_millis()
            .saturating_sub(asked.as_millis())
            .saturating_add(1);
        let ahead = self.ahead.load(Ordering::Relaxed);
        // If this machine's clock was set back meanwhile, the later reading wins.
        let agreed = ahead.min(most).max(least);
        self.ahead.store(agreed, Ordering::Relaxed);
    }
}

impl Clock for FollowingClock {
    fn now(&self) -> Timestamp {
        let ahead = self.ahead.load(Ordering::Relaxed);
        Timestamp::from_millis(self.own().as_millis().saturating_add(ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that shows the time set by the test.
    #[derive(Debug, Default)]
    struct Dial(AtomicI64);

    impl Clock for Dial {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    /// Follows a question at `asked` and its answer at `answered`; returns how far the clock is
    /// then ahead.
    fn follow(clock: &FollowingClock, dial: &Dial, asked: i64, theirs: i64, answered: i64) -> i64 {
        dial.0.store(answered, Ordering::Relaxed);
        clock.follow(
            Timestamp::from_millis(asked),
            Timestamp::from_millis(theirs),
        );
        clock.now().as_millis() - answered
    }

    #[test]
    fn a_clock_moves_no_further_than_it_must() {
        let dial = Arc::new(Dial::default());
        let clock = FollowingClock::new(Arc::clone(&dial) as Arc<dyn Clock>);
        let follow = |asked, theirs, answered| follow(&clock, &dial, asked, theirs, answered);
        // The clocks may agree.
        assert_eq!(follow(1000, 1000, 1002), 0);
        assert_eq!(follow(1000, 1003, 1002), 0);
        // The clocks differ: the other one is ahead by at least 9998.
        assert_eq!(follow(2000, 12_001, 2002), 9998);
        assert_eq!(follow(3000, 13_000, 3000), 9999);
        // A slow answer adds no information.
        assert_eq!(follow(4000, 14_500, 5000), 9999);
        // The other clock is behind.
        assert_eq!(follow(6000, 1000, 6000), -4999);
        // This machine's clock is set back before the answer arrives.
        assert_eq!(follow(7000, 2000, 6500), -4501);
    }
}
