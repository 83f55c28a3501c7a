//! Plays a case against a server and collects what differs from the expectations.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::content;
use crate::exchange::{Client, Connector, Event, Exchange, Framing, Head, RequestHead};
use crate::matcher;
use crate::template::{Template, Unset, Variables};
use crate::url::Url;
use crate::vector::{
    Action, Answer, Awaited, Bytes as Content, Case, Check, Expected, Field, Level, Line, Need,
    Outcome, Place, Request, Responses, Rule, Step, Subject, Suite, Transport,
};
use crate::version::Version;

/// A server and how it is spoken to.
pub(crate) struct Target {
    /// The creation URL; `{unique}` in it becomes another word in every run.
    pub(crate) url: String,
    /// What is sent instead of `POST` to the creation URL, except for tus.
    pub(crate) method: String,
    /// Sent with every request.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) connector: Connector,
    /// For final responses.
    pub(crate) patience: Duration,
    /// For interim responses while the body waits.
    pub(crate) interim_patience: Duration,
}

/// What the server says of itself.
#[derive(Debug, Default)]
pub(crate) struct Abilities {
    pub(crate) tus_extensions: Vec<String>,
    pub(crate) limits: BTreeMap<String, u64>,
    /// Each dialect that is offered, and whether its creations are answered with 104.
    pub(crate) offered: BTreeMap<Version, bool>,
}

#[derive(Debug)]
pub(crate) enum Verdict {
    Skipped(String),
    /// Nothing found means passed.
    Judged(Vec<Finding>),
}

impl Verdict {
    /// The weight of the worst finding.
    pub(crate) fn worst(&self) -> Option<Level> {
        match self {
            Self::Skipped(_) => None,
            Self::Judged(findings) => findings.iter().map(|finding| finding.level).max(),
        }
    }
}

/// An expectation that was not met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) place: Place,
    pub(crate) step: String,
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.place, self.step, self.message)
    }
}

impl Target {
    /// The creation URL for one run.
    fn creation(&self) -> Result<Url, String> {
        let random = RandomState::new().hash_one(());
        Url::parse(&self.url.replace("{unique}", &format!("{random:016x}")))
    }

    /// Asks what the server offers on this transport.
    pub(crate) async fn abilities(
        &self,
        transport: Transport,
        versions: &[Version],
    ) -> Result<Abilities, String> {
        let mut abilities = Abilities::default();
        let options = self.ask(transport, "OPTIONS", Vec::new()).await?;
        let list = |name: &str| options.field(name).unwrap_or_default();
        abilities.tus_extensions = list("Tus-Extension")
            .split(',')
            .map(|name| name.trim().to_owned())
            .collect();
        abilities.limits = limits(&list("Upload-Limit"));
        if let Some(size) = options
            .field("Tus-Max-Size")
            .and_then(|size| size.parse().ok())
        {
            abilities.limits.insert("tus-max-size".to_owned(), size);
        }
        for version in versions {
            let offer = match version {
                Version::Interop(_) | Version::Rfc => self.probe_ietf(transport, *version).await?,
                Version::Tus => options.field("Tus-Version").map(|_| false),
                Version::Plain => Some(false),
            };
            if let Some(sends_interim) = offer {
                abilities.offered.insert(*version, sends_interim);
            }
        }
        Ok(abilities)
    }

    /// Begins an upload: `None` if the server takes it for an ordinary one, else whether it sent 104.
    async fn probe_ietf(
        &self,
        transport: Transport,
        version: Version,
    ) -> Result<Option<bool>, String> {
        let (completeness, incomplete) = version.completeness(false);
        let mut fields = vec![
            (completeness.to_owned(), incomplete.to_owned()),
            ("Content-Length".to_owned(), "1".to_owned()),
        ];
        fields.extend(
            version
                .interop()
                .map(|number| (INTEROP.to_owned(), number.to_string())),
        );
        let mut exchange = self
            .begin(transport, &self.method, fields, Framing::Length)
            .await?;
        let interim = loop {
            match exchange
                .event_before(Instant::now() + self.interim_patience)
                .await
            {
                Some(Event::Interim(head)) if head.status != 104 => {}
                Some(Event::Interim(_)) => break true,
                Some(Event::Final(head, _)) => return Ok(head.field(completeness).map(|_| false)),
                Some(Event::Closed(_)) => return Ok(None),
                None => break false,
            }
        };
        let deadline = Instant::now() + self.patience;
        exchange.send(content::bytes(0..1), deadline).await?;
        exchange.end(&[]).await;
        match end_of(&mut exchange, deadline).await {
            Some(head) => Ok((interim || head.field(completeness).is_some()).then_some(interim)),
            None => Ok(interim.then_some(true)),
        }
    }

