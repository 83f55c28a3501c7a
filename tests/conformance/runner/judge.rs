//! Plays a case against a server and collects the differences from the expectations.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use crate::compose::{Composer, Trouble};
use crate::exchange::{Client, Event, Exchange, Framing, Head};
use crate::matcher;
use crate::server::{Abilities, Target};
use crate::template::{Unset, Variables};
use crate::vector::{
    Action, Answer, Awaited, Case, Check, Expectation, Level, Line, Need, Outcome, Place, Request,
    Responses, Rule, Step, Suite, Transport,
};
use crate::version::{INTEROP, Version};

#[derive(Debug)]
pub(crate) enum Verdict {
    Skipped(String),
    /// The case was played; it passed if there are no findings.
    Judged(Vec<Finding>),
}

impl Verdict {
    /// Returns the level of the most severe finding.
    pub(crate) fn worst(&self) -> Option<Level> {
        match self {
            Self::Skipped(_) => None,
            Self::Judged(findings) => findings.iter().map(|finding| finding.level).max(),
        }
    }
}

/// An expectation that the server did not meet.
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

/// Plays one case in one version, once for each value of its variable.
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
        if let Some(excuse) = play.excuse {
            return Verdict::Skipped(excuse);
        }
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

/// Limits on the size of an upload or of a part.
const ROOM: [&str; 3] = ["max-size", "max-append-size", "tus-max-size"];

/// Returns the reason why a case cannot be played, if there is one.
fn obstacle(
    case: &Case,
    version: Version,
    transport: Transport,
    abilities: &Abilities,
) -> Option<String> {
    let sends_interim = abilities.offered.get(&version).copied().unwrap_or(false);
    let limit = |key: &str| {
        abilities
            .limits
            .get(key)
            .copied()
            .filter(|limit| *limit > 0)
    };
    case.needs.iter().find_map(|need| match need {
        Need::TusExtension(name) if !abilities.tus_extensions.contains(name) => {
            Some(format!("Tus-Extension does not name {name}"))
        }
        Need::Limit(key) if limit(key).is_none() => Some(format!("the server announces no {key}")),
        Need::Interim if !sends_interim => Some("the server sends no 104".to_owned()),
        Need::Transport(needed) if *needed != transport => {
            Some(format!("only for {}", needed.name()))
        }
        Need::NoLimit(key) if limit(key).is_some() => Some(format!("the server announces a {key}")),
        Need::Room(size)
            if ROOM
                .iter()
                .any(|key| limit(key).is_some_and(|limit| limit < *size)) =>
        {
            Some(format!("the server takes less than {size} bytes"))
        }
        Need::TusExtension(_)
        | Need::Limit(_)
        | Need::NoLimit(_)
        | Need::Room(_)
        | Need::Interim
        | Need::Transport(_) => None,
    })
}

/// Ends a case that cannot continue.
struct Stop;

struct Play<'a> {
    composer: Composer<'a>,
    rules: &'a [Rule],
    client: Client,
    /// Exchanges that a later step may continue, by their label.
    open: BTreeMap<String, Live>,
    findings: Vec<Finding>,
    /// Reason why the server may skip the remaining steps.
    excuse: Option<String>,
}

/// An exchange and everything received on it so far.
struct Live {
    exchange: Exchange,
    started: Instant,
    field_names: Vec<String>,
    /// Announced body bytes that are still to be sent; `None` if the end of the body delimits it.
    owed: Option<u64>,
    trailers: Vec<(String, String)>,
    body_ended: bool,
    /// Interim responses that no line has dealt with yet.
    interims: Vec<Reply>,
    /// The statuses of all interim responses.
    interim_statuses: Vec<u16>,
    end: Option<End>,
}

/// A received response.
struct Reply {
    head: Head,
    body: Bytes,
    /// Time since the beginning of the step.
    took: Duration,
}

