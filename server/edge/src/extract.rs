//! Requests in the domain's words.

pub(crate) mod body;
pub(crate) mod document;
pub(crate) mod form;
mod path;
mod principal;
pub(crate) mod query;

pub(crate) use path::{FILES, PACKS, Target, UPLOADS, UploadTarget};
pub(crate) use principal::{Access, HolderAccess};
