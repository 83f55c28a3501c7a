//! Random histories of one upload on three nodes, compared with the records of a metadata store.
//!
//! Each step claims an epoch, stages a writer at the recorded offset, writes, or records the bytes
//! that a writer of the newest epoch has synced. Writers of older epochs continue meanwhile, with
//! any result. Recorded bytes are never lost, and published bytes are those of the newest writer.

use std::time::Duration;

use bytes::Bytes;
use domain::StagedBlob;
use futures::{StreamExt as _, stream};

use super::faulty_s3::next_random;
use super::large::LARGE_PARTS;
use super::*;

/// Writer, with the bytes of the blob from its beginning on.
struct Writer {
    staged: Box<dyn StagedBlob>,
    bytes: Vec<u8>,
}

struct World {
    server: FaultyS3,
    nodes: Vec<S3Store>,
    random: u64,
    /// Set if requests fail at random, so that operations may fail.
    fails: bool,
    epoch: u64,
    recorded: Vec<u8>,
    /// Epochs that were claimed by nodes that have not staged yet, each with the bytes that were
    /// recorded then.
    late: Vec<(u64, Vec<u8>)>,
    current: Option<Writer>,
    /// Set if the last writer that ended was closed.
    is_closed: bool,
    stale: Vec<Writer>,
    /// Bytes that were published and recorded as complete.
    complete: Option<Vec<u8>>,
    history: Vec<String>,
}

impl World {
    async fn new(seed: u64, one_in: Option<u64>) -> Self {
        let server = FaultyS3::start().await;
        let mut nodes = Vec::new();
        for who in ["a", "b", "c"] {
            let patient = |config| Config {
                attempt_timeout: match one_in {
                    Some(_) => Duration::from_secs(1),
                    None => Duration::from_secs(30),
                },
                ..config
            };
            // Parts of every third history are put together on the server.
            let limits = match seed % 3 {
                0 => LARGE_PARTS,
                _ => Limits::default(),
            };
            nodes.push(node_with(&server, who, limits, patient).await);
        }
        server.at_random(one_in, seed);
        Self {
            server,
            nodes,
            random: seed,
            fails: one_in.is_some(),
            epoch: 0,
            recorded: Vec::new(),
            late: Vec::new(),
            current: None,
            is_closed: false,
            stale: Vec::new(),
            complete: None,
            history: vec![format!("seed {seed}")],
        }
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(next_random(&mut self.random) % end as u64).unwrap()
    }

    /// Records the result of an operation of the newest writer.
    fn result<T>(&mut self, what: &str, result: Result<T, BlobError>) -> Option<T> {
        match result {
            Ok(value) => {
                self.history.push(what.to_owned());
                Some(value)
            }
            Err(error) => {
                let is_lost = matches!(error, BlobError::Missing { .. });
                let history = &self.history;
                assert!(
                    self.fails && !is_lost,
                    "{what} failed: {error:?} after {history:#?}"
                );
                self.history
                    .push(format!("{what}, which failed: {error:?}"));
                None
            }
        }
    }

    async fn take_over(&mut self) {
        self.epoch += 1;
        let node = self.below(self.nodes.len());
        if let Some(current) = self.current.take() {
            match self.below(3) {
                0 => drop(current),
                _ => self.stale.push(current),
            }
        }
        if self.epoch > 1 && self.below(8) == 0 {
            self.history.push(format!("epoch {} is late", self.epoch));
            self.late.push((self.epoch, self.recorded.clone()));
            return;
        }
        let growth = at(self.recorded.len(), self.epoch);
        let staged = self.nodes[node].stage(&key(), growth).await;
        let what = format!("{node} stages {growth:?}");
        if let Some(staged) = self.result(&what, staged) {
            let bytes = self.recorded.clone();
            self.current = Some(Writer { staged, bytes });
        }
    }

    async fn write(&mut self) {
        let length = match self.below(3) {
            0 => self.below(10),
            1 => self.below(PART),
            _ => self.below(3 * PART),
        };
        let of = self.below(256).to_le_bytes()[0];
        let new = bytes(length, of);
        let Some(mut writer) = self.current.take() else {
            return;
        };
        let written = writer.staged.write(new.clone().into()).await;
        if self.result(&format!("writes {length}"), written).is_some() {
            writer.bytes.extend(new);
            self.current = Some(writer);
        }
    }

    async fn sync(&mut self) {
        let Some(mut writer) = self.current.take() else {
            return;
        };
        let synced = writer.staged.sync().await;
        if let Some(length) = self.result("syncs", synced) {
            assert_eq!(length, writer.bytes.len() as u64);
            self.recorded.clone_from(&writer.bytes);
            self.current = Some(writer);
        }
    }

    async fn close(&mut self) {
        let Some(writer) = self.current.take() else {
            return;
        };
        let closed = writer.staged.close().await;
        self.is_closed = self.result("closes", closed).is_some();
        if self.is_closed {
            self.recorded = writer.bytes;
        }
    }

    async fn publish(&mut self) {
        let Some(writer) = self.current.take() else {
            return;
        };
        let published = writer.staged.publish().await;
        if self.result("publishes", published).is_some() {
            self.assert_published(&writer.bytes).await;
            // A crash may come before the record.
            if self.below(2) == 0 {
                self.complete = Some(writer.bytes);
            }
        }
    }

