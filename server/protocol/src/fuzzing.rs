//! Bodies of the fuzz targets: properties of the parsers for every input, beyond not panicking.
//!
//! `fuzz/fuzz_targets` calls each with libFuzzer's inputs. The test below calls each with
//! `fuzz/corpus` and mutations of it, so a failing input is kept by adding it to the corpus.

use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, IF_RANGE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use crate::answer::{Answer, Deadline, Echo, Known, Refusal, Standing, Via};
use crate::conditional::{
    self, DateOf, EntityTag, Modified, Preconditions, TagList, Validators, Verdict,
};
use crate::dialect::Dialect;
use crate::digest::{self, Algorithm, StatedDigests};
use crate::disposition::{self, Disposition};
use crate::fields::{self, name};
use crate::ietf::Version;
use crate::multipart_ranges::{Boundary, MultipartRanges};
use crate::range::{self, RangeSet, Resolved};
use crate::rejection::Rejection;
use crate::request::{AppendRequest, Concat, CreateRequest, MAX_PARTS, Metadata};
use crate::upload::{Limits, Open};
use crate::{media_type, tus};

/// A fuzz target: its name, which its file and corpus share, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 7] = [
    ("conditional", conditional),
    ("dialect", dialect),
    ("digest", digest),
    ("disposition", disposition),
    ("fields", fields),
    ("range", range),
    ("tus", tus),
];

/// Checks `Range`. Input: the representation's length on a line, then the field's value.
pub fn range(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (length, value) = text.split_once('\n').unwrap_or(("1000", &text));
    let length = length.parse().unwrap_or(1000);
    let Some(set) = RangeSet::parse(value) else {
        return;
    };
    let Resolved::Satisfiable(satisfiable) = set.resolve(length) else {
        return;
    };
    let ranges = satisfiable.ranges();
    assert!((1..=range::MAX_RANGES).contains(&ranges.len()));
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    assert!(sorted.iter().all(|range| range.start < range.end));
    assert!(sorted.windows(2).all(|pair| pair[0].end <= pair[1].start));
    assert!(sorted.iter().all(|range| range.end <= length));
    if length < 1 << 60 {
        let boundary = Boundary::new("boundary").expect("letters");
        let parts = MultipartRanges::new(boundary, None, &satisfiable);
        let sum: u64 = parts.pieces().iter().map(|piece| piece.length()).sum();
        assert_eq!(parts.content_length(), sum);
    }
}

/// Checks preconditions and `If-Range`. Input: a header section.
pub fn conditional(data: &[u8]) {
    let fields = header_section(data);
    let tag = EntityTag::strong("a").expect("a letter");
    let current = Validators {
        tag: &tag,
        last_modified: Some(Modified {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777),
            date: DateOf::This,
        }),
    };
    let preconditions = Preconditions::read(&fields);
    for method in [Method::GET, Method::HEAD, Method::PUT, Method::DELETE] {
        let verdict = preconditions.evaluate(&method, Some(current));
        assert!(!preconditions.is_empty() || verdict == Verdict::Proceed);
        assert!(method.is_safe() || verdict != Verdict::NotModified);
        let absent = preconditions.evaluate(&method, None);
        assert_eq!(absent == Verdict::Failed, preconditions.if_match.is_some());
    }
    for list in [&preconditions.if_match, &preconditions.if_none_match] {
        if let Some(TagList::Tags(tags)) = list {
            for tag in tags {
                assert_eq!(EntityTag::parse(&tag.to_string()).as_ref(), Some(tag));
                assert!(tag.weakly_equals(tag) && tag.strongly_equals(tag) != tag.is_weak());
                tag.to_value();
            }
        }
    }
    let applies = conditional::range_applies(&fields, current);
    assert!(applies || fields.contains_key(IF_RANGE));
    assert!(applies || !conditional::resumes_by_tag(&fields, &tag));
}

/// Checks stated and requested digests. Input: a header section.
pub fn digest(data: &[u8]) {
    let fields = header_section(data);
    digest::preferred(&fields, &name::WANT_REPR_DIGEST, &Algorithm::ALL);
    let Ok(stated) = StatedDigests::read(&fields) else {
        return;
    };
    for digest in stated.content.iter().chain(&stated.representation) {
        assert_eq!(digest.value.len(), digest.algorithm.length());
    }
    for digest in &stated.representation {
        let written = digest::write(digest.algorithm, &digest.value).expect("it has a key");
        let again = HeaderMap::from_iter([(name::REPR_DIGEST, written)]);
        let again = StatedDigests::read(&again).expect("it was read before");
        assert_eq!(&again.representation, std::slice::from_ref(digest));
    }
}

