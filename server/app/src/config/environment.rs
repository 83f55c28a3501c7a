//! Settings from the environment.
//!
//! Variables that begin with `LONGHAUL_` are read by these rules:
//!
//! 1. `LONGHAUL_CONFIG` and `LONGHAUL_KEY` belong to the command line.
//! 2. Variables by which Kubernetes describes a service whose name begins with `longhaul` to every
//!    container of its namespace (`…_SERVICE_HOST`, `…_SERVICE_PORT[_NAME]`, `…_PORT`,
//!    `…_PORT_80_TCP[_ADDR|_PORT|_PROTO]`) are ignored.
//! 3. A name with `__`, or that of a setting without a section, is a setting; an unknown one is
//!    refused.
//! 4. A name that is nearly a setting's (one underscore for two, a wrong letter, a section alone)
//!    is refused with that name, so that no operator relies on a key that is not in force.
//! 5. Any other variable is ignored with a warning.

use std::ffi::{OsStr, OsString};

use super::Error;
use super::docs::{self, Takes};
use crate::transfer::KEY_VARIABLE;

const PREFIX: &str = "LONGHAUL_";
/// Path of the configuration file.
pub(super) const CONFIG_VARIABLE: &str = "LONGHAUL_CONFIG";

/// Variables of the program.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// Settings, each as its variable, path and value.
    pub(super) settings: Vec<(String, Vec<String>, String)>,
    /// Variables with the prefix that are no settings.
    pub(super) ignored: Vec<String>,
}

impl Environment {
    /// Sorts `variables` by the rules above.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownVariable`] for a name that is nearly a setting's, [`Error::NotText`] for a
    /// value that is not UTF-8.
    pub(super) fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Error> {
        let ours: Vec<_> = variables
            .into_iter()
            .filter_map(|(variable, value)| Some((ours(&variable)?, value)))
            .collect();
        let services: Vec<String> = ours
            .iter()
            .filter_map(|(variable, _)| variable.strip_suffix("_SERVICE_HOST"))
            .map(str::to_owned)
            .collect();
        let mut read = Self::default();
        for (variable, value) in &ours {
            if [CONFIG_VARIABLE, KEY_VARIABLE].contains(&variable.as_str())
                || describes_service(variable, value, &services)
            {
                continue;
            }
            match setting(variable)? {
                Some(path) => {
                    let value = value.to_str().ok_or_else(|| Error::NotText {
                        name: variable.clone(),
                    })?;
                    read.settings
                        .push((variable.clone(), path, value.to_owned()));
                }
                None => read.ignored.push(variable.clone()),
            }
        }
        Ok(read)
    }
}

/// Returns the variable's name if it has our prefix. Names of settings are ASCII, so a lossy
/// conversion loses none.
fn ours(variable: &OsStr) -> Option<String> {
    let variable = variable.to_string_lossy();
    variable.starts_with(PREFIX).then(|| variable.into_owned())
}

/// Returns true for variables that Kubernetes makes for services, in the form of Docker's container
/// links.
fn describes_service(variable: &str, value: &OsStr, services: &[String]) -> bool {
    const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];

    if variable.ends_with("_SERVICE_HOST") || variable.ends_with("_SERVICE_PORT") {
        return true;
    }
    if let Some(service) = variable.strip_suffix("_PORT") {
        let value = value.to_str().unwrap_or_default();
        let is_url = PROTOCOLS
            .iter()
            .any(|protocol| value.starts_with(&format!("{}://", protocol.to_ascii_lowercase())));
        if is_url || services.iter().any(|named| named == service) {
            return true;
        }
    }
    if variable.contains("_SERVICE_PORT_") {
        return true;
    }
    let Some((_, port)) = variable.rsplit_once("_PORT_").filter(|(_, port)| {
        // In `…_PORT_80_TCP_PORT`, the first `PORT` precedes the number.
        port.starts_with(|first: char| first.is_ascii_digit())
    }) else {
        return false;
    };
    let mut words = port.split('_');
    let is_number = |word: &str| word.bytes().all(|digit| digit.is_ascii_digit());
    words.next().is_some_and(is_number)
        && words.next().is_some_and(|word| PROTOCOLS.contains(&word))
        && words
            .next()
            .is_none_or(|word| ["ADDR", "PORT", "PROTO"].contains(&word))
        && words.next().is_none()
}

