//! The last catalogue on disk, so that a node that starts while control is away knows it. It is written
//! whenever it has changed, a revocation among the first, and everything in it that has an end still ends.

use crate::node::Node;
use hawser_chassis::snapshot::{self, Snapshot};
use hawser_proto::rpc::control::Update;
use prost::Message as _;
use std::path::Path;
use std::sync::Arc;
use tracing::{info, warn};

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
    let value = || node.catalogue.load().snapshot().encode_to_vec();
    let (mut changes, stop) = (node.catalogue_news.subscribe(), node.links.stop_signal());
    // Control may have been faster than this task.
    if *changes.borrow() > 0 {
        changes.mark_changed();
    }
    snapshot::keep(snapshot(data_dir), changes, value, stop).await;
}
