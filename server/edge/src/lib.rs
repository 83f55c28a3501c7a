//! HTTP: routes and answers. No rule is decided here; handlers extract, call one use case, and
//! respond.

pub mod api;
mod extract;
pub mod hosts;
mod problem;
mod respond;
pub mod routes;
