//! The connections that there may be, and who makes room when there are more.
//!
//! Places are fair per *holder*: a peer's IPv4 address, or the /64 of its IPv6 address. Three rules:
//!
//! 1. **A place is held until everything that works for the connection has ended**, handlers that outlive it included.
//! 2. **Room is made by whoever holds the most.** With all places taken, the holder with the most of them closes a
//!    connection for a newcomer who holds fewer: one that is idle, else one that has no request yet (a handshake, a head, a
//!    body that nobody wants), the oldest first. Work on a request is cut only where its holder has more than its share (all
//!    places, divided by all holders), for a newcomer who has less, and never a listed proxy's. Nobody makes room for a
//!    holder of as many places or more, except that holder itself.
//! 3. **Waiting is bounded, and keeps nobody else waiting.** A newcomer for whom there is no room yet waits beside the
//!    others; a place that comes free goes to the one who holds the fewest. With too many waiting for whom nobody makes
//!    room, the holder of the most is turned away.
//!
//! A holder that left requests that are still worked on (uploads that were begun and reset, say) gets no further place, and
//! its connections no further request, while there are too many of those in all.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use crate::Config;

/// What a connection is about, in the order in which room is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// Nothing is going on since the last request.
    Idle,
    /// No request is worked on: there was none yet, its head has not come whole, or its rest is discarded.
    Unserved,
    /// A request is worked on.
    Serving,
}

/// A connection among those of its holder: what it is about, and since when, counted in events.
type Key = (Standing, u64);

/// Whom places are counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Holder(IpAddr);

impl Holder {
    fn of(address: IpAddr) -> Self {
        // An IPv4 peer of a dual-stack socket shows as ::ffff:a.b.c.d.
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            // What one network is given: whoever has an address of it has all of them.
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
                address.to_bits() & !u128::from(u64::MAX),
            )),
        })
    }
}

/// The places of one server. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    state: Mutex<State>,
    /// Requests that are worked on although their client is gone.
    detached: AtomicUsize,
    /// There are no longer too many of those.
    eased: Notify,
}

#[derive(Debug)]
struct Limits {
    places: usize,
    places_of_one: usize,
    waiting: usize,
    detached: usize,
    proxies: Vec<IpNet>,
}

#[derive(Debug, Default)]
struct State {
    /// Counts events.
    now: u64,
    holders: HashMap<Holder, Held>,
    /// Holders by their number of places.
    by_places: BTreeSet<(usize, Holder)>,
    taken: usize,
    /// Connections that may be told to leave without cutting work.
    movable: usize,
    /// Connections that were told to leave and have not left.
    leaving: usize,
    waiting: usize,
    queues: BTreeMap<Holder, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    since: u64,
    place: oneshot::Sender<Place>,
}

#[derive(Debug, Default)]
struct Held {
    is_proxy: bool,
    places: usize,
    detached: usize,
    /// Those that have not been told to leave.
    connections: BTreeMap<Key, CancellationToken>,
}

/// A newcomer's place, now or later.
#[derive(Debug)]
pub(crate) enum Arrival {
    Placed(Place),
    Waiting(oneshot::Receiver<Place>),
}

impl Arrival {
    /// Waits for the place; `None` if others needed it more.
    ///
    /// # Cancel safety
    ///
    /// Dropping it gives the place to the next.
    pub(crate) async fn place(self) -> Option<Place> {
        match self {
            Self::Placed(place) => Some(place),
            Self::Waiting(place) => place.await.ok(),
        }
    }
}

impl Places {
    pub(crate) fn new(config: &Config) -> Self {
        let places = config.max_connections;
        Self(Arc::new(Shared {
            limits: Limits {
                places,
                places_of_one: config.max_connections_per_peer.unwrap_or(usize::MAX),
                waiting: (places / 8).clamp(16, 1024),
                detached: config.max_detached_requests,
                proxies: config.proxies.clone(),
            },
            state: Mutex::default(),
            detached: AtomicUsize::new(0),
            eased: Notify::new(),
        }))
    }

