//! All settings of the server.
//!
//! The struct of a section lives beside the code that it configures; [`Config`] gives each section
//! its name, and `docs` takes the help of `longhaul config` from their doc comments.
//!
//! Settings come from four layers, each stronger than the one before: the defaults, a TOML file,
//! the environment (`LONGHAUL_HTTP__MAX_CONNECTIONS` is `max_connections` of `[http]`;
//! `environment` has the rule), and flags of the command line. `rules` refuses settings that
//! contradict each other.

mod docs;
mod environment;
mod layers;
mod permissions;
mod print;
mod rules;
mod words;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Args;
use edge::routes::admin::AdminAddress;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use transport::{ListenAddress, TlsConfig};
use url::Url;

use crate::{telemetry, webhooks};
use environment::Environment;
pub(crate) use environment::variable_of;
use layers::{Layers, Origin};

/// Configuration of a server.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port for clients: `127.0.0.1:8080`, `localhost:8080` (IPv4 and IPv6 of this
    /// machine), `8080` (the same as with `127.0.0.1`), or `:8080` for every address. Any other
    /// than a loopback address needs an API key under `[access]`, or `--open`. Sockets from a
    /// service manager (`LISTEN_FDS`, as of systemd) replace it.
    pub listen: ListenAddress,
    /// Directory for all data of the server. It is created if it does not exist.
    #[schemars(with = "settings::Path")]
    pub data: PathBuf,
    /// URL under which clients reach this server, for example `https://files.example.org`. With it,
    /// every `Location` is absolute; without it, `Location` is a path, which is right behind any
    /// proxy.
    pub public_url: Option<Url>,
    /// Access to the server. `longhaul hash-key` makes a key and its line, such as `keys = [{ name
    /// = "laptop", sha256 = "…" }]`.
    pub access: domain::access::Config,
    /// TLS of this server itself. Leave both out if a proxy in front terminates TLS.
    pub tls: Tls,
    /// Admin listener, for health checks and operators.
    pub admin: edge::routes::admin::Config,
    /// Limits and timeouts of connections.
    pub http: transport::Config,
    /// Memory that peers can make the server hold.
    pub memory: budget::Config,
    /// Limits and timing of uploads.
    pub uploads: domain::uploads::Config,
    /// Packs: versioned trees of files.
    pub packs: domain::packs::Config,
    /// Deletion of expired uploads and unneeded bytes.
    pub cleanup: domain::cleanup::Config,
    /// Store of the bytes of files.
    pub blobs: blobs::Config,
    /// Database of uploads, files and packs.
    pub metadata: metadata::Config,
    /// Webhooks to the operator's services, signed by Standard Webhooks.
    pub webhooks: webhooks::Config,
    /// Level and format of the log.
    pub log: telemetry::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: ListenAddress::default(),
            data: PathBuf::from("./data"),
            public_url: None,
            access: domain::access::Config::default(),
            tls: Tls::default(),
            admin: edge::routes::admin::Config::default(),
            http: transport::Config::default(),
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

/// TLS of this server itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate chain, the server's own certificate first.
    #[schemars(with = "Option<settings::Path>")]
    pub cert: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    #[schemars(with = "Option<settings::Path>")]
    pub key: Option<PathBuf>,
}

impl Tls {
    /// Returns the listener's TLS configuration; none for cleartext.
    pub fn listener(&self) -> Option<TlsConfig> {
        let (cert, key) = self.cert.as_ref().zip(self.key.as_ref())?;
        Some(TlsConfig::new(cert.clone(), key.clone()))
    }
}

/// Settings that have flags, and the path of the configuration file.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE", env = environment::CONFIG_VARIABLE)]
    pub config: Option<PathBuf>,
    /// Listen on this address and port; 8080, :8080 and localhost:8080 work, too [default:
    /// 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<ListenAddress>,
    /// Answer /livez and /readyz on this address and port, or `off` [default: 127.0.0.1:8079]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<AdminAddress>,
    /// Keep all data in this directory [default: ./data]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Serve everyone without a key, on any address; refused if keys are configured
    #[arg(long)]
    pub open: bool,
}

