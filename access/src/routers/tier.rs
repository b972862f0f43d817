//! The routers as this node sees them: which there are, what each does, and which of several a word goes to.
//!
//! A stream has a queue of its own, which ends with it: no word of before is ever sent on the next stream,
//! where everything is told anew.

use hawser_proto::rpc::node::{Ask, DeliveryReport, up::What};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Words that may wait for one router.
pub(super) const UPLINK_MAX: usize = 65_536;
/// The first pause after a router could not answer, if there are others; it doubles.
const PAUSE_MS: u64 = 1_000;
const PAUSE_DOUBLINGS_MAX: u32 = 3;

/// What a router does: the bits of `Welcome.functions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Functions(u32);

impl Functions {
    /// Binds, unbinds, presence.
    pub(crate) const LOGINS: Self = Self(1);
    /// Pushes and groups.
    pub(crate) const PUSH: Self = Self(2);
    /// Asks of nodes.
    pub(crate) const INBOX: Self = Self(4);
    const ALL: Self = Self(7);

    /// As a router says it; one that says nothing does everything.
    pub(super) fn said(bits: u32) -> Self {
        if bits == 0 { Self::ALL } else { Self(bits) }
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// One router, for as long as it is in the list.
#[derive(Debug)]
pub(crate) struct Router {
    /// Never given to another one.
    pub(crate) number: u32,
    pub(super) uri: String,
    /// As it said last; none before it was first heard.
    functions: AtomicU32,
    /// Hash of its name, which all nodes know it by.
    rank: AtomicU64,
    /// Wheel time (ms) until which others are asked first.
    refusing_until_ms: AtomicU64,
    refusals: AtomicU32,
    /// It will end soon, and has said so.
    is_leaving: AtomicBool,
    /// It is not in the list any more, or the node ends.
    pub(super) stop: CancellationToken,
}

impl Router {
    pub(super) fn new(number: u32, uri: &str, stop: CancellationToken) -> Self {
        Self {
            number,
            uri: uri.to_owned(),
            functions: AtomicU32::new(0),
            rank: AtomicU64::new(0),
            refusing_until_ms: AtomicU64::new(0),
            refusals: AtomicU32::new(0),
            is_leaving: AtomicBool::new(false),
            stop,
        }
    }

    /// What it said of itself. Without a name it goes by its address.
    pub(super) fn heard(&self, name: &str, functions: Functions) {
        let name = if name.is_empty() { &self.uri } else { name };
        self.rank.store(key(&[name]), Ordering::Relaxed);
        self.is_leaving.store(false, Ordering::Relaxed);
        self.functions.store(functions.0, Ordering::Release);
    }

    pub(crate) fn does(&self, function: Functions) -> bool {
        Functions(self.functions.load(Ordering::Acquire)).has(function)
    }

    /// It ends soon: what is new goes to others.
    pub(super) fn leaves(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
    }

    /// It could not answer, or did not in time: for a while others are asked first.
    pub(super) fn refused(&self, now_ms: u64) {
        let doublings = self.refusals.load(Ordering::Relaxed).min(PAUSE_DOUBLINGS_MAX);
        // Of many calls that fail together one counts.
        if !self.is_refusing(now_ms) {
            self.refusals.store(doublings + 1, Ordering::Relaxed);
            self.refusing_until_ms.store(now_ms + (PAUSE_MS << doublings), Ordering::Relaxed);
        }
    }

    /// It has answered.
    pub(super) fn answered(&self) {
        // Looked at first: nearly always there is nothing to write.
        if self.refusals.load(Ordering::Relaxed) != 0 {
            self.refusals.store(0, Ordering::Relaxed);
            self.refusing_until_ms.store(0, Ordering::Relaxed);
        }
    }

    pub(super) fn is_refusing(&self, now_ms: u64) -> bool {
        self.refusing_until_ms.load(Ordering::Relaxed) > now_ms
    }
}

/// A control stream that is up.
pub(crate) struct Up {
    pub(crate) router: Arc<Router>,
    /// Tells this stream from all others, to whichever router.
    pub(crate) stream: u64,
    queue: mpsc::Sender<What>,
    /// It knows Here, Gone and AllTold.
    pub(super) takes_here: bool,
    /// A word found no room: the stream is begun anew, and everything told again.
    pub(super) has_lost: Notify,
}

impl Up {
    pub(super) fn new(
        router: Arc<Router>,
        stream: u64,
        takes_here: bool,
    ) -> (Arc<Self>, mpsc::Receiver<What>) {
        let (queue, words) = mpsc::channel(UPLINK_MAX);
        (Arc::new(Self { router, stream, queue, takes_here, has_lost: Notify::new() }), words)
    }

    /// Queues a word without waiting. `Some`: it will not be sent, and comes back; unless the stream has
    /// ended anyway, it is begun anew for that, and everything told again.
    pub(crate) fn send(&self, word: What) -> Option<What> {
        match self.queue.try_send(word) {
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(word)) => {
                self.has_lost.notify_one();
                Some(word)
            }
            Err(mpsc::error::TrySendError::Closed(word)) => Some(word),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.capacity() == self.queue.max_capacity()
    }
}

/// The way up a deliver stream.
pub(crate) struct Deliver {
    pub(super) router: Arc<Router>,
    /// Tells this stream from all others.
    pub(super) stream: u64,
    pub(super) reports: mpsc::Sender<DeliveryReport>,
    pub(super) asks: mpsc::Sender<Ask>,
}

/// Something that leads to a router.
pub(super) trait Way {
    fn router(&self) -> &Router;
}

impl Way for Up {
    fn router(&self) -> &Router {
        &self.router
    }
}

impl Way for Deliver {
    fn router(&self) -> &Router {
        &self.router
    }
}

/// Of all that do this, the one for a key: the same at each node and each time, as long as it is up and
/// answers. Those that end soon or do not answer just now come last; those in `tried` not at all.
pub(super) fn pick<'w, W: Way>(
    ways: &'w [Arc<W>],
    function: Functions,
    key: u64,
    now_ms: u64,
    tried: &[u32],
) -> Option<&'w Arc<W>> {
    ways.iter()
        .filter(|way| way.router().does(function) && !tried.contains(&way.router().number))
        .max_by_key(|way| {
            let router = way.router();
            let weight = mix(router.rank.load(Ordering::Relaxed) ^ mix(key));
            let is_leaving = router.is_leaving.load(Ordering::Relaxed);
            (!is_leaving, !router.is_refusing(now_ms), weight)
        })
}

