//! Counts what a peer's frames cost against what they carry.
//!
//! Most frames of HTTP/2 cost the receiver work and the sender next to nothing: `PING` and `SETTINGS` want answers,
//! `RST_STREAM` throws a request away that was begun, empty `DATA` and unknown frames want to be looked at (RFC 9113
//! §10.5). h2 bounds the memory that they take. The [`Meter`] bounds their number: a peer has an allowance that fills
//! with time, and earns more with every KiB that is really transferred, either way, because window updates and the like
//! come with transfers.

use tokio::time::Instant;

/// What a peer may spend at once without having earned it.
const ALLOWANCE: u64 = 4_000;

/// How fast that fills again.
const ALLOWANCE_PER_SECOND: u64 = 400;

/// What may be earned ahead: enough for all the window updates of a long path.
const MAX_EARNED: u64 = 1_000_000;

const FRAME_HEAD: usize = 9;

#[derive(Debug)]
pub(super) struct Meter {
    /// Bytes until the next frame's head; the preface first.
    skip: usize,
    head: [u8; FRAME_HEAD],
    /// How much of `head` has come.
    head_filled: usize,
    allowance: u64,
    refilled: Instant,
    /// Earned, in bytes transferred; a frame costs 1 KiB.
    earned: u64,
    /// Bytes of content received.
    received: u64,
}

/// A peer that sends too many frames that carry nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flood;

impl Meter {
    /// Starts before a preface of `preface` bytes.
    pub(super) fn new(preface: usize, now: Instant) -> Self {
        Self {
            skip: preface,
            head: [0; FRAME_HEAD],
            head_filled: 0,
            allowance: ALLOWANCE,
            refilled: now,
            earned: 0,
            received: 0,
        }
    }

    /// Bytes of content received so far.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Bytes were sent to the peer.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earn(bytes as u64);
    }

    /// Bytes came from the peer.
    pub(super) fn observe(&mut self, mut bytes: &[u8], now: Instant) -> Result<(), Flood> {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            if bytes.is_empty() {
                return Ok(());
            }
            let taken = (FRAME_HEAD - self.head_filled).min(bytes.len());
            self.head[self.head_filled..][..taken].copy_from_slice(&bytes[..taken]);
            self.head_filled += taken;
            bytes = &bytes[taken..];
            if self.head_filled == FRAME_HEAD {
                self.head_filled = 0;
                let [a, b, c, kind, ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                self.skip = length as usize;
                self.frame(kind, u64::from(length), now)?;
            }
        }
    }

    fn frame(&mut self, kind: u8, length: u64, now: Instant) -> Result<(), Flood> {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        const SETTINGS: u8 = 4;
        match kind {
            DATA if length > 0 => {
                self.received += length;
                self.earn(length);
                // A frame of few bytes costs as much as a full one.
                self.spend(1, now)
            }
            // Bounded by the streams that may be open; opening and resetting them is counted with the reset.
            HEADERS => Ok(()),
            RST_STREAM | SETTINGS => self.spend(10, now),
            _ => self.spend(1, now),
        }
    }

    fn earn(&mut self, bytes: u64) {
        self.earned = (self.earned + bytes).min(MAX_EARNED * 1024);
    }

    fn spend(&mut self, frames: u64, now: Instant) -> Result<(), Flood> {
        if let Some(rest) = self.earned.checked_sub(frames * 1024) {
            self.earned = rest;
            return Ok(());
        }
        let refill = now.duration_since(self.refilled).as_secs() * ALLOWANCE_PER_SECOND;
        if refill > 0 {
            self.allowance = (self.allowance + refill).min(ALLOWANCE);
            self.refilled = now;
        }
        self.allowance = self.allowance.checked_sub(frames).ok_or(Flood)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 1];
        bytes.resize(9 + payload, 0);
        bytes
    }

    /// Feeds frames one by one; how many were let through.
    fn let_through(
        meter: &mut Meter,
        now: Instant,
        frames: impl IntoIterator<Item = Vec<u8>>,
    ) -> usize {
        frames
            .into_iter()
            .take_while(|frame| meter.observe(frame, now).is_ok())
            .count()
    }

    #[tokio::test]
    async fn each_kind_of_flood_is_stopped() {
        let now = Instant::now();
        for (kind, payload, bound) in [
            (0, 0, 4_000),
            (2, 5, 4_000),
            (3, 4, 400),
            (4, 0, 400),
            (6, 8, 4_000),
            (8, 4, 4_000),
            (9, 20, 4_000),
            (77, 1, 4_000),
        ] {
            let mut meter = Meter::new(0, now);
            let frames = std::iter::repeat_n(frame(kind, payload), 10_000);
            assert_eq!(
                let_through(&mut meter, now, frames),
                bound,
                "frames of type {kind}"
            );
        }
    }

    #[tokio::test]
    async fn transfers_earn_their_window_updates() {
        let now = Instant::now();
        let mut meter = Meter::new(0, now);
        for _ in 0..1_000 {
            meter.sent(256 * 1024);
            // Two for every 4 KiB, which is the most that a known client sends.
            let updates = std::iter::repeat_n(frame(8, 4), 128);
            assert_eq!(let_through(&mut meter, now, updates), 128);
        }
        let data = std::iter::repeat_n(frame(0, 16 * 1024), 100_000);
        assert_eq!(let_through(&mut meter, now, data), 100_000);
    }

    #[tokio::test]
    async fn the_allowance_comes_back_with_time() {
        let start = Instant::now();
        let mut meter = Meter::new(0, start);
        for (second, pings) in [(0, 4_000), (1, 400), (3_600, 4_000)] {
            let now = start + Duration::from_secs(second);
            let frames = std::iter::repeat_n(frame(6, 8), pings);
            assert_eq!(
                let_through(&mut meter, now, frames),
                pings,
                "after {second} s"
            );
        }
        assert_eq!(
            meter.observe(&frame(6, 8), start + Duration::from_secs(3_600)),
            Err(Flood)
        );
    }

    #[tokio::test]
    async fn frames_are_found_however_the_bytes_are_cut() {
        let now = Instant::now();
        let stream: Vec<u8> = b"preface"
            .iter()
            .copied()
            .chain([frame(0, 300), frame(1, 20), frame(0, 0), frame(0, 45)].concat())
            .collect();
        for size in 1..stream.len() {
            let mut meter = Meter::new(7, now);
            for piece in stream.chunks(size) {
                meter.observe(piece, now).unwrap();
            }
            assert_eq!(meter.received(), 345, "pieces of {size}");
        }
    }
}
