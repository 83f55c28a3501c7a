//! Clients that upload one file after another.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tests::{Client, Content, Cut, Dice, Head, Request, Response};
use tokio::time::{Instant, sleep, timeout};

use crate::call::{SILENCE, answered, back_off, bounded, call, connect, version};
use crate::files::{Published, ask};
use crate::fleet::Node;
use crate::way::Way;
use crate::{Broken, Run};

/// Maximum number of requests for one upload.
const MAX_REQUESTS: u32 = 400;
/// Maximum duration of one upload, including a minute in which a node is stopped.
const LONGEST: Duration = Duration::from_secs(240);
/// Maximum number of events in the report of a failed upload.
const EVENTS: usize = 60;

/// Uploads until the run is over.
pub(crate) async fn client(run: Arc<Run>, number: u64, mut dice: Dice) -> Result<(), Broken> {
    let mut count = 0;
    while !run.is_over() {
        let mut upload = Upload::thrown(number, count, &mut dice);
        let url = match upload.deliver(&run, &mut dice).await {
            Ok(url) => url,
            Err(broken) => return Err(upload.story(&broken)),
        };
        let compared = upload.compare(&run, url, &mut dice).await;
        compared.map_err(|broken| upload.story(&broken))?;
        run.figures
            .upload_is_complete(upload.content.length(), upload.sent);
        count += 1;
    }
    Ok(())
}

/// An upload, as its client sees it.
#[derive(Debug)]
struct Upload {
    way: Way,
    content: Content,
    media_type: String,
    /// Path of the file, if the client chooses it.
    path: Option<String>,
    /// URL of the upload resource, once a node has sent it.
    resource: Option<String>,
    /// Greatest offset that any node has reported.
    acknowledged: u64,
    /// Offset of the next append, if a `HEAD` has just reported it.
    told: Option<u64>,
    /// Bytes of request bodies sent so far.
    sent: u64,
    last: Option<Node>,
    begun: Instant,
    events: VecDeque<String>,
}

/// Result of a request.
enum Came {
    /// The file exists, at this URL.
    File(String),
    /// The node answered, and the upload is not complete.
    Answer,
    /// No answer arrived; the effect of the request is unknown.
    Nothing,
}

impl Upload {
    fn thrown(client: u64, count: u64, dice: &mut Dice) -> Self {
        let way = Way::thrown(dice);
        let most = match dice.within(0..10) {
            0..=2 => 1_000,
            3..=7 => 2_000_000,
            _ if way == Way::Plain => 6_000_000,
            _ => 40_000_000,
        };
        let has_path = match way {
            Way::Ietf(_) | Way::Plain => dice.within(0..4) > 0,
            Way::Tus => false,
        };
        Self {
            way,
            content: Content::new(client << 32 | count, dice.within(1..most + 1)),
            media_type: format!("application/x-chaos-{client}-{count}"),
            path: has_path.then(|| format!("/files/chaos/{client}/{count}")),
            resource: None,
            acknowledged: 0,
            told: None,
            sent: 0,
            last: None,
            begun: Instant::now(),
            events: VecDeque::new(),
        }
    }

    /// Uploads the content within bounds of time and requests. Returns the URL of the file.
    async fn deliver(&mut self, run: &Run, dice: &mut Dice) -> Result<String, Broken> {
        for _ in 0..MAX_REQUESTS {
            if self.begun.elapsed() > LONGEST {
                return Err(format!("not complete after {LONGEST:?}"));
            }
            let node = run.fleet.any(dice);
            if self.last.replace(node).is_some_and(|last| last != node) {
                run.figures.upload_moved();
            }
            let came = match (self.way, self.resource.clone()) {
                (Way::Plain, _) => self.send_whole(run, node, dice).await?,
                (_, None) => self.create(run, node, dice).await?,
                (_, Some(resource)) => self.go_on(run, node, &resource, dice).await?,
            };
            match came {
                Came::File(url) => return Ok(url),
                Came::Answer => {}
                Came::Nothing => back_off(dice).await,
            }
        }
        Err(format!("not complete after {MAX_REQUESTS} requests"))
    }

    async fn send_whole(&mut self, run: &Run, node: Node, dice: &mut Dice) -> Result<Came, Broken> {
        let request = self.creation(true).body(self.content.bytes());
        self.exchange(run, node, "creation", request, dice).await
    }

