//! Who is where: routes, groups, the push API.
//!
//! [`start`] serves `hawser.push.v1` to business backends and `hawser.node.v1` to access nodes. The
//! [`table`] and [`groups`] decide and know no stream; [`nodes`] keeps lives and leases; [`node`] is
//! the shell towards access nodes, [`push`] the one towards backends; [`writer`] alone writes to the
//! [`store`]. A router never sees a device's socket and never reads a payload.

mod answer;
mod auth;
mod clock;
mod config;
mod core;
mod groups;
mod inbox;
mod incoming;
mod key;
mod legacy_store;
mod metrics;
mod node;
mod nodes;
mod orphans;
mod push;
mod refusal;
mod server;
#[allow(dead_code)]
mod store;
mod table;
mod watch;
mod writer;

pub use config::{Config, StoreConfig};
pub use server::{Listeners, Running, StartError, start};

/// The pure parts, for whoever simulates them. No promise is made about their shape.
#[doc(hidden)]
pub mod cores {
    pub use crate::inbox::*;
}
