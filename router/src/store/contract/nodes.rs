//! Leases of nodes, duties, and which sessions a boot has.

use super::desk::{CHAT, DAY_MS, Desk, bodies, login};
use crate::inbox::{Announced, Claimed, Login, Owner, Session};
use crate::key::Key;
use crate::store::{KeyBytes, LeaseHeld, Store, WalkMark};
use hawser_proto::id::{BootId, NodeId, Position, SlotRef};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Longer than a case.
const LONG_MS: u64 = 600_000;
/// An end for every wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node of this case alone.
fn node(it: &Desk<'_>, name: &str) -> NodeId {
    NodeId::new(&format!("{}-{name}", it.app())).expect("a name")
}

/// No two connections of a boot are the same one.
fn login_on(node: &NodeId, boot: u64, connection: u32, attempt: u64) -> Login {
    let at = SlotRef { slot: connection % 3, generation: connection };
    let owner = Owner { node: node.clone(), boot: BootId(boot), at };
    Login { owner, ..login(0, 1, attempt) }
}

/// Waits, but not for ever: some of what follows a call is done behind it, and leases end by the clock.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < end, "waited too long until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn leases_of(store: &dyn Store, node: &NodeId) -> Vec<(u64, u64)> {
    let mut all = store.node_leases().await.expect("a store");
    all.retain(|lease| lease.node == *node);
    all.into_iter().map(|lease| (lease.boot.0, lease.left_ms)).collect()
}

async fn registered(store: &dyn Store, node: &NodeId, boot: u64) -> Vec<KeyBytes> {
    let mut some = store.sessions_of(node, BootId(boot), 10_000).await.expect("a store");
    some.sort();
    some
}

fn keys(devices: &[&Key]) -> Vec<KeyBytes> {
    let mut keys: Vec<KeyBytes> = devices.iter().map(|key| key.as_bytes().into()).collect();
    keys.sort();
    keys
}

async fn has_sessions(store: &dyn Store, node: &NodeId, boot: u64) -> bool {
    let all = store.boots_with_sessions().await.expect("a store");
    all.contains(&(node.clone(), BootId(boot)))
}

/// What was begun behind calls before is done when this has been let go of: some devices, on all primaries.
async fn come_and_go(it: &Desk<'_>, node: &NodeId, boot: u64) {
    let devices: Vec<Key> = (0..12).map(|n| it.device(&format!("probe-{n}"))).collect();
    for device in &devices {
        let probed = it.claim(device, login_on(node, boot, u32::MAX, 1), vec![]).await;
        assert!(it.release(device, &probed.session, vec![]).await);
    }
    until("they are let go of", async || {
        let there = registered(&*it.store, node, boot).await;
        devices.iter().all(|device| !there.contains(&device.as_bytes().into()))
    })
    .await;
}

pub(super) async fn one_boot_of_a_node_holds_its_lease(it: &mut Desk<'_>) {
    let (here, there) = (node(it, "a"), node(it, "b"));
    let (store, other) = (it.store.clone(), it.other().await);
    let renew = async |store: &dyn Store, node: &NodeId, boot, lease_ms| {
        store.renew_node(node, BootId(boot), lease_ms).await.expect("a store")
    };
    assert_eq!(renew(&*store, &here, u64::MAX, LONG_MS).await, Ok(()));
    // Also told another router.
    assert_eq!(renew(&*other, &here, 2, LONG_MS).await, Err(LeaseHeld));
    // One that heard of the node earlier asks for less, and cuts nothing short; nor does one add to the other.
    assert_eq!(renew(&*other, &here, u64::MAX, 1).await, Ok(()));
    assert_eq!(renew(&*store, &here, u64::MAX, LONG_MS / 2).await, Ok(()));
    assert_eq!(renew(&*store, &here, 2, 1).await, Err(LeaseHeld));
    assert_eq!(renew(&*store, &there, 2, LONG_MS).await, Ok(()), "nodes are apart");
    for store in [&store, &other] {
        let leases = leases_of(&**store, &here).await;
        let [(u64::MAX, left_ms)] = leases[..] else { panic!("{leases:?}") };
        assert!(left_ms <= LONG_MS && left_ms > LONG_MS - 60_000, "{left_ms}");
    }
    assert_eq!(
        renew(&*other, &here, u64::MAX, 2 * LONG_MS).await,
        Ok(()),
        "and one that asks for more"
    );
    assert!(leases_of(&*store, &here).await[0].1 > LONG_MS);
}