    async fn ask(
        &self,
        transport: Transport,
        method: &str,
        fields: Vec<(String, String)>,
    ) -> Result<Head, String> {
        let mut exchange = self
            .begin(transport, method, fields, Framing::NoBody)
            .await?;
        let answer = end_of(&mut exchange, Instant::now() + self.patience).await;
        answer.ok_or_else(|| {
            format!(
                "{method} {} gets no answer over {}",
                self.url,
                transport.name()
            )
        })
    }

    async fn begin(
        &self,
        transport: Transport,
        method: &str,
        fields: Vec<(String, String)>,
        framing: Framing,
    ) -> Result<Exchange, String> {
        let url = self.creation()?;
        let fields = self.fields.iter().cloned().chain(fields).collect();
        let head = RequestHead {
            method: method.to_owned(),
            origin: url.origin,
            path: url.path,
            fields,
            http_1_0: false,
            framing,
        };
        Client::new(&self.connector, transport).open(head).await
    }
}

async fn end_of(exchange: &mut Exchange, deadline: Instant) -> Option<Head> {
    loop {
        match exchange.event_before(deadline).await {
            Some(Event::Interim(_)) => {}
            Some(Event::Final(head, _)) => return Some(head),
            Some(Event::Closed(_)) | None => return None,
        }
    }
}

/// The integer members of an `Upload-Limit`.
fn limits(value: &str) -> BTreeMap<String, u64> {
    let members = value.split(',').filter_map(|member| member.split_once('='));
    members
        .filter_map(|(key, value)| Some((key.trim().to_owned(), value.trim().parse().ok()?)))
        .collect()
}

const INTEROP: &str = "Upload-Draft-Interop-Version";

/// Plays one case in one version, once for each of its values.
pub(crate) async fn judge(
    target: &Target,
    suite: &Suite,
    case: &Case,
    version: Version,
    transport: Transport,
    abilities: &Abilities,
) -> Verdict {
    if let Some(reason) = obstacle(case, version, transport, abilities) {
        return Verdict::Skipped(reason);
    }
    let no_rules = Vec::new();
    let rules = suite.rules.get(version.dialect()).unwrap_or(&no_rules);
    let mut findings = Vec::new();
    let variants = match &case.each {
        None => vec![None],
        Some((name, values)) => values.iter().map(|value| Some((name, value))).collect(),
    };
    for variant in variants {
        let mut variables = variables(version, abilities);
        if let Some((name, value)) = variant {
            variables.insert(name.clone(), value.clone());
        }
        let mut play = match Play::new(target, version, transport, rules, variables) {
            Ok(play) => play,
            Err(error) => return Verdict::Skipped(error),
        };
        play.all(&case.steps).await;
        findings.extend(play.findings.into_iter().map(|mut finding| {
            if let Some((name, value)) = variant {
                finding.message = format!("with {name} {value}: {}", finding.message);
            }
            finding
        }));
    }
    Verdict::Judged(findings)
}

fn variables(version: Version, abilities: &Abilities) -> Variables {
    let limits = abilities
        .limits
        .iter()
        .map(|(key, value)| (key.clone(), value.to_string()));
    limits
        .chain(
            version
                .interop()
                .map(|number| ("version".to_owned(), number.to_string())),
        )
        .collect()
}

/// Why a case cannot be played.
fn obstacle(
    case: &Case,
    version: Version,
    transport: Transport,
    abilities: &Abilities,
) -> Option<String> {
    let Some(sends_interim) = abilities.offered.get(&version) else {
        return Some(format!("the server does not offer {version}"));
    };
    case.needs.iter().find_map(|need| match need {
        Need::TusExtension(name) if !abilities.tus_extensions.contains(name) => {
            Some(format!("Tus-Extension does not name {name}"))
        }
        Need::Limit(key) if abilities.limits.get(key).copied().unwrap_or(0) == 0 => {
            Some(format!("the server announces no {key}"))
        }
        Need::Interim if !sends_interim => Some("the server sends no 104".to_owned()),
        Need::Transport(needed) if *needed != transport => {
            Some(format!("only for {}", needed.name()))
        }
        Need::TusExtension(_) | Need::Limit(_) | Need::Interim | Need::Transport(_) => None,
    })
}

