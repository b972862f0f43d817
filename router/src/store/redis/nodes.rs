//! Leases of nodes, and duties that one router does at a time. Both end by the clock of the server that has
//! them: routers need not agree on the time.

use super::answer;
use super::call::Caller;
use super::keys::{BOOTS, LEASES, Lone, nodes_slot};
use super::number;
use super::script::SCRIPTS;
use crate::store::{LeaseHeld, NodeLease, StoreError};
use hawser_proto::id::{BootId, NodeId};
use redis::Value;

/// See [`crate::store::Store::renew_node`]. A boot with a lease is one that may have sessions.
pub(super) async fn renew(
    caller: &Caller,
    node: &NodeId,
    boot: BootId,
    lease_ms: u64,
) -> Result<Result<(), LeaseHeld>, StoreError> {
    let keys = [LEASES.to_vec(), BOOTS.to_vec()];
    let args = [node_bytes(node), boot_bytes(boot), number(lease_ms)];
    let answer = caller.call(&SCRIPTS.renew_node, nodes_slot(), &keys, &args).await?.answer;
    Ok(if answer::number(&answer)? == 1 { Ok(()) } else { Err(LeaseHeld) })
}

/// See [`crate::store::Store::leave_node`].
pub(super) async fn leave(caller: &Caller, node: &NodeId, boot: BootId) -> Result<(), StoreError> {
    let args = [node_bytes(node), boot_bytes(boot)];
    caller.call(&SCRIPTS.leave_node, nodes_slot(), &[LEASES.to_vec()], &args).await.map(drop)
}

/// See [`crate::store::Store::node_leases`].
pub(super) async fn leases(caller: &Caller) -> Result<Vec<NodeLease>, StoreError> {
    let keys = [LEASES.to_vec()];
    let answer = caller.call(&SCRIPTS.list_leases, nodes_slot(), &keys, &[]).await?.answer;
    let Value::Array(rows) = answer else { return Err(StoreError::Value) };
    let lease = |row: &[Value]| {
        let [Value::BulkString(node), Value::BulkString(boot), left] = row else { return None };
        let boot = BootId(u64::from_be_bytes(boot.as_slice().try_into().ok()?));
        Some(NodeLease { node: read_node(node)?, boot, left_ms: answer::number(left).ok()? })
    };
    rows.chunks(3).map(lease).collect::<Option<_>>().ok_or(StoreError::Value)
}

/// See [`crate::store::Store::boots_with_sessions`].
pub(super) async fn boots(caller: &Caller) -> Result<Vec<(NodeId, BootId)>, StoreError> {
    let mut asked = redis::cmd("SMEMBERS");
    asked.arg(BOOTS);
    let answer = caller.command(&asked, nodes_slot()).await?;
    let (Value::Array(found) | Value::Set(found)) = answer else { return Err(StoreError::Value) };
    let read = |one: &Value| {
        let Value::BulkString(bytes) = one else { return None };
        let (boot, node) = bytes.split_first_chunk()?;
        Some((read_node(node)?, BootId(u64::from_be_bytes(*boot))))
    };
    found.iter().map(read).collect::<Option<_>>().ok_or(StoreError::Value)
}

/// This boot may have sessions.
pub(super) async fn know(caller: &Caller, node: &NodeId, boot: BootId) -> Result<(), StoreError> {
    let (keys, args) = ([BOOTS.to_vec()], [member(node, boot)]);
    caller.call(&SCRIPTS.know_boot, nodes_slot(), &keys, &args).await.map(drop)
}

/// This boot has none any more.
pub(super) async fn forget(caller: &Caller, node: &NodeId, boot: BootId) -> Result<(), StoreError> {
    let mut gone = redis::cmd("SREM");
    gone.arg(BOOTS).arg(member(node, boot));
    caller.command(&gone, nodes_slot()).await.map(drop)
}

/// See [`crate::store::Store::hold_duty`].
pub(super) async fn hold(
    caller: &Caller,
    duty: &str,
    holder: u64,
    ttl_ms: u64,
) -> Result<bool, StoreError> {
    let key = Lone::duty(duty);
    // Compared as text: it may be any number. An end of 0 is none.
    let args = [holder.to_string().into_bytes(), number(ttl_ms.max(1))];
    let answer = caller.call(&SCRIPTS.hold_duty, key.slot, &[key.name], &args).await?.answer;
    Ok(answer::number(&answer)? == 1)
}

fn member(node: &NodeId, boot: BootId) -> Vec<u8> {
    [boot_bytes(boot), node_bytes(node)].concat()
}

pub(super) fn boot_bytes(BootId(boot): BootId) -> Vec<u8> {
    boot.to_be_bytes().to_vec()
}

pub(super) fn node_bytes(node: &NodeId) -> Vec<u8> {
    node.as_str().as_bytes().to_vec()
}

fn read_node(bytes: &[u8]) -> Option<NodeId> {
    NodeId::new(std::str::from_utf8(bytes).ok()?).ok()
}
