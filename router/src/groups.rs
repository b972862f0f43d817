//! Group → business and access nodes.
//!
//! Who owns a group is durable: decided and written by [`crate::group_writer`], which also brings what other
//! routers changed. Which nodes have members is what the nodes reported, to every router, in memory only;
//! after a restart they report again. No stream is touched here: what nodes are to be told goes out through
//! closures, in the order in which it was decided.

pub mod outlet;

use crate::key::{self, Key};
use crate::nodes::{Life, Nodes};
use crate::push::history::Outgoing;
use crate::store::{GroupChange, GroupMeta, HistoryCaps, KeyBytes};
use crate::table::LifeNo;
use foldhash::fast::RandomState;
use hawser_proto::id::{AppId, BusinessNo};
use outlet::Outlet;
use parking_lot::{Mutex, RwLock};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

/// One group.
#[derive(Debug)]
pub(crate) struct Group {
    /// The business that created it; nobody else pushes to it.
    pub(crate) owner: BusinessNo,
    /// Milliseconds since 1970.
    pub(crate) created_ms: u64,
    /// It keeps a history, within these bounds.
    pub(crate) history: Option<HistoryCaps>,
    /// Pushes of a history group on their way out.
    pub(crate) outlet: Mutex<Outlet<Outgoing>>,
    spread: Mutex<Spread>,
}

#[derive(Debug, Default)]
struct Spread {
    deleted: bool,
    nodes: Vec<Presence>,
    rate: Rate,
}

/// The last word of one node life on this group. One that has no members any more stays, so that a
/// report that was overtaken is still recognised.
#[derive(Debug)]
struct Presence {
    life: LifeNo,
    seq: u64,
    present: bool,
}

/// What became of a node's report.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reported<'a> {
    /// Taken, for this group.
    Taken(&'a Arc<Group>),
    /// A later one was here before.
    Stale,
    /// There is no such group.
    NoGroup,
}

/// A change that somebody wants.
#[derive(Clone, Debug)]
pub(crate) enum Wanted {
    /// A new group. `gone`: the number of a business that is no more; its group may be replaced.
    Create {
        key: Key,
        owner: BusinessNo,
        history: Option<HistoryCaps>,
        now_ms: u64,
        gone: Option<BusinessNo>,
    },
    /// No group any more.
    Delete { key: Key, owner: BusinessNo },
    /// The store is to have this group as it is known here, if it is.
    Keep { key: Key },
}

impl Wanted {
    /// The group that it is about.
    pub(crate) fn key(&self) -> &Key {
        match self {
            Self::Create { key, .. } | Self::Delete { key, .. } | Self::Keep { key } => key,
        }
    }

    /// The name is taken after all, by a group of this business, which is no more.
    pub(crate) fn found(&mut self, of: Option<BusinessNo>) {
        if let Self::Create { gone, .. } = self {
            *gone = of;
        }
    }
}

/// What a change made.
#[derive(Clone, Debug)]
pub(crate) enum Changed {
    /// The new group.
    Created(Arc<Group>),
    /// It is gone.
    Deleted,
    /// Nothing, here.
    Kept,
}

/// Why a change was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// The name is taken.
    #[error("the group exists")]
    Exists,
    /// There is no such group.
    #[error("there is no such group")]
    NoGroup,
    /// It belongs to another business.
    #[error("the group belongs to another business")]
    NotOwner,
    /// The business has as many as it may have.
    #[error("the business has too many groups")]
    Quota,
}

/// A read of the store that is under way.
#[derive(Debug)]
pub(crate) struct Reading {
    key: Key,
    /// How often the group had been changed when it began.
    changes: u64,
}

/// Told which nodes had reported members of a group that is no more, and when it was created.
pub(crate) type Dropped = Box<dyn Fn(&Key, u64, &[LifeNo]) + Send + Sync>;

/// Names of groups that there are not, as the store said just now: remembered this long, or until a group of
/// that name is heard of.
const MISSING_FOR_MS: u64 = 1_000;
/// As many of them; what finds no room is asked for again.
const MISSING_MAX: usize = 16_384;

