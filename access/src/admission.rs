//! Who may come in just now: how many connections a second the node takes, and which addresses have
//! failed to log in too often. [`Accepts`] and [`FailedLogins`] are pure: the time comes in as an
//! argument.

use crate::config::Config;
use foldhash::fast::RandomState;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Addresses looked at for each new one, to find those that need not be remembered any more.
const TIDIED_AT_ONCE: usize = 2;
/// Nobody who was turned away comes again sooner than this, nor is told of a time further away than that.
const RETRY_MS_MIN: u32 = 1_000;
const QUEUE_MAX: Duration = Duration::from_mins(1);
/// Turns are given out one after the other; this blurs what devices make of them in step.
const RETRY_JITTER_MS: u32 = 500;

/// A rate with a burst: a token bucket, which is known by the time when it is full again.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// One token comes back after this long.
    interval: Duration,
    /// All of them do after this long.
    depth: Duration,
}

impl Rate {
    /// With a burst of at least one.
    fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, depth: interval.saturating_mul(burst.max(1)) }
    }

    fn is_empty(self, full_at: Instant, now: Instant) -> bool {
        full_at.saturating_duration_since(now) + self.interval > self.depth
    }

    /// Takes a token, or the last part of one. Returns when the bucket is full again.
    fn take(self, full_at: Instant, now: Instant) -> Instant {
        (full_at.max(now) + self.interval).min(now + self.depth)
    }
}

/// How many connections a second are taken in, with a burst of one second's; and when those who were turned
/// away may come again.
#[derive(Debug)]
pub(crate) struct Accepts {
    rate: Rate,
    full_at: Instant,
    /// The turns of those who were turned away are given out up to here.
    booked_until: Instant,
}

impl Accepts {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = per_second.max(1);
        let rate = Rate::new(Duration::from_secs(1) / per_second, per_second);
        Self { rate, full_at: now, booked_until: now }
    }

    /// Gives whoever is turned away now a turn behind all who were turned away before, at a rate that leaves
    /// a fifth to those who come for the first time. Not everybody comes back, and not everybody is a
    /// device: the queue is not longer than [`QUEUE_MAX`].
    pub(crate) fn turn_after(&mut self, now: Instant) -> Duration {
        let next = self.booked_until.max(now) + self.rate.interval * 5 / 4;
        self.booked_until = next.min(now + QUEUE_MAX);
        next.min(now + QUEUE_MAX) - now
    }

    /// Whether less than half of the burst is left.
    pub(crate) fn is_pressed(&self, now: Instant) -> bool {
        self.full_at.saturating_duration_since(now) > self.rate.depth / 2
    }

    /// Counts one more in, if it may come.
    pub(crate) fn admit(&mut self, now: Instant) -> bool {
        let is_welcome = !self.rate.is_empty(self.full_at, now);
        if is_welcome {
            self.full_at = self.rate.take(self.full_at, now);
        }
        is_welcome
    }
}

/// All of it, as the doors and the logins ask for it. The locks are held for one look.
pub(crate) struct Admission {
    accepts: Mutex<Accepts>,
    failed_logins: Mutex<FailedLogins>,
    refusals: AtomicU64,
    /// Of these control knows.
    refusals_told: AtomicU64,
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Self {
        let rate = Rate::new(config.failed_login_interval, config.failed_logins_max);
        let failed = FailedLogins::new(rate, config.failed_login_addresses_max);
        Self {
            accepts: Mutex::new(Accepts::new(config.accepts_per_second, Instant::now())),
            failed_logins: Mutex::new(failed),
            refusals: AtomicU64::new(0),
            refusals_told: AtomicU64::new(0),
        }
    }

    /// Counts a new connection in, if the rate allows it.
    pub(crate) fn admit(&self) -> bool {
        self.accepts.lock().admit(Instant::now())
    }

    /// When somebody who is turned away for want of room in the rate may come again.
    pub(crate) fn retry_after_ms(&self) -> u32 {
        let turn = self.accepts.lock().turn_after(Instant::now());
        let jitter_ms = rand::random_range(0..=RETRY_JITTER_MS);
        RETRY_MS_MIN + u32::try_from(turn.as_millis()).unwrap_or(u32::MAX / 2) + jitter_ms
    }

