//! Two routers on one store: a login through one, everything else through the other.

use crate::kit::business::{FakeBusiness, Mood, watch};
use crate::kit::control::CHAT;
use crate::kit::node::{FakeNode, OK, Session, WRITTEN, Wire, announcement, bind};
use crate::kit::redis::{Cluster, Member};
use crate::kit::store::Mode;
use crate::kit::{
    Client, LEASE, by, code, create_group, eventually, stored, to_group, to_one, within,
};
use hawser_proto::code::{CloseCode, ErrorCode};
use hawser_proto::rpc::node::answer::Status as Answered;
use hawser_proto::rpc::node::bind_result::Status;
use hawser_proto::rpc::node::{Bind, down, up};
use hawser_proto::rpc::push::{
    DescribeDeviceRequest, DisconnectRequest, MembershipRequest, Outcome, PresenceRequest,
    PresenceState,
};
use hawser_router::Functions;
use hawser_router::stores::{EVENT_SHARDS, Store as _};
use std::time::{Duration, Instant};
use tonic::Code;

pub async fn state(client: &Client, device: &str) -> PresenceState {
    let request = PresenceRequest { devices: vec![device.to_owned()] };
    let answer = client.clone().get_presence(by("demo-chat", request)).await.unwrap().into_inner();
    answer.devices[0].state()
}

async fn becomes(client: &Client, device: &str, wanted: PresenceState) {
    eventually(|| async move { (state(client, device).await == wanted).then_some(()) }).await;
}

async fn push(client: &Client, device: &str) -> Outcome {
    let answer = client.clone().unicast(by("demo-chat", to_one(device))).await;
    answer.unwrap().into_inner().outcome()
}

/// One node with streams to both routers.
async fn on_both(cluster: &Cluster, boot: u64) -> (FakeNode, FakeNode) {
    let first = FakeNode::connect(&cluster.first.internal(), "node-1", boot).await;
    let second = FakeNode::connect(&cluster.second.internal(), "node-1", boot).await;
    (first, second)
}

/// Sessions that a router has ended because their node died.
fn lost(member: &Member) -> u64 {
    let families = member.registry.gather();
    let name = "hawser_router_lost_sessions_total";
    let family = families.iter().find(|family| family.name() == name).unwrap();
    family.get_metric()[0].get_counter().get_value() as u64
}

#[tokio::test]
async fn a_login_through_one_router_is_there_for_the_other() {
    let Some(cluster) = Cluster::start().await else { return };
    let client = cluster.second.client().await;
    let (mut bound, mut told) = on_both(&cluster, 1).await;
    let _alive = (bound.keep_alive(), told.keep_alive());
    assert!(told.welcome.takes_here && told.welcome.functions == 7);
    let session = bound.bind("a", 1, &[CHAT]).await;
    assert_eq!(state(&client, "a").await, PresenceState::Unknown, "the store knows of it");
    told.here(&session, &[CHAT]).await;
    becomes(&client, "a", PresenceState::Online).await;
    let pushed = async { tokio::join!(push(&client, "a"), told.deliver(WRITTEN)) };
    let (outcome, delivery) = within(pushed).await;
    assert_eq!((outcome, delivery.targets[0].epoch), (Outcome::Written, session.epoch));

    let request = DisconnectRequest { device: "a".to_owned(), ..Default::default() };
    let mut caller = client.clone();
    let call = caller.disconnect(by("demo-chat", request));
    let kicked = async {
        let kick = told.kick().await;
        assert_eq!((kick.slot, kick.epoch), (session.slot, session.epoch));
        told.kick_done(&kick, true).await;
    };
    let (answer, ()) = within(async { tokio::join!(call, kicked) }).await;
    assert!(answer.unwrap().into_inner().was_online);

    for node in [&bound, &told] {
        node.all_told().await;
    }
    cluster.second.complete().await;
    bound.unbind(&session).await;
    told.gone(&session).await;
    becomes(&client, "a", PresenceState::Offline).await;
    assert_eq!(push(&client, "a").await, Outcome::Offline);
}

