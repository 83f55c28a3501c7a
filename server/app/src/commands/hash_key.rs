//! `longhaul hash-key`: make an API key.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::digest::Sha256Digest;

use crate::config::variable_of;

/// Make a random API key and its line for the configuration
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul hash-key laptop                        prints the key, and its line for `[access]` or the environment
  longhaul hash-key backup --json                 the same for scripts

The key is shown this once. The configuration has its hash only, and clients send it as \
`Authorization: Bearer KEY`; `longhaul upload` and `download` take it from LONGHAUL_KEY.")]
pub struct Args {
    /// Name of the key in logs
    #[arg(default_value = "key")]
    name: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let key = Key::random()?;
        let text = if self.json {
            let (name, sha256) = (&self.name, key.sha256());
            let document = serde_json::json!({ "name": name, "key": key.0, "sha256": sha256 });
            format!("{document}\n")
        } else {
            format!(
                "The key, which is not stored anywhere:\n\n  {}\n\nIts line for the configuration:\n\n{}\n\
                 or for the environment (in the .env of docker-compose.yml, LONGHAUL_KEYS=…):\n\n{}",
                key.0,
                key.line(&self.name),
                key.variable(&self.name)
            )
        };
        super::print(&text)
    }
}

/// Key of 256 random bits. Nobody can guess it, so a plain hash is enough to store.
struct Key(String);

impl Key {
    fn random() -> anyhow::Result<Self> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).context("the system has no randomness to give")?;
        Ok(Self(format!("lh_{}", URL_SAFE_NO_PAD.encode(random))))
    }

    fn sha256(&self) -> String {
        Sha256Digest::of(self.0.as_bytes()).to_string()
    }

    /// Returns the lines for the configuration that let the key in.
    fn line(&self, name: &str) -> String {
        format!("  [access]\n  keys = {}\n", self.list(name))
    }

    /// Returns the line for the environment that lets the key in, quoted for a shell.
    fn variable(&self, name: &str) -> String {
        let list = self.list(name).replace('\'', r"'\''");
        format!("  {}='{list}'\n", variable_of("access.keys"))
    }

    /// Returns the value of the setting.
    fn list(&self, name: &str) -> String {
        let (name, sha256) = (toml::Value::String(name.to_owned()), self.sha256());
        format!("[{{ name = {name}, sha256 = \"{sha256}\" }}]")
    }
}

#[cfg(test)]
mod tests {
    use domain::access::{Authenticator, Credential};

    use super::*;
    use crate::config::Config;

    #[test]
    fn the_line_lets_its_key_in_and_no_other() {
        let key = Key::random().unwrap();
        let config: Config = toml::from_str(&key.line("Ann's \"laptop\"")).unwrap();
        let authenticator = Authenticator::new(&config.access);
        assert!(authenticator.admit(Credential::Bearer(&key.0)).is_ok());
        let other = Key::random().unwrap();
        assert!(authenticator.admit(Credential::Bearer(&other.0)).is_err());
        assert_eq!(&*config.access.keys[0].name, "Ann's \"laptop\"");
    }

    #[test]
    fn a_shell_reads_the_variable() {
        let key = Key::random().unwrap();
        let name = "Ann's \"laptop\"";
        let script = format!("{}printf %s \"$LONGHAUL_ACCESS__KEYS\"", key.variable(name));
        let output = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), key.list(name));
    }
}