pub(super) async fn a_lease_ends_when_it_is_not_renewed(it: &mut Desk<'_>) {
    let node = node(it, "a");
    let other = it.other().await;
    assert_eq!(it.store.renew_node(&node, BootId(1), 1).await.expect("a store"), Ok(()));
    until("the lease has ended", async || leases_of(&*it.store, &node).await.is_empty()).await;
    assert_eq!(other.renew_node(&node, BootId(2), LONG_MS).await.expect("a store"), Ok(()));
    // The first one is too late.
    let late = it.store.renew_node(&node, BootId(1), LONG_MS).await.expect("a store");
    assert_eq!(late, Err(LeaseHeld));
    assert_eq!(leases_of(&*other, &node).await[0].0, 2);
}

pub(super) async fn a_node_that_says_goodbye_has_no_lease(it: &mut Desk<'_>) {
    let node = node(it, "a");
    let device = it.device("d");
    assert_eq!(it.store.renew_node(&node, BootId(1), LONG_MS).await.expect("a store"), Ok(()));
    it.claim(&device, login_on(&node, 1, 1, 1), vec![]).await;
    it.store.leave_node(&node, BootId(2)).await.expect("a store");
    assert_eq!(leases_of(&*it.store, &node).await.len(), 1, "only its own");
    it.store.leave_node(&node, BootId(1)).await.expect("a store");
    assert_eq!(leases_of(&*it.store, &node).await, []);
    it.store.leave_node(&node, BootId(1)).await.expect("a store");
    assert_eq!(it.store.renew_node(&node, BootId(2), LONG_MS).await.expect("a store"), Ok(()));
    // Those whose ends were not told of are found.
    assert!(has_sessions(&*it.store, &node, 1).await);
    assert_eq!(registered(&*it.store, &node, 1).await, keys(&[&device]));
}

pub(super) async fn one_router_at_a_time_has_a_duty(it: &mut Desk<'_>) {
    let duty = format!("{}-a", it.app());
    let other = it.other().await;
    let hold = async |store: &dyn Store, holder, ttl_ms| {
        store.hold_duty(&duty, holder, ttl_ms).await.expect("a store")
    };
    assert!(hold(&*it.store, u64::MAX, LONG_MS).await);
    assert!(!hold(&*other, u64::MAX - 1, LONG_MS).await);
    assert!(other.hold_duty(&format!("{duty}b"), 2, LONG_MS).await.expect("a store"));
    // Kept for a moment only, it is handed over.
    assert!(hold(&*it.store, u64::MAX, 1).await);
    until("it is handed over", async || hold(&*other, 2, LONG_MS).await).await;
    assert!(!hold(&*it.store, u64::MAX, LONG_MS).await);
}

pub(super) async fn a_claim_registers_and_a_release_lets_go(it: &mut Desk<'_>) {
    let node = node(it, "a");
    let (one, two) = (it.device("one"), it.device("two"));
    let first = it.claim(&one, login_on(&node, 7, 1, 1), vec![]).await;
    let second = it.claim(&two, login_on(&node, 7, 2, 1), vec![]).await;
    assert_eq!(registered(&*it.store, &node, 7).await, keys(&[&one, &two]));
    assert_eq!(registered(&*it.store, &node, 8).await, keys(&[]), "boots are apart");
    until("the boot is known", async || has_sessions(&*it.store, &node, 7).await).await;
    assert!(it.release(&one, &first.session, vec![]).await);
    let other = it.other().await;
    until("it is let go of", async || registered(&*other, &node, 7).await == keys(&[&two])).await;
    assert!(it.release(&two, &second.session, vec![]).await);
    until("all are", async || registered(&*other, &node, 7).await.is_empty()).await;
    until("the boot is forgotten", async || {
        registered(&*other, &node, 7).await.is_empty() && !has_sessions(&*other, &node, 7).await
    })
    .await;
}