/// The end of a case that cannot go on.
struct Stop;

struct Play<'a> {
    target: &'a Target,
    creation: Url,
    version: Version,
    rules: &'a [Rule],
    client: Client,
    variables: Variables,
    /// Exchanges that a later step may continue, by their label.
    open: BTreeMap<String, Live>,
    findings: Vec<Finding>,
}

/// An exchange and what has been seen of it.
struct Live {
    exchange: Exchange,
    started: Instant,
    field_names: Vec<String>,
    /// Body bytes that the head announces and that are still to be sent; `None` when the body's end tells its length.
    owed: Option<u64>,
    trailers: Vec<(String, String)>,
    body_ended: bool,
    /// Interim responses that no line has dealt with yet.
    interims: Vec<Head>,
    /// The statuses of all interim responses.
    interim_statuses: Vec<u16>,
    end: Option<End>,
}

enum End {
    Answer(Head, Bytes),
    Closed(String),
}

impl<'a> Play<'a> {
    fn new(
        target: &'a Target,
        version: Version,
        transport: Transport,
        rules: &'a [Rule],
        mut variables: Variables,
    ) -> Result<Self, String> {
        let creation = target.creation()?;
        variables.insert(
            "target".to_owned(),
            format!("{}{}", creation.origin, creation.path),
        );
        let client = Client::new(&target.connector, transport);
        Ok(Self {
            target,
            creation,
            version,
            rules,
            client,
            variables,
            open: BTreeMap::new(),
            findings: Vec::new(),
        })
    }

    async fn all(&mut self, steps: &[Step]) {
        let version = self.version;
        for step in steps.iter().filter(|step| step.versions.contains(version)) {
            if self.step(step).await.is_err() {
                return;
            }
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), Stop> {
        let mut live = match &step.request {
            Some(request) => self.begin(step, request).await?,
            None => match self.open.remove(&step.label) {
                Some(live) => Live {
                    started: Instant::now(),
                    ..live
                },
                // The step that would have left it open is not for this version.
                None => return Ok(()),
            },
        };
        for line in &step.script {
            match line {
                Line::Do(versions, _, _) if !versions.contains(self.version) => {}
                Line::Do(_, place, Action::Cut) => {
                    self.look(&mut live, step).await;
                    live.exchange.cut().await;
                    return self.nothing_follows(step, place);
                }
                Line::Do(_, place, action) => self.act(&mut live, step, place, action).await?,
                Line::Await(answer) => self.answer(&mut live, step, answer).await?,
            }
        }
        if live.end.is_none() {
            self.open.insert(step.label.clone(), live);
        }
        Ok(())
    }

    /// A cut is the last line of its step.
    fn nothing_follows(&mut self, step: &Step, place: &Place) -> Result<(), Stop> {
        let is_last =
            matches!(step.script.last(), Some(Line::Do(_, last, Action::Cut)) if last == place);
        if is_last {
            Ok(())
        } else {
            self.stop(step, place, "the vector goes on after a cut".to_owned())
        }
    }

    async fn begin(&mut self, step: &Step, request: &Request) -> Result<Live, Stop> {
        let head = match self.request_head(step, request) {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return self.stop(step, &request.place, error),
            Err(unset) => return self.unset(step, &request.place, unset),
        };
        let field_names = head.fields.iter().map(|(name, _)| name.clone()).collect();
        let owed = head
            .fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"))
            .and_then(|(_, value)| value.parse().ok());
        let body_ended = head.framing == Framing::NoBody;
        let started = Instant::now();
        match self.client.open(head).await {
            Ok(exchange) => Ok(Live {
                exchange,
                started,
                field_names,
                owed,
                trailers: Vec::new(),
                body_ended,
                interims: Vec::new(),
                interim_statuses: Vec::new(),
                end: None,
            }),
            Err(error) => self.stop(step, &request.place, error),
        }
    }

    fn request_head(
        &self,
        step: &Step,
        request: &Request,
    ) -> Result<Result<RequestHead, String>, Unset> {
        let reference = request.target.expand(&self.variables)?;
        let url = match self.creation.resolve(&reference) {
            Ok(url) => url,
            Err(error) => return Ok(Err(error)),
        };
        let is_creation =
            request.method == "POST" && url == self.creation && self.version != Version::Tus;
        let method = if is_creation {
            &self.target.method
        } else {
            &request.method
        };
        let mut fields = self.target.fields.clone();
        for (_, field) in request
            .fields
            .iter()
            .filter(|(versions, _)| versions.contains(self.version))
        {
            fields.extend(self.field(field)?);
        }
        let framing = self.framing(step, method, &mut fields)?;
        Ok(Ok(RequestHead {
            method: method.clone(),
            origin: url.origin,
            path: url.path,
            fields,
            http_1_0: request.http_1_0,
            framing,
        }))
    }

    fn field(&self, field: &Field) -> Result<Option<(String, String)>, Unset> {
        Ok(match field {
            Field::Interop => self
                .version
                .interop()
                .map(|number| (INTEROP.to_owned(), number.to_string())),
            Field::PartialUpload => {
                let has_type = self.version.has_partial_upload_type();
                has_type.then(|| {
                    (
                        "Content-Type".to_owned(),
                        "application/partial-upload".to_owned(),
                    )
                })
            }
            Field::Complete(complete) => {
                let (name, value) = self.version.completeness(*complete);
                Some((name.to_owned(), value.to_owned()))
            }
            Field::Named(name, value) => Some((name.clone(), value.expand(&self.variables)?)),
        })
    }

    /// How the body will end, and the `Content-Length` that the vector leaves to the client.
    fn framing(
        &self,
        step: &Step,
        method: &str,
        fields: &mut Vec<(String, String)>,
    ) -> Result<Framing, Unset> {
        let declared = fields
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case("Content-Length"))
            .map(|(_, value)| value.clone());
        if let Some(length) = declared {
            return Ok(if length == "0" {
                Framing::NoBody
            } else {
                Framing::Length
            });
        }
        let actions = step.script.iter().filter_map(|line| match line {
            Line::Do(versions, _, action) if versions.contains(self.version) => Some(action),
            Line::Do(..) | Line::Await(_) => None,
        });
        for action in actions {
            match action {
                Action::Body(content) => {
                    let length = self.content(content)?.len();
                    fields.push(("Content-Length".to_owned(), length.to_string()));
                    return Ok(if length == 0 {
                        Framing::NoBody
                    } else {
                        Framing::Length
                    });
                }
                Action::Send(_) | Action::Trailer(..) | Action::End => {
                    return Ok(Framing::Streamed);
                }
                Action::Cut | Action::Pause(_) => {}
            }
        }
        if matches!(method, "POST" | "PUT" | "PATCH") {
            fields.push(("Content-Length".to_owned(), "0".to_owned()));
        }
        Ok(Framing::NoBody)
    }