    async fn create(&mut self, run: &Run, node: Node, dice: &mut Dice) -> Result<Came, Broken> {
        let length = self.content.length();
        match dice.within(0..3) {
            0 => {
                let request = self.creation(false);
                self.exchange(run, node, "creation", request, dice).await
            }
            1 => {
                let part = self.content.slice(0..dice.within(0..length));
                let request = self.creation(false).body(part);
                self.exchange(run, node, "creation with a part", request, dice)
                    .await
            }
            _ => {
                let request = self.creation(true).announcing(length);
                let stop = self.cut(0, dice);
                self.stream(
                    run,
                    node,
                    "creation with everything",
                    request,
                    0..stop,
                    dice,
                )
                .await
            }
        }
    }

    fn creation(&self, completes: bool) -> Request {
        let request = match &self.path {
            Some(path) => Request::put(path),
            None => Request::post("/files"),
        };
        let typed = self.way.typed(request, &self.media_type);
        self.way.create(typed, self.content, completes)
    }

    /// Asks for the offset, unless it was just reported, and appends in a randomly chosen way.
    async fn go_on(
        &mut self,
        run: &Run,
        node: Node,
        resource: &str,
        dice: &mut Dice,
    ) -> Result<Came, Broken> {
        let Some(offset) = self.told.take() else {
            return self.ask_offset(run, node, resource, dice).await;
        };
        let length = self.content.length();
        match dice.within(0..40) {
            0 => self.begin_again(run, resource, dice).await,
            1..8 => {
                let end = match offset < length {
                    true => dice.within(offset..length) + 1,
                    // All bytes have arrived; only the completion is missing.
                    false => length,
                };
                let completes = end == length;
                let part = self.content.slice(offset..end);
                let request = self.way.append(resource, offset, completes).body(part);
                self.exchange(run, node, "append of a part", request, dice)
                    .await
            }
            8..20 => {
                self.send_and_overtake(run, node, resource, offset, dice)
                    .await
            }
            _ => {
                let append = self.way.append(resource, offset, true);
                let request = append.announcing(length - offset);
                let stop = self.cut(offset, dice);
                self.stream(run, node, "append", request, offset..stop, dice)
                    .await
            }
        }
    }

    /// Returns the offset at which a request that sends everything from `offset` on loses its
    /// connection, or the length of the content if it does not.
    fn cut(&self, offset: u64, dice: &mut Dice) -> u64 {
        let length = self.content.length();
        match dice.within(0..3) {
            0 if offset < length => dice.within(offset..length),
            _ => length,
        }
    }

    /// Cancels the upload at one node and checks that another no longer knows it.
    async fn begin_again(
        &mut self,
        run: &Run,
        resource: &str,
        dice: &mut Dice,
    ) -> Result<Came, Broken> {
        self.event("cancelled".to_owned());
        let cancelled = ask(run, &self.way.cancel(resource), None, dice).await?;
        let gone = ask(run, &self.way.head(resource), None, dice).await?;
        // The first answer may have been lost.
        if ![204, 404, 410].contains(&cancelled.status()) || ![404, 410].contains(&gone.status()) {
            return Err(format!("not cancelled: {cancelled:?}, {gone:?}"));
        }
        self.resource = None;
        self.acknowledged = 0;
        Ok(Came::Answer)
    }

    async fn ask_offset(
        &mut self,
        run: &Run,
        node: Node,
        resource: &str,
        dice: &mut Dice,
    ) -> Result<Came, Broken> {
        let head = self.way.head(resource);
        let outcome = call(run.fleet.address(node), version(dice), &head).await;
        self.note_offset(run, node, outcome)
    }

    async fn exchange(
        &mut self,
        run: &Run,
        node: Node,
        what: &str,
        request: Request,
        dice: &mut Dice,
    ) -> Result<Came, Broken> {
        self.sent += u64::try_from(request.body.len()).expect("a length fits");
        self.event(format!("{what}, {} bytes, to {node:?}", request.body.len()));
        let outcome = call(run.fleet.address(node), version(dice), &request).await;
        self.note(run, outcome)
    }