    async fn publish_closed(&mut self) {
        if self.current.is_some() || self.epoch == 0 || self.recorded.is_empty() {
            return;
        }
        if !self.is_left_closed().await {
            return;
        }
        let node = self.below(self.nodes.len());
        let size = self.recorded.len() as u64;
        let published = self.nodes[node].publish(&key(), size).await;
        if self
            .result("publishes what was closed", published)
            .is_some()
        {
            let recorded = self.recorded.clone();
            self.assert_published(&recorded).await;
            self.complete = Some(recorded);
        }
    }

    /// Closes the blob by a writer of the newest epoch, as callers do before they publish or read a
    /// blob that nobody writes.
    async fn is_left_closed(&mut self) -> bool {
        self.take_over().await;
        let is_held = self.current.is_some();
        self.close().await;
        is_held && self.is_closed
    }

    async fn read_back(&mut self) {
        if self.current.is_some() || self.recorded.is_empty() {
            return;
        }
        if !self.is_left_closed().await {
            return;
        }
        let node = self.below(self.nodes.len());
        let from = self.below(self.recorded.len());
        let to = from + self.below(self.recorded.len() - from) + 1;
        let range = from as u64..to as u64;
        let read = async {
            let stream = self.nodes[node].read_staged(&key(), range).await?;
            let chunks: Vec<Bytes> = stream.try_collect().await?;
            Ok(chunks.concat())
        };
        let read = read.await;
        if let Some(read) = self.result(&format!("reads {from}..{to}"), read) {
            let history = &self.history;
            assert!(read == self.recorded[from..to], "{history:#?}");
        }
    }

    /// Lets a superseded node act.
    async fn late(&mut self) {
        let node = self.below(self.nodes.len());
        if !self.late.is_empty() && self.below(2) == 0 {
            let (epoch, bytes) = self.late.swap_remove(0);
            let staged = self.nodes[node].stage(&key(), at(bytes.len(), epoch)).await;
            let is_done = staged.is_ok();
            self.history
                .push(format!("late: {node} stages for epoch {epoch}: {is_done}"));
            if epoch == self.epoch {
                self.epoch += 1;
            }
            if let Ok(staged) = staged {
                self.stale.push(Writer { staged, bytes });
            }
        }
        if self.stale.is_empty() {
            return;
        }
        let index = self.below(self.stale.len());
        let mut writer = self.stale.swap_remove(index);
        let what = self.below(5);
        let length = self.below(3 * PART);
        let is_done = match what {
            0 => writer.staged.close().await.is_ok(),
            1 => writer.staged.publish().await.is_ok(),
            2 => {
                let is_done = writer.staged.sync().await.is_ok();
                self.stale.push(writer);
                is_done
            }
            _ => {
                let new = vec![0xee; length];
                let is_done = writer.staged.write(new.into()).await.is_ok();
                self.stale.push(writer);
                is_done
            }
        };
        self.history
            .push(format!("late: does {what} ({length}): {is_done}"));
    }

    async fn assert_published(&mut self, expected: &[u8]) {
        self.server.at_random(None, 0);
        let node = self.below(self.nodes.len());
        let read = read(&self.nodes[node], &key(), expected.len()).await;
        let history = &self.history;
        let read = read.unwrap_or_else(|error| panic!("{error:?} after {history:#?}"));
        let differs = read
            .iter()
            .zip(expected)
            .position(|(read, expected)| read != expected);
        assert!(
            differs.is_none(),
            "byte {differs:?} differs after {history:#?}"
        );
        if self.fails {
            let seed = self.random;
            self.server.at_random(Some(12), seed);
        }
    }

    async fn run(mut self, steps: usize) {
        for _ in 0..steps {
            if self.complete.is_some() {
                break;
            }
            match self.below(20) {
                0 | 1 => self.take_over().await,
                2..8 => self.write().await,
                8..11 => self.sync().await,
                11 => self.close().await,
                12 => self.publish().await,
                13 => self.publish_closed().await,
                14 => self.read_back().await,
                _ => self.late().await,
            }
            if self.current.is_none() && self.below(2) == 0 && self.complete.is_none() {
                self.take_over().await;
            }
        }
        for _ in 0..10 {
            self.late().await;
        }
        self.server.at_random(None, 0);
        let history = &self.history;
        assert_eq!(self.server.violations(), [""; 0], "{history:#?}");
        if let Some(complete) = self.complete.clone() {
            self.fails = false;
            self.assert_published(&complete).await;
        }
        drop((self.current, self.stale));
        assert_all_goes(&self.server, &self.nodes[0]).await;
    }
}

#[tokio::test]
async fn nothing_that_counts_is_lost_on_a_server_that_works() {
    for seed in 0..30 {
        World::new(seed, None).await.run(60).await;
    }
}

#[tokio::test]
async fn nothing_that_counts_is_lost_on_a_server_that_fails() {
    let histories =
        (0..16).map(|seed| async move { World::new(seed, Some(12)).await.run(60).await });
    stream::iter(histories)
        .buffer_unordered(10)
        .collect::<()>()
        .await;
}
