//! HTTP: transport, routes, answers. Nothing here decides a rule; handlers extract, call one use case, and respond.

mod extract;
pub mod interim;
mod problem;
mod respond;
pub mod routes;
pub mod serve;