    /// Sends `request` with the bytes of `range`, then drops the connection if the range ends
    /// before the content does.
    async fn stream(
        &mut self,
        run: &Run,
        node: Node,
        what: &str,
        request: Request,
        range: Range<u64>,
        dice: &mut Dice,
    ) -> Result<Came, Broken> {
        let ends = range.end == self.content.length();
        self.event(format!("{what}, {range:?}, ends: {ends}, to {node:?}"));
        let mut client = match self.begin(run, node, &request, dice).await {
            Ok(client) => client,
            Err(cut) => return self.note(run, Err(cut)),
        };
        let sent = self.send(&mut client, range, dice).await;
        if ends || sent.is_err() {
            if ends {
                // Fails only on a lost connection, which the response reports.
                let _ = timeout(SILENCE, client.finish()).await;
            }
            let outcome = answered(client.response()).await;
            return self.note(run, outcome);
        }
        client.lose();
        Ok(Came::Nothing)
    }

    /// Connects and sends the head of `request`. For a creation with an IETF draft, notes the
    /// upload URL of the interim response, if one comes.
    async fn begin(
        &mut self,
        run: &Run,
        node: Node,
        request: &Request,
        dice: &mut Dice,
    ) -> Result<Client, Cut> {
        let mut client = connect(run.fleet.address(node), version(dice)).await?;
        bounded(client.begin(request)).await?;
        if matches!(self.way, Way::Ietf(_)) && self.resource.is_none() {
            let interim = bounded(async { Ok(client.interim().await) }).await?;
            interim.iter().for_each(|head| self.note_interim(head));
        }
        Ok(client)
    }

    async fn send(
        &mut self,
        client: &mut Client,
        range: Range<u64>,
        dice: &mut Dice,
    ) -> Result<(), Cut> {
        let mut offset = range.start;
        while offset < range.end {
            let end = (offset + dice.within(1..1_000_000)).min(range.end);
            bounded(client.send(&self.content.slice(offset..end))).await?;
            self.sent += end - offset;
            offset = end;
            while let Some(head) = client.interim_so_far().await {
                self.note_interim(&head);
            }
        }
        Ok(())
    }

    /// Sends part of the remaining bytes to `node` and, while that continues, asks another node for
    /// the offset, which ends the append in progress.
    async fn send_and_overtake(
        &mut self,
        run: &Run,
        node: Node,
        resource: &str,
        offset: u64,
        dice: &mut Dice,
    ) -> Result<Came, Broken> {
        let length = self.content.length();
        let other = run.fleet.other(node, dice);
        self.event(format!(
            "append from {offset} to {node:?}, to be overtaken at {other:?}"
        ));
        let append = self.way.append(resource, offset, true);
        let append = append.announcing(length - offset);
        let first = offset..offset + (length - offset) / 2;
        let mut old = match self.begin(run, node, &append, dice).await {
            Ok(old) => old,
            Err(cut) => return self.note(run, Err(cut)),
        };
        if let Err(cut) = self.send(&mut old, first.clone(), dice).await {
            return self.note(run, Err(cut));
        }
        // All but the last byte, so that this request cannot complete the upload.
        let (content, pace) = (self.content, Duration::from_millis(dice.within(1..50)));
        let sent = AtomicU64::new(0);
        let go_on = async {
            for start in (first.end..length - 1).step_by(50_000) {
                let piece = content.slice(start..(start + 50_000).min(length - 1));
                if !matches!(timeout(SILENCE, old.send(&piece)).await, Ok(Ok(()))) {
                    break;
                }
                let count = u64::try_from(piece.len()).expect("a length fits");
                sent.fetch_add(count, Ordering::Relaxed);
                sleep(pace).await;
            }
            timeout(SILENCE, old.response()).await
        };
        let head = self.way.head(resource);
        let asked = Instant::now();
        let ask = async {
            let outcome = call(run.fleet.address(other), version(dice), &head).await;
            (outcome, asked.elapsed())
        };
        let (mut go_on, mut ask) = (pin!(go_on), pin!(ask));
        let (end, (outcome, waited)) = tokio::select! {
            answer = &mut ask => (None, answer),
            end = &mut go_on => (Some(end), ask.await),
        };
        let was_answered = outcome.is_ok();
        let came = self.note_offset(run, other, outcome)?;
        // Otherwise the `HEAD` may have arrived before the request that it should end; that request
        // is given up.
        let was_under_way = was_answered && self.told.is_some_and(|told| told > offset);
        let end = match end {
            None if was_under_way => Some(go_on.await),
            end => end,
        };
        self.sent += sent.load(Ordering::Relaxed);
        if was_under_way {
            run.figures.upload_was_taken_over(waited);
            self.event(format!("taken over after {waited:?}"));
            match end {
                Some(Ok(Err(cut))) => cut.interim.iter().for_each(|head| self.note_interim(head)),
                Some(Ok(Ok(response))) if response.status() < 300 => {
                    return Err(format!("the older request was answered: {response:?}"));
                }
                Some(Err(_)) if !run.fleet.was_stopped(node) => {
                    return Err(format!("the older request at {node:?} is still open"));
                }
                Some(_) | None => {}
            }
        }
        Ok(came)
    }