/// All groups.
pub(crate) struct Groups {
    all: RwLock<All>,
    /// Groups that the store is being asked for: how many times just now, and how often each was changed here
    /// since the first of those.
    reading: Mutex<HashMap<KeyBytes, (usize, u64), RandomState>>,
    missing: Mutex<HashMap<KeyBytes, u64, RandomState>>,
    /// Groups that one business may have.
    owned_max: usize,
}

#[derive(Default)]
struct All {
    groups: HashMap<KeyBytes, Arc<Group>, RandomState>,
    /// How many groups each business has that has any, by the name of its app.
    owned: HashMap<Business, usize, RandomState>,
}

type Business = (Box<str>, BusinessNo);

impl All {
    fn insert(&mut self, key: &[u8], group: Arc<Group>) -> Option<Arc<Group>> {
        let replaced = self.remove(key);
        *self.owned.entry(owner_of(key, group.owner)).or_default() += 1;
        self.groups.insert(key.into(), group);
        replaced
    }

    fn remove(&mut self, key: &[u8]) -> Option<Arc<Group>> {
        let group = self.groups.remove(key)?;
        if let Entry::Occupied(mut count) = self.owned.entry(owner_of(key, group.owner)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(group)
    }
}

/// The name that stored bytes stand for.
pub(crate) fn key_of(bytes: &[u8]) -> Option<Key> {
    let (app, id) = key::split(bytes)?;
    Key::group(&AppId::new(app).ok()?, id).ok()
}

fn owner_of(key: &[u8], owner: BusinessNo) -> Business {
    (key::split(key).map_or_else(Box::default, |(app, _)| app.into()), owner)
}

impl Groups {
    /// The groups that the store knows, without members.
    pub(crate) fn new(stored: Vec<(KeyBytes, GroupMeta)>, owned_max: usize) -> Self {
        let mut all = All::default();
        for (key, meta) in stored {
            all.insert(&key, Arc::new(Group::new(&meta)));
        }
        let (all, reading, missing) = (RwLock::new(all), Mutex::default(), Mutex::default());
        Self { all, reading, missing, owned_max }
    }

    /// The businesses that have groups, by their apps.
    pub(crate) fn owners(&self) -> Vec<(AppId, BusinessNo)> {
        let all = self.all.read();
        let named = |(app, owner): &Business| Some((AppId::new(app).ok()?, *owner));
        all.owned.keys().filter_map(named).collect()
    }

    /// The names of all of them.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.all.read().groups.keys().filter_map(|bytes| key_of(bytes)).collect()
    }

    fn owned(&self, business: &Business) -> usize {
        self.all.read().owned.get(business).copied().unwrap_or(0)
    }

    /// The group with this name in its app.
    pub(crate) fn find(&self, key: &Key) -> Option<Arc<Group>> {
        self.all.read().groups.get(key.as_bytes()).cloned()
    }

    /// Whether the store said just now that there is no such group.
    pub(crate) fn is_missing(&self, key: &Key, steady_ms: u64) -> bool {
        self.missing.lock().get(key.as_bytes()).is_some_and(|&until| steady_ms < until)
    }

    /// The store says that there is no such group.
    pub(crate) fn missed(&self, key: &Key, steady_ms: u64) {
        let mut missing = self.missing.lock();
        if missing.len() >= MISSING_MAX {
            missing.retain(|_, until| steady_ms < *until);
        }
        if missing.len() < MISSING_MAX {
            missing.insert(key.as_bytes().into(), steady_ms + MISSING_FOR_MS);
        }
    }

    /// Before the store is asked for a group, by whoever is not the writer.
    pub(crate) fn begin_reading(&self, key: &Key) -> Reading {
        let mut reading = self.reading.lock();
        let (count, changes) = reading.entry(key.as_bytes().into()).or_default();
        *count += 1;
        Reading { key: *key, changes: *changes }
    }

