//! Parsing of requests into operations, and answers from their results.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use sha2::{Digest as _, Sha256};

use super::faults::{Fate, Fault, Pause};
use super::habits::Habits;
use super::state::{Condition, Hidden, Object, Refusal, State};
use super::{BUCKET, Shared};

type Body = BoxBody<Bytes, io::Error>;

/// Maximum number of entries of a page. It is small, so that lists have several.
const MOST_LISTED: usize = 50;
const MOST_UPLOADS: usize = 2;
const MOST_PARTS: usize = 3;

/// Request, with the facts from its address.
#[derive(Debug)]
pub(super) struct Asked {
    operation: &'static str,
    /// Name of the object; empty if the request is for the bucket itself.
    name: String,
    query: HashMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

/// Request that is executed later, and the multipart upload that is gone until then.
pub(super) type Late = (Asked, Option<Hidden>);

/// Answer.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    /// Content length, if it differs from that of the body.
    length: Option<usize>,
}

pub(super) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let query = query(head.uri.query().unwrap_or_default());
    let path = decoded(head.uri.path());
    let path = path.trim_start_matches('/');
    let name = path.strip_prefix(BUCKET).unwrap_or(path);
    let name = name.trim_start_matches('/').to_owned();
    let operation = operation(&head.method, &query, &head.headers, name.is_empty());
    let who = who(&head.headers);
    let Fate { fault, pause } = shared.faults().next(&who, operation);
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let asked = Asked {
        operation,
        name,
        query,
        headers: head.headers,
        body,
    };
    if let Some((Pause::Before, goes_on)) = &pause {
        let _ = goes_on.clone().wait_for(|goes_on| *goes_on).await;
    }
    let passes = matches!(operation, "CompleteMultipartUpload" | "UploadPartCopy");
    match fault {
        Some(Fault::Internal) => return Ok(response(refusal((500, "InternalError")), None)),
        Some(Fault::SlowDown) => return Ok(response(refusal((503, "SlowDown")), None)),
        Some(Fault::OkWithError) => {
            let mut answer = refusal((500, "InternalError"));
            if passes {
                answer.status = 200;
            }
            return Ok(response(answer, None));
        }
        Some(Fault::IsDirectory) => {
            let is_written = matches!(
                operation,
                "PutObject" | "CreateMultipartUpload" | "CompleteMultipartUpload"
            );
            let refused = match is_written {
                true => (409, "ExistingObjectIsDirectory"),
                false => (500, "InternalError"),
            };
            return Ok(response(refusal(refused), None));
        }
        Some(Fault::ResetBefore) => return Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::StallsBefore) => return std::future::pending().await,
        Some(Fault::Late | Fault::Hides) => {
            let hidden = match asked.says("uploadId") {
                Some(upload) if fault == Some(Fault::Hides) => {
                    shared.state().hide_upload(&asked.name, upload)
                }
                _ => None,
            };
            shared.late().push((asked, hidden));
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Some(Fault::ResetAfter | Fault::StallsAfter | Fault::BreaksOff) | None => {}
    }
    if let Some((Pause::Completing, goes_on)) = &pause {
        let upload = asked.says("uploadId").unwrap_or_default();
        let hidden = shared.state().hide_upload(&asked.name, upload);
        let _ = goes_on.clone().wait_for(|goes_on| *goes_on).await;
        shared.state().show_upload(hidden);
    }
    let (habits, refused) = {
        let manner = shared.manner();
        (manner.habits, manner.refusals.get(operation).copied())
    };
    let answer = match refused {
        Some(refused) => Err(refused),
        None if !habits.trusting && !asked.is_as_signed() => {
            Err((400, "XAmzContentSHA256Mismatch"))
        }
        None => done(&mut shared.state(), habits, &asked),
    };
    let answer = answer.unwrap_or_else(refusal);
    if let Some((Pause::After, goes_on)) = &pause {
        let _ = goes_on.clone().wait_for(|goes_on| *goes_on).await;
    }
    match fault {
        Some(Fault::ResetAfter) => Err(io::ErrorKind::ConnectionReset.into()),
        Some(Fault::StallsAfter) => std::future::pending().await,
        Some(Fault::BreaksOff) => {
            let half = answer.body.len() / 2;
            Ok(response(answer, Some(half)))
        }
        _ => Ok(response(answer, None)),
    }
}

