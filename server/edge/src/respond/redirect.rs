//! `307` to a link of the store, if an operator wants clients to fetch large files from there.
//!
//! Answers of the store have validators of their own, and a client that began a download at one
//! place must be able to resume it at the other at any time. So a request is redirected only if its
//! preconditions concern the representation at the store; any other request is answered here, to
//! the last byte. Preconditions of a range are evaluated here in any case: an S3 server that
//! ignores `If-Range` or `If-Match` would make the client append bytes of another file.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use domain::Blob;
use domain::blob_store::{Link, LinkFields};
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, LOCATION, RANGE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use protocol::conditional::{EntityTag, Preconditions, TagList, Validators, range_applies};
use protocol::range::{RangeSet, Resolved};

use super::content::Representation;
use super::url_value;
use crate::problem::Failure;

impl Representation {
    /// Answers like [`Representation::answer`], but with a redirect if the store gives a link and
    /// can answer the request.
    pub(crate) async fn answer_or_redirect(
        &self,
        method: &Method,
        request: &HeaderMap,
        open: impl Future<Output = Result<Arc<dyn Blob>, Failure>>,
    ) -> Result<Response, Failure> {
        let stated = Preconditions::read(request);
        if *method != Method::GET || self.is_to_be_answered_here(&stated, request) {
            return self.answer(method, request, open).await;
        }
        let blob = open.await?;
        match self.link(&*blob).await? {
            Some(link) if holds_at(&link, &stated, request) => Ok(redirect(&link)),
            Some(_) | None => self.answer(method, request, async { Ok(blob) }).await,
        }
    }

    /// Returns whether the request uses this representation's own validators, or asks for features
    /// that S3 servers lack: several ranges, or an explanation.
    fn is_to_be_answered_here(&self, stated: &Preconditions, request: &HeaderMap) -> bool {
        let names_own =
            |tags: &Option<TagList>| tags.as_ref().is_some_and(|tags| tags.names(&self.tag));
        // A date counts only without a tag (RFC 9110 §13.1.3, §13.1.4), and does not show which
        // server gave it.
        let goes_by_date = stated.if_match.is_none() && stated.if_unmodified_since.is_some()
            || stated.if_none_match.is_none() && stated.if_modified_since.is_some();
        names_own(&stated.if_match)
            || names_own(&stated.if_none_match)
            || goes_by_date
            || (request.contains_key(RANGE) && !self.is_one_range(request))
    }

    fn is_one_range(&self, request: &HeaderMap) -> bool {
        let ranges = RangeSet::read(request).map(|ranges| ranges.resolve(self.size));
        matches!(ranges, Some(Resolved::Satisfiable(parts)) if parts.single().is_some())
    }

    async fn link(&self, blob: &dyn Blob) -> Result<Option<Link>, domain::Error> {
        let Some(fields) = self.link_fields() else {
            return Ok(None);
        };
        let link = blob.link(fields).await;
        link.map_err(|error| domain::Error::Store {
            doing: "sign a link",
            source: error.into(),
        })
    }

    /// Returns the fields that a link states; `None` if one of them is not text.
    fn link_fields(&self) -> Option<LinkFields<'_>> {
        let disposition = self.disposition.as_ref().map(HeaderValue::to_str);
        Some(LinkFields {
            content_type: self.media_type.to_str().ok()?,
            content_disposition: disposition.transpose().ok()?,
            cache_control: self.cache_control.to_str().ok()?,
        })
    }
}

/// Returns whether `If-Range` and `If-Match`, if stated, name the representation at the link.
fn holds_at(link: &Link, stated: &Preconditions, request: &HeaderMap) -> bool {
    let Some(tag) = EntityTag::parse(&link.etag) else {
        return false;
    };
    let validators = Validators {
        tag: &tag,
        last_modified: None,
    };
    let if_match = stated.if_match.as_ref();
    if_match.is_none_or(|tags| tags.names(&tag)) && range_applies(request, validators)
}

/// Returns a redirect that nothing may store: the link is a credential that expires.
fn redirect(link: &Link) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    response.headers_mut().extend([
        (LOCATION, url_value(&link.url)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (CONTENT_LENGTH, HeaderValue::from(0)),
    ]);
    response
}
