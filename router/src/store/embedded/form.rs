//! The shape of stored keys and values.
//!
//! Seven keyspaces. A shelf's keys begin with its kind and its length-prefixed key, so that no two shelves
//! meet; numbers in keys are big-endian, so that a scan goes in order. Values begin with a version; numbers
//! in them take one byte per seven bits, positions are written as distances.
//!
//! - `shelves`: shelf, 0: route; shelf, 1, business: meta; shelf, 2, business, collapse key: position;
//!   of a group, 3: where its history began; shelf, 4, business: what it has heard of the device
//! - `entries`: shelf, business, term, number: entry
//! - `remembered`: shelf, business, push id: what is remembered of it
//! - `groups`: group key: owner, time, bounds of the history
//! - `owned`: app, owner, group id: nothing
//! - `sessions`: node, boot, device: slot and generation of the connection
//! - `marks`: 0, device: when it was marked for an event; 1, shard, time, device: nothing

use crate::inbox::{Entry, Heard, Meta, Owner, Priority, Remembered, Route};
use crate::key;
use crate::store::{GroupMeta, HistoryCaps, StoreError};
use bytes::Bytes;
use hawser_proto::id::{BootId, BusinessNo, NodeId, Position, SlotRef};

const VERSION: u8 = 1;
/// Of a route that somebody watches.
const VERSION_WATCHED: u8 = 2;
const ROUTE: u8 = 0;
const META: u8 = 1;
const COLLAPSE: u8 = 2;
const BORN: u8 = 3;
const HEARD: u8 = 4;

/// Whose shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Device = b'd' as isize,
    Group = b'g' as isize,
}

/// What the keys of one shelf begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Prefix(Vec<u8>);

impl Prefix {
    pub(super) fn new(kind: Kind, key: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(2 + key.len() + 1 + 4 + 16);
        bytes.extend([kind as u8, key.len() as u8]);
        bytes.extend(key);
        Self(bytes)
    }

