//! Habits in which the server differs from others, for as long as a test needs them.

use std::collections::HashMap;

/// Habits of the server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Habits {
    /// Lists in an order of its own.
    pub(crate) unsorted: bool,
    /// Begins each page of a list with the last entry of the page before.
    pub(crate) repeats: bool,
    /// Leaves out optional facts: times, markers, the quotes of entity tags.
    pub(crate) terse: bool,
    /// States that every list continues.
    pub(crate) endless: bool,
    /// Does not list the last part of a multipart upload.
    pub(crate) hides_last_part: bool,
    /// Ignores conditions.
    pub(crate) unconditional: bool,
    /// Keeps no metadata.
    pub(crate) forgetful: bool,
    /// Does not compare bodies with the digest that the request is signed for.
    pub(crate) trusting: bool,
}

/// Habits, and refusals of operations.
#[derive(Debug, Default)]
pub(super) struct Manner {
    pub(super) habits: Habits,
    /// Status and code, by operation.
    pub(super) refusals: HashMap<&'static str, (u16, &'static str)>,
}

impl Habits {
    /// Returns at most `limit` of the ordered `all` behind the one that `is_marker`, and `true` if
    /// there are more.
    pub(super) fn page<T>(
        self,
        mut all: Vec<T>,
        is_marker: impl Fn(&T) -> bool,
        limit: usize,
    ) -> (Vec<T>, bool) {
        if self.unsorted {
            // The middle first.
            let middle = all.len() / 2;
            all.rotate_left(middle);
        }
        let behind = all.iter().position(is_marker).map_or(0, |at| at + 1);
        let begin = match self.repeats {
            true => behind.saturating_sub(1),
            false => behind,
        };
        let mut page = all.split_off(begin);
        let more = page.len() > limit + behind - begin;
        page.truncate(limit + behind - begin);
        (page, more || self.endless)
    }
}
