//! Rules beyond the types of settings: contradictions, and values that cannot be intended.
//!
//! The less safe of two settings never wins silently. If two settings contradict each other about
//! access, encryption or bounds, the server does not start, and the message names both settings and
//! their layers.

use std::time::Duration;

use blobs::OpenError;
use bytesize::ByteSize;
use domain::digest::Sha256Digest;
use toml::{Table, Value};
use transport::InterimPolicy;
use url::Url;

use super::Config;
use super::docs::{self, Takes};

/// Broken rule.
#[derive(Debug)]
pub(super) struct Broken {
    /// Full paths of the settings, with dots.
    pub(super) settings: Vec<String>,
    /// The rule, with an example of a right value.
    pub(super) why: String,
}

type Checked = Result<(), Broken>;

fn broken(settings: &[&str], why: impl Into<String>) -> Checked {
    Err(Broken {
        settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
        why: why.into(),
    })
}

impl Config {
    /// Checks every rule; `table` is this configuration as a table.
    pub(super) fn check(&self, table: &Table) -> Checked {
        self.check_access()?;
        self.check_addresses()?;
        self.check_times_and_sizes(table)?;
        self.check_order()?;
        self.check_sections()
    }

    fn check_access(&self) -> Checked {
        let keys = &self.access.keys;
        if self.access.open && !keys.is_empty() {
            return broken(
                &["access.open", "access.keys"],
                "they contradict each other: with keys everybody needs one, `open` lets everybody in. Remove `open` \
                 (`--open`, `LONGHAUL_ACCESS__OPEN`) to ask for a key, or the keys to ask for none",
            );
        }
        let empty = Sha256Digest::of(b"");
        for (index, key) in keys.iter().enumerate() {
            if key.name.trim().is_empty() {
                return broken(
                    &["access.keys"],
                    "a key has no name; call it after who uses it, for example `name = \"laptop\"`",
                );
            }
            if key.sha256 == empty {
                return broken(
                    &["access.keys"],
                    format!(
                        "`{}` is the hash of no key at all; `longhaul hash-key NAME` makes a key, with its line",
                        key.name
                    ),
                );
            }
            let before = &keys[..index];
            if let Some(same) = before.iter().find(|other| other.sha256 == key.sha256) {
                return broken(
                    &["access.keys"],
                    format!(
                        "`{}` and `{}` are the same key; `longhaul hash-key NAME` makes another",
                        same.name, key.name
                    ),
                );
            }
            if before.iter().any(|other| other.name == key.name) {
                return broken(
                    &["access.keys"],
                    format!(
                        "two keys have the name `{0}`; call one `{0}-2`, for example",
                        key.name
                    ),
                );
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Checked {
        match (&self.tls.cert, &self.tls.key) {
            (Some(_), None) => {
                return broken(
                    &["tls.cert"],
                    "`tls.key` belongs to it and is missing, so nothing would be encrypted; for example `key = \"/etc/longhaul/key.pem\"`",
                );
            }
            (None, Some(_)) => {
                return broken(
                    &["tls.key"],
                    "`tls.cert` belongs to it and is missing, so nothing would be encrypted; for example `cert = \"/etc/longhaul/cert.pem\"`",
                );
            }
            _ => {}
        }
        if let Some(url) = &self.public_url {
            let is_plain =
                url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
            if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !is_plain {
                return broken(
                    &["public_url"],
                    "it must be an http or https URL without a user and a query, for example `https://files.example.org`",
                );
            }
            if url.scheme() == "http" && self.tls.cert.is_some() {
                return broken(
                    &["public_url", "tls.cert"],
                    "they contradict each other: the server speaks TLS, and clients would be sent to cleartext; write `https://…`",
                );
            }
        }
        let Some(admin) = self.admin.listen.address() else {
            return Ok(());
        };
        if !admin.is_loopback() && !self.admin.open {
            return broken(
                &["admin.listen"],
                "whoever reaches the admin listener is asked for no credential. Keep it on this machine, for example \
                 `127.0.0.1:8079`; or, where a private network keeps others away, say `open = true` under [admin] \
                 (`LONGHAUL_ADMIN__OPEN=true`)",
            );
        }
        if admin.conflicts_with(self.listen) {
            return broken(
                &["admin.listen", "listen"],
                "both want the same port; give one another, for example `admin.listen = \"127.0.0.1:8079\"`",
            );
        }
        Ok(())
    }

    /// Refuses times and sizes of zero, and those too large to count, in all sections.
    fn check_times_and_sizes(&self, table: &Table) -> Checked {
        /// Settings that may be zero: at once, or none.
        const MAY_BE_NOTHING: [&str; 13] = [
            "blobs.redirect_min_size",
            "cleanup.delete_after",
            "http.drain_delay",
            "http.drain_grace",
            "http.http2.window_growth",
            "http.linger_size",
            "http.linger_timeout",
            "metadata.file_cache",
            "uploads.buffer_memory",
            "uploads.min_append_size",
            "uploads.min_size",
            "uploads.takeover_wait",
            "webhooks.first_retry",
        ];
        /// Durations are added to dates, which have an end.
        const LONGEST: Duration = Duration::from_hours(100 * 365 * 24);
        /// Databases count up to this number.
        const LARGEST: u64 = i64::MAX as u64;

        for path in docs::paths() {
            let (Some(field), Some(Value::String(said))) =
                (docs::find(&path), lookup(table, &path))
            else {
                continue;
            };
            let (is_nothing, is_too_much) = match &field.takes {
                Takes::Time => {
                    let time = humantime::parse_duration(said).unwrap_or_default();
                    (time.is_zero(), time > LONGEST)
                }
                Takes::Size => {
                    let size: u64 = said.parse().map_or(0, |size: ByteSize| size.as_u64());
                    (size == 0, size > LARGEST)
                }
                _ => continue,
            };
            let example = Self::example(&path);
            if is_nothing && !MAY_BE_NOTHING.contains(&path.as_str()) {
                let why = format!("it must be more than nothing, for example `{example}`");
                return broken(&[&path], why);
            }
            if is_too_much {
                let why = format!("{said} is more than can be counted; for example `{example}`");
                return broken(&[&path], why);
            }
        }
        Ok(())
    }

    /// Checks that lower bounds are not above upper bounds.
    fn check_order(&self) -> Checked {
        let uploads = &self.uploads;
        let sizes = [
            (
                "uploads.min_size",
                uploads.min_size,
                "uploads.max_size",
                uploads.max_size,
            ),
            (
                "uploads.min_append_size",
                uploads.min_append_size,
                "uploads.max_append_size",
                uploads.max_append_size,
            ),
            (
                "uploads.min_append_size",
                uploads.min_append_size,
                "uploads.max_size",
                uploads.max_size,
            ),
        ];
        for (low, least, high, most) in sizes {
            if let (Some(least), Some(most)) = (least, most)
                && least > most
            {
                return broken(
                    &[low, high],
                    format!(
                        "{least} is more than {most}, so that nothing fits: make the first smaller or the second larger"
                    ),
                );
            }
        }
        let hooks = &self.webhooks;
        let mut times = vec![(
            "webhooks.first_retry",
            hooks.first_retry,
            "webhooks.longest_retry",
            hooks.longest_retry,
        )];
        if let blobs::Config::S3(s3) = &self.blobs {
            times.push((
                "blobs.attempt_timeout",
                s3.attempt_timeout,
                "blobs.operation_timeout",
                s3.operation_timeout,
            ));
        }
        for (short, least, long, most) in times {
            if least > most {
                return broken(
                    &[short, long],
                    format!(
                        "{} is longer than {}: make the first shorter or the second longer",
                        settings::Time::text(least),
                        settings::Time::text(most)
                    ),
                );
            }
        }
        Ok(())
    }

    /// Checks the rules of the sections themselves, and settings that would void others.
    fn check_sections(&self) -> Checked {
        let http = &self.http;
        if let Err(error) = http.check() {
            let setting = format!("http.{}", error.field());
            let example = Self::example(&setting);
            return broken(&[&setting], format!("{error}, for example `{example}`"));
        }
        if http.interim == InterimPolicy::On && !http.interim_untrusted_proxies.is_empty() {
            return broken(
                &["http.interim", "http.interim_untrusted_proxies"],
                "`on` sends interim responses to these proxies, too; write `interim = \"trusted\"`",
            );
        }
        if let Some(network) = http
            .interim_untrusted_proxies
            .iter()
            .find(|network| network.addr() != network.network())
        {
            return broken(
                &["http.interim_untrusted_proxies"],
                format!(
                    "`{network}` is an address and a network in one; write `{}` or `{}`",
                    network.addr(),
                    network.trunc()
                ),
            );
        }
        if let Err(conflict) = self.webhooks.check() {
            return broken(&[conflict.setting()], conflict.to_string());
        }
        if let blobs::Config::S3(s3) = &self.blobs {
            for (setting, url) in [
                ("blobs.endpoint", &s3.endpoint),
                ("blobs.redirect_endpoint", &s3.redirect_endpoint),
            ] {
                if let Some(url) = url {
                    check_endpoint(setting, url)?;
                }
            }
        }
        if let Err(error) = self.blobs.check() {
            let setting = match &error {
                OpenError::Setting { setting, .. } => format!("blobs.{setting}"),
                _ => "blobs".to_owned(),
            };
            let example = Self::example(&setting);
            return broken(&[&setting], format!("{error}, for example `{example}`"));
        }
        Ok(())
    }
}

fn check_endpoint(setting: &str, text: &str) -> Checked {
    let is_right = Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.username().is_empty()
    });
    if is_right {
        return Ok(());
    }
    broken(
        &[setting],
        "it must be the http or https URL of an S3 server, for example `https://s3.example.org`",
    )
}

/// Returns the value at a path with dots.
pub(super) fn lookup<'t>(table: &'t Table, path: &str) -> Option<&'t Value> {
    let mut keys = path.split('.');
    let first = table.get(keys.next()?);
    keys.fold(first, |value, key| value?.get(key))
}
