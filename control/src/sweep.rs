//! Upkeep: what has expired is removed, a little at a time.

use crate::catalogue::{Catalogue, DrainOrder, edit};
use crate::clock::now_ms;
use crate::config::Config;
use crate::seal::Sealer;
use crate::shared::Shared;
use crate::store::{Store, Table, Write};
use hawser_proto::id::{BootId, NodeId};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tracing::warn;

/// A node that was not heard of for so long since the order is not coming back to follow it.
const DRAIN_FORGOTTEN_AFTER: Duration = Duration::from_hours(1);
/// Records looked at in one step.
const CHUNK: usize = 500;

/// Sweeps at every interval until told to stop.
pub(crate) async fn run(shared: Arc<Shared>) {
    let stop = shared.tasks.stop_signal();
    let mut due = tokio::time::interval(shared.config.sweep_interval);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut bindings = BindingSweep::default();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = due.tick() => {}
        }
        let swept = async {
            catalogue(&shared).await?;
            ticket_keys(&shared.store, &shared.sealer, &shared.config).await?;
            drains(&shared).await?;
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
async fn drains(shared: &Shared) -> Swept {
    let boots: HashMap<NodeId, BootId> =
        shared.nodes.lock().all().map(|node| (node.name.clone(), node.boot)).collect();
    let is_over = move |order: &DrainOrder, now_ms: u64| match boots.get(&order.node) {
        Some(boot) => !order.is_for(*boot),
        None => order.ordered_at_ms + DRAIN_FORGOTTEN_AFTER.as_millis() as u64 <= now_ms,
    };
    if shared.store.look(|it| it.drains().any(|order| is_over(order, now_ms()))) {
        let forget = move |it: &Catalogue, now_ms: u64| {
            Ok(edit::drain::forget(it, |order| is_over(order, now_ms)))
        };
        shared.store.upkeep(forget).await?;
    }
    Ok(())
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
