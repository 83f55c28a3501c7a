//! Client for files: uploads and downloads over connections that break.
//!
//! [`upload`] and [`download`] share a `connection` that adds the credential to every request, the
//! `patience` of retries, and a `report` of progress.

mod connection;
pub mod download;
mod error;
mod fields;
mod name;
mod pace;
mod patience;
mod record;
mod report;
mod source;
mod trust;
pub mod upload;
pub(crate) mod words;

use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::Args;
use reqwest::header::{HeaderName, HeaderValue};

pub(crate) use connection::{Connection, chain, is_page, refusal, setback};
pub(crate) use error::Setback;
pub(crate) use error::printable;
pub use error::{Error, Refusal};
pub(crate) use fields::retry_after;
pub(crate) use patience::Patience;
pub(crate) use record::Record;
pub(crate) use report::{Direction, Report, write_line};
pub(crate) use source::{Identity, Source};

/// Variable with the API key that the client commands send.
pub const KEY_VARIABLE: &str = "LONGHAUL_KEY";

/// Options of all client commands.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// API key to send
    #[arg(long, value_name = "KEY", env = KEY_VARIABLE, hide_env_values = true)]
    key: Option<Key>,
    /// Send this header field with every request to the server; repeatable
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Trust only the certificates in this PEM file, of the server itself or of an authority
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    cacert: Option<PathBuf>,
    /// Accept any certificate; for tests only
    #[arg(long)]
    insecure: bool,
    /// Speak HTTP/2 without negotiation, on `http://` too
    #[arg(long)]
    http2_prior_knowledge: bool,
    /// Maximum number of bytes a second, for example 5MiB
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    limit_rate: Option<ByteSize>,
    /// Number of attempts in a row that may move no bytes before giving up
    #[arg(long, value_name = "COUNT", default_value_t = 12)]
    retries: u32,
    /// Wait before the first retry; it doubles up to a minute
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = humantime::parse_duration)]
    retry_delay: Duration,
    /// Retry when no byte has moved for this time
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Write events as lines of JSON to standard output
    #[arg(long)]
    pub(crate) json: bool,
}

impl Options {
    /// Returns the policy of retries.
    pub(crate) fn patience(&self) -> Patience {
        Patience::new(self.retries, self.retry_delay)
    }
}

/// API key. Its `Debug` output hides it.
#[derive(Clone)]
struct Key(HeaderValue);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

impl std::str::FromStr for Key {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut value = HeaderValue::from_str(&format!("Bearer {text}"))
            .map_err(|_| "no key has such characters")?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a field is written as `Name: value`")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("`{name}` is no name of a field"))?;
    let value = HeaderValue::from_str(value.trim())
        .map_err(|_| "the value has characters that no field has")?;
    Ok((name, value))
}

fn parse_rate(text: &str) -> Result<ByteSize, String> {
    match text.parse() {
        Ok(ByteSize(0)) => Err("nothing would ever arrive".to_owned()),
        parsed => parsed,
    }
}

/// Waits for SIGINT or SIGTERM.
pub(crate) async fn interruption() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            // Both branches only wait for a signal, which stays caught if the other comes first.
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler the signal ends the process as usual, so this may wait forever.
    if interrupt.await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_command_line_are_read_or_refused() {
        assert_eq!(
            parse_header("X-Team:  blue "),
            Ok((
                HeaderName::from_static("x-team"),
                HeaderValue::from_static("blue")
            ))
        );
        for wrong in ["X-Team", "X Team: blue", "X-Team: a\nb", ": blue"] {
            assert!(parse_header(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let key: Key = "lh_secret".parse().unwrap();
        assert_eq!(format!("{key:?}"), "<redacted>");
        assert!(!format!("{:?}", key.0).contains("secret"));
        assert!("line\nbreak".parse::<Key>().is_err());
    }
}
