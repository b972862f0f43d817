//! The router's side: it forgets nothing, and pushes to what it remembers.

use super::crowd::{APPS, NAMES};
use super::sealed::{Choices, seal};
use crate::fakes::router::{Route, Router};
use crate::house::push_frame;
use hawser_proto::rpc::node::{DeliverDown, Delivery, Place, Target};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Routes remembered: about as many as there were slots, a hundred times over.
const REMEMBERED: usize = 4_096;
/// Pushes in one message.
const BATCH: usize = 16;
/// Pushes on their way. More would all be about connections that have gone.
const WINDOW: u64 = 4 * BATCH as u64;

/// Routes of the past and the present.
#[derive(Default)]
pub struct Memory {
    routes: Vec<Route>,
    next: usize,
    /// Routes of the node's life before, for as long as the run lasts.
    of_the_dead: Vec<Route>,
    /// Per device the two last ones, the newest first.
    latest: HashMap<(String, String), (Route, Option<Route>)>,
    /// The latest of each slot: the connections that are likely there.
    of_slot: HashMap<(u64, u32), Route>,
}

impl Memory {
    pub fn add(&mut self, route: &Route) {
        if self.routes.len() < REMEMBERED {
            self.routes.push(route.clone());
        } else {
            let next = self.next % REMEMBERED;
            self.routes[next] = route.clone();
        }
        self.next += 1;
        let name = (route.app.clone(), route.device.clone());
        let before = self.latest.remove(&name).map(|(newest, _)| newest);
        self.latest.insert(name, (route.clone(), before));
        self.of_slot.insert((route.boot, route.slot), route.clone());
    }

    /// A node that died: where its devices were is remembered, but nobody is there any more.
    pub fn node_died(&mut self) {
        self.of_the_dead.clone_from(&self.routes);
        self.of_slot.clear();
    }
}

/// Pushes at full speed.
pub struct Liar {
    pub key: u64,
    pub memory: Arc<Mutex<Memory>>,
    pub pushes: AtomicU64,
}

impl Liar {
    /// Pushes down one stream, until it ends or all is over.
    pub async fn push(&self, router: &Router, choices: &mut Choices, is_over: &AtomicBool) {
        let to = router.deliver_sender().await;
        let mut reports = router.reported.subscribe();
        let heard_before = *reports.borrow_and_update();
        let mut sent = 0;
        while !is_over.load(Ordering::Relaxed) && !to.is_closed() {
            if sent >= WINDOW + *reports.borrow_and_update() - heard_before {
                tokio::select! {
                    _ = reports.changed() => {}
                    () = to.closed() => return,
                }
                continue;
            }
            let deliveries: Vec<Delivery> = {
                let memory = self.memory.lock();
                let present: Vec<&Route> = memory.of_slot.values().collect();
                let batch = if present.is_empty() { 0 } else { BATCH };
                (0..batch).map(|_| self.one(&memory, &present, choices)).collect()
            };
            if deliveries.is_empty() {
                tokio::task::yield_now().await;
                continue;
            }
            // Stored ones are not reported.
            sent += deliveries.iter().filter(|it| it.place.is_none()).count() as u64;
            self.pushes.fetch_add(deliveries.len() as u64, Ordering::Relaxed);
            if to.send(Ok(DeliverDown { deliveries, answers: Vec::new() })).await.is_err() {
                return;
            }
        }
    }

    fn one(&self, memory: &Memory, present: &[&Route], choices: &mut Choices) -> Delivery {
        let now = present[choices.below(present.len())];
        let mut route = match choices.below(10) {
            // What should arrive.
            0..4 => now.clone(),
            // What has gone, in this life of the node ..
            4..7 => memory.routes[choices.below(memory.routes.len())].clone(),
            // .. and in the one before.
            7 => {
                let old = &memory.of_the_dead;
                let old = if old.is_empty() { &memory.routes } else { old };
                old[choices.below(old.len())].clone()
            }
            // The right connection, and the name of another device.
            8 => {
                let app = APPS[choices.below(APPS.len())].to_owned();
                let device = format!("d-{}", choices.below(NAMES));
                Route { app, device, ..now.clone() }
            }
            // The right connection, and an earlier session of its device.
            _ => {
                let name = (now.app.clone(), now.device.clone());
                let before = memory.latest.get(&name).and_then(|(_, before)| before.as_ref());
                let epoch = before.map_or(now.epoch - 1, |before| before.epoch);
                Route { epoch, ..now.clone() }
            }
        };
        let body = seal(self.key, &route.app, &route.device, route.epoch);
        let device = std::mem::take(&mut route.device);
        let Route { slot, generation, epoch, .. } = route;
        // Every other one is the wake-up of a stored push, of a place that nothing lies before.
        let place = (choices.below(2) == 0).then(|| {
            let seq = self.pushes.load(Ordering::Relaxed) + 1;
            Place { term: 5, seq, ..Default::default() }
        });
        Delivery {
            id: 1,
            place,
            boot: route.boot,
            app: route.app,
            business: 1,
            frame: push_frame(&body),
            targets: vec![Target { slot, generation, epoch, device }],
            ..Default::default()
        }
    }
}
