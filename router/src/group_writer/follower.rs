//! What other routers changed about groups, brought from the store's log of changes.

use crate::core::Core;
use crate::groups::{Dropped, Groups, Wanted, key_of};
use crate::reach::Call;
use crate::store::{GroupChanged, GroupNews, KeyBytes, LogMark, StoreError};
use futures_util::future::join_all;
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{debug, info, warn};

/// Groups read, or put back, together.
const TOGETHER: usize = 64;
/// All groups are read in this time.
const ALL_TIMEOUT: Duration = Duration::from_mins(1);

/// Where this router stands in the log.
pub(super) struct Follower {
    mark: LogMark,
    /// Counts when the store may have lost something.
    losses: watch::Receiver<u64>,
    /// Where that count stood when the log went on from the mark last: nothing was lost up to then.
    whole: u64,
}

impl Follower {
    pub(super) fn new(core: &Core, mark: LogMark) -> Self {
        let losses = core.store.changes();
        let whole = *losses.borrow();
        Self { mark, losses, whole }
    }

    /// Takes over what was changed since it was asked last. What fails is asked for again the next time.
    pub(super) async fn follow(
        &mut self,
        core: &Core,
        dropped: &Dropped,
    ) -> Result<(), StoreError> {
        let losses = *self.losses.borrow();
        let asked = core.store.group_news(&self.mark);
        let done = match core.reach.ask(Call::GroupNews, asked).await {
            Ok(GroupNews::Changed(changed, mark)) => {
                let done = take_over(core, changed, dropped).await;
                done.map(|()| (self.mark, self.whole) = (mark, losses))
            }
            Ok(GroupNews::Reload(mark)) => self.reload(core, mark, dropped).await,
            Err(source) => Err(source),
        };
        done.inspect_err(|source| {
            debug!(%source, "what others changed about groups is not known yet");
        })
    }

    /// The log does not go on from where this router stood. A store that lost it may have lost groups too, and
    /// they could neither be used nor be made again: it is given those that are known here, first. Of one that
    /// lost nothing everything is believed.
    async fn reload(
        &mut self,
        core: &Core,
        mark: LogMark,
        dropped: &Dropped,
    ) -> Result<(), StoreError> {
        core.metrics.group_news.reloads.inc();
        let losses = *self.losses.borrow();
        if losses != self.whole {
            info!("the store may have lost groups: it is given those that are known here");
            put_back(core, dropped).await?;
        }
        let all = tokio::time::timeout(ALL_TIMEOUT, core.store.groups()).await;
        let all = all.map_err(|_| StoreError::Timeout)?.inspect_err(|source| {
            warn!(%source, "groups cannot be read");
        })?;
        core.groups.reload(&all, dropped);
        (self.mark, self.whole) = (mark, losses);
        Ok(())
    }
}

/// Reads the groups that were changed.
async fn take_over(
    core: &Core,
    changed: Vec<KeyBytes>,
    dropped: &Dropped,
) -> Result<(), StoreError> {
    let changed: HashSet<KeyBytes> = changed.into_iter().collect();
    let keys: Vec<_> = changed.iter().filter_map(|bytes| key_of(bytes)).collect();
    // Where one cannot be read, the others can: all of them are asked for again with it.
    let mut failed = Ok(());
    for some in keys.chunks(TOGETHER) {
        let read = some.iter().map(|key| core.reach.ask(Call::Group, core.store.group(key)));
        for (key, read) in some.iter().zip(join_all(read).await) {
            match read {
                Ok(meta) => {
                    core.groups.learn(key, meta.as_ref(), dropped);
                    core.metrics.group_news.applied.inc();
                }
                Err(source) => failed = Err(source),
            }
        }
    }
    failed
}

/// Gives the store all groups that are known here; what it has instead is taken over.
async fn put_back(core: &Core, dropped: &Dropped) -> Result<(), StoreError> {
    let groups: &Groups = &core.groups;
    let mut failed = Ok(());
    for some in groups.keys().chunks(TOGETHER) {
        let mut decision = groups.decide();
        let decided = some.iter().filter_map(|&key| {
            let change = decision.take(&Wanted::Keep { key }).ok()?;
            Some((key, change))
        });
        let (keys, changes): (Vec<_>, Vec<_>) = decided.unzip();
        drop(decision);
        let done = core.reach.ask(Call::ChangeGroups, core.store.change_groups(changes)).await?;
        for (key, changed) in keys.iter().zip(done) {
            match changed {
                GroupChanged::Made => {}
                GroupChanged::Differs(meta) => drop(groups.learn(key, meta.as_ref(), dropped)),
                GroupChanged::Failed(source) => failed = Err(source),
            }
        }
    }
    failed
}