/// Returns the operation by its name in the API of S3.
fn operation(
    method: &Method,
    query: &HashMap<String, String>,
    headers: &HeaderMap,
    is_bucket: bool,
) -> &'static str {
    let says = |name: &str| query.contains_key(name);
    match method.as_str() {
        "PUT" if says("partNumber") && headers.contains_key("x-amz-copy-source") => {
            "UploadPartCopy"
        }
        "PUT" if says("partNumber") => "UploadPart",
        "PUT" => "PutObject",
        "HEAD" => "HeadObject",
        "DELETE" if says("uploadId") => "AbortMultipartUpload",
        "DELETE" => "DeleteObject",
        "POST" if says("uploads") => "CreateMultipartUpload",
        "POST" if says("uploadId") => "CompleteMultipartUpload",
        "POST" if says("delete") => "DeleteObjects",
        "GET" if says("uploads") => "ListMultipartUploads",
        "GET" if says("uploadId") => "ListParts",
        "GET" if is_bucket => "ListObjectsV2",
        "GET" => "GetObject",
        _ => "Unknown",
    }
}

/// Executes a request without an answer.
pub(super) fn do_late(state: &mut State, habits: Habits, (asked, hidden): Late) {
    state.show_upload(hidden);
    // A refused request has no effect.
    let _ = done(state, habits, &asked);
}

