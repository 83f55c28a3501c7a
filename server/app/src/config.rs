//! Every setting of the server, gathered.
//!
//! A section's struct lives with what it configures; this file only gives each a name. Adding one takes a field
//! of [`Config`] and, so that `longhaul config` can explain its keys, a row of `docs::SOURCES`.
//!
//! Settings come from four layers, each stronger than the one before: the defaults, a TOML file, the environment
//! (`LONGHAUL_HTTP__MAX_CONNECTIONS` is `max_connections` of `[http]`), and flags of the command line.

mod docs;
mod layers;
mod print;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use edge::routes::admin::AdminAddress;
use edge::serve::TlsConfig;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::{telemetry, webhooks};
use layers::{Layers, Origin};

/// The whole configuration of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address and port that clients connect to. Anything but a loopback address needs an API key under
    /// `[access]`, or `--open`. Sockets that a supervisor passes (`LISTEN_FDS`, as systemd does) take its place.
    pub listen: SocketAddr,
    /// The directory for everything that the server keeps. It is created when it is missing.
    pub data: PathBuf,
    /// The URL under which clients reach this server, for example `https://files.example.org`. With it, every
    /// `Location` is absolute; without it, a path, which no proxy in between can make wrong.
    pub public_url: Option<Url>,
    /// Who may use the server. `longhaul hash-key` makes a key and its line, which looks like this:
    /// `keys = [{ name = "laptop", sha256 = "…" }]`.
    pub access: domain::access::Config,
    /// TLS, spoken by this server itself. Leave both out when a proxy in front does it.
    pub tls: Tls,
    /// What operators and their machines ask: whether the server works.
    pub admin: edge::routes::admin::Config,
    /// The transport: limits and timeouts of connections.
    pub http: edge::serve::Config,
    /// Memory that peers can make the server hold.
    pub memory: budget::Config,
    /// How uploads are taken in.
    pub uploads: domain::uploads::Config,
    /// What packs may be: versioned trees of files.
    pub packs: domain::packs::Config,
    /// When expired uploads and unneeded bytes are deleted.
    pub cleanup: domain::cleanup::Config,
    /// Where bytes are kept.
    pub blobs: blobs::Config,
    /// Where facts are kept.
    pub metadata: metadata::Config,
    /// Where events are sent, signed by Standard Webhooks, and who is asked before an upload begins.
    pub webhooks: webhooks::Config,
    /// What is written to the log, and how.
    pub log: telemetry::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            data: PathBuf::from("./data"),
            public_url: None,
            access: domain::access::Config::default(),
            tls: Tls::default(),
            admin: edge::routes::admin::Config::default(),
            http: edge::serve::Config::default(),
            memory: budget::Config::default(),
            uploads: domain::uploads::Config::default(),
            packs: domain::packs::Config::default(),
            cleanup: domain::cleanup::Config::default(),
            blobs: blobs::Config::default(),
            metadata: metadata::Config::default(),
            webhooks: webhooks::Config::default(),
            log: telemetry::Config::default(),
        }
    }
}

/// TLS, spoken by this server itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The file with the certificate chain, in PEM, the server's own certificate first.
    pub cert: Option<PathBuf>,
    /// The file with the certificate's private key, in PEM.
    pub key: Option<PathBuf>,
}

impl Tls {
    /// The listener's part, if TLS is spoken.
    pub fn listener(&self) -> Option<TlsConfig> {
        let (cert, key) = self.cert.as_ref().zip(self.key.as_ref())?;
        Some(TlsConfig::new(cert.clone(), key.clone()))
    }
}

/// The settings that the command line can say itself, and where the others are.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE)]
    pub config: Option<PathBuf>,
    /// Listen on this address and port [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Answer /livez and /readyz on this address and port, or `off` [default: 127.0.0.1:9090]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<AdminAddress>,
    /// Keep everything in this directory [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Serve everyone without a credential, on any address
    #[arg(long)]
    pub open: bool,
}

impl Flags {
    fn layer(&self) -> toml::Table {
        let mut table = toml::Table::new();
        if let Some(listen) = self.listen {
            table.insert("listen".to_owned(), listen.to_string().into());
        }
        if let Some(admin) = self.admin {
            let listen = ("listen".to_owned(), String::from(admin).into());
            table.insert("admin".to_owned(), toml::Table::from_iter([listen]).into());
        }
        if let Some(data) = &self.data {
            table.insert(
                "data".to_owned(),
                data.to_string_lossy().into_owned().into(),
            );
        }
        if self.open {
            let access = toml::Table::from_iter([("open".to_owned(), true.into())]);
            table.insert("access".to_owned(), access.into());
        }
        table
    }
}

