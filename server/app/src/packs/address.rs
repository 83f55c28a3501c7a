//! Address of a pack: `…/packs/NAME`, or one of its versions.

use std::fmt;
use std::str::FromStr;

use archive::PackName;
use reqwest::Url;

/// URL of a pack or of one of its versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackAddress {
    /// `…/packs/NAME`, without a slash at the end.
    url: Url,
    name: PackName,
    /// Number of the version; none for the latest.
    version: Option<u64>,
}

impl PackAddress {
    /// Returns the address of the pack of this name on a server.
    ///
    /// # Errors
    ///
    /// The server's URL is not HTTP.
    pub fn new(server: &Url, name: PackName) -> Result<Self, String> {
        if !matches!(server.scheme(), "http" | "https") {
            return Err(format!("{server} is no http:// or https:// URL"));
        }
        let mut url = server.clone();
        url.set_query(None);
        url.set_fragment(None);
        segments(&mut url)
            .pop_if_empty()
            .extend(["packs", name.as_str()]);
        Ok(Self {
            url,
            name,
            version: None,
        })
    }

    /// Returns the pack's name.
    pub fn name(&self) -> &PackName {
        &self.name
    }

    /// Returns the requested version; none for the latest.
    pub fn version(&self) -> Option<u64> {
        self.version
    }

    /// Returns `…/packs/NAME`.
    pub(super) fn pack(&self) -> &Url {
        &self.url
    }

    /// Returns `…/packs/NAME/` with these segments.
    pub(super) fn below(&self, path: &[&str]) -> Url {
        let mut url = self.url.clone();
        segments(&mut url).extend(path);
        url
    }

    /// Returns `…/packs/NAME/versions/N/` with these segments.
    pub(super) fn of_version(&self, version: u64, path: &[&str]) -> Url {
        let mut url = self.below(&["versions", &version.to_string()]);
        segments(&mut url).extend(path);
        url
    }

    /// Returns the URL of the requested version.
    pub(super) fn asked(&self) -> Url {
        match self.version {
            Some(version) => self.of_version(version, &[]),
            None => self.below(&["versions", "latest"]),
        }
    }
}

fn segments(url: &mut Url) -> url::PathSegmentsMut<'_> {
    url.path_segments_mut().expect("an http URL has a path")
}

impl fmt::Display for PackAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl FromStr for PackAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "a pack's URL is …/packs/NAME or …/packs/NAME/versions/NUMBER, \
                            for example http://127.0.0.1:8080/packs/maps";
        let url: Url = text.parse().map_err(|error| format!("{error}; {FORM}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("it is no http:// or https:// URL; {FORM}"));
        }
        let mut path: Vec<&str> = url.path_segments().into_iter().flatten().collect();
        if path.last() == Some(&"") {
            path.pop();
        }
        // A proxy may put any path before /packs, so the last one counts.
        let at = path
            .iter()
            .rposition(|segment| *segment == "packs")
            .ok_or(FORM)?;
        let version = match path[at + 1..] {
            [_] | [_, "versions", "latest"] => None,
            [_, "versions", number] => Some(number.parse().map_err(|_| FORM)?),
            _ => return Err(FORM.to_owned()),
        };
        let name = percent_encoding::percent_decode_str(path[at + 1])
            .decode_utf8()
            .map_err(|_| FORM)?;
        let name =
            PackName::parse(&name).map_err(|error| format!("no pack has this name: {error}"))?;
        let mut server = url.clone();
        segments(&mut server).clear().extend(&path[..at]);
        Ok(Self {
            version,
            ..Self::new(&server, name)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, pack: &str, asked: &str) {
        let address: PackAddress = text.parse().unwrap();
        assert_eq!(
            (address.pack().as_str(), address.asked().as_str()),
            (pack, asked)
        );
    }

    #[test]
    fn a_pack_and_its_versions_have_urls() {
        check(
            "http://h/packs/maps",
            "http://h/packs/maps",
            "http://h/packs/maps/versions/latest",
        );
        check(
            "http://h/packs/maps/",
            "http://h/packs/maps",
            "http://h/packs/maps/versions/latest",
        );
        check(
            "http://h/packs/maps/versions/latest?x=1#y",
            "http://h/packs/maps",
            "http://h/packs/maps/versions/latest",
        );
        check(
            "https://h/a/packs/b%20c/versions/7",
            "https://h/a/packs/b%20c",
            "https://h/a/packs/b%20c/versions/7",
        );
        for wrong in [
            "maps",
            "ftp://h/packs/maps",
            "http://h/files/maps",
            "http://h/packs",
            "http://h/packs/maps/drafts/1",
            "http://h/packs/maps/versions/x",
            "http://h/packs/.maps",
            "http://h/packs/a%2fb",
        ] {
            assert!(wrong.parse::<PackAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn parts_of_a_version_are_below_it() {
        let server = "http://h:1/base/".parse().unwrap();
        let address = PackAddress::new(&server, PackName::parse("a b").unwrap()).unwrap();
        assert_eq!(
            address.of_version(7, &["since", "6.zip"]).as_str(),
            "http://h:1/base/packs/a%20b/versions/7/since/6.zip"
        );
    }
}
