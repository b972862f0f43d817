//! One shelf in the database: what the rules of [`crate::inbox::rules`] look at and write to.

use super::disk::{Source, Space};
use super::form::{self, Kind, Prefix};
use super::overlay::Overlay;
use crate::inbox::shelf::{Shelf, View};
use crate::inbox::{Entry, Heard, Meta, Remembered, Route};
use crate::store::StoreError;
use bytes::Bytes;
use hawser_proto::id::{BusinessNo, Position};
use std::ops::Bound;

/// Inboxes of one device looked at in one scan; a device has as many as its app has businesses.
const INBOXES_MAX: usize = 4_096;

/// The shelf of one device or group, in the database at one moment (`S` a glance) or in a batch.
pub(super) struct OnShelf<S> {
    source: S,
    prefix: Prefix,
}

impl<S> OnShelf<S> {
    pub(super) fn new(source: S, kind: Kind, key: &[u8]) -> Self {
        Self { source, prefix: Prefix::new(kind, key) }
    }

    pub(super) fn at(source: S, prefix: Prefix) -> Self {
        Self { source, prefix }
    }
}

impl<S: Source> OnShelf<S> {
    /// When this history began: all its positions are of later terms. `None`: none's, or not known.
    fn born_ms(&self) -> Result<Option<u64>, StoreError> {
        if !self.prefix.is_group() {
            return Ok(None);
        }
        let value = self.source.get(Space::Shelves, &self.prefix.born())?;
        Ok(value.map(|value| form::read_position(&value)).transpose()?.map(|born| born.term))
    }
}

impl<S: Source> Source for &S {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<fjall::Slice>, StoreError> {
        (**self).get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: Bound<Vec<u8>>,
        prefix: &[u8],
        max: usize,
    ) -> Result<super::disk::Pairs, StoreError> {
        (**self).scan(space, from, prefix, max)
    }
}

impl<S: Source> Source for &mut S {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<fjall::Slice>, StoreError> {
        (**self).get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: Bound<Vec<u8>>,
        prefix: &[u8],
        max: usize,
    ) -> Result<super::disk::Pairs, StoreError> {
        (**self).scan(space, from, prefix, max)
    }
}

impl<S: Source> View for OnShelf<S> {
    type Error = StoreError;

    fn route(&self) -> Result<Option<Route>, StoreError> {
        let value = self.source.get(Space::Shelves, &self.prefix.route())?;
        value.map(|value| form::read_route(&value)).transpose()
    }

    fn inboxes(&self) -> Result<Vec<BusinessNo>, StoreError> {
        let metas = self.prefix.metas();
        let from = Bound::Included(metas.clone());
        let found = self.source.scan(Space::Shelves, from, &metas, INBOXES_MAX)?;
        let business = |(key, _): &(fjall::Slice, _)| form::business_of(key);
        found.iter().map(business).collect::<Option<_>>().ok_or(StoreError::Value)
    }

    fn meta(&self, business: BusinessNo) -> Result<Option<Meta>, StoreError> {
        let value = self.source.get(Space::Shelves, &self.prefix.meta(business))?;
        value.map(|value| form::read_meta(&value)).transpose()
    }

    fn entries(
        &self,
        business: BusinessNo,
        above: Position,
        max: usize,
    ) -> Result<Vec<(Position, Entry)>, StoreError> {
        let from = Bound::Excluded(self.prefix.entry(business, above));
        let prefix = self.prefix.entries(business);
        let found = self.source.scan(Space::Entries, from, &prefix, max)?;
        let read = |(key, value): (fjall::Slice, fjall::Slice)| {
            let position = form::position_of(&key).ok_or(StoreError::Value)?;
            Ok((position, form::read_entry(&value)?))
        };
        found.into_iter().map(read).collect()
    }

    fn collapse(&self, business: BusinessNo, key: &[u8]) -> Result<Option<Position>, StoreError> {
        let value = self.source.get(Space::Shelves, &self.prefix.collapse(business, key))?;
        value.map(|value| form::read_position(&value)).transpose()
    }

    fn remembered(
        &self,
        business: BusinessNo,
        push_id: &[u8],
    ) -> Result<Option<Remembered>, StoreError> {
        let value =
            self.source.get(Space::Remembered, &self.prefix.remembered(business, push_id))?;
        let Some(value) = value else { return Ok(None) };
        let what = form::read_remembered(&value)?;
        // It may be of an earlier life of the group, and not have been forgotten with it.
        let is_over = self.born_ms()?.is_some_and(|born_ms| what.position.term <= born_ms);
        Ok((!is_over).then_some(what))
    }

    fn heard(&self) -> Result<Vec<(BusinessNo, Heard)>, StoreError> {
        let all = self.prefix.all_heard();
        let from = Bound::Included(all.clone());
        let found = self.source.scan(Space::Shelves, from, &all, INBOXES_MAX)?;
        let read = |(key, value): (fjall::Slice, fjall::Slice)| {
            let business = form::business_of(&key).ok_or(StoreError::Value)?;
            Ok((business, form::read_heard(&value)?))
        };
        found.into_iter().map(read).collect()
    }
}

impl Shelf for OnShelf<&mut Overlay<'_>> {
    fn set_route(&mut self, route: Route) {
        self.source.set(Space::Shelves, self.prefix.route(), form::write_route(&route));
    }

    fn forget_route(&mut self) {
        self.source.remove(Space::Shelves, self.prefix.route());
    }

    fn set_meta(&mut self, business: BusinessNo, meta: Meta) {
        self.source.set(Space::Shelves, self.prefix.meta(business), form::write_meta(&meta));
    }

    fn forget_meta(&mut self, business: BusinessNo) {
        self.source.remove(Space::Shelves, self.prefix.meta(business));
    }

    fn put(&mut self, business: BusinessNo, position: Position, entry: Entry) {
        let key = self.prefix.entry(business, position);
        self.source.set(Space::Entries, key, form::write_entry(&entry));
    }

    fn remove(&mut self, business: BusinessNo, position: Position) {
        self.source.remove(Space::Entries, self.prefix.entry(business, position));
    }

    fn set_collapse(&mut self, business: BusinessNo, key: Bytes, position: Option<Position>) {
        let key = self.prefix.collapse(business, &key);
        match position {
            Some(at) => self.source.set(Space::Shelves, key, form::write_position(at)),
            None => self.source.remove(Space::Shelves, key),
        }
    }

    fn remember(&mut self, business: BusinessNo, push_id: Bytes, what: Remembered) {
        let key = self.prefix.remembered(business, &push_id);
        self.source.set(Space::Remembered, key, form::write_remembered(&what));
    }

    fn set_heard(&mut self, business: BusinessNo, heard: Option<Heard>) {
        let key = self.prefix.heard(business);
        match heard {
            Some(heard) => self.source.set(Space::Shelves, key, form::write_heard(&heard)),
            None => self.source.remove(Space::Shelves, key),
        }
    }
}
