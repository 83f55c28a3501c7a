//! Warnings about secret files that other users can read.
//!
//! These are no errors: secrets mounted into containers are often readable by every user there.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use toml::Value;
use url::Url;

use super::rules::lookup;
use super::{Config, Flags};

/// Permission bits of other users.
const OTHERS: u32 = 0o007;

pub(super) fn doubts(config: &Config, flags: &Flags) -> Vec<String> {
    let mut secrets: Vec<&Path> = Vec::new();
    secrets.extend(config.tls.key.as_deref());
    secrets.extend(config.packs.signing_key.as_deref());
    let file = flags.config.as_deref();
    secrets.extend(file.filter(|file| holds_secrets(file)));
    let files = secrets.into_iter().filter(|file| others_reach(file));
    let mut doubts: Vec<String> = files
        .map(|file| {
            let file = file.display();
            format!(
                "every user of this machine can read {file}, which holds a secret: chmod 600 {file}"
            )
        })
        .collect();
    if config.data.is_dir() && others_reach(&config.data) {
        let data = config.data.display();
        doubts.push(format!(
            "every user of this machine can look into the data directory: chmod 700 {data}"
        ));
    }
    doubts
}

/// Returns true if the file contains a secret; hashes of keys are none.
fn holds_secrets(file: &Path) -> bool {
    let Ok(table) = super::read(file) else {
        return false;
    };
    let has_password = |url: &Value| {
        let url = url.as_str().and_then(|url| Url::parse(url).ok());
        url.is_some_and(|url| url.password().is_some())
    };
    lookup(&table, "webhooks.secrets").is_some()
        || lookup(&table, "blobs.secret_access_key").is_some()
        || lookup(&table, "metadata.url").is_some_and(has_password)
}

fn others_reach(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|found| found.permissions().mode() & OTHERS != 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn files_that_others_can_read_are_doubted() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode| {
            let file = directory.path().join(name);
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            file
        };
        let mut config = Config {
            data: directory.path().to_owned(),
            ..Config::default()
        };
        config.tls.key = Some(file("key.pem", "", 0o640));
        config.packs.signing_key = Some(file("signing.pem", "", 0o600));
        let flags = Flags {
            config: Some(file("longhaul.toml", "data = '/srv'", 0o644)),
            ..Flags::default()
        };
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        assert_eq!(doubts(&config, &flags), [""; 0]);

        config.tls.key = Some(file("key.pem", "", 0o644));
        file(
            "longhaul.toml",
            "[metadata]\nurl = 'postgres://me:secret@db/longhaul'",
            0o644,
        );
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let doubts = doubts(&config, &flags);
        for (doubt, of) in doubts.iter().zip(["key.pem", "longhaul.toml", "chmod 700"]) {
            assert!(doubt.contains(of), "{doubts:?}");
        }
        assert_eq!(doubts.len(), 3);
    }
}