    fn content(&self, content: &Content) -> Result<Bytes, Unset> {
        match content {
            Content::Content(from, to) => {
                let position = |template: &Template| template.position(&self.variables);
                Ok(content::bytes(position(from)?..position(to)?))
            }
            Content::Text(text) => text.expand(&self.variables).map(Bytes::from),
        }
    }

    async fn act(
        &mut self,
        live: &mut Live,
        step: &Step,
        place: &Place,
        action: &Action,
    ) -> Result<(), Stop> {
        match action {
            Action::Body(content) | Action::Send(content) => match self.content(content) {
                Ok(bytes) => {
                    if let Some(owed) = &mut live.owed {
                        *owed = owed.saturating_sub(bytes.len() as u64);
                    }
                    match live
                        .exchange
                        .send(bytes, Instant::now() + self.target.patience)
                        .await
                    {
                        Ok(()) => Ok(()),
                        Err(error) => self.stop(step, place, error),
                    }
                }
                Err(unset) => self.unset(step, place, unset),
            },
            Action::Trailer(name, value) => match value.expand(&self.variables) {
                Ok(value) => {
                    live.trailers.push((name.clone(), value));
                    Ok(())
                }
                Err(unset) => self.unset(step, place, unset),
            },
            Action::End => {
                live.end_body().await;
                Ok(())
            }
            Action::Pause(time) => {
                sleep(*time).await;
                Ok(())
            }
            Action::Cut => self.stop(step, place, "a cut is the last line of its step".to_owned()),
        }
    }