/// Checks file names and media types. Input: a field's value.
pub fn disposition(data: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let fields = HeaderMap::from_iter([(CONTENT_DISPOSITION, value)]);
        if let Some(name) = disposition::file_name(&fields) {
            check_name(&name);
        }
    }
    let text = String::from_utf8_lossy(data);
    if let Some(name) = disposition::sanitised(&text) {
        check_name(&name);
    }
    if let Some(canonical) = media_type::parse(&text) {
        assert_eq!(media_type::parse(&canonical).as_ref(), Some(&canonical));
        HeaderValue::from_str(&canonical).expect("a media type is a field value");
    }
}

fn check_name(name: &str) {
    assert!((1..=255).contains(&name.len()) && !name.contains(['/', '\\']));
    assert!(!name.chars().any(char::is_control) && name != "." && name != "..");
    assert_eq!(disposition::sanitised(name).as_deref(), Some(name));
    for kind in [Disposition::Attachment, Disposition::Inline] {
        let fields = HeaderMap::from_iter([(CONTENT_DISPOSITION, disposition::write(kind, name))]);
        assert_eq!(disposition::file_name(&fields).as_deref(), Some(name));
    }
}

/// Checks structured fields and lists. Input: a header section with `Upload-Offset` lines.
pub fn fields(data: &[u8]) {
    let section = header_section(data);
    if let Some(number) = fields::integer(&section, &name::UPLOAD_OFFSET) {
        assert!(number <= fields::MAX_INTEGER);
        assert_eq!(fields::boolean(&section, &name::UPLOAD_OFFSET), None);
        let again = HeaderMap::from_iter([(name::UPLOAD_OFFSET, HeaderValue::from(number))]);
        assert_eq!(fields::integer(&again, &name::UPLOAD_OFFSET), Some(number));
    }
    fields::dictionary(&section, &name::UPLOAD_OFFSET);
    let text = String::from_utf8_lossy(data);
    for element in fields::list_elements(&text) {
        assert!(!element.is_empty() && text.contains(element));
    }
    fields::digits(&text);
}

/// Checks `Upload-Metadata`, `Upload-Concat` and `Upload-Checksum`. Input: a field's value.
pub fn tus(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Ok(metadata) = Metadata::parse(&text) {
        assert_eq!(metadata.raw(), text);
        if let Some(name) = metadata.file_name() {
            check_name(&name);
        }
        metadata.media_type();
    }
    if let Ok(concat) = Concat::parse(&text) {
        assert_eq!(concat.raw(), text);
        if let Concat::Final { parts, .. } = concat {
            assert!((1..=MAX_PARTS).contains(&parts.len()));
            assert!(
                parts
                    .iter()
                    .all(|part| !part.is_empty() && !part.contains(' '))
            );
        }
    }
    if let Ok(value) = HeaderValue::from_bytes(data) {
        let fields = HeaderMap::from_iter([(name::UPLOAD_CHECKSUM, value)]);
        if let Ok(Some(stated)) = digest::checksum::read(&fields) {
            assert_eq!(stated.value.len(), stated.algorithm.length());
        }
    }
}

/// Checks all reads and answers of every dialect for one request. Input: a method on a line, then a
/// header section.
pub fn dialect(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (method, section) = text.split_once('\n').unwrap_or((&text, ""));
    let method = Method::from_bytes(method.as_bytes()).unwrap_or(Method::POST);
    let fields = header_section(section.as_bytes());
    let body_length = fields::integer(&fields, &http::header::CONTENT_LENGTH);

    let creating = Dialect::of_creation(&method, &fields);
    let resuming = Dialect::of_upload_request(&method, &fields);
    if let Ok(method) = tus::method(&method, &fields) {
        assert!(!method.as_str().is_empty());
    }
    let all = Version::ALL.map(Dialect::Ietf).into_iter();
    for dialect in all.chain([Dialect::Plain, Dialect::Tus, creating, resuming]) {
        match dialect.read_create(&fields, body_length) {
            Ok(request) => check_create(&request),
            Err(rejection) => check_refusals(dialect, &rejection),
        }
        match dialect.read_append(&fields, body_length) {
            Ok(request) => check_append(dialect, &request),
            Err(rejection) => check_refusals(dialect, &rejection),
        }
        for check in [
            dialect.check_retrieval(&fields),
            dialect.check_cancellation(&fields),
        ] {
            if let Err(rejection) = check {
                check_refusals(dialect, &rejection);
            }
        }
    }
}

