//! Conversion of requests to the domain's types.

mod asked;
pub(crate) mod body;
pub(crate) mod condition;
mod creation;
pub(crate) mod document;
mod exchange;
pub(crate) mod form;
pub(crate) mod pack;
mod path;
mod principal;
pub(crate) mod query;

pub(crate) use asked::Asked;
pub(crate) use creation::NewUpload;
pub(crate) use exchange::Exchange;
pub(crate) use path::{FILES, PACKS, Target, UPLOADS, UploadTarget};
pub(crate) use principal::{Access, HolderAccess};
