//! Several routers: who is asked for a login, who is told of it, and what becomes of it when one dies,
//! is slow, or comes back.

use crate::eventually;
use crate::fakes::device::{Device, Got};
use crate::fakes::dial::Dial;
use crate::fakes::router::{Binding, INBOX, LOGINS, PUSH, Route, Router, Tier};
use crate::fakes::tokens;
use crate::house::{APP, CHAT, House, push_to};
use hawser_access::Config;
use hawser_proto::code::CloseCode;
use hawser_proto::frame::{DeviceFrame, NodeFrame};
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::node::{Leaving, down, up};
use hawser_proto::rpc::push::Outcome;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const ALL: u32 = LOGINS | PUSH | INBOX;

/// Routers over one store, named by their place, that do this.
async fn tier(functions: &[u32]) -> Vec<Arc<Router>> {
    let tier = Tier::default();
    let mut routers = Vec::new();
    for (n, &functions) in functions.iter().enumerate() {
        routers.push(Router::start_in(&tier, &format!("r-{n}"), functions).await);
    }
    routers
}

async fn house_of(functions: &[u32]) -> House {
    house_with(functions, |_| {}).await
}

async fn house_with(functions: &[u32], change: impl FnOnce(&mut Config)) -> House {
    let house = House::start_on(tier(functions).await, change).await;
    for router in &house.routers {
        told_all(router, 1).await;
    }
    house
}

async fn told_all(router: &Router, times: usize) {
    eventually("a router is told all", || (router.told_all() >= times).then_some(())).await;
}

/// The router that is asked for this device, and the others.
fn of_device<'h>(house: &'h House, name: &str) -> (&'h Arc<Router>, Vec<&'h Arc<Router>>) {
    let is_it = |router: &&Arc<Router>| router.claims().iter().any(|device| device == name);
    let (it, others): (Vec<_>, Vec<_>) = house.routers.iter().partition(is_it);
    assert_eq!(it.len(), 1, "one router is asked for {name}");
    (it[0], others)
}

/// All routers know this of the device.
async fn known(house: &House, name: &str, route: Option<&Route>) {
    for (n, router) in house.routers.iter().enumerate() {
        eventually(&format!("router {n} knows {name} as {route:?}"), || {
            (router.route(APP, name).as_ref() == route).then_some(())
        })
        .await;
    }
}

/// Sends LOGIN and does not wait.
async fn knocking(house: &House, name: &str) -> Device {
    let mut device = house.dial(Dial::Tcp).await;
    let login = device.login_frame(APP, name, tokens::token(APP, name));
    device.send(&DeviceFrame::Login(login)).await;
    device
}

/// The router where a claim is held back.
async fn holding(house: &House) -> Arc<Router> {
    eventually("a claim", || house.routers.iter().find(|router| !router.held().is_empty()).cloned())
        .await
}

fn binds(house: &House, binding: Binding) {
    house.routers.iter().for_each(|router| router.binds(binding));
}

fn unbinds(router: &Router) -> usize {
    router.words().iter().filter(|word| matches!(word, up::What::Unbind(_))).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_router_is_asked_for_a_login_and_all_know_of_it() {
    let house = house_of(&[ALL, ALL, ALL]).await;
    let mut asked = [0; 3];
    let mut devices = Vec::new();
    for n in 0..24 {
        let name = format!("d-{n}");
        let device = house.device(&name).await;
        let (it, _) = of_device(&house, &name);
        asked[house.routers.iter().position(|router| Arc::ptr_eq(router, it)).unwrap()] += 1;
        let route = it.route(APP, &name);
        known(&house, &name, route.as_ref()).await;
        devices.push(device);
    }
    assert!(asked.iter().all(|&count| count > 0), "the load is shared: {asked:?}");
    // A push through any of them finds the session.
    for router in &house.routers {
        let route = router.route(APP, "d-7").unwrap();
        let report = router.deliver(push_to(&[route], b"x")).await;
        assert_eq!(report.outcomes, [Outcome::Written as u32]);
        assert_eq!(devices[7].pushed().await, b"x");
    }
    // Again and again, the same router is asked for the same device.
    let (it, others) = of_device(&house, "d-7");
    for _ in 0..5 {
        let (_, ok) = house.login(Dial::Tcp, "d-7").await;
        assert!(ok.epoch > 0);
    }
    assert_eq!(it.claims().iter().filter(|device| *device == "d-7").count(), 6);
    assert!(others.iter().all(|router| !router.claims().contains(&"d-7".to_owned())));
    drop(devices);
    known(&house, "d-7", None).await;
    known(&house, "d-3", None).await;
    // The store hears of an end once, through the router of the device.
    let ends = || house.routers.iter().map(|router| unbinds(router)).sum::<usize>();
    eventually("each session's", || (ends() >= 24 + 5).then_some(())).await;
    let routers = house.routers.clone();
    house.ends_clean().await;
    for router in &routers {
        eventually("a goodbye", || (router.goodbyes() == 1).then_some(())).await;
    }
    let ends: usize = routers.iter().map(|router| unbinds(router)).sum();
    assert_eq!(ends, 24 + 5, "and no more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_whose_router_dies_is_made_at_another_one() {
    let house = house_of(&[ALL, ALL, ALL]).await;
    binds(&house, Binding::Hold);
    let mut device = knocking(&house, "d").await;
    let first = holding(&house).await;
    binds(&house, Binding::Grant);
    first.dies();
    let ok = device.login_ok().await;
    device.settle().await;
    house.metric_is("hawser_access_claims_again_total", &[], 1).await;
    let others = house.routers.iter().filter(|router| !Arc::ptr_eq(router, &first));
    let asked: Vec<_> = others.filter(|router| router.claims().len() == 1).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].route(APP, "d").unwrap().epoch, ok.epoch);
    drop(device);
    house.metric_is("hawser_access_sessions", &[], 0).await;
}

