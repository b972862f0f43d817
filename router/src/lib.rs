//! Who is where: routes, groups, the push API.
//!
//! [`start`] serves `hawser.push.v1` to business backends and `hawser.node.v1` to access nodes. The
//! [`inbox`] holds the rules of what is stored, which the engines behind [`store`] keep; [`table`] and
//! [`groups`] know and touch no stream; [`nodes`] keeps lives and leases; [`node`] is the shell towards
//! access nodes, [`push`] the one towards backends, [`sessions`] and [`reach`] the one towards the store.
//! A router never sees a device's socket and never reads a payload.

mod answer;
mod auth;
mod blob;
mod clock;
mod config;
mod core;
mod engine;
mod events;
mod functions;
mod group_reports;
mod group_writer;
mod groups;
mod inbox;
mod incoming;
mod key;
mod lost_ends;
mod lost_sessions;
mod metrics;
mod node;
mod node_leases;
mod nodes;
mod orphans;
mod push;
mod reach;
mod refusal;
mod releases;
mod report;
mod server;
mod sessions;
mod store;
mod table;
mod turns;
mod watch;
mod whereabouts;

pub use config::{Config, StoreConfig};
pub use functions::Functions;
pub use server::{Listeners, Running, StartError, start};

/// The pure parts, for whoever simulates them. No promise is made about their shape.
#[doc(hidden)]
pub mod cores {
    pub use crate::groups::outlet;
    pub use crate::inbox::*;
    pub use crate::key::{Key, split};
    /// The live routes of one router.
    pub mod table {
        pub use crate::table::*;
    }
}

/// The stores, for whoever tests what a router does with one that fails. No promise is made here either.
#[doc(hidden)]
pub mod stores {
    pub use crate::key::Key;
    pub use crate::server::{open_store, start_on};
    pub use crate::store::embedded::{Embedded, Settings};
    pub use crate::store::redis::{AppendCall, BareScripts};
    pub use crate::store::{
        Durability, EVENT_SHARDS, GroupChange, GroupChanged, GroupMeta, GroupNews, HistoryCaps,
        KeyBytes, LeaseHeld, LogMark, Marked, NodeLease, Positions, Registered, Store, StoreError,
        WalkMark,
    };
}