/// Variables that begin like settings but belong to the command line.
const CONFIG_VARIABLE: &str = "LONGHAUL_CONFIG";
/// The API key that the client commands send.
pub const KEY_VARIABLE: &str = "LONGHAUL_KEY";

impl Config {
    /// Reads all layers.
    ///
    /// # Errors
    ///
    /// An unreadable or malformed file, a key that no setting has, and a value that a setting cannot take; each
    /// says the key's full path and which layer it came from.
    pub fn load(flags: &Flags) -> Result<Self, Error> {
        Self::from_layers(flags, std::env::vars_os()).map(|(config, _)| config)
    }

    /// What a file says, without the environment.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn of_file(path: &Path) -> Result<Self, Error> {
        let flags = Flags {
            config: Some(path.to_owned()),
            ..Flags::default()
        };
        Self::from_layers(&flags, []).map(|(config, _)| config)
    }

    /// What all layers add up to, as commented TOML. Secrets are blanked out.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn effective(flags: &Flags) -> Result<String, Error> {
        Self::from_layers(flags, std::env::vars_os())
            .map(|(_, effective)| Self::commented(&effective))
    }

    /// Every setting with its default, as commented TOML.
    pub fn defaults() -> String {
        Self::commented(&Self::default().to_table())
    }

    /// Settings of a kind of store that is not chosen are told with their defaults, too.
    fn commented(table: &toml::Table) -> String {
        let url = "postgres://host/database".parse().expect("it is a URL");
        let mut shared = Self {
            blobs: blobs::Config::S3(Box::default()),
            metadata: metadata::Config::Postgres(metadata::PostgresConfig::new(url)),
            ..Self::default()
        }
        .to_table();
        if let Some(toml::Value::Table(postgres)) = shared.get_mut("metadata") {
            // The one that has no default.
            postgres.remove("url");
        }
        print::commented(table, &[&Self::default().to_table(), &shared])
    }

    /// The configuration, and the same as it was said: sizes and times in the operator's own writing.
    fn from_layers(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, toml::Table), Error> {
        let mut layers = Layers::new(Self::default().to_table());
        if let Some(path) = &flags.config {
            layers.add(&Origin::File(path.clone()), read(path)?);
        }
        let variables: Vec<_> = environment.into_iter().collect();
        let settings = variables
            .iter()
            .filter_map(|(variable, value)| variable.to_str().zip(value.to_str()));
        layers.add_environment(
            settings.filter(|(variable, _)| ![CONFIG_VARIABLE, KEY_VARIABLE].contains(variable)),
        );
        layers.add(&Origin::Flags, flags.layer());
        let config: Self = layers.resolve()?;
        config.check()?;
        let effective = layers.lay_over(config.to_table());
        Ok((config, effective))
    }

    /// Rules that bind more than one setting.
    fn check(&self) -> Result<(), Error> {
        let conflict = |key: &str, why: &str| {
            Err(Error::Conflict {
                key: key.to_owned(),
                why: why.to_owned(),
            })
        };
        if let Err(error) = self.http.check() {
            return conflict("http", &error.to_string());
        }
        if let Err(error) = self.webhooks.check() {
            return conflict("webhooks", &error.to_string());
        }
        if self.tls.cert.is_some() != self.tls.key.is_some() {
            return conflict(
                "tls",
                "cert and key belong together, and only one of them is set",
            );
        }
        if let Some(url) = &self.public_url {
            let is_plain =
                url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
            if !matches!(url.scheme(), "http" | "https") || !is_plain {
                return conflict(
                    "public_url",
                    "only http:// and https:// URLs without a query can be served",
                );
            }
        }
        let mut names: Vec<&str> = self.access.keys.iter().map(|key| &*key.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return conflict("access.keys", "two keys have the same name");
        }
        Ok(())
    }

    fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self)
            .expect("every section is made of tables, text, numbers and lists")
    }
}

