//! A meter of the cost of a peer's frames against their use.
//!
//! Frames of HTTP/2 cost the receiver work and the sender next to nothing: `HEADERS` and
//! `CONTINUATION` have to be decoded even if their stream is over, `PING` and `SETTINGS` to be
//! answered, `RST_STREAM` throws away a request that was begun, empty `DATA` and unknown frames
//! have to be parsed (RFC 9113 §10.5). h2 bounds the memory that they take. The [`Meter`] bounds
//! their number, and the bytes to decode.
//!
//! Every frame has a cost, whatever its type and its stream. A peer has an allowance that refills
//! with time. It earns more with the use of its frames: with every request that is answered, and
//! with every KiB that is transferred, either way. So the frames of honest clients are always
//! covered, and the meter needs to know none of the ways to waste frames.

use std::collections::HashSet;

use tokio::time::Instant;

/// Frames that a peer may spend at once without having earned them.
const ALLOWANCE: u64 = 4_000;

/// Frames by which the allowance refills each second.
const ALLOWANCE_PER_SECOND: u64 = 400;

/// Maximum number of frames earned ahead: enough for all the window updates of a long path.
const MAX_EARNED: u64 = 1_000_000;

/// Frames that an answered request earns: its own head, and the frames around it.
const ANSWERED: u64 = 32;

/// Cost of a header section on a stream that has begun. A request has one at most, its trailers; on
/// a stream that is over it is useless.
const TRAILERS: u64 = 20;

/// Bytes of a header block that cost as much as a frame: each may stand for a field (RFC 7541
/// §6.1).
const BLOCK: u64 = 512;

const FRAME_HEAD: usize = 9;

#[derive(Debug)]
pub(super) struct Meter {
    /// Bytes until the next frame's head; at first, the preface.
    skip: usize,
    head: [u8; FRAME_HEAD],
    /// Bytes of `head` that have arrived.
    head_filled: usize,
    allowance: u64,
    refilled: Instant,
    /// Frames earned, in bytes transferred; a frame costs 1 KiB.
    earned: u64,
    /// Bytes of content received.
    received: u64,
    /// The newest stream that the peer has begun.
    begun: u32,
    /// The newest stream that was ever served, and the streams that are being served.
    served: u32,
    open: HashSet<u32>,
}

/// A peer that sends too many frames that carry nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flood;

impl Meter {
    /// Returns a meter that expects a preface of `preface` bytes.
    pub(super) fn new(preface: usize, now: Instant) -> Self {
        Self {
            skip: preface,
            head: [0; FRAME_HEAD],
            head_filled: 0,
            allowance: ALLOWANCE,
            refilled: now,
            earned: 0,
            received: 0,
            begun: 0,
            served: 0,
            open: HashSet::new(),
        }
    }

    /// Notes that a stream is being served.
    pub(super) fn opened(&mut self, stream: u32) {
        self.open.insert(stream);
        self.served = self.served.max(stream);
    }

    /// Notes that a stream has ended, answered or not.
    pub(super) fn closed(&mut self, stream: u32, answered: bool) {
        self.open.remove(&stream);
        if answered {
            self.earn(ANSWERED * 1024);
        }
    }

    /// Returns the number of bytes of content received.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Notes that bytes were sent to the peer.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.earn(bytes as u64);
    }

    /// Counts the frames in bytes from the peer.
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
                let [a, b, c, kind, _, stream @ ..] = self.head;
                let length = u32::from_be_bytes([0, a, b, c]);
                self.skip = length as usize;
                let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
                self.frame(kind, stream, u64::from(length), now)?;
            }
        }
    }

    fn frame(&mut self, kind: u8, stream: u32, length: u64, now: Instant) -> Result<(), Flood> {
        const DATA: u8 = 0;
        const HEADERS: u8 = 1;
        const RST_STREAM: u8 = 3;
        const SETTINGS: u8 = 4;
        const CONTINUATION: u8 = 9;
        match kind {
            DATA => {
                self.received += length;
                // Bytes for a stream that nobody reads are useless, too. A new one may not have
                // been accepted yet.
                if stream <= self.served && !self.open.contains(&stream) {
                    return self.spend(1 + length / 4096, now);
                }
                self.earn(length);
                // A frame of few bytes costs as much as a full one.
                self.spend(1, now)
            }
            HEADERS if stream <= self.begun => self.spend(TRAILERS + length / BLOCK, now),
            HEADERS => {
                self.begun = stream;
                self.spend(1 + length / BLOCK, now)
            }
            CONTINUATION => self.spend(1 + length / BLOCK, now),
            RST_STREAM | SETTINGS => self.spend(10 + length / 1024, now),
            _ => self.spend(1 + length / 1024, now),
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
        frame_of(1, kind, payload)
    }

    fn frame_of(stream: u32, kind: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, 0];
        bytes.extend(stream.to_be_bytes());
        bytes.resize(9 + payload, 0);
        bytes
    }

    /// Feeds frames one by one, and returns how many were let through.
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
            // The first opens the stream.
            (1, 5, 200),
            (1, 5_120, 133),
            (2, 5, 4_000),
            (3, 4, 400),
            (4, 0, 400),
            (6, 8, 4_000),
            (8, 4, 4_000),
            (9, 20, 4_000),
            (9, 5_120, 363),
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
    async fn requests_that_are_answered_earn_their_frames() {
        let now = Instant::now();
        let mut meter = Meter::new(0, now);
        for stream in (1..100_000).step_by(2) {
            // A head of 2 KiB, a body, trailers, a priority and two window updates.
            let frames = [(1, 2_048), (0, 10), (1, 30), (2, 5), (8, 4), (8, 4)];
            let frames = frames.map(|(kind, payload)| frame_of(stream, kind, payload));
            assert_eq!(let_through(&mut meter, now, frames), 6, "request {stream}");
            meter.opened(stream);
            meter.closed(stream, true);
        }
        // A request that is not answered earns nothing.
        let mut meter = Meter::new(0, now);
        let mut refused = 0;
        while meter
            .observe(&frame_of(2 * refused + 1, 1, 20), now)
            .is_ok()
        {
            meter.closed(2 * refused + 1, false);
            refused += 1;
        }
        assert_eq!(refused, 4_000);
    }

    #[tokio::test]
    async fn content_for_streams_that_are_over_earns_nothing() {
        let now = Instant::now();
        let mut meter = Meter::new(0, now);
        let full = || std::iter::repeat_n(frame(0, 16 * 1024), 10_000);
        meter.opened(1);
        assert_eq!(let_through(&mut meter, now, full()), 10_000);
        let mut meter = Meter::new(0, now);
        meter.opened(1);
        meter.closed(1, false);
        assert_eq!(let_through(&mut meter, now, full()), 800);
        // Bytes on their way when the stream ended: a window's worth.
        let mut meter = Meter::new(0, now);
        meter.opened(1);
        meter.closed(1, false);
        let late = std::iter::repeat_n(frame(0, 16 * 1024), 512);
        assert_eq!(let_through(&mut meter, now, late), 512);
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
