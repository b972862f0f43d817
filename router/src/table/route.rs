//! One device's entry in the table: kept small, because there are a million of them.

use super::LifeNo;
use crate::legacy_store::Memory;
use hawser_proto::id::{BusinessNo, SlotRef};

/// The connection that a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The node and boot, by their number here.
    pub(crate) life: LifeNo,
    /// Which control stream of that life vouched for the connection last.
    pub(crate) stamp: u16,
    /// Where on the node.
    pub(crate) at: SlotRef,
}

impl Owner {
    /// Whether both name one connection, whichever stream told of it.
    pub(crate) fn is_same_connection(&self, other: &Self) -> bool {
        self.life == other.life && self.at == other.at
    }
}

/// The numbers of the businesses a session serves. The first 64 of an app take no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Serves {
    low: u64,
    #[allow(
        clippy::redundant_allocation,
        reason = "a thin pointer: eight bytes instead of sixteen"
    )]
    high: Option<Box<Box<[u32]>>>,
}

impl Serves {
    /// The numbers as they came; 0 is none and left out.
    pub(crate) fn new(numbers: &[u32]) -> Self {
        let is_low = |number: u32| (1..=64).contains(&number);
        let low = numbers.iter().filter(|&&n| is_low(n)).fold(0, |bits, n| bits | 1 << (n - 1));
        let high: Box<[u32]> = numbers.iter().copied().filter(|&n| n > 64).collect();
        Self { low, high: (!high.is_empty()).then(|| Box::new(high)) }
    }

    /// Whether the business is among them.
    pub(crate) fn contains(&self, BusinessNo(number): BusinessNo) -> bool {
        match number {
            0 => false,
            1..=64 => self.low >> (number - 1) & 1 == 1,
            _ => self.high.as_ref().is_some_and(|high| high.contains(&number)),
        }
    }

    /// All numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = BusinessNo> + '_ {
        let low = (1..=64).filter(|n| self.low >> (n - 1) & 1 == 1);
        let high = self.high.iter().flat_map(|high| high.iter().copied());
        low.chain(high).map(BusinessNo)
    }
}

/// What the table holds for a device: its session, or after that what is remembered of it.
#[derive(Debug)]
pub(crate) struct Route {
    /// Epoch of the session, or of the last one.
    pub(crate) epoch: u64,
    /// Since when it is bound, or when it was released; milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// Businesses of the session.
    pub(crate) serves: Serves,
    pub(super) instance: [u8; 16],
    pub(super) attempt: u64,
    pub(super) life: LifeNo,
    pub(super) slot: u32,
    pub(super) generation: u32,
    /// Round of the shard's writes that took its last change.
    pub(super) round: u32,
    pub(super) stamp: u16,
    pub(super) bound: bool,
}

impl Route {
    /// What the store remembered: no session.
    pub(super) fn remembered(memory: Memory, round: u32) -> Self {
        Self {
            epoch: memory.epoch,
            at_ms: memory.at_ms,
            serves: Serves::default(),
            instance: memory.instance,
            attempt: memory.attempt,
            life: LifeNo(0),
            slot: 0,
            generation: 0,
            round,
            stamp: 0,
            bound: false,
        }
    }

    /// The connection it leads to, if it leads anywhere.
    pub(crate) fn owner(&self) -> Option<Owner> {
        let at = SlotRef { slot: self.slot, generation: self.generation };
        self.bound.then_some(Owner { life: self.life, stamp: self.stamp, at })
    }

    pub(super) fn bind(&mut self, owner: Owner) {
        self.life = owner.life;
        self.stamp = owner.stamp;
        self.slot = owner.at.slot;
        self.generation = owner.at.generation;
        self.bound = true;
    }

    pub(super) fn unbind(&mut self, now_ms: u64) {
        self.bound = false;
        self.serves = Serves::default();
        self.at_ms = now_ms;
    }

    pub(super) fn memory(&self, now_ms: u64) -> Memory {
        let (instance, attempt) = (self.instance, self.attempt);
        Memory { epoch: self.epoch, instance, attempt, at_ms: now_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_eighty_bytes() {
        assert_eq!(size_of::<Route>(), 80);
    }

    #[test]
    fn businesses_low_and_high_are_served() {
        let serves = Serves::new(&[64, 1, 0, 65, 900]);
        for (number, expected) in
            [(0, false), (1, true), (2, false), (64, true), (65, true), (66, false), (900, true)]
        {
            assert_eq!(serves.contains(BusinessNo(number)), expected, "{number}");
        }
        let all: Vec<u32> = serves.iter().map(|no| no.0).collect();
        assert_eq!(all, [1, 64, 65, 900]);
    }
}
