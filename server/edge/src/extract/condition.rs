//! Fields of a request as text.

use domain::file::WriteCondition;
use http::header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use http::{HeaderMap, HeaderName};
use protocol::problem::Problem;

use crate::problem::{Failure, kinds};

/// Reads the preconditions of a write, combining the lines of a field.
pub(crate) fn condition(fields: &HeaderMap) -> Result<WriteCondition, Failure> {
    Ok(WriteCondition {
        if_match: text(fields, &IF_MATCH)?,
        if_none_match: text(fields, &IF_NONE_MATCH)?,
        if_unmodified_since: text(fields, &IF_UNMODIFIED_SINCE)?,
    })
}

/// Reads a field as text, combining its lines.
pub(crate) fn text(fields: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Failure> {
    let mut lines = Vec::new();
    for value in fields.get_all(name) {
        let line = value.to_str().map_err(|_| {
            Problem::new(kinds::MALFORMED_REQUEST).detailed(format!("Send {name} in ASCII."))
        })?;
        lines.push(line);
    }
    Ok((!lines.is_empty()).then(|| lines.join(", ")))
}