pub(super) async fn an_announcement_registers(it: &mut Desk<'_>) {
    let node = node(it, "a");
    let device = it.device("d");
    it.announce(&device, it.now_ms, login_on(&node, 7, 1, 1), vec![]).await;
    assert_eq!(registered(&*it.store, &node, 7).await, keys(&[&device]));
    // Again, above itself: as a router does whose table knows a later one. The end of the epoch before is
    // not the end of this connection.
    let now = it.announce(&device, it.now_ms + 5, login_on(&node, 7, 1, 1), vec![]).await;
    let before = Session { epoch: it.now_ms, ..now.session.clone() };
    assert!(!it.release(&device, &before, vec![]).await);
    come_and_go(it, &node, 7).await;
    assert_eq!(registered(&*it.store, &node, 7).await, keys(&[&device]));
    let superseded = it.try_announce(&device, 9, login_on(&node, 8, 2, 1), vec![]).await;
    assert!(matches!(superseded, Announced::Superseded { .. }));
    assert!(it.release(&device, &now.session, vec![]).await);
    until("it is let go of", async || registered(&*it.store, &node, 7).await.is_empty()).await;
}

pub(super) async fn a_takeover_moves_the_registration(it: &mut Desk<'_>) {
    let (here, there) = (node(it, "a"), node(it, "b"));
    let device = it.device("d");
    let first = it.claim(&device, login_on(&here, 7, 1, 1), vec![]).await;
    // On the same boot: the end of the first one, told late, is not the end of the second.
    let second = it.claim(&device, login_on(&here, 7, 2, 2), vec![]).await;
    assert_eq!(second.displaced, Some(first.session.clone()));
    assert!(!it.release(&device, &first.session, vec![]).await);
    come_and_go(it, &here, 7).await;
    assert_eq!(registered(&*it.store, &here, 7).await, keys(&[&device]));
    // By another node, without a word of the first.
    it.claim(&device, login_on(&there, 9, 1, 3), vec![]).await;
    assert_eq!(registered(&*it.store, &there, 9).await, keys(&[&device]));
    until("it has moved", async || registered(&*it.store, &here, 7).await.is_empty()).await;
}

pub(super) async fn what_is_registered_and_was_never_claimed_does_no_harm(it: &mut Desk<'_>) {
    let (here, there) = (node(it, "a"), node(it, "b"));
    let device = it.device("d");
    let now = it.claim(&device, login_on(&here, 7, 1, 5), vec![]).await;
    // Refused; and an engine may have registered it before.
    let stale = it.try_claim(&device, login_on(&there, 8, 1, 4), vec![]).await;
    assert_eq!(stale, Claimed::Stale);
    let end = async |node: &NodeId, boot| {
        it.store.end_lost(&device, node, BootId(boot), it.now_ms).await.expect("a store")
    };
    assert!(!end(&there, 8).await);
    assert_eq!(registered(&*it.store, &there, 8).await, keys(&[]));
    assert_eq!(registered(&*it.store, &here, 7).await, keys(&[&device]));
    it.ack(&device, &now.session, Position::START).await.expect("it is there still");
}

