//! Who is let in at all, before anything is done for him; and the places of those who have not logged in.

use crate::goodbye;
use crate::node::Node;
use hawser_proto::code::CloseCode;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Links that have not logged in, from which on QUIC addresses must prove themselves (Retry).
const UNVALIDATED_MAX: u32 = 256;
/// A node that cannot take a login for this long turns everybody away at the door: without a router, or
/// without a catalogue, a handshake would be for nothing.
const USELESS_MS_MAX: u64 = 2_000;

/// What somebody is told who is not let in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) code: CloseCode,
    pub(super) retry_after_ms: u32,
}

/// Links on their way to a login, and when the node could last have taken one.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// Those that have not logged in, greeting ones included.
    count: AtomicU64,
    /// Those in a handshake or an upgrade: not connections yet, but they will be.
    greeting: AtomicU64,
    /// Wheel time (ms).
    useful_at_ms: AtomicU64,
}

/// A place among those that have not logged in; given back by drop.
pub(crate) struct Unauthenticated(Arc<Node>);

impl Unauthenticated {
    /// Counts one more in. `Err`: as [`Unauthenticated::look`], or more come than the node takes in.
    pub(super) fn admit(node: &Arc<Node>, remote: IpAddr) -> Result<Self, Refused> {
        Self::look(node, remote)?;
        node.strangers.count.fetch_add(1, Ordering::AcqRel);
        let place = Self(node.clone());
        if node.admission.admit() {
            return Ok(place);
        }
        Err(refused(node, "rate", CloseCode::Overloaded))
    }

    /// Whether somebody could come in, as far as that can be seen without taking anything. `Err`: the node
    /// drains, is full, is full of strangers, or could take no login; or the address is known for failed ones.
    pub(super) fn look(node: &Node, remote: IpAddr) -> Result<(), Refused> {
        if node.is_draining() {
            return Err(refused(node, "draining", CloseCode::Draining));
        }
        let max = u64::from(node.config.connections_max);
        let greeting = node.strangers.greeting.load(Ordering::Acquire);
        if node.metrics.connections.get().max(0) as u64 + greeting >= max {
            return Err(refused(node, "full", CloseCode::NodeFull));
        }
        let strangers_max = max * u64::from(node.config.unauthenticated_percent_max) / 100;
        if node.strangers.count.load(Ordering::Acquire) >= strangers_max.max(1) {
            return Err(refused(node, "strangers", CloseCode::Overloaded));
        }
        if node.admission.is_limited(remote) {
            return Err(refused(node, "failed_logins", CloseCode::RateLimited));
        }
        if is_useless(node) {
            return Err(refused(node, "useless", CloseCode::RouterUnavailable));
        }
        Ok(())
    }

    /// Counts as somebody who will be a connection, until the guard is dropped.
    pub(super) fn greets(&self) -> impl Drop + Send + use<> {
        struct Greets(Arc<Node>);
        impl Drop for Greets {
            fn drop(&mut self) {
                self.0.strangers.greeting.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.0.strangers.greeting.fetch_add(1, Ordering::AcqRel);
        Greets(self.0.clone())
    }
}

impl Drop for Unauthenticated {
    fn drop(&mut self) {
        self.0.strangers.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whether addresses should prove themselves first.
pub(super) fn is_pressed(node: &Node) -> bool {
    let strangers = node.strangers.count.load(Ordering::Relaxed);
    strangers > u64::from(UNVALIDATED_MAX) || node.admission.is_pressed()
}

/// Whether every login has been in vain for a while. A router's stream that breaks and is back at once
/// turns nobody away.
fn is_useless(node: &Node) -> bool {
    let now_ms = node.table.now_ms();
    let useful_at_ms = &node.strangers.useful_at_ms;
    if node.is_served() {
        useful_at_ms.store(now_ms, Ordering::Relaxed);
        return false;
    }
    now_ms.saturating_sub(useful_at_ms.load(Ordering::Relaxed)) > USELESS_MS_MAX
}

/// Counts a refusal, and says when to come again.
fn refused(node: &Node, cause: &str, code: CloseCode) -> Refused {
    node.metrics.refused_connections.with_label_values(&[cause]).inc();
    if node.admission.refused() {
        node.news.notify_one();
    }
    let retry_after_ms = match code {
        CloseCode::Overloaded => node.admission.retry_after_ms(),
        _ => goodbye::spread_ms(node),
    };
    Refused { code, retry_after_ms }
}
