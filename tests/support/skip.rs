//! Visible skips of tests.

use std::io::Write as _;

/// Reports that the calling test cannot run here, and the reason. `tests/run` counts these lines.
///
/// Bypasses the capture of the test harness, which would hide the line of a passing test.
pub fn skip(test: &str, reason: &str) {
    // A closed standard error cannot be reported anywhere.
    let _ = writeln!(std::io::stderr(), "\nskipped: {test}: {reason}");
}
