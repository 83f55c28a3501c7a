//! Time as a parameter.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use crate::Timestamp;

/// Where the time comes from.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The present moment.
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

/// A clock that follows another one, which can be asked only now and then: that of the metadata store, which all nodes share.
///
/// Between two answers it goes as this machine's does. It moves no further than it must to agree with the last answer, which came
/// at some moment between question and answer; so it does not tremble, and a slow answer does no harm.
#[derive(Debug)]
pub struct FollowingClock {
    own: Arc<dyn Clock>,
    /// Milliseconds by which the other one is ahead.
    ahead: AtomicI64,
}

impl FollowingClock {
    /// A clock that goes as `own` does, until it is told better.
    pub fn new(own: Arc<dyn Clock>) -> Self {
        Self {
            own,
            ahead: AtomicI64::new(0),
        }
    }

    /// The moment by this machine's clock.
    pub fn own(&self) -> Timestamp {
        self.own.now()
    }

    /// Takes account of an answer: the other clock's moment was `theirs` somewhere between `asked` and now, by this machine's clock.
    pub fn follow(&self, asked: Timestamp, theirs: Timestamp) {
        let answered = self.own();
        // Moments are cut to whole milliseconds.
        let least = theirs
            .as_millis()
            .saturating_sub(answered.as_millis())
            .saturating_sub(1);
        let most = theirs
            .as_millis()
            .saturating_sub(asked.as_millis())
            .saturating_add(1);
        let ahead = self.ahead.load(Ordering::Relaxed);
        // Where this machine's clock was set back meanwhile, the later reading counts.
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

    /// It says what it is told to.
    #[derive(Debug, Default)]
    struct Dial(AtomicI64);

    impl Clock for Dial {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(self.0.load(Ordering::Relaxed))
        }
    }

    /// A question at `asked` and an answer at `answered`; what the clock then is ahead by.
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
        // They may be the same.
        assert_eq!(follow(1000, 1000, 1002), 0);
        assert_eq!(follow(1000, 1003, 1002), 0);
        // They are not: the other one is ahead by 9998 at least.
        assert_eq!(follow(2000, 12_001, 2002), 9998);
        assert_eq!(follow(3000, 13_000, 3000), 9999);
        // An answer that took long says nothing new.
        assert_eq!(follow(4000, 14_500, 5000), 9999);
        // The other one is behind.
        assert_eq!(follow(6000, 1000, 6000), -4999);
        // This machine's clock is set back while the answer comes.
        assert_eq!(follow(7000, 2000, 6500), -4501);
    }
}
