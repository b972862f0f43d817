//! The store on Redis: one primary, a primary under Sentinel, or a cluster; many routers.
//!
//! Each operation is one script on the keys of one device or group (`redis/*.lua`), atomic on the primary
//! that has them. [`servers`] knows who that is, [`call`] brings a call to its end in time, [`vouch`] waits
//! for replicas and the disk. Redis away: the router runs on, calls fail in time, and come back by
//! themselves. A server that may evict keys, or cannot run the scripts, is refused at the start.
//!
//! A route that nobody released lives 30 days after it was last seen in use, and any use moves that on;
//! connected devices are swept every ten minutes, so an idle one keeps its route for as long as it stays.

mod answer;
mod append;
mod call;
mod events;
mod groups;
mod keys;
mod map;
mod nodes;
mod place;
mod refusal;
mod resolve;
mod script;
mod server;
mod servers;
mod sessions;
#[cfg(test)]
mod tests;
mod vouch;

use super::{
    Durability, GroupChange, GroupChanged, GroupMeta, GroupNews, KeyBytes, LeaseHeld, LogMark,
    Marked, NodeLease, Positions, Registered, Store, StoreError, WalkMark,
};
use crate::config::StoreConfig;
use crate::inbox::{
    Announced, Appended, Batch, Caps, Claimed, Described, Event, Fenced, Heard, InboxTail, Limits,
    Login, NewEntry, Owner, Route, Session,
};
use crate::key::Key;
use crate::metrics::RedisMetrics;
use answer::{owner_bytes, position_args};
pub use append::{AppendCall, BareScripts};
use call::Caller;
use hawser_chassis::shutdown::Tasks;
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position};
use keys::Tag;
use place::Place;
use prometheus::Registry;
pub(crate) use refusal::Refusal;
use script::{SCRIPTS, Script};
use servers::Servers;
use sessions::Known;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A server gets at least this long to connect and to say what it is: a slow one is not given up.
const PROBE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// How long the store may take to end.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// The store on Redis.
pub(crate) struct Redis {
    caller: Arc<Caller>,
    metrics: Arc<RedisMetrics>,
    known: Known,
    tasks: Tasks,
}

impl Redis {
    /// Connects. Waits for a server no longer than for a few answers; without one the store begins
    /// unreachable and goes on trying. `None`: another engine is configured.
    pub(crate) async fn open(
        config: &StoreConfig,
        call_timeout: Duration,
        registry: &Registry,
    ) -> Result<Option<Self>, Refusal> {
        let Some((place, way)) = Place::of(config, call_timeout.max(PROBE_TIMEOUT_MIN))? else {
            return Ok(None);
        };
        let metrics = Arc::new(RedisMetrics::new(registry).map_err(|_| Refusal::Metrics)?);
        let tasks = Tasks::new();
        let servers = Servers::start(place, way, metrics.clone(), &tasks).await?;
        let caller = Arc::new(Caller::new(servers, call_timeout, metrics.clone()));
        Ok(Some(Self { caller, metrics, known: Known::default(), tasks }))
    }

    /// Runs a script on a device's inboxes, with the keys of those that are named, and again with those
    /// that it then says it has to look through. `marking`: whether the device has to be marked before
    /// anything is done, if the script may ask for that.
    async fn on_inboxes(
        &self,
        script: &Script,
        device: &Key,
        now_ms: u64,
        fixed: Vec<Vec<u8>>,
        positions: &Positions,
        mut marking: Option<bool>,
    ) -> Result<Vec<redis::Value>, StoreError> {
        let tag = Tag::device(device);
        let mut named: Vec<BusinessNo> = positions.iter().map(|&(business, _)| business).collect();
        named.sort_unstable();
        named.dedup();
        if marking == Some(true) {
            self.mark(device).await?;
        }
        // The rest becomes due by the clock alone, and what was named once stays named.
        for _ in 0..4 {
            let mut keys = vec![tag.route(), tag.inboxes()];
            let mut args = vec![number(now_ms)];
            args.extend(fixed.iter().cloned());
            args.extend(marking.map(|is_marked| number(is_marked.into())));
            args.push(number(named.len() as u64));
            for &business in &named {
                keys.extend([tag.entries(business), tag.collapse(business)]);
                args.push(number(u64::from(business.0)));
            }
            keys.push(tag.heard());
            for &(business, at) in positions {
                args.push(number(u64::from(business.0)));
                args.extend(position_args(at));
            }
            let answer = self.caller.call(script, tag.slot(), &keys, &args).await?.answer;
            let redis::Value::Array(answer) = answer else { return Ok(vec![answer]) };
            if matches!(answer.as_slice(), [redis::Value::Int(4)]) {
                self.mark(device).await?;
                marking = Some(true);
                continue;
            }
            let Some(missing) = answer::missing(&answer)? else { return Ok(answer) };
            named.extend(missing);
        }
        Err(StoreError::Timeout)
    }