fn read(path: &Path) -> Result<toml::Table, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|source| Error::Syntax {
        path: path.to_owned(),
        source: Box::new(source),
    })
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("failed to read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why, over several lines.
        source: Box<toml::de::Error>,
    },
    /// No setting has this name.
    #[error("there is no setting `{key}` ({origin}){}", suggestion.as_ref().map(|name| format!("; did you mean `{name}`?")).unwrap_or_default())]
    Unknown {
        /// The full path, with dots.
        key: String,
        /// Where it was said.
        origin: Origin,
        /// The setting's full path that was probably meant.
        suggestion: Option<String>,
    },
    /// The setting cannot take this value.
    #[error("the setting `{key}` ({origin}) does not fit: {why}")]
    Invalid {
        /// The full path, with dots.
        key: String,
        /// Where it was said.
        origin: Origin,
        /// What was expected.
        why: String,
    },
    /// Settings that are each right do not go together.
    #[error("the setting `{key}` cannot be used so: {why}")]
    Conflict {
        /// The full path, with dots.
        key: String,
        /// Which rule they break.
        why: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(file: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Config, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("longhaul.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Config::from_layers(
            &Flags {
                config: Some(path),
                ..flags
            },
            environment,
        )
        .map(|(config, _)| config)
    }

    fn message(file: &str, environment: &[(&str, &str)]) -> String {
        let error = load(file, environment, Flags::default())
            .unwrap_err()
            .to_string();
        // The file lies in a directory that is new for each test.
        error
            .split_once("in /")
            .map_or(error.clone(), |(before, after)| {
                let (_, name) = after.split_once("longhaul.toml").unwrap();
                format!("{before}in longhaul.toml{name}")
            })
    }

    #[test]
    fn each_layer_is_stronger_than_the_one_before() {
        let file = "data = '/file'\nlisten = '127.0.0.1:1'\n[access]\nopen = false";
        let environment = [
            ("LONGHAUL_DATA", "/environment"),
            ("LONGHAUL_LISTEN", "127.0.0.1:2"),
        ];
        let flags = Flags {
            listen: Some("127.0.0.1:3".parse().unwrap()),
            admin: Some(AdminAddress::Off),
            open: true,
            ..Flags::default()
        };

        let config = load(file, &environment, flags).unwrap();
        assert_eq!(config.admin.listen, AdminAddress::Off);
        assert_eq!(config.data, Path::new("/environment"));
        assert_eq!(config.listen.port(), 3);
        assert!(config.access.open);
        assert_eq!(config.log.level, telemetry::Config::default().level);
    }

    #[test]
    fn unknown_keys_are_refused_with_their_path_and_a_suggestion() {
        assert_eq!(
            message("lisen = '127.0.0.1:1'", &[]),
            "there is no setting `lisen` (in longhaul.toml); did you mean `listen`?"
        );
        assert_eq!(
            message("[log]\nlevle = 'info'", &[]),
            "there is no setting `log.levle` (in longhaul.toml); did you mean `log.level`?"
        );
        assert_eq!(
            message("[zebra]\nstripes = 3", &[]),
            "there is no setting `zebra` (in longhaul.toml)"
        );
        assert_eq!(
            message("", &[("LONGHAUL_ACCESS__OPNE", "true")]),
            "there is no setting `access.opne` (from LONGHAUL_ACCESS__OPNE); did you mean `access.open`?"
        );
        assert_eq!(
            message("[access]\nkeys = [{ name = 'a', sha265 = 'b' }]", &[]),
            "there is no setting `access.keys[0].sha265` (in longhaul.toml); did you mean `access.keys[0].sha256`?"
        );
    }

    #[test]
    fn wrong_values_say_which_setting_and_where() {
        assert_eq!(
            message("", &[("LONGHAUL_ACCESS__OPEN", "perhaps")]),
            "the setting `access.open` (from LONGHAUL_ACCESS__OPEN) does not fit: invalid type: string \"perhaps\", expected a boolean"
        );
        assert_eq!(
            message("listen = 'nowhere'", &[]),
            "the setting `listen` (in longhaul.toml) does not fit: invalid socket address syntax"
        );
        assert_eq!(
            message("[access]\nkeys = [{ name = 'a', sha256 = 'abc' }]", &[]),
            "the setting `access.keys[0].sha256` (in longhaul.toml) does not fit: a SHA-256 value has 64 hexadecimal digits"
        );
        assert_eq!(
            message("[admin]\nlisten = '9090'", &[]),
            "the setting `admin.listen` (in longhaul.toml) does not fit: expected an address and port, such as 127.0.0.1:9090, or `off`"
        );
        assert_eq!(
            message("[http]\ninterim_untrusted_proxies = ['nginx']", &[]),
            "the setting `http.interim_untrusted_proxies` (in longhaul.toml) does not fit: `nginx` is neither an address nor a network such as 10.0.0.0/8"
        );
        assert!(message("listen = ", &[]).ends_with("is not valid TOML"));
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let file = "[http]\ninterim_untrusted_proxies = ['10.0.0.5', '10.1.0.0/16', '::1']";
        let config = load(file, &[], Flags::default()).unwrap();
        let read: Vec<_> = config.http.interim_untrusted_proxies;
        let read: Vec<_> = read.iter().map(ToString::to_string).collect();
        assert_eq!(read, ["10.0.0.5/32", "10.1.0.0/16", "::1/128"]);
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        let key = "a".repeat(64);
        let twice = format!(
            "[access]\nkeys = [{{ name = 'a', sha256 = '{key}' }}, {{ name = 'a', sha256 = '{key}' }}]"
        );
        for (file, expected) in [
            ("[tls]\ncert = 'cert.pem'", "tls"),
            ("public_url = 'ftp://example.org'", "public_url"),
            ("public_url = 'https://example.org/?a'", "public_url"),
            (twice.as_str(), "access.keys"),
            ("[http]\nmax_connections = 0", "http"),
            ("[webhooks]\nurl = 'https://example.org'", "webhooks"),
        ] {
            assert!(
                message(file, &[])
                    .starts_with(&format!("the setting `{expected}` cannot be used so")),
                "{file}"
            );
        }
    }

    #[test]
    fn a_variable_is_read_as_the_type_of_its_setting() {
        let environment = [
            ("LONGHAUL_DATA", "12"),
            ("LONGHAUL_PUBLIC_URL", "https://a.example"),
            ("LONGHAUL_ACCESS__OPEN", "true"),
        ];
        let config = load("", &environment, Flags::default()).unwrap();
        assert_eq!(config.data, Path::new("12"));
        assert_eq!(config.public_url.unwrap().as_str(), "https://a.example/");
        assert!(config.access.open);
    }

    #[test]
    fn variables_of_the_command_line_and_of_kubernetes_are_no_settings() {
        let environment = [
            ("LONGHAUL_CONFIG", "x"),
            ("LONGHAUL_KEY", "x"),
            ("LONGHAUL_SERVICE_HOST", "10.0.0.1"),
            ("LONGHAUL_SERVICE_PORT_HTTP", "8080"),
            ("LONGHAUL_PORT", "tcp://10.0.0.1:8080"),
            ("LONGHAUL_PORT_8080_TCP_ADDR", "10.0.0.1"),
            ("HOME", "/root"),
        ];
        load("", &environment, Flags::default()).unwrap();
    }

    #[test]
    fn the_printed_defaults_are_the_defaults() {
        let text = Config::defaults();
        assert!(text.contains("\n# part_size = \"8.0 MiB\"\n"), "{text}");
        assert!(text.contains("\n# url =\n"), "{text}");
        let printed: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(printed, Config::default().to_table());
        // A setting that its section does not write out would be missing here, unless it has a default to fall back on.
        let config: Config = printed.try_into().unwrap();
        assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    }

    fn effective(file: &str, environment: &[(&str, &str)]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("longhaul.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let (_, table) = Config::from_layers(
            &Flags {
                config: Some(path),
                ..Flags::default()
            },
            environment,
        )
        .unwrap();
        Config::commented(&table)
    }

    #[test]
    fn the_effective_values_are_what_was_said() {
        let shown = effective(
            "[uploads]\nmax_size = '1500000 B'",
            &[("LONGHAUL_LOG__LEVEL", "debug")],
        );
        for line in [
            "max_size = \"1500000 B\"",
            "level = \"debug\"",
            "listen = \"127.0.0.1:8080\"",
            "# min_size =",
        ] {
            assert!(
                shown.lines().any(|shown| shown == line),
                "{line} is missing:\n{shown}"
            );
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
        let file = format!(
            "[access]\nkeys = [{{ name = 'laptop', sha256 = '{hash}' }}]\n\
             [webhooks]\nsecrets = ['whsec_5e88MnkAYo9XLLBuIGwUI0s0lkk3FhPr']"
        );
        let debug = format!("{:?}", load(&file, &[], Flags::default()).unwrap());
        let shown = effective(&file, &[]);
        assert!(
            !debug.contains("5e88") && !shown.contains("5e88"),
            "{debug}\n{shown}"
        );
        assert!(
            shown.contains("laptop") && shown.contains("<redacted>"),
            "{shown}"
        );
    }
}
