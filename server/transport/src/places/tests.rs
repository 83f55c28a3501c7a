use std::net::Ipv4Addr;

use futures::FutureExt as _;

use super::*;

const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2));

fn places(max_connections: usize) -> Places {
    Places::new(&Config {
        max_connections,
        ..Config::default()
    })
}

/// Takes a free place.
fn placed(places: &Places, address: IpAddr, activity: Activity) -> Place {
    let Some(Arrival::Placed(place)) = places.arrive(address) else {
        panic!("there is room");
    };
    place.set_activity(activity);
    place
}

fn waiting(places: &Places, address: IpAddr) -> oneshot::Receiver<Place> {
    let Some(Arrival::Waiting(place)) = places.arrive(address) else {
        panic!("there is no room");
    };
    place
}

fn is_leaving(place: &Place) -> bool {
    place.evicted().now_or_never().is_some()
}

/// Returns the indices of evicted places.
fn leaving(held: &[Place]) -> Vec<usize> {
    let all = held.iter().enumerate();
    all.filter(|(_, place)| is_leaving(place))
        .map(|(n, _)| n)
        .collect()
}

#[test]
fn an_idle_connection_leaves_first_then_one_without_a_request_the_oldest_of_each() {
    let places = places(4);
    let held = [
        placed(&places, ATTACKER, Activity::Serving),
        placed(&places, ATTACKER, Activity::Unserved),
        placed(&places, ATTACKER, Activity::Idle),
        placed(&places, ATTACKER, Activity::Idle),
    ];
    let mut order = Vec::new();
    let mut waiters = Vec::new();
    for _ in 0..4 {
        waiters.push(waiting(&places, ATTACKER));
        order.extend(
            leaving(&held)
                .into_iter()
                .filter(|n| !order.contains(n))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(order, [2, 3, 1], "work is not cut for its own client");
    assert!(waiters.iter_mut().all(|waiter| waiter.try_recv().is_err()));
    drop(held);
    assert!(waiters.iter_mut().all(|waiter| waiter.try_recv().is_ok()));
}

#[test]
fn the_client_with_the_most_places_makes_room() {
    let places = places(5);
    let idle = placed(&places, OTHER, Activity::Idle);
    let heads: Vec<_> = (0..4)
        .map(|_| placed(&places, ATTACKER, Activity::Unserved))
        .collect();
    let mut client = waiting(&places, CLIENT);
    assert!(!is_leaving(&idle));
    assert_eq!(leaving(&heads), [0]);
    drop(heads);
    assert!(client.try_recv().is_ok());
}

#[test]
fn nobody_makes_room_for_a_holder_of_as_many() {
    let places = places(4);
    let idle = [
        placed(&places, CLIENT, Activity::Idle),
        placed(&places, CLIENT, Activity::Idle),
    ];
    let busy = [
        placed(&places, ATTACKER, Activity::Serving),
        placed(&places, ATTACKER, Activity::Serving),
    ];
    let _waiting = waiting(&places, ATTACKER);
    assert_eq!((leaving(&idle), leaving(&busy)), (vec![], vec![]));
}

#[test]
fn work_is_cut_only_beyond_a_fair_share() {
    let full = places(6);
    let busy: Vec<_> = (0..6)
        .map(|_| placed(&full, ATTACKER, Activity::Serving))
        .collect();
    let mut waiters = [waiting(&full, CLIENT), waiting(&full, OTHER)];
    assert_eq!(leaving(&busy), [0, 1]);
    drop(busy);
    assert!(waiters.iter_mut().all(|waiter| waiter.try_recv().is_ok()));

    // Three clients of two places each have their share.
    let shared = places(6);
    let busy: Vec<_> = [ATTACKER, CLIENT, OTHER]
        .into_iter()
        .cycle()
        .take(6)
        .map(|client| placed(&shared, client, Activity::Serving))
        .collect();
    let _waiting = waiting(&shared, CLIENT);
    assert!(leaving(&busy).is_empty());
}

#[test]
fn a_listed_proxy_works_for_many() {
    let places = Places::new(&Config {
        max_connections: 4,
        max_connections_per_peer: Some(2),
        proxies: vec!["192.0.2.0/24".parse().unwrap()],
        ..Config::default()
    });
    let busy: Vec<_> = (0..4)
        .map(|_| placed(&places, ATTACKER, Activity::Serving))
        .collect();
    let _waiting = waiting(&places, CLIENT);
    assert!(leaving(&busy).is_empty());
    busy[3].set_activity(Activity::Idle);
    assert_eq!(
        leaving(&busy),
        [3],
        "a newcomer takes a place that becomes idle"
    );
}

#[test]
fn a_free_place_goes_to_the_client_with_the_fewest() {
    let places = places(3);
    let mut busy: Vec<_> = (0..2)
        .map(|_| placed(&places, ATTACKER, Activity::Serving))
        .collect();
    let _client = placed(&places, CLIENT, Activity::Serving);
    let mut attacker = waiting(&places, ATTACKER);
    let mut client = waiting(&places, CLIENT);
    let mut other = waiting(&places, OTHER);
    busy.pop();
    assert!(attacker.try_recv().is_err() && client.try_recv().is_err());
    let _other = other.try_recv().unwrap();
    busy.pop();
    assert!(attacker.try_recv().is_ok(), "it has none by now");
}

#[test]
fn waiting_is_bounded_and_the_greediest_is_turned_away() {
    let places = places(1);
    let _busy = placed(&places, ATTACKER, Activity::Serving);
    let mut waiters: Vec<_> = (0..16).map(|_| waiting(&places, ATTACKER)).collect();
    assert!(places.arrive(ATTACKER).is_none());
    let mut client = waiting(&places, CLIENT);
    assert_eq!(
        client.try_recv().unwrap_err(),
        oneshot::error::TryRecvError::Empty
    );
    assert_eq!(
        waiters[15].try_recv().unwrap_err(),
        oneshot::error::TryRecvError::Closed
    );
    assert_eq!(
        waiters[14].try_recv().unwrap_err(),
        oneshot::error::TryRecvError::Empty
    );
}

#[test]
fn a_limit_per_peer_is_kept_with_places_left() {
    let places = Places::new(&Config {
        max_connections: 10,
        max_connections_per_peer: Some(2),
        ..Config::default()
    });
    let held = [
        placed(&places, CLIENT, Activity::Serving),
        placed(&places, CLIENT, Activity::Idle),
    ];
    let _other = placed(&places, OTHER, Activity::Idle);
    let mut next = waiting(&places, CLIENT);
    assert_eq!(leaving(&held), [1], "its own idle connection makes room");
    assert!(places.arrive(CLIENT).is_none());
    drop(held);
    assert!(next.try_recv().is_ok());
}

#[test]
fn a_network_counts_as_one_peer() {
    let places = places(3);
    let idle: Vec<_> = ["2001:db8::1", "2001:db8::2:1", "::ffff:198.51.100.1"]
        .into_iter()
        .map(|address| placed(&places, address.parse().unwrap(), Activity::Idle))
        .collect();
    let _same = waiting(&places, CLIENT);
    assert_eq!(leaving(&idle), [0]);
}

#[test]
fn a_place_is_held_by_what_outlives_its_connection() {
    let places = places(1);
    let place = placed(&places, ATTACKER, Activity::Serving);
    place.close();
    let mut next = waiting(&places, CLIENT);
    assert!(!is_leaving(&place), "there is no connection to be closed");
    assert!(next.try_recv().is_err());
    drop(place);
    assert!(next.try_recv().is_ok());
}

#[test]
fn only_the_client_that_left_too_many_requests_is_throttled() {
    let places = Places::new(&Config {
        max_detached_requests: 2,
        ..Config::default()
    });
    let attacker = placed(&places, ATTACKER, Activity::Serving);
    let client = placed(&places, CLIENT, Activity::Serving);
    let first = attacker.detach();
    assert!(!attacker.is_throttled());
    let second = attacker.detach();
    assert!(attacker.is_throttled() && !client.is_throttled());
    let mut next = waiting(&places, ATTACKER);
    placed(&places, CLIENT, Activity::Idle);
    let mut eased = Box::pin(attacker.unthrottled());
    assert!(eased.as_mut().now_or_never().is_none());
    drop(first);
    assert!(eased.now_or_never().is_some());
    assert!(next.try_recv().is_ok());
    drop(second);
}

#[test]
fn shedding_spares_work() {
    let places = places(4);
    let held = [
        placed(&places, CLIENT, Activity::Serving),
        placed(&places, CLIENT, Activity::Idle),
        placed(&places, OTHER, Activity::Unserved),
    ];
    places.shed(10);
    assert_eq!(leaving(&held), [1, 2]);
}

/// In whatever order connections come and go, the counts hold, and no newcomer waits beside a free
/// place.
#[test]
fn random_arrivals_keep_the_counts() {
    let mut seed = 7_u64;
    let mut below = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % bound
    };
    let places = places(20);
    let mut held: Vec<Place> = Vec::new();
    let mut waiters: Vec<oneshot::Receiver<Place>> = Vec::new();
    for _ in 0..20_000 {
        let address = IpAddr::V4(Ipv4Addr::from(u32::try_from(below(6)).unwrap()));
        match below(5) {
            0 | 1 => match places.arrive(address) {
                Some(Arrival::Placed(place)) => held.push(place),
                Some(Arrival::Waiting(place)) => waiters.push(place),
                None => {}
            },
            2 if !held.is_empty() => {
                let at = usize::try_from(below(held.len() as u64)).unwrap();
                held.swap_remove(at);
            }
            3 if !held.is_empty() => {
                let at = usize::try_from(below(held.len() as u64)).unwrap();
                let standings = [Activity::Idle, Activity::Unserved, Activity::Serving];
                held[at].set_activity(standings[usize::try_from(below(3)).unwrap()]);
            }
            _ if !waiters.is_empty() => {
                let at = usize::try_from(below(waiters.len() as u64)).unwrap();
                waiters.swap_remove(at);
            }
            _ => {}
        }
        held.retain(|place| !is_leaving(place));
        waiters.retain_mut(|waiter| match waiter.try_recv() {
            Ok(place) => {
                held.push(place);
                false
            }
            Err(error) => error == oneshot::error::TryRecvError::Empty,
        });
        let state = places.lock();
        assert_eq!(state.taken, held.len());
        assert!(state.taken <= 20 && (waiters.is_empty() || state.taken == 20));
        let known: usize = state
            .clients
            .values()
            .map(|held| held.connections.len())
            .sum();
        assert_eq!(known + state.leaving, state.taken);
    }
    drop((held, waiters));
    let state = places.lock();
    assert_eq!((state.taken, state.leaving, state.evictable), (0, 0, 0));
    assert!(state.by_places.is_empty());
}