    async fn store(
        &self,
        tag: Tag,
        call: AppendCall,
        durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError> {
        let fence = tag.fence();
        let AppendCall { keys, args, .. } = call;
        let called = self.caller.call(&SCRIPTS.append, tag.slot(), &keys, &args).await?;
        let (appended, incarnation) = answer::appended(&called.answer, now_ms)?;
        if incarnation == 0 {
            return Ok((appended, Durability::Memory));
        }
        let reached = call::vouch(&called, incarnation, durability, fence).await;
        if durability.is_some_and(|asked| reached < asked) {
            self.metrics.not_vouched.inc();
        }
        Ok((appended, reached))
    }

    async fn read(
        &self,
        script: &Script,
        slot: u16,
        keys: &[Vec<u8>],
        args: &[Vec<u8>],
        after: Position,
    ) -> Result<Result<Batch, Fenced>, StoreError> {
        let called = self.caller.call(script, slot, keys, args).await?;
        answer::batch(called.answer, after)
    }
}

/// In which shard a device is marked.
pub(super) fn event_shard(device: &[u8]) -> u16 {
    keys::event_shard(device)
}

/// A number as scripts take it: exact, or so large that it stays out of every bound.
fn number(number: u64) -> Vec<u8> {
    number.min(1 << 53).to_string().into_bytes()
}

fn login_args(login: &Login) -> Vec<Vec<u8>> {
    vec![
        owner_bytes(&login.owner),
        login.instance.to_vec(),
        number(login.attempt >> 32),
        number(login.attempt & u64::from(u32::MAX)),
        events::watchers_bytes(&login.watchers),
    ]
}

fn session_args(session: &Session) -> Vec<Vec<u8>> {
    vec![owner_bytes(&session.owner), number(session.epoch)]
}

fn reading_args(business: BusinessNo, after: Position, limits: Limits) -> Vec<Vec<u8>> {
    let [term, seq] = position_args(after);
    let (entries, bytes) = (u64::from(limits.entries_max), u64::from(limits.bytes_max));
    vec![number(u64::from(business.0)), term, seq, number(entries), number(bytes)]
}

/// The business under which a history lies.
const HISTORY: BusinessNo = crate::inbox::shelf::GROUP;

#[tonic::async_trait]
impl Store for Redis {
    async fn claim(
        &self,
        device: &Key,
        login: Login,
        cursors: Positions,
        now_ms: u64,
    ) -> Result<Claimed, StoreError> {
        let marking = Some(!login.watchers.is_empty());
        let fixed = login_args(&login);
        let begin = self.on_inboxes(&SCRIPTS.claim, device, now_ms, fixed, &cursors, marking);
        let answer = self.with_session(device, &login.owner, begin).await?;
        let claimed = answer::claimed(&answer)?;
        if let Claimed::Bound { displaced: Some(before), .. } = &claimed {
            self.without_session(device, &before.owner).await;
        }
        Ok(claimed)
    }

    async fn announce(
        &self,
        device: &Key,
        epoch: u64,
        login: Login,
        sent: Positions,
        may_raise: bool,
        now_ms: u64,
    ) -> Result<Announced, StoreError> {
        let marking = Some(!login.watchers.is_empty());
        let mut fixed = login_args(&login);
        fixed.extend([number(epoch), number(u64::from(may_raise))]);
        let begin = self.on_inboxes(&SCRIPTS.announce, device, now_ms, fixed, &sent, marking);
        let answer = self.with_session(device, &login.owner, begin).await?;
        let announced = answer::announced(&answer)?;
        if let Announced::Bound { displaced: Some(before), .. } = &announced {
            self.without_session(device, &before.owner).await;
        }
        Ok(announced)
    }

