#![doc = include_str!("../../ARCHITECTURE.md")]

pub mod cli;
pub mod commands;
pub mod config;
mod copying;
pub mod packs;
pub mod supervisor;
pub mod telemetry;
pub mod transfer;
pub mod webhooks;
pub mod wiring;
