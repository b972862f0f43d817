//! One access node on real sockets, between a control, a router and a business that are fakes with
//! scripts, and devices that read and write the wire themselves.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "tests own their tasks through the runtime")]

mod attached;
mod churn;
mod compressed;
mod deadlines;
mod drains;
mod endings;
mod fakes;
mod groups;
mod histories;
mod house;
mod inboxes;
mod kept;
mod limits;

mod frames;
mod logins;
mod panics;
mod requests;
mod routing;
mod slow;
mod tickets;
mod tier;
mod tier_pushes;
mod tokens;

use std::time::Duration;

/// No wait of these tests is longer, unless it says so.
const PATIENCE: Duration = Duration::from_secs(10);

/// Waits until `look` finds what it wants.
async fn eventually<R>(what: &str, mut look: impl FnMut() -> Option<R>) -> R {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
