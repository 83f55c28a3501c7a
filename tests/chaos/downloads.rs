//! Clients that download the files of other clients, piece by piece from different nodes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tests::{Dice, Head, Request};

use crate::call::{back_off, call, version};
use crate::{Broken, Run};

/// Maximum number of requests for one download.
const MAX_REQUESTS: u32 = 400;

/// Downloads until the run is over.
pub(crate) async fn client(run: Arc<Run>, mut dice: Dice) -> Result<(), Broken> {
    while !run.is_over() {
        match run.files.any(&mut dice) {
            Some((published, etag)) => {
                published.compare(&run, Some(&etag), &mut dice).await?;
            }
            None => back_off(&mut dice).await,
        }
    }
    Ok(())
}

/// A completed download.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// Head of the first answer.
    pub(crate) head: Head,
    pub(crate) etag: String,
    pub(crate) body: Bytes,
}

/// Downloads `target` in one or more pieces, each from a random node, like a client that loses its
/// connection: later requests carry the tag of the first answer in `If-Range`. The download fails
/// if the tag differs between nodes.
pub(crate) async fn fetch(run: &Run, target: &str, dice: &mut Dice) -> Result<Fetched, Broken> {
    let mut first: Option<(Head, String)> = None;
    let mut body = BytesMut::new();
    let mut events = Vec::new();
    for _ in 0..MAX_REQUESTS {
        let (node, start) = (run.fleet.any(dice), body.len());
        let end = match dice.within(0..3) {
            0 => (start as u64 + dice.within(0..3_000_000)).to_string(),
            _ => String::new(),
        };
        let mut request = Request::get(target);
        if start > 0 || !end.is_empty() {
            request = request.field("Range", format!("bytes={start}-{end}"));
        }
        if let Some((_, etag)) = &first {
            request = request.field("If-Range", etag);
        }
        let outcome = call(run.fleet.address(node), version(dice), &request).await;
        let (head, part, whole) = match outcome {
            Ok(response) if response.status() >= 500 => {
                run.figures.request_was_refused();
                back_off(dice).await;
                continue;
            }
            Ok(response) => (response.head, response.body, true),
            Err(cut) => match cut.partial {
                Some((head, part)) => (head, part, false),
                None => {
                    events.push(format!("{node:?} at {start}: {}", cut.how));
                    back_off(dice).await;
                    continue;
                }
            },
        };
        events.push(format!(
            "{node:?} at {start}: {}, {} bytes",
            head.status,
            part.len()
        ));
        let story = |what: &str| format!("GET {target}: {what}: {head:#?}\n{}", events.join("\n"));
        let total = match head.status {
            206 => total(&head, start).ok_or_else(|| story("not the requested range"))?,
            200 if start == 0 => head.field("content-length").parse().expect("a number"),
            _ => return Err(story("not the requested content")),
        };
        let etag = head.field("etag").to_owned();
        match &first {
            Some((_, known)) if *known != etag => return Err(story(known)),
            Some(_) if start > 0 => run.figures.download_was_resumed(),
            Some(_) => {}
            None => first = Some((head, etag)),
        }
        body.extend_from_slice(&part);
        if let Some((head, etag)) = first.take_if(|_| body.len() == total) {
            run.figures.download_is_whole();
            return Ok(Fetched {
                head,
                etag,
                body: body.freeze(),
            });
        }
        if !whole {
            back_off(dice).await;
        }
    }
    Err(format!(
        "GET {target}: not whole after {MAX_REQUESTS} requests:\n{}",
        events.join("\n")
    ))
}

/// Returns the complete length, if the answer is a part that begins at `start`.
fn total(head: &Head, start: usize) -> Option<usize> {
    let range = head.field("content-range").strip_prefix("bytes ")?;
    let (part, total) = range.split_once('/')?;
    let (first, _) = part.split_once('-')?;
    (first.parse() == Ok(start)).then(|| total.parse().ok())?
}
