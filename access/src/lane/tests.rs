//! Who is in which group, after anything that can happen: the lane's books against a model's.

mod histories;

use super::*;
use crate::config::Config;
use crate::frame_out::Form;
use crate::groups::Stay;
use crate::link::{Dialled, Link, Transport};
use crate::node::{self, Listeners};
use crate::table::{Connection, Identity, Rights};
use bytes::BytesMut;
use hawser_chassis::peers::Peers;
use hawser_chassis::secret::Secret;
use hawser_proto::code::ErrorCode;
use hawser_proto::codec;
use hawser_proto::frame::ability;
use hawser_proto::id::{AppId, DeviceId, Epoch, GroupId, NodeId, Position};
use hawser_proto::limits::{FRAME_BYTES_MAX, GROUPS_PER_CONNECTION_MAX};
use hawser_proto::params::LeftReason;
use hawser_proto::rpc::node::{GroupResult, up::What};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::oneshot;

/// A link that says nothing, and takes everything until it fails.
#[derive(Clone, Default)]
struct Mute(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    bytes: BytesMut,
    fails: Option<io::ErrorKind>,
}

impl Mute {
    /// From now on it takes nothing.
    fn fail(&self, how: io::ErrorKind) {
        self.0.lock().fails = Some(how);
    }

    /// What the device sees since it was last asked.
    fn seen(&self) -> Vec<NodeFrame> {
        let mut bytes = std::mem::take(&mut self.0.lock().bytes);
        let next = || codec::decode(&mut bytes, FRAME_BYTES_MAX).unwrap();
        std::iter::from_fn(next).map(|raw| NodeFrame::parse(raw).unwrap()).collect()
    }
}