    /// Takes over what the store said, if it said something, as [`Self::learn`] does. `None`: the group was
    /// changed here meanwhile, and what was read may be older. One that is known here and not there stays known:
    /// it was deleted, as the news will say, or lost, and is given to the store again.
    #[allow(
        clippy::option_option,
        reason = "what was read, if anything; and the group, if what was read counts"
    )]
    pub(crate) fn end_reading(
        &self,
        reading: &Reading,
        read: Option<Option<&GroupMeta>>,
        dropped: &Dropped,
    ) -> Option<Option<Arc<Group>>> {
        let mut all = self.all.write();
        let key = &reading.key;
        let is_whole = match self.reading.lock().entry(key.as_bytes().into()) {
            Entry::Occupied(mut known) => {
                let is_whole = known.get().1 == reading.changes;
                known.get_mut().0 -= 1;
                if known.get().0 == 0 {
                    known.remove();
                }
                is_whole
            }
            Entry::Vacant(_) => false,
        };
        let read = read.filter(|_| is_whole)?;
        if read.is_none() && all.groups.contains_key(key.as_bytes()) {
            return Some(None);
        }
        Some(self.learn_in(&mut all, key, read, dropped))
    }

    fn is_changed(&self, key: &Key) {
        if let Some((_, changes)) = self.reading.lock().get_mut(key.as_bytes()) {
            *changes += 1;
        }
    }

    /// Takes over what the store says of a group, whoever changed it. Nodes that reported members of another
    /// group of this name are told of its end, and stay noted: they may have reported members of this one,
    /// when it was not known here. Those that have none count none.
    pub(crate) fn learn(
        &self,
        key: &Key,
        meta: Option<&GroupMeta>,
        dropped: &Dropped,
    ) -> Option<Arc<Group>> {
        let mut all = self.all.write();
        self.is_changed(key);
        self.learn_in(&mut all, key, meta, dropped)
    }

    fn learn_in(
        &self,
        all: &mut All,
        key: &Key,
        meta: Option<&GroupMeta>,
        dropped: &Dropped,
    ) -> Option<Arc<Group>> {
        self.missing.lock().remove(key.as_bytes());
        let known = all.groups.get(key.as_bytes()).cloned();
        let Some(meta) = meta else {
            if let Some(group) = all.remove(key.as_bytes()) {
                dropped(key, group.created_ms, &group.delete());
            }
            return None;
        };
        if let Some(known) = &known
            && known.meta() == *meta
        {
            return Some(known.clone());
        }
        let group = Arc::new(Group::new(meta));
        if let Some(before) = all.insert(key.as_bytes(), group.clone()) {
            let nodes = before.take_spread();
            let lives: Vec<LifeNo> = nodes.iter().map(|node| node.life).collect();
            group.spread.lock().nodes = nodes;
            dropped(key, before.created_ms, &lives);
        }
        Some(group)
    }

    /// Takes over all groups that the store has; others are no more.
    pub(crate) fn reload(&self, stored: &[(KeyBytes, GroupMeta)], dropped: &Dropped) {
        let there: HashSet<&[u8], RandomState> = stored.iter().map(|(key, _)| &**key).collect();
        for key in self.keys().iter().filter(|key| !there.contains(key.as_bytes())) {
            self.learn(key, None, dropped);
        }
        for (bytes, meta) in stored {
            if let Some(key) = key_of(bytes) {
                self.learn(&key, Some(meta), dropped);
            }
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.all.read().groups.len()
    }

    /// A node says that it has members of the group, or none any more. `act` runs under the group's
    /// lock, so that its answer leaves before word of a later deletion.
    pub(crate) fn report(
        &self,
        key: &Key,
        life: LifeNo,
        seq: u64,
        present: bool,
        act: impl FnOnce(Reported<'_>),
    ) {
        let Some(group) = self.find(key) else { return act(Reported::NoGroup) };
        let mut spread = group.spread.lock();
        if spread.deleted {
            return act(Reported::NoGroup);
        }
        match spread.nodes.iter_mut().find(|node| node.life == life) {
            Some(node) if seq < node.seq => return act(Reported::Stale),
            Some(node) => (node.seq, node.present) = (seq, present),
            None => spread.nodes.push(Presence { life, seq, present }),
        }
        act(Reported::Taken(&group));
    }

    /// Starts to decide on changes. Only the writer does, one decision at a time.
    pub(crate) fn decide(&self) -> Decision<'_> {
        Decision { groups: self, planned: HashMap::new(), counts: HashMap::new() }
    }

    /// Makes a decided change true, after the store has it. `dropped` runs under the lock of all
    /// groups, so that its word leaves before a new group of the same name can be reported.
    pub(crate) fn apply(&self, wanted: &Wanted, dropped: &Dropped) -> Changed {
        let mut all = self.all.write();
        self.is_changed(wanted.key());
        if let Wanted::Create { key, .. } = wanted {
            self.missing.lock().remove(key.as_bytes());
        }
        match wanted {
            Wanted::Create { key, owner, history, now_ms, .. } => {
                let meta = GroupMeta { owner: owner.0, created_ms: *now_ms, history: *history };
                // Whoever joins while it is being written reads it from the store, and may be in it by now.
                if let Some(known) = all.groups.get(key.as_bytes())
                    && known.meta() == meta
                {
                    return Changed::Created(known.clone());
                }
                let group = Arc::new(Group::new(&meta));
                if let Some(replaced) = all.insert(key.as_bytes(), group.clone()) {
                    dropped(key, replaced.created_ms, &replaced.delete());
                }
                Changed::Created(group)
            }
            Wanted::Delete { key, .. } => {
                if let Some(group) = all.remove(key.as_bytes()) {
                    dropped(key, group.created_ms, &group.delete());
                }
                Changed::Deleted
            }
            Wanted::Keep { .. } => Changed::Kept,
        }
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("len", &self.len()).finish()
    }
}

