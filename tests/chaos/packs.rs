//! A client that publishes versions of a tree and downloads them, as archives and catalogues, from
//! different nodes.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tests::pack::{self, text};
use tests::{Content, Dice, Request, Response};

use crate::downloads::fetch;
use crate::files::ask;
use crate::{Broken, Run};

/// Number of files in the tree.
const FILES: u64 = 40;

/// Publishes and downloads until the run is over.
pub(crate) async fn client(run: Arc<Run>, mut dice: Dice) -> Result<(), Broken> {
    let mut tree = pack::Files::default();
    let mut before = None;
    while !run.is_over() {
        change(&mut tree, &mut dice);
        let number = publish(&run, &tree, &mut dice).await?;
        run.figures.version_is_published();
        let version = format!("/packs/chaos/versions/{number}");
        let zip = same_everywhere(&run, &format!("{version}/archive.zip"), &mut dice).await?;
        let tar = same_everywhere(&run, &format!("{version}/archive.tar"), &mut dice).await?;
        same_everywhere(&run, &format!("{version}/catalogue"), &mut dice).await?;
        if pack::Files::from_zip(&zip) != tree || pack::Files::from_tar(&tar) != tree {
            return Err(format!("{version} is not what was published"));
        }
        if let Some(before) = before {
            let diff = format!("{version}/since/{before}.zip");
            same_everywhere(&run, &diff, &mut dice).await?;
        }
        before = Some(number);
    }
    Ok(())
}

/// Gives random files of the tree new contents, small and large.
fn change(tree: &mut pack::Files, dice: &mut Dice) {
    for _ in 0..dice.within(1..FILES) {
        let most = match dice.within(0..10) {
            0 => 2_000_000,
            _ => 20_000,
        };
        let content = Content::new(dice.within(0..u64::MAX), dice.within(0..most));
        let path = format!("{:02}/file", dice.within(0..FILES));
        tree.0.insert(path, content.bytes());
    }
}

/// Drafts the tree, sends the missing contents and publishes it. Each step goes to a random node
/// and is repeated if its answer is lost. Returns the version number.
async fn publish(run: &Run, tree: &pack::Files, dice: &mut Dice) -> Result<u64, Broken> {
    let document = tree.document().to_string();
    let draft = Request::post("/packs/chaos/drafts").body(document);
    let draft = expect(&[201], ask(run, &draft, None, dice).await?)?.json();
    let missing: Vec<String> = serde_json::from_value(draft["missing"]["sha256"].clone())
        .map_err(|error| format!("{error}: {draft}"))?;
    if !missing.is_empty() {
        let content = tree.with_digests(&missing).zip();
        let content = Request::post(text(&draft["content_url"])).body(content);
        expect(&[200], ask(run, &content, None, dice).await?)?;
    }
    let publish = Request::post(text(&draft["publish_url"]));
    // 200 if an earlier request published the draft and its answer was lost.
    number(&expect(&[201, 200], ask(run, &publish, None, dice).await?)?.json())
}

fn number(version: &Value) -> Result<u64, Broken> {
    let number = version["version"].as_u64();
    number.ok_or_else(|| format!("a version has a number: {version}"))
}

fn expect(statuses: &[u16], response: Response) -> Result<Response, Broken> {
    match statuses.contains(&response.status()) {
        true => Ok(response),
        false => Err(format!("{statuses:?} expected: {response:?}")),
    }
}

/// Downloads `target` twice, in pieces from random nodes, and checks that bytes and tag are the
/// same.
async fn same_everywhere(run: &Run, target: &str, dice: &mut Dice) -> Result<Bytes, Broken> {
    let one = fetch(run, target, dice).await?;
    let other = fetch(run, target, dice).await?;
    match one.body == other.body && one.etag == other.etag {
        true => Ok(one.body),
        false => Err(format!("{target} differs: {} and {}", one.etag, other.etag)),
    }
}