impl Transport for Mute {
    fn poll_read(&mut self, _cx: &mut Context<'_>, _into: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }
    fn try_write(&mut self, _waker: &Waker, bytes: &[u8]) -> io::Result<usize> {
        let mut taken = self.0.lock();
        if let Some(how) = taken.fails {
            return Err(how.into());
        }
        taken.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn is_holding(&self) -> bool {
        false
    }
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn finish(&mut self) {}
    fn close(&mut self, _code: u16) {}
}

/// A lane that the test drives itself, in a node that reaches nobody.
struct Place {
    lane: Lane,
    node: Arc<Node>,
    /// What is sent to the router, on stream 1.
    words: tokio::sync::mpsc::Receiver<What>,
}

impl Place {
    async fn new() -> Self {
        let nowhere = "http://127.0.0.1:1".to_owned();
        let name = NodeId::new("node-1").unwrap();
        let peers = Peers::secret(&Secret::new("s")).unwrap();
        let mut config = Config::new(name, &nowhere, std::slice::from_ref(&nowhere), peers);
        config.lanes = 1;
        let registry = prometheus::Registry::new();
        let node = node::start(config, Listeners::default(), &registry).await.unwrap().node();
        let words = node.routers.fake_one(0);
        Self { lane: Lane::new(node.clone(), 0), node, words }
    }

    /// A session in the next free slot.
    fn session(&self) -> SlotRef {
        self.session_on(&Mute::default())
    }

    fn session_on(&self, peer: &Mute) -> SlotRef {
        let link = Link::Other(Box::new(peer.clone()));
        let remote = Ipv4Addr::LOCALHOST.into();
        let mut connection =
            Connection::new(link, Form::Stream, Dialled::Attached, remote, u64::MAX);
        connection.identity = Some(Box::new(Identity {
            app: AppId::new("demo").unwrap(),
            device: DeviceId::new("d").unwrap(),
            epoch: Epoch(1),
            first_epoch: Epoch(1),
            kicked_epoch: None,
            instance: [0; 16],
            attempt: 1,
            rights: Arc::new(Rights {
                businesses: [BusinessNo(1)].into(),
                token_businesses: Box::default(),
            }),
            client: Arc::default(),
            login_at_ms: 0,
            token_issued_at_ms: 0,
            attributes: None,
            token_expires_at_ms: u64::MAX,
        }));
        connection.abilities = ability::ALL as u8;
        connection.is_admitted = true;
        self.node.table.insert(connection).unwrap()
    }

    /// A claim on a group, agreed by a router if it is the first.
    async fn claim(&mut self, key: &GroupKey) -> u64 {
        let patience = Duration::from_secs(5);
        let node = self.node.clone();
        let mut entering = pin!(node.groups.enter(key, 0, &node.routers, patience));
        let verdict = match futures_util::poll!(&mut entering) {
            Poll::Ready(verdict) => verdict,
            Poll::Pending => {
                let report = std::iter::from_fn(|| self.words.try_recv().ok()).find_map(|word| {
                    let What::Group(report) = word else { return None };
                    (report.present && report.group == key.1.as_str()).then_some(report)
                });
                let call = report.unwrap().call;
                let (app, group) = (key.0.to_string(), key.1.to_string());
                let result =
                    GroupResult { call, app, group, status: 0, business: 1, ..Default::default() };
                self.node.groups.decided(1, &result, &self.node.routers);
                entering.await
            }
        };
        verdict.unwrap().seq
    }

    /// The router says that the group is no more.
    fn end_stay(&self, key: &GroupKey) -> Option<u64> {
        self.node.groups.drop_group(1, key, 0, &self.node.routers)
    }

    async fn join(&mut self, at: SlotRef, key: &GroupKey) -> Option<ErrorCode> {
        let seq = self.claim(key).await;
        self.join_claimed(at, key, seq)
    }

    fn join_claimed(&mut self, at: SlotRef, key: &GroupKey, seq: u64) -> Option<ErrorCode> {
        let (tell, mut told) = oneshot::channel();
        let stay = Stay { seq, business: BusinessNo(1), created_ms: 0, history: false };
        self.lane.join(at, key, stay, Position::START, Done::Business(tell));
        told.try_recv().unwrap()
    }

    fn leave(&mut self, at: SlotRef, key: &GroupKey, reason: LeftReason) -> Option<ErrorCode> {
        let (tell, mut told) = oneshot::channel();
        self.lane.leave(at, key, reason, String::new(), Done::Business(tell));
        told.try_recv().unwrap()
    }

    fn counted(&self, key: &GroupKey) -> u32 {
        self.node.groups.members(key).iter().sum()
    }

    /// Every index of the lane says the same, and the same as the model.
    fn check(&self, model: &BTreeMap<GroupKey, BTreeSet<(u32, u32)>>) {
        let lane = &self.lane;
        let mut seen: BTreeMap<GroupKey, BTreeSet<(u32, u32)>> = BTreeMap::new();
        for (index, group) in &lane.groups {
            assert_eq!(lane.by_key.get(&group.key), Some(&index));
            for (position, at) in group.members.iter().enumerate() {
                let theirs = &lane.of_slot[&at.slot];
                assert_eq!(theirs.generation, at.generation);
                assert!(theirs.groups.contains(&(index, position as u32)), "{at:?}");
                assert!(
                    seen.entry(group.key.clone()).or_default().insert((at.slot, at.generation))
                );
            }
            assert_eq!(self.counted(&group.key) as usize, group.members.len(), "{:?}", group.key);
        }
        assert_eq!(lane.by_key.len(), lane.groups.len(), "no empty group is kept");
        let places: usize = lane.of_slot.values().map(|theirs| theirs.groups.len()).sum();
        assert_eq!(places, seen.values().map(BTreeSet::len).sum::<usize>());
        assert_eq!(&seen, model);
    }
}

fn key(n: usize) -> GroupKey {
    (AppId::new("demo").unwrap(), GroupId::new(&format!("g-{n}")).unwrap())
}

#[tokio::test]
async fn the_books_are_right_whatever_happens() {
    let mut place = Place::new().await;
    let keys: Vec<GroupKey> = (0..5).map(key).collect();
    let mut model: BTreeMap<GroupKey, BTreeSet<(u32, u32)>> = BTreeMap::new();
    let mut sessions: Vec<SlotRef> = (0..6).map(|_| place.session()).collect();
    let mut kicked: BTreeSet<(u32, u32, usize)> = BTreeSet::new();
    let mut state = 7u64;
    let mut choose = |end: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % end
    };
    for _ in 0..4_000 {
        let (who, g) = (choose(sessions.len()), choose(keys.len()));
        let (at, key) = (sessions[who], &keys[g]);
        let name = (at.slot, at.generation);
        match choose(12) {
            0..6 => {
                let refused = place.join(at, key).await;
                if kicked.contains(&(name.0, name.1, g)) {
                    assert_eq!(refused, Some(ErrorCode::PermissionDenied));
                } else {
                    assert_eq!(refused, None);
                    model.entry(key.clone()).or_default().insert(name);
                }
            }
            kind @ 6..9 => {
                let reason = if kind == 8 { LeftReason::Kicked } else { LeftReason::Removed };
                let was_in = model.get_mut(key).is_some_and(|members| members.remove(&name));
                let refused = place.leave(at, key, reason);
                assert_eq!(refused, (!was_in).then_some(ErrorCode::NotMember));
                if was_in && kind == 8 {
                    kicked.insert((name.0, name.1, g));
                }
            }
            9 => {
                if let Some(seq) = place.end_stay(key) {
                    place.lane.drop_group(key, seq);
                    model.remove(key);
                }
            }
            // The connection ends; its word may be lost to a full queue, and is then found late.
            kind => {
                place.node.table.remove(at).unwrap();
                if kind == 10 {
                    place.lane.ended(at);
                    for members in model.values_mut() {
                        members.remove(&name);
                    }
                } else {
                    // Found when the slot is used again by someone who joins something.
                    let next = place.session();
                    assert_eq!(next.slot, at.slot);
                    assert_eq!(place.join(next, key).await, None);
                    for members in model.values_mut() {
                        members.remove(&name);
                    }
                    model.entry(key.clone()).or_default().insert((next.slot, next.generation));
                    place.node.table.remove(next).unwrap();
                    place.lane.ended(next);
                    for members in model.values_mut() {
                        members.remove(&(next.slot, next.generation));
                    }
                }
                sessions[who] = place.session();
            }
        }
        model.retain(|_, members| !members.is_empty());
        place.check(&model);
    }
}

#[tokio::test]
async fn a_join_of_a_connection_or_a_stay_that_is_over_gives_its_claim_back() {
    let mut place = Place::new().await;
    let key = key(0);
    let at = place.session();
    let seq = place.claim(&key).await;
    assert_eq!(place.counted(&key), 1);
    place.node.table.with(at, |connection| connection.identity = None);
    assert_eq!(place.join_claimed(at, &key, seq), Some(ErrorCode::DeviceOffline));
    assert_eq!(place.counted(&key), 0);

    let at = place.session();
    let old = place.claim(&key).await;
    let ended = place.end_stay(&key).unwrap();
    place.lane.drop_group(&key, ended);
    assert_eq!(place.join_claimed(at, &key, old), Some(ErrorCode::GroupNotFound));
    // A new stay of the same name is not touched by a join that was agreed for the old one.
    let other = place.session();
    assert_eq!(place.join(other, &key).await, None);
    assert_eq!(place.join_claimed(at, &key, old), Some(ErrorCode::GroupNotFound));
    assert_eq!(place.counted(&key), 1);
}

/// Two routers say on streams of their own that a group is gone and that it is there anew.
#[tokio::test]
async fn the_end_of_an_old_stay_that_comes_late_takes_only_its_own_members_out() {
    let mut place = Place::new().await;
    let (key, old, new) = (key(0), place.session(), place.session());
    assert_eq!(place.join(old, &key).await, None);
    let ended = place.end_stay(&key).unwrap();
    assert_eq!(place.join(new, &key).await, None);
    assert!(!place.lane.is_member(old, &key), "it never asked to be in this one");
    place.lane.drop_group(&key, ended);
    assert!(place.lane.is_member(new, &key));
    assert_eq!(place.counted(&key), 1);
}

/// A business that puts a device in between its claim and its LOGIN_OK.
#[tokio::test]
async fn nothing_is_said_of_a_group_before_the_login_is_answered() {
    let mut place = Place::new().await;
    let peer = Mute::default();
    let (at, key) = (place.session_on(&peer), key(0));
    place.node.table.with(at, |connection| connection.is_admitted = false);
    assert_eq!(place.join(at, &key).await, Some(ErrorCode::DeviceOffline));
    assert_eq!((place.counted(&key), peer.seen().len()), (0, 0));
    place.node.table.with(at, |connection| connection.is_admitted = true);
    assert_eq!(place.join(at, &key).await, None);
    assert!(matches!(peer.seen()[..], [NodeFrame::Joined(_)]));
}

#[tokio::test]
async fn joining_twice_counts_once_and_a_hundred_is_the_most() {
    let mut place = Place::new().await;
    let at = place.session();
    for n in 0..GROUPS_PER_CONNECTION_MAX {
        assert_eq!(place.join(at, &key(n)).await, None);
        assert_eq!(place.join(at, &key(n)).await, None);
        assert_eq!(place.counted(&key(n)), 1);
    }
    let one_more = key(GROUPS_PER_CONNECTION_MAX);
    assert_eq!(place.join(at, &one_more).await, Some(ErrorCode::TooManyGroups));
    assert_eq!(place.counted(&one_more), 0);
    assert_eq!(place.lane.describe(at).len(), GROUPS_PER_CONNECTION_MAX);
    place.lane.ended(at);
    assert!(place.lane.of_slot.is_empty() && place.lane.groups.is_empty());
}
