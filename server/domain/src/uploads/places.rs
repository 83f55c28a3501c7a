//! Bounds on the number of concurrent requests for uploads, overall and per client address.
//!
//! Work on an upload continues without its client and its connection, so a bound on connections
//! does not bound the work. Instead, a request takes a *place* before its work begins, and the work
//! has the place until its end. A request that waits for a place has no effect yet: nothing of it
//! is read or recorded, and it ends if its client disconnects.
//!
//! A place is memory of the server's one budget, as much as such work needs. So the places are
//! limited by the settings ([`Config::max_at_once`](super::Config::max_at_once)) and by memory.
//! Each address has a share of them, so one peer reaches its own bound before the common one.
//! Requests that bring bytes may take hours, and requests for an upload's state should be answered
//! within a second: each kind has places of its own.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use budget::{Budget, Held};
use tokio_util::sync::CancellationToken;

use super::Config;
use crate::Error;

/// Memory of a request that brings bytes, in bytes: three small buffers (one being filled, one
/// waiting, one being written), its open file and its task. Larger buffers are accounted for
/// separately ([`Buffers`](crate::buffers::Buffers)).
const BRINGING: u64 = 128 * 1024;
/// Memory of a request that asks for an upload's state, in bytes: its task and two rows.
const ASKING: u64 = 16 * 1024;

/// The places of this process.
#[derive(Debug)]
pub(super) struct Places {
    /// Places of requests that bring bytes.
    pub(super) bringing: Arc<Lane>,
    /// Places of requests that ask for an upload's state, or end it.
    pub(super) asking: Arc<Lane>,
}

impl Places {
    pub(super) fn new(memory: &Budget, config: &Config, draining: &CancellationToken) -> Self {
        let lane = |cost: u64| {
            let bytes = |places: NonZeroUsize| cost.saturating_mul(places.get() as u64);
            // Work that has a place may wait for other memory, so some memory must stay free of
            // places.
            let all = bytes(config.max_at_once).min(memory.limit() / 2);
            Arc::new(Lane {
                all: memory.part(all),
                share: bytes(config.max_at_once_per_address).min(all),
                cost,
                patience: config.place_wait,
                draining: draining.clone(),
                peers: Mutex::default(),
            })
        };
        Self {
            bringing: lane(BRINGING),
            asking: lane(ASKING),
        }
    }
}

/// Places of one kind.
#[derive(Debug)]
pub(super) struct Lane {
    all: Budget,
    /// Size of one peer's places, in bytes.
    share: u64,
    /// Size of a place, in bytes.
    cost: u64,
    patience: Duration,
    draining: CancellationToken,
    peers: Mutex<HashMap<IpAddr, Weak<Share>>>,
}

/// One peer's share of a lane; exists as long as the peer has or awaits a place.
#[derive(Debug)]
struct Share {
    budget: Budget,
    lane: Arc<Lane>,
    peer: IpAddr,
}

/// Permission to work on an upload.
#[derive(Debug)]
pub(super) struct Place {
    _memory: Held,
    _share: Option<Arc<Share>>,
}

impl Lane {
    /// Waits for a place. Requests of one peer get places in the order of their arrival.
    ///
    /// # Errors
    /// [`Error::Busy`] if no place becomes free in time, [`Error::Draining`].
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub(super) async fn take(self: &Arc<Self>, peer: Option<IpAddr>) -> Result<Place, Error> {
        let share = peer.map(|address| self.share(network(address)));
        let budget = share.as_ref().map_or(&self.all, |share| &share.budget);
        let memory = tokio::select! {
            biased;
            memory = budget.take(self.cost) => memory,
            () = self.draining.cancelled() => return Err(Error::Draining),
            () = tokio::time::sleep(self.patience) => return Err(Error::Busy),
        };
        Ok(Place {
            _memory: memory,
            _share: share,
        })
    }

    fn share(self: &Arc<Self>, peer: IpAddr) -> Arc<Share> {
        let mut peers = self.peers();
        if let Some(share) = peers.get(&peer).and_then(Weak::upgrade) {
            return share;
        }
        let share = Arc::new(Share {
            budget: self.all.part(self.share),
            lane: Arc::clone(self),
            peer,
        });
        peers.insert(peer, Arc::downgrade(&share));
        share
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<IpAddr, Weak<Share>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut peers = self.lane.peers();
        // Another share may have replaced this one already.
        if peers
            .get(&self.peer)
            .is_some_and(|share| share.strong_count() == 0)
        {
            peers.remove(&self.peer);
        }
    }
}

/// Returns the address or network that shares places: an IPv4 address, or the IPv6 network that one
/// subscriber usually has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn places(memory: u64, all: usize, share: usize) -> Places {
        let config = Config {
            max_at_once: NonZeroUsize::new(all).unwrap(),
            max_at_once_per_address: NonZeroUsize::new(share).unwrap(),
            ..Config::default()
        };
        Places::new(&Budget::new(memory), &config, &CancellationToken::new())
    }

    fn peer(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[tokio::test]
    async fn one_address_leaves_places_to_others() {
        let lane = places(1 << 30, 3, 2).bringing;
        let mut held = Vec::new();
        for address in ["192.0.2.1", "::ffff:192.0.2.1"] {
            held.push(lane.take(peer(address)).await.unwrap());
        }
        assert!(lane.take(peer("192.0.2.1")).now_or_never().is_none());
        held.push(lane.take(peer("192.0.2.2")).await.unwrap());
        assert!(lane.take(peer("192.0.2.3")).now_or_never().is_none());
        assert!(lane.take(None).now_or_never().is_none());

        let waiting = lane.take(peer("192.0.2.1"));
        held.remove(0);
        assert!(waiting.await.is_ok());
        held.clear();
        assert_eq!((lane.all.held(), lane.peers().len()), (0, 0));
    }

    #[tokio::test]
    async fn an_ipv6_network_is_one_peer() {
        let lane = places(1 << 30, 9, 1).bringing;
        let held = lane.take(peer("2001:db8:0:1::1")).await.unwrap();
        assert!(lane.take(peer("2001:db8:0:1::2")).now_or_never().is_none());
        assert!(lane.take(peer("2001:db8:0:2::1")).now_or_never().is_some());
        drop(held);
        assert!(lane.take(peer("2001:db8:0:1::2")).now_or_never().is_some());
    }

    #[tokio::test]
    async fn places_are_memory_and_leave_half_of_it() {
        let memory = 8 * BRINGING;
        let lane = places(memory, 1000, 1000).bringing;
        let mut held = Vec::new();
        while let Some(place) = lane.take(None).now_or_never() {
            held.push(place.unwrap());
        }
        assert_eq!(held.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end() {
        let places = places(1 << 30, 1, 1);
        let _held = places.bringing.take(None).await.unwrap();
        assert!(matches!(places.bringing.take(None).await, Err(Error::Busy)));
        assert!(places.asking.take(None).now_or_never().is_some());
        let waiting = places.bringing.take(None);
        places.bringing.draining.cancel();
        assert!(matches!(waiting.await, Err(Error::Draining)));
    }
}