    /// Whether addresses should prove themselves before more is done for them.
    pub(crate) fn is_pressed(&self) -> bool {
        self.accepts.lock().is_pressed(Instant::now())
    }

    /// A connection was turned away. True: control should hear of it, since it believes that there is none.
    pub(crate) fn refused(&self) -> bool {
        let before = self.refusals.fetch_add(1, Ordering::Relaxed);
        before == self.refusals_told.load(Ordering::Relaxed)
    }

    /// Connections turned away since the start.
    pub(crate) fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    /// Control was told of so many.
    pub(crate) fn refusals_told(&self, refusals: u64) {
        self.refusals_told.store(refusals, Ordering::Relaxed);
    }

    /// Whether nobody of this address may log in just now.
    pub(crate) fn is_limited(&self, address: IpAddr) -> bool {
        self.failed_logins.lock().is_limited(address, Instant::now())
    }

    /// A login from this address has failed.
    pub(crate) fn login_failed(&self, address: IpAddr) {
        self.failed_logins.lock().count(address, Instant::now());
    }
}

/// What is counted together: an IPv4 address, or the /64 of an IPv6 address, which one subscriber has
/// to himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Origin {
    V4(Ipv4Addr),
    V6(u64),
}

impl From<IpAddr> for Origin {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((u128::from(address) >> 64) as u64),
        }
    }
}

/// Failed logins by address. Good ones are not counted: a carrier puts thousands of devices behind one
/// address. Bounded: when there are too many addresses, the one longest known is forgotten.
#[derive(Debug)]
pub(crate) struct FailedLogins {
    rate: Rate,
    origins_max: usize,
    /// When the bucket of each is full again.
    full_at: HashMap<Origin, Instant, RandomState>,
    /// The same ones, in the order in which they came.
    order: VecDeque<Origin>,
}

impl FailedLogins {
    fn new(rate: Rate, addresses_max: usize) -> Self {
        Self {
            rate,
            origins_max: addresses_max.max(1),
            full_at: HashMap::default(),
            order: VecDeque::new(),
        }
    }

    /// Whether nobody of this address may log in just now.
    pub(crate) fn is_limited(&self, address: IpAddr, now: Instant) -> bool {
        let full_at = self.full_at.get(&address.into());
        full_at.is_some_and(|&full_at| self.rate.is_empty(full_at, now))
    }

    /// A login from this address has failed.
    pub(crate) fn count(&mut self, address: IpAddr, now: Instant) {
        let origin = address.into();
        if let Some(full_at) = self.full_at.get_mut(&origin) {
            *full_at = self.rate.take(*full_at, now);
            return;
        }
        self.tidy(now);
        while self.order.len() >= self.origins_max
            && let Some(oldest) = self.order.pop_front()
        {
            self.full_at.remove(&oldest);
        }
        self.full_at.insert(origin, self.rate.take(now, now));
        self.order.push_back(origin);
    }

