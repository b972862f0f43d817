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
/// The same for memory: what an allocator keeps, what a store has written meanwhile. Rows
/// gain 2 MiB as a rule, and 9 where the embedded store is full; the figure says what each has gained.
const SLACK_BYTES: f64 = 16.0 * 1024.0 * 1024.0;
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

/// What was compared, and what was found.
#[derive(Clone, Debug, Default)]
pub(super) struct Compared {
    /// Processes that lived through it.
    pub(super) processes: usize,
    /// Those that started meanwhile: nothing is known of what they held.
    pub(super) new: usize,
    pub(super) leaks: Vec<String>,
    /// The most that the memory of one has grown: by how many bytes, and what it was.
    pub(super) grown: (f64, f64),
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

    /// Memory that a first round has taken is no leak when the same again takes no more: the allocator keeps
    /// for the next one what it had to have at the most. True: some process has grown by more than a little.
    pub(super) async fn had_at_the_most(&mut self, cluster: &Cluster) -> bool {
        let now = Self::of(cluster).await;
        let mut has_grown = false;
        for (service, before) in &mut self.0 {
            let Some(now) = now.0.get(service).filter(|it| it.starts == before.starts) else {
                continue;
            };
            if let (Some(was), Some(is)) = (before.what.get_mut("memory"), now.what.get("memory")) {
                has_grown |= *is > *was + SLACK_BYTES;
                *was = was.max(*is);
            }
        }
        has_grown
    }

    /// What those that lived through it hold more than before; looks again until nothing is left, or its
    /// patience ends.
    pub(super) async fn leaks(&self, cluster: &Cluster) -> Compared {
        let started = Instant::now();
        loop {
            let now = Self::of(cluster).await;
            let compared = self.against(&now);
            if compared.leaks.is_empty() || started.elapsed() > PATIENCE {
                return compared;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn against(&self, now: &Self) -> Compared {
        let mut compared = Compared::default();
        for (service, before) in &self.0 {
            let Some(after) = now.0.get(service) else {
                compared.leaks.push(format!("{service} does not say what it holds"));
                continue;
            };
            if after.starts != before.starts {
                compared.new += 1;
                continue;
            }
            compared.processes += 1;
            let gained = (after.sessions - before.sessions).max(0.0);
            for (name, was) in &before.what {
                let Some(is) = after.what.get(name) else { continue };
                let slack = match *name {
                    "memory" => SLACK_BYTES + gained * SESSION_BYTES,
                    _ => SLACK + gained * SESSION_TASKS,
                };
                if *name == "memory" && is - was > compared.grown.0 {
                    compared.grown = (is - was, *was);
                }
                if *is > was * (1.0 + SHARE) + slack {
                    compared.leaks.push(format!("{service} holds {name} {is:.0}, before {was:.0}"));
                }
            }
        }
        compared
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
        let leaks = |now| before.against(&now).leaks.len();
        assert_eq!(leaks(holds("descriptors", 1_050.0, 500.0, 1)), 0);
        assert_eq!(leaks(holds("descriptors", 1_100.0, 500.0, 1)), 1);
        assert_eq!(leaks(holds("descriptors", 1_100.0, 600.0, 1)), 0);
        assert_eq!(leaks(holds("descriptors", 9_000.0, 500.0, 2)), 0);
    }

    #[test]
    fn only_what_lived_through_it_was_compared() {
        let before = holds("descriptors", 1_000.0, 500.0, 1);
        let same = before.against(&before);
        assert_eq!((same.processes, same.new), (1, 0));
        let anew = before.against(&holds("descriptors", 1_000.0, 500.0, 2));
        assert_eq!((anew.processes, anew.new), (0, 1));
        assert_eq!(before.against(&Holdings::default()).leaks.len(), 1);
    }
}
