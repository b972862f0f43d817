//! Watches control's catalogue: a snapshot, then each change, in a value that every call reads without
//! a lock. Control may be down; the last catalogue stays in use.

use crate::core::Core;
use hawser_chassis::peers::PeerChannel;
use hawser_proto::rpc::control::WatchRequest;
use hawser_proto::rpc::control::control_client::ControlClient;
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
        let next = core.known.load().apply(update);
        let revision = next.catalogue.revision;
        core.known.store(Arc::new(next));
        core.metrics.catalogue_revision.set(revision.cast_signed());
        core.revision.send_replace(revision);
    }
    Ok(())
}