    /// Forgets some of those whose bucket is full again.
    fn tidy(&mut self, now: Instant) {
        for _ in 0..TIDIED_AT_ONCE {
            let Some(oldest) = self.order.front() else { return };
            if self.full_at.get(oldest).is_some_and(|&full_at| full_at > now) {
                return;
            }
            self.full_at.remove(oldest);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn failed(per_second: u32, burst: u32, addresses_max: usize) -> FailedLogins {
        FailedLogins::new(Rate::new(Duration::from_secs(1) / per_second, burst), addresses_max)
    }

    fn fail(failed: &mut FailedLogins, from: &str, times: usize, now: Instant) {
        for _ in 0..times {
            failed.count(address(from), now);
        }
    }

    #[test]
    fn accepts_stop_after_a_burst_of_one_second_and_come_back_at_the_rate() {
        let begun = Instant::now();
        let mut accepts = Accepts::new(1_500, begun);
        let admitted =
            |accepts: &mut Accepts, now| (0..5_000).filter(|_| accepts.admit(now)).count();
        assert_eq!(admitted(&mut accepts, begun), 1_500);
        assert_eq!(admitted(&mut accepts, begun + Duration::from_millis(100)), 150);
        // Not more than the burst, however long it was quiet.
        assert_eq!(admitted(&mut accepts, begun + Duration::from_hours(1)), 1_500);
        assert_eq!(admitted(&mut Accepts::new(0, begun), begun), 1);
    }

    #[test]
    fn those_who_are_turned_away_come_again_one_after_the_other() {
        let begun = Instant::now();
        let mut accepts = Accepts::new(1_000, begun);
        let turns: Vec<Duration> = (0..20_000).map(|_| accepts.turn_after(begun)).collect();
        assert!(turns.is_sorted());
        let most = (0..25).map(|second| {
            let within = Duration::from_secs(second)..Duration::from_secs(second + 1);
            turns.iter().filter(|turn| within.contains(*turn)).count()
        });
        assert!(most.max() <= Some(801), "four fifths of the rate");
        assert_eq!(turns.last().map(Duration::as_secs), Some(25), "and not slower than needed");
        // The queue runs off while nobody comes.
        let later = begun + Duration::from_secs(24);
        assert!(accepts.turn_after(later) < Duration::from_millis(1_200));
        // However many are turned away, nobody waits for ever.
        let mut flooded = Accepts::new(10, begun);
        let longest = (0..100_000).map(|_| flooded.turn_after(begun)).max();
        assert_eq!(longest, Some(QUEUE_MAX));
    }

    #[test]
    fn a_node_is_pressed_when_half_of_its_burst_is_gone() {
        let begun = Instant::now();
        let mut accepts = Accepts::new(100, begun);
        for n in 0..=50 {
            assert!(!accepts.is_pressed(begun), "{n}");
            accepts.admit(begun);
        }
        assert!(accepts.is_pressed(begun));
        assert!(!accepts.is_pressed(begun + Duration::from_millis(20)));
    }

    #[test]
    fn an_address_is_limited_after_its_burst_and_alone() {
        let begun = Instant::now();
        let mut failed = failed(20, 40, 100);
        fail(&mut failed, "192.0.2.1", 39, begun);
        assert!(!failed.is_limited(address("192.0.2.1"), begun));
        fail(&mut failed, "192.0.2.1", 1, begun);
        assert!(failed.is_limited(address("192.0.2.1"), begun));
        assert!(failed.is_limited(address("::ffff:192.0.2.1"), begun), "the same one, mapped");
        assert!(!failed.is_limited(address("192.0.2.2"), begun));
        assert!(failed.is_limited(address("192.0.2.1"), begun + Duration::from_millis(49)));
        assert!(!failed.is_limited(address("192.0.2.1"), begun + Duration::from_millis(50)));
        // What is counted while it is empty does not lengthen the wait.
        fail(&mut failed, "192.0.2.1", 1_000, begun);
        assert!(!failed.is_limited(address("192.0.2.1"), begun + Duration::from_millis(50)));
    }

    #[test]
    fn a_64_is_one_address() {
        let begun = Instant::now();
        let mut failed = failed(20, 2, 100);
        fail(&mut failed, "2001:db8::1", 1, begun);
        fail(&mut failed, "2001:db8::ffff:1", 1, begun);
        assert!(failed.is_limited(address("2001:db8::2"), begun));
        assert!(!failed.is_limited(address("2001:db8:0:1::1"), begun));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_the_oldest_go() {
        let begun = Instant::now();
        let mut failed = failed(1, 1, 3);
        for last in 1..=4 {
            fail(&mut failed, &format!("192.0.2.{last}"), 1, begun);
        }
        assert_eq!((failed.full_at.len(), failed.order.len()), (3, 3));
        let limited = |failed: &FailedLogins, last: u8| {
            failed.is_limited(IpAddr::from([192, 0, 2, last]), begun)
        };
        assert_eq!([1, 2, 3, 4].map(|last| limited(&failed, last)), [false, true, true, true]);
        // Those that are full again go without being pushed out.
        let later = begun + Duration::from_secs(2);
        fail(&mut failed, "198.51.100.1", 1, later);
        fail(&mut failed, "198.51.100.2", 1, later);
        assert_eq!((failed.full_at.len(), failed.order.len()), (2, 2));
    }
}
