//! Admission of connections: a bounded number of places, and the choice of the connection that is
//! closed when a newcomer needs one.
//!
//! Places are fair per *client*: a peer's IPv4 address, or the /64 of its IPv6 address. Three
//! rules:
//!
//! 1. **A place is held until everything that works for the connection has ended**, including
//!    handlers that outlive it.
//! 2. **The client with the most places gives one up.** When all places are taken, the client with
//!    the most of them loses a connection to a newcomer with fewer: one that is idle, else one that
//!    has no request yet (a handshake, a head, a body that nobody reads), the oldest first. A
//!    connection with a request is cut only if its client has more than its share (all places,
//!    divided by all clients) and the newcomer less, and never a listed proxy's. A newcomer with as
//!    many places or more takes one from itself only.
//! 3. **Waiting is bounded, and delays no other client.** A newcomer without a place waits beside
//!    the others; a free place goes to the waiting client with the fewest. When too many wait for
//!    whom no connection is being closed, the client with the most is rejected.
//!
//! A client that left requests which still run (uploads that were begun and reset, say) gets no
//! further place, and its connections no further request, while there are too many such requests in
//! all.

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

/// The activity of a connection, in the order in which connections are closed to make room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Activity {
    /// No request since the last one ended.
    Idle,
    /// No request is handled: there was none yet, its head is incomplete, or its rest is discarded.
    Unserved,
    /// A request is handled.
    Serving,
}

/// The key of a connection among those of its client: its activity, and the event in which that
/// began.
type Key = (Activity, u64);

/// The unit that places are counted for: an IPv4 address, or the /64 of an IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Client(IpAddr);

impl Client {
    fn of(address: IpAddr) -> Self {
        // An IPv4 peer of a dual-stack socket shows as ::ffff:a.b.c.d.
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            // One network has a /64, and so all the addresses in it.
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
    /// Number of requests that run on although their client is gone.
    detached: AtomicUsize,
    /// Notified when `detached` falls below its limit.
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
    /// Counter of events, as a clock.
    now: u64,
    clients: HashMap<Client, ClientState>,
    /// Clients by their number of places.
    by_places: BTreeSet<(usize, Client)>,
    taken: usize,
    /// Number of connections that can be evicted without cutting a request.
    evictable: usize,
    /// Number of connections that were evicted and have not closed.
    leaving: usize,
    waiting: usize,
    queues: BTreeMap<Client, VecDeque<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    since: u64,
    place: oneshot::Sender<Place>,
}

#[derive(Debug, Default)]
struct ClientState {
    is_proxy: bool,
    places: usize,
    detached: usize,
    /// Connections that have not been evicted.
    connections: BTreeMap<Key, CancellationToken>,
}

/// The place of a newcomer, now or later.
#[derive(Debug)]
pub(crate) enum Arrival {
    Placed(Place),
    Waiting(oneshot::Receiver<Place>),
}

impl Arrival {
    /// Waits for the place; `None` if the newcomer is rejected.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the place to the next newcomer.
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

    /// Asks for a place for a connection from `address`; `None` if it is rejected.
    pub(crate) fn arrive(&self, address: IpAddr) -> Option<Arrival> {
        let client = Client::of(address);
        let state = &mut *self.lock();
        let entry = state.clients.entry(client).or_default();
        let address = address.to_canonical();
        entry.is_proxy = self
            .0
            .limits
            .proxies
            .iter()
            .any(|proxy| proxy.contains(&address));
        if self.may_be_admitted(state, client) {
            return Some(Arrival::Placed(self.admit(state, client)));
        }
        if !self.may_wait(state, client) {
            state.forget(client);
            return None;
        }
        let (place, later) = oneshot::channel();
        let since = state.tick();
        let waiter = Waiter { since, place };
        state.queues.entry(client).or_default().push_back(waiter);
        state.waiting += 1;
        Some(Arrival::Waiting(later))
    }

    /// Evicts up to `count` connections that handle no request, because another resource is used
    /// up.
    pub(crate) fn shed(&self, count: usize) {
        let state = &mut *self.lock();
        for _ in 0..count {
            let richest_first = state.by_places.iter().rev();
            let found = richest_first
                .filter(|_| state.evictable > 0)
                .find_map(|(_, client)| Some((*client, state.evictable_of(*client)?)));
            let Some((client, key)) = found else {
                return;
            };
            state.evict(client, key);
        }
    }

    fn may_be_admitted(&self, state: &State, client: Client) -> bool {
        let Some(entry) = state.clients.get(&client) else {
            return false;
        };
        state.taken < self.0.limits.places
            && (entry.is_proxy || entry.places < self.0.limits.places_of_one)
            && !self.throttles(entry)
    }

    /// Returns true if the client has left requests, and there are too many such requests in all.
    fn throttles(&self, entry: &ClientState) -> bool {
        entry.detached > 0 && self.0.detached.load(Ordering::Relaxed) >= self.0.limits.detached
    }

