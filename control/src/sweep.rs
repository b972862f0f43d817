//! Upkeep: what has expired is removed, a little at a time.

use crate::catalogue::edit;
use crate::clock::now_ms;
use crate::shared::Shared;
use crate::store::{Table, Write};
use std::collections::HashSet;
use std::sync::Arc;
use tracing::warn;

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
            audit(&shared).await?;
            bindings.step(&shared).await
        };
        if let Err(refusal) = swept.await {
            warn!(%refusal, "sweep cut short; the next one goes on");
        }
        let now_ms = now_ms();
        let fresh = shared.nodes.lock().sweep(now_ms, shared.config.node_freshness);
        shared.metrics.nodes.set(fresh as i64);
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