    /// Asks for a place for a connection from `address`; `None` if it is turned away.
    pub(crate) fn arrive(&self, address: IpAddr) -> Option<Arrival> {
        let holder = Holder::of(address);
        let state = &mut *self.lock();
        let held = state.holders.entry(holder).or_default();
        let address = address.to_canonical();
        held.is_proxy = self
            .0
            .limits
            .proxies
            .iter()
            .any(|proxy| proxy.contains(&address));
        if self.may_enter(state, holder) {
            return Some(Arrival::Placed(self.enter(state, holder)));
        }
        if !self.may_wait(state, holder) {
            state.forget(holder);
            return None;
        }
        let (place, later) = oneshot::channel();
        let since = state.tick();
        let waiter = Waiter { since, place };
        state.queues.entry(holder).or_default().push_back(waiter);
        state.waiting += 1;
        Some(Arrival::Waiting(later))
    }

    /// Has up to `count` connections leave on which no request is worked on, because something else has run out.
    pub(crate) fn shed(&self, count: usize) {
        let state = &mut *self.lock();
        for _ in 0..count {
            let richest_first = state.by_places.iter().rev();
            let found = richest_first
                .filter(|_| state.movable > 0)
                .find_map(|(_, holder)| Some((*holder, state.movable_of(*holder)?)));
            let Some((holder, key)) = found else {
                return;
            };
            state.tell(holder, key);
        }
    }

    fn may_enter(&self, state: &State, holder: Holder) -> bool {
        let Some(held) = state.holders.get(&holder) else {
            return false;
        };
        state.taken < self.0.limits.places
            && (held.is_proxy || held.places < self.0.limits.places_of_one)
            && !self.holds_back(held)
    }

    /// Whether a holder has left requests, and all that are left are too many.
    fn holds_back(&self, held: &Held) -> bool {
        held.detached > 0 && self.0.detached.load(Ordering::Relaxed) >= self.0.limits.detached
    }

    /// Whether a newcomer may wait; if so, somebody is told to make room for it where there is none.
    fn may_wait(&self, state: &mut State, holder: Holder) -> bool {
        let limits = &self.0.limits;
        let held = &state.holders[&holder];
        if !held.is_proxy && held.places + state.queued(holder) >= limits.places_of_one {
            // It makes its own room, or there is none.
            let own = state.movable_of(holder);
            own.inspect(|key| state.tell(holder, *key));
            return own.is_some();
        }
        let is_needed = state.taken >= limits.places && state.leaving <= state.waiting;
        let room = is_needed.then(|| state.who_makes_room(holder, limits));
        if let Some((richest, key)) = room.flatten() {
            state.tell(richest, key);
        }
        // Whoever leaves is gone in a moment, so that only those count for whom nobody leaves.
        if state.waiting >= limits.waiting + state.leaving {
            let claims = |holder| state.places_of(holder) + state.queued(holder);
            let most = state
                .queues
                .keys()
                .copied()
                .max_by_key(|other| claims(*other));
            match most.filter(|other| claims(*other) > claims(holder)) {
                Some(other) => state.turn_away(other),
                None => return false,
            }
        }
        true
    }

    fn enter(&self, state: &mut State, holder: Holder) -> Place {
        let leave = CancellationToken::new();
        let key = (Standing::Unserved, state.tick());
        state.taken += 1;
        state.movable += 1;
        state.count(holder, |places| places + 1);
        let held = state.holders.entry(holder).or_default();
        held.connections.insert(key, leave.clone());
        Place {
            places: self.clone(),
            holder,
            spot: Mutex::new(Spot::At(key)),
            leave,
        }
    }

    /// Gives the places that are free to those who wait.
    fn settle(&self) {
        loop {
            let (waiter, place) = {
                let state = &mut *self.lock();
                let Some(holder) = self.next(state) else {
                    return;
                };
                let Some(waiter) = state.pop(holder, VecDeque::pop_front) else {
                    return;
                };
                (waiter, self.enter(state, holder))
            };
            // Without the lock: a place that nobody waits for any more is given back at once.
            let _ = waiter.place.send(place);
        }
    }