impl Group {
    fn new(meta: &GroupMeta) -> Self {
        Self {
            owner: BusinessNo(meta.owner),
            created_ms: meta.created_ms,
            history: meta.history,
            outlet: Mutex::default(),
            spread: Mutex::default(),
        }
    }

    /// The live nodes that have members. What those said whose lives are over is forgotten on the way.
    pub(crate) fn nodes(&self, nodes: &Nodes, now: u64) -> Vec<Arc<Life>> {
        let mut spread = self.spread.lock();
        // Taken under the lock: who has reported before is in it.
        let view = nodes.view(now);
        spread.nodes.retain(|node| !view.is_over(node.life));
        let present = spread.nodes.iter().filter(|node| node.present);
        present.filter_map(|node| view.life(node.life).cloned()).collect()
    }

    /// Runs under the group's lock, with whether it is there still: what it sends leaves before word of a
    /// later deletion.
    pub(crate) fn unless_deleted(&self, act: impl FnOnce(bool)) {
        let spread = self.spread.lock();
        act(!spread.deleted);
    }

    /// Notes a push to the group.
    pub(crate) fn pushed(&self, steady_ms: u64) {
        self.spread.lock().rate.note(steady_ms);
    }

    /// Pushes per second over about the last minute.
    pub(crate) fn pushes_per_second(&self, steady_ms: u64) -> f64 {
        self.spread.lock().rate.per_second(steady_ms)
    }

    /// As it is stored.
    pub(crate) fn meta(&self) -> GroupMeta {
        GroupMeta { owner: self.owner.0, created_ms: self.created_ms, history: self.history }
    }

    fn delete(&self) -> Vec<LifeNo> {
        self.take_spread().into_iter().map(|node| node.life).collect()
    }

    fn take_spread(&self) -> Vec<Presence> {
        let mut spread = self.spread.lock();
        spread.deleted = true;
        std::mem::take(&mut spread.nodes)
    }
}

/// Changes decided together: each sees what the ones before it will have made.
pub(crate) struct Decision<'a> {
    groups: &'a Groups,
    planned: HashMap<KeyBytes, Option<GroupMeta>>,
    /// Groups that businesses will have.
    counts: HashMap<Business, usize>,
}