pub(super) async fn a_lost_session_is_ended_once_and_only_where_it_is(it: &mut Desk<'_>) {
    let (here, there) = (node(it, "a"), node(it, "b"));
    let device = it.device("d");
    let at = it.push(&device, "a").await;
    let now = it.claim(&device, login_on(&here, u64::MAX, 1, 1), vec![]).await;
    let end = async |node: &NodeId, boot, now_ms| {
        it.store.end_lost(&device, node, BootId(boot), now_ms).await.expect("a store")
    };
    assert!(!end(&here, u64::MAX - 1, it.now_ms).await);
    assert!(!end(&there, u64::MAX, it.now_ms).await);
    assert_eq!(it.fetch(&device, &now.session, Position::START).await.items.len(), 1);
    it.now_ms += 1;
    let other = it.other().await;
    let now_ms = it.now_ms;
    assert!(other.end_lost(&device, &here, BootId(u64::MAX), now_ms).await.expect("a store"));
    assert_eq!(registered(&*it.store, &here, u64::MAX).await, keys(&[]));
    let route = it.store.route(&device, it.now_ms).await.expect("a store").expect("it is kept");
    assert_eq!((route.owner, route.epoch, route.at_ms), (None, now.session.epoch, it.now_ms));
    let again = it.store.end_lost(&device, &here, BootId(u64::MAX), it.now_ms).await;
    assert!(!again.expect("a store"));
    assert!(!it.release(&device, &now.session, vec![]).await);
    // The attempt counts on, and what waits may have been sent.
    let old = it.try_claim(&device, login_on(&there, 1, 1, 0), vec![]).await;
    assert_eq!(old, Claimed::Stale);
    let next = it.claim(&device, login_on(&there, 1, 2, 2), vec![]).await;
    assert_eq!(next.displaced, None);
    let batch = it.fetch(&device, &next.session, Position::START).await;
    assert_eq!((bodies(&batch), batch.items[0].redelivered), (vec!["a".to_owned()], true));
    assert_eq!(batch.items[0].position, at);
}

pub(super) async fn the_sessions_of_a_boot_are_told_in_parts(it: &mut Desk<'_>) {
    let node = node(it, "a");
    let devices: Vec<Key> = (0..70).map(|n| it.device(&format!("device-{n}"))).collect();
    for (n, device) in devices.iter().enumerate() {
        it.claim(device, login_on(&node, 7, n as u32, 1), vec![]).await;
    }
    it.restart().await;
    let mut ended = HashSet::new();
    loop {
        let some = it.store.sessions_of(&node, BootId(7), 9).await.expect("a store");
        assert!(some.len() <= 9, "{}", some.len());
        if some.is_empty() {
            break;
        }
        for device in some {
            let key = devices.iter().find(|key| *key.as_bytes() == *device).expect("one of them");
            let done = it.store.end_lost(key, &node, BootId(7), it.now_ms).await.expect("a store");
            assert!(done && ended.insert(device), "once each");
        }
    }
    assert_eq!(ended.len(), devices.len());
    assert!(!has_sessions(&*it.store, &node, 7).await, "it is forgotten");
}

/// All that a walk meets, in parts of about this many, with what is done between two of them.
async fn walk(
    it: &Desk<'_>,
    (node, boot): (&NodeId, u64),
    max: usize,
    mut between: impl AsyncFnMut(usize),
) -> HashSet<(KeyBytes, SlotRef)> {
    let (mut met, mut mark) = (HashSet::new(), WalkMark::default());
    for step in 0.. {
        let walked = it.store.walk_sessions(node, BootId(boot), &mark, max).await;
        let (some, next) = walked.expect("a store");
        met.extend(some.into_iter().map(|it| (it.device, it.at)));
        let Some(next) = next else { break };
        assert!(step < 1_000, "it comes to an end");
        mark = next;
        between(step).await;
    }
    met
}