enum End {
    Answer(Reply),
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
        Ok(Self {
            composer: Composer {
                target,
                creation,
                version,
                variables,
            },
            rules,
            client: Client::new(&target.connector, transport),
            open: BTreeMap::new(),
            findings: Vec::new(),
            excuse: None,
        })
    }

    fn version(&self) -> Version {
        self.composer.version
    }

    async fn all(&mut self, steps: &[Step]) {
        let version = self.version();
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
                // The step that would have left the exchange open does not apply to this version.
                None => return Ok(()),
            },
        };
        for line in &step.script {
            match line {
                Line::Do(versions, _, _) if !versions.contains(self.version()) => {}
                Line::Do(_, place, action) => {
                    if let Err(trouble) = self.act(&mut live, action).await {
                        return self.stop(step, place, trouble);
                    }
                }
                Line::Cut => {
                    self.look(&mut live, step).await;
                    live.exchange.cut().await;
                    return Ok(());
                }
                Line::Await(answer) => self.answer(&mut live, step, answer).await?,
            }
        }
        let awaits_end = |line: &Line| matches!(line, Line::Await(answer) if matches!(answer.awaited, Awaited::End { .. }));
        if !step.script.iter().any(awaits_end) {
            self.open.insert(step.label.clone(), live);
        }
        Ok(())
    }

    async fn begin(&mut self, step: &Step, request: &Request) -> Result<Live, Stop> {
        let head = match self.composer.request_head(step, request) {
            Ok(head) => head,
            Err(trouble) => return self.stop(step, &request.place, trouble),
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

    async fn act(&mut self, live: &mut Live, action: &Action) -> Result<(), Trouble> {
        match action {
            Action::Body(content) | Action::Send(content) => {
                let bytes = self.composer.content(content)?;
                if let Some(owed) = &mut live.owed {
                    *owed = owed.saturating_sub(bytes.len() as u64);
                }
                let deadline = Instant::now() + self.composer.target.patience;
                live.exchange.send(bytes, deadline).await?;
            }
            Action::Trailer(name, value) => {
                let value = value.expand(&self.composer.variables)?;
                live.trailers.push((name.clone(), value));
            }
            Action::End => live.end_body().await,
            Action::Pause(time) => sleep(*time).await,
        }
        Ok(())
    }

    async fn answer(&mut self, live: &mut Live, step: &Step, answer: &Answer) -> Result<(), Stop> {
        let Some(level) = answer.levels.of(self.version()) else {
            return Ok(());
        };
        match &answer.awaited {
            Awaited::Interim(status, within) => {
                let patience = within.unwrap_or(self.composer.target.interim_patience);
                self.interim(live, step, answer, level, (*status, patience))
                    .await
            }
            Awaited::EachInterim(status) => {
                self.look(live, step).await;
                for reply in live
                    .interims
                    .extract_if(.., |reply| reply.head.status == *status)
                {
                    self.checks(step, &answer.checks, &reply)?;
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
            Awaited::End { outcomes, excuses } => {
                self.await_end(live, step).await;
                self.end(live, step, answer, level, (outcomes, excuses))
            }
        }
    }

    async fn interim(
        &mut self,
        live: &mut Live,
        step: &Step,
        answer: &Answer,
        level: Level,
        (status, patience): (u16, Duration),
    ) -> Result<(), Stop> {
        let deadline = Instant::now() + patience;
        let is_wanted = |reply: &Reply| reply.head.status == status;
        loop {
            if let Some(position) = live.interims.iter().position(is_wanted) {
                let reply = live.interims.remove(position);
                return self.checks(step, &answer.checks, &reply);
            }
            if live.end.is_some() || !self.event(live, step, deadline).await {
                break;
            }
        }
        let instead = match &live.end {
            None => "there was none in time".to_owned(),
            Some(End::Answer(reply)) => format!("{} came first", reply.head.status),
            Some(End::Closed(reason)) => reason.clone(),
        };
        let message = format!("expected {status}, but {instead}");
        self.find(level, step, &answer.place, message);
        Ok(())
    }

    async fn await_end(&mut self, live: &mut Live, step: &Step) {
        // If fewer bytes were sent than announced, the vector expects an answer that does not wait
        // for the rest.
        if live.owed.is_none_or(|owed| owed == 0) {
            live.end_body().await;
        }
        let deadline = Instant::now() + self.composer.target.patience;
        while live.end.is_none() && self.event(live, step, deadline).await {}
    }

    fn end(
        &mut self,
        live: &Live,
        step: &Step,
        answer: &Answer,
        level: Level,
        (outcomes, excuses): (&[Outcome], &[Outcome]),
    ) -> Result<(), Stop> {
        let includes =
            |outcomes: &[Outcome], status| outcomes.iter().any(|one| one.includes(status));
        let expected = names(outcomes);
        let message = match &live.end {
            Some(End::Answer(reply)) if includes(outcomes, reply.head.status) => {
                return self.checks(step, &answer.checks, reply);
            }
            Some(End::Answer(reply)) if includes(excuses, reply.head.status) => {
                self.excuse = Some(format!("the server answers {}", reply.head.status));
                return Err(Stop);
            }
            Some(End::Closed(_)) if outcomes.contains(&Outcome::Closed) => return Ok(()),
            Some(End::Answer(reply)) => format!("expected {expected}, found {}", reply.head.status),
            Some(End::Closed(reason)) => format!("expected {expected}, but {reason}"),
            None => format!("expected {expected}, but there was no answer"),
        };
        self.find(level, step, &answer.place, message);
        if level == Level::Must {
            Err(Stop)
        } else {
            Ok(())
        }
    }

    /// Processes one event; `false` at the deadline.
    async fn event(&mut self, live: &mut Live, step: &Step, deadline: Instant) -> bool {
        let reply = |head: Head, body| {
            let took = head.arrived.saturating_duration_since(live.started);
            Reply { head, body, took }
        };
        match live.exchange.event_before(deadline).await {
            None => return false,
            Some(Event::Interim(head)) => {
                let reply = reply(head, Bytes::new());
                self.apply_rules(live, step, Responses::Interim, &reply);
                live.interim_statuses.push(reply.head.status);
                live.interims.push(reply);
            }
            Some(Event::Final(head, body)) => {
                let reply = reply(head, body);
                self.apply_rules(live, step, Responses::Final, &reply);
                live.end = Some(End::Answer(reply));
            }
            Some(Event::Closed(reason)) => live.end = Some(End::Closed(reason)),
        }
        true
    }

    /// Processes all events that have already arrived.
    async fn look(&mut self, live: &mut Live, step: &Step) {
        while live.end.is_none() && self.event(live, step, Instant::now()).await {}
    }

    fn apply_rules(&mut self, live: &Live, step: &Step, to: Responses, reply: &Reply) {
        if to == Responses::Interim && reply.head.status != 104 {
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
            let _ = self.checks(step, &rule.checks, reply);
        }
    }

    fn checks(&mut self, step: &Step, checks: &[Check], reply: &Reply) -> Result<(), Stop> {
        for check in checks {
            let Some(level) = check.levels.of(self.version()) else {
                continue;
            };
            match self.check(check, reply) {
                Ok(Ok(())) => {}
                Ok(Err(message)) => self.find(level, step, &check.place, message),
                Err(unset) => return self.stop(step, &check.place, unset),
            }
        }
        Ok(())
    }

    /// Checks an expectation; the inner error describes the difference in words.
    fn check(&mut self, check: &Check, reply: &Reply) -> Result<Result<(), String>, Unset> {
        let head = &reply.head;
        Ok(match &check.expected {
            Expectation::Status(outcomes) => {
                if outcomes.iter().any(|outcome| outcome.includes(head.status)) {
                    Ok(())
                } else {
                    Err(format!(
                        "expected {}, found {}",
                        names(outcomes),
                        head.status
                    ))
                }
            }
            Expectation::Within(limit) if reply.took <= *limit => Ok(()),
            Expectation::Within(_) => Err(format!("it took {:.1} s", reply.took.as_secs_f64())),
            Expectation::Complete(complete) => {
                let (name, value) = self.version().completeness(*complete);
                named(name, matcher::equal(value, head.field(name).as_deref()))
            }
            Expectation::InteropEcho => match self.version().interop() {
                Some(number) => named(
                    INTEROP,
                    matcher::equal(&number.to_string(), head.field(INTEROP).as_deref()),
                ),
                None => Ok(()),
            },
            Expectation::Body(content) => {
                let expected = self.composer.content(content)?;
                if reply.body == expected {
                    Ok(())
                } else {
                    Err(format!(
                        "expected {} certain bytes, found {} others",
                        expected.len(),
                        reply.body.len()
                    ))
                }
            }
            Expectation::Problem(member, matcher) => {
                let value = problem_member(reply, member);
                named(
                    &format!("the problem's {member}"),
                    matcher.check(value.as_deref(), &self.composer.variables)?,
                )
            }
            Expectation::Field(name, matcher) => {
                let value = head.field(name);
                let verdict = matcher.check(value.as_deref(), &self.composer.variables)?;
                if let (Some(variable), Some(value)) = (&check.capture, value) {
                    self.composer.variables.insert(variable.clone(), value);
                }
                named(name, verdict)
            }
        })
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

    fn stop<T>(
        &mut self,
        step: &Step,
        place: &Place,
        trouble: impl Into<Trouble>,
    ) -> Result<T, Stop> {
        match trouble.into() {
            Trouble::Failed(message) => self.find(Level::Must, step, place, message),
            // The failure to set the variable has already been reported, unless the vector is at
            // fault.
            Trouble::Unset(Unset(name)) if self.findings.is_empty() => {
                self.find(Level::Must, step, place, format!("there is no {name}"));
            }
            Trouble::Unset(_) => {}
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

fn named(name: &str, verdict: Result<(), String>) -> Result<(), String> {
    verdict.map_err(|message| format!("{name}: {message}"))
}

/// Returns a member of the problem document (RFC 9457) as text.
fn problem_member(reply: &Reply, member: &str) -> Option<String> {
    let media = reply.head.field("Content-Type")?;
    let is_problem = media.split(';').next().is_some_and(|media| {
        media
            .trim()
            .eq_ignore_ascii_case("application/problem+json")
    });
    if !is_problem {
        return None;
    }
    let document: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::exchange::Connector;
    use crate::vector::Files;

    /// A step of a scripted server on one connection.
    enum Turn {
        /// Reads until the request contains this text.
        Read(&'static str),
        Say(&'static str),
        /// Reads until the client closes.
        ReadEnd,
    }
    use Turn::{Read, ReadEnd, Say};

    /// Plays one script per connection, in the order of the connections.
    async fn scripted(scripts: Vec<Vec<Turn>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for script in scripts {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(play(stream, script));
            }
        });
        address
    }

    async fn play(mut stream: TcpStream, script: Vec<Turn>) {
        let mut seen = Vec::new();
        for turn in script {
            match turn {
                Read(text) => {
                    while !seen
                        .windows(text.len())
                        .any(|window| window == text.as_bytes())
                    {
                        assert!(
                            stream.read_buf(&mut seen).await.unwrap() > 0,
                            "wanted {text:?}"
                        );
                    }
                    seen.clear();
                }
                Say(text) => stream.write_all(text.as_bytes()).await.unwrap(),
                ReadEnd => while stream.read_buf(&mut seen).await.unwrap_or(0) > 0 {},
            }
        }
    }

    async fn judged(address: SocketAddr, transport: Transport, vector: &str) -> Verdict {
        let rules = "# Rules\n< any 104\n< @interop: echo\n";
        let files = Files::from([
            ("ietf/case.http".to_owned(), format!("# Title\n{vector}")),
            ("ietf/every.http".to_owned(), rules.to_owned()),
        ]);
        let suite = Suite::parse(&files).unwrap();
        let target = Target {
            url: format!("http://{address}/files"),
            method: "POST".to_owned(),
            fields: vec![("Authorization".to_owned(), "Bearer x".to_owned())],
            connector: Connector::new(false).unwrap(),
            patience: Duration::from_secs(5),
            interim_patience: Duration::from_millis(200),
        };
        let version = Version::Interop(6);
        let abilities = Abilities {
            offered: BTreeMap::from([(version, true)]),
            ..Abilities::default()
        };
        judge(
            &target,
            &suite,
            &suite.cases[0],
            version,
            transport,
            &abilities,
        )
        .await
    }

    /// Plays a case over HTTP/1.1 and returns its findings.
    async fn findings(scripts: Vec<Vec<Turn>>, vector: &str) -> Vec<String> {
        let address = scripted(scripts).await;
        match judged(address, Transport::Http1, vector).await {
            Verdict::Judged(findings) => findings
                .iter()
                .map(|finding| format!("{:?} {finding}", finding.level))
                .collect(),
            Verdict::Skipped(reason) => vec![format!("skipped: {reason}")],
        }
    }

    const CREATION: &str = "
== create
> POST {target}
> @interop
> Content-Length: 5
< [should] 104
< Location: (any) => upload
> @send text hello
< 201
< Upload-Offset: 5
";

    #[tokio::test]
    async fn a_server_that_does_as_expected_passes() {
        let create = vec![
            Read(
                "Authorization: Bearer x\r\nUpload-Draft-Interop-Version: 6\r\nContent-Length: 5\r\n\r\n",
            ),
            Say(
                "HTTP/1.1 104 Upload Resumption Supported\r\nUpload-Draft-Interop-Version: 6\r\nLocation: /u/1\r\n\r\n",
            ),
            Read("hello"),
            Say("HTTP/1.1 201 Created\r\nUpload-Offset: 5\r\nContent-Length: 0\r\n\r\n"),
        ];
        let head = vec![
            Read("HEAD /u/1 HTTP/1.1\r\n"),
            Say("HTTP/1.1 204 No Content\r\n\r\n"),
        ];
        let vector = format!("{CREATION}\n== ask\n> HEAD {{upload}}\n< 204\n");
        assert_eq!(findings(vec![create, head], &vector).await, [""; 0]);
    }

    #[tokio::test]
    async fn an_interim_response_that_waits_for_the_body_is_too_late() {
        let script = vec![
            Read("hello"),
            Say(
                "HTTP/1.1 104 Late\r\nUpload-Draft-Interop-Version: 6\r\n\r\nHTTP/1.1 201 Created\r\nUpload-Offset: 5\r\nContent-Length: 0\r\n\r\n",
            ),
        ];
        let expected =
            ["Should ietf/case.http:7 (create): expected 104, but there was none in time"];
        assert_eq!(findings(vec![script], CREATION).await, expected);
    }

    #[tokio::test]
    async fn rules_hold_for_every_answer() {
        let script = vec![
            Read("\r\n\r\n"),
            Say("HTTP/1.1 104 No Version\r\nLocation: /u/1\r\n\r\n"),
            Read("hello"),
            Say("HTTP/1.1 201 Created\r\nUpload-Offset: 4\r\nContent-Length: 0\r\n\r\n"),
        ];
        let expected = [
            "Must ietf/every.http:3 (create): Upload-Draft-Interop-Version: expected 6, found nothing",
            "Must ietf/case.http:11 (create): Upload-Offset: expected 5, found \"4\"",
        ];
        assert_eq!(findings(vec![script], CREATION).await, expected);
    }

    #[tokio::test]
    async fn a_cut_reaches_the_server_after_the_bytes_before_it() {
        let script = vec![Read("chunked\r\n\r\n"), Read("5\r\nhello\r\n"), ReadEnd];
        let vector = "\n== cut\n> POST {target}\n> @send text hello\n> @cut\n\n== next\n> GET {target}\n< 200\n";
        let next = vec![
            Read("GET"),
            Say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ];
        assert_eq!(findings(vec![script, next], vector).await, [""; 0]);
    }

    #[tokio::test]
    async fn an_exchange_that_was_left_open_can_be_continued() {
        let first = vec![
            Read("he"),
            Read("llo"),
            Say("HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n"),
        ];
        let second = vec![Read("HEAD"), Say("HTTP/1.1 204 No Content\r\n\r\n")];
        let vector = "
== first
> PATCH {target}
> Content-Length: 5
> @send text he

== second
> HEAD {target}
< 204

== first
> @send text llo
< closed|4xx
";
        assert_eq!(findings(vec![first, second], vector).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_connection_closed_without_an_answer_is_an_outcome() {
        let vector = "\n== ask\n> HEAD {target}\n< 2xx\n";
        let expected =
            ["Must ietf/case.http:5 (ask): expected 2xx, but the server closed the connection"];
        assert_eq!(
            findings(vec![vec![Read("\r\n\r\n")]], vector).await,
            expected
        );
        let vector = "\n== ask\n> HEAD {target}\n< 4xx|closed\n";
        assert_eq!(
            findings(vec![vec![Read("\r\n\r\n")]], vector).await,
            [""; 0]
        );
    }

    #[tokio::test]
    async fn an_excused_answer_skips_the_case() {
        let script = vec![
            Read("\r\n\r\n"),
            Say("HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n"),
        ];
        let vector = "\n== cancel\n> DELETE {target}\n< 204, 405 skips\n";
        assert_eq!(
            findings(vec![script], vector).await,
            ["skipped: the server answers 405"]
        );
    }

    #[tokio::test]
    async fn a_case_runs_once_for_each_value() {
        let script = || {
            vec![
                Read("\r\n\r\n"),
                Say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            ]
        };
        let vector = "each value: a ; b\n\n== ask\n> GET {target}?{value}\n< [may] 4xx\n";
        let expected = [
            "May ietf/case.http:6 (ask): with value a: expected 4xx, found 200",
            "May ietf/case.http:6 (ask): with value b: expected 4xx, found 200",
        ];
        assert_eq!(findings(vec![script(), script()], vector).await, expected);
    }

    /// An HTTP/2 server that answers the first stream with 104 and 201 and resets the second.
    async fn http2_server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut streams = 0;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                streams += 1;
                if streams == 2 {
                    respond.send_reset(h2::Reason::CANCEL);
                    continue;
                }
                tokio::spawn(async move {
                    let interim = http::Response::builder()
                        .status(104)
                        .header("upload-draft-interop-version", "6");
                    respond
                        .send_informational(interim.header("location", "/u/1").body(()).unwrap())
                        .unwrap();
                    let mut body = request.into_body();
                    let mut length = 0;
                    while let Some(Ok(data)) = body.data().await {
                        length += data.len();
                        body.flow_control().release_capacity(data.len()).unwrap();
                    }
                    let answer = http::Response::builder()
                        .status(201)
                        .header("upload-offset", length.to_string());
                    respond
                        .send_response(answer.body(()).unwrap(), true)
                        .unwrap();
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn http_2_shows_interim_responses_and_resets() {
        let vector = format!(
            "{CREATION}< any 104\n< Location: (absent)\n\n== ask\n> HEAD {{upload}}\n< closed\n"
        );
        match judged(http2_server().await, Transport::Http2, &vector).await {
            Verdict::Judged(findings) => assert_eq!(findings, []),
            Verdict::Skipped(reason) => panic!("{reason}"),
        }
    }
}
