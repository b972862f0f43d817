//! What can change in the catalogue: the unit of both the store and the watch.

use super::{App, Business, DrainOrder, Revocation, SigningKey, TicketKey, Whom};
use hawser_proto::id::{AppId, BusinessId, DeviceId, NodeId};
use hawser_proto::rpc::control::{self as wire, change::Entity};

/// One entity is put, in whole, or removed.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    PutApp(Box<App>),
    /// With its businesses and all keys.
    RemoveApp(AppId),
    /// Its app must be there.
    PutBusiness(Box<Business>),
    RemoveBusiness(AppId, BusinessId),
    /// The last business number used under this app name.
    LastNumber(AppId, u32),
    PutSigningKey(Box<SigningKey>),
    RemoveSigningKey(String),
    PutRevocation(Revocation),
    RemoveRevocation(Whom),
    PutTicketKey(Box<TicketKey>),
    RemoveTicketKey(u32),
    PutDrain(DrainOrder),
    RemoveDrain(NodeId),
    /// The device key of a device, in this life of its app. Only the store knows it.
    Unbind(u64, DeviceId),
}

/// What watchers hear when this entity was added or replaced.
pub(super) fn put(entity: Entity) -> wire::Change {
    wire::Change { entity: Some(entity), removed: false }
}

/// Nothing, when watchers would see no difference.
pub(super) fn put_if_new(before: Option<&Entity>, after: Entity) -> Vec<wire::Change> {
    if before == Some(&after) { Vec::new() } else { vec![put(after)] }
}

/// What watchers hear when this entity is gone.
pub(super) fn removed(entity: Entity) -> wire::Change {
    wire::Change { entity: Some(entity), removed: true }
}
