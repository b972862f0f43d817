//! What an engine shows of one device, or of one group: route, inboxes, entries, remembered push ids.

use super::{Entry, Heard, Meta, Remembered, Route};
use bytes::Bytes;
use hawser_proto::id::{BusinessNo, Position};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;

/// What lies on one device's or group's shelf, at one moment. A group has no route and one inbox, that of
/// [`GROUP`].
pub trait View {
    /// Why the engine could not read.
    type Error;

    /// The route; `None`: never seen, or forgotten.
    fn route(&self) -> Result<Option<Route>, Self::Error>;
    /// Businesses that have an inbox here, in order.
    fn inboxes(&self) -> Result<Vec<BusinessNo>, Self::Error>;
    /// What is known of an inbox.
    fn meta(&self, business: BusinessNo) -> Result<Option<Meta>, Self::Error>;
    /// Entries above a position, in order, at most `max`.
    fn entries(
        &self,
        business: BusinessNo,
        above: Position,
        max: usize,
    ) -> Result<Vec<(Position, Entry)>, Self::Error>;
    /// The entry that holds a collapse key.
    fn collapse(&self, business: BusinessNo, key: &[u8]) -> Result<Option<Position>, Self::Error>;
    /// What is remembered of a push id; it may be over its time.
    fn remembered(
        &self,
        business: BusinessNo,
        push_id: &[u8],
    ) -> Result<Option<Remembered>, Self::Error>;
    /// What each business has confirmed to have heard of the device; by business.
    fn heard(&self) -> Result<Vec<(BusinessNo, Heard)>, Self::Error>;
}

/// A shelf inside one atomic step: what is written is read back at once, and kept if the step succeeds.
pub trait Shelf: View {
    /// Writes the route.
    fn set_route(&mut self, route: Route);
    /// Forgets the route.
    fn forget_route(&mut self);
    /// Writes what is known of an inbox.
    fn set_meta(&mut self, business: BusinessNo, meta: Meta);
    /// Forgets what is known of an inbox that holds nothing.
    fn forget_meta(&mut self, business: BusinessNo);
    /// Puts an entry.
    fn put(&mut self, business: BusinessNo, position: Position, entry: Entry);
    /// Takes an entry away.
    fn remove(&mut self, business: BusinessNo, position: Position);
    /// Sets or clears the entry that holds a collapse key.
    fn set_collapse(&mut self, business: BusinessNo, key: Bytes, position: Option<Position>);
    /// Remembers a push id.
    fn remember(&mut self, business: BusinessNo, push_id: Bytes, what: Remembered);
    /// Writes what a business has heard, or forgets it.
    fn set_heard(&mut self, business: BusinessNo, heard: Option<Heard>);
}

/// The number under which a group's history lies on its shelf.
pub const GROUP: BusinessNo = BusinessNo(0);

/// The plain shelf: the reference for all engines. Cloned, it is a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    route: Option<Route>,
    inboxes: BTreeMap<BusinessNo, Inbox>,
    heard: BTreeMap<BusinessNo, Heard>,
}

#[derive(Clone, Debug, Default)]
struct Inbox {
    meta: Option<Meta>,
    entries: BTreeMap<Position, Entry>,
    collapse: HashMap<Bytes, Position>,
    remembered: HashMap<Bytes, Remembered>,
}

impl Memory {
    /// Forgets push ids whose time is over.
    pub fn forget(&mut self, now_ms: u64) {
        for inbox in self.inboxes.values_mut() {
            inbox.remembered.retain(|_, what| what.until_ms > now_ms);
        }
    }

    fn inbox(&self, business: BusinessNo) -> Option<&Inbox> {
        self.inboxes.get(&business)
    }

    fn inbox_mut(&mut self, business: BusinessNo) -> &mut Inbox {
        self.inboxes.entry(business).or_default()
    }
}

impl View for Memory {
    type Error = Infallible;

    fn route(&self) -> Result<Option<Route>, Infallible> {
        Ok(self.route.clone())
    }

    fn inboxes(&self) -> Result<Vec<BusinessNo>, Infallible> {
        let known = self.inboxes.iter().filter(|(_, inbox)| inbox.meta.is_some());
        Ok(known.map(|(&business, _)| business).collect())
    }

    fn meta(&self, business: BusinessNo) -> Result<Option<Meta>, Infallible> {
        Ok(self.inbox(business).and_then(|inbox| inbox.meta.clone()))
    }

    fn entries(
        &self,
        business: BusinessNo,
        above: Position,
        max: usize,
    ) -> Result<Vec<(Position, Entry)>, Infallible> {
        use std::ops::Bound::{Excluded, Unbounded};
        let Some(inbox) = self.inbox(business) else { return Ok(Vec::new()) };
        let above = inbox.entries.range((Excluded(above), Unbounded));
        Ok(above.take(max).map(|(&position, entry)| (position, entry.clone())).collect())
    }

    fn collapse(&self, business: BusinessNo, key: &[u8]) -> Result<Option<Position>, Infallible> {
        Ok(self.inbox(business).and_then(|inbox| inbox.collapse.get(key).copied()))
    }

    fn remembered(
        &self,
        business: BusinessNo,
        push_id: &[u8],
    ) -> Result<Option<Remembered>, Infallible> {
        Ok(self.inbox(business).and_then(|inbox| inbox.remembered.get(push_id).copied()))
    }

    fn heard(&self) -> Result<Vec<(BusinessNo, Heard)>, Infallible> {
        Ok(self.heard.iter().map(|(&business, heard)| (business, heard.clone())).collect())
    }
}

impl Shelf for Memory {
    fn set_route(&mut self, route: Route) {
        self.route = Some(route);
    }

    fn forget_route(&mut self) {
        self.route = None;
    }

    fn set_meta(&mut self, business: BusinessNo, meta: Meta) {
        self.inbox_mut(business).meta = Some(meta);
    }

    fn forget_meta(&mut self, business: BusinessNo) {
        self.inbox_mut(business).meta = None;
    }

    fn put(&mut self, business: BusinessNo, position: Position, entry: Entry) {
        self.inbox_mut(business).entries.insert(position, entry);
    }

    fn remove(&mut self, business: BusinessNo, position: Position) {
        self.inbox_mut(business).entries.remove(&position);
    }

    fn set_collapse(&mut self, business: BusinessNo, key: Bytes, position: Option<Position>) {
        let held = &mut self.inbox_mut(business).collapse;
        match position {
            Some(position) => drop(held.insert(key, position)),
            None => drop(held.remove(&key)),
        }
    }

    fn remember(&mut self, business: BusinessNo, push_id: Bytes, what: Remembered) {
        self.inbox_mut(business).remembered.insert(push_id, what);
    }

    fn set_heard(&mut self, business: BusinessNo, heard: Option<Heard>) {
        match heard {
            Some(heard) => drop(self.heard.insert(business, heard)),
            None => drop(self.heard.remove(&business)),
        }
    }
}
