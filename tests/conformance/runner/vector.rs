//! A conformance vector: one case, parsed from one text file. `../README.md` describes the format.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::matcher::Matcher;
use crate::template::Template;
use crate::version::{Version, VersionSet};

/// Severity of a failed expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// The specification leaves the question open; the vector explains why the expected answer is
    /// better.
    May,
    /// The specification recommends the behaviour.
    Should,
    /// The specification requires the behaviour.
    Must,
}

/// Level of an expectation by version. It does not apply to a version that no clause names.
#[derive(Debug, Clone)]
pub(crate) struct Levels(pub(crate) Vec<(VersionSet, Level)>);

impl Levels {
    pub(crate) fn of(&self, version: Version) -> Option<Level> {
        self.0
            .iter()
            .find(|(versions, _)| versions.contains(version))
            .map(|(_, level)| *level)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Transport {
    Http1,
    Http2,
}

impl Transport {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// Requirement of a case on the server or the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// `Tus-Extension` must name this extension.
    TusExtension(String),
    /// `Upload-Limit` or `Tus-Max-Size` must announce this limit, above zero.
    Limit(String),
    /// The server must not announce this limit, or only as zero.
    NoLimit(String),
    /// Uploads and parts of this many bytes must be allowed.
    Room(u64),
    /// The server must send 104.
    Interim,
    Transport(Transport),
}

#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Dialect and file name: `ietf/append-partial`.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) source: String,
    pub(crate) versions: VersionSet,
    pub(crate) needs: Vec<Need>,
    /// A variable and its values; the case is played once with each.
    pub(crate) each: Option<(String, Vec<String>)>,
    pub(crate) steps: Vec<Step>,
}

/// One request and the responses expected to it, or the continuation of an exchange that was left
/// open.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) label: String,
    pub(crate) versions: VersionSet,
    pub(crate) request: Option<Request>,
    /// Lines in the order in which they are done and awaited.
    pub(crate) script: Vec<Line>,
}

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) place: Place,
    pub(crate) method: String,
    pub(crate) target: Template,
    pub(crate) http_1_0: bool,
    pub(crate) fields: Vec<(VersionSet, Field)>,
}

#[derive(Debug, Clone)]
pub(crate) enum Field {
    /// `@interop`: `Upload-Draft-Interop-Version`, if the version has it.
    Interop,
    /// `@partial-upload`: `Content-Type: application/partial-upload`, if the version has it.
    PartialUpload,
    /// `@complete: yes`: `Upload-Complete: ?1`, or its equivalent in the version.
    Complete(bool),
    Named(String, Template),
}

#[derive(Debug, Clone)]
pub(crate) enum Line {
    Do(VersionSet, Place, Action),
    /// Closes the connection or resets the stream; no line follows.
    Cut,
    Await(Answer),
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// The complete body; adds `Content-Length` unless the head already determines the framing.
    Body(Bytes),
    /// A part of the body; sent in chunks unless the head has a `Content-Length`.
    Send(Bytes),
    Trailer(String, Template),
    /// End of the body.
    End,
    Pause(Duration),
}

#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    Content(Template, Template),
    Text(Template),
}

/// An expected response, or a statement about responses, with the expectations of its parts.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) place: Place,
    pub(crate) levels: Levels,
    pub(crate) awaited: Awaited,
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Clone)]
pub(crate) enum Awaited {
    /// `104 within 5s`: the next interim response with this status.
    Interim(u16, Option<Duration>),
    /// `any 104`: each interim response with this status so far that no other line has dealt with.
    EachInterim(u16),
    /// `no 104`: none in the exchange so far.
    NoInterim(u16),
    /// `2xx|closed`: the end of the exchange. With `, 405 skips`, the rest is only for servers that
    /// do not answer so.
    End {
        outcomes: Vec<Outcome>,
        excuses: Vec<Outcome>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Status(u16),
    Class(u16),
    /// The server ended the connection or stream without a final response.
    Closed,
}

impl Outcome {
    pub(crate) fn includes(self, status: u16) -> bool {
        match self {
            Self::Status(expected) => status == expected,
            Self::Class(hundreds) => status / 100 == hundreds,
            Self::Closed => false,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Check {
    pub(crate) place: Place,
    pub(crate) levels: Levels,
    pub(crate) expected: Expectation,
    /// Variable that receives the value.
    pub(crate) capture: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Expectation {
    /// `@status: 201|204`.
    Status(Vec<Outcome>),
    /// `@within: 1s`, since the beginning of the step.
    Within(Duration),
    /// `@complete: no`.
    Complete(bool),
    /// `@interop: echo`: the version named in the request.
    InteropEcho,
    /// `@body: 40..100`.
    Body(Bytes),
    /// `@problem: TYPE`, and `@problem.name: VALUE` for any other member.
    Problem(String, Matcher),
    Field(String, Matcher),
}

/// File and line, for reports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Checks on the answers of every case of a dialect; from its `every.http`.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) to: Responses,
    /// Field that a request must carry for the rule to apply.
    pub(crate) when: Option<String>,
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Responses {
    Interim,
    Final,
}

/// Texts of the vectors by path: `ietf/given/partial.http`.
pub(crate) type Files = BTreeMap<String, String>;

/// All cases and rules of a set of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suite {
    pub(crate) cases: Vec<Case>,
    /// Rules by dialect.
    pub(crate) rules: BTreeMap<String, Vec<Rule>>,
}