    /// Whose turn it is, if there is a place: whoever holds the fewest, and of those who came first.
    fn next(&self, state: &State) -> Option<Holder> {
        let waiting = state.queues.iter();
        waiting
            .filter(|(holder, _)| self.may_enter(state, **holder))
            .filter_map(|(holder, queue)| {
                Some((state.places_of(*holder), queue.front()?.since, *holder))
            })
            .min()
            .map(|(.., holder)| holder)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock half way through a change.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    fn places_of(&self, holder: Holder) -> usize {
        self.holders.get(&holder).map_or(0, |held| held.places)
    }

    fn queued(&self, holder: Holder) -> usize {
        self.queues.get(&holder).map_or(0, VecDeque::len)
    }

    fn count(&mut self, holder: Holder, change: impl FnOnce(usize) -> usize) {
        let held = self.holders.entry(holder).or_default();
        self.by_places.remove(&(held.places, holder));
        held.places = change(held.places);
        if held.places > 0 {
            self.by_places.insert((held.places, holder));
        }
    }

    /// Drops what is known of a holder that has nothing.
    fn forget(&mut self, holder: Holder) {
        let is_idle = |held: &Held| held.places == 0 && held.detached == 0;
        if self.queued(holder) == 0 && self.holders.get(&holder).is_some_and(is_idle) {
            self.holders.remove(&holder);
        }
    }

    /// The connection of a holder that leaves first, without cutting work.
    fn movable_of(&self, holder: Holder) -> Option<Key> {
        let (key, _) = self.holders.get(&holder)?.connections.first_key_value()?;
        (key.0 != Standing::Serving).then_some(*key)
    }

    /// The connection that leaves for a newcomer, by the second rule.
    fn who_makes_room(&self, newcomer: Holder, limits: &Limits) -> Option<(Holder, Key)> {
        let own = &self.holders[&newcomer];
        let own_places = if own.is_proxy { 0 } else { own.places };
        let share = (limits.places / self.holders.len().max(1)).max(1);
        for (places, holder) in self.by_places.iter().rev() {
            let is_over = *places > share;
            if self.movable == 0 && !is_over {
                return None;
            }
            if *places <= own_places && *holder != newcomer {
                continue;
            }
            if let Some(key) = self.movable_of(*holder) {
                return Some((*holder, key));
            }
            let held = &self.holders[holder];
            if is_over && own_places < share && !held.is_proxy && *holder != newcomer {
                let (key, _) = held.connections.first_key_value()?;
                return Some((*holder, *key));
            }
        }
        None
    }

    /// Tells a connection to leave.
    fn tell(&mut self, holder: Holder, key: Key) {
        let held = self.holders.get_mut(&holder);
        if let Some(leave) = held.and_then(|held| held.connections.remove(&key)) {
            leave.cancel();
            self.leaving += 1;
            self.movable -= usize::from(key.0 != Standing::Serving);
        }
    }

    /// The holder's newest waiter goes away without a place.
    fn turn_away(&mut self, holder: Holder) {
        self.pop(holder, VecDeque::pop_back);
        self.forget(holder);
    }

    fn pop(
        &mut self,
        holder: Holder,
        pop: impl FnOnce(&mut VecDeque<Waiter>) -> Option<Waiter>,
    ) -> Option<Waiter> {
        let queue = self.queues.get_mut(&holder)?;
        let waiter = pop(queue)?;
        if queue.is_empty() {
            self.queues.remove(&holder);
        }
        self.waiting -= 1;
        Some(waiter)
    }

    /// Takes a connection from those that may be told to leave.
    fn remove(&mut self, holder: Holder, key: Key) -> Option<CancellationToken> {
        let held = self.holders.get_mut(&holder)?;
        let leave = held.connections.remove(&key);
        if leave.is_some() {
            self.movable -= usize::from(key.0 != Standing::Serving);
        }
        leave
    }
}

/// The place of one connection; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    holder: Holder,
    spot: Mutex<Spot>,
    leave: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    At(Key),
    /// The connection is gone; what worked for it goes on.
    Gone,
}