/// The first router has made the claim, cannot answer it, and ended it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_ended_with_its_stream_is_not_the_fault_of_the_device() {
    let house = house_of(&[ALL, ALL]).await;
    binds(&house, Binding::Hold);
    let mut device = knocking(&house, "d").await;
    let first = holding(&house).await;
    binds(&house, Binding::Refuse(Status::StaleAttempt));
    first.dies();
    assert_eq!(device.closed().await, CloseCode::RouterUnavailable, "it is to come again");
}

/// The second try may be answered before the first router, which cannot answer any more, ends the claim.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_from_a_second_try_is_told_of_once_more() {
    let house = house_of(&[ALL, ALL]).await;
    binds(&house, Binding::Hold);
    let mut device = knocking(&house, "d").await;
    let first = holding(&house).await;
    binds(&house, Binding::Grant);
    first.dies();
    let ok = device.login_ok().await;
    let other = house.routers.iter().find(|router| !Arc::ptr_eq(router, &first)).unwrap();
    let is_it = |word: &up::What| match word {
        up::What::Bind(bind) => (bind.epoch == ok.epoch).then_some(()),
        _ => None,
    };
    other.word("an announcement", is_it).await;
    device.settle().await;
}

/// The store has it, its router died before it said so, and no other could be asked in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_nobody_answered_is_asked_for_and_ended() {
    let short = |config: &mut Config| config.router_call_timeout = Duration::from_millis(200);
    let house = house_with(&[ALL, ALL], short).await;
    binds(&house, Binding::Hold);
    let mut device = knocking(&house, "d").await;
    let first = holding(&house).await;
    let claim = first.held().remove(0);
    binds(&house, Binding::Refuse(Status::Unavailable));
    first.dies();
    assert_eq!(device.closed().await, CloseCode::RouterUnavailable);
    binds(&house, Binding::Grant);
    let other = house.routers.iter().find(|router| !Arc::ptr_eq(router, &first)).unwrap();
    let asked = other.word("the question", |word| match word {
        up::What::Bind(bind) if bind.epoch != 0 => Some(bind.clone()),
        _ => None,
    });
    let asked = asked.await;
    assert_eq!((asked.slot, asked.generation), (claim.slot, claim.generation));
    assert_eq!((&asked.instance, asked.attempt), (&claim.instance, claim.attempt));
    let ended = other.word("its end", |word| match word {
        up::What::Unbind(unbind) if unbind.device == "d" => Some(unbind.clone()),
        _ => None,
    });
    let ended = ended.await;
    assert_eq!((ended.slot, ended.generation), (claim.slot, claim.generation));
    known(&house, "d", None).await;
}