    /// Returns true if a newcomer may wait, after evicting a connection if one has to make room.
    fn may_wait(&self, state: &mut State, client: Client) -> bool {
        let limits = &self.0.limits;
        let entry = &state.clients[&client];
        if !entry.is_proxy && entry.places + state.queued(client) >= limits.places_of_one {
            // The client gives up one of its own places, or there is none.
            let own = state.evictable_of(client);
            own.inspect(|key| state.evict(client, *key));
            return own.is_some();
        }
        let is_needed = state.taken >= limits.places && state.leaving <= state.waiting;
        let room = is_needed.then(|| state.find_evictable(client, limits));
        if let Some((richest, key)) = room.flatten() {
            state.evict(richest, key);
        }
        // Evicted connections close in a moment, so those who wait for them are not counted.
        if state.waiting >= limits.waiting + state.leaving {
            let claims = |client| state.places_of(client) + state.queued(client);
            let most = state
                .queues
                .keys()
                .copied()
                .max_by_key(|other| claims(*other));
            match most.filter(|other| claims(*other) > claims(client)) {
                Some(other) => state.reject_newest(other),
                None => return false,
            }
        }
        true
    }

    fn admit(&self, state: &mut State, client: Client) -> Place {
        let leave = CancellationToken::new();
        let key = (Activity::Unserved, state.tick());
        state.taken += 1;
        state.evictable += 1;
        state.count(client, |places| places + 1);
        let entry = state.clients.entry(client).or_default();
        entry.connections.insert(key, leave.clone());
        Place {
            places: self.clone(),
            client,
            spot: Mutex::new(Spot::At(key)),
            leave,
        }
    }

    /// Gives free places to newcomers that wait.
    fn admit_waiting(&self) {
        loop {
            let (waiter, place) = {
                let state = &mut *self.lock();
                let Some(client) = self.next(state) else {
                    return;
                };
                let Some(waiter) = state.pop(client, VecDeque::pop_front) else {
                    return;
                };
                (waiter, self.admit(state, client))
            };
            // Without the lock: a place that is no longer waited for is given back at once.
            let _ = waiter.place.send(place);
        }
    }

    /// Returns the client that gets the next free place, if there is one: that with the fewest
    /// places, and among equals the first.
    fn next(&self, state: &State) -> Option<Client> {
        let waiting = state.queues.iter();
        waiting
            .filter(|(client, _)| self.may_be_admitted(state, **client))
            .filter_map(|(client, queue)| {
                Some((state.places_of(*client), queue.front()?.since, *client))
            })
            .min()
            .map(|(.., client)| client)
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

    fn places_of(&self, client: Client) -> usize {
        self.clients.get(&client).map_or(0, |entry| entry.places)
    }

    fn queued(&self, client: Client) -> usize {
        self.queues.get(&client).map_or(0, VecDeque::len)
    }

    fn count(&mut self, client: Client, change: impl FnOnce(usize) -> usize) {
        let entry = self.clients.entry(client).or_default();
        self.by_places.remove(&(entry.places, client));
        entry.places = change(entry.places);
        if entry.places > 0 {
            self.by_places.insert((entry.places, client));
        }
    }

    /// Drops the state of a client that has no place, waiter or detached request.
    fn forget(&mut self, client: Client) {
        let is_idle = |entry: &ClientState| entry.places == 0 && entry.detached == 0;
        if self.queued(client) == 0 && self.clients.get(&client).is_some_and(is_idle) {
            self.clients.remove(&client);
        }
    }

    /// Returns the connection of a client that can be evicted first without cutting a request.
    fn evictable_of(&self, client: Client) -> Option<Key> {
        let (key, _) = self.clients.get(&client)?.connections.first_key_value()?;
        (key.0 != Activity::Serving).then_some(*key)
    }

    /// Returns the connection to evict for a newcomer, by the second rule.
    fn find_evictable(&self, newcomer: Client, limits: &Limits) -> Option<(Client, Key)> {
        let own = &self.clients[&newcomer];
        let own_places = if own.is_proxy { 0 } else { own.places };
        let share = (limits.places / self.clients.len().max(1)).max(1);
        for (places, client) in self.by_places.iter().rev() {
            let is_over = *places > share;
            if self.evictable == 0 && !is_over {
                return None;
            }
            if *places <= own_places && *client != newcomer {
                continue;
            }
            if let Some(key) = self.evictable_of(*client) {
                return Some((*client, key));
            }
            let entry = &self.clients[client];
            if is_over && own_places < share && !entry.is_proxy && *client != newcomer {
                let (key, _) = entry.connections.first_key_value()?;
                return Some((*client, *key));
            }
        }
        None
    }

    /// Evicts a connection: asks it to close.
    fn evict(&mut self, client: Client, key: Key) {
        let entry = self.clients.get_mut(&client);
        if let Some(leave) = entry.and_then(|entry| entry.connections.remove(&key)) {
            leave.cancel();
            self.leaving += 1;
            self.evictable -= usize::from(key.0 != Activity::Serving);
        }
    }

    /// Rejects the client's newest waiter.
    fn reject_newest(&mut self, client: Client) {
        self.pop(client, VecDeque::pop_back);
        self.forget(client);
    }

    fn pop(
        &mut self,
        client: Client,
        pop: impl FnOnce(&mut VecDeque<Waiter>) -> Option<Waiter>,
    ) -> Option<Waiter> {
        let queue = self.queues.get_mut(&client)?;
        let waiter = pop(queue)?;
        if queue.is_empty() {
            self.queues.remove(&client);
        }
        self.waiting -= 1;
        Some(waiter)
    }

    /// Removes a connection from those that can be evicted.
    fn remove(&mut self, client: Client, key: Key) -> Option<CancellationToken> {
        let entry = self.clients.get_mut(&client)?;
        let leave = entry.connections.remove(&key);
        if leave.is_some() {
            self.evictable -= usize::from(key.0 != Activity::Serving);
        }
        leave
    }
}

/// The place of one connection; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    client: Client,
    spot: Mutex<Spot>,
    leave: CancellationToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    At(Key),
    /// The connection is closed; its handlers may still run.
    Gone,
}

impl Place {
    /// Returns a place that no other connection wants.
    #[cfg(test)]
    pub(crate) fn alone() -> Self {
        let places = Places::new(&Config::default());
        let state = &mut *places.lock();
        places.admit(state, Client::of(Ipv6Addr::LOCALHOST.into()))
    }

