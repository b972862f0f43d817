//! Upkeep: what has expired is removed, a little at a time.

use crate::catalogue::{Catalogue, DrainOrder, edit};
use crate::clock::now_ms;
use crate::config::Config;
use crate::nodes::Nodes;
use crate::seal::Sealer;
use crate::shared::Shared;
use crate::store::{Store, Table, Write};
use hawser_proto::id::NodeId;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::warn;

/// A process that was silent for so long, while control was there to hear it, is not coming back to follow its order.
const DRAIN_FORGOTTEN_AFTER: Duration = Duration::from_hours(1);
/// Records looked at in one step.
const CHUNK: usize = 500;

/// Sweeps at every interval until told to stop.
pub(crate) async fn run(shared: Arc<Shared>) {
    let stop = shared.tasks.stop_signal();
    let mut due = tokio::time::interval(shared.config.sweep_interval);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut bindings = BindingSweep::default();
    let mut drains = DrainSweep::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        let swept = async {
            catalogue(&shared).await?;
            ticket_keys(&shared.store, &shared.sealer, &shared.config).await?;
            drains.step(&shared).await?;
            audit(&shared).await?;
            bindings.step(&shared).await
        };
        if let Err(refusal) = swept.await {
            warn!(%refusal, "sweep cut short; the next one goes on");
        }
        let now_ms = now_ms();
        let fresh = shared.nodes.lock().sweep(now_ms, shared.config.node_freshness);
        shared.metrics.nodes.set(fresh as i64);
        let fresh = shared.routers.lock().sweep(now_ms, shared.config.node_freshness);
        shared.metrics.routers.set(fresh as i64);
        let apps: HashSet<_> =
            shared.store.look(|it| it.tenants().map(|(name, _)| name.clone()).collect());
        shared.rates.lock().retain(|app| apps.contains(app));
    }
}

type Swept = Result<(), crate::refusal::Refusal>;

async fn catalogue(shared: &Shared) -> Swept {
    // Looked at first, so that an idle sweep does not wake the writer.
    if shared.store.look(|it| edit::sweep(it, now_ms()).is_some()) {
        shared.store.upkeep(|it, now_ms| Ok(edit::sweep(it, now_ms))).await?;
    }
    Ok(())
}

/// Makes the ticket key that is due, or removes all where tickets are switched off.
pub(crate) async fn ticket_keys(store: &Store, sealer: &Sealer, config: &Config) -> Swept {
    if !config.resume_tickets {
        if store.look(|it| it.ticket_keys().next().is_some()) {
            store.upkeep(|it, _| Ok(edit::ticket_key::remove_all(it))).await?;
        }
        return Ok(());
    }
    let (delay, rotation) = (config.signing_activation_delay, config.ticket_key_rotation);
    let sealer = sealer.clone();
    // Looked at first, so that an idle sweep does not wake the writer.
    if store.look(|it| edit::ticket_key::is_due(it, rotation, now_ms())) {
        let keep = move |it: &Catalogue, now_ms: u64| {
            edit::ticket_key::keep(it, &sealer, delay, rotation, now_ms).transpose()
        };
        store.upkeep(keep).await?;
    }
    Ok(())
}

/// Forgets drain orders whose process is gone: another one has its name now, or it was silent for long.
///
/// Silence counts from the first sweep on, since a control that has just started has heard nobody yet; and by
/// sweeps, not by the clock of the day, which may jump, nor by a pause of this process.
#[derive(Default)]
struct DrainSweep {
    swept: Option<Instant>,
    silences: HashMap<NodeId, Silence>,
}

/// Of the process that an order was given to.
struct Silence {
    order: u64,
    reported_at_ms: Option<u64>,
    lasts: Duration,
}

impl DrainSweep {
    async fn step(&mut self, shared: &Shared) -> Swept {
        let now = Instant::now();
        let since = self.swept.replace(now).map_or(Duration::ZERO, |swept| now - swept);
        let awake = since.min(2 * shared.config.sweep_interval);
        let orders: Vec<DrainOrder> = shared.store.look(|it| it.drains().cloned().collect());
        let over = self.over(&orders, &shared.nodes.lock(), awake);
        if !over.is_empty() {
            // One that was given meanwhile is another order.
            let forget = move |it: &Catalogue, _| {
                Ok(edit::drain::forget(it, |order| over.contains(&(order.node.clone(), order.id))))
            };
            shared.store.upkeep(forget).await?;
        }
        Ok(())
    }

    /// The orders to forget. `awake`: how long this control could have heard nodes since the last time.
    fn over(
        &mut self,
        orders: &[DrainOrder],
        nodes: &Nodes,
        awake: Duration,
    ) -> HashSet<(NodeId, u64)> {
        let mut before = std::mem::take(&mut self.silences);
        let mut over = HashSet::new();
        for order in orders {
            let node = nodes.get(&order.node);
            let is_replaced = node.is_some_and(|node| !order.is_for(node.boot));
            let reported_at_ms = node.map(|node| node.reported_at_ms);
            let mut silence = Silence { order: order.id, reported_at_ms, lasts: Duration::ZERO };
            if let Some(before) = before.remove(&order.node).filter(|it| it.order == order.id) {
                let has_spoken = node.is_some() && before.reported_at_ms != reported_at_ms;
                silence.lasts = if has_spoken { Duration::ZERO } else { before.lasts + awake };
            }
            if is_replaced || silence.lasts >= DRAIN_FORGOTTEN_AFTER {
                over.insert((order.node.clone(), order.id));
            }
            self.silences.insert(order.node.clone(), silence);
        }
        over
    }
}

