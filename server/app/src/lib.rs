#![doc = include_str!("../../ARCHITECTURE.md")]

pub mod cli;
pub mod commands;
pub mod config;
mod copying;
mod data_directory;
pub mod packs;
pub mod service_manager;
pub mod telemetry;
pub mod transfer;
pub mod webhooks;
pub mod wiring;
