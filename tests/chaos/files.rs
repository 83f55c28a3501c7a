//! Uploaded files, which every node must have.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tests::pack::text;
use tests::{Content, Dice, Request, Response};

use crate::call::{back_off, call, version};
use crate::downloads::fetch;
use crate::fleet::Node;
use crate::{Broken, Run};

/// Maximum number of requests until a node answers one.
const MAX_REQUESTS: u32 = 200;

/// A file whose upload is complete.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) url: String,
    pub(crate) content: Content,
    pub(crate) media_type: String,
}

/// Every file that stays until the end of the run, with its entity tag.
#[derive(Debug, Default)]
pub(crate) struct Files(Mutex<Vec<(Published, String)>>);

impl Files {
    pub(crate) fn add(&self, published: Published, etag: String) {
        self.lock().push((published, etag));
    }

    /// Picks a random file, if there is any.
    pub(crate) fn any(&self, dice: &mut Dice) -> Option<(Published, String)> {
        let files = self.lock();
        let count = u64::try_from(files.len()).expect("a count fits");
        let place = usize::try_from(dice.within(0..count.max(1))).expect("an index fits");
        files.get(place).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(Published, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Published {
    /// Fetches the file from random nodes and compares its bytes and its metadata, and the entity
    /// tag if `etag` is given. Returns the tag.
    pub(crate) async fn compare(
        &self,
        run: &Run,
        etag: Option<&str>,
        dice: &mut Dice,
    ) -> Result<String, Broken> {
        let fetched = fetch(run, &self.url, dice).await?;
        let head = &fetched.head;
        let is_right = fetched.body == self.content.bytes()
            && head.field("content-type") == self.media_type
            && head.field("repr-digest") == self.content.repr_digest()
            && etag.is_none_or(|etag| etag == fetched.etag);
        match is_right {
            true => Ok(fetched.etag),
            false => Err(format!("this is not {self:?} with {etag:?}: {head:#?}")),
        }
    }

    /// Deletes the file at one node and checks that another node answers 404.
    pub(crate) async fn delete(&self, run: &Run, dice: &mut Dice) -> Result<(), Broken> {
        let deleted = ask(run, &Request::delete(&self.url), None, dice).await?;
        // The first answer may have been lost.
        if ![204, 404].contains(&deleted.status()) {
            return Err(format!("DELETE {}: {deleted:?}", self.url));
        }
        let gone = ask(run, &Request::head(&self.url), None, dice).await?;
        match gone.status() {
            404 => Ok(()),
            _ => Err(format!("deleted, and still there: {gone:?}")),
        }
    }
}

/// Sends `request` to `node`, or to a random node each time, until the answer is not a 5xx.
pub(crate) async fn ask(
    run: &Run,
    request: &Request,
    node: Option<Node>,
    dice: &mut Dice,
) -> Result<Response, Broken> {
    let mut last = String::new();
    for _ in 0..MAX_REQUESTS {
        let node = node.unwrap_or_else(|| run.fleet.any(dice));
        match call(run.fleet.address(node), version(dice), request).await {
            Ok(response) if response.status() < 500 => return Ok(response),
            Ok(response) => {
                run.figures.request_was_refused();
                last = format!("{response:?}");
            }
            Err(cut) => last = cut.how,
        }
        back_off(dice).await;
    }
    let (method, target) = (&request.method, &request.target);
    Err(format!(
        "{method} {target} is not answered, at last: {last}"
    ))
}

/// Compares the file list of every node with the uploaded files.
pub(crate) async fn compare_all(run: &Run, dice: &mut Dice) -> Result<(), Broken> {
    let files = run.files.lock().clone();
    for node in run.fleet.all() {
        let listed = list(run, node, dice).await?;
        for (published, etag) in &files {
            let Some(file) = listed.get(&published.url) else {
                return Err(format!("{published:?} is not listed by {node:?}"));
            };
            let is_right = file["size"] == published.content.length()
                && file["media_type"] == *published.media_type
                && file["etag"] == **etag;
            if !is_right {
                return Err(format!(
                    "{node:?} lists {file} for {published:?} with {etag}"
                ));
            }
        }
    }
    Ok(())
}

/// Returns the documents of all files by URL.
async fn list(run: &Run, node: Node, dice: &mut Dice) -> Result<BTreeMap<String, Value>, Broken> {
    let mut files = BTreeMap::new();
    let mut target = "/files?limit=1000".to_owned();
    loop {
        let response = ask(run, &Request::get(&target), Some(node), dice).await?;
        let page = response.expect(200).json();
        for file in page["files"].as_array().into_iter().flatten() {
            files.insert(text(&file["url"]).to_owned(), file.clone());
        }
        match page["cursor"].as_str() {
            Some(cursor) => target = format!("/files?limit=1000&cursor={cursor}"),
            None => return Ok(files),
        }
    }
}
