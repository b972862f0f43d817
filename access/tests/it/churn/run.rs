//! One run: a node, a crowd and a liar, and what came of it.

use super::crowd::Crowd;
use super::liar::{Liar, Memory};
use super::sealed::Choices;
use crate::fakes::control::Control;
use crate::fakes::router::Router;
use crate::house::{self, metric};
use crate::{PATIENCE, eventually};
use hawser_access::{Guards, Listeners, Running};
use parking_lot::Mutex;
use prometheus::Registry;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Few, so that each is used again all the time.
const SLOTS: u32 = 32;
/// Devices at once: some slots are always empty, or about to be.
const SEATS: usize = 28;
const DOORS: usize = 4;
const REASONS: [&str; 5] = ["boot", "generation", "identity", "epoch", "free"];

/// What a run has shown.
pub struct Outcome {
    name: &'static str,
    pub reused: u64,
    pub pushes: u64,
    pub delivered: u64,
    blocked: [u64; REASONS.len()],
    pub wrong_device: u64,
    pub wrong_session: u64,
    seconds: f64,
}

impl Outcome {
    pub const HEADER: &str = "guards          reuses     pushes  delivered |      boot generation   \
        identity      epoch       free | wrong device  session | seconds";

    pub fn blocked(&self, reason: &str) -> u64 {
        let index = REASONS.iter().position(|it| *it == reason).unwrap();
        self.blocked[index]
    }

    /// What part of all refusals had this reason.
    pub fn share(&self, reason: &str) -> f64 {
        self.blocked(reason) as f64 / self.blocked.iter().sum::<u64>().max(1) as f64
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [boot, generation, identity, epoch, free] = self.blocked;
        let Self { name, reused, pushes, delivered, wrong_device, wrong_session, seconds, .. } =
            self;
        write!(
            f,
            "{name:14} {reused:7} {pushes:10} {delivered:10} | {boot:9} {generation:10} \
             {identity:10} {epoch:10} {free:10} | {wrong_device:12} {wrong_session:8} | {seconds:7.1}"
        )
    }
}

struct Place {
    node: Running,
    registry: Registry,
}

impl Place {
    async fn open(control: &Control, router: &Router, guards: Guards, crowd: &Crowd) -> Self {
        let mut config = house::config(control, router);
        config.connections_max = SLOTS;
        // The limit on accepts would set the pace of the run.
        config.accepts_per_second = 1_000_000;
        config.unauthenticated_percent_max = 100;
        config.linger = Duration::from_millis(20);
        config.guards = guards;
        let mut tcp = Vec::new();
        for _ in 0..DOORS {
            tcp.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let registry = Registry::new();
        let listeners = Listeners { tcp, ..Default::default() };
        let node = hawser_access::start(config, listeners, &registry).await.unwrap();
        eventually("the node is ready", || node.is_ready().then_some(())).await;
        *crowd.doors.lock() = node.addresses().iter().map(|&(_, address)| address).collect();
        Self { node, registry }
    }

    /// Ends the node; what its counters said is added.
    async fn end(self, crowd: &Crowd, blocked: &mut [u64; REASONS.len()]) {
        crowd.doors.lock().clear();
        assert!(self.node.shutdown(PATIENCE).await, "the node ended with tasks left");
        for (reason, sum) in REASONS.iter().zip(blocked) {
            let name = "hawser_access_stale_writes_blocked_total";
            *sum += metric(&self.registry, name, &[("reason", reason)]) as u64;
        }
        for gauge in ["hawser_access_connections", "hawser_access_sessions"] {
            assert_eq!(metric(&self.registry, gauge, &[]), 0, "{gauge}");
        }
    }
}

pub async fn churn(name: &'static str, guards: Guards, reuses: u64, seed: u64) -> Outcome {
    let begun = Instant::now();
    let key = seed ^ 0x005e_a1ed;
    let memory = Arc::new(Mutex::new(Memory::default()));
    let remember = memory.clone();
    let router = Router::start_with(Some(Box::new(move |route| remember.lock().add(route)))).await;
    let control = Control::start(house::snapshot("http://127.0.0.1:1")).await;
    let crowd = Arc::new(Crowd::new(key));
    let liar = Arc::new(Liar { key, memory: memory.clone(), pushes: AtomicU64::new(0) });

    let mut place = Place::open(&control, &router, guards, &crowd).await;
    let mut seats = tokio::task::JoinSet::new();
    for seat in 0..SEATS {
        let (crowd, choices) = (crowd.clone(), Choices(seed.wrapping_add(1 + seat as u64)));
        seats.spawn(async move { crowd.sit(choices).await });
    }
    let pushing = tokio::spawn({
        let (liar, crowd, router) = (liar.clone(), crowd.clone(), router.clone());
        async move {
            let mut choices = Choices(seed);
            while !crowd.is_over.load(Ordering::Relaxed) {
                liar.push(&router, &mut choices, &crowd.is_over).await;
            }
        }
    });

    let mut blocked = [0; REASONS.len()];
    reach(&crowd, reuses / 2).await;
    // The same node again, in another life. The router goes on about the old one, too.
    place.end(&crowd, &mut blocked).await;
    memory.lock().node_died();
    place = Place::open(&control, &router, guards, &crowd).await;
    reach(&crowd, reuses).await;

    crowd.is_over.store(true, Ordering::Relaxed);
    pushing.await.unwrap();
    while let Some(seat) = seats.join_next().await {
        seat.unwrap();
    }
    place.end(&crowd, &mut blocked).await;
    let what = &crowd.seen;
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(count(&what.early), 0, "{name}: pushes came before LOGIN_OK and were lost");
    Outcome {
        name,
        reused: count(&what.reused),
        pushes: count(&liar.pushes),
        delivered: count(&what.delivered),
        blocked,
        wrong_device: count(&what.wrong_device),
        wrong_session: count(&what.wrong_session),
        seconds: begun.elapsed().as_secs_f64(),
    }
}

/// Waits until so many slots were used again; a standstill is a failure.
async fn reach(crowd: &Crowd, reuses: u64) {
    let mut last = (0, Instant::now());
    loop {
        let done = crowd.seen.reused.load(Ordering::Relaxed);
        if done >= reuses {
            return;
        }
        if done > last.0 {
            last = (done, Instant::now());
        }
        assert!(last.1.elapsed() < PATIENCE * 3, "no device came in any more at {done}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
