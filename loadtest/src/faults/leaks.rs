//! What a process holds, before a fault and after it: descriptors, threads, tasks, memory and queues. A
//! fault that is over leaves nothing behind.

use super::cluster::{Cluster, Service, sum};
use crate::process;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Everything may be this much higher than before.
const SHARE: f64 = 0.05;
/// And this much, since a few of anything are no leak: an idle connection of a pool, a page of a cache.
const SLACK: f64 = 12.0;
/// The same for memory: what an allocator keeps, what a store has written meanwhile.
const SLACK_BYTES: f64 = 24.0 * 1024.0 * 1024.0;
/// A session that came from another node may cost this much, in all.
const SESSION_BYTES: f64 = 24.0 * 1024.0;
const SESSION_TASKS: f64 = 4.0;
/// What is over is let go within this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gauges that stand for something that waits, or is held for someone.
const QUEUES: [&str; 9] = [
    "hawser_tasks",
    "hawser_access_connections",
    "hawser_access_groups",
    "hawser_downlink_unacked",
    "hawser_router_routes",
    "hawser_router_deliveries_pending",
    "hawser_router_releases_waiting",
    "hawser_router_connection_events_waiting",
    "hawser_control_watchers",
];

/// One process at one time.
#[derive(Clone, Debug)]
struct Held {
    starts: u32,
    sessions: f64,
    what: BTreeMap<&'static str, f64>,
}

/// All processes at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Holdings(BTreeMap<Service, Held>);

impl Holdings {
    /// As it is now; processes that are down are left out.
    pub(super) async fn of(cluster: &Cluster) -> Self {
        let mut all = BTreeMap::new();
        for service in cluster.services() {
            if let Some(held) = held(cluster, service).await {
                all.insert(service, held);
            }
        }
        Self(all)
    }

    /// What those that lived through it hold more than before; looks again until nothing is left, or its
    /// patience ends.
    pub(super) async fn leaks(&self, cluster: &Cluster) -> Vec<String> {
        let started = Instant::now();
        loop {
            let now = Self::of(cluster).await;
            let leaks = self.against(&now);
            if leaks.is_empty() || started.elapsed() > PATIENCE {
                return leaks;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn against(&self, now: &Self) -> Vec<String> {
        let mut leaks = Vec::new();
        for (service, before) in &self.0 {
            let Some(after) = now.0.get(service).filter(|it| it.starts == before.starts) else {
                continue;
            };
            let gained = (after.sessions - before.sessions).max(0.0);
            for (name, was) in &before.what {
                let Some(is) = after.what.get(name) else { continue };
                let slack = match *name {
                    "memory" => SLACK_BYTES + gained * SESSION_BYTES,
                    _ => SLACK + gained * SESSION_TASKS,
                };
                if *is > was * (1.0 + SHARE) + slack {
                    leaks.push(format!("{service} holds {name} {is:.0}, before {was:.0}"));
                }
            }
        }
        leaks
    }

    /// Processes that are compared.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

async fn held(cluster: &Cluster, service: Service) -> Option<Held> {
    let (id, starts) = cluster.process(service)?;
    let metrics = cluster.metrics(service).await.ok()?;
    let mut what = BTreeMap::from([
        ("descriptors", process::descriptors(id).ok()? as f64),
        ("threads", process::threads(id).ok()? as f64),
        ("memory", process::resident_bytes(id).ok()? as f64),
    ]);
    what.extend(QUEUES.into_iter().map(|name| (name, sum(&metrics, name))));
    let sessions = match service {
        Service::Access(_) => sum(&metrics, "hawser_access_sessions"),
        Service::Router(_) => sum(&metrics, "hawser_router_routes"),
        Service::Control => 0.0,
    };
    Some(Held { starts, sessions, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(name: &'static str, count: f64, sessions: f64, starts: u32) -> Holdings {
        let what = BTreeMap::from([(name, count)]);
        Holdings(BTreeMap::from([(Service::Router(0), Held { starts, sessions, what })]))
    }

    #[test]
    fn what_stays_is_a_leak_unless_the_process_or_its_devices_are_new() {
        let before = holds("descriptors", 1_000.0, 500.0, 1);
        assert!(before.against(&holds("descriptors", 1_050.0, 500.0, 1)).is_empty());
        assert_eq!(before.against(&holds("descriptors", 1_100.0, 500.0, 1)).len(), 1);
        assert!(before.against(&holds("descriptors", 1_100.0, 600.0, 1)).is_empty());
        assert!(before.against(&holds("descriptors", 9_000.0, 500.0, 2)).is_empty());
    }
}