impl Decision<'_> {
    /// What the store is to be told if the change is to be made.
    pub(crate) fn take(&mut self, wanted: &Wanted) -> Result<GroupChange, Refused> {
        match wanted {
            Wanted::Create { key, owner, history, now_ms, gone } => {
                let existing = self.meta(key);
                if existing.as_ref().is_some_and(|it| *gone != Some(BusinessNo(it.owner))) {
                    return Err(Refused::Exists);
                }
                let max = self.groups.owned_max;
                let owned = self.count(key, *owner);
                if *owned >= max {
                    return Err(Refused::Quota);
                }
                *owned += 1;
                if let Some(existing) = &existing {
                    *self.count(key, BusinessNo(existing.owner)) -= 1;
                }
                let meta = GroupMeta { owner: owner.0, created_ms: *now_ms, history: *history };
                self.planned.insert(key.as_bytes().into(), Some(meta.clone()));
                Ok(GroupChange::Put(*key, meta, existing))
            }
            Wanted::Delete { key, owner } => {
                let existing = self.meta(key).ok_or(Refused::NoGroup)?;
                if existing.owner != owner.0 {
                    return Err(Refused::NotOwner);
                }
                self.planned.insert(key.as_bytes().into(), None);
                *self.count(key, *owner) -= 1;
                Ok(GroupChange::Delete(*key, existing))
            }
            Wanted::Keep { key } => {
                let existing = self.meta(key).ok_or(Refused::NoGroup)?;
                Ok(GroupChange::Keep(*key, existing))
            }
        }
    }

    fn count(&mut self, key: &Key, owner: BusinessNo) -> &mut usize {
        let business = owner_of(key.as_bytes(), owner);
        let groups = self.groups;
        match self.counts.entry(business) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let now = groups.owned(place.key());
                place.insert(now)
            }
        }
    }

    fn meta(&self, key: &Key) -> Option<GroupMeta> {
        if let Some(planned) = self.planned.get(key.as_bytes()) {
            return planned.clone();
        }
        Some(self.groups.find(key)?.meta())
    }
}

/// Events per second over a sliding minute, from two counters: the minute that runs, and of the one
/// before it the part that still lies in the last 60 s, taken as even.
#[derive(Debug, Default)]
struct Rate {
    minute: u64,
    running: u64,
    before: u64,
}

impl Rate {
    const MINUTE_MS: u64 = 60_000;

    fn note(&mut self, now_ms: u64) {
        self.turn(now_ms);
        self.running += 1;
    }

    fn per_second(&mut self, now_ms: u64) -> f64 {
        self.turn(now_ms);
        let left = 1.0 - (now_ms % Self::MINUTE_MS) as f64 / Self::MINUTE_MS as f64;
        (self.running as f64 + self.before as f64 * left) / 60.0
    }