/// Executes a request.
fn done(state: &mut State, habits: Habits, asked: &Asked) -> Result<Answer, Refusal> {
    let name = asked.name.as_str();
    let upload = asked.says("uploadId").unwrap_or_default();
    match asked.operation {
        "PutObject" => {
            let (metadata, condition) = (asked.metadata(habits), asked.condition(habits));
            let etag = state.put(name, asked.body.clone(), metadata, &condition)?;
            Ok(Answer::tagged(etag, habits))
        }
        "GetObject" => {
            let object = state.get(name, asked.header("if-match"))?;
            asked.part_of(object, habits)
        }
        "HeadObject" => {
            let object = state.find(name)?;
            let mut answer = Answer::of(object, habits);
            answer.length = Some(object.bytes.len());
            answer.body = Bytes::new();
            Ok(answer)
        }
        "DeleteObject" => {
            state.delete(name);
            Ok(Answer::status(204))
        }
        "DeleteObjects" => {
            let body = String::from_utf8_lossy(&asked.body).into_owned();
            for name in tagged(&body, "Key") {
                state.delete(&unescaped(name));
            }
            Ok(Answer::xml("<DeleteResult></DeleteResult>".to_owned()))
        }
        "ListObjectsV2" => Ok(list(state, habits, asked)),
        "CreateMultipartUpload" => {
            let algorithm = asked.header("x-amz-checksum-algorithm").is_some();
            let id = state.create_upload(name, asked.metadata(habits), algorithm);
            Ok(Answer::xml(format!(
                "<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            )))
        }
        "UploadPart" => {
            if habits.trusting && asked.header("content-md5").is_none() {
                state.trusted.push(name.to_owned());
            }
            let has_checksum = |name: &HeaderName| name.as_str().starts_with("x-amz-checksum-");
            state.check_checksum(name, upload, asked.headers.keys().any(has_checksum))?;
            let etag = state.upload_part(name, upload, asked.number(), asked.body.clone())?;
            Ok(Answer::tagged(etag, habits))
        }
        "UploadPartCopy" => {
            let etag = copy_part(state, asked)?;
            let etag = escaped(&as_stated(&etag, habits));
            Ok(Answer::xml(format!(
                "<CopyPartResult><ETag>{etag}</ETag></CopyPartResult>"
            )))
        }
        "CompleteMultipartUpload" => {
            let etag = state.complete(name, upload, &asked.parts(), &asked.condition(habits))?;
            Ok(Answer::xml(format!(
                "<CompleteMultipartUploadResult><ETag>{}</ETag></CompleteMultipartUploadResult>",
                escaped(&as_stated(&etag, habits))
            )))
        }
        "AbortMultipartUpload" => state.abort(name, upload).map(|()| Answer::status(204)),
        "ListParts" => list_parts(state, habits, asked),
        "ListMultipartUploads" => Ok(list_uploads(state, habits, asked)),
        _ => Err((501, "NotImplemented")),
    }
}

fn copy_part(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let (name, upload) = (&asked.name, asked.says("uploadId").unwrap_or_default());
    let source = decoded(asked.header("x-amz-copy-source").unwrap_or_default());
    let from = source.trim_start_matches('/').strip_prefix(BUCKET);
    let from = from.and_then(|from| from.strip_prefix('/'));
    let from = from.ok_or((404, "NoSuchBucket"))?;
    let range = match asked.header("x-amz-copy-source-range") {
        None => 0..state.find(from)?.bytes.len(),
        Some(_) => asked
            .range("x-amz-copy-source-range")
            .ok_or((400, "InvalidArgument"))?,
    };
    let if_match = asked.header("x-amz-copy-source-if-match");
    state.copy_part(name, upload, asked.number(), (from, range, if_match))
}

fn list(state: &State, habits: Habits, asked: &Asked) -> Answer {
    let limit = asked.says("max-keys").and_then(|limit| limit.parse().ok());
    let limit = limit.unwrap_or(MOST_LISTED).min(MOST_LISTED);
    let prefix = asked.says("prefix").unwrap_or_default();
    let token = asked.says("continuation-token");
    let all = state.list(prefix, asked.says("start-after"));
    let is_marker = |(name, _): &(String, _)| Some(name.as_str()) == token;
    let (objects, more) = habits.page(all, is_marker, limit);
    let mut xml = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
    for (name, object) in &objects {
        let _ = write!(
            xml,
            "<Contents><Key>{}</Key><Size>{}</Size>{}</Contents>",
            escaped(name),
            object.bytes.len(),
            dated("LastModified", object.modified, habits)
        );
    }
    if let Some((last, _)) = objects.last().filter(|_| more && !habits.terse) {
        let last = escaped(last);
        let _ = write!(xml, "<NextContinuationToken>{last}</NextContinuationToken>");
    }
    Answer::xml(xml + "</ListBucketResult>")
}

fn list_parts(state: &State, habits: Habits, asked: &Asked) -> Result<Answer, Refusal> {
    let upload = asked.says("uploadId").unwrap_or_default();
    let after = asked.says("part-number-marker");
    let mut all = state.parts(&asked.name, upload)?;
    if habits.hides_last_part {
        all.pop();
    }
    let is_marker = |(number, ..): &(u32, _, _)| Some(number.to_string().as_str()) == after;
    let (parts, more) = habits.page(all, is_marker, MOST_PARTS);
    let mut xml = format!("<ListPartsResult><IsTruncated>{more}</IsTruncated>");
    for (number, size, etag) in &parts {
        let etag = escaped(&as_stated(etag, habits));
        let _ = write!(
            xml,
            "<Part><PartNumber>{number}</PartNumber><Size>{size}</Size><ETag>{etag}</ETag></Part>"
        );
    }
    if let Some((last, ..)) = parts.last().filter(|_| more && !habits.terse) {
        let _ = write!(xml, "<NextPartNumberMarker>{last}</NextPartNumberMarker>");
    }
    Ok(Answer::xml(xml + "</ListPartsResult>"))
}

fn list_uploads(state: &State, habits: Habits, asked: &Asked) -> Answer {
    let prefix = asked.says("prefix").unwrap_or_default();
    let (name, id) = (asked.says("key-marker"), asked.says("upload-id-marker"));
    let mut all = state.list_uploads(prefix);
    if id.is_none() {
        all.retain(|(listed, ..)| name.is_none_or(|name| listed.as_str() > name));
    }
    let is_marker = |(listed, upload, _): &(String, String, u64)| {
        (Some(listed.as_str()), Some(upload.as_str())) == (name, id)
    };
    let (uploads, more) = habits.page(all, is_marker, MOST_UPLOADS);
    let mut xml = format!("<ListMultipartUploadsResult><IsTruncated>{more}</IsTruncated>");
    for (name, id, initiated) in &uploads {
        let _ = write!(
            xml,
            "<Upload><Key>{}</Key><UploadId>{id}</UploadId>{}</Upload>",
            escaped(name),
            dated("Initiated", *initiated, habits)
        );
    }
    if let Some((name, id, _)) = uploads.last().filter(|_| more && !habits.terse) {
        let _ = write!(
            xml,
            "<NextKeyMarker>{}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>",
            escaped(name)
        );
    }
    Answer::xml(xml + "</ListMultipartUploadsResult>")
}

/// Returns an element with a time, unless the server leaves times out.
fn dated(element: &str, millis: u64, habits: Habits) -> String {
    match habits.terse {
        true => String::new(),
        false => format!("<{element}>{}</{element}>", time(millis)),
    }
}

/// Returns an entity tag with or without quotes, by the habit of the server.
fn as_stated(etag: &str, habits: Habits) -> String {
    match habits.terse {
        true => etag.trim_matches('"').to_owned(),
        false => etag.to_owned(),
    }
}

impl Asked {
    fn says(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns `true` if the body is the one that the request is signed for.
    fn is_as_signed(&self) -> bool {
        let signed = self.header("x-amz-content-sha256");
        let digest = Sha256::digest(&self.body);
        let mut found = String::new();
        for byte in digest {
            let _ = write!(found, "{byte:02x}");
        }
        signed.is_none_or(|signed| signed == found)
    }

    fn number(&self) -> u32 {
        let number = self.says("partNumber").and_then(|text| text.parse().ok());
        number.unwrap_or(0)
    }

    fn condition(&self, habits: Habits) -> Condition {
        if habits.unconditional {
            return Condition::default();
        }
        Condition {
            if_match: self.header("if-match").map(str::to_owned),
            if_none_match: self.header("if-none-match").map(str::to_owned),
        }
    }

    /// Returns the number and entity tag of each part that is named, and `true` if it has a
    /// checksum.
    fn parts(&self) -> Vec<(u32, String, bool)> {
        let body = String::from_utf8_lossy(&self.body);
        tagged(&body, "Part")
            .map(|part| {
                let number = tagged(part, "PartNumber").next().unwrap_or_default();
                let etag = tagged(part, "ETag").next().unwrap_or_default();
                let number = number.parse().unwrap_or(0);
                (number, unescaped(etag), part.contains("<Checksum"))
            })
            .collect()
    }

    fn metadata(&self, habits: Habits) -> Vec<(String, String)> {
        if habits.forgetful {
            return Vec::new();
        }
        self.headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with("x-amz-meta-"))
            .filter_map(|(name, value)| {
                Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
            })
            .collect()
    }

    /// Parses `bytes=a-b`.
    fn range(&self, name: &str) -> Option<Range<usize>> {
        let (first, last) = self.header(name)?.strip_prefix("bytes=")?.split_once('-')?;
        Some(first.parse().ok()?..last.parse::<usize>().ok()? + 1)
    }

    fn part_of(&self, object: &Object, habits: Habits) -> Result<Answer, Refusal> {
        let mut answer = Answer::of(object, habits);
        let Some(range) = self.range("range") else {
            return Ok(answer);
        };
        let size = object.bytes.len();
        if range.start >= size {
            return Err((416, "InvalidRange"));
        }
        let range = range.start..range.end.min(size);
        let said = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        answer.headers.push(("content-range".to_owned(), said));
        answer.status = 206;
        answer.body = object.bytes.slice(range);
        Ok(answer)
    }
}

impl Answer {
    fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
            length: None,
        }
    }

    fn tagged(etag: String, habits: Habits) -> Self {
        let mut answer = Self::status(200);
        let etag = as_stated(&etag, habits);
        answer.headers.push(("etag".to_owned(), etag));
        answer
    }

    fn of(object: &Object, habits: Habits) -> Self {
        let mut answer = Self::tagged(object.etag.clone(), habits);
        answer.headers.extend(object.metadata.iter().cloned());
        answer.body = object.bytes.clone();
        answer
    }

    fn xml(text: String) -> Self {
        let mut answer = Self::status(200);
        let xml = ("content-type".to_owned(), "application/xml".to_owned());
        answer.headers.push(xml);
        answer.body = text.into();
        answer
    }
}

fn refusal((status, code): Refusal) -> Answer {
    let mut answer = Answer::xml(format!(
        "<Error><Code>{code}</Code><Message>as planned</Message></Error>"
    ));
    answer.status = status;
    answer
}

/// Builds the answer, which breaks off after `breaks_at` bytes if given.
fn response(answer: Answer, breaks_at: Option<usize>) -> Response<Body> {
    let length = answer.length.unwrap_or(answer.body.len());
    let mut response = Response::builder()
        .status(StatusCode::from_u16(answer.status).expect("statuses are constants"))
        .header(header::CONTENT_LENGTH, length);
    for (name, value) in answer.headers {
        response = response.header(name, value);
    }
    let body = match breaks_at {
        None => Full::new(answer.body)
            .map_err(|never: Infallible| match never {})
            .boxed(),
        Some(at) => {
            let broken = io::Error::from(io::ErrorKind::ConnectionReset);
            let frames = [Ok(Frame::data(answer.body.slice(..at))), Err(broken)];
            BodyExt::boxed(StreamBody::new(stream::iter(frames)))
        }
    };
    response.body(body).expect("its fields are valid")
}

/// Returns the key id that the request is signed with.
fn who(headers: &HeaderMap) -> String {
    let signed = headers.get(header::AUTHORIZATION);
    let signed = signed.and_then(|value| value.to_str().ok());
    let credential = signed.and_then(|value| value.split_once("Credential="));
    credential
        .and_then(|(_, rest)| rest.split_once('/'))
        .map(|(id, _)| id.to_owned())
        .unwrap_or_default()
}

fn query(text: &str) -> HashMap<String, String> {
    text.split('&')
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
        .collect()
}

/// Decodes percent-encoding.
fn decoded(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digits: Vec<u8> = bytes.by_ref().take(2).collect();
        let digits = String::from_utf8_lossy(&digits).into_owned();
        decoded.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Returns the contents of the elements with a name, none of which holds another of the same name.
fn tagged<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, behind) = rest.split_once(&begin)?;
        let (content, behind) = behind.split_once(&end)?;
        rest = behind;
        Some(content)
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('"', "&quot;")
        .replace('<', "&lt;")
}

fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&#34;", "\"")
        .replace("&lt;", "<")
        .replace("&amp;", "&")
}

/// Formats milliseconds since the beginning of 2026, as in lists.
fn time(millis: u64) -> String {
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    let (hours, minutes) = (minutes / 60, minutes % 60);
    format!("2026-01-01T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}