impl Flags {
    fn layer(&self) -> Result<toml::Table, Error> {
        let mut table = toml::Table::new();
        if let Some(listen) = self.listen {
            table.insert("listen".to_owned(), listen.to_string().into());
        }
        if let Some(admin) = self.admin {
            let listen = ("listen".to_owned(), admin.to_string().into());
            table.insert("admin".to_owned(), toml::Table::from_iter([listen]).into());
        }
        if let Some(data) = &self.data {
            let data = data.to_str().ok_or_else(|| Error::NotText {
                name: "--data".to_owned(),
            })?;
            table.insert("data".to_owned(), data.into());
        }
        if self.open {
            let access = toml::Table::from_iter([("open".to_owned(), true.into())]);
            table.insert("access".to_owned(), access.into());
        }
        Ok(table)
    }
}

impl Config {
    /// Reads all layers.
    ///
    /// # Errors
    ///
    /// An unreadable or malformed file, an unknown key, an invalid value, and settings that
    /// contradict each other; each message has the key's full path, its layer, and a right value.
    pub fn load(flags: &Flags) -> Result<Self, Error> {
        Self::from_layers(flags, std::env::vars_os()).map(|(config, _)| config)
    }

    /// Reads a file, without the environment.
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

    /// Returns the settings in force as commented TOML. Secrets are blanked out.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn effective(flags: &Flags) -> Result<String, Error> {
        Self::from_layers(flags, std::env::vars_os())
            .map(|(_, effective)| Self::commented(&effective))
    }

    /// Returns every setting with its default, as commented TOML.
    pub fn defaults() -> String {
        Self::commented(&Self::default().to_table())
    }

    /// Refuses addresses that other machines reach if no key is configured, unless `access.open` is
    /// set.
    ///
    /// # Errors
    ///
    /// The first address that other machines reach.
    pub fn check_reach(&self, addresses: &[ListenAddress]) -> Result<(), Error> {
        if self.access.open || !self.access.keys.is_empty() {
            return Ok(());
        }
        let beyond = addresses.iter().find(|address| !address.is_loopback());
        beyond.map_or(Ok(()), |&address| Err(Error::OpenToOthers { address }))
    }

    /// Lists warnings: variables that are no settings, and secret files that others can read.
    pub fn doubts(&self, flags: &Flags) -> Vec<String> {
        let environment = Environment::read(std::env::vars_os()).unwrap_or_default();
        let ignored = environment.ignored.into_iter().map(|variable| {
            format!("the variable {variable} is no setting and is ignored; `longhaul config` lists all settings")
        });
        ignored.chain(permissions::doubts(self, flags)).collect()
    }

    /// Returns the full paths of the settings whose values differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (here, there) = (self.to_table(), other.to_table());
        let mut paths = docs::paths();
        paths.retain(|path| rules::lookup(&here, path) != rules::lookup(&there, path));
        paths
    }

    /// Writes `table` as commented TOML. Settings of stores that are not chosen are comments with
    /// their defaults.
    fn commented(table: &toml::Table) -> String {
        let [default, shared] = Self::every_default();
        print::commented(table, &[&default, &shared])
    }

    /// Returns the defaults, and those of the stores that are not chosen by default.
    fn every_default() -> [toml::Table; 2] {
        let url = "postgres://host/database".parse().expect("it is a URL");
        let mut shared = Self {
            blobs: blobs::Config::S3(Box::default()),
            metadata: metadata::Config::Postgres(metadata::PostgresConfig::new(url)),
            ..Self::default()
        }
        .to_table();
        if let Some(toml::Value::Table(postgres)) = shared.get_mut("metadata") {
            // The URL has no default.
            postgres.remove("url");
        }
        [Self::default().to_table(), shared]
    }

    /// Returns a right value of the setting with this full path: its default, if it has one.
    fn example_value(path: &str) -> Option<toml::Value> {
        let field = docs::find(path).filter(|field| field.fields.is_empty())?;
        let defaults = Self::every_default();
        let default = defaults.iter().find_map(|table| rules::lookup(table, path));
        Some(words::right(&field.name, &field.takes, default.cloned()).example)
    }

    /// Returns a line of the file with a right value; for a section, its header.
    fn example(path: &str) -> String {
        let name = path.rsplit('.').next().unwrap_or(path);
        match Self::example_value(path) {
            Some(value) => format!("{name} = {value}"),
            None => format!("[{path}]"),
        }
    }

    /// Returns the configuration, and the same as a table with sizes and times as the operator
    /// wrote them.
    fn from_layers(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, toml::Table), Error> {
        let mut layers = Layers::new(Self::default().to_table());
        if let Some(path) = &flags.config {
            layers.add(&Origin::File(path.clone()), read(path)?)?;
        }
        layers.add_environment(&Environment::read(environment)?)?;
        layers.add(&Origin::Flags, flags.layer()?)?;
        let config: Self = layers.resolve()?;
        if let Err(broken) = config.check(&config.to_table()) {
            let settings = broken.settings.into_iter();
            return Err(Error::Conflict {
                settings: settings
                    .map(|setting| (setting.clone(), layers.origin(&setting)))
                    .collect(),
                why: broken.why,
            });
        }
        let effective = layers.lay_over(config.to_table());
        Ok((config, effective))
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

/// Failure to read the configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error(
        "the configuration file `{}` cannot be read; --config and {} name it, and `longhaul config > longhaul.toml` makes one to begin with",
        path.display(), environment::CONFIG_VARIABLE
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the file system.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not valid TOML, which looks like this: `listen = \"127.0.0.1:8080\"`", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Position and reason, over several lines.
        source: Box<toml::de::Error>,
    },
    /// Unknown key.
    #[error("there is no setting `{key}` ({origin}){}", suggestion.as_ref().map_or_else(|| "; `longhaul config` lists all".to_owned(), |name| format!("; did you mean `{name}`?")))]
    Unknown {
        /// The full path, with dots.
        key: String,
        /// Layer of the key.
        origin: Origin,
        /// Full path of the most similar setting.
        suggestion: Option<String>,
    },
    /// Variable with nearly the name of a setting.
    #[error("there is no setting {name}; did you mean {suggestion}?")]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The most similar variable.
        suggestion: String,
    },
    /// Setting of another kind of store than the chosen one.
    #[error(
        "the setting `{key}` ({origin}) is of another kind of store than `{section}.type`, which is `{kind}`: remove it, or change the type"
    )]
    OtherType {
        /// The full path, with dots.
        key: String,
        /// Layer of the key.
        origin: Origin,
        /// The section.
        section: String,
        /// The chosen kind of store.
        kind: String,
    },
    /// Value that is not UTF-8.
    #[error("{name} is not UTF-8, so it cannot be read")]
    NotText {
        /// The variable or flag.
        name: String,
    },
    /// Empty value.
    #[error(
        "the setting `{key}` ({origin}) is empty: leave it out, or say something, for example `{example}`"
    )]
    Empty {
        /// The full path, with dots.
        key: String,
        /// Layer of the key.
        origin: Origin,
        /// A right value.
        example: String,
    },
    /// Missing setting that others of its section need.
    #[error("the setting `{key}` is missing ({origin}); for example `{example}`")]
    Missing {
        /// The full path, with dots.
        key: String,
        /// Layer of the other settings of the section.
        origin: Origin,
        /// A right value.
        example: String,
    },
    /// Invalid value.
    #[error(
        "the setting `{key}` ({origin}) cannot be {}: {why}{}",
        value.as_deref().unwrap_or("this"), example.as_ref().map(|example| format!(", for example `{example}`")).unwrap_or_default()
    )]
    Invalid {
        /// The full path, with dots.
        key: String,
        /// Layer of the key.
        origin: Origin,
        /// The value, unless it is secret.
        value: Option<String>,
        /// The expected values.
        why: String,
        /// A right value, unless `why` contains one.
        example: Option<String>,
    },
    /// Contradiction between settings that are each valid.
    #[error("{}: {why}", named(settings))]
    Conflict {
        /// Full paths, with dots, and the layer of each.
        settings: Vec<(String, Origin)>,
        /// The broken rule, with a right value.
        why: String,
    },
    /// Address that other machines reach, without a key or `access.open`.
    #[error(
        "refusing to serve {address} to everyone: no API key is configured. Make one with `longhaul hash-key NAME` and put its line \
         under [access]; or serve this machine alone, for example with `--listen 8080`; or say --open if everyone may read, write \
         and delete"
    )]
    OpenToOthers {
        /// The address.
        address: ListenAddress,
    },
}

