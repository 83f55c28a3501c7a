//! The domain's words in answers.

pub(crate) mod content;
pub(crate) mod file;
pub(crate) mod pack;
pub(crate) mod upload;
