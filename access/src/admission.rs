//! Who may come in just now: how many connections a second the node takes, and which addresses have
//! failed to log in too often. [`Accepts`] and [`FailedLogins`] are pure: the time comes in as an
//! argument.

use crate::config::Config;
use foldhash::fast::RandomState;
use hawser_proto::code::CloseCode;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Addresses looked at for each new one, to find those that need not be remembered any more.
const TIDIED_AT_ONCE: usize = 2;

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

/// How many connections a second are taken in, with a burst of one second's.
#[derive(Debug)]
pub(crate) struct Accepts {
    rate: Rate,
    full_at: Instant,
}

impl Accepts {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        let per_second = per_second.max(1);
        Self { rate: Rate::new(Duration::from_secs(1) / per_second, per_second), full_at: now }
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

/// Both, as the doors and the logins ask for them. The locks are held for one look.
pub(crate) struct Admission {
    accepts: Mutex<Accepts>,
    failed_logins: Mutex<FailedLogins>,
}

impl Admission {
    pub(crate) fn new(config: &Config) -> Self {
        let rate = Rate::new(config.failed_login_interval, config.failed_logins_max);
        let failed = FailedLogins::new(rate, config.failed_login_addresses_max);
        Self {
            accepts: Mutex::new(Accepts::new(config.accepts_per_second, Instant::now())),
            failed_logins: Mutex::new(failed),
        }
    }

    /// Counts a new connection in. `Err`: why not, for the metric and for the device.
    pub(crate) fn admit(&self, address: IpAddr) -> Result<(), (&'static str, CloseCode)> {
        if self.is_limited(address) {
            return Err(("failed_logins", CloseCode::RateLimited));
        }
        if self.accepts.lock().admit(Instant::now()) {
            return Ok(());
        }
        Err(("rate", CloseCode::Overloaded))
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