/// The key of a name in parts (FNV-1a: the same in each release). No part holds a zero byte.
pub(super) fn key(parts: &[&str]) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, step)
}

/// Spreads every bit over all (the end of splitmix64).
fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routers(names: &[(&str, u32)]) -> Vec<Arc<Up>> {
        let up = |(number, &(name, functions)): (usize, &(&str, u32))| {
            let router = Router::new(number as u32, "http://r", CancellationToken::new());
            router.heard(name, Functions::said(functions));
            Up::new(Arc::new(router), number as u64, true).0
        };
        names.iter().enumerate().map(up).collect()
    }

    fn picked(ups: &[Arc<Up>], n: u32, now_ms: u64) -> u32 {
        let key = key(&["app", &format!("device-{n}")]);
        pick(ups, Functions::LOGINS, key, now_ms, &[]).unwrap().router.number
    }

    #[test]
    fn each_device_has_its_router_and_only_those_of_a_lost_one_move() {
        let all = routers(&[("r-1", 0), ("r-2", 1), ("r-3", 7)]);
        let mut counts = [0_u32; 3];
        let two = &all[..2];
        for n in 0..3_000 {
            let now = picked(&all, n, 0);
            counts[now as usize] += 1;
            assert!(now == 2 || picked(two, n, 0) == now, "device {n} moved without need");
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }

    #[test]
    fn a_router_is_asked_for_what_it_does_and_last_while_it_does_not_answer() {
        let all = routers(&[("r-1", 2), ("r-2", 1), ("r-3", 5)]);
        assert!((0..100).all(|n| picked(&all, n, 0) != 0), "r-1 takes no logins");
        all[1].router.refused(1_000);
        assert!((0..100).all(|n| picked(&all, n, 1_500) == 2));
        all[2].router.refused(1_000);
        assert!((0..100).any(|n| picked(&all, n, 1_500) == 1), "better than none");
        all[1].router.answered();
        assert!((0..100).all(|n| picked(&all, n, 1_500) == 1));
        assert!((0..100).any(|n| picked(&all, n, 2_001) == 2), "its pause is over");
        all[1].router.leaves();
        assert!((0..100).all(|n| picked(&all, n, 2_001) == 2), "it ends soon");
        let none = pick(&all, Functions::LOGINS, 7, 0, &[1, 2]);
        assert!(none.is_none(), "both were tried");
    }
}