    /// Evaluates the answer to a creation or an append. A conflict breaks the promise that the last
    /// reported offset is accepted, even if an abandoned request arrived late at any node.
    fn note(&mut self, run: &Run, outcome: Result<Response, Cut>) -> Result<Came, Broken> {
        let response = match outcome {
            Ok(response) => response,
            Err(cut) => {
                cut.interim.iter().for_each(|head| self.note_interim(head));
                self.event(format!("lost: {}", cut.how));
                return Ok(Came::Nothing);
            }
        };
        response
            .interim
            .iter()
            .for_each(|head| self.note_interim(head));
        if response.status() >= 500 {
            run.figures.request_was_refused();
            self.event(format!("refused: {}", response.status()));
            return Ok(Came::Nothing);
        }
        if response.status() >= 300 {
            return Err(format!("{response:?}"));
        }
        self.acknowledge(&response.head);
        if self.way.is_complete(&response.head, self.content) {
            self.event(format!("{}: complete", response.status()));
            let url = response.optional("content-location");
            return Ok(url.map_or(Came::Answer, |url| Came::File(url.to_owned())));
        }
        if self.resource.is_none() {
            self.resource = response.optional("location").map(str::to_owned);
        }
        self.event(format!("{}: {}", response.status(), self.acknowledged));
        Ok(Came::Answer)
    }

    /// Evaluates the answer to a `HEAD`. Its offset must not be less than the acknowledged one.
    fn note_offset(
        &mut self,
        run: &Run,
        node: Node,
        outcome: Result<Response, Cut>,
    ) -> Result<Came, Broken> {
        match outcome {
            Err(cut) => {
                self.event(format!("HEAD to {node:?}: lost: {}", cut.how));
                Ok(Came::Nothing)
            }
            Ok(response) if response.status() >= 500 => {
                run.figures.request_was_refused();
                self.event(format!("HEAD to {node:?}: {}", response.status()));
                Ok(Came::Nothing)
            }
            Ok(response) if response.status() < 300 => {
                let complete = self.way.is_complete(&response.head, self.content);
                let offset = response.offset();
                self.event(format!("HEAD to {node:?}: {offset}, complete: {complete}"));
                if offset < self.acknowledged {
                    return Err(format!(
                        "{} was acknowledged: {response:?}",
                        self.acknowledged
                    ));
                }
                self.acknowledge(&response.head);
                if complete {
                    return Ok(Came::File(response.field("content-location").to_owned()));
                }
                self.told = Some(offset);
                Ok(Came::Answer)
            }
            Ok(response) => Err(format!("HEAD to {node:?}: {response:?}")),
        }
    }

    fn note_interim(&mut self, head: &Head) {
        if let Some(resource) = head.optional("location") {
            self.resource = Some(resource.to_owned());
        }
        self.acknowledge(head);
    }

    fn acknowledge(&mut self, head: &Head) {
        if head.optional("upload-offset").is_some() {
            self.acknowledged = self.acknowledged.max(head.offset());
        }
    }

    /// Fetches the file and compares it, then deletes it or leaves it to the downloading clients.
    async fn compare(&mut self, run: &Run, url: String, dice: &mut Dice) -> Result<(), Broken> {
        let published = Published {
            url,
            content: self.content,
            media_type: self.media_type.clone(),
        };
        let etag = published.compare(run, None, dice).await?;
        match self.content.length() > 1_000_000 && dice.within(0..8) > 0 {
            true => published.delete(run, dice).await,
            false => {
                run.files.add(published, etag);
                Ok(())
            }
        }
    }

    fn event(&mut self, event: String) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events
            .push_back(format!("{:>9.3?} {event}", self.begun.elapsed()));
    }

    fn story(&self, broken: &str) -> Broken {
        format!(
            "{broken}\n{:?}, {:?}, {}, {:?}, resource {:?}, acknowledged {}, sent {}:\n{}",
            self.way,
            self.content,
            self.media_type,
            self.path,
            self.resource,
            self.acknowledged,
            self.sent,
            Vec::from_iter(self.events.iter().map(String::as_str)).join("\n")
        )
    }
}