fn named(settings: &[(String, Origin)]) -> String {
    let named: Vec<_> = settings
        .iter()
        .map(|(setting, origin)| format!("`{setting}` ({origin})"))
        .collect();
    named.join(" and ")
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
        // Each test has a directory of its own, so the path differs.
        let mut parts = error.split("in /");
        let mut said = parts.next().unwrap().to_owned();
        for part in parts {
            let (_, after) = part.split_once("longhaul.toml").unwrap();
            said.push_str("in longhaul.toml");
            said.push_str(after);
        }
        said
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
        for (file, expected) in [
            (
                "lisen = '127.0.0.1:1'",
                "`lisen` (in longhaul.toml); did you mean `listen`?",
            ),
            (
                "[log]\nlevle = 'info'",
                "`log.levle` (in longhaul.toml); did you mean `log.level`?",
            ),
            (
                "[zebra]\nstripes = 3",
                "`zebra` (in longhaul.toml); `longhaul config` lists all",
            ),
            (
                "[access]\nkeys = [{ name = 'a', sha265 = 'b' }]",
                "`access.keys[0].sha265` (in longhaul.toml); did you mean `access.keys[0].sha256`?",
            ),
        ] {
            assert_eq!(
                message(file, &[]),
                format!("there is no setting {expected}")
            );
        }
        assert_eq!(
            message("", &[("LONGHAUL_ACCESS__OPNE", "true")]),
            "there is no setting `access.opne` (from LONGHAUL_ACCESS__OPNE); did you mean `access.open`?"
        );
        assert_eq!(
            message("[blobs]\nbucket = 'files'", &[]),
            "the setting `blobs.bucket` (in longhaul.toml) is of another kind of store than `blobs.type`, which is `fs`: remove it, \
             or change the type"
        );
    }

    const A_KEY: &str = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";

    /// Messages name no types and no words of libraries, and show an example in the syntax of the
    /// layer.
    #[test]
    fn wrong_values_say_which_setting_where_and_what_would_be_right() {
        let s3 = |line: &str| format!("[blobs]\ntype = 's3'\nbucket = 'b'\n{line}");
        for (file, expected) in [
            (
                "listen = 'nowhere'".to_owned(),
                "`listen` (in longhaul.toml) cannot be \"nowhere\": it must be an address of this machine and a port: \
                 `127.0.0.1:8080`, `[::1]:8080` or `localhost:8080` for this machine alone, `:8080` for every address",
            ),
            (
                "public_url = 'example.org'".to_owned(),
                "`public_url` (in longhaul.toml) cannot be \"example.org\": it takes a whole URL, for example \
                 `public_url = \"https://files.example.org\"`",
            ),
            (
                "[http]\nmax_head_size = 'x'".to_owned(),
                "`http.max_head_size` (in longhaul.toml) cannot be \"x\": it takes a size such as `64 KiB` or `100 MB`",
            ),
            (
                "[http]\nhead_timeout = 5".to_owned(),
                "`http.head_timeout` (in longhaul.toml) cannot be 5: it takes a time such as `500ms`, `30s`, `5m` or `2h`",
            ),
            (
                "[http]\ninterim = 'maybe'".to_owned(),
                "`http.interim` (in longhaul.toml) cannot be \"maybe\": it takes one of `on`, `off`, `trusted`",
            ),
            (
                "[http]\nmax_connections = 'many'".to_owned(),
                "`http.max_connections` (in longhaul.toml) cannot be \"many\": it takes a whole number, for example \
                 `max_connections = 10000`",
            ),
            (
                "[http]\ninterim_untrusted_proxies = ['nginx']".to_owned(),
                "`http.interim_untrusted_proxies` (in longhaul.toml) cannot be [\"nginx\"]: `nginx` is neither an address nor a \
                 network such as 10.0.0.0/8",
            ),
            (
                "[access]\nkeys = ['laptop']".to_owned(),
                "`access.keys[0]` (in longhaul.toml) cannot be \"laptop\": it takes a list of keys; `longhaul hash-key NAME` makes \
                 one, with its line",
            ),
            (
                "[access]\nkeys = [{ name = 'a', sha256 = 'abc' }]".to_owned(),
                "`access.keys[0].sha256` (in longhaul.toml) cannot be this: a SHA-256 value has 64 hexadecimal digits, for example \
                 `keys = [{ name = \"laptop\", sha256 = ",
            ),
            (
                "[metadata]\nreaders = 0".to_owned(),
                "`metadata.readers` (in longhaul.toml) cannot be 0: it takes a whole number of 1 or more, for example `readers = 4`",
            ),
            (
                "[metadata]\ntype = 'postgres'".to_owned(),
                "`metadata.url` is missing (in longhaul.toml); for example `url = \"postgres://longhaul:secret@db.internal/longhaul\"`",
            ),
            (
                "[metadata]\ntype = 'postgres'\nurl = 'db.internal'".to_owned(),
                "`metadata.url` (in longhaul.toml) cannot be \"db.internal\": it is no URL, for example `url = \"postgres://",
            ),
            (
                s3("part_size = 'big'"),
                "`blobs.part_size` (in longhaul.toml) cannot be \"big\": it takes a size such as `64 KiB` or `100 MB`",
            ),
            (
                "[blobs]\ntype = 'tape'".to_owned(),
                "`blobs.type` (in longhaul.toml) cannot be \"tape\": it takes one of `fs`, `s3`",
            ),
            (
                "[log]\nlevel = 'loud'".to_owned(),
                "`log.level` (in longhaul.toml) cannot be \"loud\": `loud` is no level; the levels are `error`, `warn`, `info`",
            ),
            (
                "[webhooks]\nsecrets = ['abc']".to_owned(),
                "`webhooks.secrets[0]` (in longhaul.toml) cannot be this: a secret is `whsec_` and 24 to 64 random bytes",
            ),
            (
                "[webhooks]\nevents = ['upload.done']".to_owned(),
                "`webhooks.events[0]` (in longhaul.toml) cannot be \"upload.done\": ",
            ),
            (
                "http = 3".to_owned(),
                "`http` (in longhaul.toml) cannot be 3: ",
            ),
            (
                "[tls]\ncert = ''".to_owned(),
                "`tls.cert` (in longhaul.toml) is empty: leave it out, or say something, for example `cert = \"/etc/longhaul/cert.pem\"`",
            ),
        ] {
            let said = message(&file, &[]);
            assert!(
                said.starts_with(&format!("the setting {expected}")),
                "{said}"
            );
            for foreign in [
                "expected",
                "struct",
                "invalid type",
                "invalid value",
                "base",
                "sequence",
            ] {
                assert!(!said.contains(foreign), "{said}");
            }
        }
        assert!(
            message("listen = ", &[]).contains("is not valid TOML, which looks like this: `listen")
        );
    }

    #[test]
    fn a_variable_that_is_wrong_is_shown_right() {
        for (variable, value, expected) in [
            (
                "LONGHAUL_ACCESS__OPEN",
                "perhaps",
                "`access.open` (from LONGHAUL_ACCESS__OPEN) cannot be \"perhaps\": it takes `true` or `false`",
            ),
            (
                "LONGHAUL_ACCESS__KEYS",
                "secret",
                "`access.keys` (from LONGHAUL_ACCESS__KEYS) cannot be \"secret\": it takes a list of keys; `longhaul hash-key NAME` \
                 makes one, with its line",
            ),
            (
                "LONGHAUL_ACCESS__KEYS",
                "",
                "`access.keys` (from LONGHAUL_ACCESS__KEYS) is empty: leave it out, or say something, for example \
                 `LONGHAUL_ACCESS__KEYS=[{ name = \"laptop\"",
            ),
            (
                "LONGHAUL_PUBLIC_URL",
                "",
                "`public_url` (from LONGHAUL_PUBLIC_URL) is empty: leave it out, or say something, for example \
                 `LONGHAUL_PUBLIC_URL=https://files.example.org`",
            ),
            (
                "LONGHAUL_HTTP__DRAIN_GRACE",
                "soon",
                "`http.drain_grace` (from LONGHAUL_HTTP__DRAIN_GRACE) cannot be \"soon\": it takes a time such as",
            ),
            (
                "LONGHAUL_METADATA__READERS",
                "four",
                "`metadata.readers` (from LONGHAUL_METADATA__READERS) cannot be \"four\": it takes a whole number of 1 or more, for \
                 example `LONGHAUL_METADATA__READERS=4`",
            ),
        ] {
            let said = message("", &[(variable, value)]);
            assert!(
                said.starts_with(&format!("the setting {expected}")),
                "{said}"
            );
        }
    }

    #[test]
    fn no_secret_is_shown_where_a_value_is_wrong() {
        for (file, secret) in [
            (
                "[metadata]\ntype = 'postgres'\nurl = 'db://me:hunter2@db/x'",
                "hunter2",
            ),
            (
                "[metadata]\ntype = 'postgres'\nurl = 'me:hunter2@db'",
                "hunter2",
            ),
            ("[webhooks]\nsecrets = ['hunter2']", "hunter2"),
            (
                "[access]\nkeys = [{ name = 'a', sha256 = 'hunter2' }]",
                "hunter2",
            ),
            (
                "[webhooks]\nurl = 'http://me:hunter2@example.org'",
                "hunter2",
            ),
        ] {
            let error = load(file, &[], Flags::default()).unwrap_err();
            let said = format!("{:#}", anyhow::Error::from(error));
            assert!(!said.contains(secret), "{said}");
        }
    }

    #[test]
    fn proxies_are_addresses_or_networks() {
        let file = "[http]\ninterim_untrusted_proxies = ['10.0.0.5', '10.1.0.0/16', '::1']";
        let config = load(file, &[], Flags::default()).unwrap();
        let read: Vec<_> = config.http.interim_untrusted_proxies;
        let read: Vec<_> = read.iter().map(ToString::to_string).collect();
        assert_eq!(read, ["10.0.0.5/32", "10.1.0.0/16", "::1/128"]);
    }

    /// The less safe of two settings never wins silently.
    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        let key = |name: &str, hash: &str| format!("{{ name = '{name}', sha256 = '{hash}' }}");
        let keys = |keys: &[String]| format!("[access]\nkeys = [{}]\n", keys.join(", "));
        let other = "a".repeat(64);
        let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let one = keys(&[key("a", A_KEY)]);
        for (file, expected) in [
            (
                format!("{one}open = true"),
                "`access.open` (in longhaul.toml) and `access.keys` (in longhaul.toml): they contradict",
            ),
            (
                keys(&[key("a", A_KEY), key("a", &other)]),
                "`access.keys` (in longhaul.toml): two keys have the name `a`",
            ),
            (
                keys(&[key("a", A_KEY), key("b", A_KEY)]),
                "`access.keys` (in longhaul.toml): `a` and `b` are the same key",
            ),
            (
                keys(&[key("a", nothing)]),
                "`access.keys` (in longhaul.toml): `a` is the hash of no key at all",
            ),
            (
                keys(&[key(" ", A_KEY)]),
                "`access.keys` (in longhaul.toml): a key has no name",
            ),
            (
                "[tls]\ncert = 'cert.pem'".into(),
                "`tls.cert` (in longhaul.toml): `tls.key` belongs to it",
            ),
            (
                "[tls]\nkey = 'key.pem'".into(),
                "`tls.key` (in longhaul.toml): `tls.cert` belongs to it",
            ),
            (
                "public_url = 'http://a.example'\n[tls]\ncert = 'c'\nkey = 'k'".into(),
                "`public_url` (in longhaul.toml) and `tls.cert` (in longhaul.toml): they contradict",
            ),
            (
                "public_url = 'ftp://example.org'".into(),
                "`public_url` (in longhaul.toml): it must be an http or https URL",
            ),
            (
                "public_url = 'https://example.org/?a'".into(),
                "`public_url` (in longhaul.toml): it must be",
            ),
            (
                "public_url = 'https://me@example.org/'".into(),
                "`public_url` (in longhaul.toml): it must be",
            ),
            (
                "[admin]\nlisten = ':9000'".into(),
                "`admin.listen` (in longhaul.toml): whoever reaches the admin listener",
            ),
            (
                "[admin]\nlisten = '0.0.0.0'".into(),
                "`admin.listen` (in longhaul.toml): whoever reaches",
            ),
            (
                "[admin]\nlisten = 8080".into(),
                "`admin.listen` (in longhaul.toml) and `listen` (by default): both want the same port",
            ),
            (
                "[http]\nmax_connections = 0".into(),
                "`http.max_connections` (in longhaul.toml): max_connections must be 1 or more",
            ),
            (
                "[http.http2]\nwindow = '1 KiB'".into(),
                "`http.http2.window` (in longhaul.toml): http2.window must be 64 KiB",
            ),
            (
                "[http]\nhead_timeout = '0s'".into(),
                "`http.head_timeout` (in longhaul.toml): it must be more than nothing",
            ),
            (
                "[http]\nkeep_alive_timeout = '1000years'".into(),
                "`http.keep_alive_timeout` (in longhaul.toml): 365250days is more than",
            ),
            (
                "[uploads]\nmax_size = '0 B'".into(),
                "`uploads.max_size` (in longhaul.toml): it must be more than nothing",
            ),
            (
                "[uploads]\nlifetime = '0s'".into(),
                "`uploads.lifetime` (in longhaul.toml): it must be more than nothing",
            ),
            (
                "[cleanup]\ninterval = '0s'".into(),
                "`cleanup.interval` (in longhaul.toml): it must be more than nothing",
            ),
            (
                "[cleanup]\norphan_after = '0s'".into(),
                "`cleanup.orphan_after` (in longhaul.toml): it must be more than nothing",
            ),
            (
                "[uploads]\nmin_size = '2 MB'\nmax_size = '1 MB'".into(),
                "`uploads.min_size` (in longhaul.toml) and `uploads.max_size` (in longhaul.toml): ",
            ),
            (
                "[uploads]\nmin_append_size = '2 MB'\nmax_append_size = '1 MB'".into(),
                "`uploads.min_append_size` (in longhaul.toml) and `uploads.max_append_size` (in longhaul.toml): ",
            ),
            (
                "[http]\ninterim = 'on'\ninterim_untrusted_proxies = ['10.0.0.5']".into(),
                "`http.interim` (in longhaul.toml) and `http.interim_untrusted_proxies` (in longhaul.toml): `on` sends",
            ),
            (
                "[http]\ninterim_untrusted_proxies = ['10.0.0.5/8']".into(),
                "`http.interim_untrusted_proxies` (in longhaul.toml): `10.0.0.5/8` is an address and a network in one; write \
                 `10.0.0.5` or `10.0.0.0/8`",
            ),
            (
                "[webhooks]\nurl = 'https://example.org'".into(),
                "`webhooks.url` (in longhaul.toml): `webhooks.secrets` are missing",
            ),
            (
                "[webhooks.pre_create]\nurl = 'http://example.org'".into(),
                "`webhooks.pre_create.url` (in longhaul.toml): nothing is sent to",
            ),
            (
                "[webhooks]\nfirst_retry = '2h'\nlongest_retry = '1h'".into(),
                "`webhooks.first_retry` (in longhaul.toml) and `webhooks.longest_retry` (in longhaul.toml): 2h is longer than 1h",
            ),
            (
                "[blobs]\nread_chunk = '1 B'".into(),
                "`blobs.read_chunk` (in longhaul.toml): blobs.read_chunk must be between",
            ),
            (
                "[blobs]\ntype = 's3'".into(),
                "`blobs.bucket` (by default): blobs.bucket must be the name of a bucket",
            ),
            (
                "[blobs]\ntype = 's3'\nbucket = 'b'\nredirect_endpoint = 'cdn.example.org'".into(),
                "`blobs.redirect_endpoint` (in longhaul.toml): it must be the http or https URL of an S3 server, for example",
            ),
            (
                "[blobs]\ntype = 's3'\nbucket = 'b'\nendpoint = 'localhost:9000'".into(),
                "`blobs.endpoint` (in longhaul.toml): it must be the http or https URL of an S3 server",
            ),
        ] {
            let said = message(&file, &[]);
            assert!(said.starts_with(expected), "{file}: {said}");
        }
    }

    #[test]
    fn a_contradiction_names_the_layer_of_each_setting() {
        let file = format!("[access]\nkeys = [{{ name = 'a', sha256 = '{A_KEY}' }}]");
        let said = message(&file, &[("LONGHAUL_ACCESS__OPEN", "true")]);
        let expected =
            "`access.open` (from LONGHAUL_ACCESS__OPEN) and `access.keys` (in longhaul.toml): ";
        assert!(said.starts_with(expected), "{said}");
        let flags = Flags {
            open: true,
            ..Flags::default()
        };
        let said = load(&file, &[], flags).unwrap_err().to_string();
        assert!(
            said.starts_with("`access.open` (on the command line) and `access.keys` (in "),
            "{said}"
        );
    }

    #[test]
    fn no_layer_takes_the_keys_of_another_away_by_an_empty_list() {
        let file = format!("[access]\nkeys = [{{ name = 'a', sha256 = '{A_KEY}' }}]");
        let said = message(&file, &[("LONGHAUL_ACCESS__KEYS", "[]")]);
        let expected = "`access.keys` (from LONGHAUL_ACCESS__KEYS) and `access.keys` (in longhaul.toml): the first is empty";
        assert!(said.starts_with(expected), "{said}");
        load(
            "[access]\nkeys = []",
            &[("LONGHAUL_ACCESS__KEYS", "[]")],
            Flags::default(),
        )
        .unwrap();
    }

    #[test]
    fn the_admin_listener_is_for_others_where_that_is_said() {
        let config = load(
            "[admin]\nlisten = ':9000'\nopen = true",
            &[],
            Flags::default(),
        )
        .unwrap();
        assert!(!config.admin.listen.address().unwrap().is_loopback());
    }

    #[test]
    fn without_keys_other_machines_are_served_only_where_that_is_said() {
        let addresses = |texts: &[&str]| -> Vec<ListenAddress> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let config = Config::default();
        config
            .check_reach(&addresses(&["8080", "localhost", "[::1]"]))
            .unwrap();
        for beyond in [":8080", "0.0.0.0", "192.0.2.1:80", "[::]:80"] {
            let refused = config
                .check_reach(&addresses(&["8080", beyond]))
                .unwrap_err();
            assert!(
                refused.to_string().contains("longhaul hash-key NAME"),
                "{refused}"
            );
        }
        let open = load("[access]\nopen = true", &[], Flags::default()).unwrap();
        open.check_reach(&addresses(&[":8080"])).unwrap();
        let file = format!("[access]\nkeys = [{{ name = 'a', sha256 = '{A_KEY}' }}]");
        let keyed = load(&file, &[], Flags::default()).unwrap();
        keyed.check_reach(&addresses(&[":8080"])).unwrap();
    }

    #[test]
    fn settings_that_differ_are_named() {
        let one = load(
            "[log]\nlevel = 'info'\n[http]\ndrain_grace = '60s'",
            &[],
            Flags::default(),
        )
        .unwrap();
        let other = load(
            "[log]\nlevel = 'debug'\n[http]\ndrain_grace = '1m'",
            &[],
            Flags::default(),
        )
        .unwrap();
        assert_eq!(one.differences(&other), ["log.level"]);
        assert_eq!(one.differences(&one), [""; 0]);
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
    fn the_printed_defaults_are_the_defaults() {
        let text = Config::defaults();
        assert!(text.contains("\n# part_size = \"8.0 MiB\"\n"), "{text}");
        assert!(text.contains("\n# url =\n"), "{text}");
        assert!(text.contains("\nneed_lifetime = \"90days\"\n"), "{text}");
        let printed: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(printed, Config::default().to_table());
        // A setting that its section does not serialize would be missing here, unless it has a
        // default.
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
