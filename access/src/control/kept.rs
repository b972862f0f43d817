//! The last catalogue on disk, so that a node that starts while control is away knows it. It is written
//! whenever it has changed, a revocation among the first, and everything in it that has an end still ends.

use crate::node::Node;
use hawser_chassis::snapshot::Snapshot;
use hawser_proto::rpc::control::Update;
use prost::Message as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// Between two writes: changes that come together are written together.
const INTERVAL: Duration = Duration::from_millis(200);

fn snapshot(data_dir: &Path) -> Snapshot {
    Snapshot::new(data_dir.join("catalogue.kept"), "access catalogue")
}

/// What was kept. Anything that cannot be believed is as nothing, with a warning.
pub(crate) fn read(data_dir: &Path) -> Option<Update> {
    let snapshot = snapshot(data_dir);
    let path = snapshot.path().display();
    let kept = match snapshot.read() {
        Ok(kept) => kept?,
        Err(error) => {
            warn!(%path, %error, "the kept catalogue is not believed; waiting for control");
            return None;
        }
    };
    match Update::decode(&kept.bytes[..]) {
        Ok(update) => {
            let age = kept.written.elapsed().unwrap_or_default();
            info!(%path, ?age, revision = update.revision, "the kept catalogue holds until control is heard");
            Some(update)
        }
        Err(error) => {
            warn!(%path, %error, "the kept catalogue is not believed; waiting for control");
            None
        }
    }
}

/// Keeps the catalogue until the node stops.
pub(crate) async fn keep(node: Arc<Node>) {
    let Some(data_dir) = &node.config.data_dir else { return };
    let snapshot = snapshot(data_dir);
    let stop = node.links.stop_signal();
    let mut is_failing = false;
    loop {
        tokio::select! {
            () = node.catalogue_news.notified() => {}
            () = stop.cancelled() => return,
        }
        let (update, snapshot) = (node.catalogue.load().snapshot(), snapshot.clone());
        let writing = tokio::task::spawn_blocking(move || snapshot.write(&update.encode_to_vec()));
        let failed = match writing.await {
            Ok(written) => written.err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        // Once when it begins to fail: what is kept grows old, and nothing else is wrong.
        if let Some(error) = &failed
            && !is_failing
        {
            warn!(%error, "the catalogue cannot be kept on disk");
        }
        is_failing = failed.is_some();
        if is_failing {
            node.catalogue_news.notify_one();
        }
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.cancelled() => return,
        }
    }
}
