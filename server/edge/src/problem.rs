//! Failures as problem documents (RFC 9457).
//!
//! A handler's failure is a [`Failure`]: a document with fields, or a cut. [`table`] decides which,
//! and [`kinds`] lists the kinds of problems with their advice. The middleware [`finish`] writes
//! the document, because it has the request's identifier. So failures have one form regardless of
//! their origin: a handler, the router or an extractor.

pub(crate) mod kinds;
mod table;

use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use protocol::NO_STORE;
use protocol::fields::name::X_REQUEST_ID;
use protocol::problem::{MEDIA_TYPE, Problem};
use transport::Cut;
use uuid::Uuid;

pub(crate) use self::kinds::Missing;
pub(crate) use self::table::Voice;

/// A request that was not fulfilled.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Answered with a problem document.
    Answered(Box<Answered>),
    /// Not answered: the exchange is cut, so that the client resumes.
    Cut,
}

/// A problem document and the fields beside it.
#[derive(Debug)]
pub(crate) struct Answered {
    problem: Problem,
    fields: HeaderMap,
}

impl Failure {
    fn answered(problem: Problem, fields: HeaderMap) -> Self {
        Self::Answered(Box::new(Answered { problem, fields }))
    }

    /// Adds a field to the answer; a cut has none.
    pub(crate) fn with(self, name: HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.with_all(HeaderMap::from_iter([(name, value.into())]))
    }

    /// Adds fields to the answer; a cut has none.
    pub(crate) fn with_all(mut self, fields: HeaderMap) -> Self {
        match &mut self {
            Self::Answered(answered) => answered.fields.extend(fields),
            Self::Cut => {}
        }
        self
    }
}

#[cfg(test)]
impl Failure {
    /// Returns the problem, unless the exchange is cut.
    pub(crate) fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Answered(answered) => Some(&answered.problem),
            Self::Cut => None,
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::answered(problem, HeaderMap::new())
    }
}

/// A problem on its way to [`finish`], in a response's extensions.
#[derive(Debug, Clone)]
struct Unwritten(Problem);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Self::Cut => Cut::response(),
            Self::Answered(answered) => {
                let Answered { problem, fields } = *answered;
                let mut response = Response::new(Body::empty());
                *response.status_mut() = problem.status();
                *response.headers_mut() = fields;
                response.extensions_mut().insert(Unwritten(problem));
                response
            }
        }
    }
}

/// Identifier of a request, for its log lines and its answer.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) HeaderValue);

impl RequestId {
    /// Returns the identifier that the client or a proxy gave, if it is fit to be logged; otherwise
    /// a new one.
    pub(crate) fn of(request: &HeaderMap) -> Self {
        let given = request.get(&X_REQUEST_ID).filter(|value| {
            (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
        });
        Self(match given {
            Some(value) => value.clone(),
            None => {
                let id = Uuid::now_v7().to_string();
                HeaderValue::from_str(&id).expect("a UUID is a field value")
            }
        })
    }

    /// Returns the identifier as text.
    pub(crate) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// Finishes every answer: adds the request's identifier, writes the document of a problem, and
/// forbids caches to keep an answer that has no `Cache-Control` of its own. Caches would otherwise
/// choose a lifetime themselves, even for a list, a 404 or a 405 (RFC 9111 §4.2.2).
///
/// Adds the identifier to the request as well, for handlers.
pub(crate) async fn finish(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.headers_mut().insert(X_REQUEST_ID, id.0.clone());
    let head = request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    response.headers_mut().insert(X_REQUEST_ID, id.0.clone());
    if let Some(Unwritten(problem)) = response.extensions_mut().remove() {
        write(
            &mut response,
            &problem.with("request_id", id.as_str()),
            head,
        );
    }
    let fields = response.headers_mut();
    fields.entry(CACHE_CONTROL).or_insert(NO_STORE);
    response
}

fn write(response: &mut Response, problem: &Problem, head: bool) {
    let document = serde_json::to_vec(problem).expect("a problem is JSON");
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(document.len()));
    if !head {
        *response.body_mut() = document.into();
    }
}

/// Answers a request whose path has no meaning.
pub(crate) async fn no_such_resource() -> Failure {
    Missing::Path.into()
}

/// Answers a request whose method the resource does not have; the router adds `Allow`.
pub(crate) async fn no_such_method() -> Failure {
    kinds::METHOD_NOT_ALLOWED.problem().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_identifier_is_taken_only_if_it_is_harmless() {
        let with = |value: &'static str| {
            HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_static(value))])
        };
        assert_eq!(RequestId::of(&with("abc-1")).as_str(), "abc-1");
        assert_ne!(RequestId::of(&with("a b")).as_str(), "a b");
        assert_eq!(RequestId::of(&HeaderMap::new()).as_str().len(), 36);
    }
}
