//! Calls about one device's inbox. Looking at it needs the scope `presence`, as other looks at a device do;
//! emptying it the scope `push`, since it takes back what that scope has put in.

use crate::auth::Credential;
use crate::core::Core;
use crate::key::Key;
use crate::reach::Call;
use crate::refusal::Refusal;
use hawser_proto::rpc::push::{InboxInfo, PurgeInboxResponse};

/// What waits in a device's inbox of the caller's business.
pub(crate) async fn describe(
    core: &Core,
    by: &Credential,
    device: String,
) -> Result<InboxInfo, Refusal> {
    let key = Key::device(&by.app, &device).map_err(|why| Refusal::id("device", why))?;
    let asked = core.store.describe(&key, by.number);
    let found = core.reach.ask(Call::Describe, asked).await?;
    Ok(InboxInfo {
        device,
        entries: found.entries,
        bytes: found.bytes,
        tail_term: found.tail.term,
        tail_seq: found.tail.seq,
        floor_term: found.floor.term,
        floor_seq: found.floor.seq,
        oldest_ms: found.oldest_ms,
        overflowed: found.overflowed,
    })
}

/// Empties a device's inbox of the caller's business.
pub(crate) async fn purge(
    core: &Core,
    by: &Credential,
    device: &str,
) -> Result<PurgeInboxResponse, Refusal> {
    let key = Key::device(&by.app, device).map_err(|why| Refusal::id("device", why))?;
    let entries = core.reach.ask(Call::Purge, core.store.purge(&key, by.number)).await?;
    Ok(PurgeInboxResponse { entries })
}
