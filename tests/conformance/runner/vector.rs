//! A conformance vector: one case, read from one text file. `../README.md` is the guide to the format.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::matcher::Matcher;
use crate::template::Template;
use crate::version::{Version, VersionSet};

/// How much a failed expectation weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    /// The specification leaves it open; the vector says why it is still the better answer.
    May,
    /// The specification recommends it.
    Should,
    /// The specification requires it.
    Must,
}

/// At which level an expectation holds, by version. A version that no clause names is not concerned.
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

/// What a case asks of the server or the run before it makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// An extension that `Tus-Extension` names.
    TusExtension(String),
    /// A limit above zero that `Upload-Limit` or `Tus-Max-Size` announces.
    Limit(String),
    /// No limit by that name above zero.
    NoLimit(String),
    /// Uploads and parts may be this large.
    Room(u64),
    /// A server that sends 104.
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
    /// A variable that takes each of the values in turn, in runs of their own.
    pub(crate) each: Option<(String, Vec<String>)>,
    pub(crate) steps: Vec<Step>,
}

/// One request and what is expected on the way to its answer, or the continuation of one that was left open.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) label: String,
    pub(crate) versions: VersionSet,
    pub(crate) request: Option<Request>,
    /// In the order in which things are done and awaited.
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
    /// `@interop`: `Upload-Draft-Interop-Version`, where the version has it.
    Interop,
    /// `@partial-upload`: `Content-Type: application/partial-upload`, where the version has it.
    PartialUpload,
    /// `@complete: yes`: `Upload-Complete: ?1` or what the version says instead.
    Complete(bool),
    Named(String, Template),
}

#[derive(Debug, Clone)]
pub(crate) enum Line {
    Do(VersionSet, Place, Action),
    /// The connection or stream is given up; nothing follows.
    Cut,
    Await(Answer),
}

#[derive(Debug, Clone)]
pub(crate) enum Action {
    /// The whole body; `Content-Length` is added unless the head already says how the body ends.
    Body(Bytes),
    /// A part of the body; without `Content-Length` in the head it travels chunked.
    Send(Bytes),
    Trailer(String, Template),
    /// The body ends here.
    End,
    Pause(Duration),
}

#[derive(Debug, Clone)]
pub(crate) enum Bytes {
    Content(Template, Template),
    Text(Template),
}

/// An expected response, or something about responses, with what is expected of its parts.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) place: Place,
    pub(crate) levels: Levels,
    pub(crate) awaited: Awaited,
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Clone)]
pub(crate) enum Awaited {
    /// `104 within 5s`: the next such interim response.
    Interim(u16, Option<Duration>),
    /// `any 104`: each such interim response so far that no other line has dealt with.
    EachInterim(u16),
    /// `no 104`: none in the exchange so far.
    NoInterim(u16),
    /// `2xx|closed`: how the exchange ends. With `, 405 skips` the rest is for servers that can do it.
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
    /// The variable that takes the value.
    pub(crate) capture: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) enum Expectation {
    /// `@status: 201|204`
    Status(Vec<Outcome>),
    /// `@within: 1s`, from the step's beginning.
    Within(Duration),
    /// `@complete: no`
    Complete(bool),
    /// `@interop: echo`: the version that the request named.
    InteropEcho,
    /// `@body: 40..100`
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

/// What holds for the answers of every case of a dialect; from its `every.http`.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) to: Responses,
    /// The rule concerns only requests that carry this field.
    pub(crate) when: Option<String>,
    pub(crate) checks: Vec<Check>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Responses {
    Interim,
    Final,
}

/// The vectors' text by path: `ietf/given/partial.http`.
pub(crate) type Files = BTreeMap<String, String>;

/// All cases and rules of one set of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Suite {
    pub(crate) cases: Vec<Case>,
    /// By dialect.
    pub(crate) rules: BTreeMap<String, Vec<Rule>>,
}
