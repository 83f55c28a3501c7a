//! Skipping aloud.

use std::io::Write as _;

/// Says that the calling test cannot run here, and why. `tests/run` counts these lines.
///
/// Written past the capture of the test harness, which would hide it in a test that passes.
pub fn skip(test: &str, reason: &str) {
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "\nskipped: {test}: {reason}");
}
