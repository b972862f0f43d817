//! Watches control's catalogue: a snapshot, then each change, in a value that every call reads without
//! a lock. Control may be down; the last catalogue stays in use, and is kept on disk, so that a router that
//! starts while control is away knows it. What has an end in it still ends.

use crate::auth::Known;
use crate::core::Core;
use hawser_chassis::peers::PeerChannel;
use hawser_chassis::snapshot::{self, Kept, Snapshot};
use hawser_proto::rpc::control::control_client::ControlClient;
use hawser_proto::rpc::control::{Update, WatchRequest};
use prost::Message as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use tracing::{info, warn};

/// Between two tries: doubled from the first to the second, each time anywhere between half of it and
/// all of it, so that routers do not come back in step.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A snapshot of many thousand businesses is one message.
const UPDATE_BYTES_MAX: usize = 256 * 1024 * 1024;

fn snapshot(data_dir: &Path) -> Snapshot {
    Snapshot::new(data_dir.join("catalogue.kept"), "router catalogue")
}

/// Takes up what was kept, if that can be believed, and keeps what is heard from now on.
pub(crate) fn restore(core: &Arc<Core>, data_dir: &Path) {
    let snapshot = snapshot(data_dir);
    let path = snapshot.path().display();
    let kept = snapshot.read().map_err(|error| error.to_string());
    let update = kept.and_then(|kept| match kept {
        Some(Kept { bytes, written }) => {
            let update = Update::decode(&bytes[..]).map_err(|error| error.to_string())?;
            Ok(Some((update, written.elapsed().unwrap_or_default())))
        }
        None => Ok(None),
    });
    match update {
        Ok(Some((update, age))) => {
            let revision = update.revision;
            info!(%path, ?age, revision, "the kept catalogue holds until control is heard");
            take(core, core.known.load().apply(update).of_before());
        }
        Ok(None) => {}
        Err(error) => {
            warn!(%path, error, "the kept catalogue is not believed; waiting for control");
        }
    }
    let (of, changes, stop) = (core.clone(), core.revision.subscribe(), core.tasks.stop_signal());
    let value = move || of.known.load().catalogue.snapshot().encode_to_vec();
    core.tasks.spawn("kept catalogue", snapshot::keep(snapshot.clone(), changes, value, stop));
}

/// Keeps the catalogue up to date until told to stop.
pub(crate) async fn run(core: Arc<Core>, channel: PeerChannel) {
    let mut client = ControlClient::new(channel).max_decoding_message_size(UPDATE_BYTES_MAX);
    let stop = core.tasks.stop_signal();
    let mut pause = BACKOFF_MIN;
    loop {
        let before = core.known.load().catalogue.revision;
        let ended = tokio::select! {
            ended = watch(&core, &mut client) => ended,
            () = stop.cancelled() => return,
        };
        if core.known.load().catalogue.revision != before {
            pause = BACKOFF_MIN;
        }
        match ended {
            Ok(()) => info!("control ended the watch"),
            Err(status) => warn!(%status, "control cannot be watched; the last catalogue stays"),
        }
        let jittered = pause.mul_f64(rand::random_range(0.5..=1.0));
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = stop.cancelled() => return,
        }
        pause = (pause * 2).min(BACKOFF_MAX);
    }
}

async fn watch(core: &Core, client: &mut ControlClient<PeerChannel>) -> Result<(), Status> {
    let request = WatchRequest { role: "router".to_owned(), node: core.name.clone() };
    let mut updates = client.watch(request).await?.into_inner();
    while let Some(update) = updates.message().await? {
        take(core, core.known.load().apply(update));
    }
    Ok(())
}

fn take(core: &Core, next: Known) {
    let revision = next.catalogue.revision;
    core.known.store(Arc::new(next));
    core.metrics.catalogue_revision.set(revision.cast_signed());
    core.revision.send_replace(revision);
}