    async fn answer(&mut self, live: &mut Live, step: &Step, answer: &Answer) -> Result<(), Stop> {
        let Some(level) = answer.levels.of(self.version) else {
            return Ok(());
        };
        match &answer.awaited {
            Awaited::Interim(status) => self.interim(live, step, answer, level, *status).await,
            Awaited::EachInterim(status) => {
                self.look(live, step).await;
                for head in live.interims.extract_if(.., |head| head.status == *status) {
                    self.checks(step, &answer.checks, &head, &Bytes::new())?;
                }
                Ok(())
            }
            Awaited::NoInterim(status) => {
                self.look(live, step).await;
                if live.interim_statuses.contains(status) {
                    self.find(level, step, &answer.place, format!("a {status} arrived"));
                }
                Ok(())
            }
            Awaited::End { outcomes, within } => {
                self.end(live, step, answer, level, outcomes, *within).await
            }
        }
    }

    async fn interim(
        &mut self,
        live: &mut Live,
        step: &Step,
        answer: &Answer,
        level: Level,
        status: u16,
    ) -> Result<(), Stop> {
        let deadline = Instant::now() + self.target.interim_patience;
        loop {
            if let Some(position) = live.interims.iter().position(|head| head.status == status) {
                let head = live.interims.remove(position);
                return self.checks(step, &answer.checks, &head, &Bytes::new());
            }
            if live.end.is_some() || !self.event(live, step, deadline).await {
                break;
            }
        }
        let instead = match &live.end {
            None => "there was none in time".to_owned(),
            Some(End::Answer(head, _)) => format!("{} came first", head.status),
            Some(End::Closed(reason)) => reason.clone(),
        };
        self.find(
            level,
            step,
            &answer.place,
            format!("expected {status}, but {instead}"),
        );
        Ok(())
    }

    async fn end(
        &mut self,
        live: &mut Live,
        step: &Step,
        answer: &Answer,
        level: Level,
        outcomes: &[Outcome],
        within: Option<Duration>,
    ) -> Result<(), Stop> {
        // Where the head announced more than was sent, the vector is about an answer that does not wait for the rest.
        if live.owed.is_none_or(|owed| owed == 0) {
            live.end_body().await;
        }
        let deadline = Instant::now() + self.target.patience;
        while live.end.is_none() && self.event(live, step, deadline).await {}
        let took = match &live.end {
            Some(End::Answer(head, _)) => head.arrived - live.started,
            Some(End::Closed(_)) | None => live.started.elapsed(),
        };
        let in_time = within.is_none_or(|within| took <= within);
        let message = match &live.end {
            Some(End::Answer(head, body))
                if outcomes.iter().any(|outcome| outcome.includes(head.status)) =>
            {
                let (head, body) = (head.clone(), body.clone());
                if !in_time {
                    let message = format!("the answer took {:.1} s", took.as_secs_f64());
                    self.find(level, step, &answer.place, message);
                }
                return self.checks(step, &answer.checks, &head, &body);
            }
            Some(End::Closed(_)) if outcomes.contains(&Outcome::Closed) => {
                if !in_time {
                    self.find(
                        level,
                        step,
                        &answer.place,
                        format!("the end took {:.1} s", took.as_secs_f64()),
                    );
                }
                return Ok(());
            }
            Some(End::Answer(head, _)) => {
                format!("expected {}, found {}", names(outcomes), head.status)
            }
            Some(End::Closed(reason)) => format!("expected {}, but {reason}", names(outcomes)),
            None => format!("expected {}, but there was no answer", names(outcomes)),
        };
        self.find(level, step, &answer.place, message);
        if level == Level::Must {
            Err(Stop)
        } else {
            Ok(())
        }
    }

    /// Takes in one event; `false` at the deadline.
    async fn event(&mut self, live: &mut Live, step: &Step, deadline: Instant) -> bool {
        match live.exchange.event_before(deadline).await {
            None => return false,
            Some(Event::Interim(head)) => {
                self.apply_rules(live, step, Responses::Interim, &head, &Bytes::new());
                live.interim_statuses.push(head.status);
                live.interims.push(head);
            }
            Some(Event::Final(head, body)) => {
                self.apply_rules(live, step, Responses::Final, &head, &body);
                live.end = Some(End::Answer(head, body));
            }
            Some(Event::Closed(reason)) => live.end = Some(End::Closed(reason)),
        }
        true
    }

    /// Takes in what has already arrived.
    async fn look(&mut self, live: &mut Live, step: &Step) {
        while live.end.is_none() && self.event(live, step, Instant::now()).await {}
    }

