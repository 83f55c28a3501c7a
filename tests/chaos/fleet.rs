//! The nodes, and the faults injected into them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tests::stores::{StopMode, restart_postgres};
use tests::{Blobs, Dice, Metadata, Stores, TestServer};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Run;

/// Time for which a node is stopped, once in a run that is long enough.
const STOPPED: Duration = Duration::from_secs(60);

/// Servers that form one service.
#[derive(Debug)]
pub(crate) struct Fleet {
    addresses: Vec<SocketAddr>,
    servers: Vec<Mutex<TestServer>>,
    /// For each node, whether it was ever stopped.
    stopped: Vec<AtomicBool>,
}

/// A node, by its index in the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node(usize);

impl Fleet {
    pub(crate) async fn start(count: usize) -> Self {
        let stores = match count {
            // A single node can run on any stores, so that this program can be tried on each
            // combination.
            1 => Stores::new(Metadata::of_this_run(), Blobs::of_this_run()).await,
            _ => Stores::for_nodes().await,
        };
        let mut servers = Vec::new();
        for _ in 0..count {
            servers.push(TestServer::setup().stores(&stores).start().await);
        }
        Self {
            stopped: servers.iter().map(|_| AtomicBool::new(false)).collect(),
            addresses: servers.iter().map(TestServer::address).collect(),
            servers: servers.into_iter().map(Mutex::new).collect(),
        }
    }

    /// Picks a node, running or not.
    pub(crate) fn any(&self, dice: &mut Dice) -> Node {
        Node(throw(dice, self.servers.len()))
    }

    /// Picks a node other than `node`, or `node` itself if it is the only one.
    pub(crate) fn other(&self, node: Node, dice: &mut Dice) -> Node {
        match self.servers.len() {
            1 => node,
            count => Node((node.0 + 1 + throw(dice, count - 1)) % count),
        }
    }

    /// Iterates over all nodes.
    pub(crate) fn all(&self) -> impl Iterator<Item = Node> {
        (0..self.servers.len()).map(Node)
    }

    pub(crate) fn address(&self, node: Node) -> SocketAddr {
        self.addresses[node.0]
    }

    /// Reports whether the node was ever stopped; if so, its connections may hang for long.
    pub(crate) fn was_stopped(&self, node: Node) -> bool {
        self.stopped[node.0].load(Ordering::Relaxed)
    }

    /// Injects faults until the run is over: kills a node every few seconds and restarts it,
    /// restarts PostgreSQL twice, and stops a node for a minute if the run is long enough. Every
    /// node works when this returns.
    pub(crate) async fn trouble(&self, run: &Run, mut dice: Dice) {
        let begin = Instant::now();
        let part = |percent: u32| begin + (run.end - begin) * percent / 100;
        let mut restarts =
            [(part(25), StopMode::Fast), (part(75), StopMode::Immediate)].into_iter();
        let mut restart = restarts.next();
        let mut stop = (run.end - begin > STOPPED * 2).then(|| part(35));
        let mut stopped: Option<(Node, Instant)> = None;
        while !run.is_over() {
            let pause = Duration::from_millis(dice.within(2_000..5_000));
            sleep_until((Instant::now() + pause).min(run.end)).await;
            let now = Instant::now();
            if let Some((node, _)) = stopped.take_if(|(_, until)| *until <= now) {
                self.signal(node, Signal::CONT).await;
            } else if let Some((_, mode)) = restart.take_if(|(at, _)| *at <= now) {
                restart_postgres(mode).await;
                run.figures.postgres_was_restarted();
                restart = restarts.next();
            } else if stop.take_if(|at| *at <= now).is_some() {
                let node = self.any(&mut dice);
                self.stopped[node.0].store(true, Ordering::Relaxed);
                self.signal(node, Signal::STOP).await;
                run.figures.node_was_stopped();
                stopped = Some((node, now + STOPPED));
            } else {
                let node = match stopped {
                    Some((node, _)) => self.other(node, &mut dice),
                    None => self.any(&mut dice),
                };
                self.kill(node, &mut dice).await;
                run.figures.node_was_killed();
            }
        }
        if let Some((node, _)) = stopped {
            self.signal(node, Signal::CONT).await;
        }
    }

    async fn kill(&self, node: Node, dice: &mut Dice) {
        let mut server = self.servers[node.0].lock().await;
        server.kill().await;
        sleep(Duration::from_millis(dice.within(0..1_500))).await;
        server.restart().await;
    }

    async fn signal(&self, node: Node, signal: Signal) {
        self.servers[node.0].lock().await.process().signal(signal);
    }

    /// Returns the last log lines of every node, for the report of a failure.
    pub(crate) async fn logs(&self) -> String {
        let mut logs = String::new();
        for (number, server) in self.servers.iter().enumerate() {
            let log = server.lock().await.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LINES)..];
            logs.push_str(&format!("--- node {number} ---\n{}\n", last.join("\n")));
        }
        logs
    }
}

/// Number of log lines shown for each node.
const LINES: usize = 20;

fn throw(dice: &mut Dice, count: usize) -> usize {
    let count = u64::try_from(count).expect("a count fits");
    usize::try_from(dice.within(0..count)).expect("an index fits")
}
