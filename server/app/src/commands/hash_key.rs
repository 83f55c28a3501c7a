//! `longhaul hash-key`: a new API key.

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::digest::Sha256Digest;

/// Make a random API key and the line that lets it in
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul hash-key laptop                        prints the key, and its line for `[access]`
  longhaul hash-key backup --json                 the same for scripts

The key is shown this once. The configuration has its hash only, and clients send it as
`Authorization: Bearer KEY`; `longhaul upload` and `download` take it from LONGHAUL_KEY.")]
pub struct Args {
    /// The name under which the log shows what is done with the key
    #[arg(default_value = "key")]
    name: String,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let mut random = [0; 32];
        getrandom::fill(&mut random).context("the system has no randomness to give")?;
        let key = format!("lh_{}", URL_SAFE_NO_PAD.encode(random));
        let sha256 = Sha256Digest::of(key.as_bytes()).to_string();

        if self.json {
            let document = serde_json::json!({ "name": self.name, "key": key, "sha256": sha256 });
            return super::print(&format!("{document}\n"));
        }
        let name = toml::Value::String(self.name);
        super::print(&format!(
            "The key, which is not stored anywhere:\n\n  {key}\n\nIts line for the configuration:\n\n  \
             [access]\n  keys = [{{ name = {name}, sha256 = \"{sha256}\" }}]\n"
        ))
    }
}