    fn apply_rules(&mut self, live: &Live, step: &Step, to: Responses, head: &Head, body: &Bytes) {
        if to == Responses::Interim && head.status != 104 {
            return;
        }
        let rules = self.rules;
        let concerns = |rule: &&Rule| {
            let sent = |name: &String| {
                live.field_names
                    .iter()
                    .any(|sent| sent.eq_ignore_ascii_case(name))
            };
            rule.to == to && rule.when.as_ref().is_none_or(sent)
        };
        for rule in rules.iter().filter(concerns) {
            // Rules only report; they never end a case.
            let _ = self.checks(step, &rule.checks, head, body);
        }
    }

    fn checks(
        &mut self,
        step: &Step,
        checks: &[Check],
        head: &Head,
        body: &Bytes,
    ) -> Result<(), Stop> {
        for check in checks {
            let Some(level) = check.levels.of(self.version) else {
                continue;
            };
            match self.check(check, head, body) {
                Ok(Ok(())) => {}
                Ok(Err(message)) => self.find(level, step, &check.place, message),
                Err(unset) => return self.unset(step, &check.place, unset),
            }
        }
        Ok(())
    }

    fn check(
        &mut self,
        check: &Check,
        head: &Head,
        body: &Bytes,
    ) -> Result<Result<(), String>, Unset> {
        let (name, value) = match &check.subject {
            Subject::Status => ("the status".to_owned(), Some(head.status.to_string())),
            Subject::Complete => {
                let (name, _) = self.version.completeness(true);
                (name.to_owned(), head.field(name))
            }
            Subject::Interop => (INTEROP.to_owned(), head.field(INTEROP)),
            Subject::Problem(member) => (
                format!("the problem's {member}"),
                problem_member(head, body, member),
            ),
            Subject::Body => ("the body".to_owned(), None),
            Subject::Field(name) => (name.clone(), head.field(name)),
        };
        if let (Some(variable), Some(value)) = (&check.capture, &value) {
            self.variables.insert(variable.clone(), value.clone());
        }
        let found = value.as_deref();
        let verdict = match &check.expected {
            Expected::Outcomes(outcomes)
                if outcomes.iter().any(|outcome| outcome.includes(head.status)) =>
            {
                Ok(())
            }
            Expected::Outcomes(outcomes) => Err(format!(
                "expected {}, found {}",
                names(outcomes),
                head.status
            )),
            Expected::Complete(complete) => {
                matcher::equal(self.version.completeness(*complete).1, found)
            }
            Expected::Echo => self
                .version
                .interop()
                .map_or(Ok(()), |number| matcher::equal(&number.to_string(), found)),
            Expected::Bytes(content) => {
                let expected = self.content(content)?;
                if *body == expected {
                    Ok(())
                } else {
                    Err(format!(
                        "expected {} certain bytes, found {} others",
                        expected.len(),
                        body.len()
                    ))
                }
            }
            Expected::Value(matcher) => matcher.check(found, &self.variables)?,
        };
        Ok(verdict.map_err(|message| format!("{name}: {message}")))
    }

    fn find(&mut self, level: Level, step: &Step, place: &Place, message: String) {
        let finding = Finding {
            level,
            place: place.clone(),
            step: step.label.clone(),
            message,
        };
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    fn stop<T>(&mut self, step: &Step, place: &Place, message: String) -> Result<T, Stop> {
        self.find(Level::Must, step, place, message);
        Err(Stop)
    }

    /// What should have set the variable has been reported, unless the vector is at fault.
    fn unset<T>(&mut self, step: &Step, place: &Place, Unset(name): Unset) -> Result<T, Stop> {
        if self.findings.is_empty() {
            return self.stop(step, place, format!("there is no {name}"));
        }
        Err(Stop)
    }
}

impl Live {
    async fn end_body(&mut self) {
        if !self.body_ended {
            self.body_ended = true;
            self.exchange.end(&self.trailers).await;
        }
    }
}

/// A member of the problem document (RFC 9457), as text.
fn problem_member(head: &Head, body: &Bytes, member: &str) -> Option<String> {
    let media = head.field("Content-Type")?;
    let is_problem = media.split(';').next().is_some_and(|media| {
        media
            .trim()
            .eq_ignore_ascii_case("application/problem+json")
    });
    if !is_problem {
        return None;
    }
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    match document.get(member)? {
        serde_json::Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

fn names(outcomes: &[Outcome]) -> String {
    let name = |outcome: &Outcome| match outcome {
        Outcome::Status(status) => status.to_string(),
        Outcome::Class(hundreds) => format!("{hundreds}xx"),
        Outcome::Closed => "a cut".to_owned(),
    };
    outcomes.iter().map(name).collect::<Vec<_>>().join(" or ")
}