/// An epoch may be raised, and the session kicked, before its node has heard of the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kick_under_a_raised_epoch_ends_the_session_and_one_under_an_older_does_not() {
    let house = house_of(&[ALL]).await;
    let (mut device, _) = house.login(Dial::Tcp, "d").await;
    let router = &house.routers[0];
    let route = router.route(APP, "d").unwrap();
    let older = Route { epoch: route.epoch - 1, ..route.clone() };
    assert!(!router.kick(&older, CloseCode::Superseded).await);
    device.settle().await;
    let raised = Route { epoch: route.epoch + 7, ..route };
    assert!(router.kick(&raised, CloseCode::Superseded).await);
    assert_eq!(device.closed().await, CloseCode::Superseded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_at_a_slow_router_is_made_at_another_and_a_late_answer_harms_nobody() {
    let short = |config: &mut Config| config.router_call_timeout = Duration::from_millis(200);
    let house = house_with(&[ALL, ALL], short).await;
    binds(&house, Binding::Hold);
    let mut device = knocking(&house, "d").await;
    let slow = holding(&house).await;
    binds(&house, Binding::Grant);
    let ok = device.login_ok().await;
    // While it does not answer, others are asked first.
    for n in 0..8 {
        house.device(&format!("e-{n}")).await;
    }
    assert_eq!(slow.claims(), ["d"]);
    // The store gives both the same answer.
    slow.answer_held(Status::Ok);
    device.settle().await;
    let route = slow.route(APP, "d").unwrap();
    assert_eq!(route.epoch, ok.epoch);
    slow.is_obeyed(house.node.boot().0).await;
    assert_eq!(unbinds(&slow), 0, "nothing is given back");
    drop(device);
    known(&house, "d", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_no_router_answers_in_time_is_refused_and_given_back() {
    let short = |config: &mut Config| config.router_call_timeout = Duration::from_millis(100);
    let house = house_with(&[ALL, ALL, ALL], short).await;
    binds(&house, Binding::Hold);
    let mut device = knocking(&house, "d").await;
    assert_eq!(device.closed().await, CloseCode::RouterUnavailable);
    let asked: Vec<_> = house.routers.iter().filter(|router| !router.held().is_empty()).collect();
    assert_eq!(asked.len(), 2, "tried once more, and not at all of them");
    for router in asked {
        router.answer_held(Status::Ok);
    }
    known(&house, "d", None).await;
    house.ends_clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_one_router_cannot_take_is_made_at_another() {
    let house = house_of(&[ALL, ALL]).await;
    for n in 0..2 {
        let (refusing, other) = (&house.routers[n], &house.routers[1 - n]);
        refusing.binds(Binding::Refuse(Status::Unavailable));
        other.binds(Binding::Grant);
        for d in 0..8 {
            house.device(&format!("d-{n}-{d}")).await.settle().await;
        }
    }
    // What is certain is not asked twice.
    binds(&house, Binding::Refuse(Status::StaleAttempt));
    let before = house.metric("hawser_access_claims_again_total", &[]);
    assert_eq!(knocking(&house, "stale").await.closed().await, CloseCode::StaleLogin);
    assert_eq!(house.metric("hawser_access_claims_again_total", &[]), before);
}

/// The least that is wanted of several routers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_dies_under_a_thousand_logins_costs_none() {
    const LOGINS: usize = 1_000;
    const AT_ONCE: usize = 50;
    let roomy = |config: &mut Config| {
        (config.connections_max, config.unauthenticated_percent_max) = (2_000, 100);
        config.accepts_per_second = 100_000;
    };
    let house = Arc::new(house_with(&[ALL, ALL, ALL], roomy).await);
    let mut coming = Vec::new();
    for lane in 0..AT_ONCE {
        let house = house.clone();
        coming.push(tokio::spawn(async move {
            let mut devices = Vec::new();
            for n in (lane..LOGINS).step_by(AT_ONCE) {
                devices.push(house.device(&format!("d-{n}")).await);
            }
            devices
        }));
    }
    eventually("a third has logged in", || {
        let sessions = house.metric("hawser_access_sessions", &[]);
        (sessions >= LOGINS as i64 / 3).then_some(())
    })
    .await;
    house.routers[1].dies();
    let mut devices = Vec::new();
    for some in coming {
        devices.extend(some.await.expect("no login failed"));
    }
    house.metric_is("hawser_access_sessions", &[], LOGINS as i64).await;
    let refused = house.metric("hawser_access_logins_total", &[("result", "router_unavailable")]);
    assert_eq!(refused, 0);
    // The dead one comes back, and knows all of them, too.
    house.routers[1].comes_back();
    told_all(&house.routers[1], 1).await;
    for router in &house.routers {
        let known = (0..LOGINS).filter(|n| router.route(APP, &format!("d-{n}")).is_some());
        assert_eq!(known.count(), LOGINS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_comes_back_is_told_all_and_the_others_hear_nothing() {
    let house = house_of(&[ALL, ALL]).await;
    let (flapping, steady) = (&house.routers[0], &house.routers[1]);
    for router in &house.routers {
        router.create_group(APP, "room", CHAT);
    }
    let mut devices = Vec::new();
    for n in 0..10 {
        let mut device = house.device(&format!("d-{n}")).await;
        device.enter("room").await;
        devices.push(device);
    }
    for n in 0..10 {
        let name = format!("d-{n}");
        known(&house, &name, of_device(&house, &name).0.route(APP, &name).as_ref()).await;
    }
    let heard = steady.words().iter().filter(|word| !matches!(word, up::What::Lease(_))).count();
    for round in 1..=3 {
        flapping.dies();
        eventually("its streams are gone", || {
            (house.metric("hawser_access_router_streams", &[]) == 1).then_some(())
        })
        .await;
        flapping.comes_back();
        told_all(flapping, 1).await;
        let words = flapping.words();
        let place = |is_it: fn(&up::What) -> bool| words.iter().rposition(is_it).unwrap();
        let all = place(|word| matches!(word, up::What::AllTold(_)));
        assert!(all > place(|word| matches!(word, up::What::Here(_))), "round {round}");
        assert!(all > place(|word| matches!(word, up::What::Group(_))), "round {round}");
        for n in 0..10 {
            let name = format!("d-{n}");
            assert_eq!(flapping.route(APP, &name), steady.route(APP, &name));
        }
        assert!(flapping.claims().is_empty(), "the store is not asked");
    }
    let now = steady.words().iter().filter(|word| !matches!(word, up::What::Lease(_))).count();
    assert_eq!(now, heard, "nothing was said to the other");
    for device in &mut devices {
        device.settle().await;
    }
}

/// Words about a session are said on several streams, some of which have just begun: none may come late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_comes_and_goes_while_streams_break_the_routers_know_who_is_there() {
    let roomy = |config: &mut Config| {
        (config.connections_max, config.unauthenticated_percent_max) = (2_000, 100);
        config.accepts_per_second = 100_000;
    };
    let house = Arc::new(house_with(&[ALL, ALL, ALL], roomy).await);
    let mut living = Vec::new();
    for lane in 0..16 {
        let house = house.clone();
        living.push(tokio::spawn(async move {
            let mut kept = Vec::new();
            for n in 0..60 {
                let name = format!("d-{lane}-{n}");
                let mut device = house.dial(Dial::Tcp).await;
                let login = device.login_frame(APP, &name, tokens::token(APP, &name));
                device.send(&DeviceFrame::Login(login)).await;
                // One that found no router in time has gone, too.
                let is_in = matches!(device.got().await, Got::Frame(NodeFrame::LoginOk(_)));
                if is_in && n % 6 == 0 {
                    kept.push((name, device));
                }
            }
            kept
        }));
    }
    // Two of them break as soon as they are there.
    let mut cuts = [0, 0];
    while !living.iter().all(tokio::task::JoinHandle::is_finished) {
        for (n, cuts) in cuts.iter_mut().enumerate() {
            if house.routers[n].hellos() > *cuts {
                *cuts += 1;
                house.routers[n].cut();
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(cuts.iter().sum::<u64>() >= 6, "{cuts:?}");
    let mut kept = BTreeMap::new();
    for lane in living {
        kept.extend(lane.await.unwrap());
    }
    house.metric_is("hawser_access_sessions", &[], kept.len() as i64).await;
    assert!(kept.len() > 150, "{} of 160", kept.len());
    let live: BTreeSet<&String> = kept.keys().collect();
    for (n, router) in house.routers.iter().enumerate() {
        eventually(&format!("router {n} knows who is there, and nobody else"), || {
            let known = router.known(APP);
            (known.iter().collect::<BTreeSet<_>>() == live).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_reaches_the_store_though_the_router_that_heard_it_dies() {
    let house = house_of(&[ALL, ALL]).await;
    let device = house.device("d").await;
    let (it, others) = of_device(&house, "d");
    let it = it.clone();
    known(&house, "d", it.route(APP, "d").as_ref()).await;
    drop(device);
    eventually("its end", || (unbinds(&it) == 1).then_some(())).await;
    // It may have died before it told the store: nobody knows.
    it.dies();
    eventually("its end again", || (unbinds(others[0]) == 1).then_some(())).await;
    house.metric_is("hawser_access_unbinds_again_total", &[], 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ends_are_kept_while_no_router_takes_them() {
    let house = house_of(&[LOGINS, PUSH | INBOX]).await;
    let (logins, pushes) = (&house.routers[0], &house.routers[1]);
    let device = house.device("d").await;
    known(&house, "d", logins.route(APP, "d").as_ref()).await;
    logins.dies();
    eventually("its streams are gone", || {
        (house.metric("hawser_access_router_streams", &[]) == 1).then_some(())
    })
    .await;
    assert!(!house.node.is_ready(), "nobody can log in");
    drop(device);
    eventually("the other hears at once", || pushes.route(APP, "d").is_none().then_some(())).await;
    logins.comes_back();
    eventually("and the one for logins later", || (unbinds(logins) == 1).then_some(())).await;
    assert_eq!(unbinds(pushes), 0);
    assert_eq!(logins.route(APP, "d"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_ready_when_it_has_met_routers_for_logins_and_for_inboxes() {
    let house = House::begin_on(tier(&[LOGINS | PUSH, INBOX]).await, |_| {}).await;
    let (logins, inboxes) = (&house.routers[0], &house.routers[1]);
    eventually("it is ready", || house.node.is_ready().then_some(())).await;
    inboxes.dies();
    eventually("its stream is gone", || {
        (house.metric("hawser_access_router_streams", &[]) == 1).then_some(())
    })
    .await;
    assert!(house.node.is_ready(), "stored pushes come late, and nothing else is wrong");
    house.device("d").await.settle().await;
    logins.dies();
    eventually("it is not", || (!house.node.is_ready()).then_some(())).await;

    let alone = House::begin_on(tier(&[LOGINS | PUSH]).await, |_| {}).await;
    told_all(&alone.router, 1).await;
    assert!(!alone.node.is_ready(), "stored pushes would never come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_says_it_ends_is_asked_for_nothing_new() {
    let house = house_of(&[ALL, ALL]).await;
    let leaving = &house.routers[0];
    leaving.tell(house.node.boot().0, down::What::Leaving(Leaving {}));
    leaving.is_obeyed(house.node.boot().0).await;
    for n in 0..12 {
        let name = format!("d-{n}");
        house.device(&name).await;
        assert!(Arc::ptr_eq(of_device(&house, &name).0, &house.routers[1]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_of_before_is_told_by_binds() {
    let routers = tier(&[ALL, ALL]).await;
    routers[1].grows_old();
    let house = House::start_on(routers, |_| {}).await;
    let (new, old) = (&house.routers[0], &house.routers[1]);
    told_all(new, 1).await;
    let mut devices = Vec::new();
    for n in 0..12 {
        let name = format!("d-{n}");
        devices.push(house.device(&name).await);
        let route = of_device(&house, &name).0.route(APP, &name);
        known(&house, &name, route.as_ref()).await;
    }
    let is_new_word = |word: &up::What| {
        matches!(word, up::What::Here(_) | up::What::Gone(_) | up::What::AllTold(_))
    };
    assert!(!old.words().iter().any(is_new_word), "it would not understand");
    drop(devices);
    for n in 0..12 {
        known(&house, &format!("d-{n}"), None).await;
    }
    assert!(!old.words().iter().any(is_new_word));
    house.ends_clean().await;
}

/// Words that find no room: the stream is begun anew, and everything told again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_does_not_read_loses_words_and_is_told_all_again() {
    let house = house_of(&[ALL, ALL]).await;
    let deaf = &house.routers[0];
    let mut device = house.device("d").await;
    known(&house, "d", of_device(&house, "d").0.route(APP, "d").as_ref()).await;
    deaf.is_deaf(true);
    // Each is answered, until the way up is full.
    let nobody = Route { device: "nobody".into(), ..house.routers[1].route(APP, "d").unwrap() };
    let orders = async {
        loop {
            let kicks = (0..4_000).map(|_| deaf.kick_of(&nobody, CloseCode::Ejected).1);
            deaf.tell_all(nobody.boot, kicks);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let restarted = eventually("a new stream", || {
        (house.metric("hawser_access_uplink_restarts_total", &[]) > 0).then_some(())
    });
    tokio::select! {
        () = restarted => {}
        () = orders => {}
    }
    deaf.is_deaf(false);
    told_all(deaf, 2).await;
    device.settle().await;
    assert_eq!(house.routers[1].told_all(), 1, "the other one is left alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routers_are_found_by_name() {
    let by_name = |config: &mut Config| {
        let port = config.routers[0].rsplit(':').next().unwrap().to_owned();
        config.routers = vec![format!("dns:http://localhost:{port}")];
    };
    let house = house_with(&[ALL], by_name).await;
    house.device("d").await.settle().await;
    house.ends_clean().await;
}