    fn turn(&mut self, now_ms: u64) {
        let minute = now_ms / Self::MINUTE_MS;
        if minute != self.minute {
            self.before = if minute == self.minute + 1 { self.running } else { 0 };
            (self.minute, self.running) = (minute, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::id::{BootId, NodeId};
    use std::time::Duration;

    const OWNER: BusinessNo = BusinessNo(1);
    const OTHER: BusinessNo = BusinessNo(2);
    const NODE: LifeNo = LifeNo(0);

    fn key(id: &str) -> Key {
        Key::group(&AppId::new("demo").unwrap(), id).unwrap()
    }

    fn create(id: &str, owner: BusinessNo) -> Wanted {
        Wanted::Create { key: key(id), owner, history: None, now_ms: 5, gone: None }
    }

    fn nobody() -> Dropped {
        Box::new(|_, _, _| panic!("nobody had members"))
    }

    /// One node, whose life is [`NODE`] until 1,000.
    fn one_node() -> Nodes {
        let nodes = Nodes::new(Duration::from_secs(1));
        nodes.admit(&NodeId::new("node-1").unwrap(), BootId(1), false, 0).unwrap();
        nodes
    }

    fn members(group: &Group, nodes: &Nodes, now: u64) -> Vec<LifeNo> {
        group.nodes(nodes, now).iter().map(|life| life.no).collect()
    }

    fn nobody_left() -> Dropped {
        Box::new(|_, _, nodes| assert_eq!(nodes, []))
    }

    fn make(groups: &Groups, id: &str) -> Arc<Group> {
        match groups.apply(&create(id, OWNER), &nobody()) {
            Changed::Created(group) => group,
            Changed::Deleted | Changed::Kept => unreachable!("a creation was wanted"),
        }
    }

    fn report(groups: &Groups, seq: u64, present: bool) -> &'static str {
        let mut said = "";
        groups.report(&key("room"), NODE, seq, present, |what| {
            said = match what {
                Reported::Taken(group) => {
                    assert_eq!((group.owner, group.created_ms), (OWNER, 5));
                    "taken"
                }
                Reported::Stale => "stale",
                Reported::NoGroup => "no group",
            };
        });
        said
    }

    #[test]
    fn changes_decided_together_see_each_other() {
        let groups = Groups::new(Vec::new(), 100);
        let mut decision = groups.decide();
        let delete = |owner| Wanted::Delete { key: key("room"), owner };
        assert_eq!(decision.take(&delete(OWNER)).unwrap_err(), Refused::NoGroup);
        assert!(decision.take(&create("room", OWNER)).is_ok());
        assert_eq!(decision.take(&create("room", OTHER)).unwrap_err(), Refused::Exists);
        assert_eq!(decision.take(&create("room", OWNER)).unwrap_err(), Refused::Exists);
        assert_eq!(decision.take(&delete(OTHER)).unwrap_err(), Refused::NotOwner);
        assert!(decision.take(&delete(OWNER)).is_ok());
        assert!(decision.take(&create("room", OTHER)).is_ok());
    }

    #[test]
    fn a_business_has_no_more_groups_than_it_may_have() {
        let groups = Groups::new(Vec::new(), 2);
        make(&groups, "a");
        let mut decision = groups.decide();
        assert!(decision.take(&create("b", OWNER)).is_ok());
        assert_eq!(decision.take(&create("c", OWNER)).unwrap_err(), Refused::Quota);
        assert!(decision.take(&create("c", OTHER)).is_ok(), "each for itself");
        assert!(decision.take(&Wanted::Delete { key: key("a"), owner: OWNER }).is_ok());
        let gone = Some(OTHER);
        let replace =
            Wanted::Create { key: key("c"), owner: OWNER, history: None, now_ms: 6, gone };
        assert!(decision.take(&replace).is_ok());
        assert_eq!(decision.take(&create("d", OWNER)).unwrap_err(), Refused::Quota);
        assert!(decision.take(&create("e", OTHER)).is_ok());
        groups.apply(&Wanted::Delete { key: key("a"), owner: OWNER }, &nobody_left());
        assert_eq!(groups.owners(), []);
        make(&groups, "a");
        make(&groups, "b");
        assert_eq!(groups.decide().take(&create("c", OWNER)).unwrap_err(), Refused::Quota);
        assert_eq!(groups.owners(), [(AppId::new("demo").unwrap(), OWNER)]);
    }

    #[test]
    fn a_group_whose_business_is_no_more_can_be_replaced() {
        let groups = Groups::new(Vec::new(), 100);
        make(&groups, "room");
        let (history, now_ms, gone) = (None, 6, Some(OWNER));
        let wanted = Wanted::Create { key: key("room"), owner: OTHER, history, now_ms, gone };
        assert!(matches!(groups.decide().take(&wanted), Ok(GroupChange::Put(_, _, Some(_)))));
        report(&groups, 1, true);
        groups.apply(
            &wanted,
            &(Box::new(|_: &Key, _: u64, nodes: &[LifeNo]| assert_eq!(nodes, [NODE])) as Dropped),
        );
        assert_eq!(groups.find(&key("room")).unwrap().owner, OTHER);
    }

    #[test]
    fn a_report_that_was_overtaken_is_refused() {
        let groups = Groups::new(Vec::new(), 100);
        let group = make(&groups, "room");
        assert_eq!(report(&groups, 1, true), "taken");
        assert_eq!(report(&groups, 3, true), "taken");
        assert_eq!(report(&groups, 2, false), "stale");
        assert_eq!(members(&group, &one_node(), 0), [NODE]);
        assert_eq!(report(&groups, 4, false), "taken");
        assert_eq!(report(&groups, 3, true), "stale", "it left meanwhile");
        assert_eq!(members(&group, &one_node(), 0), []);
    }

    #[test]
    fn the_deleted_are_told_of_and_dead_nodes_forgotten() {
        let groups = Groups::new(Vec::new(), 100);
        let group = make(&groups, "room");
        report(&groups, 1, true);
        let nodes = one_node();
        assert_eq!(members(&group, &nodes, 0), [NODE]);
        nodes.looked(1_000, 1_000, &[]);
        nodes.expire(1_000);
        assert_eq!(members(&group, &nodes, 0), []);
        assert!(group.spread.lock().nodes.is_empty());
        report(&groups, 1, true);
        let delete = Wanted::Delete { key: key("room"), owner: OWNER };
        groups.apply(
            &delete,
            &(Box::new(|_: &Key, _: u64, nodes: &[LifeNo]| assert_eq!(nodes, [NODE])) as Dropped),
        );
        assert_eq!(report(&groups, 2, true), "no group");
        assert_eq!(groups.len(), 0);
    }

    #[test]
    fn what_a_life_said_is_kept_until_that_life_is_known_to_be_over() {
        let groups = Groups::new(Vec::new(), 100);
        let group = make(&groups, "room");
        report(&groups, 1, true);
        let none_yet = Nodes::new(Duration::from_secs(1));
        assert_eq!(members(&group, &none_yet, 0), [], "nowhere to push to");
        let nodes = one_node();
        nodes.looked(1_000, 1_000, &[]);
        assert_eq!(members(&group, &nodes, 1_000), [], "its lease is over, its life not yet");
        assert_eq!(members(&group, &nodes, 999), [NODE]);
    }

    #[test]
    fn the_rate_slides_over_a_minute() {
        let mut rate = Rate::default();
        (0..60).for_each(|second| rate.note(second * 1000));
        assert!((rate.per_second(59_999) - 1.0).abs() < 0.02);
        assert!((rate.per_second(90_000) - 0.5).abs() < 0.02);
        assert!(rate.per_second(300_000).abs() < f64::EPSILON);
    }

    fn meta(owner: BusinessNo, created_ms: u64) -> GroupMeta {
        GroupMeta { owner: owner.0, created_ms, history: None }
    }

    type Noted = Arc<Mutex<Vec<(u64, Vec<LifeNo>)>>>;

    /// Notes the creation of what was dropped, and whom it was told of.
    fn noting() -> (Dropped, Noted) {
        let noted = Arc::new(Mutex::new(Vec::new()));
        let into = noted.clone();
        let dropped = Box::new(move |_: &Key, created: u64, lives: &[LifeNo]| {
            into.lock().push((created, lives.to_vec()));
        });
        (dropped, noted)
    }

    #[test]
    fn what_others_changed_is_taken_over_and_counted() {
        let groups = Groups::new(Vec::new(), 1);
        let (dropped, noted) = noting();
        groups.missed(&key("room"), 0);
        assert!(groups.is_missing(&key("room"), 999) && !groups.is_missing(&key("room"), 1_000));
        let learned = groups.learn(&key("room"), Some(&meta(OWNER, 5)), &dropped).unwrap();
        assert!(!groups.is_missing(&key("room"), 0));
        assert_eq!(groups.decide().take(&create("b", OWNER)).unwrap_err(), Refused::Quota);
        report(&groups, 1, true);
        let again = groups.learn(&key("room"), Some(&meta(OWNER, 5)), &dropped).unwrap();
        assert!(Arc::ptr_eq(&learned, &again), "as it was known");
        assert!(noted.lock().is_empty());
        assert!(groups.learn(&key("room"), None, &dropped).is_none());
        assert_eq!(*noted.lock(), [(5, vec![NODE])]);
        assert!(groups.decide().take(&create("b", OWNER)).is_ok(), "room again");
    }

    #[test]
    fn a_group_that_another_router_made_anew_drops_the_members_of_the_one_before_alone() {
        let groups = Groups::new(Vec::new(), 100);
        let (dropped, noted) = noting();
        groups.learn(&key("room"), Some(&meta(OWNER, 5)), &dropped);
        report(&groups, 3, true);
        let anew = groups.learn(&key("room"), Some(&meta(OTHER, 9)), &dropped).unwrap();
        assert_eq!(*noted.lock(), [(5, vec![NODE])]);
        assert_eq!(anew.owner, OTHER);
        assert_eq!(members(&anew, &one_node(), 0), [NODE], "it may have members of this one");
        groups
            .report(&key("room"), NODE, 2, false, |said| assert!(matches!(said, Reported::Stale)));
    }

    #[test]
    fn members_that_came_while_their_group_was_being_made_stay_in_it() {
        let groups = Groups::new(Vec::new(), 100);
        let (room, made) = (key("room"), meta(OWNER, 5));
        assert!(groups.decide().take(&create("room", OWNER)).is_ok());
        // The store has it; before that is known here, a node asks, and reads it there.
        let reading = groups.begin_reading(&room);
        let read = groups.end_reading(&reading, Some(Some(&made)), &nobody()).unwrap().unwrap();
        assert_eq!(report(&groups, 1, true), "taken");
        let group = make(&groups, "room");
        assert!(Arc::ptr_eq(&group, &read), "one group");
        assert_eq!(members(&group, &one_node(), 0), [NODE]);
        assert_eq!(groups.len(), 1);
    }

    #[test]
    fn an_answer_that_a_change_has_overtaken_is_not_believed() {
        let groups = Groups::new(Vec::new(), 100);
        let (dropped, _) = noting();
        let (room, old) = (key("room"), meta(OTHER, 3));
        let (early, other) = (groups.begin_reading(&room), groups.begin_reading(&key("hall")));
        // Made here and deleted again: as it was, and yet.
        make(&groups, "room");
        groups.apply(&Wanted::Delete { key: room, owner: OWNER }, &dropped);
        let late = groups.begin_reading(&room);
        assert!(groups.end_reading(&early, Some(Some(&old)), &dropped).is_none());
        assert!(groups.find(&room).is_none());
        let learned = groups.end_reading(&late, Some(Some(&old)), &dropped).unwrap();
        assert_eq!(learned.unwrap().owner, OTHER);
        assert!(groups.end_reading(&other, Some(None), &dropped).unwrap().is_none(), "its own");
        // The store may have lost it.
        let again = groups.begin_reading(&room);
        assert!(groups.end_reading(&again, Some(None), &dropped).unwrap().is_none());
        assert!(groups.find(&room).is_some());
        // One that failed.
        let again = groups.begin_reading(&room);
        assert!(groups.end_reading(&again, None, &dropped).is_none());
        assert!(groups.reading.lock().is_empty());
    }

    #[test]
    fn all_groups_read_again_are_those_that_there_are() {
        let groups = Groups::new(Vec::new(), 100);
        let (dropped, noted) = noting();
        for (id, created) in [("kept", 1), ("gone", 2), ("anew", 3)] {
            groups.learn(&key(id), Some(&meta(OWNER, created)), &dropped);
        }
        let kept = groups.find(&key("kept")).unwrap();
        let stored = [("kept", 1), ("anew", 4), ("new", 5)]
            .map(|(id, created)| (KeyBytes::from(key(id).as_bytes()), meta(OWNER, created)));
        groups.reload(&stored, &dropped);
        let mut ended: Vec<u64> = noted.lock().iter().map(|(created, _)| *created).collect();
        ended.sort_unstable();
        assert_eq!((ended, groups.len()), (vec![2, 3], 3));
        assert!(Arc::ptr_eq(&kept, &groups.find(&key("kept")).unwrap()));
    }
}