    /// The shelf that a stored key belongs to. `None`: not written by this version.
    pub(super) fn of(stored: &[u8]) -> Option<Self> {
        let len = usize::from(*stored.get(1)?);
        Some(Self(stored.get(..2 + len)?.to_vec()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn is_group(&self) -> bool {
        self.0.first() == Some(&(Kind::Group as u8))
    }

    /// When a history began.
    pub(super) fn born(&self) -> Vec<u8> {
        self.with(&[BORN])
    }

    pub(super) fn route(&self) -> Vec<u8> {
        self.with(&[ROUTE])
    }

    /// Before all metas; an inbox's business follows.
    pub(super) fn metas(&self) -> Vec<u8> {
        self.with(&[META])
    }

    pub(super) fn meta(&self, business: BusinessNo) -> Vec<u8> {
        self.two(&[META], &business.0.to_be_bytes())
    }

    pub(super) fn collapse(&self, business: BusinessNo, key: &[u8]) -> Vec<u8> {
        let mut bytes = self.two(&[COLLAPSE], &business.0.to_be_bytes());
        bytes.extend(key);
        bytes
    }

    /// Before all that was heard; the business follows.
    pub(super) fn all_heard(&self) -> Vec<u8> {
        self.with(&[HEARD])
    }

    pub(super) fn heard(&self, business: BusinessNo) -> Vec<u8> {
        self.two(&[HEARD], &business.0.to_be_bytes())
    }

    pub(super) fn entries(&self, business: BusinessNo) -> Vec<u8> {
        self.with(&business.0.to_be_bytes())
    }

    pub(super) fn entry(&self, business: BusinessNo, at: Position) -> Vec<u8> {
        let mut bytes = self.two(&business.0.to_be_bytes(), &at.term.to_be_bytes());
        bytes.extend(at.seq.to_be_bytes());
        bytes
    }

    pub(super) fn remembered(&self, business: BusinessNo, push_id: &[u8]) -> Vec<u8> {
        self.two(&business.0.to_be_bytes(), push_id)
    }

    fn with(&self, rest: &[u8]) -> Vec<u8> {
        [&self.0, rest].concat()
    }

    fn two(&self, first: &[u8], second: &[u8]) -> Vec<u8> {
        [&self.0, first, second].concat()
    }
}

/// What one key of a shelf holds, as far as a walk wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Route,
    Meta,
    Other,
}

/// The part that a key of `shelves` names, behind its prefix.
pub(super) fn part_of(stored: &[u8], prefix: &Prefix) -> Part {
    match stored.get(prefix.0.len()) {
        Some(&ROUTE) => Part::Route,
        Some(&META) => Part::Meta,
        _ => Part::Other,
    }
}

/// The position at the end of an entry's key.
pub(super) fn position_of(stored: &[u8]) -> Option<Position> {
    let (rest, seq) = stored.split_last_chunk::<8>()?;
    let (_, term) = rest.split_last_chunk::<8>()?;
    Some(Position::new(u64::from_be_bytes(*term), u64::from_be_bytes(*seq)))
}

/// The business at the end of the key of a meta, or of what was heard.
pub(super) fn business_of(stored: &[u8]) -> Option<BusinessNo> {
    stored.split_last_chunk::<4>().map(|(_, bytes)| BusinessNo(u32::from_be_bytes(*bytes)))
}

/// App, owner and group: the app length-prefixed, the owner of fixed width.
pub(super) fn owned(group_key: &[u8], owner: u32) -> Vec<u8> {
    let (app, group) = key::split(group_key).unwrap_or_default();
    let mut bytes = all_owned(app, owner);
    bytes.extend(group.as_bytes());
    bytes
}

pub(super) fn all_owned(app: &str, owner: u32) -> Vec<u8> {
    let mut bytes = vec![app.len() as u8];
    bytes.extend(app.as_bytes());
    bytes.extend(owner.to_be_bytes());
    bytes
}

/// Before all sessions of a boot: the node length-prefixed, the boot of fixed width. The device follows.
pub(super) fn sessions(node: &NodeId, BootId(boot): BootId) -> Vec<u8> {
    let node = node.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(1 + node.len() + 8);
    bytes.push(node.len() as u8);
    bytes.extend(node);
    bytes.extend(boot.to_be_bytes());
    bytes
}

pub(super) fn session(node: &NodeId, boot: BootId, device: &[u8]) -> Vec<u8> {
    [&sessions(node, boot), device].concat()
}

/// The boot that a key of `sessions` begins with.
pub(super) fn boot_of(stored: &[u8]) -> Option<(NodeId, BootId)> {
    let (&len, rest) = stored.split_first()?;
    let (node, rest) = rest.split_at_checked(usize::from(len))?;
    let (boot, _) = rest.split_first_chunk::<8>()?;
    let node = NodeId::new(std::str::from_utf8(node).ok()?).ok()?;
    Some((node, BootId(u64::from_be_bytes(*boot))))
}

/// When a device was marked.
pub(super) fn mark_of(device: &[u8]) -> Vec<u8> {
    [&[0], device].concat()
}

/// Before the marks of a shard, in order.
pub(super) fn marks(shard: u16) -> Vec<u8> {
    [&[1], shard.to_be_bytes().as_slice()].concat()
}

/// One of them.
pub(super) fn mark(shard: u16, at: u64, device: &[u8]) -> Vec<u8> {
    [&marks(shard), at.to_be_bytes().as_slice(), device].concat()
}

/// When, and which device, of one of them.
pub(super) fn read_mark(stored: &[u8]) -> Option<(u64, &[u8])> {
    let (_, rest) = stored.split_first_chunk::<3>()?;
    let (at, device) = rest.split_first_chunk()?;
    Some((u64::from_be_bytes(*at), device))
}

/// A value being written.
struct Pen(Vec<u8>);

impl Pen {
    fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        bytes.push(VERSION);
        Self(bytes)
    }

    /// Makes it one of another version.
    fn of_version(mut self, version: u8) -> Self {
        self.0[0] = version;
        self
    }

    fn number(mut self, mut number: u64) -> Self {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    fn position(self, at: Position) -> Self {
        self.number(at.term).number(at.seq)
    }

    /// A position near another one: most are of the same term.
    fn near(self, base: Position, at: Position) -> Self {
        self.number(base.term.wrapping_sub(at.term)).number(at.seq)
    }

    fn short(mut self, bytes: &[u8]) -> Self {
        self.0.push(bytes.len() as u8);
        self.0.extend(bytes);
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

/// A value being read.
struct Eye<'a>(&'a [u8]);

impl<'a> Eye<'a> {
    fn new(value: &'a [u8]) -> Option<Self> {
        let (&version, rest) = value.split_first()?;
        (version == VERSION).then_some(Self(rest))
    }

    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn small(&mut self) -> Option<u32> {
        self.number()?.try_into().ok()
    }

    fn position(&mut self) -> Option<Position> {
        Some(Position::new(self.number()?, self.number()?))
    }

    fn near(&mut self, base: Position) -> Option<Position> {
        Some(Position::new(base.term.wrapping_sub(self.number()?), self.number()?))
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.byte()?;
        self.take(usize::from(len))
    }
}

fn read<T>(value: &[u8], read: impl FnOnce(&mut Eye<'_>) -> Option<T>) -> Result<T, StoreError> {
    Eye::new(value).and_then(|mut eye| read(&mut eye)).ok_or(StoreError::Value)
}

pub(super) fn write_route(route: &Route) -> Vec<u8> {
    let pen = Pen::new(96)
        .number(route.epoch)
        .raw(&route.instance)
        .number(route.attempt)
        .number(route.at_ms);
    let mut pen = match &route.owner {
        Some(owner) => write_owner(pen, owner),
        None => pen.short(b""),
    };
    if !route.watchers.is_empty() || route.is_lost {
        pen = pen.of_version(VERSION_WATCHED).number(route.is_lost.into());
        pen = pen.number(route.watchers.len() as u64);
        for business in &route.watchers {
            pen = pen.number(business.0.into());
        }
    }
    pen.0
}

fn write_owner(pen: Pen, owner: &Owner) -> Pen {
    pen.short(owner.node.as_str().as_bytes())
        .number(owner.boot.0)
        .number(owner.at.slot.into())
        .number(owner.at.generation.into())
}

/// `Some(None)`: there is none.
#[allow(clippy::option_option, reason = "the outer one is for what cannot be read")]
fn read_owner(eye: &mut Eye<'_>) -> Option<Option<Owner>> {
    let node = std::str::from_utf8(eye.short()?).ok()?;
    if node.is_empty() {
        return Some(None);
    }
    let node = NodeId::new(node).ok()?;
    let boot = BootId(eye.number()?);
    let at = SlotRef { slot: eye.small()?, generation: eye.small()? };
    Some(Some(Owner { node, boot, at }))
}

pub(super) fn write_heard(heard: &Heard) -> Vec<u8> {
    let pen = write_owner(Pen::new(48).number(heard.epoch), &heard.owner);
    pen.number(heard.is_confirmed.into()).0
}

pub(super) fn read_heard(value: &[u8]) -> Result<Heard, StoreError> {
    read(value, |eye| {
        let epoch = eye.number()?;
        let owner = read_owner(eye)??;
        Some(Heard { epoch, is_online: true, owner, is_confirmed: eye.number()? != 0 })
    })
}

pub(super) fn write_number(number: u64) -> Vec<u8> {
    Pen::new(10).number(number).0
}

#[allow(clippy::redundant_closure_for_method_calls, reason = "the method is not general enough")]
pub(super) fn read_number(value: &[u8]) -> Result<u64, StoreError> {
    read(value, |eye| eye.number())
}

pub(super) fn read_route(value: &[u8]) -> Result<Route, StoreError> {
    let is_watched = value.first() == Some(&VERSION_WATCHED);
    let read = || {
        let mut eye = if is_watched { Eye(&value[1..]) } else { Eye::new(value)? };
        let epoch = eye.number()?;
        let instance = eye.take(16)?.try_into().ok()?;
        let (attempt, at_ms) = (eye.number()?, eye.number()?);
        let owner = read_owner(&mut eye)?;
        let (mut watchers, mut is_lost) = (Vec::new(), false);
        if is_watched {
            is_lost = eye.number()? != 0;
            for _ in 0..eye.number()? {
                watchers.push(BusinessNo(eye.small()?));
            }
        }
        Some(Route { epoch, owner, instance, attempt, at_ms, watchers, is_lost })
    };
    read().ok_or(StoreError::Value)
}

pub(super) fn write_meta(meta: &Meta) -> Vec<u8> {
    let tail = meta.tail;
    let mut pen = Pen::new(128)
        .raw(&meta.incarnation.to_be_bytes())
        .position(tail)
        .near(tail, Position::new(meta.term, meta.seq));
    for at in [meta.floor, meta.acked, meta.handed, meta.overflowed_to, meta.purged_to] {
        pen = pen.near(tail, at);
    }
    for at in meta.above {
        pen = pen.near(tail, at);
    }
    for count in meta.counts {
        pen = pen.number(count.into());
    }
    for bytes in meta.bytes {
        pen = pen.number(bytes);
    }
    pen.number(meta.overflowed).number(meta.look_at_ms).number(meta.touched_ms).0
}

pub(super) fn read_meta(value: &[u8]) -> Result<Meta, StoreError> {
    read(value, |eye| {
        let incarnation = u64::from_be_bytes(eye.take(8)?.try_into().ok()?);
        let tail = eye.position()?;
        let last = eye.near(tail)?;
        Some(Meta {
            incarnation,
            term: last.term,
            seq: last.seq,
            tail,
            floor: eye.near(tail)?,
            acked: eye.near(tail)?,
            handed: eye.near(tail)?,
            overflowed_to: eye.near(tail)?,
            purged_to: eye.near(tail)?,
            above: [eye.near(tail)?, eye.near(tail)?, eye.near(tail)?],
            counts: [eye.small()?, eye.small()?, eye.small()?],
            bytes: [eye.number()?, eye.number()?, eye.number()?],
            overflowed: eye.number()?,
            look_at_ms: eye.number()?,
            touched_ms: eye.number()?,
        })
    })
}

pub(super) fn write_entry(entry: &Entry) -> Vec<u8> {
    Pen::new(48 + entry.collapse_key.len() + entry.blob.len())
        .position(entry.prev)
        .number(entry.at_ms)
        .number(entry.expires_at_ms)
        .number(entry.priority as u64)
        .short(&entry.collapse_key)
        .raw(&entry.blob)
        .0
}

pub(super) fn read_entry(value: &[u8]) -> Result<Entry, StoreError> {
    read(value, |eye| {
        Some(Entry {
            prev: eye.position()?,
            at_ms: eye.number()?,
            expires_at_ms: eye.number()?,
            priority: Priority::from_number(eye.number()?),
            collapse_key: Bytes::copy_from_slice(eye.short()?),
            blob: Bytes::copy_from_slice(eye.0),
        })
    })
}

pub(super) fn write_remembered(what: &Remembered) -> Vec<u8> {
    Pen::new(32).number(what.until_ms).position(what.position).raw(&what.digest.to_be_bytes()).0
}

pub(super) fn read_remembered(value: &[u8]) -> Result<Remembered, StoreError> {
    read(value, |eye| {
        let until_ms = eye.number()?;
        let position = eye.position()?;
        let digest = u64::from_be_bytes(eye.take(8)?.try_into().ok()?);
        Some(Remembered { position, digest, until_ms })
    })
}

/// Until when a push id is remembered, without reading the rest.
pub(super) fn remembered_until(value: &[u8]) -> Option<u64> {
    Eye::new(value)?.number()
}

pub(super) fn write_position(at: Position) -> Vec<u8> {
    Pen::new(16).position(at).0
}

pub(super) fn read_position(value: &[u8]) -> Result<Position, StoreError> {
    read(value, |eye| Some(Position::new(eye.number()?, eye.number()?)))
}

pub(super) fn write_slot(at: SlotRef) -> Vec<u8> {
    Pen::new(16).number(at.slot.into()).number(at.generation.into()).0
}

pub(super) fn read_slot(value: &[u8]) -> Result<SlotRef, StoreError> {
    read(value, |eye| Some(SlotRef { slot: eye.small()?, generation: eye.small()? }))
}

const FIRST_GROUP_BYTES: usize = 4 + 8;

pub(super) fn write_group(meta: &GroupMeta) -> Vec<u8> {
    let mut value = Vec::with_capacity(FIRST_GROUP_BYTES + 4 + 8);
    value.extend(meta.owner.to_be_bytes());
    value.extend(meta.created_ms.to_be_bytes());
    if let Some(caps) = meta.history {
        value.extend(caps.entries_max.to_be_bytes());
        value.extend(caps.age_ms_max.to_be_bytes());
    }
    value
}

/// A group of the first version has no history.
pub(super) fn read_group(value: &[u8]) -> Result<GroupMeta, StoreError> {
    let read = || {
        let (owner, rest) = value.split_first_chunk::<4>()?;
        let (created, rest) = rest.split_first_chunk::<8>()?;
        let history = if rest.is_empty() {
            None
        } else {
            let (entries_max, age) = rest.split_first_chunk::<4>()?;
            let age_ms_max = u64::from_be_bytes(age.try_into().ok()?);
            Some(HistoryCaps { entries_max: u32::from_be_bytes(*entries_max), age_ms_max })
        };
        let (owner, created_ms) = (u32::from_be_bytes(*owner), u64::from_be_bytes(*created));
        Some(GroupMeta { owner, created_ms, history })
    };
    read().ok_or(StoreError::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let at = |term, seq| Position::new(term, seq);
        let meta = Meta {
            incarnation: u64::MAX,
            term: 1_800_000_000_001,
            seq: (1 << 53) - 1,
            tail: at(1_800_000_000_000, 300),
            floor: at(1_800_000_000_000, 200),
            acked: at(u64::MAX, u64::MAX),
            handed: Position::START,
            overflowed_to: at(5, 0),
            purged_to: at(0, 5),
            above: [at(1, 1), at(1_800_000_000_000, 2), at(3, 3)],
            counts: [0, 1, u32::MAX],
            bytes: [u64::MAX, 0, 127],
            overflowed: 128,
            look_at_ms: u64::MAX,
            touched_ms: 1_800_000_000_000,
        };
        assert_eq!(read_meta(&write_meta(&meta)).unwrap(), meta);
        assert_eq!(read_meta(&write_meta(&Meta::default())).unwrap(), Meta::default());
        let owner = Owner {
            node: NodeId::new("node-1").unwrap(),
            boot: BootId(u64::MAX),
            at: SlotRef { slot: u32::MAX, generation: 7 },
        };
        for is_confirmed in [true, false] {
            let owner = owner.clone();
            let heard = Heard { epoch: u64::MAX, is_online: true, owner, is_confirmed };
            assert_eq!(read_heard(&write_heard(&heard)).unwrap(), heard);
        }
        assert_eq!(read_mark(&mark(3, u64::MAX, b"device")), Some((u64::MAX, &b"device"[..])));
        for owner in [Some(owner), None] {
            let route = Route {
                epoch: 9,
                owner,
                instance: [3; 16],
                attempt: 0,
                at_ms: 1 << 41,
                watchers: vec![BusinessNo(1), BusinessNo(300)],
                is_lost: true,
            };
            assert_eq!(read_route(&write_route(&route)).unwrap(), route);
        }
        let entry = Entry {
            prev: at(7, 8),
            at_ms: 1,
            expires_at_ms: 2,
            priority: Priority::High,
            collapse_key: Bytes::from_static(&[b'k'; 128]),
            blob: Bytes::from_static(b"\0blob"),
        };
        assert_eq!(read_entry(&write_entry(&entry)).unwrap(), entry);
        let what = Remembered { position: at(7, 8), digest: u64::MAX, until_ms: 99 };
        assert_eq!(read_remembered(&write_remembered(&what)).unwrap(), what);
        assert_eq!(remembered_until(&write_remembered(&what)), Some(99));
        let caps = HistoryCaps { entries_max: 5, age_ms_max: 6 };
        for history in [None, Some(caps)] {
            let meta = GroupMeta { owner: 1, created_ms: 2, history };
            assert_eq!(read_group(&write_group(&meta)).unwrap(), meta);
        }
    }

    #[test]
    fn no_cut_value_is_taken_for_a_whole_one_and_none_panics() {
        let meta = write_meta(&Meta { tail: Position::new(1 << 40, 9), ..Meta::default() });
        for len in 0..meta.len() {
            assert!(read_meta(&meta[..len]).is_err(), "{len}");
        }
        let route = Route {
            epoch: 9,
            owner: None,
            instance: [3; 16],
            attempt: 0,
            at_ms: 1 << 41,
            watchers: Vec::new(),
            is_lost: false,
        };
        let route = write_route(&route);
        for len in 0..route.len() {
            assert!(read_route(&route[..len]).is_err(), "{len}");
        }
        assert!(read_route(&[0xff; 64]).is_err());
        assert!(read_group(&[0; 13]).is_err());
    }

    #[test]
    fn keys_go_in_the_order_of_positions_and_never_meet() {
        let one = Prefix::new(Kind::Device, b"\x01ab");
        let other = Prefix::new(Kind::Device, b"\x01a");
        let at = |term, seq| one.entry(BusinessNo(1), Position::new(term, seq));
        assert!(at(1, 300) < at(2, 1) && at(2, 1) < at(2, 256) && at(2, 256) < at(1 << 41, 0));
        assert_eq!(position_of(&at(1, 300)), Some(Position::new(1, 300)));
        assert!(!one.as_bytes().starts_with(other.as_bytes()));
        assert_eq!(Prefix::of(&at(1, 1)), Some(one.clone()));
        assert_eq!(part_of(&one.meta(BusinessNo(3)), &one), Part::Meta);
        assert_eq!(business_of(&one.meta(BusinessNo(3))), Some(BusinessNo(3)));
    }
}