async fn audit(shared: &Shared) -> Swept {
    let keep_ms = shared.config.audit_retention.as_millis() as u64;
    let oldest_ms = now_ms().saturating_sub(keep_ms);
    let oldest = shared.store.read(|engine| engine.scan(Table::Audit, b"", None, false, CHUNK));
    let old = oldest.await?.into_iter().map_while(|(key, value)| {
        let entry: crate::store::records::AuditEntry = serde_json::from_slice(&value).ok()?;
        (entry.at_ms < oldest_ms).then_some(Write::Remove(Table::Audit, key))
    });
    let batch: Vec<_> = old.collect();
    if batch.is_empty() { Ok(()) } else { shared.store.write(batch).await }
}

/// Device keys of apps that are gone, found by walking the table a chunk per step.
#[derive(Default)]
struct BindingSweep {
    after: Option<Vec<u8>>,
}

impl BindingSweep {
    async fn step(&mut self, shared: &Shared) -> Swept {
        let after = self.after.take();
        let chunk = shared
            .store
            .read(move |engine| engine.scan(Table::Binding, b"", after.as_deref(), false, CHUNK));
        let chunk = chunk.await?;
        let (newest, live): (u64, HashSet<u64>) = shared.store.look(|catalogue| {
            let live = catalogue.tenants().map(|(_, tenant)| tenant.app.serial).collect();
            (catalogue.counters.serial, live)
        });
        let is_orphan = |key: &[u8]| {
            let serial = key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            serial <= newest && !live.contains(&serial)
        };
        if chunk.len() == CHUNK {
            self.after = chunk.last().map(|(key, _)| key.clone());
        }
        let orphans = chunk.into_iter().filter(|(key, _)| is_orphan(key));
        let batch: Vec<_> = orphans.map(|(key, _)| Write::Remove(Table::Binding, key)).collect();
        if batch.is_empty() { Ok(()) } else { shared.store.write(batch).await }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hawser_proto::id::BootId;
    use hawser_proto::rpc::control::NodeReport;

    const MINUTE: Duration = Duration::from_mins(1);

    fn named(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    /// Given in 1970, to the process 1 of `a`.
    fn old(id: u64) -> DrainOrder {
        DrainOrder::new(named("a"), BootId(1), id, 500, 0)
    }

    fn report(nodes: &mut Nodes, boot: u64, now_ms: u64) {
        let report = NodeReport { node: "a".into(), boot, ..Default::default() };
        nodes.report(report, now_ms).unwrap();
    }

    #[test]
    fn an_old_order_outlives_control_and_a_silence_shorter_than_an_hour() {
        let (mut nodes, mut sweep) = (Nodes::default(), DrainSweep::default());
        // A control that has just started knows no node, however long it was away.
        assert!(sweep.over(&[old(5)], &nodes, Duration::ZERO).is_empty());
        for minute in 1..60 {
            assert!(sweep.over(&[old(5)], &nodes, MINUTE).is_empty(), "minute {minute}");
        }
        // It is heard, falls silent, and is left out of the list: the hour begins with its last word.
        report(&mut nodes, 1, 1_000);
        assert!(sweep.over(&[old(5)], &nodes, MINUTE).is_empty());
        nodes = Nodes::default();
        for minute in 1..60 {
            assert!(sweep.over(&[old(5)], &nodes, MINUTE).is_empty(), "minute {minute}");
        }
        let over = sweep.over(&[old(5)], &nodes, MINUTE);
        assert_eq!(over, HashSet::from([(named("a"), 5)]), "an hour");
    }

    #[test]
    fn a_node_that_reports_keeps_its_order_and_a_new_order_begins_anew() {
        let (mut nodes, mut sweep) = (Nodes::default(), DrainSweep::default());
        for minute in 0..200 {
            report(&mut nodes, 1, minute);
            assert!(sweep.over(&[old(5)], &nodes, MINUTE).is_empty(), "minute {minute}");
        }
        for minute in 0..59 {
            assert!(sweep.over(&[old(5)], &nodes, MINUTE).is_empty(), "silent minute {minute}");
        }
        for minute in 0..60 {
            assert!(sweep.over(&[old(6)], &nodes, MINUTE).is_empty(), "new order {minute}");
        }
        assert!(!sweep.over(&[old(6)], &nodes, MINUTE).is_empty());
        assert!(sweep.over(&[], &nodes, MINUTE).is_empty() && sweep.silences.is_empty());
    }

    #[test]
    fn an_order_ends_at_once_when_another_process_has_the_name() {
        let (mut nodes, mut sweep) = (Nodes::default(), DrainSweep::default());
        report(&mut nodes, 2, 1_000);
        assert_eq!(sweep.over(&[old(5)], &nodes, Duration::ZERO).len(), 1);
    }
}
