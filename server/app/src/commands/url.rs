//! URLs on the command line: parsed with helpful messages, and told apart by the resource that they
//! name.

use reqwest::Url;

use crate::packs::PackAddress;

/// Parses a URL with a scheme that the client speaks.
pub(crate) fn http_url(text: &str) -> Result<Url, String> {
    let has_scheme = text.contains("://");
    if !has_scheme {
        let whole = if text.starts_with('/') {
            format!("{}{text}", super::LOCAL_SERVER)
        } else {
            format!("http://{text}")
        };
        return Err(format!(
            "a URL begins with http:// or https://, for example {whole}"
        ));
    }
    let example = concat!("a right one is ", "http://127.0.0.1:8080/files/video.mov");
    let mut url: Url = text
        .parse()
        .map_err(|error| format!("{error}; {example}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        let scheme = url.scheme();
        return Err(format!(
            "`{scheme}` is no scheme of Longhaul's: a URL begins with http:// or https://; {example}"
        ));
    }
    url.set_fragment(None);
    Ok(url)
}

/// Parses the URL of a server. A URL of a file or a pack is an error.
pub(crate) fn server_url(text: &str) -> Result<Url, String> {
    let url = http_url(text)?;
    let mut segments = url.path_segments().into_iter().flatten();
    if segments.any(|segment| matches!(segment, "packs" | "files")) {
        let server = url.origin().ascii_serialization();
        return Err(format!(
            "it is to be the server alone, for example {server}; the pack's name is said apart"
        ));
    }
    Ok(url)
}

/// Returns the address of the pack or version that a URL names; none if it names neither.
pub(crate) fn pack(url: &Url) -> Option<PackAddress> {
    if is_of_file(url) {
        return None;
    }
    url.as_str().parse().ok()
}

/// Returns true if a URL names a file, or the list of files.
pub(crate) fn is_of_file(url: &Url) -> bool {
    let mut segments = url.path_segments().into_iter().flatten();
    segments.find(|segment| matches!(*segment, "packs" | "files")) == Some("files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_url_is_answered_with_one() {
        let told = |text: &str| http_url(text).unwrap_err();
        assert!(told("localhost:8080/files").ends_with("for example http://localhost:8080/files"));
        assert!(told("h.example").ends_with("for example http://h.example"));
        assert!(told("/files/a").ends_with("for example http://127.0.0.1:8080/files/a"));
        assert!(told("ftp://h/files").starts_with("`ftp` is no scheme of Longhaul's"));
        assert!(told("htp://h/files").contains("http://127.0.0.1:8080/files/video.mov"));
        for wrong in ["http://", "http://h:99999/", "https://[::1/files"] {
            assert!(told(wrong).contains("a right one is http://"), "{wrong}");
        }
        assert_eq!(http_url("http://h/a#b").unwrap().as_str(), "http://h/a");
    }

    #[test]
    fn urls_are_told_apart_by_what_they_lead_to() {
        let url = |text: &str| text.parse::<Url>().unwrap();
        assert!(pack(&url("http://h/packs/maps")).is_some());
        assert!(pack(&url("http://h/base/packs/maps/versions/3")).is_some());
        assert!(pack(&url("http://h/packs/maps/versions/3/full.zip")).is_none());
        assert!(pack(&url("http://h/files/packs/maps")).is_none());
        assert!(is_of_file(&url("http://h/files/packs/maps")));
        assert!(is_of_file(&url("http://h/base/files")));
        assert!(!is_of_file(&url("http://h/packs/files")));
        assert!(server_url("http://h/base/").is_ok());
        for wrong in ["http://h/packs/maps", "http://h/files/", "h"] {
            assert!(server_url(wrong).is_err(), "{wrong}");
        }
    }
}