    /// Sets the activity of the connection.
    pub(crate) fn set_activity(&self, activity: Activity) {
        let mut spot = self.spot();
        let Spot::At(key) = *spot else { return };
        if key.0 == activity {
            return;
        }
        let limits = &self.places.0.limits;
        let state = &mut *self.places.lock();
        // An evicted connection has no activity any more.
        let Some(leave) = state.remove(self.client, key) else {
            return;
        };
        let key = (activity, state.tick());
        let entry = state.clients.entry(self.client).or_default();
        entry.connections.insert(key, leave);
        state.evictable += usize::from(activity != Activity::Serving);
        *spot = Spot::At(key);
        let is_needed = state.leaving < state.waiting && state.taken >= limits.places;
        if activity != Activity::Serving && is_needed {
            let mut waiting = state.queues.keys().copied();
            let first = waiting
                .by_ref()
                .min_by_key(|client| state.places_of(*client));
            let room = first.and_then(|newcomer| state.find_evictable(newcomer, limits));
            if let Some((client, key)) = room {
                state.evict(client, key);
            }
        }
    }

    /// Waits until the connection has to make room for another.
    pub(crate) async fn evicted(&self) {
        self.leave.cancelled().await;
    }

    /// Notes that the connection is closed. Its handlers hold the place on.
    pub(crate) fn close(&self) {
        let mut spot = self.spot();
        if let Spot::At(key) = std::mem::replace(&mut *spot, Spot::Gone) {
            let state = &mut *self.places.lock();
            if state.remove(self.client, key).is_none() {
                state.leaving -= 1;
            }
        }
    }

    /// Counts a request that runs on although its client is gone.
    pub(crate) fn detach(&self) -> Detached {
        let places = self.places.clone();
        let mut state = places.lock();
        state.clients.entry(self.client).or_default().detached += 1;
        places.0.detached.fetch_add(1, Ordering::Relaxed);
        drop(state);
        Detached {
            places,
            client: self.client,
        }
    }

    /// Returns true if the client gets no further requests for now, because it left too many.
    pub(crate) fn is_throttled(&self) -> bool {
        let places = &self.places;
        // Takes the lock in the worst times only.
        places.0.detached.load(Ordering::Relaxed) >= places.0.limits.detached
            && places
                .lock()
                .clients
                .get(&self.client)
                .is_some_and(|entry| places.throttles(entry))
    }

    /// Waits until the client is not throttled.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub(crate) async fn unthrottled(&self) {
        loop {
            let eased = self.places.0.eased.notified();
            if !self.is_throttled() {
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
        self.close();
        let mut state = self.places.lock();
        state.taken -= 1;
        state.count(self.client, |places| places - 1);
        state.forget(self.client);
        drop(state);
        self.places.admit_waiting();
    }
}

/// A request that runs on although its client is gone; counted until dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the count"]
pub(crate) struct Detached {
    places: Places,
    client: Client,
}

impl Drop for Detached {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        let shared = &self.places.0;
        if let Some(entry) = state.clients.get_mut(&self.client) {
            entry.detached -= 1;
        }
        state.forget(self.client);
        let before = shared.detached.fetch_sub(1, Ordering::Relaxed);
        drop(state);
        if before == shared.limits.detached {
            shared.eased.notify_waiters();
            self.places.admit_waiting();
        }
    }
}

#[cfg(test)]
mod tests;