#[tokio::test]
async fn a_router_that_a_node_does_not_reach_says_unknown_and_never_offline() {
    let Some(cluster) = Cluster::start().await else { return };
    let (mut near, mut far) = (cluster.first.client().await, cluster.second.client().await);
    let mut node = FakeNode::connect(&cluster.first.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let session = node.bind("a", 1, &[CHAT]).await;
    node.all_told().await;
    cluster.first.complete().await;
    create_group(&mut near, "demo-chat", "room").await;
    assert_eq!(state(&near, "nobody").await, PresenceState::Offline);

    // Longer than a lease: what the other router renews holds here.
    let began = Instant::now();
    while began.elapsed() < LEASE + LEASE / 2 {
        assert_eq!(state(&far, "a").await, PresenceState::Unknown);
        assert_eq!(push(&far, "a").await, Outcome::Unknown);
        tokio::time::sleep(LEASE / 10).await;
    }
    assert_eq!(state(&far, "nobody").await, PresenceState::Offline);
    assert_eq!(push(&far, "nobody").await, Outcome::Offline);

    let request = DescribeDeviceRequest { device: "a".to_owned() };
    let told = far.describe_device(by("demo-chat", request)).await.unwrap().into_inner();
    assert_eq!(told.state(), PresenceState::Unknown);
    assert_eq!((told.node.as_str(), told.epoch), ("node-1", session.epoch));
    let request = DisconnectRequest { device: "a".to_owned(), ..Default::default() };
    assert_eq!(code(far.disconnect(by("demo-chat", request)).await), "unavailable");
    let devices = vec!["a".to_owned(), "nobody".to_owned()];
    let request =
        MembershipRequest { group: "room".to_owned(), devices, ..MembershipRequest::default() };
    let joined = far.join_group(by("demo-chat", request)).await.unwrap().into_inner();
    let statuses: Vec<u32> = joined.results.iter().map(|one| one.status).collect();
    let expected = [ErrorCode::Unavailable, ErrorCode::DeviceOffline].map(ErrorCode::number);
    assert_eq!(statuses, expected);
    let told = far.multicast(by("demo-chat", to_group("room"))).await.unwrap().into_inner();
    assert!(told.nodes.len() == 1 && told.nodes[0].unknown, "{:?}", told.nodes);
    let kept = far.unicast(by("demo-chat", stored("a", "p"))).await.unwrap().into_inner();
    assert_eq!(kept.outcome(), Outcome::Stored, "it is found by the next sweep");
    assert_eq!(node.pull(&session, CHAT, (0, 0)).await.entries.len(), 1);
    assert_eq!(state(&near, "a").await, PresenceState::Online);
}

#[tokio::test]
async fn when_a_node_dies_both_routers_say_offline_and_its_sessions_end_once() {
    let Some(cluster) = Cluster::start().await else { return };
    let clients = [cluster.first.client().await, cluster.second.client().await];
    let (mut bound, told) = on_both(&cluster, 1).await;
    let alive = (bound.keep_alive(), told.keep_alive());
    for (slot, device) in ["a", "b", "c"].into_iter().enumerate() {
        let session = bound.bind(device, slot as u32, &[CHAT]).await;
        told.here(&session, &[CHAT]).await;
    }
    bound.all_told().await;
    told.all_told().await;
    cluster.first.complete().await;
    cluster.second.complete().await;
    drop(alive);
    drop((bound, told));
    for client in &clients {
        becomes(client, "a", PresenceState::Unknown).await;
    }
    for client in &clients {
        becomes(client, "a", PresenceState::Offline).await;
        assert_eq!(state(client, "c").await, PresenceState::Offline, "all at once");
        assert_eq!(push(client, "b").await, Outcome::Offline);
    }
    let ended = async || (lost(&cluster.first) + lost(&cluster.second) == 3).then_some(());
    eventually(ended).await;
    tokio::time::sleep(LEASE).await;
    assert_eq!(lost(&cluster.first) + lost(&cluster.second), 3, "each of them once");
    // Its next boot is taken, and displaces nobody.
    let (mut next, _other) = on_both(&cluster, 2).await;
    assert_eq!(next.try_bind(bind("a", 1, 2, &[CHAT])).await.0, OK);
}

#[tokio::test]
async fn a_session_that_moved_is_kicked_by_whichever_router_reaches_its_node() {
    let Some(cluster) = Cluster::start().await else { return };
    // The older node reaches the second router alone, the newer one both.
    let mut older = FakeNode::connect(&cluster.second.internal(), "node-0", 1).await;
    let (mut bound, told) = on_both(&cluster, 1).await;
    let _alive = (older.keep_alive(), bound.keep_alive(), told.keep_alive());
    let before = older.bind("a", 1, &[CHAT]).await;
    let (status, after) = bound.try_bind(bind("a", 5, 2, &[CHAT])).await;
    assert_eq!(status, OK);
    assert!(after.epoch > before.epoch);
    told.here(&after, &[CHAT]).await;
    let kick = older.kick().await;
    assert_eq!((kick.slot, kick.epoch), (before.slot, before.epoch));
    assert_eq!(kick.code, u32::from(CloseCode::Superseded.number()));
    // Word of the older one that comes late changes nothing.
    older.here(&before, &[CHAT]).await;
    older.gone(&before).await;
    let client = cluster.second.client().await;
    becomes(&client, "a", PresenceState::Online).await;
    let request = DescribeDeviceRequest { device: "a".to_owned() };
    let mut caller = client.clone();
    let asked =
        within(caller.describe_device(by("demo-chat", request))).await.unwrap().into_inner();
    assert_eq!(asked.epoch, after.epoch);
}

#[tokio::test]
async fn a_login_whose_answer_is_late_does_not_take_the_session_from_a_later_one() {
    let slow = |member, config: &mut hawser_router::Config| {
        if member == 1 {
            config.store_call_timeout = crate::kit::PATIENCE;
        }
    };
    let Some(cluster) = Cluster::with(slow).await else { return };
    let mut early = FakeNode::connect(&cluster.first.internal(), "node-0", 1).await;
    let (told, mut bound) = on_both(&cluster, 1).await;
    let _alive = (early.keep_alive(), told.keep_alive(), bound.keep_alive());
    cluster.first.store.set(Mode::IsLate);
    early.send(up::What::Bind(Bind { call: 77, ..bind("a", 1, 1, &[CHAT]) })).await;
    // The store has it, and its answer is on the way.
    let client = cluster.second.client().await;
    becomes(&client, "a", PresenceState::Unknown).await;
    let (status, later) = bound.try_bind(bind("a", 5, 2, &[CHAT])).await;
    assert_eq!(status, OK);
    told.here(&later, &[CHAT]).await;
    becomes(&cluster.first.client().await, "a", PresenceState::Online).await;
    cluster.first.store.set(Mode::Answers);
    let Some(down::What::BindResult(result)) = early.word().await else { panic!("an answer") };
    assert_eq!((result.call, result.status()), (77, Status::Superseded));
    let (status, now) = bound.try_bind(announcement(&later, &[CHAT])).await;
    assert_eq!((status, now.epoch), (OK, later.epoch), "the session is the later one's still");
}

#[tokio::test]
async fn a_router_that_ends_gives_back_the_duty_of_lost_sessions() {
    let without_inboxes = |member, config: &mut hawser_router::Config| {
        if member == 2 {
            config.functions = Functions::PUSH;
        }
        // The duty is held for three of them.
        config.node_lease = 20 * LEASE;
        config.store_call_timeout = crate::kit::PATIENCE;
    };
    let Some(cluster) = Cluster::with(without_inboxes).await else { return };
    let store = &cluster.second.store;
    let take = async || store.hold_duty("lost-sessions", 77, 1).await.expect("a store");
    eventually(async || (!take().await).then_some(())).await;
    assert!(cluster.first.router.shutdown(crate::kit::PATIENCE).await);
    eventually(async || take().await.then_some(())).await;
}

#[tokio::test]
async fn a_router_that_ends_gives_back_its_shards_when_its_calls_have_ended() {
    let without_inboxes = |member, config: &mut hawser_router::Config| {
        if member == 2 {
            config.functions = Functions::PUSH;
        }
        config.store_call_timeout = crate::kit::PATIENCE;
    };
    let Some(cluster) = Cluster::with(without_inboxes).await else { return };
    let chat = FakeBusiness::start("chat").await;
    watch(&cluster.control, &[&cluster.first.router], &[("chat", &chat)]).await;
    let mut node = FakeNode::connect(&cluster.first.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    let store = &cluster.second.store;
    let take =
        async |shard| store.hold_duty(&format!("events:{shard}"), 77, 1).await.expect("a store");
    for shard in 0..EVENT_SHARDS {
        eventually(async || (!take(shard).await).then_some(())).await;
    }
    // It notes what it is told, and does not answer.
    chat.set(Mood::Mute);
    node.bind("a", 1, &[CHAT]).await;
    eventually(async || (chat.events().len() == 1).then_some(())).await;
    assert!(cluster.first.router.shutdown(crate::kit::PATIENCE).await);
    let ended = Instant::now();
    for shard in 0..EVENT_SHARDS {
        eventually(async || take(shard).await.then_some(())).await;
    }
    assert!(ended.elapsed() < Duration::from_secs(2), "{:?}", ended.elapsed());
}

#[tokio::test]
async fn another_boot_is_refused_by_every_router_until_the_lease_or_the_node_ends() {
    let Some(cluster) = Cluster::start().await else { return };
    let node = FakeNode::connect(&cluster.first.internal(), "node-1", 1).await;
    let second = cluster.second.internal();
    let refused = FakeNode::try_connect(&second, "node-1", 2).await;
    assert_eq!(refused.err().map(|status| status.code()), Some(Code::AlreadyExists));
    node.goodbye().await;
    eventually(|| async { FakeNode::try_connect(&second, "node-1", 2).await.ok() }).await;
}

#[tokio::test]
async fn an_older_node_tells_one_router_and_the_other_says_unknown() {
    let Some(cluster) = Cluster::start().await else { return };
    let client = cluster.second.client().await;
    let mut bound = FakeNode::connect_older(&cluster.first.internal(), "node-1", 1).await;
    let mut other = FakeNode::connect_older(&cluster.second.internal(), "node-1", 1).await;
    let _alive = (bound.keep_alive(), other.keep_alive());
    let session: Session = bound.bind("a", 1, &[CHAT]).await;
    let began = Instant::now();
    while began.elapsed() < 3 * LEASE {
        assert_eq!(state(&client, "a").await, PresenceState::Unknown);
        tokio::time::sleep(LEASE / 5).await;
    }
    assert_eq!(state(&client, "nobody").await, PresenceState::Offline);
    // Nor does the other one count what it was never told of.
    let (mut near, mut far) = (cluster.first.client().await, client.clone());
    create_group(&mut near, "demo-chat", "room").await;
    eventually(|| async {
        let mut far = far.clone();
        far.multicast(by("demo-chat", to_group("room"))).await.ok()
    })
    .await;
    let told = far.multicast(by("demo-chat", to_group("room"))).await.unwrap().into_inner();
    let nodes: Vec<_> = told.nodes.iter().map(|it| (it.node.as_str(), it.unknown)).collect();
    assert_eq!(nodes, [("node-1", true)]);
    let told = near.multicast(by("demo-chat", to_group("room"))).await.unwrap().into_inner();
    assert!(told.nodes.is_empty(), "it has no members, and said so here");
    // Its router goes, and it announces its sessions to the other.
    let Cluster { first, .. } = cluster;
    assert!(first.router.shutdown(crate::kit::PATIENCE).await);
    assert_eq!(other.try_bind(announcement(&session, &[CHAT])).await.0, OK);
    assert_eq!(state(&client, "a").await, PresenceState::Online);
}

#[tokio::test]
async fn a_router_that_ends_says_so_and_the_other_goes_on() {
    let Some(cluster) = Cluster::start().await else { return };
    let (mut leaving, mut staying) = on_both(&cluster, 1).await;
    let _alive = (leaving.keep_alive(), staying.keep_alive());
    let kept = leaving.bind("kept", 1, &[CHAT]).await;
    let ended = leaving.bind("ended", 2, &[CHAT]).await;
    for session in [&kept, &ended] {
        staying.here(session, &[CHAT]).await;
    }
    staying.all_told().await;
    let Cluster { first, second, control, redis: _redis } = cluster;
    let client = second.client().await;
    let shutdown = first.router.shutdown(crate::kit::PATIENCE);
    let node = async {
        loop {
            match leaving.word().await {
                Some(down::What::Leaving(_)) => break,
                Some(_) => {}
                None => panic!("the stream ended without a word"),
            }
        }
        // Said before the node knew: still heard.
        leaving.unbind(&ended).await;
        staying.gone(&ended).await;
        while leaving.word().await.is_some() {}
    };
    let (is_calm, ()) = within(async { tokio::join!(shutdown, node) }).await;
    assert!(is_calm);
    assert_eq!(staying.try_bind(bind("new", 3, 1, &[CHAT])).await.0, OK);
    let pushed = async { tokio::join!(push(&client, "kept"), staying.deliver(WRITTEN)) };
    assert_eq!(within(pushed).await.0, Outcome::Written);
    becomes(&client, "ended", PresenceState::Offline).await;
    let reports = control.routers();
    assert!(reports.iter().any(|report| report.draining), "{reports:?}");
}

#[tokio::test]
async fn a_router_that_joins_asks_the_store_until_all_nodes_have_told_it() {
    let Some(cluster) = Cluster::start().await else { return };
    let (mut bound, told) = on_both(&cluster, 1).await;
    let _alive = (bound.keep_alive(), told.keep_alive());
    let session = bound.bind("a", 1, &[CHAT]).await;
    let third = cluster.another().await;
    let client = third.client().await;
    assert_eq!(state(&client, "a").await, PresenceState::Unknown);
    let node = FakeNode::connect(&third.internal(), "node-1", 1).await;
    let _alive = node.keep_alive();
    node.here(&session, &[CHAT]).await;
    becomes(&client, "a", PresenceState::Online).await;
    assert_eq!(state(&client, "nobody").await, PresenceState::Offline);
    node.all_told().await;
    third.complete().await;
    assert_eq!(state(&client, "a").await, PresenceState::Online);
    assert_eq!(state(&client, "nobody").await, PresenceState::Offline);
}

#[tokio::test]
async fn while_the_store_is_away_nobody_is_said_to_be_offline() {
    let Some(cluster) = Cluster::start().await else { return };
    let client = cluster.second.client().await;
    let wire = Wire::to(cluster.second.router.internal_addr()).await;
    let mut bound = FakeNode::connect(&cluster.first.internal(), "node-1", 1).await;
    let told = FakeNode::connect(&wire.uri(), "node-1", 1).await;
    let _alive = (bound.keep_alive(), told.keep_alive());
    let session = bound.bind("told", 1, &[CHAT]).await;
    told.here(&session, &[CHAT]).await;
    told.all_told().await;
    cluster.second.complete().await;
    wire.cut();
    becomes(&client, "told", PresenceState::Unknown).await;
    bound.bind("untold", 2, &[CHAT]).await;
    cluster.second.store.set(Mode::Fails);
    let began = Instant::now();
    while began.elapsed() < 2 * LEASE {
        for device in ["told", "untold"] {
            assert_eq!(state(&client, device).await, PresenceState::Unknown, "{device}");
            assert_eq!(push(&client, device).await, Outcome::Unknown, "{device}");
        }
        tokio::time::sleep(LEASE / 10).await;
    }
    cluster.second.store.set(Mode::Answers);
    tokio::time::sleep(LEASE / 2).await;
    assert_eq!(state(&client, "untold").await, PresenceState::Unknown);
    assert_eq!(lost(&cluster.first) + lost(&cluster.second), 0);
}

#[tokio::test]
async fn a_lease_that_one_router_gave_back_by_mistake_ends_no_session() {
    let Some(cluster) = Cluster::start().await else { return };
    // An older node begins its stream to one router anew; it looks as if it ended for good.
    let mut first = FakeNode::connect_older(&cluster.first.internal(), "node-1", 1).await;
    let mut second = FakeNode::connect_older(&cluster.second.internal(), "node-1", 1).await;
    let _alive = second.keep_alive();
    let session = second.bind("a", 1, &[CHAT]).await;
    // Past the time in which nobody is judged.
    tokio::time::sleep(LEASE + LEASE / 2).await;
    for _ in 0..4 {
        drop(first);
        tokio::time::sleep(LEASE / 3).await;
        first = FakeNode::connect_older(&cluster.first.internal(), "node-1", 1).await;
        first.renew().await;
    }
    assert_eq!(lost(&cluster.first) + lost(&cluster.second), 0);
    assert_eq!(second.pull(&session, CHAT, (0, 0)).await.status(), Answered::Ok);
}
