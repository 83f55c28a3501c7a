//! The query of a request.
//!
//! One rule for every route: a parameter that the resource does not have is refused, as is one that
//! occurs twice, so that a mistyped filter never lists more than the client wanted, and a mistyped
//! option is never ignored. Only downloads and `OPTIONS` accept and ignore any parameter: caches,
//! trackers and pages add parameters to their URLs (`?v=3`), and the bytes are the same.

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{Method, Uri};
use percent_encoding::percent_decode_str;
use protocol::problem::Problem;

use crate::problem::{Failure, kinds};

/// Maximum number of wrong letters in a name for which a correct name is suggested.
const TYPING_ERRORS: usize = 2;

/// Returns the parameters of a resource, with an example of its query; `None` if any are allowed.
fn parameters(method: &Method, route: &str) -> Option<&'static [(&'static str, &'static str)]> {
    const LIST: &[(&str, &str)] = &[("limit", "100"), ("cursor", "Yi50eHQ")];
    const FILES: &[(&str, &str)] = &[
        ("prefix", "photos/"),
        ("limit", "100"),
        ("cursor", "Yi50eHQ"),
    ];
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match route {
        _ if *method == Method::OPTIONS => None,
        "/files" if reads => Some(FILES),
        "/uploads" if reads => Some(&[("client_ref", "photo-7")]),
        "/packs" | "/packs/{pack}" | "/events/dead" if reads => Some(LIST),
        "/packs/{pack}/versions/{v}/diff" => Some(&[("format", "zip")]),
        _ if reads && is_download(route) => None,
        _ => Some(&[]),
    }
}

fn is_download(route: &str) -> bool {
    ["/files/", "/uploads/", "/packs/{pack}/versions/{v}/"]
        .iter()
        .any(|above| route.starts_with(above))
}

/// Refuses a request with parameters that its resource does not have.
pub(crate) async fn check(request: Request, next: Next) -> Result<Response, Failure> {
    let route = request.extensions().get::<MatchedPath>();
    let known = route.and_then(|route| parameters(request.method(), route.as_str()));
    if let Some(known) = known {
        read(request.uri(), known)?;
    }
    Ok(next.run(request).await)
}

fn read(uri: &Uri, known: &[(&str, &str)]) -> Result<(), Failure> {
    let mut seen = Vec::new();
    let query = uri.query().unwrap_or_default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = text(name).unwrap_or_else(|| name.to_owned());
        if !known.iter().any(|(own, _)| *own == name) {
            return Err(malformed(unknown(uri.path(), &name, known)));
        }
        if text(value).is_none() {
            let detail = format!("The value of {name} must be UTF-8 without control characters.");
            return Err(malformed(detail));
        }
        if seen.contains(&name) {
            return Err(malformed(format!("Send {name} once; it comes twice.")));
        }
        seen.push(name);
    }
    Ok(())
}

/// Decodes a name or value of a query.
fn text(encoded: &str) -> Option<String> {
    let spaced = encoded.replace('+', " ");
    let text = percent_decode_str(&spaced).decode_utf8().ok()?;
    (!text.contains(char::is_control)).then(|| text.into_owned())
}

fn unknown(path: &str, name: &str, known: &[(&str, &str)]) -> String {
    let short: String = name.chars().take(40).collect();
    let [(first, value), ..] = known else {
        return format!("Leave out the parameter {short:?}: this request takes none.");
    };
    let nearest = known
        .iter()
        .map(|(own, _)| (strsim::damerau_levenshtein(own, &short.to_lowercase()), own))
        .filter(|(distance, _)| *distance <= TYPING_ERRORS)
        .min();
    let meant = nearest.map_or(String::new(), |(_, own)| format!(" Did you mean {own}?"));
    let names: Vec<&str> = known.iter().map(|(own, _)| *own).collect();
    let names = names.join(", ");
    format!(
        "There is no parameter {short:?}.{meant} This request takes: {names}; such as {path}?{first}={value}."
    )
}

/// Returns the failure for a query that cannot be read; `detail` is the reason.
pub(crate) fn malformed(detail: impl Into<String>) -> Failure {
    Problem::new(kinds::MALFORMED_REQUEST)
        .detailed(detail)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(uri: &str, route: &str) -> Option<String> {
        let known = parameters(&Method::GET, route)?;
        match read(&uri.parse().unwrap(), known) {
            Ok(()) => None,
            Err(failure) => Some(failure.problem().unwrap().detail().unwrap().to_owned()),
        }
    }

    #[test]
    fn what_a_resource_has_is_taken() {
        for (uri, route) in [
            ("/files", "/files"),
            ("/files?", "/files"),
            ("/files?&prefix=&", "/files"),
            ("/files?prefix=a%26b+c&limit=3&cursor=YQ", "/files"),
            ("/uploads?client_ref=%F0%9F%8E%89", "/uploads"),
            ("/packs?limit=1", "/packs"),
            ("/packs/p?cursor=3", "/packs/{pack}"),
            // A download ignores all parameters.
            ("/files/a.js?v=3&utm_source=x&v=3", "/files/{*path}"),
            (
                "/packs/p/versions/1/archive.zip?v=%ff",
                "/packs/{pack}/versions/{v}/archive.zip",
            ),
        ] {
            assert_eq!(refusal(uri, route), None, "{uri}");
        }
    }

    #[test]
    fn what_it_does_not_have_is_refused() {
        for (uri, route, hint) in [
            (
                "/files?sha256=ab",
                "/files",
                "takes: prefix, limit, cursor; such as /files?prefix=photos/.",
            ),
            ("/files?prefx=a", "/files", "Did you mean prefix?"),
            ("/files?Limit=1", "/files", "Did you mean limit?"),
            ("/files?limit", "/files?", "takes none"),
            (
                "/uploads?clientref=a",
                "/uploads",
                "Did you mean client_ref?",
            ),
            ("/packs?prefix=a", "/packs", "takes: limit, cursor"),
            ("/packs/p?v=1", "/packs/{pack}", "takes: limit, cursor"),
            (
                "/packs/p/drafts/1?a",
                "/packs/{pack}/drafts/{draft}",
                "takes none",
            ),
            ("/files?limit=1&limit=2", "/files", "Send limit once"),
            ("/files?prefix=%00", "/files", "without control characters"),
            ("/files?prefix=%ff", "/files", "must be UTF-8"),
            ("/files?%ff=1", "/files", "There is no parameter"),
        ] {
            let detail = refusal(uri, route).unwrap();
            assert!(detail.contains(hint), "{uri}: {detail}");
        }
        assert_eq!(parameters(&Method::PUT, "/files/{*path}"), Some(&[][..]));
        assert_eq!(parameters(&Method::DELETE, "/files/{*path}"), Some(&[][..]));
        assert_eq!(parameters(&Method::POST, "/files"), Some(&[][..]));
        assert_eq!(parameters(&Method::OPTIONS, "/files"), None);
    }
}
