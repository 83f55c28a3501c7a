//! `longhaul pull`: bring a directory to a version of a pack.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use archive::PackName;
use reqwest::Url;

use crate::packs::{self, PackAddress, PublicKey, Pull};
use crate::transfer::Options;

/// Bring a directory to a version of a pack; fetch only what it lacks
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  longhaul pull http://127.0.0.1:8080/packs/maps ./maps
                                                  the latest version; again, to bring it up to date
  longhaul pull http://127.0.0.1:8080/packs/maps/versions/7 ./maps
                                                  this version, newer or older
  longhaul pull maps ./maps --server https://files.example.org --public-key q0U8…=
  longhaul pull http://127.0.0.1:8080/packs/maps ./maps --verify
                                                  read every file, and heal what is damaged
  longhaul pull http://127.0.0.1:8080/packs/maps ./maps --delete --dry-run
                                                  what would be done, and what is of no pack

Whatever files the directory has already, under whatever names, are not fetched again. The rest \
comes as one archive, with one request that goes on where a broken connection or run ended. Every \
file is checked against the catalogue's SHA-256.

Your own files in the directory stay, and the summary names them; --delete removes them. A file of the \
pack that was changed or lost here is what the pack says again, and is named. Where the version has a \
file and something of yours stands at its path, nothing is changed and it is named: move it away, or \
let --force replace it. A changed file that the version has no more stays. A first pull into a \
directory that has files is refused, unless --force says that it is meant.

The directory itself stays: it may be a volume, be mounted elsewhere, or be where you are. The new \
files are made in its .longhaul, and take their places one by one, each whole. While that goes on, \
.longhaul/exchange.json is there; if it is cut, even by a power failure, the next pull finishes it.

With --json, standard output is one object with an `event`: pulled, up_to_date or dry_run (directory, url, \
pack, version, previous, files, size, added, changed, moved, removed, unchanged, healed, replaced, \
replaced_paths, overruled, overruled_paths, unknown, unknown_paths, deleted, fetched, requests, \
seconds) or error (message, status, resumable). Sizes are bytes; of paths there are at most ten.")]
pub struct Args {
    /// URL …/packs/NAME or …/packs/NAME/versions/NUMBER, or the pack's name alone
    #[arg(value_name = "PACK")]
    pack: String,
    /// Directory to update
    directory: PathBuf,
    /// URL of the server, if PACK is a name
    #[arg(long, value_name = "URL", default_value = super::LOCAL_SERVER, value_parser = super::url::server_url)]
    server: Url,
    /// Refuse catalogues that this Ed25519 key has not signed; …/packs/signing-key shows a server's
    /// key
    #[arg(long, value_name = "BASE64")]
    public_key: Option<PublicKey>,
    /// Read every file instead of trusting its size and time
    #[arg(long)]
    verify: bool,
    /// Pull into a directory with other files, and replace those in the way
    #[arg(short, long)]
    force: bool,
    /// Remove files that are not the pack's, too
    #[arg(long)]
    delete: bool,
    /// Print what would be done, one file a line, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    options: Options,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let job = Pull {
            address: address(&self.pack, &self.server)?,
            directory: self.directory,
            public_key: self.public_key,
            verify: self.verify,
            force: self.force,
            delete: self.delete,
            dry_run: self.dry_run,
        };
        super::block_on(async { Ok(packs::pull(job, &self.options).await?) })
    }
}

/// Parses PACK: text with a scheme is a URL, all other text a name.
fn address(pack: &str, server: &Url) -> anyhow::Result<PackAddress> {
    let looks_like_url = pack.contains(['/', ':']);
    if looks_like_url {
        let url = super::url::http_url(pack).map_err(anyhow::Error::msg)?;
        if super::url::is_of_file(&url) {
            bail!("{url} is a file, not a pack: use `longhaul download {url}`");
        }
        let address: Result<PackAddress, _> = pack.parse();
        return address.map_err(|error| anyhow!("{pack} is no pack: {error}"));
    }
    let name = PackName::parse(pack).with_context(|| format!("no pack is called `{pack}`"))?;
    PackAddress::new(server, name).map_err(anyhow::Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pack_is_named_by_url_or_name() {
        let server = "https://h/".parse().unwrap();
        let check = |pack: &str| address(pack, &server).map(|address| address.to_string());
        assert_eq!(check("maps").unwrap(), "https://h/packs/maps");
        assert_eq!(
            check("http://other/packs/maps/versions/3").unwrap(),
            "http://other/packs/maps"
        );
        for wrong in ["a/b", "..", "http://h/files/maps", ""] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }
}
