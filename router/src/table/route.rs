//! One device's entry in the table: kept small, because there are a million of them.

use super::{LifeNo, Session};
use hawser_proto::id::{BusinessNo, SlotRef};

/// The connection that a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The node and boot, by their number here.
    pub life: LifeNo,
    /// Which control stream of that life vouched for the connection last.
    pub stamp: u16,
    /// Where on the node.
    pub at: SlotRef,
}

impl Owner {
    /// Whether both name one connection, whichever stream told of it.
    pub fn is_same_connection(&self, other: &Self) -> bool {
        self.life == other.life && self.at == other.at
    }
}

/// The numbers of the businesses a session serves. The first 64 of an app take no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Serves {
    low: u64,
    #[allow(
        clippy::redundant_allocation,
        reason = "a thin pointer: eight bytes instead of sixteen"
    )]
    high: Option<Box<Box<[u32]>>>,
}

impl Serves {
    /// The numbers as they came; 0 is none and left out.
    pub fn new(numbers: &[u32]) -> Self {
        let is_low = |number: u32| (1..=64).contains(&number);
        let low = numbers.iter().filter(|&&n| is_low(n)).fold(0, |bits, n| bits | 1 << (n - 1));
        let high: Box<[u32]> = numbers.iter().copied().filter(|&n| n > 64).collect();
        Self { low, high: (!high.is_empty()).then(|| Box::new(high)) }
    }

    /// Whether the business is among them.
    pub fn contains(&self, BusinessNo(number): BusinessNo) -> bool {
        match number {
            0 => false,
            1..=64 => self.low >> (number - 1) & 1 == 1,
            _ => self.high.as_ref().is_some_and(|high| high.contains(&number)),
        }
    }

    /// All numbers.
    pub fn iter(&self) -> impl Iterator<Item = BusinessNo> + '_ {
        let low = (1..=64).filter(|n| self.low >> (n - 1) & 1 == 1);
        let high = self.high.iter().flat_map(|high| high.iter().copied());
        low.chain(high).map(BusinessNo)
    }
}

/// What the table holds for a device: where its session is.
#[derive(Debug)]
pub struct Route {
    /// Epoch of the session.
    pub epoch: u64,
    /// Since when it is bound, milliseconds since 1970.
    pub at_ms: u64,
    /// Businesses of the session.
    pub serves: Serves,
    life: LifeNo,
    slot: u32,
    generation: u32,
    stamp: u16,
}

impl Route {
    pub(super) fn new(session: Session) -> Self {
        let Session { owner, epoch, serves, since_ms } = session;
        let SlotRef { slot, generation } = owner.at;
        let (life, stamp) = (owner.life, owner.stamp);
        Self { epoch, at_ms: since_ms, serves, life, slot, generation, stamp }
    }

    /// This control stream of its node has told of it.
    pub(super) fn vouch(&mut self, stamp: u16) {
        self.stamp = stamp;
    }

    /// The connection it leads to.
    pub fn owner(&self) -> Owner {
        let at = SlotRef { slot: self.slot, generation: self.generation };
        Owner { life: self.life, stamp: self.stamp, at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_forty_eight_bytes() {
        assert_eq!(size_of::<Route>(), 48);
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