/// Returns the path of the setting that the variable names; `None` if it is no setting.
fn setting(variable: &str) -> Result<Option<Vec<String>>, Error> {
    let name = variable[PREFIX.len()..].to_ascii_lowercase();
    let path: Vec<String> = name.split("__").map(str::to_owned).collect();
    let is_setting = |path: &str| docs::find(path).is_some_and(|field| field.fields.is_empty());
    if path.len() > 1 || is_setting(&name) {
        return Ok(Some(path));
    }
    match meant(&name) {
        None => Ok(None),
        Some(path) => Err(Error::UnknownVariable {
            name: variable.to_owned(),
            suggestion: variable_of(&path),
        }),
    }
}

/// Returns the most similar setting to a name without `__`.
fn meant(name: &str) -> Option<String> {
    let settings = docs::paths();
    let section = |path: &String| path.split('.').next() == Some(name);
    let joined = |path: &String| path.replace('.', "_");
    // An API key that is not in force is the worst mistake, so `[access]` comes first.
    let of_access = |path: &String| path.strip_prefix("access.") == Some(name);
    let exact = settings
        .iter()
        .find(|path| of_access(path) || section(path) || joined(path) == name);
    exact.cloned().or_else(|| {
        settings
            .iter()
            .map(|path| (strsim::damerau_levenshtein(name, &joined(path)), path))
            .min()
            .filter(|(distance, path)| *distance <= (path.len() / 4).clamp(1, 2))
            .map(|(_, path)| path.clone())
    })
}

