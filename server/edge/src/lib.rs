//! HTTP: routes and answers. Nothing here decides a rule; handlers extract, call one use case, and
//! respond.

mod api;
mod extract;
mod problem;
mod respond;
pub mod routes;
