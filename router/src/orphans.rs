//! Groups whose business is no more: found when the catalogue changes, and removed as if their owner had
//! deleted them, so that their nodes are told too.

use crate::core::Core;
use crate::group_writer::ChangeError;
use crate::groups::Wanted;
use crate::key::Key;
use crate::reach::Call;
use futures_util::future::join_all;
use hawser_proto::id::{AppId, BusinessNo};
use std::sync::Arc;
use std::time::Duration;
use tracing::{info, warn};

/// Groups removed together; the queue of changes has room for many more.
const TOGETHER: usize = 64;
/// Looked again after this long too: for a group that was made while its business went, and for a store
/// that did not take a removal.
const AGAIN: Duration = Duration::from_mins(1);

/// Removes what is orphaned until told to stop.
pub(crate) async fn run(core: Arc<Core>) {
    let stop = core.tasks.stop_signal();
    let mut revision = core.revision.subscribe();
    loop {
        revision.borrow_and_update();
        let next = async {
            remove_orphans(&core).await;
            let _ = tokio::time::timeout(AGAIN, revision.changed()).await;
        };
        tokio::select! {
            () = next => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn remove_orphans(core: &Core) {
    for (app, owner) in core.groups.owners() {
        if !core.known.load().is_gone(&app, owner) {
            continue;
        }
        match remove_all(core, &app, owner).await {
            Ok(removed) => info!(%app, business = owner.0, removed, "orphaned groups removed"),
            Err(source) => {
                warn!(%source, %app, business = owner.0, "orphaned groups stay for now");
            }
        }
    }
}

/// Removes the groups of one business, and says how many.
async fn remove_all(core: &Core, app: &AppId, owner: BusinessNo) -> Result<usize, ChangeError> {
    let mut removed = 0;
    let mut after = String::new();
    while core.known.load().is_gone(app, owner) {
        let asked = core.store.groups_of(app.as_str(), owner.0, &after, TOGETHER);
        let ids = core.reach.ask(Call::ListGroups, asked).await?;
        let keys = ids.iter().filter_map(|id| Key::group(app, id).ok());
        let changes = keys.map(|key| core.group_writer.change(Wanted::Delete { key, owner }));
        for change in join_all(changes).await {
            match change {
                Ok(_) => removed += 1,
                // Somebody was faster.
                Err(ChangeError::Refused(_)) => {}
                Err(other) => return Err(other),
            }
        }
        match ids.into_iter().next_back() {
            Some(last) => after = last,
            None => break,
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use crate::auth::Known;
    use hawser_proto::id::{AppId, BusinessNo};
    use hawser_proto::rpc::control::update::What;
    use hawser_proto::rpc::control::{App, Business, Change, Snapshot, Update, change::Entity};

    fn after(known: &Known, what: What) -> Known {
        known.apply(Update { revision: known.catalogue.revision + 1, what: Some(what) })
    }

    fn change(entity: Entity, removed: bool) -> What {
        What::Change(Change { entity: Some(entity), removed })
    }

    #[test]
    fn a_business_is_gone_only_when_the_catalogue_says_so() {
        let (demo, chat) = (AppId::new("demo").unwrap(), BusinessNo(7));
        let app = App { app: "demo".into(), ..Default::default() };
        let business = Business {
            app: "demo".into(),
            business: "chat".into(),
            number: 7,
            ..Default::default()
        };
        let nothing = Known::default();
        assert!(!nothing.is_gone(&demo, chat), "nothing is known");
        let other = App { app: "other".into(), ..Default::default() };
        assert!(!after(&nothing, change(Entity::App(other), false)).is_gone(&demo, chat));
        let all = Snapshot {
            apps: vec![app.clone()],
            businesses: vec![business.clone()],
            ..Default::default()
        };
        let whole = after(&nothing, What::Snapshot(all));
        assert!(!whole.is_gone(&demo, chat), "switched off is not gone");
        assert!(after(&whole, change(Entity::Business(business), true)).is_gone(&demo, chat));
        assert!(after(&whole, change(Entity::App(app), true)).is_gone(&demo, chat));
        assert!(after(&whole, What::Snapshot(Snapshot::default())).is_gone(&demo, chat));
    }
}