pub(super) async fn a_walk_meets_all_that_stays_registered(it: &mut Desk<'_>) {
    let (here, there) = (node(it, "a"), node(it, "b"));
    let devices: Vec<Key> = (0..900).map(|n| it.device(&format!("device-{n}"))).collect();
    let mut sessions = Vec::new();
    for (n, device) in devices.iter().enumerate() {
        sessions.push(it.claim(device, login_on(&here, 7, n as u32, 1), vec![]).await.session);
    }
    it.claim(&it.device("other"), login_on(&here, 8, 1, 1), vec![]).await;
    let named = |sessions: &[Session]| {
        let named = devices.iter().zip(sessions);
        let named = named.map(|(key, it)| (KeyBytes::from(key.as_bytes()), it.owner.at));
        named.collect::<HashSet<_>>()
    };
    let idle = async |_| {};
    assert_eq!(walk(it, (&here, 7), 10_000, idle).await, named(&sessions));
    assert_eq!(walk(it, (&here, 7), 9, idle).await, named(&sessions));
    assert_eq!(walk(it, (&there, 7), 9, idle).await, HashSet::new());
    // Some go meanwhile: the others are met all the same.
    let (gone, stay) = sessions.split_at(600);
    let met = walk(it, (&here, 7), 40, async |step| {
        for n in (30 * step)..(30 * (step + 1)).min(gone.len()) {
            assert!(it.release(&devices[n], &gone[n], vec![]).await);
        }
    })
    .await;
    let stay: HashSet<_> = stay.iter().map(|session| session.owner.at).collect();
    let met: HashSet<_> = met.into_iter().map(|(_, at)| at).collect();
    assert!(met.is_superset(&stay), "{} of {}", met.intersection(&stay).count(), stay.len());
}

pub(super) async fn a_session_that_its_node_does_not_know_is_ended_and_no_other(it: &mut Desk<'_>) {
    let (here, there) = (node(it, "a"), node(it, "b"));
    let device = it.device("d");
    let at = it.push(&device, "a").await;
    let now = it.claim(&device, login_on(&here, u64::MAX, 4, 1), vec![]).await.session;
    let end = async |session: &Session, now_ms| {
        it.store.end_gone(&device, session, now_ms).await.expect("a store")
    };
    let (mut older, mut newer) = (now.clone(), now.clone());
    (older.epoch, newer.epoch) = (now.epoch - 1, now.epoch + 1);
    for other in [&older, &newer, &Session { epoch: 0, ..now.clone() }] {
        assert!(!end(other, it.now_ms).await);
    }
    for other in [login_on(&there, u64::MAX, 4, 1), login_on(&here, 1, 4, 1)] {
        assert!(!end(&Session { owner: other.owner, ..now.clone() }, it.now_ms).await);
    }
    // The connection before it, of which something is registered still.
    let before = login_on(&here, u64::MAX, 1, 1).owner;
    assert!(!end(&Session { owner: before, ..older }, it.now_ms).await);
    come_and_go(it, &here, u64::MAX).await;
    assert_eq!(registered(&*it.store, &here, u64::MAX).await, keys(&[&device]));
    assert_eq!(it.fetch(&device, &now, Position::START).await.items.len(), 1);

    it.now_ms += 1;
    let now_ms = it.now_ms;
    assert!(it.other().await.end_gone(&device, &now, now_ms).await.expect("a store"));
    until("it is let go of", async || registered(&*it.store, &here, u64::MAX).await.is_empty())
        .await;
    let route = it.store.route(&device, it.now_ms).await.expect("a store").expect("it is kept");
    assert_eq!((route.owner, route.epoch, route.at_ms), (None, now.epoch, it.now_ms));
    assert!(!it.store.end_gone(&device, &now, it.now_ms).await.expect("a store"));
    // If it lives after all, it comes back above its end.
    let login = login_on(&here, u64::MAX, 4, 1);
    let back = it.announce(&device, now.epoch, login, vec![]).await.session;
    assert!(back.epoch > now.epoch);
    assert!(!it.store.end_gone(&device, &now, it.now_ms).await.expect("a store"));
    assert_eq!(registered(&*it.store, &here, u64::MAX).await, keys(&[&device]));
    // What waits may have been sent.
    let batch = it.fetch(&device, &back, Position::START).await;
    assert_eq!((batch.items[0].position, batch.items[0].redelivered), (at, true));
}

