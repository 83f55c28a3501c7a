//! `longhaul pull`: a version of a pack from the server, as a directory.

use std::path::PathBuf;

use anyhow::Context as _;
use archive::PackName;
use reqwest::Url;

use crate::packs::{self, PackAddress, PublicKey, Pull};
use crate::transfer::Options;

/// Bring a directory to a version of a pack, and fetch only what it lacks
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

Whatever files the directory has already, under whatever names, are not fetched again. The rest \
comes as one archive, with one request that goes on where a broken connection or run ended. Every \
file is checked against the catalogue's SHA-256. The new tree is made beside the directory, in \
.NAME.longhaul, and takes its place in one step, so that there is always one whole version, \
whatever happens.

The directory belongs to the pack: files that are not in the version go when it is replaced, \
changed and missing ones are restored. What it has is noted in its .longhaul. A directory with \
files that no pull has left there is refused, unless --force says that they may go.

With --json, standard output is one object with an `event`: pulled or up_to_date (directory, url, \
pack, version, previous, files, size, added, changed, moved, removed, unchanged, healed, fetched, \
requests, seconds) or error (message, status, resumable). Sizes are bytes.")]
pub struct Args {
    /// The pack: …/packs/NAME, …/packs/NAME/versions/NUMBER, or its name alone
    #[arg(value_name = "PACK")]
    pack: String,
    /// The directory
    directory: PathBuf,
    /// The server, where PACK is a name
    #[arg(long, value_name = "URL", default_value = super::LOCAL_SERVER)]
    server: Url,
    /// Refuse catalogues that this Ed25519 key has not signed; …/packs/signing-key shows a server's own
    #[arg(long, value_name = "BASE64")]
    public_key: Option<PublicKey>,
    /// Read every file, and do not trust that one of the same size and time is the same
    #[arg(long)]
    verify: bool,
    /// Replace files that are of no pack, or of another one
    #[arg(short, long)]
    force: bool,
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
        };
        super::block_on(async { Ok(packs::pull(job, &self.options).await?) })
    }
}

/// What has a scheme is a URL, everything else a name.
fn address(pack: &str, server: &Url) -> anyhow::Result<PackAddress> {
    let address = if pack.contains("://") {
        pack.parse()
    } else {
        let name = PackName::parse(pack).with_context(|| format!("no pack is called `{pack}`"))?;
        PackAddress::new(server, name)
    };
    address.map_err(anyhow::Error::msg)
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