    async fn raise(
        &self,
        device: &Key,
        claimed: Session,
        above: u64,
        is_watched: bool,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError> {
        let mut fixed = session_args(&claimed);
        fixed.push(number(above));
        let (none, marking) = (Positions::new(), Some(is_watched));
        let answer = self.on_inboxes(&SCRIPTS.raise, device, now_ms, fixed, &none, marking).await?;
        Ok(answer::tails_or_fenced(&answer)?.map(drop))
    }

    async fn release(
        &self,
        device: &Key,
        session: Session,
        sent: Positions,
        is_watched: bool,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let marking = Some(is_watched);
        let fixed = session_args(&session);
        let answer =
            self.on_inboxes(&SCRIPTS.release, device, now_ms, fixed, &sent, marking).await?;
        let what = answer::numbers(&answer)?.first().copied();
        // It may have the session under another epoch.
        if what != Some(2) {
            self.without_session(device, &session.owner).await;
        }
        Ok(what == Some(1))
    }

    async fn append(
        &self,
        device: &Key,
        business: BusinessNo,
        new: NewEntry,
        caps: Caps,
        durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError> {
        let call = AppendCall::to_device(device, business, new, caps, now_ms);
        self.store(Tag::device(device), call, durability, now_ms).await
    }

    async fn fetch(
        &self,
        device: &Key,
        session: &Session,
        business: BusinessNo,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Result<Batch, Fenced>, StoreError> {
        let tag = Tag::device(device);
        let keys = [tag.route(), tag.inboxes(), tag.entries(business)];
        let mut args = vec![number(now_ms)];
        args.extend(session_args(session));
        args.extend(reading_args(business, after, limits));
        self.read(&SCRIPTS.fetch, tag.slot(), &keys, &args, after).await
    }

    async fn ack(
        &self,
        device: &Key,
        session: &Session,
        upto: Positions,
        now_ms: u64,
    ) -> Result<Result<(), Fenced>, StoreError> {
        let mut fixed = session_args(session);
        fixed.push(number(0));
        let answer = self.on_inboxes(&SCRIPTS.ack, device, now_ms, fixed, &upto, None).await?;
        self.used_session(device, session, &answer).await;
        Ok(answer::tails_or_fenced(&answer)?.map(drop))
    }

    async fn sweep(
        &self,
        device: &Key,
        session: &Session,
        acked: Positions,
        now_ms: u64,
    ) -> Result<Result<Vec<InboxTail>, Fenced>, StoreError> {
        let mut fixed = session_args(session);
        fixed.push(number(1));
        let answer = self.on_inboxes(&SCRIPTS.ack, device, now_ms, fixed, &acked, None).await?;
        self.used_session(device, session, &answer).await;
        answer::tails_or_fenced(&answer)
    }

    async fn describe(&self, device: &Key, business: BusinessNo) -> Result<Described, StoreError> {
        let tag = Tag::device(device);
        let keys = [tag.inboxes(), tag.entries(business)];
        let args = [number(0), number(u64::from(business.0))];
        let called = self.caller.call(&SCRIPTS.describe, tag.slot(), &keys, &args).await?;
        answer::described(&called.answer)
    }

    async fn purge(&self, device: &Key, business: BusinessNo) -> Result<u64, StoreError> {
        let tag = Tag::device(device);
        let keys = [tag.inboxes(), tag.entries(business), tag.collapse(business)];
        let args = [number(0), number(u64::from(business.0))];
        let called = self.caller.call(&SCRIPTS.purge, tag.slot(), &keys, &args).await?;
        answer::number(&called.answer)
    }

    async fn publish(
        &self,
        group: &Key,
        of: &GroupMeta,
        new: NewEntry,
        caps: Caps,
        durability: Option<Durability>,
        now_ms: u64,
    ) -> Result<(Appended, Durability), StoreError> {
        let call = AppendCall::to_group(group, of, new, caps, now_ms);
        self.store(Tag::group(group), call, durability, now_ms).await
    }

    async fn history(
        &self,
        group: &Key,
        of: &GroupMeta,
        after: Position,
        limits: Limits,
        now_ms: u64,
    ) -> Result<Batch, StoreError> {
        let tag = Tag::group(group);
        let keys = [tag.inboxes(), tag.entries(HISTORY), tag.group_itself()];
        let mut args = vec![number(now_ms), answer::group_bytes(of)];
        args.extend(reading_args(HISTORY, after, limits));
        let read = self.read(&SCRIPTS.history, tag.slot(), &keys, &args, after).await?;
        read.map_err(|_| StoreError::Value)
    }

    async fn change_groups(
        &self,
        changes: Vec<GroupChange>,
    ) -> Result<Vec<GroupChanged>, StoreError> {
        groups::change(&self.caller, changes).await
    }

    async fn group(&self, group: &Key) -> Result<Option<GroupMeta>, StoreError> {
        groups::one(&self.caller, group).await
    }

    async fn group_news(&self, after: &LogMark) -> Result<GroupNews, StoreError> {
        groups::news(&self.caller, after).await
    }

    async fn route(&self, device: &Key, now_ms: u64) -> Result<Option<Route>, StoreError> {
        let (route, _) = self.look(device).await?;
        Ok(route.filter(|route| crate::inbox::rules::is_route_kept(route, now_ms)))
    }

    async fn renew_node(
        &self,
        node: &NodeId,
        boot: BootId,
        lease_ms: u64,
    ) -> Result<Result<(), LeaseHeld>, StoreError> {
        nodes::renew(&self.caller, node, boot, lease_ms).await
    }

    async fn leave_node(&self, node: &NodeId, boot: BootId) -> Result<(), StoreError> {
        nodes::leave(&self.caller, node, boot).await
    }

    async fn node_leases(&self) -> Result<Vec<NodeLease>, StoreError> {
        nodes::leases(&self.caller).await
    }

    async fn boots_with_sessions(&self) -> Result<Vec<(NodeId, BootId)>, StoreError> {
        nodes::boots(&self.caller).await
    }

    async fn sessions_of(
        &self,
        node: &NodeId,
        boot: BootId,
        max: usize,
    ) -> Result<Vec<KeyBytes>, StoreError> {
        sessions::of(&self.caller, node, boot, max).await
    }

    async fn end_lost(
        &self,
        device: &Key,
        node: &NodeId,
        boot: BootId,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let tag = Tag::device(device);
        let keys = [tag.route(), tag.inboxes(), tag.heard()];
        let end = async |is_marked: bool| {
            let (boot, node) = (nodes::boot_bytes(boot), nodes::node_bytes(node));
            let args = [number(now_ms), boot, node, number(is_marked.into())];
            let called = self.caller.call(&SCRIPTS.end_lost, tag.slot(), &keys, &args).await?;
            answer::number(&called.answer)
        };
        let seen = sessions::seen(&self.caller, device, node, boot).await?;
        let mut ended = end(false).await?;
        if ended == 4 {
            self.mark(device).await?;
            ended = end(true).await?;
        }
        if let Some(seen) = seen {
            sessions::forget(&self.caller, device, (node, boot), seen).await?;
        }
        Ok(ended == 1)
    }

    async fn walk_sessions(
        &self,
        node: &NodeId,
        boot: BootId,
        after: &WalkMark,
        max: usize,
    ) -> Result<(Vec<Registered>, Option<WalkMark>), StoreError> {
        sessions::walk(&self.caller, node, boot, after, max).await
    }

    async fn end_gone(
        &self,
        device: &Key,
        session: &Session,
        now_ms: u64,
    ) -> Result<bool, StoreError> {
        let Owner { node, boot, at } = &session.owner;
        let seen = sessions::seen(&self.caller, device, node, *boot).await?;
        let seen = seen.filter(|seen| sessions::is_of(seen, *at));
        let tag = Tag::device(device);
        let keys = [tag.route(), tag.inboxes(), tag.heard()];
        let end = async |is_marked: bool| {
            let mut args = vec![number(now_ms)];
            args.extend(session_args(session));
            args.push(number(is_marked.into()));
            let called = self.caller.call(&SCRIPTS.end_gone, tag.slot(), &keys, &args).await?;
            answer::number(&called.answer)
        };
        let mut ended = end(false).await?;
        if ended == 4 {
            self.mark(device).await?;
            ended = end(true).await?;
        }
        if let Some(seen) = seen.filter(|_| ended != 2) {
            sessions::forget(&self.caller, device, (node, *boot), seen).await?;
        }
        Ok(ended == 1)
    }

    async fn hold_duty(&self, duty: &str, holder: u64, ttl_ms: u64) -> Result<bool, StoreError> {
        nodes::hold(&self.caller, duty, holder, ttl_ms).await
    }

    async fn marked(&self, shard: u16, after: u64, max: usize) -> Result<Vec<Marked>, StoreError> {
        self.marks_after(shard, after, max).await
    }

    async fn events_due(&self, device: &Key, now_ms: u64) -> Result<Vec<Event>, StoreError> {
        self.due(device, now_ms).await
    }

    async fn event_heard(
        &self,
        device: &Key,
        business: BusinessNo,
        heard: Heard,
        _now_ms: u64,
    ) -> Result<bool, StoreError> {
        self.hear(device, business, &heard).await
    }

    async fn unmark(&self, shard: u16, seen: &Marked) -> Result<(), StoreError> {
        self.take_mark(shard, seen).await
    }

    async fn marks(&self, shard: u16) -> Result<u64, StoreError> {
        self.count_marks(shard).await
    }

    async fn groups(&self) -> Result<Vec<(KeyBytes, GroupMeta)>, StoreError> {
        groups::all(&self.caller).await
    }

    async fn groups_of(
        &self,
        app: &str,
        owner: u32,
        after: &str,
        max: usize,
    ) -> Result<Vec<String>, StoreError> {
        groups::ids(&self.caller, app, owner, after, max).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.caller.servers.changes()
    }

    async fn close(&self) {
        self.tasks.shutdown(CLOSE_PATIENCE).await;
    }
}