pub(super) async fn who_has_the_session_is_told_to_whoever_asks(it: &mut Desk<'_>) {
    let node = node(it, "a");
    let device = it.device("d");
    let other = it.other().await;
    let ask = async |now_ms| other.route(&device, now_ms).await.expect("a store");
    assert_eq!(ask(it.now_ms).await, None);
    let login = login_on(&node, 7, 1, u64::MAX);
    let now = it.claim(&device, login.clone(), vec![]).await;
    let route = ask(it.now_ms).await.expect("it was claimed");
    assert_eq!(route.owner, Some(login.owner));
    assert_eq!((route.epoch, route.at_ms), (now.session.epoch, it.now_ms));
    assert_eq!((route.instance, route.attempt), (login.instance, u64::MAX));
    assert!(ask(it.now_ms + 30 * DAY_MS - 1).await.is_some());
    assert_eq!(ask(it.now_ms + 30 * DAY_MS).await, None);
    it.store
        .append(
            &device,
            CHAT,
            super::desk::entry("a", it.now_ms),
            super::desk::WIDE,
            None,
            it.now_ms,
        )
        .await
        .expect("a store");
    assert!(it.release(&device, &now.session, vec![]).await);
    assert_eq!(ask(it.now_ms).await.expect("it is kept").owner, None);
    assert_eq!(ask(it.now_ms + DAY_MS).await, None);
}

/// Random logins, ends and takeovers: whoever has a session is registered, and in the end nobody else.
pub(super) async fn whoever_has_a_session_is_registered(it: &mut Desk<'_>) {
    let nodes = ["a", "b"].map(|name| node(it, name));
    let devices = ["one", "two", "three"].map(|id| it.device(id));
    let mut dice = super::Dice(rand::random());
    eprintln!("seed {}", dice.0);
    let mut live: Vec<Option<Session>> = vec![None; devices.len()];
    let mut past: Vec<(usize, Session)> = Vec::new();
    for step in 1..150 {
        it.now_ms += 1;
        let which = dice.below(devices.len() as u64) as usize;
        let device = &devices[which];
        match dice.below(10) {
            0..5 => {
                let node = &nodes[dice.below(2) as usize];
                let login = login_on(node, dice.below(2), step, step.into());
                let before = live[which].replace(it.claim(device, login, vec![]).await.session);
                past.extend(before.map(|session| (which, session)));
            }
            5..7 => {
                if let Some(session) = live[which].take() {
                    assert!(it.release(device, &session, vec![]).await);
                }
            }
            7 => {
                if let Some((of, session)) = past.pop() {
                    assert!(!it.release(&devices[of], &session, vec![]).await);
                }
            }
            8 => {
                if let Some(Session { owner, .. }) = live[which].take() {
                    let now_ms = it.now_ms;
                    let done = it.store.end_lost(device, &owner.node, owner.boot, now_ms).await;
                    assert!(done.expect("a store"));
                }
            }
            _ => {
                if let Some(Session { owner, epoch }) = &live[which] {
                    let login = Login { owner: owner.clone(), ..login(0, 1, step.into()) };
                    it.announce(device, *epoch, login, vec![]).await;
                }
            }
        }
        for (key, session) in devices.iter().zip(&live) {
            if let Some(Session { owner, .. }) = session {
                let there = registered(&*it.store, &owner.node, owner.boot.0).await;
                assert!(there.contains(&key.as_bytes().into()), "step {step}: {key:?}");
            }
        }
    }
    for node in &nodes {
        for boot in 0..2 {
            let has = |session: &Option<Session>| {
                let owner = session.as_ref().map(|session| &session.owner);
                owner.is_some_and(|owner| owner.node == *node && owner.boot.0 == boot)
            };
            let theirs = devices.iter().zip(&live).filter(|(_, session)| has(session));
            let theirs = keys(&theirs.map(|(key, _)| key).collect::<Vec<_>>());
            until("nobody else is", async || registered(&*it.store, node, boot).await == theirs)
                .await;
        }
    }
}
