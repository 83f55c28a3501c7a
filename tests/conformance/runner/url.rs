//! Targets of requests: absolute URLs, and references resolved against them (RFC 3986 §5).

use std::fmt;

use http::Uri;

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query, never empty.
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text
            .parse()
            .map_err(|error| format!("{text:?} is no URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("{text:?} is no http or https URL")),
        };
        let host = uri
            .host()
            .ok_or_else(|| format!("{text:?} names no host"))?
            .to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let path = uri
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string);
        Ok(Self {
            origin: Origin { tls, host, port },
            path,
        })
    }

    /// Resolves a reference in an answer to a request to this URL.
    pub(crate) fn resolve(&self, reference: &str) -> Result<Self, String> {
        if reference.starts_with("http://") || reference.starts_with("https://") {
            return Self::parse(reference);
        }
        if let Some(rest) = reference.strip_prefix("//") {
            let scheme = if self.origin.tls { "https" } else { "http" };
            return Self::parse(&format!("{scheme}://{rest}"));
        }
        if reference.starts_with('/') {
            return Self::parse(&format!("{}{reference}", self.origin));
        }
        if reference.is_empty() {
            return Err("an empty reference".to_owned());
        }
        let directory = match self
            .path
            .split('?')
            .next()
            .unwrap_or_default()
            .rsplit_once('/')
        {
            Some((directory, _)) => directory,
            None => "",
        };
        Self::parse(&format!(
            "{}{directory}/{}",
            self.origin,
            reference.strip_prefix("./").unwrap_or(reference)
        ))
    }
}

impl Origin {
    /// Returns the value of `Host` and `:authority`.
    pub(crate) fn authority(&self) -> String {
        match (self.tls, self.port) {
            (false, 80) | (true, 443) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(reference: &str, expected: &str) {
        let base = Url::parse("http://localhost:8080/files/new?x=1").unwrap();
        let found = base.resolve(reference).unwrap();
        assert_eq!(format!("{}{}", found.origin, found.path), expected);
    }

    #[test]
    fn references_resolve_against_the_request() {
        check(
            "https://example.com/uploads/1",
            "https://example.com/uploads/1",
        );
        check("/uploads/1", "http://localhost:8080/uploads/1");
        check("//example.com/1", "http://example.com/1");
        check("1?a", "http://localhost:8080/files/1?a");
        check("./1", "http://localhost:8080/files/1");
    }

    #[test]
    fn other_schemes_and_bare_words_are_refused() {
        assert!(Url::parse("ftp://localhost/").is_err());
        assert!(Url::parse("localhost").is_err());
        assert!(
            Url::parse("http://localhost/")
                .unwrap()
                .resolve("")
                .is_err()
        );
    }
}