/// Returns the variable of a setting: `LONGHAUL_A__B` for `a.b`.
pub(crate) fn variable_of(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// Parses the value of a variable by the type of its setting: text stays text, other values are
/// TOML if they parse as TOML.
pub(super) fn value(path: &[String], text: &str) -> toml::Value {
    let takes = docs::find(&path.join(".")).map(|field| &field.takes);
    match takes {
        Some(Takes::OneOf(_) | Takes::Text(_) | Takes::Time | Takes::Size) => {
            text.to_owned().into()
        }
        _ => parse(text).unwrap_or_else(|| text.to_owned().into()),
    }
}

fn parse(text: &str) -> Option<toml::Value> {
    let mut table: toml::Table = toml::from_str(&format!("value = {text}")).ok()?;
    // More than one key means that the text broke out of its line.
    (table.len() == 1).then(|| table.remove("value")).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Environment, Error> {
        Environment::read(
            variables
                .iter()
                .map(|(name, value)| (OsString::from(name), OsString::from(value))),
        )
    }

    #[test]
    fn what_kubernetes_says_of_services_is_no_setting() {
        let read = read(&[
            ("LONGHAUL_SERVICE_HOST", "10.0.0.1"),
            ("LONGHAUL_SERVICE_PORT", "80"),
            ("LONGHAUL_SERVICE_PORT_HTTP", "80"),
            ("LONGHAUL_PORT", "tcp://10.0.0.1:80"),
            ("LONGHAUL_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("LONGHAUL_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("LONGHAUL_API_SERVICE_HOST", "10.0.0.2"),
            ("LONGHAUL_API_SERVICE_PORT_ADMIN_UI", "8079"),
            ("LONGHAUL_API_PORT", "tcp://10.0.0.2:8080"),
            ("LONGHAUL_API_PORT_8080_TCP", "tcp://10.0.0.2:8080"),
            ("LONGHAUL_API_PORT_8080_TCP_PROTO", "tcp"),
            ("LONGHAUL_API_PORT_8080_TCP_PORT", "8080"),
            ("LONGHAUL_DNS_PORT_53_UDP_ADDR", "10.0.0.3"),
            ("LONGHAUL_SERVER_PORT", "tcp://10.0.0.4:80"),
            ("LONGHAUL_ACCESS_SERVICE_HOST", "10.0.0.5"),
            (
                "LONGHAUL_ACCESS_PORT",
                "whatever, since the line before names the service",
            ),
        ])
        .unwrap();
        assert!(
            read.settings.is_empty() && read.ignored.is_empty(),
            "{read:?}"
        );
    }

    #[test]
    fn what_looks_nearly_like_a_setting_is_refused_with_its_name() {
        for (variable, suggestion) in [
            ("LONGHAUL_ACCESS_KEYS", "LONGHAUL_ACCESS__KEYS"),
            ("LONGHAUL_KEYS", "LONGHAUL_ACCESS__KEYS"),
            ("LONGHAUL_OPEN", "LONGHAUL_ACCESS__OPEN"),
            ("LONGHAUL_LISTN", "LONGHAUL_LISTEN"),
            ("LONGHAUL_DAT", "LONGHAUL_DATA"),
            ("LONGHAUL_PUBLICURL", "LONGHAUL_PUBLIC_URL"),
            ("LONGHAUL_LOG", "LONGHAUL_LOG__LEVEL"),
            ("LONGHAUL_TLS_CERT", "LONGHAUL_TLS__CERT"),
            ("LONGHAUL_HTTP_HTTP2_WINDOW", "LONGHAUL_HTTP__HTTP2__WINDOW"),
            ("LONGHAUL_ACESS_KEYS", "LONGHAUL_ACCESS__KEYS"),
            ("LONGHAUL_ADMIN_LISTEN", "LONGHAUL_ADMIN__LISTEN"),
        ] {
            let refused = read(&[(variable, "x")]).unwrap_err();
            assert_eq!(
                refused.to_string(),
                format!("there is no setting {variable}; did you mean {suggestion}?")
            );
        }
    }

    #[test]
    fn others_are_ignored_and_named() {
        let read = read(&[
            ("LONGHAUL_BIN", "target/debug/longhaul"),
            ("LONGHAUL_CRASHES", "200"),
            ("LONGHAUL_SERVER_PORT", "8080"),
            ("LONGHAUL_PUBLISH", "127.0.0.1:80"),
            ("LONGHAUL_1", "longhaul-1:8080"),
            ("LONGHAUL_CONFIG", "x"),
            ("LONGHAUL_KEY", "x"),
            ("HOME", "/root"),
        ])
        .unwrap();
        assert!(read.settings.is_empty(), "{read:?}");
        assert_eq!(
            read.ignored,
            [
                "LONGHAUL_BIN",
                "LONGHAUL_CRASHES",
                "LONGHAUL_SERVER_PORT",
                "LONGHAUL_PUBLISH",
                "LONGHAUL_1"
            ]
        );
    }

    #[test]
    fn a_setting_that_is_not_text_is_not_lost() {
        use std::os::unix::ffi::OsStringExt as _;

        let value = OsString::from_vec(b"/srv/\xff".to_vec());
        let read = Environment::read([("LONGHAUL_DATA".into(), value)]);
        assert_eq!(
            read.unwrap_err().to_string(),
            "LONGHAUL_DATA is not UTF-8, so it cannot be read"
        );
    }

    #[test]
    fn a_variable_cannot_break_out_of_its_setting() {
        let path = ["http".to_owned(), "max_connections".to_owned()];
        assert_eq!(value(&path, "1\nb = 2"), "1\nb = 2".into());
        assert_eq!(value(&path, "12"), 12.into());
    }

    #[test]
    fn text_that_looks_like_something_else_stays_text() {
        for path in [
            "blobs.bucket",
            "blobs.secret_access_key",
            "tls.cert",
            "data",
            "log.level",
        ] {
            let path: Vec<_> = path.split('.').map(str::to_owned).collect();
            assert_eq!(value(&path, "12"), "12".into(), "{path:?}");
        }
    }
}
