//! A part of the table: routes by key, each in a piece of memory of its own.
//!
//! A hash table of routes keeps room for up to twice as many as there are, and a route with its key takes 64
//! bytes: so what is kept in the table is a pointer.

use super::Route;
use crate::key::Key;
use crate::store::KeyBytes;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher as _;

/// Fewer than this are not worth shrinking for.
const SHRINK_MIN: usize = 64;

#[derive(Default)]
pub(super) struct Shard(HashTable<Box<Held>>);

struct Held {
    route: Route,
    key: KeyBytes,
}

impl Shard {
    pub(super) fn get(&self, hash: u64, key: &Key) -> Option<&Route> {
        self.0.find(hash, is(key)).map(|held| &held.route)
    }

    pub(super) fn get_mut(&mut self, hash: u64, key: &Key) -> Option<&mut Route> {
        self.0.find_mut(hash, is(key)).map(|held| &mut held.route)
    }

    /// Only for a key that has no route.
    pub(super) fn insert(&mut self, hash: u64, key: &Key, route: Route, hasher: &RandomState) {
        let held = Box::new(Held { route, key: key.as_bytes().into() });
        self.0.insert_unique(hash, held, |held| hasher.hash_one(&*held.key));
    }

    pub(super) fn remove(&mut self, hash: u64, key: &Key) {
        if let Ok(found) = self.0.find_entry(hash, is(key)) {
            found.remove();
        }
    }

    /// Keeps those that are to be kept, and no room for many more.
    pub(super) fn retain(
        &mut self,
        mut keep: impl FnMut(&[u8], &Route) -> bool,
        hasher: &RandomState,
    ) {
        self.0.retain(|held| keep(&held.key, &held.route));
        if self.0.capacity() > 4 * self.0.len().max(SHRINK_MIN) {
            self.0.shrink_to_fit(|held| hasher.hash_one(&*held.key));
        }
    }
}

fn is(key: &Key) -> impl FnMut(&Box<Held>) -> bool {
    |held| *held.key == *key.as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_and_its_key_are_a_pointer_and_sixty_four_bytes_beside_the_text() {
        assert_eq!((size_of::<Box<Held>>(), size_of::<Held>()), (8, 64));
    }
}
