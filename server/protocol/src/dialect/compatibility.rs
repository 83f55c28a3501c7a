//! Tests of the compatibility matrix: one test for each row, one value for each version.

use std::time::{Duration, SystemTime};

use http::header::{CACHE_CONTROL, CONTENT_LOCATION, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::Dialect;
use crate::answer::{Answer, Deadline, Echo, Known, Standing, Via};
use crate::fields::name;
use crate::ietf::Version;
use crate::problem::ProblemType;
use crate::rejection::Rejection;
use crate::request::{BodyUse, Concat};
use crate::upload::{Completion, Limits, Overrun, Repeat};

static LOCATION_OF_UPLOAD: HeaderValue = HeaderValue::from_static("/uploads/1");

static LIMITS: Limits = Limits {
    max_size: Some(1000),
    min_size: None,
    max_append_size: None,
    min_append_size: None,
    max_age: Some(Duration::from_secs(60)),
};

fn fields(lines: &[(&str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect()
}

/// Returns the fields together with those of the version.
fn spoken(version: Version, lines: &[(&str, &str)]) -> HeaderMap {
    let mut fields = fields(lines);
    if let Some(interop) = version.interop() {
        fields.insert(name::UPLOAD_DRAFT_INTEROP_VERSION, interop.into());
    }
    fields
}

fn standing(offset: u64, complete: bool) -> Standing<'static> {
    Standing {
        location: &LOCATION_OF_UPLOAD,
        offset,
        length: Some(10),
        complete,
        limits: &LIMITS,
        deadline: Some(Deadline {
            remaining: Duration::from_secs(30),
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777),
        }),
        tus: None,
    }
}

fn told(fields: &HeaderMap, name: &str) -> Option<String> {
    let mut values = fields.get_all(name).iter();
    let value = values.next()?.to_str().unwrap().to_owned();
    assert_eq!(values.next(), None, "{name} comes once");
    Some(value)
}

/// Checks a row of the matrix: one value for each of 3, 4, 5, 6, 7, 8, 9, 10 and the RFC form.
#[track_caller]
fn row<T: PartialEq + std::fmt::Debug>(expected: [T; 9], of: impl Fn(Version) -> T) {
    for (version, expected) in Version::ALL.into_iter().zip(expected) {
        assert_eq!(of(version), expected, "{version:?}");
    }
}

fn completeness(version: Version, fields: &HeaderMap) -> Option<String> {
    match version {
        Version::Interop3 => told(fields, "upload-incomplete"),
        _ => told(fields, "upload-complete"),
    }
}

// 1.1: versions.

#[test]
fn the_version_field_names_one_version() {
    for version in Version::ALL {
        let line = match version {
            Version::Interop3 => ("Upload-Incomplete", "?0"),
            _ => ("Upload-Complete", "?1"),
        };
        let dialect = Dialect::of_creation(&Method::POST, &spoken(version, &[line]));
        assert_eq!(dialect, Dialect::Ietf(version));
    }
    for value in ["2", "11", "6, 7", "6.0", "\"6\"", "-6", "", "06x", "?1"] {
        let request = fields(&[
            ("Upload-Complete", "?1"),
            ("Upload-Draft-Interop-Version", value),
        ]);
        assert_eq!(
            Dialect::of_creation(&Method::POST, &request),
            Dialect::Plain,
            "{value}"
        );
    }
    let twice = fields(&[
        ("Upload-Complete", "?1"),
        ("Upload-Draft-Interop-Version", "6"),
        ("Upload-Draft-Interop-Version", "6"),
    ]);
    assert_eq!(Dialect::of_creation(&Method::POST, &twice), Dialect::Plain);
}

// 1.2: the fields of a creation.

#[test]
fn a_creation_has_the_completeness_field_of_its_version() {
    let of = |version, line| Dialect::of_creation(&Method::PUT, &spoken(version, &[line]));
    let incomplete = ("Upload-Incomplete", "?0");
    let complete = ("Upload-Complete", "?1");
    let plain = Dialect::Plain;
    assert_eq!(of(Version::Interop3, complete), plain);
    for version in Version::ALL.into_iter().skip(1) {
        assert_eq!(of(version, incomplete), plain);
        for value in ["1", "?2", "true", "?1, ?1", ""] {
            assert_eq!(of(version, ("Upload-Complete", value)), plain);
        }
    }
}

#[test]
fn the_completeness_field_says_what_the_body_is() {
    let completion = |version, complete: &str, incomplete: &str| {
        let line = match version {
            Version::Interop3 => ("Upload-Incomplete", incomplete),
            _ => ("Upload-Complete", complete),
        };
        let request = spoken(version, &[line]);
        let read = Dialect::Ietf(version).read_create(&request, None).unwrap();
        read.create.completion
    };
    row([Completion::WithThisBody; 9], |version| {
        completion(version, "?1", "?0")
    });
    row([Completion::Later; 9], |version| {
        completion(version, "?0", "?1")
    });
}

#[test]
fn upload_length_is_read_from_interop_6_on() {
    let length = |version, value: &str| {
        let request = spoken(
            version,
            &[
                ("Upload-Complete", "?0"),
                ("Upload-Incomplete", "?1"),
                ("Upload-Length", value),
            ],
        );
        let read = Dialect::Ietf(version).read_create(&request, None).unwrap();
        read.create.length
    };
    let (no, yes) = (None, Some(10));
    row([no, no, no, yes, yes, yes, yes, yes, yes], |version| {
        length(version, "10")
    });
    for value in ["-1", "+8", "1.0", "abc", "10, 10"] {
        row([None; 9], |version| length(version, value));
    }
}

#[test]
fn a_creation_has_no_offset() {
    let refused = |version, value: &str| {
        let request = spoken(
            version,
            &[
                ("Upload-Complete", "?0"),
                ("Upload-Incomplete", "?1"),
                ("Upload-Offset", value),
            ],
        );
        Dialect::Ietf(version).read_create(&request, None).is_err()
    };
    row(
        [true, true, true, true, false, false, false, true, false],
        |version| refused(version, "5"),
    );
    row([false; 9], |version| refused(version, "0"));
}

#[test]
fn what_a_form_brings_is_not_resumable() {
    let request = spoken(
        Version::Interop6,
        &[
            ("Upload-Complete", "?1"),
            ("Content-Type", "multipart/form-data; boundary=x"),
        ],
    );
    assert_eq!(
        Dialect::of_creation(&Method::POST, &request),
        Dialect::Plain
    );
}

// 1.2: interim responses.

#[test]
fn the_first_interim_response_tells_the_upload() {
    for version in Version::ALL {
        let announced = Dialect::Ietf(version)
            .announcement(&standing(0, false))
            .unwrap();
        assert_eq!(announced[LOCATION], LOCATION_OF_UPLOAD);
        assert_eq!(
            told(&announced, "upload-draft-interop-version"),
            version.interop().map(|interop| interop.to_string())
        );
        assert_eq!(told(&announced, "upload-offset"), None);
    }
    for dialect in [Dialect::Plain, Dialect::Tus] {
        assert_eq!(dialect.announcement(&standing(0, false)), None);
        assert_eq!(dialect.progress(5), None);
    }
}

#[test]
fn later_interim_responses_tell_progress_and_no_location() {
    let expected = |text: &str| Some(text.to_owned());
    let five = || expected("5");
    row(
        [
            None,
            None,
            five(),
            five(),
            five(),
            five(),
            five(),
            five(),
            five(),
        ],
        |version| {
            let fields = Dialect::Ietf(version).progress(5)?;
            assert_eq!(told(&fields, "location"), None);
            assert_eq!(
                told(&fields, "upload-draft-interop-version"),
                version.interop().map(|interop| interop.to_string())
            );
            told(&fields, "upload-offset")
        },
    );
}

// 1.3: final answers to creations.

#[test]
fn a_partial_creation_is_answered_with_201() {
    for version in Version::ALL {
        let Answer { status, fields } = Dialect::Ietf(version).created(&standing(4, false));
        assert_eq!(status, StatusCode::CREATED);
        assert_eq!(fields[LOCATION], LOCATION_OF_UPLOAD);
        assert_eq!(fields[CACHE_CONTROL], "no-store");
        assert_eq!(told(&fields, "upload-offset").as_deref(), Some("4"));
        let more = if version == Version::Interop3 {
            "?1"
        } else {
            "?0"
        };
        assert_eq!(completeness(version, &fields).as_deref(), Some(more));
    }
}

#[test]
fn the_final_answer_is_the_targets_with_the_uploads_fields() {
    let target = || Answer {
        status: StatusCode::CREATED,
        fields: fields(&[
            ("Location", "/files/a"),
            ("Content-Location", "/files/a"),
            ("ETag", "\"a\""),
            ("Content-Type", "application/json"),
        ]),
    };
    let upload = "/uploads/1";
    let file = "/files/a";
    for via in [Via::Creation, Via::Append] {
        row(
            [upload, upload, upload, upload, file, file, file, file, file].map(str::to_owned),
            |version| {
                let standing = standing(10, true);
                let Answer { status, fields } =
                    Dialect::Ietf(version).finished(via, &standing, target());
                assert_eq!(status, StatusCode::CREATED);
                assert_eq!(fields[CONTENT_LOCATION], "/files/a");
                assert_eq!(fields[ETAG], "\"a\"");
                assert_eq!(told(&fields, "upload-offset").as_deref(), Some("10"));
                let done = if version == Version::Interop3 {
                    "?0"
                } else {
                    "?1"
                };
                assert_eq!(completeness(version, &fields).as_deref(), Some(done));
                told(&fields, "location").unwrap()
            },
        );
    }
    let standing = standing(10, true);
    let plain = Dialect::Plain.finished(Via::Creation, &standing, target());
    assert_eq!(plain, target());

    let tus = Dialect::Tus.finished(Via::Creation, &standing, target());
    assert_eq!(tus.status, StatusCode::CREATED);
    assert_eq!(tus.fields[LOCATION], LOCATION_OF_UPLOAD);
    assert_eq!(told(&tus.fields, "upload-offset").as_deref(), Some("10"));
    let tus = Dialect::Tus.finished(Via::Append, &standing, target());
    assert_eq!(tus.status, StatusCode::NO_CONTENT);
    assert_eq!(told(&tus.fields, "upload-offset").as_deref(), Some("10"));
    assert_eq!(tus.fields[CONTENT_LOCATION], "/files/a");
    assert_eq!(tus.fields.get(LOCATION), None);
    assert_eq!(tus.fields.get(CONTENT_TYPE), None);
}

// 1.4: offset retrieval.

#[test]
fn the_offset_is_told_with_204_and_never_stored() {
    let ten = || Some("10".to_owned());
    row(
        [None, None, None, ten(), ten(), ten(), ten(), ten(), ten()],
        |version| {
            let Answer { status, fields } =
                Dialect::Ietf(version).retrieved(&Method::HEAD, &standing(4, false));
            assert_eq!(status, StatusCode::NO_CONTENT);
            assert_eq!(fields[CACHE_CONTROL], "no-store");
            assert_eq!(told(&fields, "upload-offset").as_deref(), Some("4"));
            assert!(completeness(version, &fields).is_some());
            told(&fields, "upload-length")
        },
    );
    let get = Dialect::Ietf(Version::Rfc).retrieved(&Method::GET, &standing(4, false));
    assert_eq!(get.status, StatusCode::OK);
}

#[test]
fn a_retrieval_has_no_upload_fields_up_to_interop_6() {
    let refused = |version: Version, name| {
        Dialect::Ietf(version)
            .check_retrieval(&spoken(version, &[(name, "?0")]))
            .is_err()
    };
    let (no, yes) = (false, true);
    row([yes, yes, yes, yes, no, no, no, no, no], |version| {
        refused(version, "Upload-Offset")
    });
    row([yes, no, no, no, no, no, no, no, no], |version| {
        refused(version, "Upload-Incomplete")
    });
    row([no, yes, yes, yes, no, no, no, no, no], |version| {
        refused(version, "Upload-Complete")
    });
    row([no, no, no, yes, no, no, no, no, no], |version| {
        refused(version, "Upload-Length")
    });
    row([no; 9], |version| refused(version, "Content-Type"));
}

// 1.5: appends.

fn append(version: Version, lines: &[(&str, &str)]) -> Result<Completion, Rejection> {
    let mut lines = lines.to_vec();
    lines.push(("Upload-Offset", "4"));
    let read = Dialect::Ietf(version).read_append(&spoken(version, &lines), Some(6))?;
    assert_eq!(read.append.offset, 4);
    Ok(read.append.completion)
}

const PARTIAL_UPLOAD: (&str, &str) = ("Content-Type", "application/partial-upload");

#[test]
fn an_append_that_does_not_say_whether_it_completes() {
    let with = Some(Completion::WithThisBody);
    let at = Some(Completion::AtLength);
    row(
        [with, at, at, at, None, None, None, None, None],
        |version| append(version, &[PARTIAL_UPLOAD]).ok(),
    );
}

#[test]
fn an_append_is_of_type_partial_upload_from_interop_6_on() {
    let (no, yes) = (false, true);
    row([no, no, no, yes, yes, yes, yes, yes, yes], |version| {
        let said = [("Upload-Complete", "?1"), ("Content-Type", "image/heic")];
        match append(version, &said) {
            Err(Rejection::MediaType { expected }) => expected == "application/partial-upload",
            Err(other) => panic!("{other}"),
            Ok(_) => false,
        }
    });
}

#[test]
fn an_append_needs_an_offset() {
    for version in Version::ALL {
        for line in [("Upload-Offset", "-1"), ("X", "y")] {
            let request = spoken(version, &[PARTIAL_UPLOAD, ("Upload-Complete", "?1"), line]);
            assert!(matches!(
                Dialect::Ietf(version).read_append(&request, None),
                Err(Rejection::Malformed {
                    field: "Upload-Offset",
                    ..
                })
            ));
        }
    }
}

#[test]
fn a_partial_append_is_answered_by_version() {
    let created = StatusCode::CREATED;
    let none = StatusCode::NO_CONTENT;
    row(
        [
            created, created, created, created, none, none, none, none, none,
        ],
        |version| {
            let Answer { status, fields } = Dialect::Ietf(version).appended(&standing(4, false));
            assert_eq!(told(&fields, "upload-offset").as_deref(), Some("4"));
            let more = if version == Version::Interop3 {
                "?1"
            } else {
                "?0"
            };
            assert_eq!(completeness(version, &fields).as_deref(), Some(more));
            status
        },
    );
}

#[test]
fn surplus_bytes_and_repeats_are_treated_by_version() {
    let read = |version| {
        let said = [
            PARTIAL_UPLOAD,
            ("Upload-Complete", "?1"),
            ("Upload-Offset", "4"),
        ];
        let request = spoken(version, &said);
        Dialect::Ietf(version)
            .read_append(&request, None)
            .unwrap()
            .append
    };
    let (keep, invalidate) = (Overrun::KeepToLength, Overrun::Invalidate);
    row(
        [
            keep, keep, keep, keep, invalidate, invalidate, invalidate, invalidate, invalidate,
        ],
        |version| read(version).overrun,
    );
    let (no, yes) = (Repeat::Refused, Repeat::Answered);
    row([no, no, no, no, no, yes, yes, yes, yes], |version| {
        read(version).repeat
    });
}

// 1.6: cancellation.

#[test]
fn a_cancellation_has_no_upload_fields_up_to_interop_6() {
    let refused = |version: Version, name| {
        Dialect::Ietf(version)
            .check_cancellation(&spoken(version, &[(name, "4")]))
            .is_err()
    };
    let (no, yes) = (false, true);
    row([yes, yes, yes, yes, no, no, no, no, no], |version| {
        refused(version, "Upload-Offset")
    });
    row([no, yes, yes, yes, no, no, no, no, no], |version| {
        refused(version, "Upload-Complete")
    });
    row([no; 9], |version| refused(version, "Upload-Length"));
    for dialect in Version::ALL.map(Dialect::Ietf) {
        assert_eq!(dialect.cancelled().status, StatusCode::NO_CONTENT);
    }
}

// 1.7: limits.

#[test]
fn limits_are_told_from_interop_6_on_and_the_lifetime_by_its_name() {
    let expires = || Some("min-size=0, max-size=1000, expires=30".to_owned());
    let max_age = || Some("min-size=0, max-size=1000, max-age=30".to_owned());
    let expected = || {
        let [a, b, c, d, e] = [max_age(), max_age(), max_age(), max_age(), max_age()];
        [None, None, None, expires(), a, b, c, d, e]
    };
    let standing = standing(4, false);
    let limit = |fields: &HeaderMap| told(fields, "upload-limit");
    row(expected(), |version| {
        limit(&Dialect::Ietf(version).announcement(&standing).unwrap())
    });
    row(expected(), |version| {
        limit(&Dialect::Ietf(version).created(&standing).fields)
    });
    row(expected(), |version| {
        limit(
            &Dialect::Ietf(version)
                .retrieved(&Method::HEAD, &standing)
                .fields,
        )
    });
}

#[test]
fn a_body_over_a_limit_is_answered_with_413_and_the_limits() {
    let rejection = Rejection::TooLarge { limit: 1000 };
    let expires = "min-size=0, max-size=1000, expires=60".to_owned();
    for version in Version::ALL {
        let refusal = Dialect::Ietf(version).refused(&rejection, Known::Limits(&LIMITS));
        assert_eq!(refusal.problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let limit = told(&refusal.fields, "upload-limit").unwrap();
        let expected = match version {
            Version::Interop3 | Version::Interop4 | Version::Interop5 | Version::Interop6 => {
                expires.clone()
            }
            _ => expires.replace("expires", "max-age"),
        };
        assert_eq!(limit, expected);
    }
    let refusal = Dialect::Tus.refused(&rejection, Known::Limits(&LIMITS));
    assert_eq!(refusal.problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(refusal.fields[name::TUS_MAX_SIZE], "1000");
    let refusal = Dialect::Plain.refused(&rejection, Known::Limits(&LIMITS));
    assert_eq!(refusal.problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(!refusal.fields.contains_key(name::UPLOAD_COMPLETE));
}

// 1.8: discovery.

#[test]
fn whoever_asks_is_told_everything() {
    let Answer { status, fields } = Dialect::Plain.discovery(&LIMITS);
    assert_eq!(status, StatusCode::OK);
    let lines: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    assert_eq!(
        lines,
        [
            "upload-limit: min-size=0, max-size=1000, expires=60, max-age=60",
            "accept-patch: application/partial-upload",
            "tus-resumable: 1.0.0",
            "tus-version: 1.0.0",
            "tus-extension: creation,creation-with-upload,creation-defer-length,checksum,\
             checksum-trailer,expiration,termination,concatenation",
            "tus-checksum-algorithm: sha1,sha256,sha512,md5,crc32",
            "tus-max-size: 1000",
        ]
    );
    let asked = spoken(Version::Interop6, &[("Tus-Resumable", "1.0.0")]);
    let dialect = Dialect::of_upload_request(&Method::OPTIONS, &asked);
    assert_eq!(
        told(
            &dialect.discovery(&LIMITS).fields,
            "upload-draft-interop-version"
        )
        .as_deref(),
        Some("6")
    );
}

// 1.11 and 1.13: refusals.

fn kind(version: Version, rejection: &Rejection) -> (u16, &'static str) {
    let standing = standing(4, false);
    let refusal = Dialect::Ietf(version).refused(rejection, Known::Standing(&standing));
    assert_eq!(refusal.fields[CACHE_CONTROL], "no-store");
    assert_eq!(
        told(&refusal.fields, "upload-draft-interop-version"),
        version.interop().map(|interop| interop.to_string())
    );
    name_of(refusal.problem.kind())
}

fn name_of(kind: ProblemType) -> (u16, &'static str) {
    let name = kind.uri().rsplit(['#', ':']).next().unwrap();
    (kind.status().as_u16(), name)
}

#[test]
fn an_offset_mismatch_is_a_409_that_tells_the_offset() {
    let ours = (409, "offset-mismatch");
    let iana = (409, "mismatching-upload-offset");
    let rejection = Rejection::OffsetMismatch {
        expected: 4,
        provided: 7,
    };
    row(
        [ours, ours, ours, iana, iana, iana, iana, iana, iana],
        |version| kind(version, &rejection),
    );

    let complete = standing(10, true);
    for version in Version::ALL {
        let refusal = Dialect::Ietf(version).refused(&rejection, Known::Standing(&complete));
        assert_eq!(told(&refusal.fields, "upload-offset").as_deref(), Some("4"));
        assert_eq!(refusal.problem.members()["expected-offset"], 4);
        assert_eq!(refusal.problem.members()["provided-offset"], 7);
        // From interop 7 on, the protocol's own refusals never say complete.
        let said = match version {
            Version::Interop3 => "?0",
            Version::Interop4 | Version::Interop5 | Version::Interop6 => "?1",
            _ => "?0",
        };
        assert_eq!(
            completeness(version, &refusal.fields).as_deref(),
            Some(said)
        );
    }
    let refusal = Dialect::Tus.refused(&rejection, Known::Nothing);
    assert_eq!(refusal.problem.status(), StatusCode::CONFLICT);
    assert_eq!(told(&refusal.fields, "upload-offset").as_deref(), Some("4"));
}

#[test]
fn contradicting_lengths_are_a_400() {
    let ours = (400, "inconsistent-length");
    let iana = (400, "inconsistent-upload-length");
    for rejection in [
        Rejection::InconsistentLength,
        Rejection::OverLength { length: 10 },
    ] {
        row(
            [ours, ours, ours, ours, iana, iana, iana, iana, iana],
            |version| kind(version, &rejection),
        );
    }
}

#[test]
fn an_append_to_a_completed_upload_is_a_400() {
    let ours = (400, "upload-completed");
    let completed = (400, "completed-upload");
    let length = (400, "inconsistent-upload-length");
    row(
        [
            ours, ours, ours, completed, completed, length, length, length, length,
        ],
        |version| kind(version, &Rejection::Completed),
    );
}

#[test]
fn an_upload_that_is_no_more_is_404_up_to_interop_6() {
    row([404, 404, 404, 404, 410, 410, 410, 410, 410], |version| {
        Dialect::Ietf(version).gone().problem.status().as_u16()
    });
    for dialect in Version::ALL
        .map(Dialect::Ietf)
        .into_iter()
        .chain([Dialect::Plain, Dialect::Tus])
    {
        let refusal = dialect.unknown();
        assert_eq!(refusal.problem.status(), StatusCode::NOT_FOUND);
        assert_eq!(refusal.fields.get(name::UPLOAD_OFFSET), None);
    }
    assert_eq!(Dialect::Tus.gone().problem.status(), StatusCode::GONE);
}

#[test]
fn every_rejection_has_its_answer() {
    let malformed = |field| Rejection::malformed(field, "is required");
    for (rejection, ietf, tus) in [
        (
            malformed("Upload-Offset"),
            (400, "malformed-field"),
            (400, "malformed-field"),
        ),
        (
            malformed("Content-Digest"),
            (400, "digest-invalid-values"),
            (400, "digest-invalid-values"),
        ),
        (
            Rejection::MediaType { expected: "a/b" },
            (415, "unsupported-media-type"),
            (415, "unsupported-media-type"),
        ),
        (
            Rejection::TusVersion,
            (412, "tus-version"),
            (412, "tus-version"),
        ),
        (
            Rejection::OffsetMismatch {
                expected: 4,
                provided: 5,
            },
            (409, "mismatching-upload-offset"),
            (409, "offset-mismatch"),
        ),
        (
            Rejection::OverlapMismatch { offset: 4 },
            (409, "overlap-mismatch"),
            (409, "overlap-mismatch"),
        ),
        (
            Rejection::InconsistentLength,
            (400, "inconsistent-upload-length"),
            (400, "inconsistent-length"),
        ),
        (
            Rejection::Completed,
            (400, "inconsistent-upload-length"),
            (413, "upload-length-exceeded"),
        ),
        (
            Rejection::OverLength { length: 10 },
            (400, "inconsistent-upload-length"),
            (413, "upload-length-exceeded"),
        ),
        (
            Rejection::TooLarge { limit: 1 },
            (413, "upload-too-large"),
            (413, "upload-too-large"),
        ),
        (
            Rejection::TooSmall { limit: 1 },
            (400, "upload-too-small"),
            (400, "upload-too-small"),
        ),
        (
            Rejection::AppendTooLarge { limit: 1 },
            (413, "append-too-large"),
            (413, "append-too-large"),
        ),
        (
            Rejection::AppendTooSmall { limit: 1 },
            (400, "append-too-small"),
            (400, "append-too-small"),
        ),
        (
            Rejection::FinalUpload,
            (403, "final-upload"),
            (403, "final-upload"),
        ),
        (
            Rejection::DigestAlgorithm {
                field: "Upload-Checksum",
                algorithm: "md4".to_owned(),
            },
            (400, "digest-unsupported-algorithms"),
            (400, "digest-unsupported-algorithms"),
        ),
        (
            Rejection::DigestMismatch {
                field: "Upload-Checksum",
            },
            (400, "digest-mismatched-values"),
            (460, "checksum-mismatch"),
        ),
    ] {
        assert_eq!(kind(Version::Rfc, &rejection), ietf);
        let plain = Dialect::Plain.refused(&rejection, Known::Nothing);
        assert_eq!(name_of(plain.problem.kind()), ietf);
        let refusal = Dialect::Tus.refused(&rejection, Known::Nothing);
        assert_eq!(name_of(refusal.problem.kind()), tus);
        assert_eq!(refusal.fields[name::TUS_RESUMABLE], "1.0.0");
    }
    let refusal = Dialect::Tus.refused(&Rejection::TusVersion, Known::Nothing);
    assert_eq!(refusal.fields[name::TUS_VERSION], "1.0.0");
}

// Requests without a version, and tus.

#[test]
fn a_request_for_an_upload_resource_tells_its_dialect() {
    let of = |method: Method, lines: &[(&str, &str)]| {
        Dialect::of_upload_request(&method, &fields(lines))
    };
    let rfc = Dialect::Ietf(Version::Rfc);
    assert_eq!(of(Method::HEAD, &[]), Dialect::Plain);
    assert_eq!(of(Method::PATCH, &[("Upload-Complete", "?1")]), rfc);
    assert_eq!(
        of(Method::PATCH, &[("Tus-Resumable", "1.0.0")]),
        Dialect::Tus
    );
    assert_eq!(
        of(
            Method::PATCH,
            &[("Content-Type", "application/offset+octet-stream")]
        ),
        Dialect::Tus
    );
    assert_eq!(
        of(Method::HEAD, &[("Upload-Draft-Interop-Version", "6")]),
        Dialect::Ietf(Version::Interop6)
    );
    let unknown = ("Upload-Draft-Interop-Version", "99");
    assert_eq!(
        of(Method::PATCH, &[unknown, ("Upload-Complete", "?1")]),
        Dialect::Plain
    );
    // URLSession adds its fields to an app's own tus requests.
    let both = [
        ("Tus-Resumable", "1.0.0"),
        ("Upload-Draft-Interop-Version", "6"),
        ("Upload-Complete", "?1"),
    ];
    assert_eq!(of(Method::PATCH, &both), Dialect::Tus);
    assert_eq!(
        Dialect::of_creation(&Method::POST, &fields(&both)),
        Dialect::Tus
    );
}

#[test]
fn a_creation_by_tus_without_its_version_is_refused() {
    for line in [
        ("Upload-Length", "5"),
        ("Upload-Defer-Length", "1"),
        ("Upload-Concat", "partial"),
    ] {
        let request = fields(&[line]);
        let dialect = Dialect::of_creation(&Method::POST, &request);
        assert_eq!(
            dialect.read_create(&request, None),
            Err(Rejection::TusVersion)
        );
        assert_eq!(Dialect::of_creation(&Method::PUT, &request), Dialect::Plain);
    }
    let request = fields(&[("Upload-Length", "5"), ("Tus-Resumable", "0.2.2")]);
    assert_eq!(
        Dialect::Tus.read_create(&request, None),
        Err(Rejection::TusVersion)
    );
    assert_eq!(
        Dialect::of_creation(&Method::POST, &fields(&[("Content-Type", "image/heic")])),
        Dialect::Plain
    );
}

fn tus(lines: &[(&str, &str)]) -> HeaderMap {
    let mut fields = fields(lines);
    fields.insert(name::TUS_RESUMABLE, HeaderValue::from_static("1.0.0"));
    fields
}

#[test]
fn a_creation_by_tus_declares_its_length_or_defers_it() {
    let length = |lines: &[(&str, &str)]| {
        let read = Dialect::Tus.read_create(&tus(lines), Some(0))?;
        assert_eq!(read.create.completion, Completion::AtLength);
        assert_eq!(read.create.overrun, Overrun::Discard);
        Ok::<_, Rejection>(read.create.length)
    };
    assert_eq!(length(&[("Upload-Length", "0")]), Ok(Some(0)));
    assert_eq!(length(&[("Upload-Defer-Length", "1")]), Ok(None));
    for lines in [
        &[][..],
        &[("Upload-Length", "-1")],
        &[("Upload-Length", "+1")],
        &[("Upload-Length", "abc")],
        &[("Upload-Length", "1"), ("Upload-Length", "1")],
        &[("Upload-Length", "99999999999999999999")],
        &[("Upload-Length", "1"), ("Upload-Defer-Length", "1")],
        &[("Upload-Defer-Length", "2")],
        &[("Upload-Concat", "final;/a"), ("Upload-Length", "1")],
        &[("Upload-Concat", "final;/a"), ("Upload-Defer-Length", "1")],
        &[("Upload-Concat", "final;"), ("Upload-Length", "1")],
        &[("Upload-Concat", "middle"), ("Upload-Length", "1")],
        &[("Upload-Length", "1"), ("Upload-Metadata", "name !")],
        &[("Upload-Length", "1"), ("Upload-Metadata", "a YQ==,a YQ==")],
    ] {
        assert!(
            matches!(length(lines), Err(Rejection::Malformed { .. })),
            "{lines:?}"
        );
    }
}

#[test]
fn a_creation_by_tus_brings_bytes_only_with_the_right_type() {
    let body = |media_type| {
        let lines = [("Upload-Length", "9"), ("Content-Type", media_type)];
        let read = Dialect::Tus.read_create(&tus(&lines), Some(5)).unwrap();
        (read.body, read.create.body_length)
    };
    assert_eq!(
        body("application/offset+octet-stream"),
        (BodyUse::Appended, Some(5))
    );
    assert_eq!(body("image/heic"), (BodyUse::Ignored, Some(0)));
}

#[test]
fn a_creation_by_tus_describes_its_file() {
    let read = Dialect::Tus
        .read_create(
            &tus(&[
                ("Upload-Length", "9"),
                (
                    "Upload-Metadata",
                    "filename YS9iLmhlaWM=, filetype aW1hZ2UvaGVpYw,flag",
                ),
            ]),
            Some(0),
        )
        .unwrap();
    assert_eq!(read.file_name.as_deref(), Some("b.heic"));
    assert_eq!(read.media_type.as_deref(), Some("image/heic"));
    let metadata = read.tus.unwrap().metadata.unwrap();
    assert_eq!(
        metadata.raw(),
        "filename YS9iLmhlaWM=, filetype aW1hZ2UvaGVpYw,flag"
    );
    assert_eq!(metadata.value("flag"), Some(&[][..]));
}

#[test]
fn a_concatenation_names_its_parts() {
    let read = Dialect::Tus
        .read_create(
            &tus(&[("Upload-Concat", "final;/a https://b.example/c /a")]),
            Some(0),
        )
        .unwrap();
    assert_eq!(read.body, BodyUse::Ignored);
    let Some(Concat::Final { parts, raw }) = read.tus.unwrap().concat else {
        panic!("a final upload");
    };
    assert_eq!(parts, ["/a", "https://b.example/c", "/a"]);
    assert_eq!(raw, "final;/a https://b.example/c /a");
}

#[test]
fn an_append_by_tus_is_checked_in_order() {
    let read = |lines: &[(&str, &str)]| {
        let read = Dialect::Tus.read_append(&tus(lines), Some(5))?;
        Ok((read.append.offset, read.append.length))
    };
    let octets = ("Content-Type", "application/offset+octet-stream");
    assert_eq!(read(&[octets, ("Upload-Offset", "4")]), Ok((4, None)));
    let last = [octets, ("Upload-Offset", "4"), ("Upload-Length", "9")];
    assert_eq!(read(&last), Ok((4, Some(9))));
    let no_version = fields(&[("Content-Type", "text/plain")]);
    assert_eq!(
        Dialect::Tus.read_append(&no_version, None),
        Err(Rejection::TusVersion)
    );
    assert!(matches!(read(&[]), Err(Rejection::MediaType { .. })));
    for line in [
        ("X", "y"),
        ("Upload-Offset", "-1"),
        ("Upload-Offset", "4, 4"),
    ] {
        assert!(matches!(
            read(&[octets, line]),
            Err(Rejection::Malformed { .. })
        ));
    }
    let unknown = [
        octets,
        ("Upload-Offset", "4"),
        ("Upload-Checksum", "md4 AAAA"),
    ];
    assert!(matches!(
        read(&unknown),
        Err(Rejection::DigestAlgorithm { .. })
    ));
}

#[test]
fn reading_an_upload_by_tus_needs_no_version_but_a_cancellation_does() {
    assert_eq!(Dialect::Tus.check_retrieval(&HeaderMap::new()), Ok(()));
    let foreign = fields(&[("Tus-Resumable", "0.2.2")]);
    assert_eq!(
        Dialect::Tus.check_retrieval(&foreign),
        Err(Rejection::TusVersion)
    );
    assert_eq!(
        Dialect::Tus.check_cancellation(&HeaderMap::new()),
        Err(Rejection::TusVersion)
    );
    assert_eq!(Dialect::Tus.check_cancellation(&tus(&[])), Ok(()));
}

#[test]
fn tus_tells_an_upload_as_it_was_made() {
    let lines = |dialect: Dialect, standing: &Standing<'_>| {
        let Answer { status, fields } = dialect.retrieved(&Method::HEAD, standing);
        assert_eq!(status, StatusCode::OK);
        fields
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect::<Vec<_>>()
    };
    let mut upload = standing(4, false);
    upload.length = None;
    upload.tus = Some(Echo {
        metadata: Some("a YQ==,b"),
        concat: Some("partial"),
    });
    let told = [
        "tus-resumable: 1.0.0",
        "cache-control: no-store",
        "upload-offset: 4",
        "upload-expires: Sun, 06 Nov 1994 08:49:37 GMT",
        "upload-defer-length: 1",
        "upload-metadata: a YQ==,b",
        "upload-concat: partial",
    ];
    assert_eq!(lines(Dialect::Tus, &upload), told);
    // The answer to a request without a protocol has the fields of all.
    let plain = lines(Dialect::Plain, &upload);
    for line in told.into_iter().chain(["upload-complete: ?0"]) {
        assert!(plain.iter().any(|own| own == line), "{line}");
    }

    upload.tus = Some(Echo {
        metadata: None,
        concat: Some("final;/a /b"),
    });
    let unfinished = lines(Dialect::Tus, &upload);
    assert!(
        !unfinished
            .iter()
            .any(|line| line.starts_with("upload-offset"))
    );
    upload.complete = true;
    upload.length = Some(4);
    assert_eq!(
        lines(Dialect::Tus, &upload),
        [
            "tus-resumable: 1.0.0",
            "cache-control: no-store",
            "upload-offset: 4",
            "upload-length: 4",
            "upload-concat: final;/a /b",
        ]
    );
}

#[test]
fn tus_answers_with_the_offset_and_the_expiry() {
    let standing = standing(4, false);
    let created = Dialect::Tus.created(&standing);
    assert_eq!(created.status, StatusCode::CREATED);
    assert_eq!(created.fields[LOCATION], LOCATION_OF_UPLOAD);
    let appended = Dialect::Tus.appended(&standing);
    assert_eq!(appended.status, StatusCode::NO_CONTENT);
    for fields in [created.fields, appended.fields] {
        assert_eq!(fields[name::UPLOAD_OFFSET], "4");
        assert_eq!(
            fields[name::UPLOAD_EXPIRES],
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
        assert_eq!(fields[name::TUS_RESUMABLE], "1.0.0");
    }
    assert_eq!(Dialect::Tus.cancelled().status, StatusCode::NO_CONTENT);
}

#[test]
fn a_post_may_stand_for_any_method_and_others_for_safe_ones() {
    let method = |actual: Method, stands_for: &str| {
        let request = fields(&[("X-HTTP-Method-Override", stands_for)]);
        crate::tus::method(&actual, &request).ok()
    };
    assert_eq!(method(Method::POST, "PATCH"), Some(Method::PATCH));
    assert_eq!(method(Method::POST, "DELETE"), Some(Method::DELETE));
    assert_eq!(method(Method::GET, "HEAD"), Some(Method::HEAD));
    assert_eq!(method(Method::GET, "DELETE"), None);
    assert_eq!(method(Method::POST, "PA TCH"), None);
    let none = HeaderMap::new();
    assert_eq!(crate::tus::method(&Method::PATCH, &none), Ok(Method::PATCH));
}