/// Limits in reach of small numbers in a fuzzer's inputs.
const LIMITS: Limits = Limits {
    max_size: Some(100),
    min_size: Some(1),
    max_append_size: Some(50),
    min_append_size: Some(2),
    max_age: Some(Duration::from_secs(60)),
};

fn check_create(request: &CreateRequest) {
    if let Some(name) = &request.file_name {
        check_name(name);
    }
    if let Ok(admission) = Open::create(&request.create, &LIMITS) {
        assert!(admission.start == 0 && admission.overlap == 0 && admission.cap <= 50);
        assert!(admission.length.is_none_or(|length| length <= 100));
    }
}

fn check_append(dialect: Dialect, request: &AppendRequest) {
    let open = Open {
        offset: 7,
        length: Some(40),
    };
    for replay_tolerant in [false, true] {
        match open.admit(&request.append, &LIMITS, replay_tolerant) {
            Ok(admission) => {
                assert_eq!(admission.start + admission.overlap, open.offset);
                assert_eq!(admission.length, Some(40));
                assert!(admission.start + admission.cap <= 40);
            }
            Err(rejection) => check_refusals(dialect, &rejection),
        }
    }
}

fn check_refusals(dialect: Dialect, rejection: &Rejection) {
    let location = HeaderValue::from_static("/uploads/1");
    let standing = Standing {
        location: &location,
        offset: 7,
        length: Some(40),
        complete: false,
        limits: &LIMITS,
        deadline: Some(Deadline {
            remaining: Duration::from_secs(9),
            at: SystemTime::UNIX_EPOCH,
        }),
        tus: Some(Echo::default()),
    };
    for known in [
        Known::Nothing,
        Known::Limits(&LIMITS),
        Known::Standing(&standing),
    ] {
        let Refusal { problem, fields } = dialect.refused(rejection, known);
        assert!(problem.status().is_client_error());
        assert_eq!(fields[CACHE_CONTROL], "no-store");
        serde_json::to_string(&problem).expect("a problem is JSON");
    }
    for answer in [
        dialect.created(&standing),
        dialect.appended(&standing),
        dialect.retrieved(&Method::HEAD, &standing),
        dialect.cancelled(),
        dialect.finished(Via::Append, &standing, dialect.created(&standing)),
    ] {
        let Answer { status, fields } = answer;
        assert!(status.is_success() && fields[CACHE_CONTROL] == "no-store");
    }
    if let Some(progress) = dialect.progress(7) {
        assert!(!progress.contains_key(LOCATION));
    }
}

/// Reads lines of `name: value`. Skips lines that are no field, and those after the 64th.
fn header_section(data: &[u8]) -> HeaderMap {
    data.split(|byte| *byte == b'\n')
        .take(64)
        .filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?;
            Some((name, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Number of mutations for each target: about a second for all.
    const MUTATIONS: usize = 1_000;

    #[test]
    fn every_target_holds_for_its_corpus_and_mutations_of_it() {
        for (name, target) in TARGETS {
            let corpus = corpus(name);
            let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
            for input in &corpus {
                target(input);
            }
            for _ in 0..MUTATIONS {
                target(&chance.mutation(&corpus));
            }
        }
    }

    #[test]
    fn every_target_has_a_file() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
        let mut files: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|file| {
                file.unwrap()
                    .path()
                    .file_stem()
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        files.sort();
        assert_eq!(files, TARGETS.map(|(name, _)| name));
    }

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{target} has a corpus");
        files
            .into_iter()
            .map(|file| fs::read(file).unwrap())
            .collect()
    }

    /// A stream of numbers, the same in every run (xorshift64).
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, bound: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % bound as u64).unwrap()
        }

        /// Returns an input of the corpus with one to four changes, perhaps spliced with another.
        fn mutation(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
            const TELLING: &[u8] = b"\0\t\n \"'()*+,-./0129:;=?\\_%~\x7f\xe4\xff";
            let mut input = corpus[self.below(corpus.len())].clone();
            for _ in 0..=self.below(4) {
                let at = self.below(input.len() + 1);
                match self.below(5) {
                    0 => input.truncate(at),
                    1 => input.insert(at, TELLING[self.below(TELLING.len())]),
                    2 => {
                        let other = &corpus[self.below(corpus.len())];
                        let from = self.below(other.len() + 1);
                        input.splice(at.., other[from..].iter().copied());
                    }
                    _ if at == input.len() => {}
                    3 => {
                        input.remove(at);
                    }
                    _ => input[at] = TELLING[self.below(TELLING.len())],
                }
            }
            input
        }
    }
}