impl Place {
    /// A place that nobody else wants.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        let places = Places::new(&Config::default());
        let state = &mut *places.lock();
        places.enter(state, Holder::of(Ipv6Addr::LOCALHOST.into()))
    }

    /// Tells what the connection is about from now on.
    pub(crate) fn stand(&self, standing: Standing) {
        let mut spot = self.spot();
        let Spot::At(key) = *spot else { return };
        if key.0 == standing {
            return;
        }
        let limits = &self.places.0.limits;
        let state = &mut *self.places.lock();
        // Otherwise it was told to leave.
        let Some(leave) = state.remove(self.holder, key) else {
            return;
        };
        let key = (standing, state.tick());
        let held = state.holders.entry(self.holder).or_default();
        held.connections.insert(key, leave);
        state.movable += usize::from(standing != Standing::Serving);
        *spot = Spot::At(key);
        let is_needed = state.leaving < state.waiting && state.taken >= limits.places;
        if standing != Standing::Serving && is_needed {
            let mut waiting = state.queues.keys().copied();
            let first = waiting
                .by_ref()
                .min_by_key(|holder| state.places_of(*holder));
            let room = first.and_then(|newcomer| state.who_makes_room(newcomer, limits));
            if let Some((holder, key)) = room {
                state.tell(holder, key);
            }
        }
    }

    /// Waits until the place is needed for another connection.
    pub(crate) async fn asked_to_leave(&self) {
        self.leave.cancelled().await;
    }

    /// The connection is closed. The place is held by what still works for it.
    pub(crate) fn gone(&self) {
        let mut spot = self.spot();
        if let Spot::At(key) = std::mem::replace(&mut *spot, Spot::Gone) {
            let state = &mut *self.places.lock();
            if state.remove(self.holder, key).is_none() {
                state.leaving -= 1;
            }
        }
    }

    /// Counts a request that is worked on although its client is gone.
    pub(crate) fn detach(&self) -> Detached {
        let places = self.places.clone();
        let mut state = places.lock();
        state.holders.entry(self.holder).or_default().detached += 1;
        places.0.detached.fetch_add(1, Ordering::Relaxed);
        drop(state);
        Detached {
            places,
            holder: self.holder,
        }
    }

    /// Whether the peer gets no further requests for now, because it left too many.
    pub(crate) fn is_held_back(&self) -> bool {
        let places = &self.places;
        // Without the lock in all but the worst times.
        places.0.detached.load(Ordering::Relaxed) >= places.0.limits.detached
            && places
                .lock()
                .holders
                .get(&self.holder)
                .is_some_and(|held| places.holds_back(held))
    }

    /// Waits until the peer is not held back any more.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub(crate) async fn let_go(&self) {
        loop {
            let eased = self.places.0.eased.notified();
            if !self.is_held_back() {
                return;
            }
            eased.await;
        }
    }

    fn spot(&self) -> MutexGuard<'_, Spot> {
        self.spot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gone();
        let mut state = self.places.lock();
        state.taken -= 1;
        state.count(self.holder, |places| places - 1);
        state.forget(self.holder);
        drop(state);
        self.places.settle();
    }
}

/// A request that is worked on although its client is gone; counted until dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the count"]
pub(crate) struct Detached {
    places: Places,
    holder: Holder,
}

impl Drop for Detached {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        let shared = &self.places.0;
        if let Some(held) = state.holders.get_mut(&self.holder) {
            held.detached -= 1;
        }
        state.forget(self.holder);
        let before = shared.detached.fetch_sub(1, Ordering::Relaxed);
        drop(state);
        if before == shared.limits.detached {
            shared.eased.notify_waiters();
            self.places.settle();
        }
    }
}

#[cfg(test)]
mod tests;
